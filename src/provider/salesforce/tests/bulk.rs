//! A bulk job's whole conversation, step by step, and everything that can go wrong in it.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use crm_domain::failure::Scope;
use crm_domain::{DataType, ErrorClass, Failure, Value};
use proptest::prelude::*;
use serde_json::json;

use super::super::csv_rows::{LIMITS, Limits, build};
use super::{ids, updates, upserts, write_above};
use crate::scripted_server::{
    Answer, answer, batch, body, empty, field, line, page, sf_error, told,
};
use crate::{Request, Response, WriteBatch, WriteKind};

const JOB: &str = "/services/data/v66.0/jobs/ingest/750J";

fn csv(body: &str) -> Response {
    Response {
        body: body.as_bytes().to_vec(),
        ..empty(200)
    }
}

/// A job that does what it is asked and answers with these result files.
struct Job<'a> {
    states: RefCell<Vec<&'a str>>,
    error: &'a str,
    successful: String,
    failed: String,
    unprocessed: String,
}

impl<'a> Job<'a> {
    fn new(successful: &str, failed: &str, unprocessed: &str) -> Job<'a> {
        Job {
            states: RefCell::new(vec!["JobComplete", "InProgress", "UploadComplete"]),
            error: "",
            successful: successful.to_owned(),
            failed: failed.to_owned(),
            unprocessed: unprocessed.to_owned(),
        }
    }

    fn ends(self, state: &'a str, error: &'a str) -> Job<'a> {
        Job {
            states: RefCell::new(vec![state]),
            error,
            ..self
        }
    }

    fn answer(&self, request: &Request) -> Response {
        let line = line(request);
        let (method, path) = line.split_once(' ').unwrap();
        match (method, path.strip_prefix(JOB)) {
            ("POST", None) if path.ends_with("/jobs/ingest") => {
                answer(200, &json!({ "id": "750J", "state": "Open" }))
            }
            ("PUT", Some("/batches")) => empty(201),
            ("PATCH", Some("")) => answer(200, &json!({ "id": "750J" })),
            ("GET", Some("")) => {
                let mut states = self.states.borrow_mut();
                let state = if states.len() > 1 {
                    states.pop().unwrap()
                } else {
                    states[0]
                };
                answer(
                    200,
                    &json!({ "id": "750J", "state": state, "errorMessage": self.error }),
                )
            }
            ("GET", Some("/successfulResults/")) => csv(&self.successful),
            ("GET", Some("/failedResults/")) => csv(&self.failed),
            ("GET", Some("/unprocessedrecords/")) => csv(&self.unprocessed),
            ("DELETE", Some("")) => empty(204),
            _ => panic!("{line} belongs to no job"),
        }
    }
}

#[test]
fn a_jobs_conversation_step_by_step() {
    let job = Job::new(
        "\"sf__Id\",\"sf__Created\",\"Ext__c\",\"LastName\"\n\"003C\",\"true\",\"c\",\"x\"\n\"003A\",\"false\",\"a\",\"x\"\n",
        "\"sf__Id\",\"sf__Error\",\"Ext__c\",\"LastName\"\n\"\",\"STRING_TOO_LONG:Last Name: data value too large:LastName --\",\"b\",\"x\"\n",
        "\"Ext__c\",\"LastName\"\n\"d\",\"x\"\n",
    );
    let (result, log) = write_above(2, upserts(&["a", "b", "c", "d", "e"]), |_, request| {
        job.answer(request)
    });
    assert_eq!(
        told(&result.unwrap()),
        [
            "updated 003A",
            "validation STRING_TOO_LONG",
            "created 003C",
            "transient unprocessed",
            "transient missing_result",
        ]
    );
    let at = |below: &str| format!("{JOB}{below}");
    assert_eq!(
        log.lines(),
        [
            "POST /services/data/v66.0/jobs/ingest".to_owned(),
            format!("PUT {}", at("/batches")),
            format!("PATCH {}", at("")),
            format!("GET {}", at("")),
            format!("GET {}", at("")),
            format!("GET {}", at("")),
            format!("GET {}", at("/successfulResults/")),
            format!("GET {}", at("/failedResults/")),
            format!("GET {}", at("/unprocessedrecords/")),
            format!("DELETE {}", at("")),
        ]
    );
    assert_eq!(
        body(&log.requests[0]),
        json!({
            "object": "Contact", "operation": "upsert", "externalIdFieldName": "Ext__c",
            "contentType": "CSV", "lineEnding": "LF", "columnDelimiter": "COMMA",
        })
    );
    assert_eq!(
        str::from_utf8(&log.requests[1].body).unwrap(),
        "Ext__c,LastName\na,x\nb,x\nc,x\nd,x\ne,x\n"
    );
    assert_eq!(body(&log.requests[2]), json!({ "state": "UploadComplete" }));
    assert_eq!(log.waits, [50, 100, 200].map(Duration::from_millis));
    let header = ("sforce-call-options", "client=pg_crm".to_owned());
    assert!(
        log.requests
            .iter()
            .all(|request| request.headers.contains(&header))
    );
}

