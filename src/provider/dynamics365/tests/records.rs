//! Writes: what is sent for each kind, and what becomes of each record.

use std::sync::Arc;

use crm_domain::{DataType, ErrorClass, Failure, Value};

use super::super::Dynamics365;
use super::*;
use crate::outcomes::Outcome;
use crate::scripted_server::{Log, batch, body, drive, field, page, settings, told};
use crate::{Guard, Provider, WriteBatch, WriteKind};

fn write(
    batch: WriteBatch,
    answer: impl FnMut(usize, &Request) -> Response,
) -> (Result<Vec<Outcome>, Failure>, Log) {
    drive(Dynamics365.write(&settings(1), Arc::new(batch)), answer)
}

fn people(kind: WriteKind, keys: &[&str]) -> WriteBatch {
    let records: Vec<_> = keys.iter().map(|key| (*key, Value::text("x"))).collect();
    batch("contacts", kind, "lastname", &records)
}

fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    let mut found = request.headers.iter().filter(|(held, _)| *held == name);
    found.next().map(|(_, value)| value.as_str())
}

fn saved(status: u16, id: &str) -> Response {
    let row = json!({ "@odata.context": "x", "@odata.etag": "W/\"1\"", "Ext__c": A, "contactid": id,
                      "_owningbusinessunit_value": B });
    answer(status, &row)
}

