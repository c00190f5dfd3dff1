//! The stub's protocol, its errors and its values.

use std::sync::Arc;
use std::time::Duration;

use crm_domain::failure::Scope;
use crm_domain::{DataType, ErrorClass, Value};
use proptest::prelude::*;
use serde_json::json;

use super::Stub;
use crate::scripted_server::values::any_value;
use crate::scripted_server::{
    answer, batch, body, drive, field, line, page, settings, told, with_header,
};
use crate::{ChangesQuery, Credentials, Guard, Provider, ReadBatch, WriteKind};

#[test]
fn a_write_is_answered_record_by_record() {
    let mut batch = batch(
        "contact",
        WriteKind::Update,
        "x_note",
        &[
            ("1", Value::text("a")),
            ("2", Value::Null),
            ("3", Value::text("c")),
            ("4", Value::text("d")),
        ],
    );
    batch.records[0].fields.push((
        field("x_n", DataType::Number),
        Value::number("1.50").unwrap(),
    ));
    let results = json!({ "results": [
        { "id": "1", "created": false },
        { "error": { "class": "validation", "code": "too_long", "message": "no" } },
        { "error": { "class": "odd", "message": "no" } },
    ] });
    let (result, log) = drive(Stub.write(&settings(1), Arc::new(batch)), |_, _| {
        answer(200, &results)
    });
    assert_eq!(
        told(&result.unwrap()),
        [
            "updated 1",
            "validation too_long",
            "internal odd",
            "transient missing_result"
        ]
    );
    assert_eq!(line(&log.requests[0]), "POST /write");
    let sent = body(&log.requests[0]);
    assert_eq!(
        (&sent["object"], &sent["kind"], &sent["external_id_field"]),
        (&json!("contact"), &json!("update"), &json!(null))
    );
    assert_eq!(
        sent["records"][0],
        json!({ "id": "1", "fields": { "x_note": "a", "x_n": 1.5 } })
    );
    assert_eq!(
        sent["records"][1],
        json!({ "id": "2", "fields": { "x_note": null } })
    );
}

#[test]
fn an_upsert_names_the_external_id() {
    let batch = batch(
        "contact",
        WriteKind::Upsert,
        "x_note",
        &[("k", Value::text("a"))],
    );
    let results = json!({ "results": [{ "id": "9", "created": true }] });
    let (result, log) = drive(Stub.write(&settings(1), Arc::new(batch)), |_, _| {
        answer(200, &results)
    });
    assert_eq!(told(&result.unwrap()), ["created 9"]);
    let sent = body(&log.requests[0]);
    assert_eq!(
        (&sent["kind"], &sent["external_id_field"]),
        (&json!("upsert"), &json!("Ext__c"))
    );
    assert_eq!(
        sent["records"],
        json!([{ "external_id": "k", "fields": { "x_note": "a" } }])
    );
}

#[test]
fn a_failure_of_the_whole_request_keeps_its_class() {
    for (status, class) in [
        (503, ErrorClass::Transient),
        (429, ErrorClass::RateLimited),
        (401, ErrorClass::Auth),
        (422, ErrorClass::Validation),
        (400, ErrorClass::Mapping),
        (412, ErrorClass::Conflict),
        (404, ErrorClass::NotFound),
        (500, ErrorClass::Internal),
    ] {
        let body = json!({ "error": { "class": class.name(), "code": "injected", "message": "as asked" } });
        let response = with_header(answer(status, &body), "retry-after", "3");
        let failure = Stub.failure(&response).unwrap();
        assert_eq!((failure.class, failure.code.as_str()), (class, "injected"));
        let refused_service = matches!(
            class,
            ErrorClass::Transient | ErrorClass::RateLimited | ErrorClass::Auth
        );
        assert_eq!(failure.scope == Scope::Connection, refused_service);
        let waits = matches!(class, ErrorClass::Transient | ErrorClass::RateLimited);
        assert_eq!(failure.retry_after, waits.then_some(Duration::from_secs(3)));
    }
    assert_eq!(
        Stub.failure(&page(503)).unwrap().class,
        ErrorClass::Transient
    );
}

#[test]
fn each_record_names_the_version_it_is_based_on() {
    let records = [("1", Value::text("a")), ("2", Value::text("b"))];
    let mut batch = batch("contact", WriteKind::Update, "x_note", &records);
    batch.records[0].unless_changed = Some("7".to_owned());
    let stale = json!({ "error": { "class": "conflict", "code": "stale", "message": "changed" } });
    let results = json!({ "results": [stale, { "id": "2", "created": false }] });
    let (result, log) = drive(Stub.write(&settings(1), Arc::new(batch)), |_, _| {
        answer(200, &results)
    });
    let outcomes = result.unwrap();
    assert_eq!(told(&outcomes), ["conflict stale", "updated 2"]);
    assert!(outcomes[0].as_ref().unwrap_err().is_stale());
    let sent = &body(&log.requests[0])["records"];
    assert_eq!(
        (&sent[0]["version"], sent[1].get("version")),
        (&json!("7"), None)
    );
    for kind in [WriteKind::Update, WriteKind::Upsert, WriteKind::Delete] {
        assert_eq!(Stub.guard(kind, 200), Guard::Atomic);
    }
}

