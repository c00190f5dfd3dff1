//! How far each map has read its CRM's changes, and which records are to be read by themselves.

use pgrx::spi::SpiClient;
use serde_json::Value as Json;

use crate::store::error::StoreError;
use crate::store::row::{self, Columns};
use crate::store::statement::Cached;

/// Where a map stands.
#[derive(Clone, Debug)]
pub struct State {
    pub map_id: i32,
    /// Milliseconds until changes are due; not positive: now.
    pub next_ms: i64,
    /// Every record is being read.
    pub backfills: bool,
    /// Milliseconds until the first record is to be read by itself, if one is.
    pub reread_ms: Option<i64>,
    /// Webhooks of its connection wait to be looked at.
    pub has_mail: bool,
}

/// The state of every map whose connection is at home here: a restore may still be bringing the
/// state of others. A map that has none yet gets it: it polls for changes an interval after it was
/// made, when its fields are mapped.
pub fn all(client: &mut SpiClient) -> Result<Vec<State>, StoreError> {
    let rows = client.update(
        Cached(
            "SELECT m.map_id, s.map_id IS NULL AS is_new,
                    (extract(epoch FROM least(greatest(s.next_at, now() - interval '1 day'), now() + interval '1 day') - now()) * 1000)::bigint AS next_ms,
                    s.backfill IS NOT NULL AS backfills,
                    (SELECT (extract(epoch FROM greatest(r.due_at, now() - interval '1 day') - now()) * 1000)::bigint FROM crm.refetch r
                     WHERE r.map_id = m.map_id AND r.due_at < 'infinity' ORDER BY r.due_at LIMIT 1) AS refetch_ms,
                    EXISTS (SELECT FROM crm.webhook_inbox i WHERE i.connection_id = m.connection_id AND i.done_at IS NULL) AS has_mail
             FROM crm.object_map m JOIN crm.connection c USING (connection_id) LEFT JOIN crm.ingest_state s USING (map_id)
             WHERE c.home = crm.home()",
        ),
        None,
        &[],
    )?;
    let mut states = Vec::new();
    let mut is_new = false;
    for row in rows {
        is_new |= row.required::<bool>("is_new")?;
        states.push(State {
            map_id: row.required("map_id")?,
            next_ms: row.required("next_ms")?,
            backfills: row.required("backfills")?,
            reread_ms: row.optional("refetch_ms")?,
            has_mail: row.required("has_mail")?,
        });
    }
    if is_new {
        client.update(
            Cached(
                "INSERT INTO crm.ingest_state (map_id, next_at) SELECT m.map_id, now() + m.ingest_interval
                 FROM crm.object_map m JOIN crm.connection c USING (connection_id) WHERE c.home = crm.home() FOR KEY SHARE OF m
                 ON CONFLICT DO NOTHING",
            ),
            None,
            &[],
        )?;
        return all(client);
    }
    Ok(states)
}

/// Notes that the map's changes are being read; returns where the next page begins. `is_new_pass`:
/// from the end of the last pass on.
pub fn begins_to_read(
    client: &mut SpiClient,
    map_id: i32,
    is_new_pass: bool,
) -> Result<Option<Json>, StoreError> {
    let mut rows = client.update(
        Cached(
            "UPDATE crm.ingest_state
             SET reading_since = now(), pass_id = CASE WHEN $2 OR pass_id IS NULL THEN gen_random_uuid() ELSE pass_id END
             WHERE map_id = $1 RETURNING cursor::text AS cursor",
        ),
        None,
        &[map_id.into(), is_new_pass.into()],
    )?;
    let text: Option<String> = match rows.next() {
        Some(row) => row.optional("cursor")?,
        None => None,
    };
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// The id of the running pass, or of the last one.
pub fn pass_id(client: &SpiClient, map_id: i32) -> Result<Option<String>, StoreError> {
    let mut rows = client.select(
        Cached("SELECT pass_id::text AS pass_id FROM crm.ingest_state WHERE map_id = $1"),
        None,
        &[map_id.into()],
    )?;
    rows.next().map_or(Ok(None), |row| row.optional("pass_id"))
}

/// Notes that no request for the map's changes is in flight; `None`: for those of any.
pub fn rests(client: &mut SpiClient, map_id: Option<i32>) -> Result<(), StoreError> {
    client.update(
        Cached(
            "UPDATE crm.ingest_state SET reading_since = NULL
             WHERE reading_since IS NOT NULL AND ($1 IS NULL OR map_id = $1)",
        ),
        None,
        &[map_id.into()],
    )?;
    Ok(())
}

/// What the transactions that have ended by now have done. A record of which something changed
/// after it is not compared with what was read before.
pub fn moment(client: &SpiClient) -> Result<String, StoreError> {
    let rows = client.select(
        Cached("SELECT pg_current_snapshot()::text AS moment"),
        None,
        &[],
    )?;
    row::only(rows)?.required("moment")
}

/// What came of a page.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub read: usize,
    pub applied: usize,
    pub echoes: usize,
    pub ignored: usize,
    pub overwritten: usize,
}

/// Adds to the totals; whether these are the first records of the pass that were applied.
pub fn count(client: &mut SpiClient, map_id: i32, counts: &Counts) -> Result<bool, StoreError> {
    let mut rows = client.update(
        Cached(
            "UPDATE crm.ingest_state
             SET read = read + $2, applied = applied + $3, echoes = echoes + $4, ignored = ignored + $5, overwritten = overwritten + $6,
                 pass_read = pass_read + $2, pass_applied = pass_applied + $3
             WHERE map_id = $1 RETURNING $3 > 0 AND pass_applied = $3 AS is_first",
        ),
        None,
        &[
            map_id.into(),
            (counts.read as i64).into(),
            (counts.applied as i64).into(),
            (counts.echoes as i64).into(),
            (counts.ignored as i64).into(),
            (counts.overwritten as i64).into(),
        ],
    )?;
    rows.next()
        .map_or(Ok(false), |row| row.required("is_first"))
}

