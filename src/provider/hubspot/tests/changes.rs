//! What changed: searches, archived records, merges.

use std::sync::Arc;

use crm_domain::{DataType, ErrorClass, Failure};
use serde_json::{Value as Json, json};

use super::super::HubSpot;
use crate::scripted_server::{Log, answer, body, drive, field, line, settings, with_header};
use crate::{ChangesPage, ChangesQuery, Method, Provider, Request, Response};

const DATE: &str = "Fri, 02 Jan 2026 04:00:00 GMT";
const SECOND: i64 = 1_767_323_045_000;

fn query(since: Option<Json>, limit: usize) -> ChangesQuery {
    ChangesQuery {
        object: "contacts".to_owned(),
        fields: vec![field("email", DataType::Text)],
        external_id_field: Some("key".to_owned()),
        since,
        limit,
    }
}

fn ask(
    query: ChangesQuery,
    answer: impl FnMut(usize, &Request) -> Response,
) -> (Result<ChangesPage, Failure>, Log) {
    drive(HubSpot.changes(&settings(1), Arc::new(query)), answer)
}

fn record(id: &str, at: &str) -> Json {
    json!({
        "id": id, "archived": false, "updatedAt": "2026-01-02T03:00:00.000Z",
        "properties": { "email": "a@x.test", "key": "k", "lastmodifieddate": at },
    })
}

fn results(results: &[Json], after: Option<&str>) -> Response {
    let mut body = json!({ "total": results.len(), "results": results });
    if let Some(after) = after {
        body["paging"] = json!({ "next": { "after": after } });
    }
    with_header(answer(200, &body), "date", DATE)
}

fn ids(page: &ChangesPage) -> Vec<(&str, bool)> {
    let told = page.changes.iter();
    told.map(|c| (c.object.crm_id.as_str(), c.deleted))
        .collect()
}

#[test]
fn a_pass_is_a_search_and_a_look_at_what_is_archived() {
    let gone = json!({ "id": "9", "archivedAt": "2026-01-02T03:05:00.000Z", "properties": { "key": "g" } });
    let (page, log) = ask(query(None, 1000), |_, request| match request.method {
        Method::Post => results(&[record("51", "2026-01-02T03:04:05.678Z")], None),
        _ => results(std::slice::from_ref(&gone), None),
    });
    let page = page.unwrap();
    assert_eq!(
        log.lines(),
        [
            "POST /crm/v3/objects/contacts/search",
            "GET /crm/v3/objects/contacts?archived=true&limit=100&properties=lastmodifieddate,key",
        ]
    );
    assert_eq!(
        body(&log.requests[0]),
        json!({
            "filterGroups": [],
            "sorts": [{ "propertyName": "lastmodifieddate", "direction": "ASCENDING" }],
            "properties": ["lastmodifieddate", "hs_updated_by_user_id", "hs_merged_object_ids", "hs_calculated_merged_vids", "email", "key"],
            "limit": 200,
            "after": "0",
        })
    );
    assert_eq!(
        (ids(&page), page.more),
        (vec![("51", false), ("9", true)], false)
    );
    let first = &page.changes[0];
    assert_eq!(first.object.modified_at, Some(SECOND + 678));
    assert_eq!(
        Json::Object(first.object.fields.clone()),
        json!({ "email": "a@x.test" })
    );
    assert_eq!(first.external_id.as_deref(), Some("k"));
    assert_eq!(page.changes[1].external_id.as_deref(), Some("g"));
    assert_eq!(page.changes[1].object.modified_at, Some(1_767_323_100_000));
    // The next pass does not tell of what was archived before.
    let (page, log) = ask(query(Some(page.next), 10), |_, request| {
        match request.method {
            Method::Post => results(&[], None),
            _ => results(std::slice::from_ref(&gone), None),
        }
    });
    let from = (SECOND + 1000).to_string();
    assert_eq!(
        body(&log.requests[0])["filterGroups"],
        json!([{ "filters": [{ "propertyName": "lastmodifieddate", "operator": "GTE", "value": from }] }])
    );
    assert!(page.unwrap().changes.is_empty());
}

#[test]
fn a_second_that_fills_a_page_is_read_by_ids() {
    let full = ["51", "52"].map(|id| record(id, "2026-01-02T03:04:05.678Z"));
    let (page, log) = ask(query(None, 2), |_, _| results(&full, Some("2")));
    let page = page.unwrap();
    assert_eq!((ids(&page).len(), page.more), (2, true));
    let filters = |request: &Request| body(request)["filterGroups"][0]["filters"].clone();
    let bound = |operator: &str, ms: i64| json!({ "propertyName": "lastmodifieddate", "operator": operator, "value": ms.to_string() });
    assert_eq!(
        filters(&log.requests[1]),
        json!([bound("GTE", SECOND), bound("LT", SECOND + 1000)])
    );
    assert_eq!(
        body(&log.requests[1])["sorts"][0]["propertyName"],
        "hs_object_id"
    );
    let (_, log) = ask(query(Some(page.next), 2), |_, _| results(&[], None));
    assert_eq!(
        filters(&log.requests[0])[2],
        json!({ "propertyName": "hs_object_id", "operator": "GT", "value": "52" })
    );
}

