//! Dataverse's error object.

use crate::http::Response;
use serde_json::json;

#[derive(Debug, Clone)]
pub struct DataverseError {
    pub status: u16,
    pub code: String,
    pub message: String,
    wait_s: Option<i64>,
}

impl DataverseError {
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
            wait_s: None,
        }
    }

    /// What a body holds that does not fit its table.
    pub fn payload(set: &str, message: &str) -> Self {
        let text = format!(
            "Error identified in Payload provided by the user for Entity :'{set}', For more information on this error \
             please follow this help link https://go.microsoft.com/fwlink/?linkid=2195293 ----> InnerException : \
             Microsoft.OData.ODataException: {message}"
        );
        Self::new(400, "0x80048d19", text)
    }

    pub fn query(message: impl Into<String>) -> Self {
        Self::new(400, "0x80060888", message)
    }

    pub fn no_row(table: &str, id: &str) -> Self {
        let text = format!("Entity '{table}' With Id = {id} Does Not Exist");
        Self::new(404, "0x80040217", text)
    }

    pub fn no_segment(segment: &str) -> Self {
        let text = format!("Resource not found for the segment '{segment}'.");
        Self::new(404, "0x8006088a", text)
    }

    pub fn stale() -> Self {
        let text =
            "The version of the existing record doesn't match the RowVersion property provided.";
        Self::new(412, "0x80060882", text)
    }

    /// What the real one can do and this one cannot: a test must notice.
    pub fn not_simulated(what: &str) -> Self {
        Self::new(
            501,
            "0x80060888",
            format!("crm-sim does not simulate {what}"),
        )
    }

    pub fn limited(wait_s: i64) -> Self {
        let text = "Number of requests exceeded the limit of 6000 over time window of 300 seconds.";
        Self {
            wait_s: Some(wait_s),
            ..Self::new(429, "0x80072322", text)
        }
    }

    pub fn response(&self) -> Response {
        let body = json!({"error": {"code": self.code, "message": self.message}});
        let response = Response::json(self.status, &body);
        match self.wait_s {
            Some(seconds) => response.with("Retry-After", seconds.to_string()),
            None => response,
        }
    }
}