#[test]
fn waits_grow_to_five_seconds_and_no_further() {
    let job = Job::new("", "", "");
    *job.states.borrow_mut() = [vec!["JobComplete"], vec!["InProgress"; 60]].concat();
    let (_, log) = write_above(2, updates(&ids(0..3)), |_, request| job.answer(request));
    assert_eq!(log.waits.len(), 61);
    assert_eq!(log.waits.last(), Some(&Duration::from_secs(5)));
    assert!(log.waits.is_sorted());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn bulk_results_are_tied_to_their_records_in_any_order(
        order in Just((0..40usize).collect::<Vec<_>>()).prop_shuffle(),
        fates in prop::collection::vec(0..4, 40),
        short in any::<bool>(),
    ) {
        let all = ids(0..40);
        let id = |i: usize| if short { all[i][..15].to_owned() } else { all[i].clone() };
        let mut files = [
            "sf__Id,sf__Created,Id,LastName\n".to_owned(),
            "sf__Id,sf__Error,Id,LastName\n".to_owned(),
            "Id,LastName\n".to_owned(),
        ];
        for &i in &order {
            match fates[i] {
                0 => files[0] += &format!("{0},false,{0},x\n", id(i)),
                1 => files[1] += &format!(",\"UNABLE_TO_LOCK_ROW:record {i}, busy:--\",{},x\n", id(i)),
                2 => files[2] += &format!("{},x\n", id(i)),
                _ => {}
            }
        }
        let job = Job::new(&files[0], &files[1], &files[2]);
        let (result, _) = write_above(2, updates(&all), |_, request| job.answer(request));
        for (i, outcome) in result.unwrap().iter().enumerate() {
            match (fates[i], outcome) {
                (0, Ok(written)) => prop_assert_eq!(&written.crm_id, &all[i]),
                (1, Err(failure)) => prop_assert_eq!(&failure.message, &format!("record {i}, busy")),
                (2, Err(failure)) => prop_assert_eq!(&failure.code, "unprocessed"),
                (3, Err(failure)) => prop_assert_eq!(&failure.code, "missing_result"),
                (fate, outcome) => prop_assert!(false, "record {} of fate {}: {:?}", i, fate, outcome),
            }
        }
    }
}

#[test]
fn rows_of_unknown_records_and_broken_files_settle_nothing() {
    for (successful, failed) in [
        ("sf__Id,sf__Created,Id\n003X,true,003X\n", ""),
        ("<html>", "sf__Error\nSTRING_TOO_LONG:x:--\n"),
        ("", "\u{0}\u{1}"),
        ("sf__Id,sf__Created,Id\n\"003", ""),
    ] {
        let job = Job::new(successful, failed, "");
        let (result, _) = write_above(2, updates(&ids(0..3)), |_, request| job.answer(request));
        assert_eq!(told(&result.unwrap()), ["transient missing_result"; 3]);
    }
}

#[test]
fn a_result_file_that_breaks_off_keeps_the_rows_before_the_break() {
    let job = Job::new(
        "sf__Id,sf__Created,Id\n003000000000001AAA,false,003000000000001AAA\n\"0030000",
        "",
        "",
    );
    let (result, _) = write_above(2, updates(&ids(0..3)), |_, request| job.answer(request));
    assert_eq!(
        told(&result.unwrap()),
        [
            "transient missing_result",
            "updated 003000000000001AAA",
            "transient missing_result"
        ]
    );
}

