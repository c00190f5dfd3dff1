//! `/composite/batch`: requests that have nothing to do with one another.

use super::super::error::SfError;
use super::super::{Answer, Salesforce, rows};
use super::{MAX_REQUESTS, Run, headers, limit};
use crate::faults::RecordFaults;
use crate::http::{Request, Response};
use hyper::Method;
use serde_json::{Value as Json, json};

pub fn answer(sf: &Salesforce, request: &Request, records: &RecordFaults) -> Answer {
    let body = Json::Object(rows::body_map(request)?);
    let list = body["batchRequests"].as_array();
    let list = list.ok_or_else(|| SfError::unparsable("Required field missing: batchRequests"))?;
    if list.len() > MAX_REQUESTS {
        let message = format!("A batch can have up to {MAX_REQUESTS} subrequests");
        return Err(limit(message));
    }
    let run = Run { sf, records };
    let headers = headers(&Json::Null, request)?;
    let halting = body["haltOnError"] == true;
    let mut failed = false;
    let mut results = Vec::with_capacity(list.len());
    for entry in list {
        let text = |key: &str| entry[key].as_str().unwrap_or_default();
        let method = Method::from_bytes(text("method").as_bytes())
            .map_err(|_| SfError::unparsable("a subrequest needs a method"))?;
        let response = match failed && halting {
            true => {
                let message = "Batch processing halted per request";
                SfError::new(412, "BATCH_PROCESSING_HALTED", message).response()
            }
            false => {
                // Addresses begin with the version here.
                let url = match text("url") {
                    url if url.starts_with('/') => url.to_owned(),
                    url => format!("/services/data/{url}"),
                };
                let body = match &entry["richInput"] {
                    Json::Null => String::new(),
                    body => body.to_string(),
                };
                run.send(method, &url, &headers, body)
            }
        };
        failed |= response.status >= 300;
        let result: Json = serde_json::from_slice(&response.body).unwrap_or(Json::Null);
        results.push(json!({"statusCode": response.status, "result": result}));
    }
    let body = json!({"hasErrors": failed, "results": results});
    Ok(Response::json(200, &body))
}
