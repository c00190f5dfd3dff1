//! HubSpot's errors: one table for its categories, the codes within them, and its rate limit's
//! policies; and the several bodies in which they come.

use crm_domain::{ErrorClass, Failure, Value};
use serde_json::{Value as Json, json};

use crate::errors::{self, Rule, VendorError, undocumented};
use crate::{Response, wire};

use ErrorClass::{Auth, Conflict, Mapping, NotFound, RateLimited, Transient, Validation};

/// The more telling codes come first: `VALIDATION_ERROR` alone says little of what is wrong.
pub(crate) const TABLE: &[Rule] = &[
    // Codes of one property, inside a VALIDATION_ERROR or inside its message.
    Rule::new(Mapping, "PROPERTY_DOESNT_EXIST"),
    Rule::new(Mapping, "READ_ONLY_VALUE"),
    Rule::new(Mapping, "REQUIRED_FIELD"),
    Rule::new(Mapping, "MISSING_REQUIRED_PROPERTY"),
    Rule::new(Conflict, "CONFLICTING_UNIQUE_VALUE"),
    Rule::new(Validation, "INVALID_OPTION"),
    Rule::new(Validation, "INVALID_EMAIL"),
    Rule::new(Validation, "INVALID_INTEGER"),
    Rule::new(Validation, "INVALID_LONG"),
    Rule::new(Validation, "INVALID_DOUBLE"),
    Rule::new(Validation, "INVALID_NUMBER"),
    Rule::new(Validation, "INVALID_BOOLEAN"),
    Rule::new(Validation, "INVALID_DATE"),
    Rule::new(Validation, "INVALID_DATETIME"),
    Rule::new(Validation, "INVALID_PHONE_NUMBER"),
    Rule::new(Validation, "INVALID_URL"),
    Rule::new(Validation, "VALUE_TOO_LONG"),
    Rule::new(Validation, "NUMBER_OUT_OF_RANGE"),
    // Policies of the rate limit. The day's budget comes back at the portal's midnight: ask again
    // each quarter of an hour.
    Rule::new(RateLimited, "DAILY").connection().wait(15 * 60),
    Rule::new(RateLimited, "TEN_SECONDLY_ROLLING")
        .connection()
        .wait(10),
    Rule::new(RateLimited, "SECONDLY").connection().wait(1),
    Rule::new(RateLimited, "RATE_LIMIT").connection().wait(10),
    Rule::new(RateLimited, "RATE_LIMITS").connection().wait(10),
    // The token and its rights.
    Rule::new(Auth, "EXPIRED_AUTHENTICATION").connection(),
    Rule::new(Auth, "INVALID_AUTHENTICATION").connection(),
    Rule::new(Auth, "MISSING_SCOPES").connection(),
    Rule::new(Auth, "MISSING_PERMISSIONS").connection(),
    // A high volume of one account's changes; wait for 2 seconds at least.
    Rule::new(Transient, "LOCKED").connection().wait(2),
    Rule::new(Transient, "MIGRATION_IN_PROGRESS").connection(),
    // Of one input of a batch, where no status tells that it passes.
    Rule::new(Transient, "INTERNAL_ERROR"),
    Rule::new(NotFound, "OBJECT_NOT_FOUND"),
    Rule::new(Conflict, "CONFLICT"),
    Rule::new(Conflict, "OBJECT_ALREADY_EXISTS"),
    Rule::new(Conflict, "VALIDATION_ERROR").says("already has that value"),
    Rule::new(Conflict, "VALIDATION_ERROR").says("already exists"),
    Rule::new(Mapping, "VALIDATION_ERROR").says("infer object type"),
    Rule::new(Mapping, "VALIDATION_ERROR").says("does not exist"),
    Rule::new(Mapping, "VALIDATION_ERROR").says("Invalid input JSON"),
    Rule::new(Validation, "VALIDATION_ERROR"),
];

/// The failure of a request as a whole.
pub(crate) fn of_response(response: &Response) -> Option<Failure> {
    if response.is_success() {
        return None;
    }
    if let Some(failure) = undocumented(response) {
        return Some(failure);
    }
    let body = match response.json() {
        // A gateway before the API answers an expired token with a list of one error.
        Some(Json::Array(items)) => items.into_iter().next(),
        body => body,
    };
    let vendor_error = body
        .filter(Json::is_object)
        .map(|body| vendor_error(&body))
        .unwrap_or_default();
    if vendor_error.codes.is_empty() && vendor_error.message.is_empty() {
        return Some(defaults(response.status, errors::foreign_body(response)));
    }
    Some(defaults(
        response.status,
        errors::classify_response(TABLE, &vendor_error, response),
    ))
}

/// Passes a success, and fails with what any other response states.
pub(crate) fn check(response: &Response) -> Result<(), Failure> {
    of_response(response).map_or(Ok(()), Err)
}

