//! Bulk write jobs: the whole conversation, and what their results say.

mod damage;
mod files;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use crm_domain::failure::Scope;
use crm_domain::{DataType, ErrorClass, Failure, Value};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::super::loads::{self, LIMITS, Limits};
use super::super::{Zoho, archive};
use crate::outcomes::Outcome;
use crate::scripted_server::{
    Answer, Log, answer, batch, body, drive, empty, field, line, page, settings, told,
};
use crate::{Provider, Request, Response, Settings, Target, WriteBatch, WriteKind};

const RESULT: &str = "https://download-accl.zoho.com/v2/crm/7/bulk-write/9/9.zip";

/// A job that goes through these states, the last one first, and leaves this result.
struct Job {
    states: RefCell<Vec<&'static str>>,
    result: String,
}

impl Job {
    fn new(result: &str) -> Job {
        Job {
            states: RefCell::new(vec!["COMPLETED"]),
            result: result.to_owned(),
        }
    }

    fn answer(&self, request: &Request) -> Response {
        let line = line(request);
        match line.as_str() {
            "GET /crm/v8/org" => answer(200, &json!({ "org": [{ "zgid": "7" }] })),
            "POST /crm/v8/upload" => {
                let told = json!({ "status": "success", "code": "FILE_UPLOAD_SUCCESS", "details": { "file_id": "F" } });
                answer(200, &told)
            }
            "POST /crm/bulk/v8/write" => {
                let told =
                    json!({ "status": "success", "code": "SUCCESS", "details": { "id": "9" } });
                answer(201, &told)
            }
            "GET /crm/bulk/v8/write/9" => {
                let mut states = self.states.borrow_mut();
                let state = if states.len() > 1 {
                    states.pop().unwrap()
                } else {
                    states[0]
                };
                let result = match self.result.as_str() {
                    "" => Json::Null,
                    _ => json!({ "download_url": RESULT }),
                };
                answer(
                    200,
                    &json!({ "id": "9", "status": state, "result": result }),
                )
            }
            _ if line == format!("GET {RESULT}") => Response {
                body: archive::pack("Contacts-records.csv", self.result.as_bytes()),
                ..empty(200)
            },
            _ if line.contains("/crm/v8/Contacts") => called(request),
            _ => panic!("{line} belongs to no job"),
        }
    }
}

/// Calls take every record.
fn called(request: &Request) -> Response {
    let items = body(request)["data"].as_array().unwrap().clone();
    let saved = |item: &Json| {
        let id = item["id"].as_str().map_or_else(
            || format!("by call {}", item["Ext__c"].as_str().unwrap()),
            str::to_owned,
        );
        json!({ "status": "success", "code": "SUCCESS", "action": "update", "details": { "id": id } })
    };
    answer(
        200,
        &json!({ "data": items.iter().map(saved).collect::<Vec<_>>() }),
    )
}

fn write_with<A: Into<Answer>>(
    settings: &Settings,
    batch: WriteBatch,
    answer: impl FnMut(usize, &Request) -> A,
) -> (Result<Vec<Outcome>, Failure>, Log) {
    drive(Zoho.write(settings, Arc::new(batch)), answer)
}

fn write<A: Into<Answer>>(
    batch: WriteBatch,
    answer: impl FnMut(usize, &Request) -> A,
) -> (Result<Vec<Outcome>, Failure>, Log) {
    write_with(&settings(2), batch, answer)
}

fn people(kind: WriteKind, keys: &[&str]) -> WriteBatch {
    let records: Vec<_> = keys.iter().map(|key| (*key, Value::text("x"))).collect();
    batch("Contacts", kind, "Last_Name", &records)
}

/// The file of an upload.
fn uploaded(request: &Request) -> String {
    let at = request
        .body
        .windows(4)
        .position(|part| part == b"PK\x03\x04");
    let file = archive::unpack(&request.body[at.expect("a ZIP")..]).expect("one file");
    String::from_utf8(file).unwrap()
}

#[test]
fn a_jobs_conversation_step_by_step() {
    let job = Job::new(
        "\u{feff}Ext__c,Last_Name,STATUS,RECORD_ID,ERRORS\nc,x,ADDED,5503,\na,x,UPDATED,5501,\n\
         b,x,SKIPPED,,\"INVALID_DATA-Last_Name:DUPLICATE_DATA-Email\"\nd,x,unprocessed,,\n",
    );
    *job.states.borrow_mut() = vec!["COMPLETED", "IN PROGRESS", "INPROGRESS", "ADDED"];
    let (result, log) = write(
        people(WriteKind::Upsert, &["a", "b", "c", "d", "e"]),
        |_, r| job.answer(r),
    );
    let outcomes = result.unwrap();
    assert_eq!(
        told(&outcomes),
        [
            "updated 5501",
            "validation INVALID_DATA",
            "created 5503",
            "transient unprocessed",
            "transient missing_result",
        ]
    );
    let why = &outcomes[1].as_ref().unwrap_err().message;
    assert!(why.contains("INVALID_DATA-Last_Name"), "{why}");
    let look = "GET /crm/bulk/v8/write/9";
    assert_eq!(
        log.lines(),
        [
            "GET /crm/v8/org",
            "POST /crm/v8/upload",
            "POST /crm/bulk/v8/write",
            look,
            look,
            look,
            look,
            &format!("GET {RESULT}"),
        ]
    );
    assert_eq!(log.waits, [50, 100, 200].map(Duration::from_millis));
    let upload = &log.requests[1];
    assert_eq!(upload.target, Target::File("/crm/v8/upload".to_owned()));
    for header in [("feature", "bulk-write"), ("x-crm-org", "7")] {
        assert!(upload.headers.contains(&(header.0, header.1.to_owned())));
    }
    let (_, kind) = upload
        .headers
        .iter()
        .find(|(name, _)| *name == "content-type")
        .unwrap();
    let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap();
    assert!(
        upload
            .body
            .starts_with(format!("--{boundary}\r\n").as_bytes())
    );
    assert!(
        upload
            .body
            .ends_with(format!("\r\n--{boundary}--\r\n").as_bytes())
    );
    assert_eq!(
        uploaded(upload),
        "Ext__c,Last_Name\na,x\nb,x\nc,x\nd,x\ne,x\n"
    );
    assert_eq!(
        body(&log.requests[2]),
        json!({
            "operation": "upsert", "character_encoding": "UTF-8",
            "resource": [{
                "type": "data", "module": { "api_name": "Contacts" }, "file_id": "F", "file_names": ["records.csv"],
                "find_by": "Ext__c",
                "field_mappings": [{ "api_name": "Ext__c", "index": 0 }, { "api_name": "Last_Name", "index": 1 }],
            }],
        })
    );
    assert_eq!(log.requests[7].target, Target::File(RESULT.to_owned()));
}

