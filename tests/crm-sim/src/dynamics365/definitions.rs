//! `EntityDefinitions`: what a table is called, and what it can do.

use super::error::DataverseError;
use super::{Answer, ROOT, address, org};
use crate::http::Response;
use crate::store::{Object, Store};
use crate::vendor::Call;
use serde_json::{Map, Value as Json, json};

/// The tables whose entity set is the one that the filter names.
pub fn list(store: &Store, call: &Call<'_>) -> Answer {
    address::only(call.request, &["$select", "$filter"])?;
    let filter = call.request.param("$filter").unwrap_or_default();
    let set = filter
        .strip_prefix("EntitySetName eq '")
        .and_then(|rest| rest.strip_suffix('\''))
        .ok_or_else(|| DataverseError::not_simulated("filters but EntitySetName eq '…'"))?;
    let chosen = call.request.param("$select").unwrap_or_default();
    let found = store.object(set).filter(|object| object.def.name == set);
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
