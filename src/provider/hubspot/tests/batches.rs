//! Writing, alone and in batches.

use std::collections::HashSet;
use std::sync::Arc;

use crm_domain::{DataType, Failure, Value};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::super::HubSpot;
use crate::outcomes::Outcome;
use crate::scripted_server::{
    self, Answer, Log, answer, batch, body, drive, empty, field, line, page, told,
};
use crate::{Provider, Request, Response, WriteBatch, WriteKind};

fn write<A: Into<Answer>>(
    batch: WriteBatch,
    answer: impl FnMut(usize, &Request) -> A,
) -> (Result<Vec<Outcome>, Failure>, Log) {
    drive(
        HubSpot.write(&scripted_server::settings(1), Arc::new(batch)),
        answer,
    )
}

fn records(kind: WriteKind, keys: &[&str]) -> WriteBatch {
    let records: Vec<_> = keys.iter().map(|key| (*key, Value::text("x"))).collect();
    let mut batch = batch("contacts", kind, "lastname", &records);
    batch.external_id_field = batch.external_id_field.map(|_| "email".to_owned());
    batch
}

fn updates(keys: &[&str]) -> WriteBatch {
    records(WriteKind::Update, keys)
}

fn inputs(request: &Request) -> Vec<Json> {
    body(request)["inputs"].as_array().unwrap().clone()
}

fn complete(results: &[Json]) -> Json {
    json!({ "status": "COMPLETE", "results": results, "startedAt": "2026-01-02T03:04:05Z" })
}

fn partial(results: &[Json], errors: Json) -> Response {
    let mut body = complete(results);
    body["numErrors"] = json!(1);
    body["errors"] = errors;
    answer(207, &body)
}

fn echo(input: &Json) -> Json {
    json!({ "id": input["id"], "properties": {}, "objectWriteTraceId": input["objectWriteTraceId"] })
}

fn take_all(request: &Request) -> Response {
    let results: Vec<Json> = inputs(request).iter().map(echo).collect();
    answer(200, &complete(&results))
}

#[test]
fn one_update_patches_the_record() {
    let mut batch = updates(&["51"]);
    batch.records[0].fields.push((
        field("amount", DataType::Number),
        Value::number("12.50").unwrap(),
    ));
    batch.records[0]
        .fields
        .push((field("city", DataType::Text), Value::Null));
    let (result, log) = write(batch, |_, _| answer(200, &json!({ "id": "51" })));
    assert_eq!(told(&result.unwrap()), ["updated 51"]);
    assert_eq!(log.lines(), ["PATCH /crm/v3/objects/contacts/51"]);
    let properties = json!({ "lastname": "x", "amount": "12.5", "city": "" });
    assert_eq!(body(&log.requests[0]), json!({ "properties": properties }));
}

#[test]
fn one_archive_deletes_the_record() {
    let (result, log) = write(records(WriteKind::Delete, &["51"]), |_, _| empty(204));
    assert_eq!(told(&result.unwrap()), ["updated 51"]);
    assert_eq!(log.lines(), ["DELETE /crm/v3/objects/contacts/51"]);
}

#[test]
fn one_upsert_is_a_batch_of_one() {
    for (new, said) in [(true, "created 77"), (false, "updated 77")] {
        let result = json!({ "id": "77", "new": new, "properties": { "email": "a@x.test" } });
        let (outcomes, log) = write(records(WriteKind::Upsert, &["A@x.test"]), |_, _| {
            answer(201, &complete(std::slice::from_ref(&result)))
        });
        assert_eq!(
            told(&outcomes.unwrap()),
            [said],
            "HubSpot lowers the case of emails"
        );
        assert_eq!(log.lines(), ["POST /crm/v3/objects/contacts/batch/upsert"]);
        let input = json!({
            "id": "A@x.test", "idProperty": "email", "objectWriteTraceId": "0", "properties": { "lastname": "x" },
        });
        assert_eq!(body(&log.requests[0]), json!({ "inputs": [input] }));
    }
}

