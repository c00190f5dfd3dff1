//! Salesforce's errors in its three shapes: the array of a failed request, the entry of a failed
//! record, the text of a failed CSV row.

use crate::http::Response;
use crate::schema::Field;
use crate::value::Misfit;
use serde_json::{Value, json};
use thiserror::Error;

#[derive(Debug, Clone, Error)]
#[error("{code}: {message}")]
pub struct SfError {
    pub status: u16,
    pub code: String,
    pub message: String,
    pub fields: Vec<String>,
    /// What a duplicate rule found.
    pub duplicates: Option<Value>,
}

impl SfError {
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
            fields: Vec::new(),
            duplicates: None,
        }
    }

    pub fn of_field(code: &str, message: impl Into<String>, field: &str) -> Self {
        Self {
            fields: vec![field.to_owned()],
            ..Self::new(400, code, message)
        }
    }

    pub fn not_found() -> Self {
        Self::new(404, "NOT_FOUND", "The requested resource does not exist")
    }

    pub fn unknown_field(name: &str, object: &str) -> Self {
        let message = format!("No such column '{name}' on sobject of type {object}");
        Self::new(400, "INVALID_FIELD", message)
    }

    pub fn unparsable(message: impl Into<String>) -> Self {
        Self::new(400, "JSON_PARSER_ERROR", message)
    }

    pub fn method(method: &str, allowed: &str) -> Self {
        let message = format!("HTTP Method '{method}' not allowed. Allowed are {allowed}");
        Self::new(405, "METHOD_NOT_ALLOWED", message)
    }

    /// The whole request failed.
    pub fn response(&self) -> Response {
        Response::json(self.status, &json!([self.shown()]))
    }

    /// The entry of a failed request.
    pub fn shown(&self) -> Value {
        let mut entry = json!({"message": self.message, "errorCode": self.code});
        if !self.fields.is_empty() {
            entry["fields"] = json!(self.fields);
        }
        if let Some(found) = &self.duplicates {
            entry["duplicateResult"] = found.clone();
        }
        entry
    }

    /// One record of a request failed.
    pub fn entry(&self) -> Value {
        json!({"statusCode": self.code, "message": self.message, "fields": self.fields})
    }

    /// One row of a bulk job failed.
    pub fn cell(&self) -> String {
        format!(
            "{}:{}:{} --",
            self.code,
            self.message,
            self.fields.join(",")
        )
    }

    /// Whether Salesforce gives up the whole request because it cannot even read the record.
    pub fn spoils_request(&self) -> bool {
        self.code == "JSON_PARSER_ERROR"
    }
}

/// Words a value that does not fit, as Salesforce does.
pub fn misfit(field: &Field, shown: &str, misfit: Misfit) -> SfError {
    let (name, label) = (field.name(), field.label());
    match misfit {
        Misfit::Type => SfError::unparsable(format!(
            "Cannot deserialize instance of {} from VALUE_STRING value {shown} or request may be \
             missing a required field at [line:1, column:1]",
            field.spec.native
        )),
        Misfit::TooLong { limit } => {
            let start: String = shown.chars().take(255).collect();
            let message = format!("{label}: data value too large: {start} (max length={limit})");
            SfError::of_field("STRING_TOO_LONG", message, name)
        }
        Misfit::Choice { value } => {
            let message = format!("{label}: bad value for restricted picklist field: {value}");
            SfError::of_field("INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", message, name)
        }
        Misfit::Email => {
            let message = format!("{label}: invalid email address: {shown}");
            SfError::of_field("INVALID_EMAIL_ADDRESS", message, name)
        }
        Misfit::Range => {
            let message =
                format!("{label}: value outside of valid range on numeric field: {shown}");
            SfError::of_field("NUMBER_OUTSIDE_VALID_RANGE", message, name)
        }
    }
}
