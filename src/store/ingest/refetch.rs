//! Records that are to be read by themselves.

use std::collections::{HashMap, HashSet};

use pgrx::spi::SpiClient;

use crate::store::error::StoreError;
use crate::store::row::Columns;
use crate::store::statement::Cached;

/// A record to be read by itself.
#[derive(Clone, Debug)]
pub struct Refetch {
    pub crm_id: String,
    pub revision: i64,
    pub attempts: u32,
    pub merged_into: Option<String>,
}

/// Records that are due, the first ones first, without those that are being written (`busy`). One
/// that keeps failing comes alone.
pub fn due(
    client: &SpiClient,
    map_id: i32,
    limit: usize,
    busy: &HashSet<&str>,
) -> Result<Vec<Refetch>, StoreError> {
    let rows = client.select(
        Cached(
            "SELECT crm_id, revision, attempts, merged_into FROM crm.refetch WHERE map_id = $1 AND due_at <= now()
             ORDER BY due_at, crm_id LIMIT $2",
        ),
        None,
        &[map_id.into(), ((limit + busy.len()) as i64).into()],
    )?;
    let mut due = Vec::new();
    for row in rows {
        let crm_id: String = row.required("crm_id")?;
        if due.len() == limit || busy.contains(crm_id.as_str()) {
            continue;
        }
        due.push(Refetch {
            crm_id,
            revision: row.required("revision")?,
            attempts: row.required::<i16>("attempts")? as u32,
            merged_into: row.optional("merged_into")?,
        });
    }
    if let Some(worn) = due.iter().position(|r| r.attempts >= ALONE_AFTER) {
        due = vec![due.swap_remove(worn)];
    }
    Ok(due)
}

/// Failures after which a record is read by itself.
pub const ALONE_AFTER: u32 = 3;

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
            "INSERT INTO crm.refetch AS r (map_id, crm_id, merged_into, due_at)
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

/// A pass through all records begins, and the CRM does not report earlier deletions: notes every
/// linked record. Each page deletes the notes of the records that it shows ([`seen`]); the rest is
/// read by itself after the pass ([`ask_unseen`]).
pub fn look_out_for_linked(client: &mut SpiClient, map_id: i32) -> Result<(), StoreError> {
    client.update(
        Cached(
            "INSERT INTO crm.refetch (map_id, crm_id, due_at)
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
            "DELETE FROM crm.refetch r USING unnest($2::text[]) AS k (crm_id)
             WHERE r.map_id = $1 AND r.crm_id = k.crm_id AND r.due_at = 'infinity'
               AND EXISTS (SELECT FROM crm.refetch x WHERE x.map_id = $1 AND x.due_at = 'infinity')",
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
            "UPDATE crm.refetch SET due_at = now(), since = now() WHERE map_id = $1 AND due_at = 'infinity'",
        ),
        None,
        &[map_id.into()],
    )?;
    Ok(())
}

/// Records were read: those of whom nobody asked again are done.
pub fn reread(client: &mut SpiClient, map_id: i32, records: &[&Refetch]) -> Result<(), StoreError> {
    client.update(
        Cached(
            "DELETE FROM crm.refetch r USING unnest($2::text[], $3::bigint[]) AS k (crm_id, revision)
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

/// Records that could not be compared, because a write of ours was in flight to them, are read
/// again: the longer they have waited, the later.
pub fn not_yet(
    client: &mut SpiClient,
    map_id: i32,
    records: &[&Refetch],
) -> Result<(), StoreError> {
    client.update(
        Cached(
            "UPDATE crm.refetch r SET due_at = now() + least(greatest(now() - r.since, interval '200 ms'), interval '30 s')
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

/// Records that could not be taken in are read again by themselves, each time after a longer wait.
/// Returns the attempts of each.
pub fn charge(
    client: &mut SpiClient,
    map_id: i32,
    records: &[(&str, Option<&str>)],
) -> Result<HashMap<String, u32>, StoreError> {
    let rows = client.update(
        Cached(
            "INSERT INTO crm.refetch AS r (map_id, crm_id, merged_into, attempts, due_at)
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
        let charged = row.required::<i16>("attempts")?;
        attempts.insert(row.required("crm_id")?, charged as u32);
    }
    Ok(attempts)
}

/// A record is no longer to be read by itself.
pub fn forget(client: &mut SpiClient, map_id: i32, crm_id: &str) -> Result<(), StoreError> {
    client.update(
        Cached("DELETE FROM crm.refetch WHERE map_id = $1 AND crm_id = $2"),
        None,
        &[map_id.into(), crm_id.into()],
    )?;
    Ok(())
}

/// Records come again later, and are charged with nothing.
pub fn postpone(
    client: &mut SpiClient,
    map_id: i32,
    records: &[&Refetch],
    delay_ms: i64,
) -> Result<(), StoreError> {
    later(client, map_id, records, delay_ms, 0)
}

/// Records that the CRM would not let us read come again later.
pub fn failed(
    client: &mut SpiClient,
    map_id: i32,
    records: &[&Refetch],
    delay_ms: i64,
) -> Result<(), StoreError> {
    later(client, map_id, records, delay_ms, 1)
}

fn later(
    client: &mut SpiClient,
    map_id: i32,
    records: &[&Refetch],
    delay_ms: i64,
    attempts: i32,
) -> Result<(), StoreError> {
    client.update(
        Cached(
            "UPDATE crm.refetch r SET due_at = now() + $3 * interval '1 ms', attempts = r.attempts + $4
             FROM unnest($2::text[]) AS k (crm_id) WHERE r.map_id = $1 AND r.crm_id = k.crm_id",
        ),
        None,
        &[
            map_id.into(),
            records
                .iter()
                .map(|r| r.crm_id.as_str())
                .collect::<Vec<_>>()
                .into(),
            delay_ms.into(),
            attempts.into(),
        ],
    )?;
    Ok(())
}
