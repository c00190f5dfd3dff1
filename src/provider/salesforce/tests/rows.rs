//! Single records.

use crm_domain::{DataType, ErrorClass, Value};
use serde_json::json;

use super::super::version::{Tag, Version};
use super::{ids, updates, upserts, write};
use crate::request::Method;
use crate::scripted_server::{
    answer, batch, body, empty, field, line, page, sf_error, told, with_header,
};
use crate::{Request, WriteKind};

#[test]
fn an_update_patches_the_row() {
    let (result, log) = write(updates(&ids(1..2)), |_, _| empty(204));
    assert_eq!(told(&result.unwrap()), ["updated 003000000000001AAA"]);
    assert_eq!(
        log.lines(),
        ["PATCH /services/data/v66.0/sobjects/Contact/003000000000001AAA"]
    );
    assert_eq!(body(&log.requests[0]), json!({ "LastName": "x" }));
    assert!(
        log.requests[0]
            .headers
            .contains(&("sforce-call-options", "client=pg_crm".to_owned()))
    );
}

#[test]
fn a_delete_has_no_body() {
    let records = [("003A", Value::Null)];
    let (result, log) = write(batch("Contact", WriteKind::Delete, "", &records), |_, _| {
        empty(204)
    });
    assert_eq!(told(&result.unwrap()), ["updated 003A"]);
    assert_eq!(log.requests[0].method, Method::Delete);
    assert!(log.requests[0].body.is_empty());
}

#[test]
fn an_upsert_goes_by_the_external_id() {
    for (status, created, said) in [(201, true, "created 003N"), (200, false, "updated 003N")] {
        let saved = json!({ "id": "003N", "success": true, "errors": [], "created": created });
        let (result, log) = write(upserts(&["k-1"]), |_, _| answer(status, &saved));
        assert_eq!(told(&result.unwrap()), [said]);
        assert_eq!(
            log.lines(),
            ["PATCH /services/data/v66.0/sobjects/Contact/Ext__c/k-1"]
        );
        assert_eq!(body(&log.requests[0]), json!({ "LastName": "x" }));
    }
}

#[test]
fn the_external_id_is_not_sent_twice() {
    let mut batch = upserts(&["k-1"]);
    batch.records[0]
        .fields
        .push((field("ext__C", DataType::Text), Value::text("k-1")));
    let saved = json!({ "id": "003N", "success": true, "created": false });
    let (_, log) = write(batch.clone(), |_, _| answer(200, &saved));
    assert_eq!(body(&log.requests[0]), json!({ "LastName": "x" }));
    batch.records.push(upserts(&["k-2"]).records.remove(0));
    let (_, log) = write(batch, |_, _| answer(200, &json!([saved, saved])));
    let record = json!({ "attributes": { "type": "Contact" }, "Ext__c": "k-1", "LastName": "x" });
    assert_eq!(body(&log.requests[0])["records"][0], record);
}

#[test]
fn keys_are_percent_encoded_in_paths() {
    let path = |key: &str| {
        let saved = json!({ "id": "003N", "success": true, "created": true });
        let (_, log) = write(upserts(&[key]), |_, _| answer(201, &saved));
        line(&log.requests[0])
            .rsplit_once('/')
            .unwrap()
            .1
            .to_owned()
    };
    assert_eq!(path("a b+c@d"), "a%20b%2Bc%40d");
    assert_eq!(path("Zoë?x=1&y#z"), "Zo%C3%AB%3Fx%3D1%26y%23z");
    assert_eq!(path("O'Neil"), "O%27Neil");
}

#[test]
fn keys_that_a_path_cannot_carry_go_by_a_collection() {
    for key in ["a@b.inc", "x/y", "..", "a;b", "50%", "back\\slash", "tab\t"] {
        let saved = json!([{ "id": "003N", "success": true, "errors": [], "created": true }]);
        let (result, log) = write(upserts(&[key]), |_, _| answer(200, &saved));
        assert_eq!(told(&result.unwrap()), ["created 003N"]);
        assert_eq!(
            log.lines(),
            ["PATCH /services/data/v66.0/composite/sobjects/Contact/Ext__c"]
        );
        assert_eq!(body(&log.requests[0])["records"][0]["Ext__c"], key);
    }
}

#[test]
fn one_records_refusal_is_that_records_and_refused_service_is_the_connections() {
    let refusal = answer(400, &sf_error("STRING_TOO_LONG", "too long"));
    let (result, _) = write(updates(&ids(1..2)), |_, _| refusal.clone());
    assert_eq!(told(&result.unwrap()), ["validation STRING_TOO_LONG"]);
    let (result, _) = write(updates(&ids(1..2)), |_, _| page(503));
    assert_eq!(result.unwrap_err().class, ErrorClass::Transient);
}

