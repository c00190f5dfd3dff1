//! Backends that wait for a page of a CRM's records: `{"op": "records", ...}`.
//!
//! A page is read like one of a pass through all records, at the last priority: whatever else the
//! connection has to do goes before it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crm_domain::{DataType, Failure, Value};
use crm_provider::record::Field;
use crm_provider::{Change, ChangesQuery};
use serde_json::{Map as JsonMap, Value as Json, json};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::describe::{failed, obstacle};
use crate::store::config::Connection;
use crate::worker::link::{Link, Priority, RequestContext, SharedLink};
use crate::worker::socket::protocol::RecordsRequest;
use crm_domain::ErrorClass;

/// Records of a page, unless the vendor takes fewer.
const PAGE: usize = 2000;

/// A backend that waits for a page.
pub struct PendingRecords {
    pub request: RecordsRequest,
    pub reply: oneshot::Sender<Json>,
}

impl PendingRecords {
    /// Asks the CRM, or answers why it is not asked.
    pub fn serve(
        self,
        connection: Option<&Connection>,
        link: Option<SharedLink>,
        runtime: &Handle,
    ) {
        let obstacle = obstacle(connection);
        let (Some(link), None) = (link, obstacle) else {
            let why = obstacle.unwrap_or("the connection's credentials cannot be resolved");
            let class = match connection {
                // It may be asked again soon.
                Some(c) if !c.is_away && !c.paused && !c.in_error => ErrorClass::RateLimited,
                _ => ErrorClass::Auth,
            };
            let failure = Failure::connection(class, "not_asked", why);
            let _ = self.reply.send(failed(&failure));
            return;
        };
        runtime.spawn(async move {
            let answer = page(&link, self.request).await;
            link.take_outage();
            let _ = self
                .reply
                .send(answer.unwrap_or_else(|failure| failed(&failure)));
        });
    }
}

async fn page(link: &Link, request: RecordsRequest) -> Result<Json, Failure> {
    let types = types(link, &request).await?;
    let field = |name: &String| {
        let data_type = types.get(name).copied().unwrap_or(DataType::Text);
        let name = name.clone();
        Arc::new(Field { name, data_type })
    };
    let condition = condition(&request, &types)?;
    let shown: Vec<Arc<Field>> = request.fields.keys().map(field).collect();
    let mut fields = shown.clone();
    let also = condition
        .keys()
        .filter(|name| !request.fields.contains_key(*name));
    fields.extend(also.map(field));
    let query = ChangesQuery {
        object: request.object,
        fields: fields.clone(),
        external_id_field: request.external_id_field,
        since: request.since,
        limit: PAGE,
    };
    let changes = link.provider.changes(&link.settings, Arc::new(query));
    let context = RequestContext::new(Priority::Drift);
    let page = link.run(&context, changes).await?;
    let live = page.changes.into_iter().filter(|change| !change.deleted);
    let meets = |change: &Change| {
        let mut tests = condition.iter();
        tests.all(|(name, wanted)| {
            let field = fields.iter().find(|f| f.name == *name);
            let held = field.and_then(|field| value(link, field, change));
            held.is_some_and(|held| wanted.contains(&held))
        })
    };
    let records: Vec<Json> = live
        .filter(meets)
        .map(|change| record(link, &shown, &change))
        .collect();
    Ok(json!({ "records": records, "next": page.next, "more": page.more }))
}

/// The types of fields whose types the request leaves open, as the CRM describes them. Fails if it
/// has no such field, and would not say so itself.
async fn types(
    link: &Link,
    request: &RecordsRequest,
) -> Result<BTreeMap<String, DataType>, Failure> {
    let mut types = BTreeMap::new();
    let mut open: Vec<&String> = request.condition.keys().collect();
    for (name, data_type) in &request.fields {
        match data_type.parse() {
            Ok(data_type) => drop(types.insert(name.clone(), data_type)),
            Err(_) => open.push(name),
        }
    }
    open.retain(|name| !types.contains_key(*name));
    if open.is_empty() {
        return Ok(types);
    }
    let described = link.describe(&request.object, false).await;
    let Some(Ok(description)) = described.map(|known| known.description) else {
        return Ok(types);
    };
    for name in open {
        let field = description.field(name);
        // A part of a field goes by the field's name and its own.
        let (whole, _) = name.split_once('.').unwrap_or((name, ""));
        let is_known = field.or_else(|| description.field(whole)).is_some();
        if !is_known && !link.provider.names_unknown_fields() {
            let message = format!("{} has no field \"{name}\"", request.object);
            return Err(Failure::record(
                ErrorClass::Mapping,
                "unknown_field",
                message,
            ));
        }
        if let Some(data_type) = field.and_then(|field| field.data_types.first()) {
            types.insert(name.clone(), *data_type);
        }
    }
    Ok(types)
}

/// What fields must hold: one of these values.
fn condition(
    request: &RecordsRequest,
    types: &BTreeMap<String, DataType>,
) -> Result<BTreeMap<String, Vec<Value>>, Failure> {
    let conditions = request.condition.iter();
    conditions
        .map(|(name, wanted)| {
            let data_type = types.get(name).copied().unwrap_or(DataType::Text);
            let wanted = match wanted {
                Json::Array(any) if data_type != DataType::MultiChoice => &any[..],
                one => std::slice::from_ref(one),
            };
            let values = wanted.iter().map(|json| Value::from_json(data_type, json));
            let values = values.collect::<Result<Vec<Value>, _>>().map_err(|error| {
                let message = format!("the condition on field \"{name}\": {error}");
                Failure::record(ErrorClass::Validation, "unreadable_condition", message)
            })?;
            Ok((name.clone(), values))
        })
        .collect()
}

fn wire<'a>(field: &Field, change: &'a Change) -> &'a Json {
    let held = change.object.fields.get(&field.name);
    held.unwrap_or(&Json::Null)
}

fn value(link: &Link, field: &Field, change: &Change) -> Option<Value> {
    link.value(field, wire(field, change)).ok()
}

/// A value that is none of its field's type is shown as the CRM has it; of a record that cannot be
/// read, its id alone.
fn record(link: &Link, fields: &[Arc<Field>], change: &Change) -> Json {
    let shown = |field: &Arc<Field>| {
        let held = match value(link, field, change) {
            Some(value) => value.to_json(),
            None => wire(field, change).clone(),
        };
        (field.name.clone(), held)
    };
    let values: Option<JsonMap<String, Json>> = match change.object.damage {
        None => Some(fields.iter().map(shown).collect()),
        Some(_) => None,
    };
    json!({
        "id": link.provider.record_id(&change.object.crm_id),
        "key": change.external_id,
        "fields": values,
        "modified_at": change.object.modified_at,
    })
}
