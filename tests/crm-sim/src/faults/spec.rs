//! Faults as `POST /faults` takes them.

use crate::admin::By;
use hyper::header::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Drop {
    /// The request is not applied.
    Before,
    /// Applied, then the connection closes without an answer.
    After,
    /// Applied, then half of the answer.
    Partial,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Times {
    Count(u64),
    Word(String),
}

/// As `POST /faults` takes it.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct FaultSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Part of the path and query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_regex: Option<String>,
    /// Part of the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_contains: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<Times>,
    /// Lets this many matching requests through first.
    pub skip: u64,
    /// Chance of acting, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<serde_json::Value>,
    /// A text in `body` is sent as Latin-1: with anything beyond ASCII in it, it is no UTF-8.
    pub latin1: bool,
    /// With `status`: the request is applied, only its answer is replaced.
    pub applied: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Holds the answer back after the request was applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop: Option<Drop>,
    pub expire_tokens: bool,
    /// The messages of the answer quote the request's credentials, in all forms.
    pub echo: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_records: Option<RecordSpec>,
    /// Somebody edits a record just then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edit: Option<EditSpec>,
}

/// An edit that comes right before or right after a request is handled.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EditSpec {
    pub object: String,
    pub id: String,
    #[serde(default)]
    pub fields: serde_json::Map<String, serde_json::Value>,
    pub when: When,
    #[serde(default)]
    pub by: By,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    Before,
    After,
}

/// Records that fail, by CRM id or by the value of any unique field; none named means all.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordSpec {
    pub ids: Vec<String>,
    pub keys: Vec<String>,
    pub code: String,
    pub message: String,
    pub fields: Vec<String>,
}

#[derive(Debug, Error)]
pub enum FaultError {
    #[error(
        "a fault must do something: status, delay_ms, delay_after_ms, drop, expire_tokens, echo, fail_records or edit"
    )]
    Idle,
    #[error("times must be a whole number or \"unlimited\", not \"{0}\"")]
    Times(String),
    #[error("path_regex: {0}")]
    Regex(#[from] regex::Error),
    #[error("status must be from 200 to 599")]
    Status,
    #[error("fail_records needs a code")]
    Codeless,
    #[error("edit needs a \"vendor\" to match, since objects are a vendor's")]
    Vendorless,
    #[error("a fault has fail_records or edit, not both: each counts its times in its own way")]
    Both,
    #[error("chance must be from 0 to 1")]
    Chance,
    #[error("header {0} is not a valid header")]
    Header(String),
}

pub fn check(spec: &FaultSpec) -> Result<(), FaultError> {
    let idle = spec.status.is_none()
        && spec.delay_ms.is_none()
        && spec.delay_after_ms.is_none()
        && spec.drop.is_none()
        && !spec.expire_tokens
        && !spec.echo
        && spec.fail_records.is_none()
        && spec.edit.is_none();
    if idle {
        return Err(FaultError::Idle);
    }
    if spec.edit.is_some() && spec.vendor.is_none() {
        return Err(FaultError::Vendorless);
    }
    if spec.edit.is_some() && spec.fail_records.is_some() {
        return Err(FaultError::Both);
    }
    if spec.status.is_some_and(|s| !(200..600).contains(&s)) {
        return Err(FaultError::Status);
    }
    if spec
        .fail_records
        .as_ref()
        .is_some_and(|r| r.code.is_empty())
    {
        return Err(FaultError::Codeless);
    }
    if spec.chance.is_some_and(|c| !(0.0..=1.0).contains(&c)) {
        return Err(FaultError::Chance);
    }
    for (name, value) in &spec.headers {
        let sound = HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok();
        if !sound {
            return Err(FaultError::Header(name.clone()));
        }
    }
    Ok(())
}

/// How often it is to act; `u64::MAX` is without end.
pub fn times(spec: &FaultSpec) -> Result<u64, FaultError> {
    match &spec.times {
        None => Ok(1),
        Some(Times::Count(count)) => Ok(*count),
        Some(Times::Word(word)) if word == "unlimited" => Ok(u64::MAX),
        Some(Times::Word(word)) => Err(FaultError::Times(word.clone())),
    }
}