/// 423 asks for 2 seconds at least, whatever its body.
fn defaults(status: u16, failure: Failure) -> Failure {
    match (status, failure.retry_after) {
        (423, None) => failure.after(Some(std::time::Duration::from_secs(2))),
        _ => failure,
    }
}

/// The failure that an error inside a batch's answer states, of the records it names.
pub(crate) fn of_records(error: &Json) -> Failure {
    errors::classify(TABLE, &vendor_error(error), 400)
}

/// What a refusal says of a property.
pub(crate) struct WrongProperty {
    pub name: String,
    pub failure: Failure,
    message: String,
    /// The value, where the refusal tells it apart.
    value: Option<String>,
}

/// The properties that a refusal names, in its inner errors or in those that its message quotes.
pub(crate) fn wrong_properties(response: &Response) -> Vec<WrongProperty> {
    let body = match response.json() {
        Some(Json::Array(mut items)) if !items.is_empty() => items.swap_remove(0),
        body => body.unwrap_or_default(),
    };
    let quoted = quoted_errors(body["message"].as_str().unwrap_or_default());
    let inner = body["errors"].as_array().into_iter().flatten();
    let one = |error: &Json| {
        let context = &error["context"];
        let word = |json: &Json| match json {
            Json::Array(words) => words.first().and_then(wire::scalar_text),
            word => wire::scalar_text(word),
        };
        let name = word(&error["name"]).or_else(|| word(&context["propertyName"]))?;
        let value = ["value", "propertyValue"].iter();
        Some(WrongProperty {
            failure: of_records(&json!({
                "code": error.get("code").or(error.get("error")),
                "message": format!("{name}: {}", error["message"].as_str().unwrap_or_default()),
            })),
            value: value.clone().find_map(|key| word(&context[*key])),
            message: error["message"].as_str().unwrap_or_default().to_owned(),
            name,
        })
    };
    inner.chain(&quoted).filter_map(one).collect()
}

impl WrongProperty {
    /// Whether the refusal is about this value: for certain, or not at all.
    pub fn concerns(&self, value: &Value) -> bool {
        let names = |text: &str| {
            let rest = self.message.strip_prefix(text);
            rest.is_some_and(|rest| rest.starts_with(" was not "))
                || self.message == format!("Email address {text} is invalid")
                || self.value.as_deref() == Some(text)
        };
        match (self.failure.code.as_str(), value) {
            ("PROPERTY_DOESNT_EXIST" | "READ_ONLY_VALUE", _) => true,
            ("REQUIRED_FIELD" | "MISSING_REQUIRED_PROPERTY", value) => value.is_null(),
            (_, Value::Null) => false,
            (_, Value::MultiChoice(words)) => words.iter().any(|word| names(word)),
            (_, value) => names(&wire::text(value)),
        }
    }
}

/// Everything in an error that may be a code: of its inner errors, of those that its message
/// quotes, and its own, the inmost first.
fn vendor_error(error: &Json) -> VendorError {
    let message = error["message"].as_str().unwrap_or_default();
    let quoted = quoted_errors(message);
    let inner = error["errors"].as_array().into_iter().flatten();
    let inner = inner.flat_map(|e| [&e["code"], &e["subCategory"]]);
    let in_message = quoted.iter().flat_map(|e| [&e["error"], &e["code"]]);
    let own = ["subCategory", "policyName", "category", "errorType", "code"].map(|key| &error[key]);
    let codes = inner
        .chain(in_message)
        .chain(own)
        .filter_map(Json::as_str)
        .filter(|code| !code.is_empty());
    VendorError {
        codes: codes.map(str::to_owned).collect(),
        message: in_words(message, &quoted),
        names_field: false,
    }
}

/// A message with what it quotes put into words: `Property values were not valid: email: no
/// address`.
fn in_words(message: &str, quoted: &[Json]) -> String {
    let Some((sentence, _)) = message.split_once("[{").filter(|_| !quoted.is_empty()) else {
        return message.to_owned();
    };
    let text = |json: &Json| json.as_str().unwrap_or("?").to_owned();
    let details: Vec<String> = quoted
        .iter()
        .map(|error| format!("{}: {}", text(&error["name"]), text(&error["message"])))
        .collect();
    format!("{sentence}{}", details.join("; "))
}

/// `Property values were not valid: [{"isValid":false,"error":"PROPERTY_DOESNT_EXIST",…}]`
fn quoted_errors(message: &str) -> Vec<Json> {
    let Some(at) = message.find("[{") else {
        return Vec::new();
    };
    let quoted = crate::json::in_sentence(&message[at..]);
    quoted
        .and_then(|json| json.as_array().cloned())
        .unwrap_or_default()
}
