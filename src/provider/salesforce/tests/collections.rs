//! Batches by sObject Collections.

use std::collections::HashSet;

use crm_domain::failure::Scope;
use crm_domain::{DataType, ErrorClass, Failure, Value};
use serde_json::{Value as Json, json};

use super::super::Salesforce;
use super::{ids, updates, upserts, write};
use crate::scripted_server::{
    self, Answer, answer, batch, body, field, line, page, sf_error, told,
};
use crate::{Provider, ReadBatch, Request, Response, WriteKind};

fn saved(id: &str) -> Json {
    json!({ "id": id, "success": true, "errors": [] })
}

fn refused(code: &str) -> Json {
    json!({ "success": false, "errors": [{ "statusCode": code, "message": "no", "fields": [] }] })
}

/// Answers an update as an org would that has all the records.
fn take_all(request: &Request) -> Response {
    let records = body(request)["records"].as_array().unwrap().clone();
    answer(
        200,
        &records
            .iter()
            .map(|r| saved(r["id"].as_str().unwrap()))
            .collect(),
    )
}

#[test]
fn an_update_sends_what_changed_in_order() {
    let (result, log) = write(updates(&ids(1..4)), |_, request| take_all(request));
    assert_eq!(told(&result.unwrap()).len(), 3);
    assert_eq!(
        log.lines(),
        ["PATCH /services/data/v66.0/composite/sobjects"]
    );
    let record = |n: usize| json!({ "attributes": { "type": "Contact" }, "id": ids(n..n + 1)[0], "LastName": "x" });
    assert_eq!(
        body(&log.requests[0]),
        json!({ "allOrNone": false, "records": [record(1), record(2), record(3)] })
    );
    assert!(
        !log.requests[0]
            .headers
            .iter()
            .any(|(name, _)| *name == "sforce-call-options")
    );
}

#[test]
fn a_delete_names_ids_in_the_query() {
    let batch = batch(
        "Contact",
        WriteKind::Delete,
        "",
        &[("003A", Value::Null), ("003B", Value::Null)],
    );
    let (result, log) = write(batch, |_, _| {
        answer(200, &json!([saved("003A"), refused("ENTITY_IS_DELETED")]))
    });
    assert_eq!(
        told(&result.unwrap()),
        ["updated 003A", "not_found ENTITY_IS_DELETED"]
    );
    assert_eq!(
        log.lines(),
        ["DELETE /services/data/v66.0/composite/sobjects?ids=003A,003B&allOrNone=false"]
    );
}

#[test]
fn a_batchs_partial_success_is_not_dropped_silently() {
    let results = json!([
        saved("003000000000001AAA"),
        refused("STRING_TOO_LONG"),
        saved("003000000000003AAA"),
        null
    ]);
    let (result, _) = write(updates(&ids(1..6)), |_, _| answer(200, &results));
    assert_eq!(
        told(&result.unwrap()),
        [
            "updated 003000000000001AAA",
            "validation STRING_TOO_LONG",
            "updated 003000000000003AAA",
            "transient missing_result",
            "transient missing_result",
        ]
    );
}

#[test]
fn one_duplicate_does_not_fail_the_whole_batch() {
    let results = json!([
        { "id": "003N", "success": true, "errors": [], "created": true },
        refused("DUPLICATE_VALUE"),
        { "id": "003M", "success": true, "errors": [], "created": false },
    ]);
    let (result, log) = write(upserts(&["a", "b", "c"]), |_, _| answer(200, &results));
    assert_eq!(
        told(&result.unwrap()),
        ["created 003N", "conflict DUPLICATE_VALUE", "updated 003M"]
    );
    assert_eq!(
        log.lines(),
        ["PATCH /services/data/v66.0/composite/sobjects/Contact/Ext__c"]
    );
}

#[test]
fn a_success_of_another_record_is_not_believed() {
    let results = json!([saved("003000000000002AAA"), saved("003000000000002")]);
    let (result, _) = write(updates(&ids(1..3)), |_, _| answer(200, &results));
    assert_eq!(
        told(&result.unwrap()),
        ["transient mismatched_result", "updated 003000000000002AAA"]
    );
}