#[test]
fn updates_carry_a_trace_and_archives_ids_alone() {
    let (_, log) = write(updates(&["1", "2"]), |_, request| take_all(request));
    assert_eq!(log.lines(), ["POST /crm/v3/objects/contacts/batch/update"]);
    let input = |id: &str, trace: &str| json!({ "id": id, "objectWriteTraceId": trace, "properties": { "lastname": "x" } });
    assert_eq!(
        body(&log.requests[0]),
        json!({ "inputs": [input("1", "0"), input("2", "1")] })
    );
    let (result, log) = write(records(WriteKind::Delete, &["1", "2"]), |_, _| empty(204));
    assert_eq!(told(&result.unwrap()), ["updated 1", "updated 2"]);
    assert_eq!(log.lines(), ["POST /crm/v3/objects/contacts/batch/archive"]);
    assert_eq!(
        body(&log.requests[0]),
        json!({ "inputs": [{ "id": "1" }, { "id": "2" }] })
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn results_and_grouped_errors_are_tied_to_their_records_in_any_order(
        order in Just((0..60usize).collect::<Vec<_>>()).prop_shuffle(),
        fates in prop::collection::vec(0..4, 60),
        traced in any::<bool>(),
        upsert in any::<bool>(),
        status in prop::sample::select(vec![200u16, 207]),
    ) {
        let keys: Vec<String> = (0..60).map(|n| format!("k{n}@x.test")).collect();
        let kind = if upsert { WriteKind::Upsert } else { WriteKind::Update };
        let batch = records(kind, &keys.iter().map(String::as_str).collect::<Vec<_>>());
        let (result, _) = write(batch, |_, request| {
            let inputs = inputs(request);
            let named = |fate: i32| -> Vec<&Json> { order.iter().filter(|&&i| fates[i] == fate).map(|&i| &inputs[i]).collect() };
            let results: Vec<Json> = named(0).iter().map(|input| {
                let mut result = json!({ "id": input["id"], "properties": {}, "new": false });
                match (traced, upsert) {
                    (true, _) => result["objectWriteTraceId"] = input["objectWriteTraceId"].clone(),
                    (false, true) => result["properties"]["email"] = input["id"].clone(),
                    (false, false) => {}
                }
                result
            }).collect();
            let grouped = |fate: i32, category: &str| {
                let key = if traced { "objectWriteTraceId" } else { "id" };
                let words: Vec<Json> = named(fate).iter().map(|input| input[key].clone()).collect();
                let context = if traced { json!({ "objectWriteTraceId": words }) } else { json!({ "ids": words }) };
                json!({ "status": "error", "category": category, "message": "no", "context": context })
            };
            let mut errors = vec![grouped(1, "OBJECT_NOT_FOUND"), grouped(2, "VALIDATION_ERROR")];
            errors.retain(|error| !error["context"].as_object().unwrap().values().all(|words| words == &json!([])));
            let mut body = complete(&results);
            body["errors"] = errors.into();
            answer(status, &body)
        });
        let missing = if upsert { "mapping OBJECT_NOT_FOUND" } else { "not_found OBJECT_NOT_FOUND" };
        for (i, said) in told(&result.unwrap()).iter().enumerate() {
            let expected = match fates[i] {
                0 => format!("updated {}", keys[i]),
                1 => missing.to_owned(),
                2 => "validation VALIDATION_ERROR".to_owned(),
                _ => "transient missing_result".to_owned(),
            };
            prop_assert_eq!(said, &expected);
        }
    }
}

#[test]
fn a_retried_batch_is_never_a_silent_no_op() {
    for body in [complete(&[]), json!({ "status": "COMPLETE" }), json!({})] {
        let (result, _) = write(updates(&["1", "2"]), |_, _| answer(200, &body));
        assert_eq!(told(&result.unwrap()), ["transient missing_result"; 2]);
    }
    let (result, _) = write(updates(&["1", "2"]), |_, _| page(200));
    assert_eq!(told(&result.unwrap()), ["internal unreadable_answer"; 2]);
    let (result, log) = write(updates(&["1", "2"]), |_, _| empty(204));
    assert_eq!(told(&result.unwrap()), ["internal undocumented_status"; 2]);
    assert_eq!(log.requests.len(), 1);
}

#[test]
fn errors_inside_errors_name_their_own_records() {
    let errors = json!([{
        "status": "error", "category": "VALIDATION_ERROR", "message": "several",
        "errors": [
            { "message": "no", "code": "INVALID_OPTION", "context": { "objectWriteTraceId": ["1"] } },
            { "message": "gone", "code": "INVALID_OPTION", "context": { "ids": "3" } },
        ],
    }]);
    let (result, _) = write(updates(&["1", "2", "3"]), |_, request| {
        partial(&[echo(&inputs(request)[0])], errors.clone())
    });
    assert_eq!(
        told(&result.unwrap()),
        [
            "updated 1",
            "validation INVALID_OPTION",
            "validation INVALID_OPTION"
        ]
    );
}

#[test]
fn an_error_that_names_no_record_is_isolated() {
    let bad = "7";
    let (result, log) = write(updates(&["1", "2", "3", "7", "5"]), |n, request| {
        let inputs = inputs(request);
        let (bad, good): (Vec<&Json>, Vec<&Json>) =
            inputs.iter().partition(|input| input["id"] == bad);
        let unnamed = json!([{ "status": "error", "category": "VALIDATION_ERROR", "message": "somebody is wrong" }]);
        // At first only one record is taken.
        let taken = if n == 0 { 1 } else { good.len() };
        let results: Vec<Json> = good.into_iter().take(taken).map(echo).collect();
        if bad.is_empty() {
            answer(200, &complete(&results))
        } else {
            partial(&results, unnamed)
        }
    });
    assert_eq!(
        told(&result.unwrap()),
        [
            "updated 1",
            "updated 2",
            "updated 3",
            "validation VALIDATION_ERROR",
            "updated 5"
        ]
    );
    assert!(log.requests.len() <= 5);
}

#[test]
fn a_batch_that_is_not_found_takes_no_record_for_deleted() {
    let body =
        json!({ "status": "error", "category": "OBJECT_NOT_FOUND", "message": "no such thing" });
    let (result, _) = write(updates(&["1", "2"]), |_, _| answer(404, &body));
    assert_eq!(told(&result.unwrap()), ["mapping OBJECT_NOT_FOUND"; 2]);
    let (result, _) = write(updates(&["1"]), |_, _| answer(404, &body));
    assert_eq!(told(&result.unwrap()), ["not_found OBJECT_NOT_FOUND"]);
}

#[test]
fn requests_carry_100_records_and_no_id_twice() {
    let keys: Vec<String> = (0..250)
        .map(|n| n.to_string())
        .chain(["7".to_owned(), "7".to_owned()])
        .collect();
    let batch = updates(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    let mut sizes = Vec::new();
    let (result, _) = write(batch, |_, request| {
        let inputs = inputs(request);
        let distinct: HashSet<_> = inputs
            .iter()
            .map(|input| input["id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(distinct.len(), inputs.len());
        sizes.push(inputs.len());
        take_all(request)
    });
    assert_eq!(sizes, [100, 100, 50, 1, 1]);
    assert!(result.unwrap().iter().all(Result::is_ok));
}

#[test]
fn a_trace_that_was_not_sent_in_this_request_ties_to_nothing() {
    let strangers = [
        json!({ "id": "9", "objectWriteTraceId": "99" }),
        json!({ "id": "1", "objectWriteTraceId": "other" }),
    ];
    let (result, _) = write(updates(&["1", "2"]), |_, _| {
        answer(200, &complete(&strangers))
    });
    assert_eq!(
        told(&result.unwrap()),
        ["updated 1", "transient missing_result"]
    );
}

#[test]
fn an_archive_that_owns_to_errors_is_not_all_done() {
    let errors =
        json!([{ "category": "OBJECT_NOT_FOUND", "message": "gone", "context": { "ids": ["2"] } }]);
    let mut body = json!({ "status": "COMPLETE", "errors": errors, "numErrors": 1 });
    let archive = || records(WriteKind::Delete, &["1", "2"]);
    let (result, _) = write(archive(), |_, _| answer(207, &body));
    assert_eq!(
        told(&result.unwrap()),
        ["updated 1", "not_found OBJECT_NOT_FOUND"]
    );
    body["numErrors"] = json!(2);
    let (result, _) = write(archive(), |_, _| answer(207, &body));
    assert_eq!(
        told(&result.unwrap()),
        ["transient missing_result", "not_found OBJECT_NOT_FOUND"]
    );
}

#[test]
fn keys_are_percent_encoded_in_paths() {
    let (_, log) = write(updates(&["a/b c"]), |_, _| answer(200, &json!({})));
    assert_eq!(
        line(&log.requests[0]),
        "PATCH /crm/v3/objects/contacts/a%2Fb%20c"
    );
}

#[test]
fn a_creation_looks_for_its_records_and_writes_the_others() {
    let mut batch = records(WriteKind::Upsert, &["a@x.test", "B@x.test", "c@x.test"]);
    batch.creates_only = true;
    let (result, log) = write(batch, |n, request| match n {
        0 => {
            let found = json!({ "id": "9", "properties": { "email": "b@x.test" } });
            let missing = json!([{ "category": "OBJECT_NOT_FOUND", "message": "no", "context": { "ids": ["a@x.test", "c@x.test"] } }]);
            partial(&[found], missing)
        }
        _ => {
            let new = |input: &Json| {
                let mut new = echo(input);
                new["id"] = json!("7");
                // One was made in between, and is written over.
                new["new"] = json!(input["id"] != "c@x.test");
                new
            };
            let results: Vec<Json> = inputs(request).iter().map(new).collect();
            answer(200, &complete(&results))
        }
    });
    assert_eq!(
        told(&result.unwrap()),
        ["created 7", "found 9", "updated 7"]
    );
    assert_eq!(
        log.lines(),
        [
            "POST /crm/v3/objects/contacts/batch/read",
            "POST /crm/v3/objects/contacts/batch/upsert"
        ]
    );
    assert_eq!(
        body(&log.requests[0]),
        json!({ "idProperty": "email", "properties": ["email"], "propertiesWithHistory": [],
                "inputs": [{ "id": "a@x.test" }, { "id": "B@x.test" }, { "id": "c@x.test" }] })
    );
    assert_eq!(inputs(&log.requests[1]).len(), 2);
}

#[test]
fn nothing_is_written_where_it_cannot_be_read_which_records_there_are() {
    let mut batch = records(WriteKind::Upsert, &["a@x.test"]);
    batch.creates_only = true;
    let (result, log) = write(batch, |_, _| {
        answer(
            200,
            &complete(&[json!({ "properties": { "email": "a@x.test" } })]),
        )
    });
    assert_eq!(result.unwrap_err().code, "unreadable_answer");
    assert_eq!(log.requests.len(), 1);
}

#[test]
fn an_answer_shows_what_became_of_the_fields_that_were_written() {
    let one = |properties: Json| {
        let (result, _) = write(updates(&["51"]), |_, _| {
            answer(200, &json!({ "id": "51", "properties": properties }))
        });
        let written = result.unwrap().pop().unwrap().unwrap();
        Json::Object(written.shown)
    };
    let shown = json!({ "lastname": "X" });
    let others = json!({ "lastname": "X", "hs_object_id": "51" });
    assert_eq!(one(others.clone()), shown);
    // What is not there, empty or damaged tells nothing.
    for properties in [
        json!(null),
        json!({}),
        json!({ "lastname": null }),
        json!({ "lastname": "\u{fffd}" }),
    ] {
        assert_eq!(one(properties.clone()), json!({}), "{properties}");
    }
    for kind in [WriteKind::Update, WriteKind::Upsert] {
        let (result, _) = write(records(kind, &["51", "52"]), |_, request| {
            let mut results: Vec<Json> = inputs(request).iter().map(echo).collect();
            results[1]["properties"] = others.clone();
            answer(200, &complete(&results))
        });
        let shown = result.unwrap().into_iter();
        let shown = shown.map(|written| Json::Object(written.unwrap().shown));
        assert_eq!(
            shown.collect::<Vec<_>>(),
            [json!({}), json!({ "lastname": "X" })]
        );
    }
}