#[test]
fn a_missing_row_is_not_found_but_an_upsert_never_misses_its_own() {
    for code in ["ENTITY_IS_DELETED", "INVALID_CROSS_REFERENCE_KEY"] {
        let gone = answer(404, &sf_error(code, "gone"));
        let (result, _) = write(updates(&ids(1..2)), |_, _| gone.clone());
        assert_eq!(told(&result.unwrap()), [format!("not_found {code}")]);
    }
    for code in [
        "NOT_FOUND",
        "ENTITY_IS_DELETED",
        "INVALID_CROSS_REFERENCE_KEY",
    ] {
        let gone = answer(404, &sf_error(code, "gone"));
        let (result, _) = write(upserts(&["k"]), |_, _| gone.clone());
        assert_eq!(told(&result.unwrap()), [format!("mapping {code}")]);
    }
}

#[test]
fn a_path_that_is_not_found_is_asked_about_before_a_record_is_taken_for_deleted() {
    let not_found = answer(
        404,
        &sf_error("NOT_FOUND", "The requested resource does not exist"),
    );
    let refused = |code: &str| {
        let errors = json!([{ "statusCode": code, "message": "no", "fields": [] }]);
        answer(200, &json!([{ "success": false, "errors": errors }]))
    };
    for (second, said) in [
        (refused("INVALID_TYPE"), "mapping INVALID_TYPE"),
        (
            refused("INVALID_CROSS_REFERENCE_KEY"),
            "not_found INVALID_CROSS_REFERENCE_KEY",
        ),
        (refused("NOT_FOUND"), "not_found NOT_FOUND"),
        (not_found.clone(), "mapping NOT_FOUND"),
    ] {
        let (result, log) = write(updates(&ids(1..2)), |n, _| {
            if n == 0 {
                not_found.clone()
            } else {
                second.clone()
            }
        });
        assert_eq!(told(&result.unwrap()), [said]);
        assert_eq!(
            log.lines()[1],
            "PATCH /services/data/v66.0/composite/sobjects"
        );
    }
}

#[test]
fn an_unreadable_success_is_told_as_internal() {
    let (result, _) = write(upserts(&["k"]), |_, _| page(200));
    assert_eq!(told(&result.unwrap()), ["internal unreadable_answer"]);
    let (result, _) = write(upserts(&["k"]), |_, _| {
        answer(200, &json!({ "success": true }))
    });
    assert_eq!(told(&result.unwrap()), ["internal missing_id"]);
}

#[test]
fn a_record_without_its_key_is_not_sent() {
    let mut batch = updates(&ids(1..2));
    batch.records[0].crm_id = None;
    let (result, log) = write(batch, |_, _: &Request| empty(204));
    assert_eq!(told(&result.unwrap()), ["internal missing_key"]);
    assert!(log.requests.is_empty());
}

const DATE: &str = "Fri, 02 Jan 2026 03:04:05 GMT";
const TAG: &str = "\"h=--gzip\"";

fn based_on(date: bool, tag: bool) -> crate::WriteBatch {
    let version = Version {
        date: date.then(|| DATE.to_owned()),
        tag: tag.then(|| Tag {
            etag: TAG.to_owned(),
            fields: "Id,Name".to_owned(),
        }),
    };
    let mut batch = updates(&ids(1..2));
    batch.records[0].unless_changed = version.to_text();
    batch
}

fn conditions(request: &Request) -> Vec<(&str, &str)> {
    let headers = request.headers.iter().map(|(n, v)| (*n, v.as_str()));
    headers
        .filter(|(name, _)| name.starts_with("if-"))
        .collect()
}

#[test]
fn an_update_names_what_it_is_based_on() {
    let (tag, date) = (("if-match", TAG), ("if-unmodified-since", DATE));
    for (batch, expected) in [
        (based_on(true, true), &[tag, date][..]),
        (based_on(true, false), &[date]),
        (based_on(false, true), &[tag]),
        (updates(&ids(1..2)), &[]),
    ] {
        let (result, log) = write(batch, |_, _| empty(204));
        assert!(result.unwrap()[0].is_ok());
        assert_eq!(conditions(&log.requests[0]), expected);
    }
    // Deletes, upserts and collections have no conditions.
    for kind in [WriteKind::Delete, WriteKind::Upsert] {
        let mut batch = batch("Account", kind, "Name", &[("001A", Value::text("x"))]);
        batch.records[0].unless_changed = based_on(true, true).records[0].unless_changed.clone();
        let (_, log) = write(batch.clone(), |_, _| empty(204));
        assert!(conditions(&log.requests[0]).is_empty());
        batch.records.push(batch.records[0].clone());
        let (_, log) = write(batch, |_, _| empty(204));
        assert!(conditions(&log.requests[0]).is_empty());
    }
}

