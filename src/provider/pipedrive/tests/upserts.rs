//! Records that are looked for before they are created, so that a create that is sent again makes
//! no twin.

use std::sync::Arc;

use crm_domain::{ErrorClass, Failure, Value};
use serde_json::{Value as Json, json};

use super::super::Pipedrive;
use super::{KEY, data, list, not_found};
use crate::outcomes::Outcome;
use crate::scripted_server::{Answer, Log, batch, body, drive, line, settings, told, with_header};
use crate::{Method, Provider, Request, Response, WriteBatch, WriteKind};

const NOW: &str = "Fri, 02 Jan 2026 03:04:05 GMT";
const NEWEST: &str = "GET /api/v2/deals?limit=500&sort_by=id&sort_direction=desc";

fn upsert(object: &str, field: &str, keys: &[&str]) -> WriteBatch {
    let records: Vec<_> = keys.iter().map(|key| (*key, Value::text("Acme"))).collect();
    WriteBatch {
        external_id_field: Some(field.to_owned()),
        ..batch(object, WriteKind::Upsert, "title", &records)
    }
}

fn run<A: Into<Answer>>(
    batch: WriteBatch,
    answer: impl FnMut(usize, &Request) -> A,
) -> (Result<Vec<Outcome>, Failure>, Log) {
    drive(Pipedrive.write(&settings(1), Arc::new(batch)), answer)
}

fn dated(response: Response) -> Response {
    with_header(response, "date", NOW)
}

/// A deal with a key, last changed so many seconds before now.
fn deal(id: u64, key: &str, seconds: i64) -> Json {
    let at = Value::timestamp_ms(1_767_323_045_000 - seconds * 1000).to_json();
    json!({ "id": id, "update_time": at, "custom_fields": { KEY: key } })
}

fn search(key: &str) -> String {
    format!(
        "GET /api/v2/itemSearch/field?entity_type=deal&field={KEY}&match=exact&term={key}&limit=100"
    )
}

/// A CRM that holds `recent` in its list, and finds `found` by a search.
fn crm(recent: Json, found: Json) -> impl Fn(&Request) -> Response {
    move |request: &Request| {
        let line = line(request);
        match request.method {
            Method::Get if line.contains("itemSearch") => list(found.clone(), None),
            Method::Get if line.contains("sort_by=id") => dated(list(recent.clone(), None)),
            Method::Get => {
                let id: u64 = line.rsplit('/').next().unwrap().parse().unwrap();
                data(deal(id, "K 1", 9000))
            }
            Method::Post => data(json!({ "id": 99 })),
            _ => data(json!({ "id": line.rsplit('/').next().unwrap().parse::<u64>().unwrap() })),
        }
    }
}

#[test]
fn what_is_nowhere_is_created_with_its_key() {
    let crm = crm(json!([deal(7, "other", 10)]), json!([]));
    let (result, log) = run(upsert("deals", KEY, &["K 1"]), |_, request| crm(request));
    assert_eq!(told(&result.unwrap()), ["created 99"]);
    assert_eq!(
        log.lines(),
        [NEWEST, &search("K%201"), "POST /api/v2/deals"]
    );
    assert_eq!(
        body(&log.requests[2]),
        json!({ "title": "Acme", "custom_fields": { KEY: "K 1" } })
    );
    assert!(!log.requests[2].repeatable);
}

#[test]
fn what_was_created_lately_is_found_though_the_search_is_behind() {
    let crm = crm(json!([deal(8, "x", 1), deal(7, "K 1", 10)]), json!([]));
    let (result, log) = run(upsert("deals", KEY, &["K 1"]), |_, request| crm(request));
    assert_eq!(told(&result.unwrap()), ["updated 7"]);
    assert_eq!(log.lines(), [NEWEST, "PATCH /api/v2/deals/7"]);
    // The key travels with creations alone.
    assert_eq!(body(&log.requests[1]), json!({ "title": "Acme" }));
}

#[test]
fn what_the_search_finds_is_read_before_it_is_believed() {
    for found in [
        json!([{ "id": 5, KEY: "K 1" }]),
        json!([{ "result_score": 1, "item": { "id": 5 } }]),
    ] {
        let crm = crm(json!([]), found);
        let (result, log) = run(upsert("deals", KEY, &["K 1"]), |_, request| crm(request));
        assert_eq!(told(&result.unwrap()), ["updated 5"]);
        assert_eq!(
            log.lines()[2..],
            ["GET /api/v2/deals/5", "PATCH /api/v2/deals/5"]
        );
    }
    // The index is behind: the record has another key by now, is deleted, or gone.
    for held in [
        data(deal(5, "K 2", 9000)),
        data(json!({ "id": 5, "is_deleted": true, "custom_fields": { KEY: "K 1" } })),
        not_found(),
    ] {
        let crm = crm(json!([]), json!([{ "id": 5 }]));
        let (result, log) = run(upsert("deals", KEY, &["K 1"]), |_, request| {
            match line(request).ends_with("deals/5") {
                true => held.clone(),
                false => crm(request),
            }
        });
        assert_eq!(told(&result.unwrap()), ["created 99"]);
        assert_eq!(log.requests.len(), 4);
    }
}

#[test]
fn two_records_with_one_key_are_not_chosen_between() {
    let both = crm(json!([deal(8, "K 1", 1), deal(7, "K 1", 10)]), json!([]));
    let found = crm(json!([]), json!([{ "id": 5 }, { "id": 6 }]));
    for crm in [&both as &dyn Fn(&Request) -> Response, &found] {
        let (result, log) = run(upsert("deals", KEY, &["K 1"]), |_, request| crm(request));
        assert_eq!(told(&result.unwrap()), ["conflict duplicate_external_id"]);
        assert!(
            log.requests
                .iter()
                .all(|request| request.method == Method::Get)
        );
    }
}

