//! A CRM's description of an object's fields, in pg_crm's terms.

use serde::{Deserialize, Serialize};

use crate::DataType;

/// An object of a CRM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    pub fields: Vec<FieldDescription>,
    /// Names that begin so need no definition: a field of any type is behind each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_prefix: Option<String>,
    /// Whether the vendor is known to leave fields out.
    #[serde(default)]
    pub is_partial: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FieldDescription {
    /// As a mapping names it.
    pub name: String,
    pub label: String,
    /// The types that it may be mapped as without a loss, the most natural first. None: nothing is
    /// known of its values.
    pub data_types: Vec<DataType>,
    /// Whether no other type will do, because what is asked of the CRM depends on it.
    #[serde(default)]
    pub is_typed: bool,
    /// Types in whose form no value is taken, though the field holds text: a number or a boolean
    /// where the vendor wants a string.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused_types: Vec<DataType>,
    /// The vendor's own word for its type.
    pub crm_type: String,
    /// In characters as the vendor counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u32>,
    /// Of a number: the decimals that it keeps, where the vendor says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<u32>,
    /// Whether it keeps numbers as doubles: about 15 digits of them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_double: bool,
    /// Whether it keeps its text in lower case.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_lower_case: bool,
    /// Whether no record is created without it.
    pub required: bool,
    /// Whether a new record may be given a value.
    pub createable: bool,
    /// Whether a record that is there may be given another.
    pub updateable: bool,
    /// Whether a record can be found by its value, so that it can hold our key.
    pub is_key: bool,
    /// Whether values that differ in case alone are different; `None`: the vendor does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_case_sensitive: Option<bool>,
    /// What it takes, where the vendor lists that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Choice>,
    /// Whether anything but the choices is refused.
    #[serde(default)]
    pub is_closed: bool,
}

impl FieldDescription {
    /// Whether the CRM alone gives the field its values, as it does a time of modification: they
    /// change with every write, ours too, and say nothing of what a person did.
    pub fn is_computed(&self) -> bool {
        !self.crm_type.is_empty() && !self.createable && !self.updateable
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Choice {
    /// What is written.
    pub value: String,
    /// What people see.
    pub label: String,
}

impl FieldDescription {
    pub fn is_read_only(&self) -> bool {
        !self.createable && !self.updateable
    }
}

impl Description {
    /// The field of that very name.
    pub fn field(&self, name: &str) -> Option<&FieldDescription> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Whether any name that begins so is a field.
    pub fn is_free(&self, name: &str) -> bool {
        let prefix = self.free_prefix.as_deref();
        prefix.is_some_and(|prefix| name.starts_with(prefix))
    }

    /// A field whose name differs from this one in case and underscores alone, or whose label it
    /// is.
    pub fn near(&self, name: &str) -> Option<&FieldDescription> {
        let bare = |text: &str| -> String {
            let chars = text.chars().filter(|c| c.is_alphanumeric());
            chars.flat_map(char::to_lowercase).collect()
        };
        let name = bare(name);
        let named = |field: &&FieldDescription| bare(&field.name) == name;
        let labelled = |field: &&FieldDescription| bare(&field.label) == name;
        let mut fields = self.fields.iter();
        fields
            .find(named)
            .or_else(|| self.fields.iter().find(labelled))
    }
}
