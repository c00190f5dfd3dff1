//! Values as a column's transforms make them, under a limit of time.

use std::time::Duration;

use pgrx::prelude::*;
use serde_json::Value as Json;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::rights::pinned;
use crate::store::statement::Uncached;
use crate::store::table::owner::as_owner_of;
use crate::store::table::pace::Pace;

/// What a transform makes of a value within `limit`.
pub fn transformed_in_time(
    map: &Map,
    transform: &str,
    value: &Json,
    limit: Option<Duration>,
) -> Result<Json, StoreError> {
    let mut pace = Pace::new(map, limit);
    pace.run_nested(1, || transformed(map, transform, value))
}

/// JSON values through a column's transform_in, as the table's owner.
pub fn transformed(map: &Map, transform: &str, value: &Json) -> Result<Json, StoreError> {
    pinned(|| {
        as_owner_of(map, || {
            Spi::connect_mut(|client| {
                let statement =
                    format!("SELECT {transform}($1::pg_catalog.jsonb)::pg_catalog.text");
                let mut rows =
                    client.update(Uncached(&statement), None, &[value.to_string().into()])?;
                let text = rows.next().map_or(Ok(None), |row| row.get::<String>(1))?;
                Ok(text
                    .and_then(|text| serde_json::from_str(&text).ok())
                    .unwrap_or(Json::Null))
            })
        })
    })
}
