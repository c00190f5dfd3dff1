//! A mapped column.

use std::sync::Arc;

use crm_domain::mapping::{ConflictPolicy, Direction};
use crm_domain::{Column, ErrorClass, Failure, FieldDescription, Value, excerpt};
use crm_provider::Provider;
use crm_provider::record::Field;
use serde_json::Value as Json;

pub struct MappedField {
    pub id: u16,
    pub column: String,
    /// Schema-qualified where it has to be, with its modifier.
    pub column_type: String,
    pub field: Arc<Field>,
    /// Schema-qualified and quoted.
    pub transform_out: Option<String>,
    pub transform_in: Option<String>,
    /// Arrays and composites are read as JSON.
    pub as_json: bool,
    /// The column's values may be of any length, and are text as they are stored.
    pub is_long: bool,
    pub is_text: bool,
    /// The column is of type json or jsonb.
    pub is_json_column: bool,
    pub direction: Direction,
    pub policy: ConflictPolicy,
    /// What changes in Postgres is written to the CRM.
    pub written: bool,
    /// A record that is created gets its value: one that is written, or that is sent only then.
    pub created: bool,
    /// Otherwise an empty cell is not sent.
    pub send_null: bool,
    /// What a record is created with where the cell is empty.
    pub create_default: Option<Json>,
    /// Its type without a domain around it, as `format_type` names it, and what that bounds.
    pub type_name: String,
    pub holds: Column,
    /// What the CRM said of the field when it was asked; else its name alone.
    pub described: FieldDescription,
    pub provider: Option<&'static dyn Provider>,
}

impl MappedField {
    /// Edits of its cells are checked against the CRM before they are written.
    pub fn is_checked(&self) -> bool {
        self.written && self.direction == Direction::Bidirectional
    }

    /// See [`Map::maps_alike`].
    ///
    /// [`Map::maps_alike`]: super::Map::maps_alike
    pub fn is_mapped_like(&self, other: &MappedField) -> bool {
        self.id == other.id
            && self.column == other.column
            && self.field == other.field
            && self.direction == other.direction
            && self.written == other.written
            && self.created == other.created
            && self.described == other.described
    }

    /// For how many characters the CRM's field has room, where that is known and the column goes
    /// there as it is.
    pub fn room(&self) -> Option<u32> {
        let is_sent_as_it_is = self.transform_out.is_none();
        self.described.max_length.filter(|_| is_sent_as_it_is)
    }

    /// A value as the CRM holds it once it was sent, as far as that is known; see
    /// [`Provider::stored_form`].
    pub fn stored(&self, value: Value) -> Value {
        let Some(provider) = self.provider else {
            return value;
        };
        let data_type = self.field.data_type;
        let form = provider.stored_form(&self.described, data_type, &value);
        form.unwrap_or_else(|| provider.stored(data_type, value))
    }

    /// Whether a cell that holds this is not sent: the CRM's field is not to be cleared.
    pub fn is_withheld(&self, value: &Value) -> bool {
        !self.send_null && value.is_null()
    }

    /// What a record is created with whose row holds this.
    pub fn created_with(&self, value: Value) -> Value {
        match &self.create_default {
            Some(default) if value.is_null() => {
                let default = Value::from_json(self.field.data_type, default);
                default.map_or(value, |default| self.stored(default))
            }
            _ => value,
        }
    }

    /// Why the value is not sent at all: the CRM has no form of it.
    pub fn unstorable_reason(&self, value: &Value) -> Option<Failure> {
        let why = self.provider?.unstorable_reason(value)?;
        let message = format!(
            "column \"{}\" holds {}: {why}",
            self.column,
            excerpt::brief(value)
        );
        Some(Failure::record(
            ErrorClass::Validation,
            "unstorable_value",
            message,
        ))
    }

    /// Why the column cannot take what the CRM holds: it would make another value of it.
    pub fn misfit(&self, crm: &Value) -> Option<String> {
        let (column, type_name) = (&self.column, &self.type_name);
        // What a transform makes of it is for the transform to say.
        (self.transform_in.is_none() && !self.holds.holds_exactly(crm)).then(|| {
            let value = excerpt::brief(crm);
            format!("column \"{column}\" of type {type_name} cannot hold {value} exactly")
        })
    }

    /// A canonical JSON value in the form that the column's own type reads.
    pub fn column_json(&self, canonical: &Json) -> Json {
        match canonical {
            Json::Array(_) | Json::Object(_) if self.as_json || self.is_json_column => {
                canonical.clone()
            }
            Json::Array(_) | Json::Object(_) => Value::from_json(self.field.data_type, canonical)
                .ok()
                .and_then(|value| value.to_text().map(|text| Json::String(text.into_owned())))
                .unwrap_or(Json::Null),
            scalar => scalar.clone(),
        }
    }
}
