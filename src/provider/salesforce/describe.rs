//! The fields of a Salesforce object (sObject Describe).

use crm_domain::{Choice, DataType, Description, FieldDescription};
use serde::Deserialize;

use super::api::Api;
use super::errors;
use crate::errors::{refused, unreadable};
use crate::operation::Exchange;
use crate::request::encode;
use crate::{BoxOperation, Method, Settings};

#[derive(Deserialize)]
struct Answer {
    fields: Vec<Field>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Field {
    name: String,
    #[serde(default)]
    label: String,
    r#type: String,
    #[serde(default)]
    length: u32,
    #[serde(default)]
    scale: u32,
    nillable: bool,
    createable: bool,
    updateable: bool,
    #[serde(default)]
    defaulted_on_create: bool,
    #[serde(default)]
    external_id: bool,
    #[serde(default)]
    id_lookup: bool,
    case_sensitive: Option<bool>,
    #[serde(default)]
    picklist_values: Vec<PicklistValue>,
    #[serde(default)]
    restricted_picklist: bool,
}

#[derive(Deserialize)]
struct PicklistValue {
    value: String,
    #[serde(default)]
    label: Option<String>,
    #[serde(default)]
    active: bool,
}

pub(super) fn describe(settings: &Settings, object: &str) -> BoxOperation<Description> {
    let path = format!("/sobjects/{}/describe", encode(object));
    let request = Api::new(settings).request(Method::Get, path);
    Box::new(Exchange::new(request, |response| {
        errors::check(&response).map_err(refused)?;
        let answer: Answer =
            crate::json::parse(&response.body).map_err(|_| unreadable(&response))?;
        Ok(Description {
            fields: answer.fields.into_iter().map(field).collect(),
            ..Description::default()
        })
    }))
}

fn field(field: Field) -> FieldDescription {
    let data_types = data_types(&field.r#type);
    // Of a multi-select picklist it bounds the words together.
    let is_text = data_types.first() == Some(&DataType::Text);
    let active = field.picklist_values.into_iter().filter(|v| v.active);
    FieldDescription {
        max_length: Some(field.length).filter(|&length| is_text && length > 0),
        scale: Some(field.scale).filter(|_| data_types == [DataType::Number]),
        required: !field.nillable && !field.defaulted_on_create && field.createable,
        createable: field.createable,
        updateable: field.updateable,
        is_key: field.external_id || field.id_lookup,
        is_case_sensitive: field.case_sensitive,
        choices: active
            .map(|choice| Choice {
                label: choice.label.unwrap_or_else(|| choice.value.clone()),
                value: choice.value,
            })
            .collect(),
        is_closed: field.restricted_picklist,
        name: field.name,
        label: field.label,
        // What is a string to Salesforce is a string in JSON.
        refused_types: match data_types.first() {
            Some(DataType::Text | DataType::Choice | DataType::MultiChoice) => {
                vec![DataType::Number, DataType::Boolean]
            }
            _ => Vec::new(),
        },
        data_types: data_types.to_vec(),
        crm_type: field.r#type,
        ..FieldDescription::default()
    }
}

/// `FieldType` of the SOAP API Developer Guide.
fn data_types(word: &str) -> &'static [DataType] {
    use DataType::*;
    match word {
        "string" | "textarea" | "phone" | "email" | "url" | "encryptedstring" | "base64"
        | "time" => &[Text],
        "id" | "reference" => &[Reference],
        "boolean" => &[Boolean],
        "int" | "long" | "double" | "currency" | "percent" => &[Number],
        "date" => &[Date],
        "datetime" => &[Timestamp],
        "picklist" | "combobox" => &[Choice],
        "multipicklist" => &[MultiChoice],
        "address" | "location" | "complexvalue" | "json" => &[Json],
        _ => &[],
    }
}
