//! A mapping as it is stated, and the findings about it.

use serde::{Deserialize, Serialize};

use crate::string_enum::string_enum;

string_enum! {
    /// How bad a finding is.
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    Severity: "severity" {
        /// It cannot work.
        Error = "error",
        /// It will not work for some records.
        Warning = "warning",
        /// Worth knowing.
        Info = "info",
    }
}

/// A problem of a mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The CRM field.
    pub field: String,
    pub severity: Severity,
    pub code: &'static str,
    pub message: String,
    pub hint: String,
}

/// A map as it is stated, with words still to be read.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Mapping {
    pub on_insert: String,
    pub external_id_field: Option<String>,
    pub fields: Vec<MappedField>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct MappedField {
    pub column: String,
    pub crm_field: String,
    pub direction: String,
    pub data_type: String,
    /// Whether it is written back, if its direction has it so.
    pub materialize: bool,
    /// Whether what is sent is made by a function, so that rules and column say nothing of it.
    #[serde(default)]
    pub is_transformed: bool,
    /// Whether what the row takes is made by a function.
    #[serde(default)]
    pub is_transformed_in: bool,
    /// The column's type as `format_type` names it, without a domain around it.
    #[serde(default)]
    pub column_type: String,
    /// What its rule allows, or else its column.
    pub max_length: Option<u32>,
    /// What its rule allows.
    pub choices: Option<Vec<String>>,
}
