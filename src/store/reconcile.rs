//! What the reconciler decided, written down: rows, ledger, pending writes, conflicts, dead letters, audit and claim in
//! one transaction.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use crm_domain::conflict::{self, ShortHash};
use crm_domain::{Cells, ErrorClass, Value};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::{Map as JsonMap, Value as Json, json};

use super::apply::{self, Ours, Row};
use super::config::Map;
use super::edits;
use super::pending::Pending;
use super::values::{self, RowValues, Wanted};
use super::{Kept, StoreError, as_owner, settle, subtransaction};
use crate::settings::Settings;

/// A pending write with what became of it.
pub struct Settled {
    pub pending: Pending,
    /// What the CRM is now known to hold in cells that are settled.
    pub known: BTreeMap<u16, ShortHash>,
    /// Cells in which the row takes the CRM's value, and what the row held when that was decided.
    pub takes: BTreeMap<u16, Take>,
    pub conflicts: Vec<Conflict>,
    pub verdict: Verdict,
    /// The mapped fields of the CRM object as they were read: CRM field -> canonical value.
    pub snapshot: Option<(Json, Vec<u8>)>,
}

pub struct Take {
    pub crm: Value,
    /// `None`: whatever it held.
    pub local: Option<Value>,
}

pub struct Conflict {
    pub field_id: u16,
    pub kind: &'static str,
    pub local: Json,
    pub crm: Json,
    pub base: Json,
    pub policy: &'static str,
}

pub enum Verdict {
    /// Every cell is settled.
    Done,
    Retry {
        delay_ms: i64,
        charged: bool,
        class: ErrorClass,
        error: String,
    },
    Dead {
        class: ErrorClass,
        code: String,
        error: String,
    },
    /// The CRM deleted the record.
    Unlinked { error: String },
}

/// Writes down results. Returns those whose record or row somebody holds, or whose row changed meanwhile, to be settled
/// later; and what was taken into rows.
pub fn settle(
    client: &mut SpiClient,
    map: &Map,
    mut records: Vec<Settled>,
) -> Result<(Vec<Settled>, Vec<Settled>), StoreError> {
    let keys: Vec<(&str, &str)> = records.iter().map(keys_of).collect();
    let mut held: HashSet<usize> = settle::held_records(client, map, &keys)?
        .into_iter()
        .collect();
    held.extend(rows_in_use(map, &records, &held)?);
    let mut later = Vec::new();
    let mut now = Vec::new();
    for (n, record) in records.drain(..).enumerate() {
        if held.contains(&n) {
            later.push(record);
        } else {
            now.push(record);
        }
    }
    take(client, map, &mut now)?;
    ledger(client, map, &now)?;
    pending(client, map, &now)?;
    for record in &now {
        conflicts(client, map, record)?;
        dead_letter(client, map, record)?;
    }
    Ok((now, later))
}

/// How long the transforms of one row may take.
fn limit() -> Duration {
    Settings::current().transform_timeout
}

fn keys_of(record: &Settled) -> (&str, &str) {
    (&record.pending.shard_key, &record.pending.record_key)
}

/// Records of whose rows cells are to be set, but whose rows somebody is changing.
fn rows_in_use(
    map: &Map,
    records: &[Settled],
    held: &HashSet<usize>,
) -> Result<Vec<usize>, StoreError> {
    let taking: Vec<usize> = (0..records.len())
        .filter(|n| !held.contains(n) && !records[*n].takes.is_empty())
        .collect();
    if taking.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<(&str, &str)> = taking.iter().map(|&n| keys_of(&records[n])).collect();
    let free: HashSet<String> = as_owner(map.owner, || {
        Spi::connect_mut(|client| apply::lock_free(client, map, &keys))
    })?
    .into_iter()
    .collect();
    // A row that is gone is not in use.
    let none = Cells::new();
    let wanted: Vec<Wanted> = keys
        .iter()
        .map(|(shard_key, record_key)| Wanted {
            shard_key,
            record_key,
            cells: &none,
        })
        .collect();
    let rows = values::read(map, &wanted, usize::MAX, Some(limit()))?;
    Ok(taking
        .iter()
        .enumerate()
        .filter(|(place, n)| {
            !free.contains(&records[**n].pending.record_key)
                && !matches!(rows.get(place), Some(RowValues::Missing))
        })
        .map(|(_, n)| *n)
        .collect())
}