#[test]
fn the_list_is_read_back_as_far_as_the_search_may_be_behind() {
    let pages = |n: usize| match n {
        0 => dated(list(
            json!([deal(9, "a", 1), deal(8, "b", 100)]),
            Some("c1"),
        )),
        1 => dated(list(
            json!([deal(7, "c", 2), deal(6, "d", 121)]),
            Some("c2"),
        )),
        2 => list(json!([]), None),
        _ => data(json!({ "id": 99 })),
    };
    let (result, log) = run(upsert("deals", KEY, &["K"]), |n, _| pages(n));
    assert_eq!(told(&result.unwrap()), ["created 99"]);
    assert_eq!(
        log.lines()[..3],
        [
            NEWEST.to_owned(),
            format!("{NEWEST}&cursor=c1"),
            search("K")
        ]
    );
}

#[test]
fn the_records_of_a_batch_share_one_look() {
    let crm = crm(json!([deal(7, "K2", 10)]), json!([]));
    let (result, log) = run(upsert("deals", KEY, &["K1", "K2", "K3"]), |_, r| crm(r));
    assert_eq!(
        told(&result.unwrap()),
        ["created 99", "updated 7", "created 99"]
    );
    let recent = log.lines().iter().filter(|line| *line == NEWEST).count();
    assert_eq!((recent, log.requests.len()), (1, 7));
}

#[test]
fn a_key_that_comes_twice_updates_what_it_created() {
    let crm = crm(json!([]), json!([]));
    let (result, log) = run(upsert("deals", KEY, &["K", "K"]), |_, request| crm(request));
    assert_eq!(told(&result.unwrap()), ["created 99", "updated 99"]);
    let posts = log
        .requests
        .iter()
        .filter(|r| r.method == Method::Post)
        .count();
    assert_eq!(posts, 1);
}

/// A CRM whose search never learns anything.
#[test]
fn a_create_whose_answer_was_lost_makes_no_twin() {
    let mut held: Vec<Json> = Vec::new();
    let mut posts = 0;
    for _ in 0..5 {
        let (result, _) = run(upsert("deals", KEY, &["K"]), |_, request| {
            let line = line(request);
            if request.method == Method::Post {
                posts += 1;
                held.push(deal(99, "K", 0));
                let lost = Failure::connection(ErrorClass::Transient, "timeout", "no answer");
                return Answer::Lost(lost);
            }
            Answer::Http(match () {
                () if line == NEWEST => dated(list(held.clone().into(), None)),
                () if line.contains("itemSearch") => list(json!([]), None),
                () => data(json!({ "id": 99 })),
            })
        });
        match result {
            Ok(outcomes) => assert_eq!(told(&outcomes), ["updated 99"]),
            Err(failure) => assert_eq!(failure.code, "timeout"),
        }
    }
    assert_eq!((posts, held.len()), (1, 1));
}

#[test]
fn a_record_that_vanishes_in_between_is_tried_again() {
    let crm = crm(json!([deal(7, "K", 10)]), json!([]));
    let (result, _) = run(upsert("deals", KEY, &["K"]), |_, request| {
        match request.method {
            Method::Patch => not_found(),
            _ => crm(request),
        }
    });
    assert_eq!(told(&result.unwrap()), ["transient http_404"]);
}

#[test]
fn keys_lie_in_fields_that_are_searched() {
    for (object, field, is_taken) in [
        ("deals", KEY, true),
        ("products", "code", true),
        ("persons", "external", false),
        ("persons", "code", false),
        ("notes", KEY, false),
        ("activities", KEY, false),
    ] {
        let (result, log) = run(upsert(object, field, &["K"]), |_, _| {
            Answer::Lost(Failure::connection(ErrorClass::Transient, "timeout", ""))
        });
        let code = result.unwrap_err().code;
        let expected = if is_taken {
            "timeout"
        } else {
            "external_id_not_searchable"
        };
        assert_eq!(
            (code.as_str(), log.requests.len()),
            (expected, usize::from(is_taken))
        );
    }
}

#[test]
fn leads_are_looked_for_by_the_time_they_were_added() {
    let (_, log) = run(upsert("leads", KEY, &["K"]), |n, _| match n {
        0 => dated(list(json!([]), None)),
        1 => list(json!([]), None),
        _ => data(json!({ "id": "adf21080-0e10-11eb-879b-05d71fb426ec" })),
    });
    assert_eq!(
        log.lines()[0],
        "GET /api/v1/leads?limit=500&sort=add_time%20DESC"
    );
    assert!(log.lines()[1].contains("entity_type=lead"));
    assert_eq!(body(&log.requests[2]), json!({ "title": "Acme", KEY: "K" }));
}

#[test]
fn a_creation_spares_records_that_are_there() {
    let mut batch = upsert("deals", KEY, &["K 1"]);
    batch.creates_only = true;
    let crm = crm(json!([]), json!([{ "item": { "id": 5 } }]));
    let (result, log) = run(batch.clone(), |_, request| crm(request));
    assert_eq!(told(&result.unwrap()), ["found 5"]);
    assert!(
        log.lines().iter().all(|line| line.starts_with("GET")),
        "{:?}",
        log.lines()
    );
    // What was created lately is not searched for.
    let recent = self::crm(json!([deal(6, "K 1", 5)]), json!([]));
    let (result, log) = run(batch, |_, request| recent(request));
    assert_eq!(told(&result.unwrap()), ["found 6"]);
    assert_eq!(log.lines(), [NEWEST]);
}