#[test]
fn merged_records_are_told_by_the_one_that_took_them_in() {
    let mut survivor = record("51", "2026-01-02T03:04:05.678Z");
    survivor["properties"]["hs_merged_object_ids"] = "52;53".into();
    survivor["properties"]["hs_updated_by_user_id"] = "98".into();
    survivor["properties"]["hs_calculated_merged_vids"] =
        "51:1700000000000;53:1700000000000;54:1".into();
    let (page, _) = ask(query(None, 10), |_, request| match request.method {
        Method::Post => results(&[survivor.clone()], None),
        _ => results(&[], None),
    });
    let page = page.unwrap();
    assert_eq!(page.changes[0].modified_by.as_deref(), Some("userId:98"));
    assert_eq!(
        ids(&page),
        [("51", false), ("52", true), ("53", true), ("54", true)]
    );
    let into = page.changes[1..].iter().map(|c| c.merged_into.as_deref());
    assert!(into.into_iter().all(|id| id == Some("51")));
    assert_eq!(page.changes[0].merged_into, None);
}

#[test]
fn a_long_list_of_archived_records_is_read_page_by_page_and_then_seldom() {
    let gone =
        |id: usize| json!({ "id": id.to_string(), "archivedAt": "2026-01-02T03:50:00.000Z" });
    let at = |seconds: i64, response: Response| {
        let date = 1_767_326_400 + seconds;
        let text = httpdate::fmt_http_date(
            std::time::UNIX_EPOCH + std::time::Duration::from_secs(date.unsigned_abs()),
        );
        Response {
            headers: vec![("date".to_owned(), text)],
            ..response
        }
    };
    let run = |since: Option<Json>, seconds: i64| {
        let (page, log) = ask(query(since, 200), |_, request| {
            let listed = line(request);
            let response = match (request.method, listed.split_once("after=")) {
                (Method::Post, _) => results(&[], None),
                (_, None) => results(&[gone(1)], Some("one")),
                (_, Some((_, "one"))) => results(&[gone(2)], Some("tw o")),
                (_, Some((_, "tw%20o"))) => results(&[gone(3)], None),
                _ => panic!("{listed}"),
            };
            at(seconds, response)
        });
        (page.unwrap(), log.requests.len())
    };
    let (one, requests) = run(None, 0);
    assert_eq!(
        (ids(&one), one.more, requests),
        (vec![("1", true)], true, 2)
    );
    let (two, requests) = run(Some(one.next), 1);
    assert_eq!(
        (ids(&two), two.more, requests),
        (vec![("2", true)], true, 1)
    );
    let (three, requests) = run(Some(two.next), 2);
    assert_eq!(
        (ids(&three), three.more, requests),
        (vec![("3", true)], false, 1)
    );
    // Three pages: not again for 12 seconds.
    let (quiet, requests) = run(Some(three.next), 13);
    assert_eq!((quiet.changes.len(), quiet.more, requests), (0, false, 1));
    // Archived more than the overlap before the last time: nothing new.
    let (again, requests) = run(Some(quiet.next), 14);
    assert_eq!((again.changes.len(), again.more, requests), (0, true, 2));
}

#[test]
fn a_list_that_cannot_go_on_begins_anew() {
    let since = json!({ "scan": {}, "archived": { "after": "stale", "pages": 3 } });
    let refusal =
        json!({ "status": "error", "category": "VALIDATION_ERROR", "message": "bad after" });
    let (page, log) = ask(query(Some(since.clone()), 10), |n, _| match n {
        0 => answer(400, &refusal),
        _ => results(&[], None),
    });
    assert!(!page.unwrap().more);
    assert!(!log.lines()[1].contains("after="));
    let (page, log) = ask(query(Some(since), 10), |_, _| results(&[], Some("stale")));
    assert_eq!(
        (page.unwrap_err().code.as_str(), log.requests.len()),
        ("no_progress", 1)
    );
}

#[test]
fn trouble_keeps_its_class() {
    let missing =
        json!({ "status": "error", "category": "OBJECT_NOT_FOUND", "message": "no such type" });
    let limited = json!({ "status": "error", "errorType": "RATE_LIMIT", "policyName": "SECONDLY", "message": "slow" });
    for (response, class) in [
        (answer(404, &missing), ErrorClass::Mapping),
        (answer(429, &limited), ErrorClass::RateLimited),
        (answer(200, &json!({})), ErrorClass::Internal),
        (
            answer(200, &json!({ "results": [{ "id": "1" }] })),
            ErrorClass::Internal,
        ),
    ] {
        let (page, log) = ask(query(None, 1), |_, _| response.clone());
        assert_eq!((page.unwrap_err().class, log.requests.len()), (class, 1));
    }
    let (page, log) = ask(query(Some(json!({ "scan": 1 })), 1), |_, _| {
        results(&[], None)
    });
    assert_eq!(
        (page.unwrap_err().code.as_str(), log.requests.len()),
        ("unreadable_cursor", 0)
    );
}
