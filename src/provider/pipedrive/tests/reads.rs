//! Records by id.

use std::sync::Arc;

use crm_domain::{DataType, Failure};
use serde_json::json;

use super::super::Pipedrive;
use super::{KEY, data, list, not_found};
use crate::scripted_server::{Log, drive, field, settings};
use crate::{CrmObject, Provider, ReadBatch, Request, Response};

fn read(
    object: &str,
    ids: &[&str],
    names: &[&str],
    answer: impl FnMut(usize, &Request) -> Response,
) -> (Result<Vec<Option<CrmObject>>, Failure>, Log) {
    let batch = ReadBatch {
        object: object.to_owned(),
        ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        fields: names
            .iter()
            .map(|name| field(name, DataType::Text))
            .collect(),
        for_write: true,
    };
    drive(Pipedrive.read(&settings(1), Arc::new(batch)), answer)
}

#[test]
fn one_record_is_read_by_its_path() {
    let person = json!({
        "id": 42, "name": "Ada", "update_time": "2026-01-02T03:04:05Z", "is_deleted": false,
        "custom_fields": { KEY: { "value": 5, "currency": "EUR" } },
    });
    let part = format!("{KEY}.currency");
    let (result, log) = read(
        "persons",
        &["42"],
        &["name", KEY, &part, "nothing"],
        |_, _| data(person.clone()),
    );
    assert_eq!(log.lines(), ["GET /api/v2/persons/42"]);
    let object = result.unwrap().remove(0).unwrap();
    assert_eq!((object.crm_id.as_str(), object.version), ("42", None));
    assert_eq!(object.modified_at, Some(1_767_323_045_000));
    assert_eq!(
        json!(object.fields),
        json!({ "name": "Ada", KEY: { "value": 5, "currency": "EUR" }, part: "EUR", "nothing": null })
    );
}

#[test]
fn several_are_read_by_a_list_and_told_in_order() {
    let (result, log) = read("persons", &["3", "1", "x", "2", "4"], &[KEY], |_, _| {
        let deleted = json!({ "id": 4, "is_deleted": true });
        list(json!([{ "id": 1 }, deleted, { "id": 3 }]), None)
    });
    assert_eq!(
        log.lines(),
        [format!(
            "GET /api/v2/persons?ids=3,1,2,4&limit=100&custom_fields={KEY}"
        )]
    );
    let found = result.unwrap();
    let ids: Vec<_> = found
        .iter()
        .map(|o| o.as_ref().map(|o| o.crm_id.as_str()))
        .collect();
    assert_eq!(ids, [Some("3"), Some("1"), None, None, None]);
}

#[test]
fn a_record_is_missing_if_no_list_shows_it() {
    let (result, log) = read("deals", &["1", "2", "3"], &[], |n, _| match n {
        0 => list(json!([{ "id": 1 }]), None),
        _ => list(json!([{ "id": 2, "is_archived": true }]), None),
    });
    assert_eq!(
        log.lines(),
        [
            "GET /api/v2/deals?ids=1,2,3&limit=100",
            "GET /api/v2/deals/archived?ids=2,3&limit=100",
        ]
    );
    let there: Vec<_> = result.unwrap().iter().map(Option::is_some).collect();
    assert_eq!(there, [true, true, false]);

    let (result, log) = read("persons", &["1"], &[], |n, _| match n {
        0 => not_found(),
        _ => list(json!([]), None),
    });
    assert!(result.unwrap()[0].is_none());
    assert_eq!(log.requests.len(), 2);
    // A path that is not in use any more is no proof.
    let (result, _) = read("persons", &["1"], &[], |_, _| not_found());
    assert_eq!(result.unwrap_err().code, "http_404");
    assert!(read("persons", &["1"], &[], |_, _| not_found()).0.is_err());
}

#[test]
fn leads_are_read_one_by_one() {
    assert_eq!(Pipedrive.read_size("leads"), 1);
    assert_eq!(Pipedrive.read_size("deal"), 100);
    let (result, log) = read("leads", &["a-1"], &["title"], |_, _| {
        data(json!({ "id": "a-1", "title": "x", "update_time": "2026-01-02T03:04:05.678Z" }))
    });
    assert_eq!(log.lines(), ["GET /api/v1/leads/a-1"]);
    assert!(result.unwrap()[0].is_some());
}

#[test]
fn what_is_told_only_if_asked_for_is_asked_for() {
    let (_, log) = read("deals", &["1"], &["activities_count"], |_, _| {
        list(json!([]), None)
    });
    assert_eq!(
        log.lines()[0],
        "GET /api/v2/deals?ids=1&limit=100&include_fields=activities_count"
    );
}