#[test]
fn an_update_never_creates() {
    let (result, log) = write(people(WriteKind::Update, &[A]), |_, _| done(A));
    assert_eq!(told(&result.unwrap()), [format!("updated {A}")]);
    assert_eq!(log.lines(), [format!("PATCH /api/data/v9.2/contacts({A})")]);
    assert_eq!(header(&log.requests[0], "if-match"), Some("*"));
    assert_eq!(body(&log.requests[0]), json!({ "lastname": "x" }));
    let mut bound = people(WriteKind::Update, &[A, B]);
    bound.records[1].unless_changed = Some("W/\"7\"".to_owned());
    let (result, log) = write(bound, |_, _| {
        let stale = answer(412, &error("0x80060882", "The version doesn't match."));
        batched(200, &[done(A), stale])
    });
    let outcomes = result.unwrap();
    assert_eq!(
        told(&outcomes),
        [format!("updated {A}"), "conflict stale".to_owned()]
    );
    assert!(outcomes[1].as_ref().unwrap_err().is_stale());
    let parts = parts(&log.requests[0]);
    assert!(parts[0].1.contains("if-match: *\r\n"));
    assert!(parts[1].1.contains("if-match: W/\"7\"\r\n"));
    assert_eq!(parts[1].2, r#"{"lastname":"x"}"#);
}

#[test]
fn an_upsert_goes_by_the_alternate_key() {
    let mut one = people(WriteKind::Upsert, &["O'Brien 1"]);
    let key = (field("Ext__c", DataType::Text), Value::text("another"));
    one.records[0].fields.push(key);
    let (result, log) = write(one, |_, _| saved(201, B));
    assert_eq!(told(&result.unwrap()), [format!("created {B}")]);
    assert_eq!(
        log.lines(),
        ["PATCH /api/data/v9.2/contacts(Ext__c=%27O%27%27Brien%201%27)?$select=Ext__c"]
    );
    assert_eq!(header(&log.requests[0], "if-match"), None);
    assert_eq!(
        header(&log.requests[0], "prefer"),
        Some("return=representation")
    );
    assert_eq!(body(&log.requests[0]), json!({ "lastname": "x" }));
    let (result, log) = write(people(WriteKind::Upsert, &["K1", "K2", "K3"]), |_, _| {
        let by_key = "https://x/api/data/v9.2/contacts(Ext__c='K2')";
        let unnamed = with_header(empty(204), "odata-entityid", by_key);
        batched(200, &[saved(201, A), unnamed, saved(200, C)])
    });
    assert_eq!(log.lines(), ["POST /api/data/v9.2/$batch"]);
    assert_eq!(
        told(&result.unwrap()),
        [
            format!("created {A}"),
            "internal missing_id".to_owned(),
            format!("updated {C}")
        ]
    );
}

#[test]
fn a_key_that_cannot_be_addressed_is_not_sent() {
    let keys = ["a/b", "K2", "50%", "a#b", "a\nb"];
    let (result, log) = write(people(WriteKind::Upsert, &keys), |_, _| saved(200, B));
    assert_eq!(log.requests.len(), 1);
    assert!(log.lines()[0].contains("K2"));
    let refused = "validation key_not_addressable";
    assert_eq!(
        told(&result.unwrap()),
        [refused, &format!("updated {B}"), refused, refused, refused]
    );
    let (result, log) = write(people(WriteKind::Upsert, &["a/b"]), |_, _| saved(200, B));
    assert_eq!(
        (told(&result.unwrap()), log.requests.len()),
        (vec![refused.to_owned()], 0)
    );
}

#[test]
fn a_deletion_may_be_bound_too() {
    let mut some = people(WriteKind::Delete, &[A, B]);
    some.records[1].unless_changed = Some("W/\"7\"".to_owned());
    let (result, log) = write(some, |_, _| batched(200, &[empty(204), missing(B)]));
    assert_eq!(
        told(&result.unwrap()),
        [format!("updated {A}"), "not_found 0x80040217".to_owned()]
    );
    let parts = parts(&log.requests[0]);
    assert_eq!(
        parts[0].0,
        format!("DELETE /api/data/v9.2/contacts({A}) HTTP/1.1")
    );
    assert!(!parts[0].1.contains("if-match"));
    assert!(parts[1].1.contains("if-match: W/\"7\""));
    for (kind, guard) in [
        (WriteKind::Update, Guard::Atomic),
        (WriteKind::Delete, Guard::Atomic),
        (WriteKind::Upsert, Guard::None),
    ] {
        assert_eq!(Dynamics365.guard(kind, 1), guard);
        assert_eq!(Dynamics365.guard(kind, 500), guard);
    }
}

#[test]
fn a_lookup_names_its_table() {
    let mut one = people(WriteKind::Update, &[A]);
    one.records[0].fields = vec![
        (
            field(
                "parentcustomerid/parentcustomerid_account/accounts",
                DataType::Reference,
            ),
            Value::text(&format!("{{{}}}", B.to_uppercase())),
        ),
        (
            field("primarycontactid/contacts", DataType::Reference),
            Value::Null,
        ),
    ];
    let (_, log) = write(one.clone(), |_, _| done(A));
    assert_eq!(
        body(&log.requests[0]),
        json!({
            "parentcustomerid_account@odata.bind": format!("/accounts({B})"),
            "primarycontactid@odata.bind": null,
        })
    );
    one.records[0].fields[0].0 = field("parentcustomerid", DataType::Reference);
    let (result, log) = write(one, |_, _| done(A));
    assert_eq!(told(&result.unwrap()), ["mapping lookup_without_table"]);
    assert!(log.requests.is_empty());
}

#[test]
fn a_row_that_a_lookup_misses_is_not_the_record() {
    let ask = |with_lookup: bool, answered: Response| {
        let mut one = people(WriteKind::Update, &[A]);
        if with_lookup {
            let lookup = field("primarycontactid/contacts", DataType::Reference);
            one.records[0].fields = vec![(lookup, Value::text(B))];
        }
        told(&write(one, |_, _| answered.clone()).0.unwrap())
    };
    assert_eq!(ask(true, missing(A)), ["not_found 0x80040217"]);
    assert_eq!(
        ask(false, missing(&A.to_uppercase())),
        ["not_found 0x80040217"]
    );
    assert_eq!(ask(true, missing(B)), ["mapping 0x80040217"]);
    let silent = answer(404, &error("0x80040217", "does not exist"));
    assert_eq!(ask(false, silent.clone()), ["not_found 0x80040217"]);
    assert_eq!(ask(true, silent), ["mapping 0x80040217"]);
}

#[test]
fn answers_are_tied_to_records_by_their_order() {
    let (result, _) = write(people(WriteKind::Update, &[A, B, C]), |_, _| {
        batched(400, &[done(A), done(A)])
    });
    assert_eq!(
        told(&result.unwrap()),
        [
            format!("updated {A}"),
            "transient mismatched_result".to_owned(),
            "transient missing_result".to_owned(),
        ]
    );
    let limited = || answer(429, &error("0x80072322", "Number of requests exceeded"));
    let (result, _) = write(people(WriteKind::Update, &[A, B]), |_, _| {
        batched(200, &[done(A), with_header(limited(), "retry-after", "7")])
    });
    let outcomes = result.unwrap();
    let failure = outcomes[1].as_ref().unwrap_err();
    assert_eq!(
        (failure.class, failure.retry_after.unwrap().as_secs()),
        (ErrorClass::RateLimited, 7)
    );
}

#[test]
fn a_page_of_somebody_elses_is_no_success() {
    for kind in [WriteKind::Update, WriteKind::Upsert, WriteKind::Delete] {
        let expected = match kind {
            WriteKind::Upsert => "internal unreadable_answer",
            _ => "internal undocumented_status",
        };
        let (result, _) = write(people(kind, &[A]), |_, _| page(200));
        assert_eq!(told(&result.unwrap()), [expected]);
        let (result, _) = write(people(kind, &[A, B]), |_, _| {
            batched(200, &[page(200), page(200)])
        });
        assert_eq!(told(&result.unwrap()), [expected; 2]);
    }
}

#[test]
fn a_refused_batch_says_nothing_of_records() {
    let ask = |answered: Response| {
        write(people(WriteKind::Update, &[A, B]), |_, _| answered.clone())
            .0
            .unwrap_err()
            .class
    };
    assert_eq!(ask(answer(401, &error("", "x"))), ErrorClass::Auth);
    assert_eq!(
        ask(answer(429, &error("0x80072326", "x"))),
        ErrorClass::RateLimited
    );
    assert_eq!(ask(page(502)), ErrorClass::Transient);
    let (result, log) = write(people(WriteKind::Update, &[A, B]), |_, _| {
        answer(200, &json!({}))
    });
    assert_eq!(told(&result.unwrap()), ["internal unreadable_answer"; 2]);
    assert_eq!(log.requests.len(), 1);
}

#[test]
fn batches_are_of_100_and_no_key_comes_twice_in_one() {
    assert_eq!(
        Dynamics365.write_size(&settings(1), WriteKind::Update, 5000),
        100
    );
    let ids: Vec<String> = (0..130)
        .map(|n| format!("0a000000-0000-4000-8000-{n:012}"))
        .collect();
    let mut ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    ids[129] = ids[0];
    let (result, log) = write(
        people(WriteKind::Update, &ids),
        |_, request| match request.method {
            crate::Method::Post => {
                let answers: Vec<Response> = parts(request).iter().map(|_| empty(204)).collect();
                batched(200, &answers)
            }
            _ => empty(204),
        },
    );
    assert!(result.unwrap().iter().all(Result::is_ok));
    let size = |request: &Request| match request.method {
        crate::Method::Post => parts(request).len(),
        _ => 1,
    };
    let sizes: Vec<usize> = log.requests.iter().map(size).collect();
    assert_eq!(sizes, [100, 29, 1]);
}

#[test]
fn a_creation_spares_records_that_are_there() {
    let there = || {
        answer(
            412,
            &error(
                "0x80040237",
                "A record with matching key values already exists.",
            ),
        )
    };
    let mut one = people(WriteKind::Upsert, &["K1"]);
    one.creates_only = true;
    let (result, log) = write(one, |n, _| match n {
        0 => there(),
        _ => saved(200, B),
    });
    assert_eq!(told(&result.unwrap()), [format!("found {B}")]);
    assert_eq!(header(&log.requests[0], "if-none-match"), Some("*"));
    assert_eq!(
        log.lines()[1],
        "GET /api/data/v9.2/contacts(Ext__c=%27K1%27)?$select=Ext__c"
    );
    let mut several = people(WriteKind::Upsert, &["K1", "K2", "K3"]);
    several.creates_only = true;
    let (result, log) = write(several, |n, _| match n {
        0 => batched(200, &[there(), saved(201, A), there()]),
        _ => {
            let gone = answer(
                404,
                &error(
                    "0x80060891",
                    "A record with the specified key values does not exist",
                ),
            );
            batched(200, &[saved(200, B), gone])
        }
    });
    assert_eq!(
        told(&result.unwrap()),
        [
            format!("found {B}"),
            format!("created {A}"),
            "transient 0x80060891".to_owned()
        ]
    );
    assert_eq!(log.requests.len(), 2);
    assert!(
        parts(&log.requests[0])
            .iter()
            .all(|part| part.1.contains("if-none-match: *\r\n"))
    );
}
