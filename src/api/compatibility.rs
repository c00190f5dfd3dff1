//! Whether a mapping fits the CRM, as the domain judges it.

use crm_domain::Description;
use crm_domain::compatibility::{self, Mapping};
use pgrx::prelude::*;
use pgrx::{JsonB, PgSqlErrorCode};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::document::Document;
use super::{or_raise, raise};
use crate::store::config;
use crate::store::table::text_length;

/// What speaks against a mapping: a JSON list of field, severity, code, message and hint.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm_internal")]
fn judge_mapping(description: Document, mapping: Document) -> JsonB {
    let description: Description = read("description", description);
    let mapping: Mapping = read("mapping", mapping);
    match compatibility::judge(&description, &mapping) {
        Ok(findings) => JsonB(json!(findings)),
        Err(error) => unfit("mapping", &error.to_string()),
    }
}

/// A type, or what is beneath it if it is a domain, as `format_type` names it.
#[pg_extern(stable, strict, parallel_safe, schema = "crm_internal")]
fn type_beneath(type_id: pg_sys::Oid, modifier: i32) -> String {
    config::type_beneath(type_id, modifier)
}

/// The length of the longest text in a column, read as the table's owner; NULL: there is none.
#[pg_extern(volatile, strict, parallel_unsafe, schema = "crm_internal")]
fn longest_text(relation: pg_sys::Oid, column_name: &str) -> Option<i32> {
    or_raise(text_length::text(relation, column_name))
}

fn read<T: DeserializeOwned>(what: &str, json: Document) -> T {
    serde_json::from_value(json.0).unwrap_or_else(|error| unfit(what, &error.to_string()))
}

fn unfit(what: &str, why: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("this is no {what}: {why}"),
        None,
        "crm.check_mapping() and crm.map_field() make both.",
    )
}

extension_sql!(
    r#"
COMMENT ON FUNCTION crm_internal.judge_mapping(jsonb, jsonb) IS 'problems of a mapping (JSON array), given the CRM''s description of its object';
COMMENT ON FUNCTION crm_internal.type_beneath(oid, int) IS 'the name of a type, or of the base type of a domain, as in format_type()';
COMMENT ON FUNCTION crm_internal.longest_text(oid, text) IS 'length of the longest text in a column, in characters; reads the table as its owner';
"#,
    name = "fit_comments",
    requires = [judge_mapping, type_beneath, longest_text]
);
