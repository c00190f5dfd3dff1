//! What is easy to get wrong about Zoho's bulk write jobs, over real sockets.

mod common;

use common::{Line, World, field};
use crm_domain::{DataType, Value as Canonical};
use crm_provider::{Settings, WriteBatch, WriteKind, WriteRecord, Written};
use serde_json::{Value, json};
use std::io::{Cursor, Write};
use std::sync::Arc;
use zip::ZipWriter;

const FORM: &str = "multipart/form-data; boundary=b";
const ORG: &str = "673573045";

fn zip(files: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        zip.start_file(*name, zip::write::SimpleFileOptions::default())
            .unwrap();
        zip.write_all(content.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn form(content: &[u8]) -> Vec<u8> {
    let head = b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x.zip\"\r\n\r\n";
    [head, content, b"\r\n--b--\r\n"].concat()
}

fn upload(world: &World, headers: &[(&str, &str)], body: &[u8]) -> Value {
    let mut all = vec![("Authorization", "Zoho-oauthtoken zoho-token")];
    all.extend(headers);
    let reply = world.call(world.zoho, "POST", "/crm/v8/upload", &all, body);
    reply.unwrap().json()
}

/// The id of an uploaded file.
fn uploaded(world: &World, csv: &str) -> String {
    let headers = [
        ("feature", "bulk-write"),
        ("X-CRM-ORG", ORG),
        ("Content-Type", FORM),
    ];
    let told = upload(world, &headers, &form(&zip(&[("records.csv", csv)])));
    told["details"]["file_id"].as_str().unwrap().to_owned()
}

fn call(world: &World, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let headers = [
        ("Authorization", "Zoho-oauthtoken zoho-token"),
        ("Content-Type", "application/json"),
    ];
    let reply = world.call(world.zoho, method, path, &headers, body.to_string());
    let reply = reply.unwrap();
    (reply.status, reply.json())
}

fn order(file: &str, operation: &str, find_by: &str, columns: &[&str]) -> Value {
    let mappings = columns.iter().enumerate();
    let mappings: Vec<Value> = mappings
        .map(|(index, name)| json!({"api_name": name, "index": index}))
        .collect();
    json!({"operation": operation, "resource": [{
        "type": "data", "module": {"api_name": "Contacts"}, "file_id": file, "file_names": ["records.csv"],
        "find_by": find_by, "field_mappings": mappings,
    }]})
}

#[test]
fn uploads_are_looked_at_closely() {
    let world = World::new();
    let good = form(&zip(&[("records.csv", "id\n1\n")]));
    let two = form(&zip(&[("a.csv", "id\n"), ("b.csv", "id\n")]));
    let all = [
        ("feature", "bulk-write"),
        ("X-CRM-ORG", ORG),
        ("Content-Type", FORM),
    ];
    assert_eq!(upload(&world, &all, &good)["code"], "FILE_UPLOAD_SUCCESS");
    for (headers, body, code) in [
        (&all[1..], &good, "INVALID_REQUEST"),
        (&all[..1], &good, "CRMPLUS_ORG_INVALID"),
        (&all[..2], &good, "INVALID_REQUEST"),
        (&all[..], &b"id\n1\n".to_vec(), "INVALID_REQUEST"),
        (&all[..], &form(b"id\n1\n"), "FILE_NOT_SUPPORTED"),
        (&all[..], &two, "FILE_NOT_SUPPORTED"),
    ] {
        let told = upload(&world, headers, body);
        assert_eq!(
            (&told["status"], &told["code"]),
            (&json!("error"), &json!(code))
        );
    }
}

#[test]
fn orders_are_held_against_the_file_and_the_module() {
    let world = World::new();
    let columns = ["External_Key", "Last_Name"];
    let file = uploaded(&world, "External_Key,Last_Name\nK1,Ada\n");
    let good = order(&file, "upsert", "External_Key", &columns);
    let with = |place: &str, value: Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(place).unwrap() = value;
        changed
    };
    for (bad, code) in [
        (with("/operation", json!("delete")), "INVALID_DATA"),
        (with("/resource/0/file_id", json!("1")), "FILE_NOT_FOUND"),
        (
            with("/resource/0/file_names/0", json!("x.csv")),
            "FILE_NOT_FOUND",
        ),
        (
            with("/resource/0/module/api_name", json!("People")),
            "MODULE_NOT_AVAILABLE",
        ),
        (
            with("/resource/0/find_by", Value::Null),
            "MANDATORY_NOT_FOUND",
        ),
        // Not unique.
        (
            with("/resource/0/find_by", json!("Last_Name")),
            "INVALID_DATA",
        ),
        (with("/resource/0/find_by", json!("Email")), "INVALID_DATA"),
        (
            with("/resource/0/field_mappings/1/index", json!(0)),
            "INVALID_DATA",
        ),
        (
            with("/resource/0/field_mappings/1/api_name", json!("Nonsense")),
            "INVALID_DATA",
        ),
    ] {
        let (status, told) = call(&world, "POST", "/crm/bulk/v8/write", &bad);
        assert_eq!((status, &told["code"]), (400, &json!(code)), "{bad}");
    }
    let (status, told) = call(&world, "POST", "/crm/bulk/v8/write", &good);
    assert_eq!((status, &told["code"]), (201, &json!("SUCCESS")));
    let (status, _) = call(&world, "GET", "/crm/bulk/v8/write/1", &Value::Null);
    assert_eq!(status, 404);
}

/// Writes records through the provider, by jobs if there are more than two.
fn write(
    world: &World,
    kind: WriteKind,
    records: &[(&str, Canonical)],
) -> Vec<Result<Written, crm_domain::Failure>> {
    let record = |(key, value): &(&str, Canonical)| WriteRecord {
        crm_id: (kind == WriteKind::Update).then(|| (*key).to_owned()),
        external_id: (kind == WriteKind::Upsert).then(|| (*key).to_owned()),
        fields: vec![
            (field("Last_Name", DataType::Text), Canonical::text("Byron")),
            (field("Score", DataType::Number), value.clone()),
        ],
        unless_changed: None,
    };
    let batch = WriteBatch {
        object: "Contacts".to_owned(),
        kind,
        external_id_field: (kind == WriteKind::Upsert).then(|| "External_Key".to_owned()),
        creates_only: false,
        records: records.iter().map(record).collect(),
    };
    let line = Line::new(world, "zoho");
    let settings = Settings {
        bulk_threshold: 2,
        ..Settings::default()
    };
    line.run(line.provider.write(&settings, Arc::new(batch)))
        .unwrap()
}

fn number(n: i64) -> Canonical {
    Canonical::number(&n.to_string()).unwrap()
}

#[test]
fn the_provider_writes_by_jobs_and_each_row_is_told() {
    let world = World::new();
    let made = write(
        &world,
        WriteKind::Upsert,
        &[("K1", number(1)), ("K2", number(2)), ("K3", number(3))],
    );
    let made: Vec<Written> = made.into_iter().map(Result::unwrap).collect();
    assert!(made.iter().all(|written| written.created));
    world.admin(
        "POST",
        "/faults",
        json!({"vendor": "zoho", "times": 1, "fail_records": {"keys": ["K2"], "code": "DUPLICATE_DATA", "message": "no"}}),
    );
    let ids: Vec<&str> = made.iter().map(|written| written.crm_id.as_str()).collect();
    let records = [ids[0], ids[1], ids[2], "5545974000000000000"].map(|id| (id, number(9)));
    let told = write(&world, WriteKind::Update, &records);
    let codes: Vec<String> = told
        .iter()
        .map(|told| {
            told.as_ref()
                .map_or_else(|f| f.code.clone(), |w| w.crm_id.clone())
        })
        .collect();
    assert_eq!(codes, [ids[0], "DUPLICATE_DATA", ids[2], "INVALID_ID"]);
    let shown = world.admin("GET", "/objects/zoho/Contacts", Value::Null);
    let scores: Vec<&Value> = shown["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| &record["fields"]["Score"])
        .collect();
    assert_eq!(scores, [&json!(9), &json!(2), &json!(9)]);
}

#[test]
fn a_job_that_fails_leaves_the_rest_unprocessed() {
    let world = World::new();
    world.admin(
        "POST",
        "/faults",
        json!({"vendor": "zoho", "times": 1, "fail_records": {"keys": ["K2"], "code": "JOB_FAILED", "message": "no"}}),
    );
    let told = write(
        &world,
        WriteKind::Upsert,
        &[("K1", number(1)), ("K2", number(2)), ("K3", number(3))],
    );
    let codes: Vec<&str> = told
        .iter()
        .map(|told| told.as_ref().map_or_else(|f| f.code.as_str(), |_| "ok"))
        .collect();
    assert_eq!(codes, ["ok", "unprocessed", "unprocessed"]);
}

#[test]
fn a_file_with_an_empty_cell_clears_unless_it_is_to_be_ignored() {
    let world = World::new();
    let columns = ["External_Key", "Last_Name", "Phone"];
    for (csv, ignore, phone) in [
        (
            "External_Key,Last_Name,Phone\nK1,Ada,+1\n",
            false,
            json!("+1"),
        ),
        ("External_Key,Last_Name,Phone\nK1,Ada,\n", true, json!("+1")),
        (
            "External_Key,Last_Name,Phone\nK1,Ada,\n",
            false,
            Value::Null,
        ),
    ] {
        let mut order = order(&uploaded(&world, csv), "upsert", "External_Key", &columns);
        order["resource"][0]["ignore_empty"] = ignore.into();
        let (_, told) = call(&world, "POST", "/crm/bulk/v8/write", &order);
        let path = format!(
            "/crm/bulk/v8/write/{}",
            told["details"]["id"].as_str().unwrap()
        );
        let done = loop {
            let (_, job) = call(&world, "GET", &path, &Value::Null);
            if job["status"] == "COMPLETED" {
                break job;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        assert_eq!(done["resource"][0]["file"]["total_count"], 1);
        let shown = world.admin("GET", "/objects/zoho/Contacts", Value::Null);
        assert_eq!(shown["records"][0]["fields"]["Phone"], phone);
    }
}
