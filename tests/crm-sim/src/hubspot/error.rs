//! HubSpot's error body, of a whole request and of part of a batch.

use crate::http::Response;
use serde_json::{Value as Json, json};
use thiserror::Error;

#[derive(Debug, Clone, Error)]
#[error("{category}: {message}")]
pub struct HsError {
    pub status: u16,
    pub category: String,
    pub sub_category: Option<&'static str>,
    pub message: String,
    pub errors: Box<[Json]>,
    pub context: Json,
}

/// What is wrong with one property.
#[derive(Debug, Clone)]
pub struct Breach {
    pub name: String,
    pub code: &'static str,
    pub message: String,
}

impl HsError {
    pub fn new(status: u16, category: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            category: category.to_owned(),
            sub_category: None,
            message: message.into(),
            errors: Box::default(),
            context: Json::Null,
        }
    }

    pub fn validation(message: impl Into<String>) -> Self {
        Self::new(400, "VALIDATION_ERROR", message)
    }

    pub fn not_found(id: &str) -> Self {
        let message = format!("Object not found.  objectId are usually numeric. ({id})");
        Self::new(404, "OBJECT_NOT_FOUND", message)
    }

    pub fn no_resource() -> Self {
        Self::new(404, "OBJECT_NOT_FOUND", "resource not found")
    }

    pub fn method() -> Self {
        Self::new(405, "METHOD_NOT_ALLOWED", "HTTP 405 Method Not Allowed")
    }

    /// Bad properties; the message embeds the list as JSON text, as HubSpot's does.
    pub fn properties(breaches: &[Breach]) -> Self {
        let listed: Vec<_> = breaches
            .iter()
            .map(|breach| {
                json!({
                    "isValid": false,
                    "message": breach.message,
                    "error": breach.code,
                    "name": breach.name,
                    "localizedErrorMessage": breach.message,
                })
            })
            .collect();
        let errors = breaches
            .iter()
            .map(|breach| {
                json!({
                    "message": breach.message,
                    "code": breach.code,
                    "context": {"propertyName": [breach.name]},
                })
            })
            .collect();
        let message = format!("Property values were not valid: {}", Json::from(listed));
        Self {
            errors,
            ..Self::validation(message)
        }
    }

    pub fn response(&self) -> Response {
        let mut body = json!({
            "status": "error",
            "message": self.message,
            "correlationId": correlation_id(),
            "category": self.category,
        });
        if let Some(sub_category) = self.sub_category {
            body["subCategory"] = sub_category.into();
        }
        if !self.errors.is_empty() {
            body["errors"] = json!(self.errors);
        }
        if !self.context.is_null() {
            body["context"] = self.context.clone();
        }
        Response::json(self.status, &body)
    }
}

pub fn correlation_id() -> String {
    let bits = fastrand::u128(..);
    let hex = format!("{bits:032x}");
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}

/// The 429 body, which differs from every other error.
pub fn rate_limited(policy: &str) -> Response {
    let limit = policy.to_ascii_lowercase();
    Response::json(
        429,
        &json!({
            "status": "error",
            "message": format!("You have reached your {limit} limit."),
            "errorType": "RATE_LIMIT",
            "correlationId": correlation_id(),
            "policyName": policy,
            "requestId": correlation_id(),
        }),
    )
}
