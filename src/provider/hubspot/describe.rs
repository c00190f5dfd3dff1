//! The properties of a HubSpot object. HubSpot requires none of them, and does not report lengths.

use crm_domain::{Choice, DataType, Description, FieldDescription};
use serde::Deserialize;

use super::errors;
use super::webhooks::object_name;
use crate::errors::{refused, unreadable};
use crate::operation::Exchange;
use crate::request::encode;
use crate::{BoxOperation, Method, Request};

#[derive(Deserialize)]
struct Answer {
    results: Vec<Property>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Property {
    name: String,
    #[serde(default)]
    label: String,
    r#type: String,
    #[serde(default)]
    field_type: String,
    #[serde(default)]
    options: Vec<PropertyOption>,
    #[serde(default)]
    has_unique_value: bool,
    #[serde(default)]
    calculated: bool,
    /// The options are kept elsewhere, such as owners.
    #[serde(default)]
    external_options: bool,
    #[serde(default)]
    modification_metadata: Modification,
}

#[derive(Deserialize)]
struct PropertyOption {
    value: String,
    #[serde(default)]
    label: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Modification {
    read_only_value: bool,
}

pub(super) fn describe(object: &str) -> BoxOperation<Description> {
    let path = format!("/crm/v3/properties/{}?archived=false", encode(object));
    let request = Request::new(Method::Get, path);
    let has_addresses = object_name(object) == "contacts";
    Box::new(Exchange::new(request, move |response| {
        errors::check(&response).map_err(refused)?;
        let answer: Answer =
            crate::json::parse(&response.body).map_err(|_| unreadable(&response))?;
        let mut fields: Vec<_> = answer.results.into_iter().map(field).collect();
        // Unique, whether it says so or not.
        for field in fields.iter_mut().filter(|field| field.name == "email") {
            field.is_key |= has_addresses;
        }
        Ok(Description {
            fields,
            ..Description::default()
        })
    }))
}

fn field(property: Property) -> FieldDescription {
    let data_types = data_types(&property.r#type, &property.field_type);
    let is_writable = !property.calculated && !property.modification_metadata.read_only_value;
    let is_closed = property.r#type == "enumeration" && !property.external_options;
    let choices = property.options.into_iter().map(|option| Choice {
        value: option.value,
        label: option.label,
    });
    FieldDescription {
        name: property.name,
        label: property.label,
        data_types: data_types.to_vec(),
        createable: is_writable,
        updateable: is_writable,
        is_key: property.has_unique_value,
        choices: choices.collect(),
        is_closed,
        crm_type: property.r#type,
        ..FieldDescription::default()
    }
}

fn data_types(word: &str, widget: &str) -> &'static [DataType] {
    use DataType::*;
    match (word, widget) {
        ("string" | "phone_number", _) => &[Text],
        ("number", _) => &[Number],
        ("bool", _) => &[Boolean],
        ("enumeration", "checkbox") => &[MultiChoice],
        ("enumeration", "booleancheckbox") => &[Boolean, Choice],
        ("enumeration", _) => &[Choice],
        ("date", _) => &[Date],
        ("datetime", _) => &[Timestamp],
        ("json" | "object_coordinates", _) => &[Json],
        _ => &[],
    }
}