/// Sets cells of rows as their owner. A row that changed since is left alone: its own edit is on its way here.
fn take(client: &mut SpiClient, map: &Map, records: &mut [Settled]) -> Result<(), StoreError> {
    let taking: Vec<usize> = (0..records.len())
        .filter(|&n| !records[n].takes.is_empty())
        .collect();
    if taking.is_empty() {
        return Ok(());
    }
    let cells: Vec<Cells> = taking
        .iter()
        .map(|&n| records[n].takes.keys().copied().collect())
        .collect();
    let wanted: Vec<Wanted> = taking
        .iter()
        .zip(&cells)
        .map(|(&n, cells)| Wanted {
            shard_key: &records[n].pending.shard_key,
            record_key: &records[n].pending.record_key,
            cells,
        })
        .collect();
    let rows = values::read(map, &wanted, usize::MAX, Some(limit()))?;
    // By the columns that change, so that each kind of change is one statement.
    let mut by_cells: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
    for (place, &n) in taking.iter().enumerate() {
        let current: BTreeMap<u16, &Value> = match rows.get(&place) {
            Some(RowValues::Found(fields)) => {
                fields.iter().map(|(id, _, value)| (*id, value)).collect()
            }
            _ => BTreeMap::new(),
        };
        let record = &mut records[n];
        // An edit that came meanwhile was made without having seen the CRM's value either: it keeps its base.
        for (id, take) in &record.takes {
            let then = take.local.as_ref();
            let edited = |now: &&Value| then.is_some_and(|then| then != *now);
            if current.get(id).is_some_and(edited) {
                record.known.remove(id);
            }
        }
        record
            .takes
            .retain(|id, take| match (current.get(id), &take.local) {
                (Some(now), Some(then)) => *now == then && **now != take.crm,
                (Some(now), None) => **now != take.crm,
                (None, _) => false,
            });
        let cells: Cells = record.takes.keys().copied().collect();
        if !cells.is_empty() {
            by_cells.entry(cells.to_bytes()).or_default().push(n);
        }
    }
    for (cells, places) in by_cells {
        for chunk in places.chunks(500) {
            take_together(client, map, records, &cells, chunk)?;
        }
    }
    Ok(())
}

/// One statement for rows of which the same cells change; row by row if one of them is refused.
fn take_together(
    client: &mut SpiClient,
    map: &Map,
    records: &mut [Settled],
    cells: &[u8],
    places: &[usize],
) -> Result<(), StoreError> {
    let ids: Vec<u16> = Cells::from_bytes(cells).iter().collect();
    let columns: Vec<&str> = ids
        .iter()
        .filter_map(|id| map.field(*id))
        .map(|f| f.column.as_str())
        .collect();
    let result = subtransaction(|| {
        let rows = places
            .iter()
            .map(|&n| row(map, &records[n]))
            .collect::<Result<Vec<_>, _>>()?;
        let _ours = Ours::taken(map.id, cells.to_vec(), &rows);
        as_owner(map.owner, || {
            Spi::connect_mut(|client| apply::update(client, map, &columns, &rows))
        })
    });
    match result {
        Ok(_) => recapture(client, map, records, cells, places),
        Err(error) if error.is_transient() => Err(error),
        Err(error) if places.len() == 1 => {
            // The table refuses what the CRM holds: a person decides.
            let record = &mut records[places[0]];
            for (id, take) in std::mem::take(&mut record.takes) {
                record.known.remove(&id);
                record.conflicts.push(Conflict {
                    field_id: id,
                    kind: "mapping_mismatch",
                    local: take.local.map_or(Json::Null, |v| v.to_json()),
                    crm: take.crm.to_json(),
                    base: json!({ "error": error.message() }),
                    policy: map.field(id).map_or("crm_wins", |f| f.policy.name()),
                });
            }
            Ok(())
        }
        Err(_) => {
            for place in places {
                take_together(client, map, records, cells, &[*place])?;
            }
            Ok(())
        }
    }
}

