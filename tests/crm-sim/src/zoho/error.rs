//! Zoho's error object: of a request, or of a record within an answer.

use crate::http::Response;
use serde_json::{Value as Json, json};

#[derive(Debug, Clone)]
pub struct ZohoError {
    pub status: u16,
    pub code: String,
    pub message: String,
    pub details: Json,
}

impl ZohoError {
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
            details: json!({}),
        }
    }

    pub fn with(self, details: Json) -> Self {
        Self { details, ..self }
    }

    /// A field of a record that is wrong.
    pub fn field(code: &str, name: &str, more: Json) -> Self {
        let mut details = json!({"api_name": name});
        let more = more.as_object().cloned().unwrap_or_default();
        details.as_object_mut().expect("an object").extend(more);
        Self::new(400, code, "invalid data").with(details)
    }

    pub fn no_record(index: usize) -> Self {
        let path = format!("$.data[{index}].id");
        Self::new(400, "INVALID_DATA", "the id given seems to be invalid")
            .with(json!({"api_name": "id", "json_path": path}))
    }

    pub fn no_module() -> Self {
        Self::new(
            400,
            "INVALID_MODULE",
            "the module name given seems to be invalid",
        )
    }

    pub fn no_path() -> Self {
        Self::new(
            404,
            "INVALID_URL_PATTERN",
            "Please check if the URL trying to access is a correct one",
        )
    }

    pub fn shown(&self) -> Json {
        json!({"code": self.code, "details": self.details, "message": self.message, "status": "error"})
    }

    pub fn response(&self) -> Response {
        Response::json(self.status, &self.shown())
    }
}
