//! `/jobs/ingest`: create, upload, close, poll, results, abort, delete.

use super::super::error::SfError;
use super::super::{Answer, Org, id, org, rows};
use super::{Job, Operation, Shared, State, load, results};
use crate::clock;
use crate::faults::RecordFaults;
use crate::http::{Request, Response};
use crate::store::Actor;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::sync::Arc;

const MAX_UPLOAD: usize = 150 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    object: String,
    operation: Operation,
    external_id_field_name: Option<String>,
    line_ending: Option<String>,
    column_delimiter: Option<String>,
    content_type: Option<String>,
}

pub fn answer(
    org: &Arc<Org>,
    request: &Request,
    version: &str,
    path: &[&str],
    records: &RecordFaults,
) -> Answer {
    match (request.method.as_str(), path) {
        ("POST", []) => create(org, request, version),
        ("GET", []) => {
            let jobs: Vec<_> = org.jobs.ingest.lock().values().cloned().collect();
            let shown: Vec<_> = jobs.iter().map(|job| show(&job.lock())).collect();
            let body = json!({"done": true, "records": shown, "nextRecordsUrl": null});
            Ok(Response::json(200, &body))
        }
        ("GET", [id]) => Ok(Response::json(200, &show(&org.jobs.get(id)?.lock()))),
        ("PATCH", [id]) => close(org, request, id, records),
        ("DELETE", [id]) => delete(org, id),
        ("PUT", [id, "batches"]) => upload(org, request, id),
        ("GET", [id, kind]) => {
            let job = org.jobs.get(id)?;
            let kind = results::Kind::named(kind).ok_or_else(SfError::not_found)?;
            results::answer(&org.store.lock(), &job.lock(), kind)
        }
        (method, _) => Err(SfError::method(method, "GET,POST,PUT,PATCH,DELETE")),
    }
}

fn create(org: &Org, request: &Request, version: &str) -> Answer {
    let order: Order = serde_json::from_value(Json::Object(rows::body_map(request)?))
        .map_err(|error| invalid(error.to_string()))?;
    if order
        .content_type
        .as_deref()
        .is_some_and(|kind| kind != "CSV")
    {
        return Err(invalid("Only the content type CSV is supported"));
    }
    let key = order.external_id_field_name;
    {
        let store = org.store.lock();
        let object = store.object(&order.object).ok_or_else(|| {
            let message = format!("The requested resource does not exist: {}", order.object);
            SfError::new(400, "INVALIDENTITY", message)
        })?;
        let field = key.as_deref().map(|key| (key, object.def.field(key)));
        match (order.operation, field) {
            (Operation::Upsert, None) => {
                return Err(invalid("externalIdFieldName is required for upsert"));
            }
            (Operation::Upsert, Some((_, Some((_, field)))))
                if field.spec.external_id || field.name() == "Id" => {}
            (Operation::Upsert, Some((key, _))) => {
                let message = format!(
                    "Field name provided, {key} does not match an External ID for {}",
                    object.def.name
                );
                return Err(SfError::new(400, "INVALIDJOB", message));
            }
            _ => {}
        }
    }
    let delimiter_name = order.column_delimiter.unwrap_or("COMMA".into());
    let delimiter = match delimiter_name.as_str() {
        "COMMA" => b',',
        "TAB" => b'\t',
        "SEMICOLON" => b';',
        "PIPE" => b'|',
        "CARET" => b'^',
        "BACKQUOTE" => b'`',
        other => return Err(invalid(format!("unknown columnDelimiter {other}"))),
    };
    let crlf = match order.line_ending.as_deref() {
        None | Some("LF") => false,
        Some("CRLF") => true,
        Some(other) => return Err(invalid(format!("unknown lineEnding {other}"))),
    };
    let now = org.services.clock.now();
    let job = org.jobs.add(Job {
        id: org.jobs.fresh_id(),
        version: version.to_owned(),
        object: order.object,
        operation: order.operation,
        key,
        crlf,
        delimiter,
        delimiter_name,
        created: now,
        changed: now,
        state: State::Open,
        data: None,
        header_end: 0,
        rows: Vec::new(),
        processed: 0,
        failed: 0,
        error: None,
    });
    Ok(Response::json(200, &show(&job.lock())))
}