fn row(map: &Map, record: &Settled) -> Result<Row, StoreError> {
    let mut object = JsonMap::new();
    for (id, take) in &record.takes {
        let Some(field) = map.field(*id) else {
            continue;
        };
        let canonical = take.crm.to_json();
        let value = match &field.transform_in {
            Some(transform) => edits::transformed(map, transform, &canonical)?,
            None => field.column_json(&canonical),
        };
        object.insert(field.column.clone(), value);
    }
    Ok(Row {
        shard_key: record.pending.shard_key.clone(),
        record_key: record.pending.record_key.clone(),
        values: Json::Object(object).to_string(),
    })
}

/// What a trigger of the table made of the CRM's value is an edit like any other.
fn recapture(
    client: &mut SpiClient,
    map: &Map,
    records: &[Settled],
    cells: &[u8],
    places: &[usize],
) -> Result<(), StoreError> {
    let cells = Cells::from_bytes(cells);
    let wanted: Vec<Wanted> = places
        .iter()
        .map(|&n| Wanted {
            shard_key: &records[n].pending.shard_key,
            record_key: &records[n].pending.record_key,
            cells: &cells,
        })
        .collect();
    let rows = values::read(map, &wanted, usize::MAX, Some(limit()))?;
    for (place, &n) in places.iter().enumerate() {
        let Some(RowValues::Found(fields)) = rows.get(&place) else {
            continue;
        };
        let mut base = JsonMap::new();
        let mut changed = Cells::new();
        for (id, _, value) in fields {
            let Some(take) = records[n].takes.get(id) else {
                continue;
            };
            if *value != take.crm && map.field(*id).is_some_and(|f| f.is_checked()) {
                let hash = crate::worker::protocol::to_hex(&conflict::hash(&take.crm));
                base.insert(id.to_string(), json!({ "h": hash }));
                changed.insert(*id);
            }
        }
        if !changed.is_empty() {
            client.update("SELECT crm.note_change(true)", None, &[])?;
            client.update(
                Kept("INSERT INTO crm.change (shard_key, map_id, record_keys, op, cells, base, actor)
                 VALUES ($1, $2, ARRAY[$3], 'u', $4, $5::jsonb, 'pg_crm')"),
                None,
                &[
                    records[n].pending.shard_key.as_str().into(),
                    map.id.into(),
                    records[n].pending.record_key.as_str().into(),
                    changed.to_bytes().into(),
                    Json::Object(base).to_string().into(),
                ],
            )?;
        }
    }
    Ok(())
}

fn ledger(client: &mut SpiClient, map: &Map, records: &[Settled]) -> Result<(), StoreError> {
    let known: Vec<&Settled> = records.iter().filter(|r| !r.known.is_empty()).collect();
    if !known.is_empty() {
        let cells: Vec<Vec<u8>> = known
            .iter()
            .map(|r| r.known.keys().copied().collect::<Cells>().to_bytes())
            .collect();
        let hashes: Vec<Vec<u8>> = known
            .iter()
            .map(|r| r.known.values().flatten().copied().collect())
            .collect();
        client.update(
            Kept("UPDATE crm.ledger l
             SET hashes = crm.cells_hash(l.hashes, r.cells, r.hashes), synced_at = crm.cells_stamp(l.synced_at, r.cells, now()),
                 changed_at = crm.cells_stamp(l.changed_at, r.cells, to_timestamp(r.changed_at_ms / 1000.0))
             FROM unnest($2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::bigint[])
                  AS r (shard_key, record_key, cells, hashes, changed_at_ms)
             WHERE l.shard_key = r.shard_key AND l.map_id = $1 AND l.record_key = r.record_key"),
            None,
            &[
                map.id.into(),
                known.iter().map(|r| keys_of(r).0).collect::<Vec<_>>().into(),
                known.iter().map(|r| keys_of(r).1).collect::<Vec<_>>().into(),
                cells.into(),
                hashes.into(),
                known.iter().map(|r| r.pending.changed_at_ms).collect::<Vec<_>>().into(),
            ],
        )?;
    }
    for record in records
        .iter()
        .filter(|r| matches!(r.verdict, Verdict::Unlinked { .. }))
    {
        let (shard_key, record_key) = keys_of(record);
        client.update(
            Kept(
                "WITH waiting AS (
                 UPDATE crm.queue SET state = 'unlinked', revision = DEFAULT
                 WHERE shard_key = $1 AND map_id = $2 AND record_key = $3 AND state = 'queued'
             )
             UPDATE crm.ledger SET crm_id = NULL, hashes = NULL, detached = true
             WHERE shard_key = $1 AND map_id = $2 AND record_key = $3",
            ),
            None,
            &[shard_key.into(), map.id.into(), record_key.into()],
        )?;
    }
    Ok(())
}

/// A pending write whose every cell is settled goes, unless edits were folded into it since: those are based on what is now
/// known.
fn pending(client: &mut SpiClient, map: &Map, records: &[Settled]) -> Result<(), StoreError> {
    let mut verdicts = Vec::with_capacity(records.len());
    let mut bases = Vec::with_capacity(records.len());
    let mut delays = Vec::with_capacity(records.len());
    let mut charges = Vec::with_capacity(records.len());
    let mut classes = Vec::with_capacity(records.len());
    let mut errors = Vec::with_capacity(records.len());
    for r in records {
        let base: JsonMap<String, Json> = r
            .known
            .iter()
            .map(|(id, hash)| {
                (
                    id.to_string(),
                    json!({ "h": crate::worker::protocol::to_hex(hash) }),
                )
            })
            .collect();
        bases.push(Json::Object(base).to_string());
        let (verdict, delay, charged, class, error) = match &r.verdict {
            Verdict::Done => ("done", 0, false, None, None),
            Verdict::Unlinked { .. } => ("done", 0, false, None, None),
            Verdict::Retry {
                delay_ms,
                charged,
                class,
                error,
            } => (
                "retry",
                *delay_ms,
                *charged,
                Some(class.name()),
                Some(error.as_str()),
            ),
            Verdict::Dead { class, error, .. } => {
                ("dead", 0, true, Some(class.name()), Some(error.as_str()))
            }
        };
        verdicts.push(verdict);
        delays.push(delay);
        charges.push(charged);
        classes.push(class);
        errors.push(error);
    }
    let snapshots: Vec<Option<String>> = records
        .iter()
        .map(|r| r.snapshot.as_ref().map(|(json, _)| json.to_string()))
        .collect();
    let snapshot_hashes: Vec<Option<&[u8]>> = records
        .iter()
        .map(|r| r.snapshot.as_ref().map(|(_, hash)| hash.as_slice()))
        .collect();
    client.update(
        Kept("WITH r AS MATERIALIZED (
             SELECT * FROM unnest($2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::bigint[], $8::bool[], $9::text[],
                                  $10::text[], $11::text[], $12::bytea[], $13::bytea[])
                  AS r (shard_key, record_key, revision, verdict, base, delay_ms, charged, error_class, error, snapshot, snapshot_hash, take)
         ), gone AS (
             DELETE FROM crm.pending_write p USING r
             WHERE p.shard_key = r.shard_key AND p.map_id = $1 AND p.record_key = r.record_key AND p.state IN ('queued', 'dead')
               AND p.revision = r.revision AND r.verdict = 'done'
         )
         UPDATE crm.pending_write p
         SET base = CASE WHEN r.verdict = 'done' THEN p.base || r.base::jsonb ELSE p.base END,
             -- What somebody asked for meanwhile stays asked for.
             take = CASE WHEN r.verdict = 'done' THEN crm.cells_minus(p.take, r.take) ELSE p.take END,
             state = CASE WHEN r.verdict = 'dead' AND p.revision = r.revision THEN 'dead' ELSE 'queued' END,
             attempts = CASE WHEN p.revision <> r.revision THEN 0 WHEN r.charged THEN p.attempts + 1 ELSE p.attempts END,
             next_attempt_at = CASE WHEN r.verdict = 'retry' THEN now() + r.delay_ms * interval '1 ms' ELSE '-infinity' END,
             error_class = r.error_class, last_error = r.error,
             snapshot = coalesce(r.snapshot::jsonb, p.snapshot), snapshot_hash = coalesce(r.snapshot_hash, p.snapshot_hash)
         FROM r WHERE p.shard_key = r.shard_key AND p.map_id = $1 AND p.record_key = r.record_key AND p.state IN ('queued', 'dead')
                  AND NOT (p.revision = r.revision AND r.verdict = 'done')"),
        None,
        &[
            map.id.into(),
            records.iter().map(|r| keys_of(r).0).collect::<Vec<_>>().into(),
            records.iter().map(|r| keys_of(r).1).collect::<Vec<_>>().into(),
            records.iter().map(|r| r.pending.revision).collect::<Vec<_>>().into(),
            verdicts.into(),
            bases.into(),
            delays.into(),
            charges.into(),
            classes.into(),
            errors.into(),
            snapshots.into(),
            snapshot_hashes.into(),
            records.iter().map(|r| r.pending.take.to_bytes()).collect::<Vec<_>>().into(),
        ],
    )?;
    Ok(())
}

/// Conflicts of one record and field are one row. A cell that is settled has no conflict any more.
fn conflicts(client: &mut SpiClient, map: &Map, record: &Settled) -> Result<(), StoreError> {
    let (shard_key, record_key) = keys_of(record);
    let settled: Vec<i16> = record.known.keys().map(|id| *id as i16).collect();
    if !settled.is_empty() {
        client.update(
            Kept("DELETE FROM crm.conflict WHERE shard_key = $1 AND map_id = $2 AND record_key = $3 AND field_id = ANY ($4)"),
            None,
            &[shard_key.into(), map.id.into(), record_key.into(), settled.into()],
        )?;
    }
    for conflict in &record.conflicts {
        client.update(
            Kept("INSERT INTO crm.conflict AS c (shard_key, map_id, record_key, field_id, crm_id, conflict_type, local_value, crm_value, base,
                                            policy, write_id, actor, correlation_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8::jsonb, $9::jsonb, $10, $11::uuid, $12, $13)
             ON CONFLICT (shard_key, map_id, record_key, field_id) DO UPDATE
             SET crm_id = excluded.crm_id, conflict_type = excluded.conflict_type, local_value = excluded.local_value,
                 crm_value = excluded.crm_value, base = excluded.base, policy = excluded.policy, write_id = excluded.write_id,
                 actor = excluded.actor, correlation_id = excluded.correlation_id, last_attempt = now()"),
            None,
            &[
                shard_key.into(),
                map.id.into(),
                record_key.into(),
                (conflict.field_id as i16).into(),
                record.pending.crm_id.as_str().into(),
                conflict.kind.into(),
                conflict.local.to_string().into(),
                conflict.crm.to_string().into(),
                conflict.base.to_string().into(),
                conflict.policy.into(),
                record.pending.write_id.as_str().into(),
                record.pending.actor.as_deref().into(),
                record.pending.correlation_id.as_deref().into(),
            ],
        )?;
    }
    Ok(())
}

fn dead_letter(client: &mut SpiClient, map: &Map, record: &Settled) -> Result<(), StoreError> {
    let Verdict::Dead { class, code, error } = &record.verdict else {
        return Ok(());
    };
    let (shard_key, record_key) = keys_of(record);
    client.update(
        Kept("INSERT INTO crm.dead_letter AS d (shard_key, map_id, record_key, path, crm_id, operation, error_class, vendor_code, error,
                                           attempts, actor)
         SELECT $1, $2, $3, 'reconcile', $4, 'update', $5, $6, $7, $8, $9
         WHERE EXISTS (SELECT FROM crm.pending_write p
                       WHERE p.shard_key = $1 AND p.map_id = $2 AND p.record_key = $3 AND p.state = 'dead')
         ON CONFLICT (shard_key, map_id, record_key, path) DO UPDATE
         SET error_class = excluded.error_class, vendor_code = excluded.vendor_code, error = excluded.error,
             attempts = excluded.attempts, died_at = now()"),
        None,
        &[
            shard_key.into(),
            map.id.into(),
            record_key.into(),
            record.pending.crm_id.as_str().into(),
            class.name().into(),
            code.as_str().into(),
            error.as_str().into(),
            (record.pending.attempts as i32 + 1).into(),
            record.pending.actor.as_deref().into(),
        ],
    )?;
    Ok(())
}
