//! Writes and reads: batches, what becomes of each record of them, and conditions.

use std::sync::Arc;

use crm_domain::{DataType, Failure, Value};
use serde_json::{Value as Json, json};

use super::super::Zoho;
use crate::outcomes::Outcome;
use crate::scripted_server::{Log, answer, batch, body, drive, empty, field, settings, told};
use crate::{Guard, Provider, ReadBatch, Request, Response, Settings, WriteBatch, WriteKind};

fn write(
    batch: WriteBatch,
    answer: impl FnMut(usize, &Request) -> Response,
) -> (Result<Vec<Outcome>, Failure>, Log) {
    drive(Zoho.write(&settings(2000), Arc::new(batch)), answer)
}

fn saved(id: &str, action: &str) -> Json {
    json!({ "status": "success", "code": "SUCCESS", "message": "ok", "action": action, "details": { "id": id } })
}

fn refused(code: &str, details: Json) -> Json {
    json!({ "status": "error", "code": code, "message": "no", "details": details })
}

fn people(kind: WriteKind, keys: &[&str]) -> WriteBatch {
    let records: Vec<_> = keys.iter().map(|key| (*key, Value::text("x"))).collect();
    batch("Contacts", kind, "Last_Name", &records)
}

#[test]
fn updates_go_by_id_and_upserts_by_their_field() {
    let (result, log) = write(people(WriteKind::Update, &["1", "2"]), |_, _| {
        answer(
            200,
            &json!({ "data": [saved("1", "update"), saved("2", "update")] }),
        )
    });
    assert_eq!(told(&result.unwrap()), ["updated 1", "updated 2"]);
    assert_eq!(log.lines(), ["PUT /crm/v8/Contacts"]);
    assert_eq!(
        body(&log.requests[0]),
        json!({ "data": [{ "Last_Name": "x", "id": "1" }, { "Last_Name": "x", "id": "2" }] })
    );
    let (result, log) = write(people(WriteKind::Upsert, &["K1", "K2"]), |_, _| {
        answer(
            201,
            &json!({ "data": [saved("1", "insert"), saved("2", "update")] }),
        )
    });
    assert_eq!(told(&result.unwrap()), ["created 1", "updated 2"]);
    assert_eq!(log.lines(), ["POST /crm/v8/Contacts/upsert"]);
    let sent = body(&log.requests[0]);
    assert_eq!(sent["duplicate_check_fields"], json!(["Ext__c"]));
    assert_eq!(sent["data"][1], json!({ "Last_Name": "x", "Ext__c": "K2" }));
    let (result, log) = write(people(WriteKind::Delete, &["1", "2"]), |_, _| {
        answer(
            200,
            &json!({ "data": [saved("1", ""), refused("INVALID_DATA", json!({ "api_name": "id" }))] }),
        )
    });
    assert_eq!(
        told(&result.unwrap()),
        ["updated 1", "not_found INVALID_ID"]
    );
    assert_eq!(log.lines(), ["DELETE /crm/v8/Contacts?ids=1,2"]);
}

#[test]
fn each_record_has_its_own_outcome_whatever_the_status() {
    let items = json!({ "data": [
        saved("1", "update"),
        refused("INVALID_DATA", json!({ "api_name": "Email" })),
        refused("DUPLICATE_DATA", json!({ "api_name": "Key" })),
        saved("9", "update"),
    ] });
    for status in [200, 201, 207] {
        let batch = people(WriteKind::Update, &["1", "2", "3", "4", "5"]);
        let (result, log) = write(batch, |_, _| answer(status, &items));
        assert_eq!(
            told(&result.unwrap()),
            [
                "updated 1",
                "validation INVALID_DATA",
                "conflict DUPLICATE_DATA",
                "transient mismatched_result",
                "transient missing_result",
            ]
        );
        assert_eq!(log.requests.len(), 1);
    }
}

