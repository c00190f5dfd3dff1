//! Canonical values and their hashes, for SQL.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crm_domain::{DataType, Value, canonical, snapshot, validation, value};
use pgrx::prelude::*;
use pgrx::{JsonB, PgSqlErrorCode};

use super::document::Document;
use super::raise;

/// BLAKE3 of the canonical form of a JSON value.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm")]
pub fn hash(value: Document) -> Vec<u8> {
    canonical::hash(&value.0).as_bytes().to_vec()
}

/// Characters as CRMs count them.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm_internal")]
fn text_length(text: &str) -> i32 {
    validation::utf16_length(text) as i32
}

/// What a CRM is sent for a text: NULL for a blank one.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm_internal")]
fn filled(text: &str) -> Option<String> {
    value::filled(text).map(Cow::into_owned)
}

/// The words of a multi-choice column, or of an array as JSON: NULL if there is none.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm_internal")]
fn words(text: &str) -> Option<Vec<String>> {
    match Value::from_postgres(DataType::MultiChoice, Some(text)) {
        Ok(Value::MultiChoice(words)) => Some(words.into_iter().collect()),
        Ok(_) => None,
        // What cannot be read is no choice that a rule allows.
        Err(_) => Some(vec![text.to_owned()]),
    }
}

/// The one spelling of a record's id, where a provider's CRM knows several.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm_internal")]
fn canonical_id(provider: &str, id: &str) -> String {
    match crm_provider::provider(provider) {
        Some(provider) => provider.record_id(id),
        None => id.to_owned(),
    }
}

/// What the ids of a provider's records look like, if the text cannot be one; NULL: it can.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm_internal")]
fn record_id_trouble(provider: &str, id: &str) -> Option<String> {
    let form = crm_provider::provider(provider)?.record_id_form();
    (!form.fits(id)).then(|| form.to_string())
}

/// Why a JSON value cannot be the default of a field of that type; NULL: it can, or there is none.
#[pg_extern(immutable, parallel_safe, schema = "crm_internal")]
fn default_trouble(
    provider: Option<&str>,
    data_type: Option<&str>,
    value: Option<Document>,
) -> Option<String> {
    let Document(value) = value?;
    let data_type: DataType = data_type?.parse().ok()?;
    match Value::from_json(data_type, &value) {
        Ok(Value::Null) => Some("It is empty.".to_owned()),
        Ok(value) => {
            let why = crm_provider::provider(provider?)?.unstorable_reason(&value)?;
            Some(format!("The CRM cannot store it: {why}."))
        }
        Err(error) => Some(format!("It is not one: {error}.")),
    }
}

/// The named fields of a CRM object in a provider's form, as canonical values.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm_internal")]
fn canonical_object(
    object: Document,
    provider: &str,
    fields: Vec<String>,
    data_types: Vec<String>,
) -> JsonB {
    let Some(provider) = crm_provider::provider(provider) else {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("provider \"{provider}\" is not known"),
            None,
            &super::check::known_providers(),
        )
    };
    let Some(object) = object.0.as_object() else {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "a CRM object is a JSON object of field -> value".to_owned(),
            None,
            "For HubSpot, pass the object under \"properties\".",
        )
    };
    let mut snapshot = BTreeMap::new();
    for (field, data_type) in fields.into_iter().zip(data_types) {
        let data_type: DataType = data_type.parse().unwrap_or(DataType::Text);
        match provider.from_wire(
            data_type,
            object.get(&field).unwrap_or(&serde_json::Value::Null),
        ) {
            Ok(value) => snapshot.insert(field, value),
            Err(error) => raise(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("field \"{field}\" does not hold a {data_type}"),
                Some(error.to_string()),
                "The field's data_type in crm.field_map must match the CRM's.",
            ),
        };
    }
    JsonB(snapshot::json(&snapshot))
}

extension_sql!(
    r#"
COMMENT ON FUNCTION crm.hash(jsonb) IS
    'BLAKE3 hash (32 bytes) of the canonical form: keys sorted, numbers by value, so that 100, 100.0 and 1e2 have one hash';
COMMENT ON FUNCTION crm_internal.text_length(text) IS 'length of a text as CRMs count it, in UTF-16 code units';
COMMENT ON FUNCTION crm_internal.filled(text) IS
    'a text as it is sent to a CRM: trimmed (Unicode white space and control characters), line ends LF; NULL: nothing is left';
COMMENT ON FUNCTION crm_internal.words(text) IS 'the choices of a multi_choice value (A;B;C, or a JSON array) as they are sent to a CRM; NULL: there is none';
COMMENT ON FUNCTION crm_internal.canonical_object(jsonb, text, text[], text[]) IS 'canonical values of the fields of a CRM record given in a provider''s form';
COMMENT ON FUNCTION crm_internal.default_trouble(text, text, jsonb) IS 'why a create_default cannot be sent to a provider''s CRM; NULL: it can';
COMMENT ON FUNCTION crm_internal.canonical_id(text, text) IS 'the canonical form of a record id, if the CRM accepts several (Salesforce: 15 and 18 characters)';
COMMENT ON FUNCTION crm_internal.record_id_trouble(text, text) IS 'what ids of the provider''s records look like; NULL: the text can be one';
"#,
    name = "values_comments",
    requires = [
        hash,
        text_length,
        filled,
        words,
        canonical_object,
        default_trouble,
        canonical_id,
        record_id_trouble
    ]
);
