//! Pipedrive's error bodies: those of version 2 have a code, those of version 1 a number.

use crate::http::Response;
use serde_json::json;

#[derive(Debug, Clone)]
pub struct PdError {
    pub status: u16,
    pub code: Option<&'static str>,
    pub message: String,
}

impl PdError {
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            code: None,
            message: message.into(),
        }
    }

    /// What is wrong with some parameters or fields, each as `name: what`.
    pub fn schema(breaches: &[String]) -> Self {
        Self {
            code: Some("ERR_SCHEMA_VALIDATION_FAILED"),
            ..Self::new(400, format!("Validation failed: {}", breaches.join("; ")))
        }
    }

    pub fn not_allowed(name: &str) -> String {
        format!("{name}: Parameter '{name}' is not allowed for this request")
    }

    pub fn not_found(word: &str) -> Self {
        let mut chars = word.chars();
        let first = chars.next().map(|c| c.to_ascii_uppercase());
        let word: String = first.into_iter().chain(chars).collect();
        Self::new(404, format!("{word} not found"))
    }

    /// What the real one can do and this one cannot: a test must notice.
    pub fn not_simulated(what: &str) -> Self {
        Self::new(501, format!("crm-sim does not simulate {what}"))
    }

    pub fn no_path() -> Self {
        Self::new(404, "Unknown method .")
    }

    pub fn response(&self) -> Response {
        let mut body = json!({
            "success": false,
            "error": self.message,
            "error_info": "Please check developers.pipedrive.com for more information about Pipedrive API.",
            "data": null,
            "additional_data": null,
        });
        match self.code {
            Some(code) => body["code"] = code.into(),
            None => body["errorCode"] = self.status.into(),
        }
        Response::json(self.status, &body)
    }
}
