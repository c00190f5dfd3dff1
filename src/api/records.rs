//! `crm_internal.crm_records()`: the records of a CRM's object, page by page.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::{Map as JsonMap, Value as Json, json};

use super::ask::{ask, pause};
use super::document::Document;
use super::raise;

/// How long a page is waited for, with all that the CRM makes us wait.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// How long a CRM that asks to wait is left alone at least.
const REST: Duration = Duration::from_secs(1);

type Record = (String, Option<String>, Option<JsonB>, Option<i64>);

/// Asks the worker for one page after another, as they are needed: one page is in memory.
#[pg_extern(volatile, parallel_unsafe, strict, schema = "crm_internal")]
#[expect(
    clippy::type_complexity,
    reason = "pgrx reads the columns from the type"
)]
fn crm_records(
    request: Document,
) -> TableIterator<
    'static,
    (
        name!(crm_id, String),
        name!(record_key, Option<String>),
        name!(fields, Option<JsonB>),
        name!(modified_at_ms, Option<i64>),
    ),
> {
    let Json::Object(mut request) = request.0 else {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "a request is a JSON object".to_owned(),
            None,
            "",
        )
    };
    request.insert("op".into(), json!("records"));
    let mut page = VecDeque::new();
    let mut more = true;
    TableIterator::new(std::iter::from_fn(move || {
        loop {
            if let Some(record) = page.pop_front() {
                return Some(record);
            }
            if !more {
                return None;
            }
            let mut answer = next_page(&request);
            more = answer["more"] == true;
            request.insert("since".into(), answer["next"].take());
            if let Json::Array(records) = answer["records"].take() {
                page.extend(records.into_iter().map(record));
            }
        }
    }))
}

fn record(mut record: Json) -> Record {
    let text = |json: &Json| json.as_str().map(str::to_owned);
    let fields = Some(record["fields"].take()).filter(|fields| !fields.is_null());
    (
        text(&record["id"]).unwrap_or_default(),
        text(&record["key"]),
        fields.map(JsonB),
        record["modified_at"].as_i64(),
    )
}

/// A page, however long the CRM asks to wait for it.
fn next_page(request: &JsonMap<String, Json>) -> Json {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = ask(request.clone(), left).unwrap_or_else(|| json!({}));
        if answer["records"].is_array() {
            return answer;
        }
        let failure = &answer["failure"];
        let wait = Duration::from_millis(failure["retry_after_ms"].as_u64().unwrap_or_default());
        let wait = wait.max(REST);
        if failure["class"] != "rate_limited" || Instant::now() + wait > deadline {
            refuse(request, &answer)
        }
        pause(wait);
    }
}

fn refuse(request: &JsonMap<String, Json>, answer: &Json) -> ! {
    let failure = &answer["failure"];
    let word = |json: &Json| json.as_str().unwrap_or_default().to_owned();
    let object = request.get("object").map(word).unwrap_or_default();
    let detail = match failure.is_object() {
        true => format!("{} ({})", word(&failure["message"]), word(&failure["code"])),
        false => "no response in time".to_owned(),
    };
    match failure["class"].as_str() {
        Some("mapping") => raise(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("the CRM does not know \"{object}\", or one of its fields"),
            Some(detail),
            "They are the API names; crm.describe() lists an object's fields.",
        ),
        Some("validation") => raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("the records of \"{object}\" cannot be listed so"),
            Some(detail),
            "",
        ),
        _ => raise(
            PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE,
            format!("the CRM could not be queried for the records of \"{object}\""),
            Some(detail),
            "See crm.test_connection() and crm.status for the state of the connection.",
        ),
    }
}

extension_sql!(
    "COMMENT ON FUNCTION crm_internal.crm_records(jsonb) IS 'the records of an object of a CRM, which the worker is asked for page by page: {connection_id, object, fields: {name: data_type, empty: as the CRM describes it}, external_id_field, condition}. record_key: what external_id_field holds. Errors: as crm.records()';",
    name = "records_comments",
    requires = [crm_records]
);