#[test]
fn updates_are_found_by_id_and_an_option_names_the_organisation() {
    let job = Job::new(
        "id,Last_Name,STATUS,RECORD_ID,ERRORS\n1,x,UPDATED,1,\n2,x,UNCHANGED,,\n3,x,UPDATED,9,\n\
         4,x,SKIPPED,,INVALID_DATA-id\n",
    );
    let settings = Settings {
        options: [("org_id".to_owned(), json!("8"))].into_iter().collect(),
        ..settings(2)
    };
    let batch = people(WriteKind::Update, &["1", "2", "3", "4"]);
    let (result, log) = write_with(&settings, batch, |_, r| job.answer(r));
    assert_eq!(
        told(&result.unwrap()),
        [
            "updated 1",
            "updated 2",
            "transient mismatched_result",
            "not_found INVALID_ID"
        ]
    );
    assert_eq!(log.lines()[0], "POST /crm/v8/upload");
    assert!(
        log.requests[0]
            .headers
            .contains(&("x-crm-org", "8".to_owned()))
    );
    assert_eq!(body(&log.requests[1])["resource"][0]["find_by"], "id");
}

#[test]
fn an_organisation_that_no_header_holds_is_none() {
    let batch = people(WriteKind::Update, &["1", "2", "3", "4"]);
    let (_, log) = write(batch, |_, request| match request.target {
        Target::Api(ref path) if path == "/crm/v8/org" => {
            answer(200, &json!({ "org": [{ "zgid": "1\r\nx: y" }] }))
        }
        _ => called(request),
    });
    assert_eq!(log.lines()[0], "GET /crm/v8/org");
    assert!(!log.lines().iter().any(|line| line.contains("upload")));
}

#[test]
fn jobs_are_for_many_and_never_for_deletions_nor_where_automation_is_chosen() {
    let size = |settings: &Settings, kind, count| Zoho.write_size(settings, kind, count);
    let jobs = settings(2000);
    assert_eq!(size(&jobs, WriteKind::Update, 2001), 2001);
    assert_eq!(size(&jobs, WriteKind::Upsert, 90_000), 25_000);
    assert_eq!(size(&jobs, WriteKind::Delete, 90_000), 100);
    let chosen = Settings {
        options: [("trigger".to_owned(), json!([]))].into_iter().collect(),
        ..settings(2)
    };
    assert_eq!(size(&chosen, WriteKind::Update, 90_000), 100);
    let batch = people(WriteKind::Update, &["1", "2", "3"]);
    let (_, log) = write_with(&chosen, batch, |_, r| called(r));
    assert_eq!(log.lines(), ["PUT /crm/v8/Contacts"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn results_are_tied_to_their_records_in_any_order(
        order in Just((0..40usize).collect::<Vec<_>>()).prop_shuffle(),
        fates in prop::collection::vec(0..4, 40),
    ) {
        let ids: Vec<String> = (0..40).map(|n| format!("55{n:017}")).collect();
        let keys: Vec<&str> = ids.iter().map(String::as_str).collect();
        let mut file = "id,Last_Name,STATUS,RECORD_ID,ERRORS\n".to_owned();
        for &i in &order {
            match fates[i] {
                0 => file += &format!("{0},x,UPDATED,{0},\n", ids[i]),
                1 => file += &format!("{},x,SKIPPED,,LIMIT_EXCEEDED-C{i}\n", ids[i]),
                2 => file += &format!("{},x,UNPROCESSED,,\n", ids[i]),
                _ => {}
            }
        }
        let job = Job::new(&file);
        let (result, _) = write(people(WriteKind::Update, &keys), |_, request| job.answer(request));
        for (i, outcome) in result.unwrap().iter().enumerate() {
            match (fates[i], outcome) {
                (0, Ok(written)) => prop_assert_eq!(&written.crm_id, &ids[i]),
                (1, Err(failure)) => {
                    let column = format!(": C{i}");
                    prop_assert!(failure.message.ends_with(&column), "{}", failure.message);
                }
                (2, Err(failure)) => prop_assert_eq!(&failure.code, "unprocessed"),
                (3, Err(failure)) => prop_assert_eq!(&failure.code, "missing_result"),
                (fate, outcome) => prop_assert!(false, "record {} of fate {}: {:?}", i, fate, outcome),
            }
        }
    }
}
