//! Finds the fields of a CRM record that its row refuses.
//!
//! Guarantees: a trial changes nothing; trials of one record end after a fifth of a second, and
//! then all fields are named.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crm_domain::{Value, excerpt};
use pgrx::spi::SpiClient;
use serde_json::{Map as JsonMap, Value as Json, json};

use crate::settings::Settings;
use crate::store::config::field::MappedField;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::record::key::Key;
use crate::store::statement::Cached;
use crate::store::table::owner::as_owner_of;
use crate::store::table::pace::Pace;
use crate::store::table::read::Bounds;
use crate::store::table::spelling;
use crate::store::table::write::{self, CrmValues};
use crate::store::transaction::nested;

/// How long the fields of a record may be tried: the table's own code may be slow, and other
/// records wait.
const ENOUGH: Duration = Duration::from_millis(200);

/// Values that a row was to take, by field_id.
pub(super) type Values<'a> = BTreeMap<u16, &'a Value>;

/// Of the values that a row refuses together, those that it refuses one by one. Each is tried in a
/// subtransaction that is rolled back.
pub(super) fn of_row(
    client: &mut SpiClient,
    map: &Map,
    key: &Key,
    values: &Values,
    error: &StoreError,
    settings: &Settings,
) -> String {
    named(map, values, error, |single| {
        let taking = CrmValues {
            shard_key: &key.shard_key,
            record_key: &key.record_key,
            values: single.clone(),
        };
        let mut pace = Pace::putting_off(map, settings.transform_timeout);
        let taken = write::set(client, map, &[taking], &mut pace, &Bounds::of(settings));
        taken.is_ok_and(|taken| taken.refused.is_empty())
    })
}

/// The same for a row that was to be inserted: the values that cannot be cast to their columns'
/// types.
pub(super) fn of_new_row(
    map: &Map,
    values: &Values,
    error: &StoreError,
    limit: Duration,
) -> String {
    named(map, values, error, |single| {
        is_of_its_column(map, single, limit).is_ok()
    })
}

fn is_of_its_column(map: &Map, single: &Values, limit: Duration) -> Result<(), StoreError> {
    let object = write::columns(map, single)?;
    let statement = format!(
        "SELECT FROM pg_catalog.jsonb_to_record($1::pg_catalog.jsonb) AS r ({})",
        map.record_type(object.keys().map(String::as_str))
    );
    let object = Json::Object(object).to_string();
    Pace::putting_off(map, limit).run_nested(1, || {
        as_owner_of(map, || {
            let names = single.keys().filter_map(|id| map.field(*id));
            spelling::refuse_rounded(map, names.map(|f| f.column.as_str()), &[object.as_str()])?;
            pgrx::Spi::connect(|client| {
                client.select(Cached(&statement), None, &[object.as_str().into()])?;
                Ok(())
            })
        })
    })
}

/// The fields to name, in the audit's form. If none is refused by itself, all are named.
fn named(
    map: &Map,
    values: &Values,
    error: &StoreError,
    mut is_taken: impl FnMut(&Values) -> bool,
) -> String {
    let mut refused: Vec<u16> = Vec::new();
    // Not for a single value, nor for code that ran out of time, nor if the record is going to be
    // retried.
    if values.len() > 1 && !matches!(error, StoreError::RowTimeout(_)) && !error.blames_no_row() {
        let start = Instant::now();
        for (&id, &value) in values {
            if start.elapsed() > ENOUGH {
                refused.clear();
                break;
            }
            let mut taken = true;
            nested(|| {
                taken = is_taken(&BTreeMap::from([(id, value)]));
                false
            });
            if !taken {
                refused.push(id);
            }
        }
    }
    let is_named = |id: &u16| refused.is_empty() || refused.contains(id);
    let fields: JsonMap<String, Json> = values
        .iter()
        .filter(|(id, _)| is_named(id))
        .filter_map(|(id, value)| {
            let MappedField {
                field,
                column,
                column_type,
                ..
            } = map.field(*id)?;
            let refused = json!({
                "new": excerpt::of(value),
                "column": column,
                "type": column_type,
            });
            Some((field.name.clone(), refused))
        })
        .collect();
    Json::Object(fields).to_string()
}
