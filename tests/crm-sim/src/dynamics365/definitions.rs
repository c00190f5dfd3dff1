//! `EntityDefinitions`: what tables are called, and what they can do.

use super::error::DataverseError;
use super::{Answer, ROOT, address, org};
use crate::http::Response;
use crate::store::{Object, Store};
use crate::vendor::Call;
use serde_json::{Map, Value as Json, json};

/// All tables, or the one whose entity set, or whose own name, is the one that the filter names.
pub fn list(store: &Store, call: &Call<'_>) -> Answer {
    address::only(call.request, &["$select", "$filter"])?;
    let filter = call.request.param("$filter");
    let named = |property: &str| {
        let rest = filter.as_deref()?.strip_prefix(property)?;
        rest.strip_prefix(" eq '")?.strip_suffix('\'')
    };
    let found: Vec<&Object> = match (named("EntitySetName"), named("LogicalName")) {
        (Some(set), _) => {
            let object = store.object(set).filter(|object| object.def.name == set);
            object.into_iter().collect()
        }
        (_, Some(name)) => by_name(store, name).into_iter().collect(),
        _ if filter.is_none() => store.objects.iter().collect(),
        _ => {
            return Err(DataverseError::not_simulated(
                "filters but of EntitySetName and LogicalName",
            ));
        }
    };
    let chosen = call.request.param("$select").unwrap_or_default();
    let tables = found.into_iter().map(|object| table(object, &chosen));
    let tables: Vec<Json> = tables.collect::<Result<_, _>>()?;
    let context = format!(
        "{}{ROOT}/$metadata#EntityDefinitions({chosen})",
        call.origin
    );
    Ok(Response::json(
        200,
        &json!({"@odata.context": context, "value": tables}),
    ))
}

pub fn by_name<'a>(store: &'a Store, name: &str) -> Option<&'a Object> {
    let mut objects = store.objects.iter();
    objects.find(|object| org::table(&object.def.name) == name)
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
    select(&all, chosen, "EntityMetadata")
}

/// The properties of a definition that are chosen, and its id.
pub fn select(all: &Json, chosen: &str, kind: &str) -> Result<Json, DataverseError> {
    let mut shown = Map::new();
    for name in chosen.split(',').chain(["MetadataId"]) {
        let value = all.get(name).ok_or_else(|| {
            DataverseError::query(format!(
                "Could not find a property named '{name}' on type 'Microsoft.Dynamics.CRM.{kind}'."
            ))
        })?;
        shown.insert(name.to_owned(), value.clone());
    }
    Ok(shown.into())
}
