//! Salesforce's errors: one table for what a REST call, a record of a collection and a row of a
//! bulk job are refused with, and the three shapes in which they come.

use crm_domain::{ErrorClass, Failure};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::Response;
use crate::errors::{self, Rule, VendorError, undocumented};

use ErrorClass::{Auth, Conflict, Internal, Mapping, NotFound, RateLimited, Transient, Validation};

/// Status codes of the REST API Developer Guide ("Status Codes and Error Responses") and of the
/// SOAP API's `StatusCode`, which collections and bulk rows share. Order is priority among rows of
/// one code.
pub(crate) const TABLE: &[Rule] = &[
    // The session, the user, the org.
    Rule::new(Auth, "INVALID_SESSION_ID").connection(),
    Rule::new(Auth, "INVALID_AUTH_HEADER").connection(),
    Rule::new(Auth, "INVALID_LOGIN").connection(),
    Rule::new(Auth, "API_DISABLED_FOR_ORG").connection(),
    Rule::new(Auth, "API_CURRENTLY_DISABLED").connection(),
    Rule::new(Auth, "ORG_LOCKED").connection(),
    Rule::new(Auth, "PASSWORD_LOCKOUT").connection(),
    // The budget: 24 hours rolling frees a little at any time, so ask again each quarter of an
    // hour.
    Rule::new(RateLimited, "REQUEST_LIMIT_EXCEEDED")
        .says("TotalRequests")
        .connection()
        .wait(15 * 60),
    Rule::new(RateLimited, "REQUEST_LIMIT_EXCEEDED")
        .says("Concurrent")
        .connection()
        .wait(5),
    Rule::new(RateLimited, "REQUEST_LIMIT_EXCEEDED")
        .connection()
        .wait(60),
    Rule::new(RateLimited, "EXCEEDEDQUOTA")
        .connection()
        .wait(15 * 60),
    Rule::new(RateLimited, "ApiBatchItems")
        .connection()
        .wait(15 * 60),
    // Passing trouble of the server.
    Rule::new(Transient, "SERVER_UNAVAILABLE").connection(),
    Rule::new(Transient, "QUERY_TIMEOUT"),
    Rule::new(Transient, "REQUEST_RUNNING_TOO_LONG"),
    Rule::new(Transient, "UNKNOWN_EXCEPTION"),
    Rule::new(Transient, "APEX_ERROR"),
    Rule::new(Transient, "UNABLE_TO_LOCK_ROW"),
    Rule::new(Transient, "TRANSACTION_QUOTA_EXCEEDED"),
    // Innocent records that shared a transaction with a guilty one.
    Rule::new(Transient, "ALL_OR_NONE_OPERATION_ROLLED_BACK"),
    Rule::new(Transient, "PROCESSING_HALTED"),
    // A trigger or a flow of the customer's refused; what it met may be passing.
    Rule::new(Transient, "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY").says("UNABLE_TO_LOCK_ROW"),
    Rule::new(Mapping, "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY"),
    Rule::new(Mapping, "CANNOT_EXECUTE_FLOW_TRIGGER"),
    Rule::new(Mapping, "TXN_SECURITY_NO_ACCESS"),
    Rule::new(Mapping, "TXN_SECURITY_RUNTIME_EXCEPTION"),
    // The value breaks a rule of the CRM's.
    Rule::new(Validation, "FIELD_CUSTOM_VALIDATION_EXCEPTION"),
    Rule::new(Validation, "FIELD_FILTER_VALIDATION_EXCEPTION"),
    Rule::new(Validation, "FIELD_INTEGRITY_EXCEPTION"),
    Rule::new(Validation, "STRING_TOO_LONG"),
    Rule::new(Validation, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"),
    Rule::new(Validation, "NUMBER_OUTSIDE_VALID_RANGE"),
    Rule::new(Validation, "INVALID_EMAIL_ADDRESS"),
    Rule::new(Validation, "INACTIVE_OWNER_OR_USER"),
    Rule::new(Validation, "DELETE_FAILED"),
    Rule::new(Validation, "STORAGE_LIMIT_EXCEEDED"),
    Rule::new(Validation, "LIMIT_EXCEEDED"),
    Rule::new(Validation, "EXCEEDED_ID_LIMIT"),
    // The mapping names what is not there, or sends what cannot be there.
    Rule::new(Mapping, "REQUIRED_FIELD_MISSING"),
    Rule::new(Mapping, "INVALID_FIELD"),
    Rule::new(Mapping, "INVALID_FIELD_FOR_INSERT_UPDATE"),
    Rule::new(Mapping, "INVALID_TYPE_ON_FIELD_IN_RECORD"),
    Rule::new(Mapping, "INVALID_TYPE"),
    Rule::new(Mapping, "JSON_PARSER_ERROR"),
    Rule::new(Mapping, "MALFORMED_ID"),
    Rule::new(Mapping, "MALFORMED_QUERY"),
    Rule::new(Mapping, "INVALID_QUERY_FILTER_OPERATOR"),
    // Rights of one record or field: a person mends them, the other records go on.
    Rule::new(Mapping, "INSUFFICIENT_ACCESS_OR_READONLY"),
    Rule::new(Mapping, "INSUFFICIENT_ACCESS_ON_CROSS_REFERENCE_ENTITY"),
    Rule::new(Mapping, "CANNOT_UPDATE_CONVERTED_LEAD"),
    // Another record, or another writer, is in the way.
    Rule::new(Conflict, "DUPLICATE_VALUE"),
    Rule::new(Conflict, "DUPLICATES_DETECTED"),
    Rule::new(Conflict, "DUPLICATE_EXTERNAL_ID"),
    Rule::new(Conflict, "ENTITY_IS_LOCKED"),
    // The record is gone; or, if a field is named, what that field refers to is.
    Rule::new(Mapping, "ENTITY_IS_DELETED").names_field(),
    Rule::new(NotFound, "ENTITY_IS_DELETED"),
    Rule::new(Mapping, "INVALID_CROSS_REFERENCE_KEY").names_field(),
    Rule::new(NotFound, "INVALID_CROSS_REFERENCE_KEY"),
    Rule::new(Mapping, "NOT_FOUND").says("external ID field"),
    Rule::new(NotFound, "NOT_FOUND"),
    // Bulk jobs: codes of REST errors, and of a failed job's `errorMessage`.
    Rule::new(Mapping, "InvalidBatch"),
    Rule::new(Mapping, "INVALIDENTITY"),
    Rule::new(Mapping, "INVALIDJOB"),
    Rule::new(Mapping, "FEATURENOTENABLED"),
    Rule::new(Internal, "INVALIDJOBSTATE"),
    Rule::new(Transient, "INTERNAL_SERVER_ERROR"),
    Rule::new(Transient, "InternalServerError"),
];

/// An error of a REST answer (`errorCode`) or of a record of a collection (`statusCode`).
#[derive(Deserialize)]
pub(crate) struct ErrorItem {
    #[serde(rename = "errorCode", alias = "statusCode", default)]
    code: String,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    fields: Option<Vec<String>>,
}

impl From<ErrorItem> for VendorError {
    fn from(item: ErrorItem) -> VendorError {
        let fields = item.fields.unwrap_or_default();
        VendorError {
            codes: Vec::from_iter(Some(item.code).filter(|code| !code.is_empty())),
            message: item.message.unwrap_or_default(),
            names_field: fields.iter().any(|field| names_field(field)),
        }
    }
}

/// Whether a complaint's field is one of the record's own and not its id.
fn names_field(field: &str) -> bool {
    !field.trim().is_empty() && !field.trim().eq_ignore_ascii_case("Id")
}

/// The failure of a request as a whole.
pub(crate) fn of_response(response: &Response) -> Option<Failure> {
    if response.is_success() {
        return None;
    }
    if let Some(failure) = undocumented(response).filter(|_| response.status != 300) {
        return Some(failure);
    }
    let body = match response.json() {
        Some(Json::Array(items)) => items.into_iter().next(),
        // Some errors (a token's, an edge's) come as one object.
        body => body,
    };
    let vendor_error = body
        .and_then(|body| serde_json::from_value::<ErrorItem>(body).ok())
        .map(VendorError::from)
        .unwrap_or_default();
    if vendor_error.codes.is_empty() && response.status != 300 {
        return Some(errors::foreign_body(response));
    }
    if response.status == 300 {
        let message = "the external id belongs to several records of the CRM".to_owned();
        let codes = vec!["DUPLICATE_EXTERNAL_ID".to_owned()];
        let vendor_error = VendorError {
            codes,
            message,
            names_field: false,
        };
        return Some(errors::classify(TABLE, &vendor_error, 300));
    }
    Some(errors::classify_response(TABLE, &vendor_error, response))
}

/// Passes a success, and fails with what any other response states.
pub(crate) fn check(response: &Response) -> Result<(), Failure> {
    of_response(response).map_or(Ok(()), Err)
}

/// The failure of a record that a collection refused. What no table knows is the record's own
/// fault.
pub(crate) fn of_record(errors: Vec<ErrorItem>) -> Failure {
    let vendor_error = errors
        .into_iter()
        .next()
        .map(VendorError::from)
        .unwrap_or_default();
    errors::classify(TABLE, &vendor_error, 400)
}

/// The failure of a bulk row, told as `CODE:message:fields --`.
pub(crate) fn of_row(text: &str) -> Failure {
    let (code, rest) = text.split_once(':').unwrap_or(("", text));
    let rest = rest.trim_end().trim_end_matches("--").trim_end();
    let (message, fields) = rest.rsplit_once(':').unwrap_or((rest, ""));
    let vendor_error = VendorError {
        codes: vec![code.trim().to_owned()],
        message: message.to_owned(),
        names_field: names_field(fields),
    };
    errors::classify(TABLE, &vendor_error, 400)
}

/// The failure of a bulk job, told as `Code : message`.
pub(crate) fn of_job(state: &str, message: &str) -> Failure {
    let known = |code: &&str| TABLE.iter().any(|rule| rule.code == *code);
    let code = message.split([':', ' ']).next().filter(known);
    let vendor_error = VendorError {
        codes: code.map(str::to_owned).into_iter().collect(),
        message: format!("the bulk job ended {state}: {message}"),
        names_field: false,
    };
    let failure = errors::classify(TABLE, &vendor_error, 500);
    match code {
        Some(_) => failure,
        None => Failure {
            code: format!("job_{}", state.to_ascii_lowercase()),
            ..failure
        },
    }
}
