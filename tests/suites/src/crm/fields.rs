//! The same fields by the vendors' names, and values as people of the CRM enter and see them.

use serde_json::{Map, Value, json};

use super::Vendor;
use super::facts::find;

impl Vendor {
    /// The field that a column of the table of people is mapped to.
    pub fn field(self, column: &str) -> &'static str {
        let field = find(self.facts().fields, column);
        field.unwrap_or_else(|| panic!("no field for {column}"))
    }

    /// A value as the vendor's own people would enter it into the field of a column.
    pub fn entered(self, column: &str, value: &Value) -> Value {
        match (self, column, value) {
            (Vendor::Pipedrive, "email", Value::String(_)) => {
                json!([{ "value": value, "primary": true }])
            }
            (Vendor::Dynamics365, "interests", Value::Array(options)) => {
                let options: Vec<&str> = options.iter().filter_map(Value::as_str).collect();
                options.join(",").into()
            }
            (Vendor::Pipedrive | Vendor::Dynamics365, "source", Value::String(option)) => {
                option.parse().map_or(Value::Null, |id: u32| id.into())
            }
            (Vendor::Pipedrive, "employer", Value::String(id)) => {
                id.parse().map_or(Value::Null, |id: u32| id.into())
            }
            (Vendor::Zoho, "employer", Value::String(id)) => json!({ "id": id }),
            _ => value.clone(),
        }
    }

    /// The field that shows a column's value: of firms, and of who is employed there, it is not
    /// that which is written.
    fn entry(self, column: &str) -> &'static str {
        match column {
            "firm" => self.facts().firms.name,
            "employer" => self.facts().firms.held,
            _ => self.field(column),
        }
    }

    /// The other spelling of a record's id that the vendor knows, if it knows one.
    pub fn respelt(self, id: &str) -> String {
        match self {
            Vendor::Salesforce => id.chars().take(15).collect(),
            Vendor::Dynamics365 => format!("{{{}}}", id.to_uppercase()),
            _ => id.to_owned(),
        }
    }

    /// The id of the firm that a record shows.
    pub fn employer(self, record: &Map<String, Value>) -> Option<String> {
        match record.get(self.facts().firms.held)? {
            Value::Object(named) => named["id"].as_str().map(str::to_owned),
            Value::String(id) => Some(id.clone()),
            other => Some(other.to_string()),
        }
    }

    /// A field as the row's column has it.
    pub(super) fn shown(self, value: Value) -> Value {
        match value.get(0).and_then(|first| first.get("value")) {
            Some(first) if self == Vendor::Pipedrive => first.clone(),
            _ => value,
        }
    }

    /// Fields as the vendor's own people would enter them, by column.
    pub fn entries(self, fields: &Map<String, Value>) -> Map<String, Value> {
        let entered = fields.iter();
        entered
            .map(|(column, value)| (self.entry(column).to_owned(), self.entered(column, value)))
            .collect()
    }
}