/// Whether a record of the map was ever applied.
pub fn has_applied(client: &SpiClient, map_id: i32) -> Result<bool, StoreError> {
    let mut rows = client.select(
        Cached("SELECT applied > 0 AS has_applied FROM crm.ingest_state WHERE map_id = $1"),
        None,
        &[map_id.into()],
    )?;
    rows.next()
        .map_or(Ok(false), |row| row.required("has_applied"))
}

/// What a pass through the CRM's changes read and applied.
pub struct Pass {
    pub read: i64,
    pub applied: i64,
}

/// Ends a pass: its counts, if it applied anything.
pub fn end_pass(client: &mut SpiClient, map_id: i32) -> Result<Option<Pass>, StoreError> {
    let mut rows = client.update(
        Cached(
            "UPDATE crm.ingest_state s SET pass_read = 0, pass_applied = 0
             FROM (SELECT map_id, pass_read, pass_applied FROM crm.ingest_state WHERE map_id = $1 AND pass_read > 0) p
             WHERE s.map_id = p.map_id RETURNING p.pass_read, p.pass_applied",
        ),
        None,
        &[map_id.into()],
    )?;
    let Some(row) = rows.next() else {
        return Ok(None);
    };
    let pass = Pass {
        read: row.required("pass_read")?,
        applied: row.required("pass_applied")?,
    };
    Ok(Some(pass).filter(|pass| pass.applied > 0))
}

/// Whether a page after that cursor is still wanted, as [`advance`] judges it.
pub fn stands_at(client: &SpiClient, map_id: i32, from: Option<&Json>) -> Result<bool, StoreError> {
    let mut rows = client.select(
        Cached("SELECT cursor IS NOT DISTINCT FROM $2::jsonb AS stands_there FROM crm.ingest_state WHERE map_id = $1"),
        None,
        &[map_id.into(), from.map(Json::to_string).into()],
    )?;
    rows.next()
        .map_or(Ok(false), |row| row.required("stands_there"))
}

/// Goes on from a page to the next; `false`: the cursor was reset meanwhile, and the page is
/// ignored. After the last page the map rests for its interval.
pub fn advance(
    client: &mut SpiClient,
    map_id: i32,
    from: Option<&Json>,
    to: &Json,
    more: bool,
    records: usize,
) -> Result<bool, StoreError> {
    let rows = client.update(
        Cached(
            "UPDATE crm.ingest_state s
             SET cursor = $3::jsonb, backfilled = CASE WHEN s.backfill IS NULL THEN s.backfilled ELSE s.backfilled + $5 END,
                 backfill = CASE WHEN $4 THEN s.backfill END, last_at = CASE WHEN $4 THEN s.last_at ELSE now() END,
                 reading_since = CASE WHEN $4 THEN s.reading_since END,
                 next_at = CASE WHEN $4 THEN '-infinity' ELSE now() + m.ingest_interval END
             FROM crm.object_map m
             WHERE m.map_id = s.map_id AND s.map_id = $1 AND s.cursor IS NOT DISTINCT FROM $2::jsonb RETURNING s.map_id",
        ),
        None,
        &[
            map_id.into(),
            from.map(Json::to_string).into(),
            to.to_string().into(),
            more.into(),
            (records as i64).into(),
        ],
    )?;
    Ok(!rows.is_empty())
}

/// A look for changes failed: again in a while.
pub fn postpone(client: &mut SpiClient, map_id: i32, delay_ms: i64) -> Result<(), StoreError> {
    client.update(
        Cached(
            "UPDATE crm.ingest_state SET next_at = now() + $2 * interval '1 ms' WHERE map_id = $1",
        ),
        None,
        &[map_id.into(), delay_ms.into()],
    )?;
    Ok(())
}

/// Begins to read every record; one that is on goes on.
pub fn begin_backfill(client: &mut SpiClient, map_id: i32) -> Result<(), StoreError> {
    client.update(
        Cached(
            "UPDATE crm.ingest_state SET backfill = now(), backfilled = 0, total = NULL, cursor = NULL, next_at = '-infinity'
             WHERE map_id = $1 AND backfill IS NULL",
        ),
        None,
        &[map_id.into()],
    )?;
    Ok(())
}

/// How many records the CRM has, for those who watch a backfill.
pub fn note_total(client: &mut SpiClient, map_id: i32, total: u64) -> Result<(), StoreError> {
    client.update(
        Cached("UPDATE crm.ingest_state SET total = $2 WHERE map_id = $1"),
        None,
        &[map_id.into(), (total as i64).into()],
    )?;
    Ok(())
}

/// How many records the backfill that ended last has read.
pub fn backfilled(client: &SpiClient, map_id: i32) -> Result<i64, StoreError> {
    let mut rows = client.select(
        Cached("SELECT backfilled FROM crm.ingest_state WHERE map_id = $1"),
        None,
        &[map_id.into()],
    )?;
    // None if the map was dropped meanwhile.
    rows.next().map_or(Ok(0), |row| row.required("backfilled"))
}

/// A cursor that the provider cannot read: from the first record again.
pub fn begin_anew(client: &mut SpiClient, map_id: i32) -> Result<(), StoreError> {
    client.update(
        Cached(
            "UPDATE crm.ingest_state SET cursor = NULL, next_at = '-infinity' WHERE map_id = $1",
        ),
        None,
        &[map_id.into()],
    )?;
    Ok(())
}
