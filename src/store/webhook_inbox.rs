//! The inbox of webhook events, and the audit of refused requests.

use crm_provider::{WebhookEvent, WebhookKind};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::Value as Json;

use crate::store::error::StoreError;
use crate::store::rights::as_engine;
use crate::store::row::Columns;
use crate::store::statement::Cached;

/// Rows that one prune takes at most, so that it is over soon.
pub const PRUNED_AT_ONCE: usize = 10_000;

/// A connection, with what it takes to verify its webhooks.
pub struct WebhookConnection {
    pub id: i32,
    pub name: String,
    pub provider: String,
    pub options: Json,
    /// As given: references are not resolved.
    pub secret: Json,
    /// CRM objects that a table is mapped to.
    pub objects: Vec<String>,
}

/// The connection of that name, whether it is paused or not: its events are stored until it
/// resumes.
pub fn connection(client: &SpiClient, name: &str) -> Result<Option<WebhookConnection>, StoreError> {
    let mut rows = client.select(
        Cached("SELECT c.connection_id, c.provider, c.options::text, k.secret::text,
                     ARRAY(SELECT DISTINCT m.crm_object FROM crm.object_map m WHERE m.connection_id = c.connection_id) AS objects
              FROM crm.connection c LEFT JOIN crm.credential k USING (connection_id)
              WHERE c.name = $1"),
        None,
        &[name.into()],
    )?;
    let Some(row) = rows.next() else {
        return Ok(None);
    };
    let json = |text: Option<String>| -> Json {
        text.and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default()
    };
    Ok(Some(WebhookConnection {
        id: row.required("connection_id")?,
        name: name.to_owned(),
        provider: row.required("provider")?,
        options: json(row.optional("options")?),
        secret: json(row.optional("secret")?),
        objects: row.required("objects")?,
    }))
}

/// The names of all connections, for an error message.
pub fn connection_names(client: &SpiClient) -> Result<Vec<String>, StoreError> {
    let rows = client.select("SELECT name FROM crm.connection ORDER BY name", None, &[])?;
    rows.map(|row| row.required("name")).collect()
}

/// Stores the events that are not there yet; how many these are.
pub fn keep(
    client: &mut SpiClient,
    connection_id: i32,
    events: &[WebhookEvent],
) -> Result<usize, StoreError> {
    if events.is_empty() {
        return Ok(0);
    }
    // In one order, so that two who bring the same events cannot wait for each other.
    let stored = client.update(
        Cached("INSERT INTO crm.webhook_inbox (connection_id, event_id, crm_object, crm_id, kind, occurred_at)
              SELECT $1, e.event_id, e.crm_object, e.crm_id, e.kind, to_timestamp(e.occurred_ms / 1000.0)
              FROM (SELECT FROM crm.connection c WHERE c.connection_id = $1 FOR KEY SHARE) c,
                   unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[])
                   AS e (event_id, crm_object, crm_id, kind, occurred_ms)
              ORDER BY e.event_id COLLATE \"C\"
              ON CONFLICT ON CONSTRAINT webhook_inbox_pkey DO NOTHING"),
        None,
        &[
            connection_id.into(),
            events.iter().map(|e| e.event_id.as_str()).collect::<Vec<_>>().into(),
            events.iter().map(|e| e.object.as_str()).collect::<Vec<_>>().into(),
            events.iter().map(|e| e.crm_id.as_str()).collect::<Vec<_>>().into(),
            events.iter().map(|e| kind(e.kind)).collect::<Vec<_>>().into(),
            events.iter().map(|e| e.occurred_at).collect::<Vec<_>>().into(),
        ],
    )?;
    Ok(stored.len())
}

fn kind(kind: WebhookKind) -> &'static str {
    match kind {
        WebhookKind::Changed => "changed",
        WebhookKind::Deleted => "deleted",
        WebhookKind::Merged => "merged",
        WebhookKind::Restored => "restored",
    }
}

/// How many events are processed at once.
pub const TAKEN_AT_ONCE: usize = 10_000;

/// An event that is not processed yet.
pub struct InboxEvent {
    inbox_id: i64,
    pub crm_object: String,
    pub crm_id: String,
}

/// The oldest events of a connection that are not processed yet.
pub fn waiting(client: &SpiClient, connection_id: i32) -> Result<Vec<InboxEvent>, StoreError> {
    let rows = client.select(
        Cached(
            "SELECT inbox_id, crm_object, crm_id FROM crm.webhook_inbox
             WHERE connection_id = $1 AND done_at IS NULL ORDER BY inbox_id LIMIT $2",
        ),
        None,
        &[connection_id.into(), (TAKEN_AT_ONCE as i64).into()],
    )?;
    let mut waiting = Vec::with_capacity(rows.len());
    for row in rows {
        waiting.push(InboxEvent {
            inbox_id: row.required("inbox_id")?,
            crm_object: row.required("crm_object")?,
            crm_id: row.required("crm_id")?,
        });
    }
    Ok(waiting)
}

/// Marks events whose records have been queued for a refetch.
pub fn done(
    client: &mut SpiClient,
    connection_id: i32,
    events: &[InboxEvent],
) -> Result<(), StoreError> {
    client.update(
        Cached(
            "UPDATE crm.webhook_inbox SET done_at = now()
             WHERE connection_id = $1 AND done_at IS NULL AND inbox_id = ANY ($2)",
        ),
        None,
        &[
            connection_id.into(),
            events.iter().map(|e| e.inbox_id).collect::<Vec<_>>().into(),
        ],
    )?;
    Ok(())
}

/// Runs `work` in a caller's transaction, who needs no right on the tables.
pub fn in_callers_transaction<T>(
    work: impl FnOnce(&mut SpiClient) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    as_engine(|| Spi::connect_mut(|client| work(client)))
}

/// Removes events that were done with a week ago, some of them; how many. Vendors give up within
/// days.
pub fn prune(client: &mut SpiClient) -> Result<usize, StoreError> {
    let pruned = client.update(
        Cached("DELETE FROM crm.webhook_inbox
              WHERE ctid = ANY (ARRAY(SELECT ctid FROM crm.webhook_inbox WHERE done_at < now() - interval '7 days'
                                      ORDER BY done_at LIMIT $1 FOR UPDATE SKIP LOCKED))"),
        None,
        &[(PRUNED_AT_ONCE as i64).into()],
    )?;
    Ok(pruned.len())
}

/// A refused request, or several alike, for the audit.
pub struct Refused {
    pub connection: String,
    pub provider: String,
    pub class: &'static str,
    pub error: String,
}

/// Rows about refused requests. Before anything is mapped the audit has no months of its own yet,
/// and a row would keep this one from getting any: then there is none.
pub fn refused(client: &mut SpiClient, refused: &[Refused]) -> Result<(), StoreError> {
    for one in refused {
        client.update(
            Cached("INSERT INTO crm.audit_log (connection, provider, path, operation, result, error_class, error)
                  SELECT $1, $2, 'ingest', 'webhook', 'refused', $3, $4
                  WHERE EXISTS (SELECT FROM crm.object_map)"),
            None,
            &[
                one.connection.as_str().into(),
                one.provider.as_str().into(),
                one.class.into(),
                one.error.as_str().into(),
            ],
        )?;
    }
    Ok(())
}
