//! Reads, and the versions that they give.

use std::time::Duration;

use crm_domain::{DataType, ErrorClass, Failure};
use serde_json::{Value as Json, json};

use super::super::Salesforce;
use super::super::version::Version;
use super::ids;
use crate::scripted_server::{self, Log, answer, body, field, line, page, sf_error, with_header};
use crate::{CrmObject, Guard, Provider, ReadBatch, Request, Response, WriteKind};

type Read = (Result<Vec<Option<CrmObject>>, Failure>, Log);

fn read(
    object: &str,
    ids: &[String],
    for_write: bool,
    answer: impl FnMut(usize, &Request) -> Response,
) -> Read {
    let batch = ReadBatch {
        object: object.to_owned(),
        ids: ids.to_vec(),
        fields: vec![
            field("LastName", DataType::Text),
            field("A B__c", DataType::Text),
        ],
        for_write,
    };
    scripted_server::drive(
        Salesforce.read(&scripted_server::settings(1), batch.into()),
        answer,
    )
}

/// `HH:MM:SS` of the day on which all of this happens.
fn http_date(second: i64) -> String {
    format!("Fri, 02 Jan 2026 03:04:{second:02} GMT")
}

fn record(id: &str, second: i64) -> Json {
    json!({
        "attributes": { "type": "Contact", "url": "/x" }, "Id": id, "LastName": "x",
        "LastModifiedDate": format!("2026-01-02T03:04:{second:02}.000+0000"),
    })
}

/// A row as changed in one second and answered in another.
fn row(modified: i64, date: i64) -> Response {
    let response = answer(200, &record(&ids(1..2)[0], modified));
    let response = with_header(response, "last-modified", &http_date(modified));
    with_header(response, "date", &http_date(date))
}

fn version(found: &Option<CrmObject>) -> Option<Version> {
    let text = found.as_ref().unwrap().version.as_deref()?;
    Some(Version::from_text(text).unwrap())
}

#[test]
fn a_row_of_another_record_does_not_say_that_ours_is_gone() {
    for id in ["Zo\u{fffd}", "003000000000009AAA"] {
        let (found, _) = read("Contact", &ids(1..2), false, |_, _| {
            answer(200, &record(id, 1))
        });
        let failure = found.expect_err("nothing is known of the record");
        assert_eq!(failure.class, ErrorClass::Internal, "{failure:?}");
    }
}

#[test]
fn one_record_is_read_by_its_row() {
    for for_write in [false, true] {
        let (result, log) = read("Contact", &ids(1..2), for_write, |_, _| row(5, 30));
        assert_eq!(
            log.lines(),
            [
                "GET /services/data/v66.0/sobjects/Contact/003000000000001AAA?fields=Id,LastModifiedDate,LastName,A%20B__c"
            ]
        );
        assert!(log.requests[0].repeatable);
        let found = result.unwrap();
        let object = found[0].as_ref().unwrap();
        assert_eq!(
            Json::Object(object.fields.clone()),
            json!({ "LastName": "x" })
        );
        assert_eq!(object.modified_at, Some(1_767_323_045_000));
        let version = version(&found[0]).unwrap();
        assert_eq!((version.date, version.tag), (Some(http_date(5)), None));
    }
}

/// A record changes at second 5. The reads happen as the table says; `waits` are what they took.
#[test]
fn a_version_is_only_given_if_it_protects() {
    for (case, reads, waits, protects) in [
        ("long ago", &[(5, 30)][..], &[][..], true),
        (
            "read in the second of the change",
            &[(5, 5), (5, 6)],
            &[1],
            true,
        ),
        (
            "the answer may be older than its date",
            &[(5, 6), (5, 6)],
            &[],
            true,
        ),
        ("nearly long ago", &[(5, 10), (5, 10)], &[], true),
        (
            "one server's clock is behind another's",
            &[(7, 5), (7, 8)],
            &[3],
            true,
        ),
        (
            "changed again as we waited",
            &[(5, 5), (6, 6), (6, 7)],
            &[1, 1],
            true,
        ),
        (
            "changed all the time",
            &[(5, 5), (6, 6), (7, 7), (8, 8)],
            &[1, 1, 1],
            false,
        ),
        (
            "a date in the future is not waited for",
            &[(50, 5)],
            &[],
            false,
        ),
    ] {
        let (result, log) = read("Contact", &ids(1..2), true, |n, _| {
            row(reads[n].0, reads[n].1)
        });
        assert_eq!(log.requests.len(), reads.len(), "{case}");
        let waited: Vec<u64> = log.waits.iter().map(Duration::as_secs).collect();
        assert_eq!(waited, waits, "{case}");
        let version = version(&result.unwrap()[0]);
        let last = reads[reads.len() - 1].0;
        let expected = protects.then(|| Some(http_date(last)));
        assert_eq!(version.map(|v| v.date), expected, "{case}");
    }
}

