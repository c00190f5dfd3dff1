//! Pipedrive as the simulator and the documents say it behaves.

mod changes;
mod describe;
mod errors;
mod history;
mod reads;
mod service;
mod upserts;
mod values;
mod webhooks;
mod writes;

use serde_json::{Value as Json, json};

use crate::Response;
use crate::scripted_server::answer;

/// The key of a custom field.
const KEY: &str = "d4de1c1518b4531717c676029a45911c340390a6";
const OTHER: &str = "0123456789abcdef0123456789abcdef01234567";

/// An answer that holds a record, or a list of them.
fn data(data: Json) -> Response {
    answer(200, &json!({ "success": true, "data": data }))
}

fn list(records: Json, next: Option<&str>) -> Response {
    let body =
        json!({ "success": true, "data": records, "additional_data": { "next_cursor": next } });
    answer(200, &body)
}

fn not_found() -> Response {
    let body = json!({ "success": false, "error": "Person not found", "data": null });
    answer(404, &body)
}