#[test]
fn requests_carry_200_records_and_no_id_twice() {
    let mut all = ids(0..450);
    all.push(all[7].clone());
    all.push(all[7][..15].to_owned());
    let mut sizes = Vec::new();
    let (result, _) = write(updates(&all), |_, request| {
        let records = body(request)["records"].as_array().unwrap().clone();
        let distinct: HashSet<_> = records
            .iter()
            .map(|r| r["id"].as_str().unwrap()[..15].to_owned())
            .collect();
        assert_eq!(distinct.len(), records.len());
        sizes.push(records.len());
        take_all(request)
    });
    assert_eq!(sizes, [200, 200, 50, 1, 1]);
    assert!(result.unwrap().iter().all(Result::is_ok));
}

#[test]
fn an_unknown_object_takes_no_record_for_deleted() {
    let refusal = answer(
        404,
        &sf_error("NOT_FOUND", "The requested resource does not exist"),
    );
    let (result, _) = write(updates(&ids(0..10)), |_, _| refusal.clone());
    assert_eq!(result.unwrap_err().class, ErrorClass::Mapping);
}

#[test]
fn a_later_refusal_neither_loses_what_was_written_nor_condemns_the_innocent() {
    let bad = ids(333..334).remove(0);
    let (result, log) = write(updates(&ids(0..400)), |_, request| {
        let body = String::from_utf8(request.body.clone()).unwrap();
        if body.contains(&bad) {
            answer(400, &sf_error("JSON_PARSER_ERROR", "at [1:10]"))
        } else {
            take_all(request)
        }
    });
    let outcomes = result.unwrap();
    let failed: Vec<usize> = (0..400).filter(|&i| outcomes[i].is_err()).collect();
    assert_eq!(failed, [333]);
    assert!(log.requests.len() < 25);
}

#[test]
fn when_service_ends_midway_the_rest_waits_and_is_not_sent() {
    let (result, log) = write(updates(&ids(0..500)), |n, request| {
        if n == 0 { take_all(request) } else { page(503) }
    });
    let outcomes = result.unwrap();
    assert!(outcomes[..200].iter().all(Result::is_ok));
    let waits = |outcome: &Result<_, Failure>| matches!(outcome, Err(f) if f.class == ErrorClass::Transient && f.scope == Scope::Connection);
    assert!(outcomes[200..].iter().all(waits));
    assert_eq!(log.requests.len(), 2);
}

#[test]
fn a_lost_answer_keeps_what_earlier_answers_said() {
    let lost = || Failure::connection(ErrorClass::Transient, "timeout", "no answer");
    let (result, _) = write(updates(&ids(0..300)), |n, request| match n {
        0 => Answer::Http(take_all(request)),
        _ => Answer::Lost(lost()),
    });
    let outcomes = result.unwrap();
    assert!(outcomes[..200].iter().all(Result::is_ok));
    assert!(
        outcomes[200..]
            .iter()
            .all(|outcome| outcome == &Err(lost()))
    );
    let (result, _) = write(updates(&ids(0..300)), |_, _| Answer::Lost(lost()));
    assert_eq!(result.unwrap_err(), lost());
}

#[test]
fn a_page_in_place_of_results_is_told_as_internal() {
    let (result, _) = write(updates(&ids(0..3)), |_, _| page(200));
    for outcome in result.unwrap() {
        let failure = outcome.unwrap_err();
        assert_eq!(
            (failure.class, failure.scope),
            (ErrorClass::Internal, Scope::Records)
        );
        assert!(!failure.message.contains("html"));
    }
}