#[test]
fn a_deletion_job_carries_ids_alone() {
    let records: Vec<_> = ["003A", "003B", "003C"]
        .map(|id| (id, Value::Null))
        .to_vec();
    let job = Job::new(
        "sf__Id,sf__Created,Id\n003C,false,003C\n003A,false,003A\n",
        "sf__Id,sf__Error,Id\n003B,ENTITY_IS_DELETED:entity is deleted:--,003B\n",
        "",
    );
    let (result, log) = write_above(
        2,
        batch("Contact", WriteKind::Delete, "", &records),
        |_, r| job.answer(r),
    );
    assert_eq!(
        told(&result.unwrap()),
        [
            "updated 003A",
            "not_found ENTITY_IS_DELETED",
            "updated 003C"
        ]
    );
    assert_eq!(body(&log.requests[0])["operation"], "delete");
    assert_eq!(log.requests[1].body, b"Id\n003A\n003B\n003C\n");
}

#[test]
fn a_job_that_failed_before_its_first_record_refuses_the_batch() {
    let job = Job::new("", "", "Ext__c,Nope\na,x\nb,x\nc,x\n")
        .ends("Failed", "InvalidBatch : Field name not found : Nope");
    let (result, log) = write_above(2, upserts(&["a", "b", "c"]), |_, request| {
        job.answer(request)
    });
    let failure = result.unwrap_err();
    assert_eq!(
        (failure.class, failure.scope),
        (ErrorClass::Mapping, Scope::Records)
    );
    assert!(failure.message.contains("Field name not found : Nope"));
    assert_eq!(log.lines().last().unwrap(), &format!("DELETE {JOB}"));
}

#[test]
fn rows_done_before_a_job_failed_or_was_aborted_count() {
    for state in ["Failed", "Aborted"] {
        let job = Job::new(
            "sf__Id,sf__Created,Ext__c\n003A,true,a\n",
            "",
            "Ext__c\nb\nc\n",
        )
        .ends(state, "Internal trouble");
        let (result, _) = write_above(2, upserts(&["a", "b", "c"]), |_, request| {
            job.answer(request)
        });
        assert_eq!(
            told(&result.unwrap()),
            [
                "created 003A",
                "transient unprocessed",
                "transient unprocessed"
            ]
        );
    }
}

#[test]
fn what_bulk_cannot_carry_goes_by_collections_afterwards() {
    let long = "x".repeat(131_073);
    let records = [
        ("a", "plain"),
        ("b", "#N/A"),
        ("c", "x"),
        ("d", long.as_str()),
        ("#N/A", "x"),
        ("a", "again"),
    ];
    let records: Vec<_> = records
        .iter()
        .map(|(key, text)| (*key, Value::text(text)))
        .collect();
    let job = Job::new(
        "sf__Id,sf__Created,Ext__c\n003C,true,c\n003A,true,a\n",
        "",
        "",
    );
    let (result, log) = write_above(
        2,
        batch("Contact", WriteKind::Upsert, "Name", &records),
        |_, request| {
            if !line(request).contains("/composite/") {
                return job.answer(request);
            }
            let records = body(request)["records"].as_array().unwrap().clone();
            let saved = |r: &serde_json::Value| json!({ "id": format!("003{}", r["Ext__c"].as_str().unwrap()), "success": true });
            answer(200, &records.iter().map(saved).collect())
        },
    );
    assert_eq!(
        told(&result.unwrap()),
        [
            "created 003A",
            "updated 003b",
            "created 003C",
            "updated 003d",
            "updated 003#N/A",
            "updated 003a"
        ]
    );
    assert_eq!(log.requests[1].body, b"Ext__c,Name\na,plain\nc,x\n");
    let by_collection: Vec<_> = log
        .requests
        .iter()
        .filter(|r| line(r).contains("/composite/"))
        .collect();
    let sizes: Vec<_> = by_collection
        .iter()
        .map(|r| body(r)["records"].as_array().unwrap().len())
        .collect();
    assert_eq!(
        sizes,
        [3, 1],
        "the second edit of a record goes after the first"
    );
}

