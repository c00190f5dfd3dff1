//! `EntityDefinitions`: what a table is called, what it can do, and which options its choices have.

use super::error::DataverseError;
use super::{Answer, ROOT, address, org};
use crate::http::Response;
use crate::store::{Object, Store};
use crate::vendor::Call;
use serde_json::{Map, Value as Json, json};

/// The table whose entity set, or whose own name, is the one that the filter names.
pub fn list(store: &Store, call: &Call<'_>) -> Answer {
    address::only(call.request, &["$select", "$filter"])?;
    let filter = call.request.param("$filter").unwrap_or_default();
    let named = |property: &str| {
        let rest = filter.strip_prefix(property)?.strip_prefix(" eq '")?;
        rest.strip_suffix('\'')
    };
    let found = match (named("EntitySetName"), named("LogicalName")) {
        (Some(set), _) => store.object(set).filter(|object| object.def.name == set),
        (_, Some(name)) => by_name(store, name),
        _ => {
            return Err(DataverseError::not_simulated(
                "filters but of EntitySetName and LogicalName",
            ));
        }
    };
    let chosen = call.request.param("$select").unwrap_or_default();
    let tables = found.map(|object| table(object, &chosen)).transpose()?;
    let context = format!(
        "{}{ROOT}/$metadata#EntityDefinitions({chosen})",
        call.origin
    );
    let tables: Vec<Json> = tables.into_iter().collect();
    Ok(Response::json(
        200,
        &json!({"@odata.context": context, "value": tables}),
    ))
}

fn by_name<'a>(store: &'a Store, name: &str) -> Option<&'a Object> {
    let mut objects = store.objects.iter();
    objects.find(|object| org::table(&object.def.name) == name)
}

/// `EntityDefinitions(LogicalName='…')/Attributes/…PicklistAttributeMetadata`, each with its options.
pub fn choices(store: &Store, call: &Call<'_>, segment: &str) -> Answer {
    let name = segment
        .strip_prefix("EntityDefinitions(LogicalName='")
        .and_then(|rest| rest.strip_suffix("')"))
        .ok_or_else(|| DataverseError::no_segment(segment))?;
    let object = by_name(store, name).ok_or_else(|| DataverseError::no_segment(segment))?;
    let option = |value: &String| {
        let label = json!({"Label": format!("Option {value}"), "LanguageCode": 1033});
        json!({"Value": value.parse::<i64>().ok(), "Label": {"LocalizedLabels": [label]}})
    };
    let choices = object
        .def
        .visible()
        .filter(|(_, field)| field.spec.native == "Picklist");
    let shown = choices.map(|(_, field)| {
        let options: Vec<Json> = field.spec.values.iter().map(option).collect();
        json!({"LogicalName": field.name(), "OptionSet": {"Options": options}})
    });
    let shown: Vec<Json> = shown.collect();
    let context = format!(
        "{}{ROOT}/$metadata#EntityDefinitions('{name}')/Attributes",
        call.origin
    );
    Ok(Response::json(
        200,
        &json!({"@odata.context": context, "value": shown}),
    ))
}

fn table(object: &Object, chosen: &str) -> Result<Json, DataverseError> {
    let all = json!({
        "LogicalName": org::table(&object.def.name),
        "SchemaName": object.def.label(),
        "EntitySetName": object.def.name,
        "PrimaryIdAttribute": org::id_column(object),
        "ChangeTrackingEnabled": true,
        "IsOptimisticConcurrencyEnabled": true,
        "MetadataId": "70816501-edb9-4740-a16c-6a5efbc05d84",
    });
    let mut shown = Map::new();
    for name in chosen.split(',').chain(["MetadataId"]) {
        let value = all.get(name).ok_or_else(|| {
            let kind = "Microsoft.Dynamics.CRM.EntityMetadata";
            DataverseError::query(format!(
                "Could not find a property named '{name}' on type '{kind}'."
            ))
        })?;
        shown.insert(name.to_owned(), value.clone());
    }
    Ok(shown.into())
}