fn upload(org: &Org, request: &Request, id: &str) -> Answer {
    let job = org.jobs.get(id)?;
    let mut job = job.lock();
    let kind = request.header("content-type").unwrap_or_default();
    if !kind.to_ascii_lowercase().starts_with("text/csv") {
        return Err(SfError::new(
            400,
            "INVALIDCONTENTTYPE",
            format!("unsupported content type {kind}"),
        ));
    }
    if job.state != State::Open {
        let message = format!("Cannot upload data to a job in state {}", job.state.name());
        return Err(SfError::new(400, "INVALIDJOBSTATE", message));
    }
    if job.data.is_some() {
        let message = "Found multiple contents for job: only one upload is allowed";
        return Err(SfError::new(400, "INVALIDJOB", message));
    }
    if request.body.len() > MAX_UPLOAD {
        return Err(SfError::new(
            413,
            "TOOLARGE",
            "The uploaded content exceeds 150 MB",
        ));
    }
    job.data = Some(request.body.clone());
    Ok(Response::empty(201))
}

fn close(org: &Arc<Org>, request: &Request, id: &str, records: &RecordFaults) -> Answer {
    let shared = org.jobs.get(id)?;
    let body = rows::body_map(request)?;
    let mut job = shared.lock();
    let refused = |job: &Job, to: &str| {
        let message = format!("Job {} cannot go from {} to {to}", job.id, job.state.name());
        SfError::new(400, "INVALIDJOBSTATE", message)
    };
    match body.get("state").and_then(Json::as_str) {
        Some("UploadComplete") if job.state != State::Open => {
            return Err(refused(&job, "UploadComplete"));
        }
        Some("UploadComplete") => {
            job.state = State::UploadComplete;
            start(org, &shared, records);
        }
        Some("Aborted") if job.state.ended() => return Err(refused(&job, "Aborted")),
        Some("Aborted") => job.state = State::Aborted,
        _ => return Err(invalid("state must be UploadComplete or Aborted")),
    }
    job.changed = org.services.clock.now();
    Ok(Response::json(200, &show(&job)))
}

/// A thread of its own per job: parsing a hundred megabytes must not hold up other requests.
fn start(org: &Arc<Org>, job: &Shared<Job>, records: &RecordFaults) {
    let (org, job, records) = (org.clone(), job.clone(), records.clone());
    std::thread::spawn(move || load::run(&org, &job, &records));
}

fn delete(org: &Org, id: &str) -> Answer {
    // The list of jobs is locked before a job, never after.
    let mut jobs = org.jobs.ingest.lock();
    let id = id::canonical(id).unwrap_or_default();
    let state = jobs.get(&id).ok_or_else(SfError::not_found)?.lock().state;
    if !state.ended() {
        let message = format!("Cannot delete a job in state {}", state.name());
        return Err(SfError::new(400, "INVALIDJOBSTATE", message));
    }
    jobs.remove(&id);
    Ok(Response::empty(204))
}

fn show(job: &Job) -> Json {
    let version = job.version.trim_start_matches('v');
    let mut shown = json!({
        "id": job.id,
        "operation": job.operation.name(),
        "object": job.object,
        "createdById": org::user(Actor::Integration),
        "createdDate": clock::iso_offset(job.created),
        "systemModstamp": clock::iso_offset(job.changed),
        "state": job.state.name(),
        "concurrencyMode": "Parallel",
        "contentType": "CSV",
        "apiVersion": version.parse::<f64>().unwrap_or(0.0),
        "jobType": "V2Ingest",
        "lineEnding": if job.crlf { "CRLF" } else { "LF" },
        "columnDelimiter": job.delimiter_name,
        "contentUrl": format!("services/data/{}/jobs/ingest/{}/batches", job.version, job.id),
        "numberRecordsProcessed": job.processed,
        "numberRecordsFailed": job.failed,
        "retries": 0,
        "totalProcessingTime": (job.changed - job.created).max(0),
        "apiActiveProcessingTime": 0,
        "apexProcessingTime": 0,
    });
    if let Some(key) = &job.key {
        shown["externalIdFieldName"] = key.clone().into();
    }
    if let Some(error) = &job.error {
        shown["errorMessage"] = error.clone().into();
    }
    shown
}

fn invalid(message: impl Into<String>) -> SfError {
    SfError::new(400, "INVALIDJOB", message)
}
