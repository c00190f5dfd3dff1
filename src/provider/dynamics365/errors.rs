//! Dataverse's errors: one table for its codes, in whole answers and in the parts of a batch alike.
//! A code is a number of the platform and often empty; the status is what the rest goes by.

use crm_domain::{ErrorClass, Failure};

use crate::Response;
use crate::errors::{self, Rule, VendorError, undocumented};

use ErrorClass::{Auth, Conflict, Mapping, NotFound, RateLimited, Transient, Validation};

/// For errors without a code, which are told by their words.
const NO_CODE: &str = "0x0";

/// "Web service error codes", "Service protection API limits" and what "Compose HTTP requests and
/// handle errors" says of statuses.
pub(crate) const TABLE: &[Rule] = &[
    // The user behind the token is none of this environment's, or is disabled.
    Rule::new(Auth, "0x80072560").connection(),
    Rule::new(Auth, "0x80040204").connection(),
    Rule::new(Auth, "0x80040225").connection(),
    // Service protection: requests, time and concurrency within five minutes.
    Rule::new(RateLimited, "0x80072322").connection().wait(30),
    Rule::new(RateLimited, "0x80072321").connection().wait(30),
    Rule::new(RateLimited, "0x80072326").connection().wait(10),
    // Passing trouble.
    Rule::new(Transient, "0x80040216"),
    Rule::new(Transient, "0x80044150"),
    Rule::new(Transient, "0x80044151"),
    Rule::new(Transient, "0x80071151"),
    // The row is another one by now, or another row has the key.
    Rule::new(Conflict, Failure::STALE),
    Rule::new(Conflict, "0x80060892"),
    Rule::new(Conflict, THERE),
    Rule::new(Conflict, "0x80040333"),
    // Gone, or what a lookup names is.
    Rule::new(NotFound, "0x80040217"),
    Rule::new(NotFound, "0x80060891"),
    // The value, or the state of the row, breaks a rule of the CRM's.
    Rule::new(Mapping, "0x80048d19").says("undeclared property"),
    Rule::new(Mapping, "0x80048d19").says("Invalid property"),
    Rule::new(Mapping, "0x80048d19").says("does not exist on type"),
    Rule::new(Validation, "0x80048d19"),
    Rule::new(Validation, "0x80040265"),
    Rule::new(Validation, "0x80040203"),
    Rule::new(Validation, "0x8004431a"),
    Rule::new(Validation, "0x8004432f"),
    Rule::new(Validation, "0x80044330"),
    Rule::new(Validation, "0x80044331"),
    Rule::new(Validation, "0x80040227"),
    // The mapping names what is not there, or what cannot be done with it.
    Rule::new(Mapping, "0x80060888"),
    Rule::new(Mapping, "0x8006088a"),
    Rule::new(Mapping, "0x80060890"),
    Rule::new(Mapping, "0x80060883"),
    Rule::new(Mapping, "0x8006088d"),
    Rule::new(Mapping, NO_CODE).says("Could not find a property named"),
    Rule::new(Mapping, NO_CODE).says("Resource not found for the segment"),
    // Rights of one row or table: a person mends them, the other records go on.
    Rule::new(Mapping, "0x80040220"),
    Rule::new(Mapping, "0x80048306"),
];

/// A delta link has lapsed, or the table's definition is another by now: everything is to be read
/// again.
pub(super) const EXPIRED: &str = "0x80044352";

/// A row that was only to be made is there.
pub(super) const THERE: &str = "0x80040237";

/// The rows of the table that a status of 412 does not make a conflict with an earlier read.
const DUPLICATES: [&str; 3] = ["0x80060892", THERE, "0x80040333"];

const VERSION_MISMATCH: &str = "0x80060882";

/// The failure that an answer states, or a part of an answer.
pub(crate) fn of_response(response: &Response) -> Option<Failure> {
    if response.is_success() {
        return None;
    }
    if let Some(failure) = undocumented(response) {
        return Some(failure);
    }
    let body = response.json().unwrap_or_default();
    let Some(error) = body["error"].as_object() else {
        return Some(errors::foreign_body(response));
    };
    let text = |name: &str| error.get(name).and_then(|held| held.as_str());
    let code = text("code").unwrap_or_default().to_ascii_lowercase();
    let code = match code.as_str() {
        "" => NO_CODE,
        VERSION_MISMATCH => Failure::STALE,
        code => code,
    };
    let vendor_error = VendorError {
        codes: vec![code.to_owned()],
        message: text("message").unwrap_or_default().to_owned(),
        names_field: false,
    };
    Some(match DUPLICATES.contains(&code) {
        true => errors::classify(TABLE, &vendor_error, response.status),
        false => errors::classify_response(TABLE, &vendor_error, response),
    })
}

/// Passes a success, and fails with what any other response states.
pub(crate) fn check(response: &Response) -> Result<(), Failure> {
    of_response(response).map_or(Ok(()), Err)
}