#[test]
fn nobody_waits_for_a_read_that_no_write_is_based_on() {
    let (result, log) = read("Contact", &ids(1..2), false, |_, _| row(5, 5));
    assert!(log.waits.is_empty() && log.requests.len() == 1);
    assert_eq!(version(&result.unwrap()[0]), None);
}

#[test]
fn without_a_date_the_second_of_the_change_is_waited_out() {
    let undated = || {
        let mut response = row(5, 5);
        response.headers.retain(|(name, _)| name != "date");
        response
    };
    let (result, log) = read("Contact", &ids(1..2), true, |_, _| undated());
    assert_eq!(log.waits, [Duration::from_secs(1)]);
    assert_eq!(
        version(&result.unwrap()[0]).unwrap().date,
        Some(http_date(5))
    );
}

#[test]
fn an_accounts_tag_protects_at_once() {
    let tagged = |modified, date| with_header(row(modified, date), "etag", "\"h=--gzip\"");
    for (date, expected) in [(5, None), (30, Some(http_date(5)))] {
        let (result, log) = read("Account", &ids(1..2), true, |_, _| tagged(5, date));
        assert!(log.waits.is_empty() && log.requests.len() == 1);
        let version = version(&result.unwrap()[0]).unwrap();
        assert_eq!(version.date, expected);
        assert_eq!(version.tag.unwrap().etag, "\"h=--gzip\"");
    }
}

#[test]
fn a_tag_that_no_header_holds_is_none() {
    let damaged = with_header(row(5, 30), "etag", "\"h=\u{fffd}\"");
    let (result, _) = read("Account", &ids(1..2), true, |_, _| damaged.clone());
    assert!(version(&result.unwrap()[0]).unwrap().tag.is_none());
}

#[test]
fn of_many_only_those_are_read_again_that_changed_just_now() {
    let three = ids(1..4);
    let at = |seconds: [i64; 3]| {
        three
            .iter()
            .zip(seconds)
            .map(|(id, s)| record(id, s))
            .collect()
    };
    let all: Json = at([1, 28, 30]);
    let dated = |json: &Json, date| with_header(answer(200, json), "date", &http_date(date));
    let (result, log) = read("Contact", &three, true, |n, request| match n {
        0 => dated(&all, 30),
        _ => {
            assert_eq!(body(request)["ids"], json!(three[1..]));
            // The second one is gone meanwhile.
            dated(&json!([null, record(&three[2], 30)]), 31)
        }
    });
    assert_eq!(
        (log.requests.len(), log.waits.as_slice()),
        (2, &[Duration::from_secs(1)][..])
    );
    let found = result.unwrap();
    assert_eq!(version(&found[0]).unwrap().date, Some(http_date(1)));
    assert!(found[1].is_none());
    assert_eq!(version(&found[2]).unwrap().date, Some(http_date(30)));
}

#[test]
fn a_row_that_is_not_found_is_asked_about_before_a_record_is_taken_for_deleted() {
    let not_found = || {
        answer(
            404,
            &sf_error("NOT_FOUND", "The requested resource does not exist"),
        )
    };
    let deleted = || answer(404, &sf_error("ENTITY_IS_DELETED", "entity is deleted"));
    for first in [not_found(), deleted(), page(404)] {
        let (result, log) = read("Contact", &ids(1..2), true, |n, _| match n {
            0 => first.clone(),
            _ => answer(200, &json!([null])),
        });
        assert!(result.unwrap()[0].is_none());
        assert_eq!(
            line(&log.requests[1]),
            "POST /services/data/v66.0/composite/sobjects/Contact"
        );
        // The object, or the path, does not exist at all.
        let (result, _) = read("Contact", &ids(1..2), true, |n, _| match n {
            0 => first.clone(),
            _ => not_found(),
        });
        assert_eq!(result.unwrap_err().class, ErrorClass::Mapping);
    }
    let unknown = answer(400, &sf_error("INVALID_FIELD", "No such column 'A B__c'"));
    let (result, _) = read("Contact", &ids(1..2), true, |_, _| unknown.clone());
    assert_eq!(result.unwrap_err().class, ErrorClass::Mapping);
    let (result, _) = read("Contact", &ids(1..2), true, |_, _| page(200));
    assert_eq!(result.unwrap_err().class, ErrorClass::Internal);
}

#[test]
fn what_a_rows_path_cannot_carry_goes_by_a_collection() {
    let (_, log) = read("Contact", &["a/b".to_owned()], true, |_, _| {
        answer(200, &json!([null]))
    });
    assert_eq!(
        line(&log.requests[0]),
        "POST /services/data/v66.0/composite/sobjects/Contact"
    );
}

#[test]
fn single_updates_alone_are_guarded() {
    for (kind, count, guard) in [
        (WriteKind::Update, 1, Guard::Atomic),
        (WriteKind::Update, 2, Guard::None),
        (WriteKind::Upsert, 1, Guard::None),
        (WriteKind::Delete, 1, Guard::None),
    ] {
        assert_eq!(Salesforce.guard(kind, count), guard);
    }
}
