//! Connections as they are configured, and how they are doing.

use crm_domain::budget::{Spent, Told};
use pgrx::spi::SpiClient;
use serde_json::Value as Json;

use crate::store::error::StoreError;
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
    /// The day's request budget, as the CRM last told it.
    pub day: Option<Told>,
    /// Requests of the day by our own count, where the admin bounds them.
    pub spent: Spent,
}

pub fn connections(client: &SpiClient) -> Result<Vec<Connection>, StoreError> {
    let rows = client.select(
        Cached("SELECT c.connection_id, c.name, c.provider, c.base_url, c.options::text, c.paused,
                coalesce(s.state = 'error', false) OR c.home <> crm.home(), coalesce(s.failures, 0),
                (extract(epoch FROM greatest(coalesce(s.blocked_until, '-infinity'), now() - interval '1 day') - now()) * 1000)::bigint,
                coalesce(k.version, 0), (s.usage ->> 'daily_remaining')::bigint, (s.usage ->> 'daily_limit')::bigint,
                (extract(epoch FROM s.usage_reported_at) * 1000)::bigint,
                (s.usage ->> 'day')::bigint, (s.usage ->> 'requests')::bigint, c.home <> crm.home()
         FROM crm.connection c
         LEFT JOIN crm.connection_state s USING (connection_id)
         LEFT JOIN crm.credential k USING (connection_id)
         ORDER BY c.connection_id"),
        None,
        &[],
    )?;
    let mut connections = Vec::new();
    for row in rows {
        connections.push(Connection {
            id: row.get(1)?.unwrap_or_default(),
            name: row.get(2)?.unwrap_or_default(),
            provider: row.get(3)?.unwrap_or_default(),
            base_url: row.get(4)?,
            options: serde_json::from_str(&row.get::<String>(5)?.unwrap_or_default())
                .unwrap_or_default(),
            paused: row.get(6)?.unwrap_or_default(),
            in_error: row.get(7)?.unwrap_or_default(),
            is_away: row.get(16)?.unwrap_or(true),
            failures: row.get::<i32>(8)?.unwrap_or_default() as u32,
            blocked_ms: row.get(9)?.unwrap_or_default(),
            version: row.get(10)?.unwrap_or_default(),
            day: told(row.get(11)?, row.get(12)?, row.get(13)?),
            spent: Spent {
                day: row.get(14)?.unwrap_or_default(),
                requests: row
                    .get::<i64>(15)?
                    .map_or(0, |requests| requests.unsigned_abs()),
            },
        });
    }
    Ok(connections)
}

pub fn told(remaining: Option<i64>, limit: Option<i64>, at: Option<i64>) -> Option<Told> {
    Some(Told {
        remaining: u64::try_from(remaining?).ok()?,
        limit: limit.and_then(|limit| u64::try_from(limit).ok()),
        at: at?,
    })
}

/// The secret of a connection, as given.
pub fn secret(client: &SpiClient, connection_id: i32) -> Result<Json, StoreError> {
    let mut rows = client.select(
        Cached("SELECT secret::text FROM crm.credential WHERE connection_id = $1"),
        None,
        &[connection_id.into()],
    )?;
    let text = rows.next().map_or(Ok(None), |row| row.get::<String>(1))?;
    Ok(text
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_else(|| Json::Object(Default::default())))
}
