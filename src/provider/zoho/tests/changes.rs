//! Queries, and the list of what was deleted. That every record is told, however pages are cut, is
//! tried against the simulator.

use std::sync::Arc;

use crm_domain::{DataType, Failure};
use serde_json::{Value as Json, json};

use super::super::Zoho;
use crate::scripted_server::{Log, answer, body, drive, empty, field, line, settings, with_header};
use crate::{ChangesPage, ChangesQuery, Method, Provider, Request, Response};

const NOW: &str = "Fri, 02 Jan 2026 03:10:00 GMT";

fn ask(
    names: &[&str],
    since: Option<Json>,
    limit: usize,
    answer: impl FnMut(usize, &Request) -> Response,
) -> (Result<ChangesPage, Failure>, Log) {
    let query = ChangesQuery {
        object: "Contacts".to_owned(),
        fields: names
            .iter()
            .map(|name| field(name, DataType::Text))
            .collect(),
        external_id_field: Some("Key".to_owned()),
        since,
        limit,
    };
    drive(Zoho.changes(&settings(1), Arc::new(query)), answer)
}

fn rows(records: &[(&str, &str)], more: bool) -> Response {
    let records: Vec<Json> = records
        .iter()
        .map(|(id, at)| json!({ "id": id, "Modified_Time": at, "Key": format!("K{id}"), "City": "x" }))
        .collect();
    let body = json!({ "data": records, "info": { "more_records": more } });
    with_header(answer(200, &body), "date", NOW)
}

fn nothing() -> Response {
    with_header(empty(204), "date", NOW)
}

fn select(request: &Request) -> String {
    body(request)["select_query"].as_str().unwrap().to_owned()
}

#[test]
fn a_pass_asks_for_changes_and_then_for_deleted_records() {
    let (result, log) = ask(&["City"], None, 500, |_, request| match request.method {
        Method::Post => rows(&[("1", "2026-01-02T03:04:05+00:00")], false),
        _ => with_header(
            answer(
                200,
                &json!({ "data": [{ "id": "9", "deleted_time": "2026-01-02T03:00:00+00:00",
                "deleted_by": { "id": "7" }, "type": "recycle" }], "info": { "more_records": false } }),
            ),
            "date",
            NOW,
        ),
    });
    assert_eq!(
        log.lines(),
        [
            "POST /crm/v8/coql",
            "GET /crm/v8/Contacts/deleted?type=all&per_page=200&page=1"
        ]
    );
    assert_eq!(
        select(&log.requests[0]),
        "select id, Modified_Time, Key, City from Contacts where id is not null order by Modified_Time asc, id asc limit 200"
    );
    let page = result.unwrap();
    let told: Vec<_> = page
        .changes
        .iter()
        .map(|c| {
            (
                c.object.crm_id.as_str(),
                c.deleted,
                c.external_id.as_deref(),
            )
        })
        .collect();
    assert_eq!(told, [("1", false, Some("K1")), ("9", true, None)]);
    assert_eq!(page.changes[1].modified_by.as_deref(), Some("7"));
    assert!(!page.more);
    // Next time, from there on.
    let (result, log) = ask(&["City"], Some(page.next), 500, |_, _| nothing());
    assert_eq!(
        select(&log.requests[0]),
        "select id, Modified_Time, Key, City from Contacts where Modified_Time >= '2026-01-02T03:04:06+00:00' order by Modified_Time asc, id asc limit 200"
    );
    let since = ("if-modified-since", "2026-01-02T03:08:00+00:00".to_owned());
    assert!(log.requests[1].headers.contains(&since));
    assert!(result.unwrap().changes.is_empty());
}

#[test]
fn a_second_that_holds_more_than_a_page_is_read_by_ids() {
    let at = "2026-01-02T03:04:05+00:00";
    let (result, log) = ask(&[], None, 2, |n, _| match n {
        0 => rows(&[("1", at), ("2", at)], true),
        _ => rows(&[("1", at), ("2", at)], true),
    });
    let page = result.unwrap();
    assert!(page.more && page.changes.len() == 2);
    assert_eq!(
        select(&log.requests[1]),
        "select id, Modified_Time, Key from Contacts where (Modified_Time >= '2026-01-02T03:04:05+00:00' and Modified_Time < '2026-01-02T03:04:06+00:00') order by id asc limit 2"
    );
    let (_, log) = ask(&[], Some(page.next), 2, |_, _| nothing());
    assert!(select(&log.requests[0]).contains("< '2026-01-02T03:04:06+00:00') and id > '2')"));
}

#[test]
fn more_fields_than_a_query_takes_are_read_by_ids() {
    let names: Vec<String> = (0..60).map(|n| format!("F{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (result, log) = ask(&names, None, 10, |_, request| {
        let line = line(request);
        match request.method {
            Method::Post => rows(
                &[
                    ("1", "2026-01-02T03:04:05+00:00"),
                    ("2", "2026-01-02T03:04:06+00:00"),
                ],
                false,
            ),
            _ if line.contains("/deleted") => nothing(),
            // The second is gone meanwhile.
            _ => answer(
                200,
                &json!({ "data": [{ "id": "1", "F0": "x", "F59": "y", "Modified_Time": "2026-01-02T03:04:05+00:00" }] }),
            ),
        }
    });
    assert_eq!(select(&log.requests[0]).matches("F0").count(), 0);
    assert_eq!(log.requests.len(), 4);
    let page = result.unwrap();
    assert_eq!(page.changes.len(), 1);
    assert_eq!(page.changes[0].external_id.as_deref(), Some("K1"));
    assert_eq!(page.changes[0].object.fields["F0"], "x");
}

#[test]
fn nothing_new_deleted_may_be_told_in_two_ways() {
    for status in [204, 304] {
        let (result, _) = ask(&[], None, 10, |_, request| match request.method {
            Method::Post => nothing(),
            _ => with_header(empty(status), "date", NOW),
        });
        assert!(result.unwrap().changes.is_empty());
    }
}

#[test]
fn names_that_are_none_are_never_sent() {
    for name in ["a b", "x'", "id, Secret", ""] {
        let (result, log) = ask(&[name], None, 10, |_, _| nothing());
        assert_eq!(result.unwrap_err().code, "INVALID_QUERY");
        assert!(log.requests.is_empty());
    }
    let (result, _) = ask(&[], Some(json!(7)), 10, |_, _| nothing());
    assert_eq!(result.unwrap_err().code, "unreadable_cursor");
}
