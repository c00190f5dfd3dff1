//! The fields of a Zoho module (`/settings/fields`), which does not report whether a list of
//! choices is closed.

use crm_domain::{Choice, DataType, Description, FieldDescription};
use serde::Deserialize;
use serde_json::Value as Json;

use super::errors;
use crate::errors::{refused, unreadable};
use crate::operation::Exchange;
use crate::request::encode;
use crate::{BoxOperation, Method, Request};

#[derive(Deserialize)]
struct Answer {
    fields: Vec<Field>,
}

#[derive(Deserialize)]
struct Field {
    api_name: String,
    #[serde(default)]
    field_label: String,
    data_type: String,
    #[serde(default)]
    length: Option<u32>,
    /// A number, where it has one.
    #[serde(default)]
    decimal_place: Json,
    #[serde(default)]
    system_mandatory: bool,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    field_read_only: bool,
    /// An object that says how, empty if it is not.
    #[serde(default)]
    unique: Json,
    #[serde(default)]
    pick_list_values: Vec<PickListValue>,
    operation_type: Option<Operations>,
}

#[derive(Deserialize)]
struct PickListValue {
    actual_value: String,
    #[serde(default)]
    display_value: String,
}

#[derive(Deserialize)]
struct Operations {
    api_create: bool,
    api_update: bool,
}

pub(super) fn describe(module: &str) -> BoxOperation<Description> {
    let path = format!("/crm/v8/settings/fields?module={}", encode(module));
    let request = Request::new(Method::Get, path);
    Box::new(Exchange::new(request, |response| {
        errors::check(&response).map_err(refused)?;
        let answer: Answer =
            crate::json::parse(&response.body).map_err(|_| unreadable(&response))?;
        let id = FieldDescription {
            name: "id".to_owned(),
            label: "Record Id".to_owned(),
            data_types: vec![DataType::Reference],
            crm_type: "bigint".to_owned(),
            is_key: true,
            ..FieldDescription::default()
        };
        // A field of every module, listed or not, and then as a number.
        let listed = answer.fields.into_iter().map(field);
        let others = listed.filter(|field| field.name != "id");
        Ok(Description {
            fields: std::iter::once(id).chain(others).collect(),
            ..Description::default()
        })
    }))
}

fn field(field: Field) -> FieldDescription {
    let data_types = data_types(&field.data_type);
    let is_text = data_types.first() == Some(&DataType::Text);
    let is_open = !field.read_only && !field.field_read_only;
    let may =
        |told: fn(&Operations) -> bool| is_open && field.operation_type.as_ref().is_none_or(told);
    FieldDescription {
        max_length: field.length.filter(|&length| is_text && length > 0),
        scale: field
            .decimal_place
            .as_u64()
            .and_then(|n| u32::try_from(n).ok()),
        required: field.system_mandatory,
        createable: may(|o| o.api_create),
        updateable: may(|o| o.api_update),
        is_key: field.unique.as_object().is_some_and(|how| !how.is_empty()),
        is_case_sensitive: is_case_sensitive(&field.unique),
        choices: field
            .pick_list_values
            .into_iter()
            .map(|choice| Choice {
                value: choice.actual_value,
                label: choice.display_value,
            })
            .collect(),
        is_closed: false,
        name: field.api_name,
        label: field.field_label,
        // What is a string to Zoho is a string in JSON.
        refused_types: match data_types.first() {
            Some(DataType::Text) => {
                use DataType::{Boolean, MultiChoice, Number, Reference};
                vec![Number, Boolean, MultiChoice, Reference]
            }
            Some(DataType::Choice) => vec![DataType::Number, DataType::Boolean],
            _ => Vec::new(),
        },
        data_types: data_types.to_vec(),
        crm_type: field.data_type,
        ..FieldDescription::default()
    }
}

/// Of a unique field, as a boolean or its word.
fn is_case_sensitive(unique: &Json) -> Option<bool> {
    match unique.get("casesensitive")? {
        Json::Bool(sensitive) => Some(*sensitive),
        word => word.as_str()?.parse().ok(),
    }
}

/// Of what a formula or a rollup shows it does not tell the type.
fn data_types(word: &str) -> &'static [DataType] {
    use DataType::*;
    match word {
        "text" | "textarea" | "email" | "phone" | "website" | "autonumber" => &[Text],
        "integer" | "bigint" | "double" | "currency" | "percent" => &[Number],
        "boolean" => &[Boolean],
        "date" => &[Date],
        "datetime" => &[Timestamp],
        "picklist" => &[Choice],
        "multiselectpicklist" => &[MultiChoice],
        "lookup" | "ownerlookup" | "userlookup" => &[Reference, Json],
        "subform" | "multiselectlookup" | "fileupload" | "imageupload" => &[Json],
        _ => &[],
    }
}
