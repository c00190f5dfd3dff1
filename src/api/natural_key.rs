//! What rows and CRM records are matched by: `crm_internal.natural_key()` and
//! `crm_internal.row_values()`.

use std::collections::VecDeque;
use std::sync::Arc;

use crm_domain::Cells;
use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::Value as Json;

use super::document::Document;
use super::or_raise;
use crate::store::capture::scan_order::Order;
use crate::store::config::{self, Map};
use crate::store::record::key::Key;
use crate::store::table::pace::Pace;
use crate::store::table::read::{self, Bounds, RowValues, Wanted};
use crate::store::{StoreError, rights};

/// Rows read at a time.
const PART: usize = 1000;

/// The text by which a list of canonical values is compared; `None`: one of them is empty.
#[pg_extern(immutable, parallel_safe, strict, schema = "crm_internal")]
fn natural_key(values: Document) -> Option<String> {
    crm_domain::natural_key::of(values.0.as_array()?)
}

struct Scan {
    map: Arc<Map>,
    order: Order,
    ids: Vec<u16>,
    after: Option<Key>,
    is_over: bool,
    rows: VecDeque<(String, String, JsonB)>,
}

/// The values of some fields of every row of a map, as they would be sent, read as the table's
/// owner and a part at a time. To be called as `crm_engine`.
#[pg_extern(volatile, parallel_unsafe, strict, schema = "crm_internal")]
fn row_values(
    map_id: i32,
    field_ids: Vec<i32>,
) -> TableIterator<
    'static,
    (
        name!(shard_key, String),
        name!(record_key, String),
        name!(row_values, JsonB),
    ),
> {
    let ids = field_ids.into_iter().map(|id| id as u16).collect();
    let found = rights::pinned(|| {
        Spi::connect_mut(|client| -> Result<_, StoreError> {
            let Some(map) = config::map(client, map_id)? else {
                return Ok(None);
            };
            let order = Order::of(client, &map)?;
            Ok(Some((map, order)))
        })
    });
    let mut scan = or_raise(found).map(|(map, order)| Scan {
        map,
        order,
        ids,
        after: None,
        is_over: false,
        rows: VecDeque::new(),
    });
    TableIterator::new(std::iter::from_fn(move || {
        let scan = scan.as_mut()?;
        while scan.rows.is_empty() && !scan.is_over {
            pgrx::check_for_interrupts!();
            or_raise(rights::pinned(|| scan.next_part()));
        }
        scan.rows.pop_front()
    }))
}

impl Scan {
    fn next_part(&mut self) -> Result<(), StoreError> {
        let mut pace = Pace::new(&self.map, None);
        let mut keys = pace.run(PART, || {
            self.order.keys(&self.map, self.after.as_ref(), PART)
        })?;
        self.is_over = keys.len() < PART;
        let read = self.read(&keys)?;
        if read < keys.len() {
            self.is_over = false;
            keys.truncate(read);
        }
        if keys.is_empty() && !self.is_over {
            return Err(StoreError::Postponed);
        }
        self.after = keys.pop().or(self.after.take());
        Ok(())
    }

    /// Reads rows, as far as there is room for; how many.
    fn read(&mut self, keys: &[Key]) -> Result<usize, StoreError> {
        let cells: Cells = self.ids.iter().copied().collect();
        let wanted: Vec<Wanted> = keys
            .iter()
            .map(|key| Wanted {
                shard_key: &key.shard_key,
                record_key: &key.record_key,
                cells: &cells,
            })
            .collect();
        let mut rows = read::read(&self.map, &wanted, &Bounds::of_caller().lenient())?;
        for (n, key) in keys.iter().enumerate() {
            let values: Vec<Json> = match rows.remove(&n) {
                Some(RowValues::Found(fields)) => {
                    let value = |id: &u16| {
                        let field = fields.iter().find(|(held, _, _)| held == id);
                        field.map_or(Json::Null, |(_, _, value)| value.to_json())
                    };
                    self.ids.iter().map(value).collect()
                }
                // Gone meanwhile, or outside the filter of the map.
                Some(RowValues::Missing) => continue,
                Some(RowValues::Unreadable(_)) => Vec::new(),
                None => return Ok(n),
            };
            let values = JsonB(Json::Array(values));
            let (shard_key, record_key) = (key.shard_key.clone(), key.record_key.clone());
            self.rows.push_back((shard_key, record_key, values));
        }
        Ok(keys.len())
    }
}

extension_sql!(
    "COMMENT ON FUNCTION crm_internal.natural_key(jsonb) IS 'the text by which lists of canonical values are compared when rows and CRM records are matched: without regard to case and to outer blanks; NULL: one of the values is empty';
COMMENT ON FUNCTION crm_internal.row_values(int, int[]) IS 'the canonical values of some fields of each row of a map, as a list, read as the owner of the table; an empty list: the row cannot be read';",
    name = "natural_key_comments",
    requires = [natural_key, row_values]
);