#[test]
fn a_failed_condition_is_told_from_other_conflicts_whatever_its_body() {
    let bodies = [
        empty(412),
        page(412),
        answer(412, &sf_error("PRECONDITION_FAILED", "changed")),
        answer(412, &sf_error("INVALID_FIELD", "?")),
        answer(412, &json!({ "errorCode": "X", "message": "y" })),
        empty(428),
    ];
    for response in bodies {
        let (result, log) = write(based_on(true, false), |_, _| response.clone());
        let outcomes = result.unwrap();
        assert_eq!(told(&outcomes), ["conflict stale"]);
        assert!(outcomes[0].as_ref().unwrap_err().is_stale());
        assert_eq!(log.requests.len(), 1);
    }
    let taken = answer(400, &sf_error("DUPLICATE_VALUE", "taken"));
    let (result, _) = write(based_on(true, false), |_, _| taken.clone());
    assert!(!result.unwrap()[0].as_ref().unwrap_err().is_stale());
}

#[test]
fn a_tag_that_fails_is_compared_with_the_rows_own() {
    let row = |tag: &str| with_header(answer(200, &json!({ "Id": "x" })), "etag", tag);
    let missing = answer(404, &sf_error("NOT_FOUND", "gone"));
    for (case, second, third, said, requests) in [
        (
            "the row has changed",
            row("\"other\""),
            empty(204),
            "conflict stale",
            2,
        ),
        ("it is gone", missing, empty(204), "conflict stale", 2),
        (
            "it shows no tag",
            answer(200, &json!({})),
            empty(204),
            "conflict stale",
            2,
        ),
        (
            "it shows our tag, so the date protects",
            row(TAG),
            empty(204),
            "updated 003000000000001AAA",
            3,
        ),
        (
            "it changes at last",
            row(TAG),
            empty(412),
            "conflict stale",
            3,
        ),
    ] {
        let (result, log) = write(based_on(true, true), |n, _| match n {
            0 => empty(412),
            1 => second.clone(),
            _ => third.clone(),
        });
        assert_eq!(told(&result.unwrap()), [said], "{case}");
        assert_eq!(log.requests.len(), requests, "{case}");
        assert_eq!(
            log.lines()[1],
            "GET /services/data/v66.0/sobjects/Contact/003000000000001AAA?fields=Id,Name"
        );
        if let Some(last) = log.requests.get(2) {
            assert_eq!(conditions(last), [("if-unmodified-since", DATE)]);
        }
    }
    // Without a date that protects there is nothing to fall back on.
    let (result, log) = write(based_on(false, true), |_, _| empty(412));
    assert_eq!(told(&result.unwrap()), ["conflict stale"]);
    assert_eq!(log.requests.len(), 1);
}

#[test]
fn a_version_of_somebody_elses_is_never_written_on() {
    for version in ["", "7", "{}", "2026-01-02T03:04:05.000+0000"] {
        let mut batch = updates(&ids(1..2));
        batch.records[0].unless_changed = Some(version.to_owned());
        let (result, log) = write(batch, |_, _| empty(204));
        assert_eq!(told(&result.unwrap()), ["conflict stale"]);
        assert!(log.requests.is_empty());
    }
}

#[test]
fn a_conditional_write_is_not_sent_again_where_there_are_no_conditions() {
    let not_found = answer(
        404,
        &sf_error("NOT_FOUND", "The requested resource does not exist"),
    );
    for (second, said) in [
        (answer(200, &json!([null])), "not_found NOT_FOUND"),
        (answer(200, &json!([])), "not_found NOT_FOUND"),
        (
            answer(200, &json!([{ "Id": "003000000000001AAA" }])),
            "transient NOT_FOUND",
        ),
        (not_found.clone(), "mapping NOT_FOUND"),
        (page(200), "internal unreadable_answer"),
    ] {
        let (result, log) = write(based_on(true, true), |n, _| {
            if n == 0 {
                not_found.clone()
            } else {
                second.clone()
            }
        });
        let told = match result {
            Ok(outcomes) => told(&outcomes).remove(0),
            Err(failure) => format!("{} {}", failure.class, failure.code),
        };
        assert_eq!(told, said);
        assert_eq!(
            log.lines()[1],
            "POST /services/data/v66.0/composite/sobjects/Contact"
        );
        assert_eq!(body(&log.requests[1])["fields"], json!(["Id"]));
    }
}
