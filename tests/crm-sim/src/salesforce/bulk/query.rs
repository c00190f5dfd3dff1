//! `/jobs/query`: SOQL whose result is fetched as pages of CSV.
//!
//! Guarantees: the result is fixed when the job is made; pages follow one another by locator until
//! the locator is the word `null`.

use super::super::error::SfError;
use super::super::soql::shown::Column;
use super::super::soql::{self, Columns, Found};
use super::super::{Answer, Org, org, query, rows};
use crate::clock;
use crate::http::{Request, Response};
use crate::store::Actor;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value as Json, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

const DEFAULT_PAGE: usize = 50_000;

#[derive(Debug)]
pub struct QueryJob {
    id: String,
    version: String,
    operation: String,
    object: usize,
    object_name: String,
    found: Found,
    created: i64,
    ready: Instant,
}

pub fn answer(org: &Arc<Org>, request: &Request, version: &str, path: &[&str]) -> Answer {
    let get = |id: &str| {
        let job = org.jobs.queries.lock().get(id).cloned();
        job.ok_or_else(SfError::not_found)
    };
    match (request.method.as_str(), path) {
        ("POST", []) => create(org, request, version),
        ("GET", [id]) => Ok(Response::json(200, &show(&*get(id)?))),
        ("GET", [id, "results"]) => results(org, request, version, &*get(id)?),
        ("PATCH", [id]) => {
            let mut shown = show(&*get(id)?);
            shown["state"] = "Aborted".into();
            org.jobs.queries.lock().remove(*id);
            Ok(Response::json(200, &shown))
        }
        ("DELETE", [id]) => {
            get(id)?;
            org.jobs.queries.lock().remove(*id);
            Ok(Response::empty(204))
        }
        (method, _) => Err(SfError::method(method, "GET,POST,PATCH,DELETE")),
    }
}

fn create(org: &Org, request: &Request, version: &str) -> Answer {
    let body = rows::body_map(request)?;
    let text = |key: &str| body.get(key).and_then(Json::as_str).unwrap_or_default();
    let operation = text("operation");
    if !matches!(operation, "query" | "queryAll") {
        return Err(SfError::new(
            400,
            "INVALIDJOB",
            "operation must be query or queryAll",
        ));
    }
    let store = org.store.lock();
    let all = operation == "queryAll";
    let (object, found) = soql::run(&store, text("query"), all, query::now(org))?;
    let children = |column: &Column| matches!(column, Column::Children(_));
    let aggregate = match &found.columns {
        Columns::Count | Columns::Rows(_) => true,
        Columns::Mixed(columns) => columns.iter().any(children),
        Columns::Fields(_) => false,
    };
    if aggregate {
        let message = "Aggregate Relationships not supported in Bulk Query";
        return Err(SfError::new(400, "API_ERROR", message));
    }
    let latency = Duration::from_millis(org.services.settings.read().bulk_latency_ms);
    let job = Arc::new(QueryJob {
        id: org.jobs.fresh_id(),
        version: version.to_owned(),
        operation: operation.to_owned(),
        object,
        object_name: store.objects[object].def.name.clone(),
        found,
        created: query::now(org),
        ready: Instant::now() + latency,
    });
    org.jobs.queries.lock().insert(job.id.clone(), job.clone());
    let mut shown = show(&job);
    shown["state"] = "UploadComplete".into();
    Ok(Response::json(200, &shown))
}

fn show(job: &QueryJob) -> Json {
    let ready = Instant::now() >= job.ready;
    let version = job.version.trim_start_matches('v');
    let mut shown = json!({
        "id": job.id,
        "operation": job.operation,
        "object": job.object_name,
        "createdById": org::user(Actor::Integration),
        "createdDate": clock::iso_offset(job.created),
        "systemModstamp": clock::iso_offset(job.created),
        "state": if ready { "JobComplete" } else { "InProgress" },
        "concurrencyMode": "Parallel",
        "contentType": "CSV",
        "apiVersion": version.parse::<f64>().unwrap_or(0.0),
        "jobType": "V2Query",
        "lineEnding": "LF",
        "columnDelimiter": "COMMA",
    });
    if ready {
        shown["numberRecordsProcessed"] = job.found.slots.len().into();
        shown["retries"] = 0.into();
        shown["totalProcessingTime"] = 1.into();
    }
    shown
}

fn results(org: &Org, request: &Request, version: &str, job: &QueryJob) -> Answer {
    if version != job.version {
        let message = "The job was made with another version of the API";
        return Err(SfError::new(409, "API_ERROR", message));
    }
    if Instant::now() < job.ready {
        let message = "Results are not there while the job is InProgress";
        return Err(SfError::new(400, "INVALIDJOBSTATE", message));
    }
    let wrong = || SfError::new(400, "INVALID_QUERY_LOCATOR", "invalid query locator");
    let offset: usize = match request.param("locator") {
        None => 0,
        Some(text) => {
            let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
            let text = String::from_utf8(bytes).map_err(|_| wrong())?;
            text.parse().map_err(|_| wrong())?
        }
    };
    let page = request
        .param("maxRecords")
        .and_then(|text| text.parse().ok());
    let total = job.found.slots.len();
    let start = offset.min(total);
    let end = start
        .saturating_add(page.unwrap_or(DEFAULT_PAGE))
        .min(total);
    let store = org.store.lock();
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut written = Ok(());
    let object = &store.objects[job.object];
    match &job.found.columns {
        Columns::Mixed(columns) => {
            let paths: Vec<_> = columns
                .iter()
                .filter_map(|column| match column {
                    Column::Field(path) => Some(path),
                    Column::Children(_) => None,
                })
                .collect();
            let names = paths.iter().map(|path| soql::shown::header(&store, path));
            written = written.and_then(|()| writer.write_record(names));
            for slot in &job.found.slots[start..end] {
                let cells = paths.iter().map(|path| {
                    let value = path.read(&store, job.object, *slot);
                    org::Cell(value, path.field(&store).kind).text()
                });
                written = written.and_then(|()| writer.write_record(cells));
            }
        }
        Columns::Fields(fields) => {
            let names = fields
                .iter()
                .map(|at| object.def.fields[*at as usize].name());
            written = written.and_then(|()| writer.write_record(names));
            for slot in &job.found.slots[start..end] {
                let cells = fields.iter().map(|at| {
                    let kind = object.def.fields[*at as usize].kind;
                    org::Cell(org::read(object, *slot, *at), kind).text()
                });
                written = written.and_then(|()| writer.write_record(cells));
            }
        }
        // Refused when the job was to be made.
        Columns::Count | Columns::Rows(_) => {}
    }
    let body = written
        .ok()
        .and_then(|()| writer.into_inner().ok())
        .unwrap_or_default();
    let locator = match end < total {
        true => URL_SAFE_NO_PAD.encode(end.to_string()),
        false => "null".to_owned(),
    };
    Ok(Response::bytes(200, "text/csv", body)
        .with("Sforce-Locator", locator)
        .with("Sforce-NumberOfRecords", (end - start).to_string()))
}