#[test]
fn a_read_answers_in_the_order_of_the_ids() {
    let batch = Arc::new(ReadBatch {
        object: "contact".to_owned(),
        ids: ["1", "2"].map(str::to_owned).to_vec(),
        fields: vec![field("email", DataType::Text)],
        ..ReadBatch::default()
    });
    let found = json!({ "id": "2", "fields": { "email": "a@x.test" }, "modified_at": "2026-01-02T03:04:05.678Z", "version": 7 });
    let results = json!({ "results": [null, found] });
    let (result, log) = drive(Stub.read(&settings(1), batch.clone()), |_, _| {
        answer(200, &results)
    });
    assert_eq!(
        body(&log.requests[0]),
        json!({ "object": "contact", "ids": ["1", "2"], "fields": ["email"] })
    );
    let found = result.unwrap();
    assert!(found[0].is_none());
    let object = found[1].as_ref().unwrap();
    assert_eq!(
        (object.modified_at, object.version.as_deref()),
        (Some(1_767_323_045_678), Some("7"))
    );
    let (result, _) = drive(Stub.read(&settings(1), batch), |_, _| {
        answer(200, &json!({ "results": [null] }))
    });
    assert_eq!(result.unwrap_err().class, ErrorClass::Internal);
}

#[test]
fn the_stub_needs_no_credentials_and_answers_a_ping() {
    assert!(Stub.authorise("", &Credentials::default()).is_none());
    let (result, log) = drive(Stub.ping(&settings(1)), |_, _| {
        answer(200, &json!({ "ok": true, "detail": "12 records" }))
    });
    assert_eq!(
        (result.unwrap().as_str(), line(&log.requests[0]).as_str()),
        ("12 records", "GET /ping")
    );
}

proptest! {
    #[test]
    fn what_is_written_is_read_back((data_type, value) in any_value()) {
        let wire = Stub.to_wire(data_type, &value);
        prop_assert_eq!(Stub.from_wire(data_type, &wire).unwrap(), value);
    }
}

#[test]
fn changes_are_asked_for_by_the_stubs_own_cursor() {
    let query = ChangesQuery {
        object: "contact".to_owned(),
        fields: vec![field("email", DataType::Text)],
        external_id_field: Some("external_key".to_owned()),
        since: Some(json!({ "seen": "5:5:" })),
        limit: 1000,
    };
    let next = json!({ "seen": "5:5:", "until": "9:9:", "at": ["7", "contact-000001"] });
    let told = json!({ "changes": [
        { "id": "contact-000002", "external_id": "C2", "fields": { "email": null }, "version": 3,
          "modified_at": "2026-01-02T03:04:05Z", "modified_by": "crm-user", "deleted": false },
        { "id": "contact-000001", "external_id": null, "fields": {}, "version": 4,
          "modified_at": "2026-01-02T03:04:06Z", "modified_by": "pg_crm", "deleted": true },
    ], "next": next, "more": true });
    let (page, log) = drive(Stub.changes(&settings(1), Arc::new(query)), |_, _| {
        answer(200, &told)
    });
    assert_eq!(line(&log.requests[0]), "POST /changes");
    assert!(log.requests[0].repeatable);
    assert_eq!(
        body(&log.requests[0]),
        json!({
            "object": "contact", "fields": ["email"], "external_id_field": "external_key",
            "since": { "seen": "5:5:" }, "limit": 200,
        })
    );
    let page = page.unwrap();
    assert_eq!((page.next, page.more), (next, true));
    let [one, two] = &page.changes[..] else {
        panic!("{:?}", page.changes)
    };
    assert_eq!(one.object.version.as_deref(), Some("3"));
    assert_eq!(one.object.modified_at, Some(1_767_323_045_000));
    assert_eq!(one.external_id.as_deref(), Some("C2"));
    assert_eq!(one.modified_by.as_deref(), Some("crm-user"));
    assert!(!one.deleted && two.deleted && two.external_id.is_none());
    for (response, class) in [
        (answer(200, &json!({ "changes": [] })), ErrorClass::Internal),
        (
            answer(
                400,
                &json!({ "error": { "class": "mapping", "code": "unknown_field" } }),
            ),
            ErrorClass::Mapping,
        ),
    ] {
        let query = Arc::new(ChangesQuery::default());
        let (page, _) = drive(Stub.changes(&settings(1), query), |_, _| response.clone());
        assert_eq!(page.unwrap_err().class, class);
    }
}
