//! What is easy to get wrong about Bulk API 2.0, over real sockets.

mod common;

use common::World;
use serde_json::{Value, json};
use std::collections::BTreeSet;

struct Job<'a>(&'a World, String);

impl<'a> Job<'a> {
    fn new(world: &'a World, order: Value) -> Self {
        let job = world.sf("POST", "/jobs/ingest", order);
        assert_eq!(job.status, 200, "{}", job.text);
        Self(world, job.json()["id"].as_str().unwrap().to_owned())
    }

    fn upload(&self, csv: &str) -> u16 {
        let path = format!("{}/jobs/ingest/{}/batches", common::VERSION, self.1);
        let headers = [
            ("Authorization", "Bearer sf-token"),
            ("Content-Type", "text/csv; charset=UTF-8"),
        ];
        self.0
            .call(self.0.salesforce, "PUT", &path, &headers, csv)
            .unwrap()
            .status
    }

    fn set(&self, state: &str) -> u16 {
        let path = format!("/jobs/ingest/{}", self.1);
        self.0.sf("PATCH", &path, json!({"state": state})).status
    }

    fn state(&self) -> Value {
        self.0
            .sf("GET", &format!("/jobs/ingest/{}", self.1), Value::Null)
            .json()
    }

    fn run(&self) -> Value {
        assert_eq!(self.set("UploadComplete"), 200);
        loop {
            let state = self.state();
            if !matches!(
                state["state"].as_str(),
                Some("UploadComplete" | "InProgress")
            ) {
                return state;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    fn rows(&self, kind: &str) -> Vec<String> {
        let text = self
            .0
            .sf(
                "GET",
                &format!("/jobs/ingest/{}/{kind}", self.1),
                Value::Null,
            )
            .text;
        text.lines().skip(1).map(str::to_owned).collect()
    }
}

fn upsert() -> Value {
    json!({"object": "Contact", "operation": "upsert", "externalIdFieldName": "External_Key__c", "contentType": "CSV", "lineEnding": "LF"})
}

#[test]
fn bulk_results_cover_every_row_once_in_another_order() {
    let world = World::new();
    let job = Job::new(&world, upsert());
    let rows: Vec<String> = (0..500)
        .map(|n| format!("K{n},\"L, {n}\",{}", if n % 10 == 3 { "x" } else { "1" }))
        .collect();
    assert_eq!(
        job.upload(&format!(
            "External_Key__c,lastname,Score__c\n{}",
            rows.join("\n")
        )),
        201
    );
    assert_eq!(job.upload("again"), 400);
    let done = job.run();
    assert_eq!(
        (done["state"].as_str(), &done["numberRecordsFailed"]),
        (Some("JobComplete"), &json!(50))
    );
    let (good, bad) = (job.rows("successfulResults/"), job.rows("failedResults/"));
    assert_eq!(
        (good.len(), bad.len(), job.rows("unprocessedrecords/").len()),
        (450, 50, 0)
    );
    let tail = |row: &String| row.splitn(3, ',').nth(2).unwrap().to_owned();
    let seen: Vec<String> = good.iter().map(tail).collect();
    let in_order: Vec<String> = rows
        .iter()
        .filter(|row| seen.contains(row))
        .cloned()
        .collect();
    assert_ne!(
        seen, in_order,
        "an order that means something would hide a bug"
    );
    let all: BTreeSet<String> = good.iter().map(tail).chain(bad.iter().map(tail)).collect();
    assert_eq!(all, rows.into_iter().collect());
    assert_eq!(job.set("Aborted"), 400);
}

#[test]
fn bulk_cells_empty_and_na_differ() {
    let world = World::new();
    let first = Job::new(&world, upsert());
    first.upload("External_Key__c,LastName,Title,Phone\nK,L,t,p\n");
    first.run();
    let second = Job::new(&world, upsert());
    second.upload("External_Key__c,LastName,Title,Phone\nK,,#N/A,\n");
    assert_eq!(second.run()["numberRecordsFailed"], 0);
    let held = world
        .sf("GET", "/sobjects/Contact/External_Key__c/K", Value::Null)
        .json();
    assert_eq!(
        (&held["LastName"], &held["Title"], &held["Phone"]),
        (&json!("L"), &Value::Null, &json!("p"))
    );
}

#[test]
fn bulk_rows_with_blanks_around_quotes_fail_alone() {
    let world = World::new();
    let job = Job::new(&world, upsert());
    job.upload("External_Key__c,LastName,Title\n\"A\", \"a\",x\nB,\"b \"\"b\"\"\nb\",\" , \"\n");
    assert_eq!(job.run()["numberRecordsFailed"], 1);
    let held = world
        .sf("GET", "/sobjects/Contact/External_Key__c/B", Value::Null)
        .json();
    assert_eq!(
        (&held["LastName"], &held["Title"]),
        (&json!("b \"b\"\nb"), &json!(","))
    );
    assert_eq!(world.count("salesforce", "Contact"), 1);
}

#[test]
fn bulk_jobs_fail_whole_for_what_is_wrong_with_all_rows() {
    let world = World::new();
    for (csv, word) in [
        (
            "External_Key__c,Nope__c\nK,1\n",
            "Field name not found : Nope__c",
        ),
        ("LastName\nL\n", "Field name not found : External_Key__c"),
        (
            "External_Key__c,LastName\r\nK,L\r\n",
            "LineEnding is invalid",
        ),
    ] {
        let job = Job::new(&world, upsert());
        job.upload(csv);
        let done = job.run();
        assert_eq!(done["state"], "Failed");
        assert!(
            done["errorMessage"].as_str().unwrap().contains(word),
            "{done}"
        );
    }
    assert_eq!(world.count("salesforce", "Contact"), 0);
}

#[test]
fn an_aborted_or_broken_job_leaves_rows_unprocessed() {
    let world = World::new();
    world.admin(
        "POST",
        "/config",
        json!({"vendor": "salesforce", "bulk_latency_ms": 60000}),
    );
    let job = Job::new(&world, upsert());
    job.upload("External_Key__c,LastName\nA,a\nB,b\n");
    job.set("UploadComplete");
    assert_eq!(job.set("Aborted"), 200);
    assert_eq!(job.state()["state"], "Aborted");
    world.admin(
        "POST",
        "/config",
        json!({"vendor": "salesforce", "bulk_latency_ms": 0}),
    );
    let fail = json!({"code": "JOB_FAILED", "message": "the server went away", "keys": ["B"]});
    world.admin(
        "POST",
        "/faults",
        json!({"vendor": "salesforce", "fail_records": fail}),
    );
    let job = Job::new(&world, upsert());
    job.upload("External_Key__c,LastName\nA,a\nB,b\nC,c\n");
    assert_eq!(job.run()["state"], "Failed");
    let left: BTreeSet<String> = job.rows("unprocessedrecords").into_iter().collect();
    assert_eq!(left, ["B,b", "C,c"].map(str::to_owned).into());
    assert_eq!(job.rows("successfulResults").len(), 1);
}
