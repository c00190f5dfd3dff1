//! A CRM that quotes what it was sent: the credentials of a request, in all forms, in its own
//! messages.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::http::{Request, Response};

/// What messages are called, by whatever vendor.
const MESSAGES: [&str; 8] = [
    "message",
    "error_description",
    "error_info",
    "error",
    "detail",
    "description",
    "Message",
    "suggested_fix",
];

/// An answer whose messages say with which credentials it was asked for.
pub fn quoting(request: &Request, mut response: Response) -> Response {
    let text = quotes(request);
    match serde_json::from_slice::<Value>(&response.body) {
        Ok(mut body) => {
            append(&mut body, &text);
            response.body = body.to_string().into();
        }
        Err(_) => response.body = [&response.body[..], text.as_bytes()].concat().into(),
    }
    response
}

fn append(body: &mut Value, text: &str) {
    match body {
        Value::Object(entries) => {
            for (name, value) in entries {
                match value {
                    Value::String(message) if MESSAGES.contains(&name.as_str()) => {
                        message.push_str(text);
                    }
                    // An OAuth code stays what it is; a list of texts is no message.
                    other => append(other, text),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| append(item, text)),
        _ => {}
    }
}

fn quotes(request: &Request) -> String {
    let mut secrets = Vec::new();
    for name in ["authorization", "x-api-token", "x-api-key"] {
        if let Some(value) = request.header(name) {
            secrets.push(value.to_owned());
            secrets.extend(value.split_once(' ').map(|(_, token)| token.to_owned()));
        }
    }
    for (name, value) in request.form() {
        if ["client_secret", "refresh_token", "assertion"].contains(&name.as_str()) {
            secrets.push(value);
        }
    }
    let mut text = String::new();
    for secret in secrets {
        let json = serde_json::to_string(&secret).unwrap_or_default();
        for form in [
            STANDARD.encode(&secret),
            URL_SAFE_NO_PAD.encode(&secret),
            utf8_percent_encode(&secret, NON_ALPHANUMERIC).to_string(),
            hex::encode(&secret),
            json,
            secret,
        ] {
            text += &format!(" {form};");
        }
    }
    text
}
