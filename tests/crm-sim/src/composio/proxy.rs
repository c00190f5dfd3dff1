//! Proxy execute: a request of a CRM inside one of the broker's.

use super::{Accounts, refusal};
use crate::http::{Request, Response};
use crate::server::exchange;
use crate::vendor::Sim;
use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    endpoint: String,
    method: String,
    connected_account_id: Option<String>,
    body: Option<Value>,
    #[serde(default)]
    parameters: Vec<Parameter>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameter {
    name: String,
    value: String,
    r#type: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Place {
    Header,
    Query,
}

const METHODS: [&str; 6] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"];

pub async fn execute(
    sim: &Sim,
    accounts: &Accounts,
    request: &Request,
) -> Result<Response, Response> {
    let order: Order = serde_json::from_slice(&request.body).map_err(|error| {
        refusal(
            400,
            &format!("Validation error: {error}"),
            "Check the arguments",
        )
    })?;
    if !METHODS.contains(&order.method.as_str()) {
        return Err(refusal(
            400,
            "Validation error: method",
            "Check the arguments",
        ));
    }
    let Some(id) = &order.connected_account_id else {
        return Err(refusal(
            400,
            "MissingAuthContext: no connected account was given",
            "",
        ));
    };
    let account = accounts.fit(id)?;
    let vendor = sim
        .vendor(account.toolkit)
        .expect("an account is a vendor's");
    let tokens = &vendor.services().tokens;
    let account = accounts.refreshed(id, account, tokens, sim.clock.now())?;
    let host = format!("{}.test", account.toolkit);
    let inner = inner(&order, &host, &account.access_token)?;
    let Ok(answered) = exchange(sim, vendor.as_ref(), &host, &inner).await else {
        return Err(refusal(502, "Failed to reach the provider", ""));
    };
    if answered.half {
        return Err(refusal(502, "The provider's answer broke off", ""));
    }
    let response = answered.response;
    let headers: Map<String, Value> = response
        .headers
        .iter()
        .map(|(name, value)| (name.to_lowercase(), value.as_str().into()))
        .chain([(
            "date".to_owned(),
            crate::clock::http_date(sim.clock.now()).into(),
        )])
        .collect();
    let data = match response.body.is_empty() {
        true => Value::Null,
        false => serde_json::from_slice(&response.body)
            .unwrap_or_else(|_| String::from_utf8_lossy(&response.body).into()),
    };
    let told = json!({"status": response.status, "data": data, "headers": headers});
    Ok(Response::json(200, &told))
}

fn inner(order: &Order, host: &str, token: &str) -> Result<Request, Response> {
    let endpoint = match order.endpoint.split_once("://") {
        None => order.endpoint.as_str(),
        Some(("http" | "https", rest)) if rest.starts_with(&format!("{host}/")) => {
            &rest[host.len()..]
        }
        Some(_) => {
            let why = "OriginMismatch: the endpoint is not of the connected account's origin";
            return Err(refusal(400, why, "Use a relative path"));
        }
    };
    if !endpoint.starts_with('/') {
        return Err(refusal(
            400,
            "Validation error: endpoint",
            "Begin it with a slash",
        ));
    }
    let (path, query) = endpoint.split_once('?').unwrap_or((endpoint, ""));
    let mut query = vec![query.to_owned()];
    let mut headers = HeaderMap::new();
    let invalid = |_| refusal(400, "Validation error: a header", "");
    let text = |text: &str| {
        HeaderValue::from_str(text).map_err(|_| refusal(400, "Validation error: a header", ""))
    };
    if order.body.as_ref().is_some_and(|body| !body.is_string()) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    for parameter in &order.parameters {
        match parameter.r#type {
            Place::Header => {
                let name = HeaderName::try_from(&parameter.name).map_err(invalid)?;
                headers.insert(name, text(&parameter.value)?);
            }
            Place::Query => {
                let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
                query.push(format!(
                    "{}={}",
                    encoded(&parameter.name),
                    encoded(&parameter.value)
                ));
            }
        }
    }
    headers.insert(HOST, text(host)?);
    headers.insert(AUTHORIZATION, text(&format!("Bearer {token}"))?);
    query.retain(|part| !part.is_empty());
    Ok(Request {
        method: order.method.parse().expect("one of the known methods"),
        path: path.to_owned(),
        query: query.join("&"),
        headers,
        body: match &order.body {
            None => Bytes::new(),
            Some(Value::String(text)) => text.clone().into(),
            Some(json) => json.to_string().into(),
        },
    })
}