fn changes(records: &[&[(&str, Value)]]) -> WriteBatch {
    let mut batch = updates(&ids(0..records.len()));
    for (record, fields) in batch.records.iter_mut().zip(records) {
        record.fields = fields
            .iter()
            .map(|(name, value)| (field(name, DataType::Text), value.clone()))
            .collect();
    }
    batch
}

fn built(batch: &WriteBatch, limits: Limits) -> (String, Vec<usize>) {
    let records: Vec<usize> = (0..batch.records.len()).collect();
    let upload = build(batch, &records, limits);
    assert_eq!(upload.carried.len() + upload.others.len(), records.len());
    (String::from_utf8(upload.body).unwrap(), upload.others)
}

#[test]
fn columns_are_the_union_empty_is_unchanged_and_null_is_said() {
    let batch = changes(&[
        &[("A", Value::text("1")), ("B", Value::Null)],
        &[
            ("B", Value::text("comma, \"quote\"\nline")),
            ("C", Value::Boolean(true)),
        ],
        &[
            ("A", Value::number("1.50").unwrap()),
            ("C", Value::Timestamp(0)),
        ],
        &[],
    ]);
    let (csv, others) = built(&batch, LIMITS);
    assert_eq!(
        csv,
        "Id,A,B,C\n003000000000000AAA,1,#N/A,\n003000000000001AAA,,\"comma, \"\"quote\"\"\nline\",true\n\
         003000000000002AAA,1.5,,1970-01-01T00:00:00.000Z\n003000000000003AAA,,,\n"
    );
    assert!(others.is_empty());
}

#[test]
fn apostrophes_are_not_doubled_and_texts_survive_the_csv() {
    let texts = [
        "O'Neil",
        "''",
        "a\"b",
        "\"",
        "a,b",
        "=1+1",
        "ünï\u{1F600}",
        "line\nbreak",
        "#N/A ",
        "N/A",
    ];
    let fields: Vec<_> = texts
        .iter()
        .map(|text| [("A", Value::Text((*text).to_owned()))])
        .collect();
    let records: Vec<&[_]> = fields.iter().map(|f| &f[..]).collect();
    let (csv, others) = built(&changes(&records), LIMITS);
    assert!(others.is_empty());
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let read: Vec<String> = reader
        .records()
        .map(|row| row.unwrap()[1].to_owned())
        .collect();
    assert_eq!(read, texts);
}

#[test]
fn limits_are_in_characters_not_bytes() {
    let limits = Limits {
        field_chars: 10,
        record_chars: 30,
        body_bytes: 1_000_000,
    };
    let fits = |texts: &[&str]| {
        let names = ["A", "B", "C"];
        let fields: Vec<_> = names
            .iter()
            .zip(texts)
            .map(|(name, text)| (*name, Value::text(text)))
            .collect();
        built(&changes(&[&fields]), limits).1.is_empty()
    };
    assert!(fits(&["éééééééééé"]));
    assert!(!fits(&["ééééééééééé"]));
    assert!(fits(&["éééééé", "éééééé"]));
    assert!(!fits(&["éééééééé", "éééééé"]));
}

#[test]
fn an_upload_stays_within_its_limit() {
    let limits = Limits {
        body_bytes: 400,
        ..LIMITS
    };
    let fields: Vec<_> = (0..40)
        .map(|_| [("A", Value::text("\"quoted\""))])
        .collect();
    let records: Vec<&[_]> = fields.iter().map(|f| &f[..]).collect();
    let (csv, others) = built(&changes(&records), limits);
    assert!(csv.len() <= 400 && csv.lines().count() > 3);
    assert_eq!(others.len(), 40 - (csv.lines().count() - 1));
}