/// Nothing is written where the whole says so.
#[test]
fn a_record_is_not_saved_by_an_answer_that_says_that_none_is() {
    let items = json!({ "data": [saved("1", "update"), refused("DUPLICATE_DATA", json!({}))] });
    for (status, expected) in [
        (202, "internal undocumented_status"),
        (400, "internal unreadable_answer"),
    ] {
        let batch = people(WriteKind::Update, &["1", "2"]);
        let (result, log) = write(batch, |_, _| answer(status, &items));
        assert_eq!(
            told(&result.unwrap()),
            [expected, "conflict DUPLICATE_DATA"]
        );
        assert_eq!(log.requests.len(), 1);
    }
}

#[test]
fn batches_are_of_100_and_no_key_comes_twice_in_one() {
    assert_eq!(
        Zoho.write_size(&settings(2000), WriteKind::Upsert, 2000),
        100
    );
    assert_eq!(Zoho.read_size("Contacts"), 100);
    let keys: Vec<String> = (0..130).map(|n| n.to_string()).collect();
    let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    keys[129] = "0";
    let (result, log) = write(people(WriteKind::Update, &keys), |_, request| {
        let sent = body(request);
        let ids = sent["data"].as_array().unwrap().iter();
        let items: Vec<Json> = ids
            .map(|item| saved(item["id"].as_str().unwrap(), "update"))
            .collect();
        answer(200, &json!({ "data": items }))
    });
    assert!(result.unwrap().iter().all(Result::is_ok));
    let sizes: Vec<usize> = log
        .requests
        .iter()
        .map(|request| body(request)["data"].as_array().unwrap().len())
        .collect();
    assert_eq!(sizes, [100, 29, 1]);
}

#[test]
fn one_record_is_written_unless_it_was_changed() {
    let mut one = people(WriteKind::Update, &["1"]);
    one.records[0].unless_changed = Some("2026-01-02T03:04:05+00:00".to_owned());
    let condition = (
        "if-unmodified-since",
        "2026-01-02T03:04:05+00:00".to_owned(),
    );
    let modified =
        json!({ "code": "ALREADY_MODIFIED", "status": "error", "message": "no", "details": {} });
    let (result, log) = write(one.clone(), |_, _| answer(412, &modified));
    assert!(result.unwrap()[0].as_ref().unwrap_err().is_stale());
    assert!(log.requests[0].headers.contains(&condition));
    // Several cannot be bound, each to its own.
    one.records.push(one.records[0].clone());
    one.records[1].crm_id = Some("2".to_owned());
    let (_, log) = write(one, |_, _| answer(200, &json!({ "data": [] })));
    assert!(!log.requests[0].headers.contains(&condition));
    for (kind, guard) in [
        (WriteKind::Update, Guard::Afterwards),
        (WriteKind::Upsert, Guard::None),
        (WriteKind::Delete, Guard::None),
    ] {
        assert_eq!(Zoho.guard(kind, 1), guard);
    }
    assert_eq!(Zoho.guard(WriteKind::Update, 25), Guard::Afterwards);
    assert_eq!(Zoho.guard(WriteKind::Update, 26), Guard::None);
}

#[test]
fn automation_is_left_to_zoho_unless_an_option_says_otherwise() {
    let send = |kind, trigger: Json| {
        let options = [("trigger".to_owned(), trigger)];
        let settings = Settings {
            options: options.into_iter().collect(),
            ..settings(1)
        };
        let operation = Zoho.write(&settings, Arc::new(people(kind, &["1"])));
        drive(operation, |_, _| answer(200, &json!({ "data": [] }))).1
    };
    let log = send(WriteKind::Update, json!(["workflow"]));
    assert_eq!(body(&log.requests[0])["trigger"], json!(["workflow"]));
    let log = send(WriteKind::Delete, json!([]));
    assert_eq!(
        log.lines(),
        ["DELETE /crm/v8/Contacts?ids=1&wf_trigger=false"]
    );
    let log = send(WriteKind::Delete, json!(["workflow"]));
    assert_eq!(log.lines(), ["DELETE /crm/v8/Contacts?ids=1"]);
}

