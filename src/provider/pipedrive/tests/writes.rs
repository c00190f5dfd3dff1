//! Updates and deletes: one record by one request, and what a record that is not found means.

use std::sync::Arc;

use crm_domain::{DataType, ErrorClass, Failure, Value};
use serde_json::{Value as Json, json};

use super::super::Pipedrive;
use super::{KEY, data, list, not_found};
use crate::outcomes::Outcome;
use crate::scripted_server::{Log, answer, batch, body, drive, field, line, page, settings, told};
use crate::{Method, Provider, Request, Response, WriteBatch, WriteKind};

fn write(
    batch: WriteBatch,
    answer: impl FnMut(usize, &Request) -> Response,
) -> (Result<Vec<Outcome>, Failure>, Log) {
    drive(Pipedrive.write(&settings(1), Arc::new(batch)), answer)
}

fn one(object: &str, kind: WriteKind) -> WriteBatch {
    batch(object, kind, "name", &[("42", Value::text("Ada"))])
}

#[test]
fn an_update_is_a_patch_and_of_a_note_a_put() {
    for (object, line) in [
        ("persons", "PATCH /api/v2/persons/42"),
        ("Person", "PATCH /api/v2/persons/42"),
        ("deals", "PATCH /api/v2/deals/42"),
        ("leads", "PATCH /api/v1/leads/42"),
        ("notes", "PUT /api/v1/notes/42"),
    ] {
        let (result, log) = write(one(object, WriteKind::Update), |_, _| {
            data(json!({ "id": 42 }))
        });
        assert_eq!(told(&result.unwrap()), ["updated 42"]);
        assert_eq!(log.lines(), [line]);
        assert_eq!(body(&log.requests[0]), json!({ "name": "Ada" }));
    }
}

#[test]
fn a_delete_is_by_id() {
    let (result, log) = write(one("deals", WriteKind::Delete), |_, _| {
        data(json!({ "id": 42 }))
    });
    assert_eq!(told(&result.unwrap()), ["updated 42"]);
    assert_eq!(log.lines(), ["DELETE /api/v2/deals/42"]);
}

#[test]
fn a_record_is_gone_if_the_list_does_not_show_it() {
    for kind in [WriteKind::Update, WriteKind::Delete] {
        let write = |shown: Response| {
            let (result, log) = write(one("persons", kind), |n, _| match n {
                0 => not_found(),
                _ => shown.clone(),
            });
            assert_eq!(log.lines()[1..], ["GET /api/v2/persons?ids=42&limit=100"]);
            told(&result.unwrap())
        };
        assert_eq!(write(list(json!([]), None)), ["not_found http_404"]);
        let deleted = json!([{ "id": 42, "is_deleted": true }]);
        assert_eq!(write(list(deleted, None)), ["not_found http_404"]);
        assert_eq!(
            write(list(json!([{ "id": 42 }]), None)),
            ["transient http_404"]
        );
        // A path that is not in use any more takes no record with it.
        assert_eq!(write(not_found()), ["mapping http_404"]);
    }
    let (result, log) = write(one("leads", WriteKind::Update), |n, _| match n {
        0 => not_found(),
        _ => list(json!([{ "id": "7" }]), None),
    });
    assert_eq!(told(&result.unwrap()), ["not_found http_404"]);
    assert_eq!(log.lines()[1], "GET /api/v1/leads?limit=1");
}

#[test]
fn an_update_of_what_lies_in_the_recycle_bin_is_none() {
    let (result, _) = write(one("deals", WriteKind::Update), |_, _| {
        data(json!({ "id": 42, "is_deleted": true }))
    });
    assert_eq!(told(&result.unwrap()), ["not_found deleted"]);
}

#[test]
fn parts_of_a_field_are_written_onto_what_it_holds() {
    let mut batch = one("deals", WriteKind::Update);
    let part = field(&format!("{KEY}.value"), DataType::Number);
    batch.records[0].fields = vec![(part, Value::number("7").unwrap())];
    let held = json!({ "id": 42, "custom_fields": { KEY: { "value": 1, "currency": "EUR" } } });
    let (result, log) = write(batch.clone(), |_, _| data(held.clone()));
    assert_eq!(told(&result.unwrap()), ["updated 42"]);
    assert_eq!(
        log.lines(),
        ["GET /api/v2/deals/42", "PATCH /api/v2/deals/42"]
    );
    assert_eq!(
        body(&log.requests[1]),
        json!({ "custom_fields": { KEY: { "value": 7, "currency": "EUR" } } })
    );
    let (result, log) = write(batch, |n, _| match n {
        0 => not_found(),
        _ => list(json!([]), None),
    });
    assert_eq!(told(&result.unwrap()), ["not_found http_404"]);
    assert_eq!(log.requests.len(), 2);
}

/// Records with an address that is the first of a list.
fn addresses(ids: &[&str]) -> WriteBatch {
    let records: Vec<(&str, Value)> = ids.iter().map(|id| (*id, Value::text("new@x"))).collect();
    batch("persons", WriteKind::Update, "emails", &records)
}