#[test]
fn an_outage_while_the_job_runs_is_waited_out() {
    let job = Job::new(
        "sf__Id,sf__Created,Id\n003000000000000AAA,false,003000000000000AAA\n",
        "",
        "",
    );
    let lost = || {
        Answer::Lost(Failure::connection(
            ErrorClass::Transient,
            "timeout",
            "no answer",
        ))
    };
    // After the upload every other request meets some trouble.
    let troubles: [fn() -> Response; 3] = [
        || page(503),
        || answer(400, &sf_error("UNKNOWN_EXCEPTION", "oops")),
        || page(200),
    ];
    let (result, log) = write_above(2, updates(&ids(0..3)), |n, request| match n {
        0 | 1 => Answer::Http(job.answer(request)),
        n if n % 2 == 1 || line(request).starts_with("DELETE") => Answer::Http(job.answer(request)),
        n if n % 4 == 0 => lost(),
        n => match line(request).ends_with(JOB) {
            true => Answer::Http(troubles[n % 3]()),
            false => Answer::Http(page(502)),
        },
    });
    assert_eq!(told(&result.unwrap())[0], "updated 003000000000000AAA");
    assert_eq!(
        log.lines()
            .iter()
            .filter(|line| line.starts_with("POST"))
            .count(),
        1,
        "never a second job"
    );
}

#[test]
fn an_outage_that_lasts_ends_the_operation() {
    let job = Job::new("", "", "");
    let (result, log) = write_above(2, updates(&ids(0..3)), |n, request| {
        if n < 3 {
            job.answer(request)
        } else {
            page(503)
        }
    });
    assert_eq!(result.unwrap_err().scope, Scope::Connection);
    let patience: Duration = log.waits.iter().sum();
    assert!(
        patience > Duration::from_secs(60) && patience < Duration::from_secs(300),
        "{patience:?}"
    );
}

#[test]
fn a_job_whose_closing_was_lost_is_closed_again() {
    let job = Job::new("", "", "");
    *job.states.borrow_mut() = vec!["JobComplete", "Open"];
    let (_, log) = write_above(2, updates(&ids(0..3)), |n, request| {
        if n == 2 {
            page(504)
        } else {
            job.answer(request)
        }
    });
    let closings = log
        .lines()
        .iter()
        .filter(|line| line.starts_with("PATCH"))
        .count();
    assert_eq!(closings, 2);
    let stuck = Job::new("", "", "").ends("Open", "");
    let (result, _) = write_above(2, updates(&ids(0..3)), |_, request| stuck.answer(request));
    assert!(result.is_err());
}

#[test]
fn what_went_wrong_before_the_upload_refuses_the_batch() {
    let refusal = answer(400, &sf_error("INVALIDENTITY", "no such object"));
    let (result, log) = write_above(2, updates(&ids(0..3)), |_, _| refusal.clone());
    assert_eq!(
        (result.unwrap_err().class, log.requests.len()),
        (ErrorClass::Mapping, 1)
    );

    let job = Job::new("", "", "");
    let (result, log) = write_above(2, updates(&ids(0..3)), |n, request| {
        if n == 1 {
            refusal.clone()
        } else {
            job.answer(request)
        }
    });
    assert_eq!(result.unwrap_err().class, ErrorClass::Mapping);
    assert_eq!(body(&log.requests[2]), json!({ "state": "Aborted" }));
    assert_eq!(log.lines()[3], format!("DELETE {JOB}"));
}

#[test]
fn results_outlive_a_job_that_cannot_be_removed() {
    let job = Job::new(
        "sf__Id,sf__Created,Id\n003000000000000AAA,false,003000000000000AAA\n",
        "",
        "",
    );
    for lost in [true, false] {
        let (result, _) = write_above(2, updates(&ids(0..3)), |_, request| {
            match line(request).starts_with("DELETE") {
                true if lost => {
                    Answer::Lost(Failure::connection(ErrorClass::Transient, "reset", "reset"))
                }
                true => Answer::Http(page(500)),
                false => Answer::Http(job.answer(request)),
            }
        });
        assert_eq!(told(&result.unwrap())[0], "updated 003000000000000AAA");
    }
}

#[test]
fn a_batch_that_bulk_cannot_carry_at_all_makes_no_job() {
    let records = [
        ("a", Value::text("#N/A")),
        ("b", Value::text("#N/A")),
        ("c", Value::text("#N/A")),
    ];
    let batch = batch("Contact", WriteKind::Upsert, "Name", &records);
    let operation = crate::Provider::write(
        &super::Salesforce,
        &crate::scripted_server::settings(2),
        Arc::new(batch),
    );
    let (_, log) = crate::scripted_server::drive(operation, |_, _| answer(200, &json!([])));
    assert_eq!(
        log.lines(),
        ["PATCH /services/data/v66.0/composite/sobjects/Contact/Ext__c"]
    );
}