#[test]
fn a_refused_request_says_nothing_of_records() {
    let (result, _) = write(people(WriteKind::Update, &["1", "2"]), |_, _| {
        answer(400, &refused("INVALID_MODULE", json!({})))
    });
    assert_eq!(told(&result.unwrap()), ["mapping INVALID_MODULE"; 2]);
    let (result, _) = write(people(WriteKind::Update, &["1"]), |_, _| {
        answer(404, &refused("NOT_FOUND", json!({})))
    });
    assert_eq!(told(&result.unwrap()), ["mapping NOT_FOUND"]);
}

#[test]
fn records_are_read_in_as_few_requests_as_their_fields_take() {
    let names: Vec<String> = (0..60).map(|n| format!("F{n}")).collect();
    let batch = ReadBatch {
        object: "Contacts".to_owned(),
        ids: ["2", "3", "1"].map(str::to_owned).to_vec(),
        fields: names
            .iter()
            .map(|name| field(name, DataType::Text))
            .collect(),
        for_write: true,
    };
    let (result, log) = drive(Zoho.read(&settings(1), Arc::new(batch)), |n, _| {
        let held = |id: &str| json!({ "id": id, (format!("F{}", 59 - 50 * n)): "x", "F9": "y", "Modified_Time": "2026-01-02T03:04:05-08:00" });
        answer(200, &json!({ "data": [held("1"), held("2")], "info": {} }))
    });
    assert_eq!(log.requests.len(), 2);
    assert!(log.lines()[0].starts_with("GET /crm/v8/Contacts?ids=1,2,3&fields=Modified_Time,"));
    let found = result.unwrap();
    assert!(found[1].is_none());
    let first = found[0].as_ref().unwrap();
    assert_eq!((first.crm_id.as_str(), first.fields.len()), ("2", 2));
    assert_eq!(first.version.as_deref(), Some("2026-01-02T11:04:05+00:00"));
    let none = ReadBatch {
        object: "Contacts".to_owned(),
        ids: vec!["1".to_owned()],
        ..ReadBatch::default()
    };
    let (result, _) = drive(Zoho.read(&settings(1), Arc::new(none)), |_, _| empty(204));
    assert!(result.unwrap()[0].is_none());
}

#[test]
fn a_creation_looks_for_its_records_and_writes_the_others() {
    let keys: Vec<String> = (1..=60).map(|n| format!("K{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let mut batch = people(WriteKind::Upsert, &keys);
    batch.creates_only = true;
    let (result, log) = write(batch, |n, request| match n {
        0 => answer(
            200,
            &json!({ "data": [{ "id": "9", "Ext__c": "K2" }], "info": { "more_records": false } }),
        ),
        _ => {
            let sent = body(request)["data"].as_array().unwrap().len();
            let saved: Vec<Json> = (0..sent)
                .map(|n| saved(&format!("1{n}"), "insert"))
                .collect();
            answer(201, &json!({ "data": saved }))
        }
    });
    let told = told(&result.unwrap());
    assert_eq!(told[..3], ["created 10", "found 9", "created 11"]);
    assert_eq!(
        log.lines(),
        ["POST /crm/v8/coql", "POST /crm/v8/Contacts/upsert"]
    );
    let query = body(&log.requests[0])["select_query"].to_string();
    assert!(
        query.contains("select id, Ext__c from Contacts where Ext__c in ('K1', "),
        "{query}"
    );
    assert!(query.contains("'K50') or Ext__c in ('K51', "), "{query}");
    assert_eq!(body(&log.requests[1])["data"].as_array().unwrap().len(), 59);
    // Two that have one key.
    let mut batch = people(WriteKind::Upsert, &["K1"]);
    batch.creates_only = true;
    let (result, log) = write(batch, |_, _| {
        answer(
            200,
            &json!({ "data": [{ "id": "1", "Ext__c": "K1" }, { "id": "2", "Ext__c": "k1" }] }),
        )
    });
    assert_eq!(
        crate::scripted_server::told(&result.unwrap()),
        ["conflict duplicate_external_id"]
    );
    assert_eq!(log.requests.len(), 1);
}
