//! Connections as they are configured, and how they are doing.

use crm_domain::budget::{Reported, Used};
use pgrx::spi::{SpiClient, SpiHeapTupleData};
use serde_json::{Value as Json, json};

use crate::store::error::StoreError;
use crate::store::row::Columns;
use crate::store::statement::Cached;

/// A connection as configured, with how it is doing.
#[derive(Clone, Debug)]
pub struct Connection {
    pub id: i32,
    pub name: String,
    pub provider: String,
    pub base_url: Option<String>,
    pub options: Json,
    pub paused: bool,
    /// The credentials were refused, or it is away; work waits.
    pub in_error: bool,
    /// Another database sends over it, of which this one is a copy: nothing is asked of its CRM.
    pub is_away: bool,
    pub failures: u32,
    /// Milliseconds from now until something may be sent again.
    pub blocked_ms: i64,
    /// Changes with each set_credentials().
    pub version: i32,
    /// The day's request budget, as the CRM last reported it.
    pub day: Option<Reported>,
    /// Requests of the day by our own count, where the admin bounds them.
    pub used: Used,
}

pub fn connections(client: &SpiClient) -> Result<Vec<Connection>, StoreError> {
    let rows = client.select(
        Cached("SELECT c.connection_id, c.name, c.provider, c.base_url, c.options::text, c.paused,
                coalesce(s.state = 'error', false) OR c.home <> crm.home() AS in_error, c.home <> crm.home() AS is_away,
                coalesce(s.failures, 0) AS failures,
                (extract(epoch FROM greatest(coalesce(s.blocked_until, '-infinity'), now() - interval '1 day') - now()) * 1000)::bigint AS blocked_ms,
                coalesce(k.version, 0) AS version,
                (s.usage ->> 'daily_remaining')::bigint AS remaining, (s.usage ->> 'daily_limit')::bigint AS daily_limit,
                (extract(epoch FROM s.usage_reported_at) * 1000)::bigint AS reported_ms,
                coalesce((s.usage ->> 'day')::bigint, 0) AS day, coalesce((s.usage ->> 'requests')::bigint, 0) AS requests
         FROM crm.connection c
         LEFT JOIN crm.connection_state s USING (connection_id)
         LEFT JOIN crm.credential k USING (connection_id)
         ORDER BY c.connection_id"),
        None,
        &[],
    )?;
    rows.map(|row| connection(&row)).collect()
}

fn connection(row: &SpiHeapTupleData) -> Result<Connection, StoreError> {
    Ok(Connection {
        id: row.required("connection_id")?,
        name: row.required("name")?,
        provider: row.required("provider")?,
        base_url: row.optional("base_url")?,
        options: row.json("options")?,
        paused: row.required("paused")?,
        in_error: row.required("in_error")?,
        is_away: row.required("is_away")?,
        failures: row.required::<i32>("failures")? as u32,
        blocked_ms: row.required("blocked_ms")?,
        version: row.required("version")?,
        day: reported(
            row.optional("remaining")?,
            row.optional("daily_limit")?,
            row.optional("reported_ms")?,
        ),
        used: Used {
            day: row.required("day")?,
            requests: row.required::<i64>("requests")?.unsigned_abs(),
        },
    })
}

fn reported(remaining: Option<i64>, limit: Option<i64>, at: Option<i64>) -> Option<Reported> {
    Some(Reported {
        remaining: u64::try_from(remaining?).ok()?,
        limit: limit.and_then(|limit| u64::try_from(limit).ok()),
        at: at?,
    })
}

/// The version of a connection's credentials; `None`: it is gone.
pub fn version(client: &SpiClient, connection_id: i32) -> Result<Option<i32>, StoreError> {
    let mut rows = client.select(
        Cached(
            "SELECT coalesce(k.version, 0) AS version
             FROM crm.connection c LEFT JOIN crm.credential k USING (connection_id) WHERE c.connection_id = $1",
        ),
        None,
        &[connection_id.into()],
    )?;
    rows.next().map(|row| row.required("version")).transpose()
}

/// The secret of a connection, as given; an empty object if it has none.
pub fn secret(client: &SpiClient, connection_id: i32) -> Result<Json, StoreError> {
    let mut rows = client.select(
        Cached("SELECT secret::text FROM crm.credential WHERE connection_id = $1"),
        None,
        &[connection_id.into()],
    )?;
    rows.next()
        .map_or_else(|| Ok(json!({})), |row| row.json("secret"))
}