fn holding(id: u32) -> Json {
    let first = json!({ "value": format!("old{id}@x"), "primary": true });
    let second = json!({ "value": format!("other{id}@x"), "primary": false });
    json!({ "id": id, "emails": [first, second] })
}

#[test]
fn what_records_hold_is_read_once_for_all_of_a_batch() {
    // 43 is not in the list, 44 cannot be read there, and no list is asked for what is no number.
    let (result, log) = write(
        addresses(&["42", "43", "44", "x"]),
        |_, request| match line(request).split_once(' ').unwrap() {
            ("GET", list_of) if list_of.contains("ids=") => {
                let damaged = r#"{"id": 44, "emails": "\ud83d"}"#;
                let mut answer = list(json!([holding(42), 44]), None);
                let text = String::from_utf8(answer.body).unwrap();
                answer.body = text.replace(",44]", &format!(",{damaged}]")).into_bytes();
                answer
            }
            ("GET", "/api/v2/persons/x") => not_found(),
            ("GET", one) => data(holding(one[one.len() - 2..].parse().unwrap())),
            (_, one) => data(json!({ "id": &one[one.len() - 2..] })),
        },
    );
    let told = told(&result.unwrap());
    assert_eq!(told[..3], ["updated 42", "updated 43", "updated 44"]);
    assert_eq!(
        log.lines()[..6],
        [
            "GET /api/v2/persons?ids=42,43,44&limit=100",
            "PATCH /api/v2/persons/42",
            "GET /api/v2/persons/43",
            "PATCH /api/v2/persons/43",
            "GET /api/v2/persons/44",
            "PATCH /api/v2/persons/44",
        ]
    );
    for (request, id) in [(1, 42), (3, 43), (5, 44)] {
        let emails = &body(&log.requests[request])["emails"];
        assert_eq!(emails[0]["value"], "new@x");
        assert_eq!(emails[1]["value"], format!("other{id}@x"));
    }
}

#[test]
fn a_list_that_is_refused_is_no_fault_of_its_records() {
    let refused = json!({ "success": false, "error": "ids must be numbers" });
    let (result, log) = write(addresses(&["42", "43"]), |n, request| match n {
        0 => answer(400, &refused),
        _ if request.method == Method::Get => data(holding(42)),
        n => data(json!({ "id": 41 + n / 2 })),
    });
    assert_eq!(told(&result.unwrap()), ["updated 42", "updated 43"]);
    assert_eq!(log.requests.len(), 5);
    // Where nobody is let in, nobody is asked again.
    let (result, log) = write(addresses(&["42", "43"]), |_, _| answer(401, &refused));
    assert_eq!(result.unwrap_err().class, ErrorClass::Auth);
    assert_eq!(log.requests.len(), 1);
}

#[test]
fn what_is_no_answer_is_no_success() {
    for (response, expected) in [
        (page(200), "internal unreadable_answer"),
        (data(json!({ "id": 43 })), "transient mismatched_result"),
        (data(json!({})), "internal unreadable_answer"),
        (
            answer(200, &json!({ "success": false, "error": "no" })),
            "validation not_successful",
        ),
    ] {
        let (result, _) = write(one("deals", WriteKind::Update), |_, _| response.clone());
        assert_eq!(told(&result.unwrap()), [expected]);
    }
}

#[test]
fn an_unknown_object_is_never_asked_for() {
    let (result, log) = write(one("contacts", WriteKind::Update), |_, _| data(json!({})));
    let failure = result.unwrap_err();
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (ErrorClass::Mapping, "unknown_object")
    );
    assert!(log.requests.is_empty());
}

#[test]
fn writes_go_in_as_many_parts_as_may_be_under_way() {
    let mut settings = settings(1);
    let size = |settings: &_, kind, count| Pipedrive.write_size(settings, kind, count);
    assert_eq!(size(&settings, WriteKind::Update, 5000), 25);
    assert_eq!(size(&settings, WriteKind::Update, 4), 1);
    assert_eq!(size(&settings, WriteKind::Delete, 5000), 1);
    assert_eq!(size(&settings, WriteKind::Upsert, 5000), 100);
    assert_eq!(size(&settings, WriteKind::Upsert, 10), 3);
    assert_eq!(size(&settings, WriteKind::Upsert, 1), 1);
    settings
        .options
        .insert("max_in_flight".to_owned(), 10.into());
    assert_eq!(size(&settings, WriteKind::Upsert, 50), 5);
}

#[test]
fn an_answer_shows_what_became_of_the_fields_that_were_written() {
    let mut batch = one("persons", WriteKind::Update);
    batch.records[0]
        .fields
        .push((field(KEY, DataType::Text), Value::text("+49 30 1")));
    let (result, _) = write(batch, |_, _| {
        data(json!({
            "id": 42, "name": "ADA", "owner_id": 7, "custom_fields": { KEY: "(030) 1" },
        }))
    });
    let written = result.unwrap().pop().unwrap().unwrap();
    let shown = json!({ "name": "ADA", KEY: "(030) 1" });
    assert_eq!(Json::Object(written.shown), shown);
}
