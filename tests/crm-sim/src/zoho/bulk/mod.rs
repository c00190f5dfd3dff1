//! Bulk write: a file is uploaded, a job works through it, a ZIP tells what became of its rows.
//!
//! Guarantees: a job goes ADDED -> INPROGRESS -> COMPLETED (or FAILED) and never back; it goes on
//! whether or not anybody looks; a row that fails stops no other; results come in an order that
//! says nothing.

mod load;
mod order;
mod upload;

use super::error::ZohoError;
use super::{Answer, Zoho, org};
use crate::http::Response;
use crate::store::Actor;
use crate::vendor::Call;
use load::Load;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub const ORG: &str = "673573045";
/// What a job costs ("API Limits").
const CREDITS: u64 = 500;

/// A CSV that was uploaded.
#[derive(Debug, Clone)]
pub struct File {
    name: String,
    csv: Arc<Vec<u8>>,
}

#[derive(Debug, Clone)]
pub struct Job {
    order: Json,
    created: i64,
    status: &'static str,
    added: usize,
    updated: usize,
    skipped: usize,
    /// A ZIP.
    result: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
pub struct Jobs {
    number: u64,
    files: BTreeMap<String, File>,
    jobs: BTreeMap<String, Job>,
}

impl Jobs {
    fn fresh_id(&mut self) -> String {
        self.number += 1;
        (5_545_974_000_900_000_000 + self.number).to_string()
    }
}

pub type Shared = Arc<Mutex<Jobs>>;

/// `None`: the path is none of bulk write's.
pub fn answer(zoho: &Zoho, call: &Call<'_>, path: &[&str]) -> Option<Answer> {
    let jobs = &zoho.jobs;
    Some(match (call.request.method.as_str(), path) {
        ("GET", ["crm", "v8", "org"]) => Ok(Response::json(200, &json!({"org": [{"zgid": ORG}]}))),
        ("POST", ["crm", "v8", "upload"]) => upload::take(call.request).map(|file| {
            let mut jobs = jobs.lock();
            let id = jobs.fresh_id();
            jobs.files.insert(id.clone(), file);
            let details = json!({"file_id": id, "created_time": org::moment(zoho.services.clock.now())});
            Response::json(
                200,
                &json!({"status": "success", "code": "FILE_UPLOAD_SUCCESS", "message": "file uploaded.", "details": details}),
            )
        }),
        ("POST", ["crm", "bulk", "v8", "write"]) => create(zoho, call),
        ("GET", ["crm", "bulk", "v8", "write", id]) => show(jobs, call, id),
        ("GET", ["v2", "crm", ORG, "bulk-write", id, file]) => result(jobs, id, file),
        _ => return None,
    })
}

fn not_found() -> ZohoError {
    ZohoError::new(
        404,
        "RESOURCE_NOT_FOUND",
        "The requested resource doesn't exist.",
    )
}

fn create(zoho: &Zoho, call: &Call<'_>) -> Answer {
    let body: Json = serde_json::from_slice(&call.request.body)
        .map_err(|_| ZohoError::new(400, "INVALID_DATA", "invalid data"))?;
    let plan = order::read(&zoho.store.lock(), &zoho.jobs.lock().files, &body)?;
    let now = zoho.services.clock.now();
    zoho.charge(CREDITS)?;
    let id = {
        let mut jobs = zoho.jobs.lock();
        let id = jobs.fresh_id();
        let job = Job {
            order: body,
            created: now,
            status: "ADDED",
            added: 0,
            updated: 0,
            skipped: 0,
            result: None,
        };
        jobs.jobs.insert(id.clone(), job);
        id
    };
    let load = Load {
        id: id.clone(),
        plan,
        jobs: zoho.jobs.clone(),
        store: zoho.store.clone(),
        clock: zoho.services.clock.clone(),
        records: call.records.clone(),
    };
    let latency = Duration::from_millis(zoho.services.settings.read().bulk_latency_ms);
    std::thread::spawn(move || {
        std::thread::sleep(latency);
        load.run();
    });
    let details = json!({"id": id, "created_by": org::user(Actor::Integration)});
    Ok(Response::json(
        201,
        &json!({"status": "success", "code": "SUCCESS", "message": "success", "details": details}),
    ))
}

fn show(jobs: &Shared, call: &Call<'_>, id: &str) -> Answer {
    let jobs = jobs.lock();
    let job = jobs.jobs.get(id).ok_or_else(not_found)?;
    let mut shown = json!({
        "id": id,
        "status": job.status,
        "character_encoding": "UTF-8",
        "operation": job.order["operation"],
        "created_time": org::moment(job.created),
        "created_by": org::user(Actor::Integration),
        "resource": [{
            "status": job.status,
            "type": "data",
            "module": job.order["resource"][0]["module"],
            "field_mappings": job.order["resource"][0]["field_mappings"],
            "file": {
                "status": job.status,
                "name": job.order["resource"][0]["file_names"][0],
                "added_count": job.added,
                "updated_count": job.updated,
                "skipped_count": job.skipped,
                "total_count": job.added + job.updated + job.skipped,
            },
        }],
    });
    if job.result.is_some() {
        let url = format!("{}/v2/crm/{ORG}/bulk-write/{id}/{id}.zip", call.origin);
        shown["result"] = json!({"download_url": url});
    }
    Ok(Response::json(200, &shown))
}

fn result(jobs: &Shared, id: &str, file: &str) -> Answer {
    let jobs = jobs.lock();
    let job = jobs.jobs.get(id).filter(|_| file == format!("{id}.zip"));
    let zip = job
        .and_then(|job| job.result.clone())
        .ok_or_else(not_found)?;
    Ok(Response::bytes(200, "application/zip", zip))
}