#[test]
fn reads_tell_records_by_id_and_missing_ones_apart() {
    let asked = [
        "003000000000001AAA",
        "003000000000002",
        "003000000000003AAA",
        "003000000000001AAA",
    ];
    let batch = ReadBatch {
        object: "Contact".to_owned(),
        ids: asked.map(str::to_owned).to_vec(),
        fields: vec![
            field("LastName", DataType::Text),
            field("AMOUNT__c", DataType::Number),
        ],
        ..ReadBatch::default()
    };
    let record = |id: &str, amount: Json| {
        json!({
            "attributes": { "type": "Contact", "url": "/x" }, "Id": id, "LastName": "x", "Amount__c": amount,
            "LastModifiedDate": "2026-01-02T03:04:05.000+0000",
        })
    };
    // Neither order nor nulls for missing records are promised.
    for results in [
        json!([
            record("003000000000001AAA", json!(100.0)),
            record("003000000000002AAA", json!(null)),
            null
        ]),
        json!([
            record("003000000000002AAA", json!(null)),
            record("003000000000001AAA", json!(100.0))
        ]),
    ] {
        let operation = Salesforce.read(&scripted_server::settings(1), batch.clone().into());
        let (result, log) = scripted_server::drive(operation, |_, _| answer(200, &results));
        let found = result.unwrap();
        assert_eq!(
            line(&log.requests[0]),
            "POST /services/data/v66.0/composite/sobjects/Contact"
        );
        let fields = json!(["Id", "LastModifiedDate", "LastName", "AMOUNT__c"]);
        assert_eq!(
            body(&log.requests[0]),
            json!({ "ids": asked, "fields": fields })
        );
        assert!(log.requests[0].repeatable);
        let first = found[0].as_ref().unwrap();
        assert_eq!(
            Json::Object(first.fields.clone()),
            json!({ "LastName": "x", "AMOUNT__c": 100.0 })
        );
        assert_eq!(first.modified_at, Some(1_767_323_045_000));
        assert_eq!(found[1].as_ref().unwrap().crm_id, "003000000000002AAA");
        assert!(found[2].is_none());
        assert!(found[3].is_some());
    }
}

#[test]
fn a_creation_looks_for_its_records_and_writes_the_others() {
    let mut batch = upserts(&["K 1", "O'K", "K3"]);
    batch.creates_only = true;
    let (result, log) = write(batch, |n, _| match n {
        0 => answer(
            200,
            &json!({ "totalSize": 1, "done": true, "records": [{ "Id": ids(9..10)[0], "Ext__c": "o'k" }] }),
        ),
        _ => {
            let made = |n: usize| json!({ "id": ids(n..n + 1)[0], "success": true, "created": true, "errors": [] });
            answer(200, &json!([made(1), made(3)]))
        }
    });
    let made = |verb: &str, n: usize| format!("{verb} {}", ids(n..n + 1)[0]);
    assert_eq!(
        told(&result.unwrap()),
        [made("created", 1), made("found", 9), made("created", 3)]
    );
    let query = "SELECT%20Id%2CExt__c%20FROM%20Contact%20WHERE%20Ext__c%20IN%20%28%27K%201%27%2C%27O%5C%27K%27%2C%27K3%27%29";
    assert_eq!(
        log.lines(),
        [
            format!("GET /services/data/v66.0/query?q={query}"),
            "PATCH /services/data/v66.0/composite/sobjects/Contact/Ext__c".to_owned()
        ]
    );
}

#[test]
fn keys_that_are_numbers_are_looked_for_as_numbers() {
    let mut batch = upserts(&["1", "2"]);
    batch.creates_only = true;
    let (result, log) = write(batch, |n, _| match n {
        0 => answer(
            400,
            &sf_error(
                "INVALID_FIELD",
                "filter criterion for field 'Ext__c' must be of type double and should not be enclosed in quotes",
            ),
        ),
        _ => {
            let record = |n: usize| json!({ "Id": ids(n..n + 1)[0], "Ext__c": n as f64 });
            answer(
                200,
                &json!({ "done": true, "records": [record(1), record(2)] }),
            )
        }
    });
    assert_eq!(told(&result.unwrap()).len(), 2);
    assert!(
        log.lines()[1].ends_with("IN%20%281%2C2%29"),
        "{:?}",
        log.lines()
    );
    assert_eq!(log.requests.len(), 2);
}

#[test]
fn as_many_keys_are_looked_for_at_once_as_an_address_has_room_for() {
    let keys: Vec<String> = (0..900)
        .map(|n| format!("a key of some length {n:06}"))
        .collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let mut batch = upserts(&keys);
    batch.creates_only = true;
    let (_, log) = write(batch, |_, request| match line(request).starts_with("GET") {
        true => answer(200, &json!({ "done": true, "records": [] })),
        false => answer(200, &json!([])),
    });
    let lines = log.lines();
    let looks: Vec<&String> = lines
        .iter()
        .filter(|line| line.starts_with("GET"))
        .collect();
    assert!(looks.iter().all(|line| line.len() < 12_000));
    let named: usize = looks
        .iter()
        .map(|line| line.matches("%27a%20key").count())
        .sum();
    assert_eq!(named, 900);
}
