//! How far each map has read its CRM's changes, and which records are to be read by themselves.

use std::collections::{HashMap, HashSet};

use pgrx::spi::SpiClient;
use serde_json::Value as Json;

use crate::store::error::StoreError;
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

/// The state of every map whose connection is at home here: the state of others may be on its way, by a restore. One that has none yet gets it: it looks for changes an interval after it was made, when its
/// fields are mapped.
pub fn all(client: &mut SpiClient) -> Result<Vec<State>, StoreError> {
    let rows = client.update(
        Cached(
            "SELECT m.map_id, s.map_id IS NULL,
                    (extract(epoch FROM least(greatest(s.next_at, now() - interval '1 day'), now() + interval '1 day') - now()) * 1000)::bigint,
                    s.backfill IS NOT NULL,
                    (SELECT (extract(epoch FROM greatest(r.due_at, now() - interval '1 day') - now()) * 1000)::bigint FROM crm.reread r
                     WHERE r.map_id = m.map_id AND r.due_at < 'infinity' ORDER BY r.due_at LIMIT 1),
                    EXISTS (SELECT FROM crm.webhook_inbox i WHERE i.connection_id = m.connection_id AND i.done_at IS NULL)
             FROM crm.object_map m JOIN crm.connection c USING (connection_id) LEFT JOIN crm.ingest_state s USING (map_id)
             WHERE c.home = crm.home()",
        ),
        None,
        &[],
    )?;
    let mut states = Vec::new();
    let mut is_new = false;
    for row in rows {
        is_new |= row.get::<bool>(2)?.unwrap_or_default();
        states.push(State {
            map_id: row.get(1)?.unwrap_or_default(),
            next_ms: row.get(3)?.unwrap_or(i64::MAX),
            backfills: row.get(4)?.unwrap_or_default(),
            reread_ms: row.get(5)?,
            has_mail: row.get(6)?.unwrap_or_default(),
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

/// Where the next page begins.
pub fn cursor(client: &SpiClient, map_id: i32) -> Result<Option<Json>, StoreError> {
    let mut rows = client.select(
        Cached("SELECT cursor::text FROM crm.ingest_state WHERE map_id = $1"),
        None,
        &[map_id.into()],
    )?;
    let text = rows.next().map_or(Ok(None), |row| row.get::<String>(1))?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// What the transactions that have ended by now have done. A record of which something changed after it is not compared
/// with what was read before.
pub fn moment(client: &SpiClient) -> Result<String, StoreError> {
    let mut rows = client.select(Cached("SELECT pg_current_snapshot()::text"), None, &[])?;
    let text = rows.next().map_or(Ok(None), |row| row.get(1))?;
    Ok(text.unwrap_or_default())
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

pub fn count(client: &mut SpiClient, map_id: i32, counts: &Counts) -> Result<(), StoreError> {
    client.update(
        Cached(
            "UPDATE crm.ingest_state
             SET read = read + $2, applied = applied + $3, echoes = echoes + $4, ignored = ignored + $5, overwritten = overwritten + $6
             WHERE map_id = $1",
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
    Ok(())
}

/// Goes on from a page to the next; `false`: somebody has set the cursor back meanwhile, and the page counts for nothing.
/// After the last page the map rests for its interval.
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
    let read = rows.next().map_or(Ok(None), |row| row.get(1))?;
    Ok(read.unwrap_or_default())
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

/// A record to be read by itself.
#[derive(Clone, Debug)]
pub struct Reread {
    pub crm_id: String,
    pub revision: i64,
    pub attempts: u32,
    pub merged_into: Option<String>,
}

/// Records that are due, the first ones first, without those that are being written (`busy`). One that keeps failing comes alone.
pub fn due(
    client: &SpiClient,
    map_id: i32,
    limit: usize,
    busy: &HashSet<&str>,
) -> Result<Vec<Reread>, StoreError> {
    let rows = client.select(
        Cached(
            "SELECT crm_id, revision, attempts, merged_into FROM crm.reread WHERE map_id = $1 AND due_at <= now()
             ORDER BY due_at, crm_id LIMIT $2",
        ),
        None,
        &[map_id.into(), ((limit + busy.len()) as i64).into()],
    )?;
    let mut due = Vec::new();
    for row in rows {
        let crm_id: String = row.get(1)?.unwrap_or_default();
        if due.len() == limit || busy.contains(crm_id.as_str()) {
            continue;
        }
        due.push(Reread {
            crm_id,
            revision: row.get(2)?.unwrap_or_default(),
            attempts: row.get::<i16>(3)?.unwrap_or_default() as u32,
            merged_into: row.get(4)?,
        });
    }
    if let Some(worn) = due.iter().position(|r| r.attempts >= ALONE_AFTER) {
        due = vec![due.swap_remove(worn)];
    }
    Ok(due)
}

/// Failures after which a record is read by itself.
const ALONE_AFTER: u32 = 3;

/// Asks for records to be read soon; those that wait already are asked for once more.
pub fn ask(
    client: &mut SpiClient,
    map_id: i32,
    records: &[(&str, Option<&str>)],
    delay_ms: i64,
) -> Result<(), StoreError> {
    if records.is_empty() {
        return Ok(());
    }
    client.update(
        Cached(
            "INSERT INTO crm.reread AS r (map_id, crm_id, merged_into, due_at)
             SELECT DISTINCT ON (k.crm_id) $1, k.crm_id, k.merged_into, now() + $4 * interval '1 ms'
             FROM unnest($2::text[], $3::text[]) AS k (crm_id, merged_into) ORDER BY k.crm_id, k.merged_into
             ON CONFLICT (map_id, crm_id) DO UPDATE
             SET revision = excluded.revision, due_at = least(r.due_at, excluded.due_at), merged_into = coalesce(excluded.merged_into, r.merged_into)",
        ),
        None,
        &[
            map_id.into(),
            records.iter().map(|(id, _)| *id).collect::<Vec<_>>().into(),
            records.iter().map(|(_, into)| *into).collect::<Vec<_>>().into(),
            delay_ms.into(),
        ],
    )?;
    Ok(())
}

/// A pass through all records begins, and the CRM does not tell which of them are gone: notes every linked record as unseen. Each
/// page takes away those that it shows ([`seen`]); the rest is read by itself after the pass ([`ask_unseen`]).
pub fn look_out_for_linked(client: &mut SpiClient, map_id: i32) -> Result<(), StoreError> {
    client.update(
        Cached(
            "INSERT INTO crm.reread (map_id, crm_id, due_at)
             SELECT DISTINCT l.map_id, l.crm_id, timestamptz 'infinity' FROM crm.ledger l
             WHERE l.map_id = $1 AND l.crm_id IS NOT NULL AND NOT l.detached
             ON CONFLICT (map_id, crm_id) DO NOTHING",
        ),
        None,
        &[map_id.into()],
    )?;
    Ok(())
}

/// A page of the pass has shown these records, so they exist.
pub fn seen(client: &mut SpiClient, map_id: i32, crm_ids: Vec<&str>) -> Result<(), StoreError> {
    client.update(
        Cached(
            "DELETE FROM crm.reread r USING unnest($2::text[]) AS k (crm_id)
             WHERE r.map_id = $1 AND r.crm_id = k.crm_id AND r.due_at = 'infinity'
               AND EXISTS (SELECT FROM crm.reread x WHERE x.map_id = $1 AND x.due_at = 'infinity')",
        ),
        None,
        &[map_id.into(), crm_ids.into()],
    )?;
    Ok(())
}

/// The pass has ended: the records that it did not show are to be read now.
pub fn ask_unseen(client: &mut SpiClient, map_id: i32) -> Result<(), StoreError> {
    client.update(
        Cached(
            "UPDATE crm.reread SET due_at = now(), since = now() WHERE map_id = $1 AND due_at = 'infinity'",
        ),
        None,
        &[map_id.into()],
    )?;
    Ok(())
}

/// Records were read: those of whom nobody asked again are done.
pub fn reread(client: &mut SpiClient, map_id: i32, records: &[&Reread]) -> Result<(), StoreError> {
    client.update(
        Cached(
            "DELETE FROM crm.reread r USING unnest($2::text[], $3::bigint[]) AS k (crm_id, revision)
             WHERE r.map_id = $1 AND r.crm_id = k.crm_id AND r.revision = k.revision",
        ),
        None,
        &[
            map_id.into(),
            records.iter().map(|r| r.crm_id.as_str()).collect::<Vec<_>>().into(),
            records.iter().map(|r| r.revision).collect::<Vec<_>>().into(),
        ],
    )?;
    Ok(())
}

/// Records that could not be compared, because something of ours was on its way to them, come again: the longer they have
/// waited, the later.
pub fn not_yet(client: &mut SpiClient, map_id: i32, records: &[&Reread]) -> Result<(), StoreError> {
    client.update(
        Cached(
            "UPDATE crm.reread r SET due_at = now() + least(greatest(now() - r.since, interval '200 ms'), interval '30 s')
             FROM unnest($2::text[]) AS k (crm_id) WHERE r.map_id = $1 AND r.crm_id = k.crm_id",
        ),
        None,
        &[
            map_id.into(),
            records.iter().map(|r| r.crm_id.as_str()).collect::<Vec<_>>().into(),
        ],
    )?;
    Ok(())
}

/// Records that could not be taken in are read again by themselves, each time after a longer wait. Returns the attempts of each.
pub fn charge(
    client: &mut SpiClient,
    map_id: i32,
    records: &[(&str, Option<&str>)],
) -> Result<HashMap<String, u32>, StoreError> {
    let rows = client.update(
        Cached(
            "INSERT INTO crm.reread AS r (map_id, crm_id, merged_into, attempts, due_at)
             SELECT DISTINCT ON (k.crm_id) $1, k.crm_id, k.merged_into, 1, now() + interval '1 s'
             FROM unnest($2::text[], $3::text[]) AS k (crm_id, merged_into) ORDER BY k.crm_id, k.merged_into
             ON CONFLICT (map_id, crm_id) DO UPDATE
             SET revision = excluded.revision, attempts = least(r.attempts + 1, 1000), merged_into = coalesce(excluded.merged_into, r.merged_into),
                 due_at = now() + interval '1 s' * least(2.0 ^ least(r.attempts, 10), 900)
             RETURNING crm_id, attempts",
        ),
        None,
        &[
            map_id.into(),
            records.iter().map(|(id, _)| *id).collect::<Vec<_>>().into(),
            records.iter().map(|(_, into)| *into).collect::<Vec<_>>().into(),
        ],
    )?;
    let mut attempts = HashMap::with_capacity(rows.len());
    for row in rows {
        let charged = row.get::<i16>(2)?.unwrap_or_default();
        attempts.insert(row.get(1)?.unwrap_or_default(), charged as u32);
    }
    Ok(attempts)
}

/// A record is no longer to be read by itself.
pub fn forget(client: &mut SpiClient, map_id: i32, crm_id: &str) -> Result<(), StoreError> {
    client.update(
        Cached("DELETE FROM crm.reread WHERE map_id = $1 AND crm_id = $2"),
        None,
        &[map_id.into(), crm_id.into()],
    )?;
    Ok(())
}

/// Records that the CRM would not let us read come again later.
pub fn failed(
    client: &mut SpiClient,
    map_id: i32,
    records: &[&Reread],
    delay_ms: i64,
) -> Result<(), StoreError> {
    client.update(
        Cached(
            "UPDATE crm.reread r SET due_at = now() + $3 * interval '1 ms', attempts = r.attempts + 1
             FROM unnest($2::text[]) AS k (crm_id) WHERE r.map_id = $1 AND r.crm_id = k.crm_id",
        ),
        None,
        &[
            map_id.into(),
            records.iter().map(|r| r.crm_id.as_str()).collect::<Vec<_>>().into(),
            delay_ms.into(),
        ],
    )?;
    Ok(())
}
