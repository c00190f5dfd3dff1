//! The order in which a table is scanned.

use std::time::{Duration, Instant};

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiHeapTupleData, quote_identifier};

use crate::store::config::filter::holds;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::record::key::Key;
use crate::store::row::Columns;
use crate::store::statement::names::Running;
use crate::store::statement::{Cached, Uncached};
use crate::store::table::owner::as_owner_of;
use crate::store::table::time_limit::TimeLimit;
use crate::store::transaction::subtransaction;

/// So long a condition is evaluated, row by row, before other maps have their turn.
pub const MOMENT: Duration = Duration::from_millis(100);

/// The order in which a table is scanned: that of the unique index on its keys.
pub struct Order {
    /// The index's columns, and the types that key texts are cast to.
    pub columns: Vec<(String, String)>,
    /// The place of the shard column among them.
    pub shard: Option<usize>,
}

impl Order {
    pub fn of(client: &mut SpiClient, map: &Map) -> Result<Order, StoreError> {
        let shard = map.shard.as_ref().map(|shard| shard.name.as_str());
        let rows = client.update(
            Cached(
                "SELECT a.attname::text, coalesce(crm_internal.cast_type(a.atttypid), format_type(crm_internal.base_type(a.atttypid), NULL)) AS cast_type
                 FROM (SELECT x.indrelid, x.indkey, x.indnkeyatts FROM pg_index x
                       WHERE x.indrelid = $1 AND x.indisunique AND x.indpred IS NULL AND x.indexprs IS NULL AND x.indisvalid
                         AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text)
                              FROM unnest(x.indkey[0:x.indnkeyatts - 1]) AS k (attnum)
                              JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.attnum)
                             IN (ARRAY[$2], (SELECT array_agg(n ORDER BY n) FROM unnest(ARRAY[$2, $3]) AS n))
                       ORDER BY x.indnkeyatts, x.indexrelid LIMIT 1) x,
                      unnest(x.indkey[0:x.indnkeyatts - 1]) WITH ORDINALITY AS k (attnum, place)
                 JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = k.attnum
                 ORDER BY k.place",
            ),
            None,
            &[map.names.table.into(), map.key.name.as_str().into(), shard.into()],
        )?;
        let mut order = Order {
            columns: Vec::new(),
            shard: None,
        };
        for row in rows {
            let name: String = row.required("attname")?;
            if Some(name.as_str()) == shard {
                order.shard = Some(order.columns.len());
            }
            order.columns.push((name, row.required("cast_type")?));
        }
        if order.columns.is_empty() {
            return Err(StoreError::Postgres {
                code: PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                message: format!("{} has no unique index on its key", map.relation),
            });
        }
        Ok(order)
    }

    /// The keys of the next rows.
    pub fn keys(
        &self,
        map: &Map,
        after: Option<&Key>,
        rows: usize,
    ) -> Result<Vec<Key>, StoreError> {
        let rows = self.rows(map, after, rows, None)?;
        Ok(rows.into_iter().map(|(key, _)| key).collect())
    }

    /// The keys of the next rows, and whether a condition holds for them. It is evaluated for each
    /// row, so that a step takes no longer where it holds for few.
    pub fn rows(
        &self,
        map: &Map,
        after: Option<&Key>,
        rows: usize,
        condition: Option<&str>,
    ) -> Result<Vec<(Key, bool)>, StoreError> {
        let statement = self.statement(map, after, rows, condition);
        let args = self.arguments(after);
        Spi::connect_mut(|client| {
            let found = match condition {
                None => client.update(Cached(&statement), None, &args)?,
                Some(_) => client.update(Uncached(&statement), None, &args)?,
            };
            found.map(|row| judged(&row)).collect()
        })
    }

    /// The same with a condition that may be slow, as many rows as a moment allows, as the table's
    /// owner. Fails with [`StoreError::RowTimeout`] if one row takes longer than `limit`.
    pub fn rows_in_a_moment(
        &self,
        map: &Map,
        after: Option<&Key>,
        rows: usize,
        condition: &str,
        limit: Duration,
    ) -> Result<Vec<(Key, bool)>, StoreError> {
        let statement = self.statement(map, after, rows, Some(condition));
        let args = self.arguments(after);
        let start = Instant::now();
        let mut found: Vec<(Key, bool)> = Vec::new();
        let mut timer = TimeLimit::new(Some(limit));
        let fetch = || -> Result<(), StoreError> {
            Spi::connect_mut(|client| {
                let _running = Running::begin(&statement);
                let mut cursor = client.try_open_cursor_mut(Uncached(&statement), &args)?;
                // One at first, and as many again as there were before while that is quick.
                while found.is_empty() || start.elapsed() < MOMENT {
                    timer.restart();
                    let some = cursor.fetch(found.len().max(1) as _)?;
                    timer.check()?;
                    if some.is_empty() {
                        break;
                    }
                    for row in some {
                        found.push(judged(&row)?);
                    }
                }
                Ok(())
            })
        };
        let result = subtransaction(|| as_owner_of(map, fetch));
        let is_late = result.as_ref().is_err_and(|error| timer.caused(error));
        drop(timer);
        match result {
            // Those before the slow ones are known; these come one by one.
            Err(_) if is_late && !found.is_empty() => Ok(found),
            Err(_) if is_late => Err(StoreError::RowTimeout(limit)),
            result => result.map(|()| found),
        }
    }

    fn statement(
        &self,
        map: &Map,
        after: Option<&Key>,
        rows: usize,
        condition: Option<&str>,
    ) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|(name, _)| format!("t.{}", quote_identifier(name)))
            .collect();
        let list = columns.join(", ");
        let beyond = after.map_or_else(String::new, |_| {
            let places = self.columns.iter().enumerate();
            let given: Vec<String> = places
                .map(|(place, (_, cast))| format!("${}::{cast}", place + 1))
                .collect();
            format!(
                "WHERE ROW({list}) OPERATOR(pg_catalog.>) ROW({})",
                given.join(", ")
            )
        });
        let wanted = condition.map_or_else(|| "true".to_owned(), holds);
        format!(
            "SELECT {} AS shard_key, {} AS record_key, {wanted} AS holds FROM {} AS t {beyond} ORDER BY {list} LIMIT {rows}",
            map.shard_key("t"),
            map.record_key("t"),
            map.relation
        )
    }

    fn arguments<'k>(&self, after: Option<&'k Key>) -> Vec<DatumWithOid<'k>> {
        let of = |key: &'k Key| {
            let places = 0..self.columns.len();
            places.map(move |place| match self.shard == Some(place) {
                true => key.shard_key.as_str().into(),
                false => key.record_key.as_str().into(),
            })
        };
        after.into_iter().flat_map(of).collect()
    }
}

fn judged(row: &SpiHeapTupleData) -> Result<(Key, bool), StoreError> {
    let key = Key {
        shard_key: row.required("shard_key")?,
        record_key: row.required("record_key")?,
    };
    Ok((key, row.required("holds")?))
}
