//! Writes down what the reconciler decided: rows, ledger, pending writes, conflicts, dead letters,
//! audit and claim change in one transaction.

use std::collections::HashSet;
use std::time::Duration;

use crm_domain::mapping::OnCrmDelete;
use crm_domain::storable::{storable, storable_text};
use crm_domain::{Cells, Path};
use pgrx::spi::SpiClient;
use serde_json::{Map as JsonMap, Value as Json, json};

use crate::settings::Settings;
use crate::store::config::connection::Connection;
use crate::store::config::map::Map;
use crate::store::dead_letter;
use crate::store::error::{Fault, StoreError};
use crate::store::ingest::refetch;
use crate::store::outcome::Outcome;
use crate::store::reconcile::accept::{accept, rows_in_use};
use crate::store::reconcile::outcome::{Resolution, keys_of};
use crate::store::reconcile::pending_writes::edited_since;
use crate::store::record::crm_forms;
use crate::store::record::remove::delete_with_row;
use crate::store::record::sightings::{self, Sighted};
use crate::store::record::{locks, unseen_writes};
use crate::store::statement::Cached;

/// Writes down results. Returns what was written, and those to be written later: another session
/// has locked their record or row, or their row is to take what the CRM holds and has an edit that
/// is not folded yet, whose snapshot is of before.
pub fn resolve(
    client: &mut SpiClient,
    (connection, map): (&Connection, &Map),
    mut records: Vec<Resolution>,
    settings: &Settings,
) -> Result<(Vec<Resolution>, Vec<Resolution>), StoreError> {
    let keys: Vec<(&str, &str)> = records.iter().map(keys_of).collect();
    let mut locked: HashSet<usize> = locks::lock_records(client, map, &keys)?
        .into_iter()
        .collect();
    locked.extend(rows_in_use(map, &records, &locked, settings)?);
    locked.extend(unfolded(client, map, &records)?);
    let mut later = Vec::new();
    let mut now = Vec::new();
    for (n, record) in records.drain(..).enumerate() {
        if locked.contains(&n) {
            later.push(record);
        } else {
            now.push(record);
        }
    }
    accept(client, map, &mut now, settings)?;
    let seen = now.iter().map(|r| Sighted {
        key: keys_of(r),
        crm_id: &r.pending.crm_id,
        cells: &r.seen,
    });
    let seen: Vec<Sighted> = seen.collect();
    sightings::record(client, (connection, map), Path::Reconcile, &seen)?;
    ledger(client, map, &now, settings.transform_timeout)?;
    forms(client, map, &now)?;
    pending(client, map, &now)?;
    for record in &now {
        conflicts(client, map, record)?;
        dead_letter(client, map, record)?;
    }
    let outdated = now.iter().filter(|r| r.is_outdated);
    let outdated: Vec<_> = outdated
        .map(|r| (r.pending.crm_id.as_str(), None))
        .collect();
    if !outdated.is_empty() {
        refetch::ask(client, map.id, &outdated, 0)?;
    }
    Ok((now, later))
}

/// Of the records whose rows are to take what the CRM holds, and are locked by now, those with
/// edits that are not folded yet.
fn unfolded(
    client: &SpiClient,
    map: &Map,
    records: &[Resolution],
) -> Result<Vec<usize>, StoreError> {
    let taking = records.iter().enumerate();
    let taking: Vec<_> = taking.filter(|(_, r)| !r.accepts.is_empty()).collect();
    if taking.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<(&str, &str)> = taking.iter().map(|(_, r)| keys_of(r)).collect();
    let edited: HashSet<(String, String)> = edited_since(client, map, &keys)?.into_iter().collect();
    let is_edited = |r: &Resolution| {
        let p = &r.pending;
        edited.contains(&(p.shard_key.clone(), p.record_key.clone()))
    };
    let edited = taking.into_iter().filter(|(_, r)| is_edited(r));
    Ok(edited.map(|(n, _)| n).collect())
}

/// Lets an edit wait whose result cannot be written down in any way, with an attempt charged.
pub fn postpone(
    client: &mut SpiClient,
    map: &Map,
    record: &Resolution,
    delay_ms: i64,
    error: &str,
) -> Result<(), StoreError> {
    let (shard_key, record_key) = keys_of(record);
    client.update(
        Cached("UPDATE crm.pending_write
         SET attempts = least(attempts + 1, 1000), next_attempt_at = now() + $6 * interval '1 ms', error_class = 'internal', last_error = $7
         WHERE shard_key = $1 AND map_id = $2 AND record_key = $3 AND write_id = $4::uuid AND revision = $5 AND state = 'queued'"),
        None,
        &[
            shard_key.into(),
            map.id.into(),
            record_key.into(),
            record.pending.write_id.as_str().into(),
            record.pending.revision.into(),
            delay_ms.into(),
            error.into(),
        ],
    )?;
    Ok(())
}

fn ledger(
    client: &mut SpiClient,
    map: &Map,
    records: &[Resolution],
    limit: Duration,
) -> Result<(), StoreError> {
    let known: Vec<&Resolution> = records.iter().filter(|r| !r.known.is_empty()).collect();
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
            Cached("UPDATE crm.ledger l
             SET hashes = crm_internal.cells_hash(l.hashes, r.cells, r.hashes), synced_at = crm_internal.cells_stamp(l.synced_at, r.cells, greatest(now(), to_timestamp(r.changed_at_ms / 1000.0))),
                 changed_at = crm_internal.cells_stamp(l.changed_at, r.cells, to_timestamp(r.changed_at_ms / 1000.0))
             FROM unnest($2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::bigint[])
                  AS r (shard_key, record_key, cells, hashes, changed_at_ms),
                  -- By place, whatever is known of the table: this transaction has locked the rows.
                  LATERAL (SELECT k.ctid AS place FROM crm.ledger k
                           WHERE k.shard_key = r.shard_key AND k.map_id = $1 AND k.record_key = r.record_key OFFSET 0) p
             WHERE l.ctid = p.place"),
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
        .filter(|r| matches!(r.outcome, Outcome::Unlinked { .. }))
    {
        let (shard_key, record_key) = keys_of(record);
        if map.on_crm_delete == OnCrmDelete::Delete {
            match delete_with_row(client, map, shard_key, record_key, limit) {
                Ok(true) => continue,
                Ok(false) => {}
                // It stays linked, and is read again by itself, as often as pg_crm.max_attempts
                // allows.
                Err(error) if error.fault() == Fault::MayPass => {
                    let crm_id = record.pending.crm_id.as_str();
                    refetch::ask(client, map.id, &[(crm_id, None)], 1000)?;
                    continue;
                }
                Err(error) => return Err(error),
            }
        }
        client.update(
            Cached("SELECT crm_internal.unlink_record($1, $2, $3)"),
            None,
            &[shard_key.into(), map.id.into(), record_key.into()],
        )?;
    }
    Ok(())
}

/// What the CRM holds of what was written is known once the record is read, or it is known by now.
fn forms(client: &mut SpiClient, map: &Map, records: &[Resolution]) -> Result<(), StoreError> {
    let written: Vec<(&str, String)> = records
        .iter()
        .filter_map(|r| {
            let written = r.written.iter().map(|(id, value)| (*id, value));
            let cells = unseen_writes::cells(map, written)?;
            Some((r.pending.crm_id.as_str(), cells))
        })
        .collect();
    let written: Vec<(&str, &str)> = written.iter().map(|(id, c)| (*id, c.as_str())).collect();
    unseen_writes::remember(client, map, &written)?;
    let forms = records
        .iter()
        .flat_map(|r| crm_forms::of(keys_of(r), &r.forms));
    crm_forms::remember(client, map, &forms.collect::<Vec<_>>())
}

/// A pending write whose every cell is settled goes, unless edits were folded into it since: those
/// are based on what is now known.
fn pending(client: &mut SpiClient, map: &Map, records: &[Resolution]) -> Result<(), StoreError> {
    let mut outcomes = Vec::with_capacity(records.len());
    let mut bases = Vec::with_capacity(records.len());
    let mut delays = Vec::with_capacity(records.len());
    let mut charges = Vec::with_capacity(records.len());
    let mut classes = Vec::with_capacity(records.len());
    let mut errors = Vec::with_capacity(records.len());
    for r in records {
        let base: JsonMap<String, Json> = r
            .known
            .keys()
            .map(|id| (id.to_string(), json!({ "l": true })))
            .collect();
        bases.push(Json::Object(base).to_string());
        let (outcome, delay, charged, class, error) = match &r.outcome {
            Outcome::Applied | Outcome::Found | Outcome::NothingToDo => {
                ("done", 0, false, None, None)
            }
            Outcome::Unlinked { .. } => ("done", 0, false, None, None),
            Outcome::Retry {
                delay_ms,
                charged,
                class,
                error,
                ..
            } => (
                "retry",
                *delay_ms,
                *charged,
                Some(class.name()),
                Some(error.as_str()),
            ),
            Outcome::Dead { class, error, .. } => {
                ("dead", 0, true, Some(class.name()), Some(error.as_str()))
            }
        };
        outcomes.push(outcome);
        delays.push(delay);
        charges.push(charged);
        classes.push(class);
        errors.push(error.map(storable_text));
    }
    let learnt_cells: Vec<Vec<u8>> = records
        .iter()
        .map(|r| r.learnt.keys().copied().collect::<Cells>().to_bytes())
        .collect();
    let learnt: Vec<Vec<u8>> = records
        .iter()
        .map(|r| r.learnt.values().flatten().copied().collect())
        .collect();
    client.update(
        Cached("WITH r AS MATERIALIZED (
             SELECT * FROM unnest($2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::bigint[], $8::bool[], $9::text[],
                                  $10::text[], $11::bytea[], $12::bytea[], $13::bytea[], $14::text[], $15::text[]::uuid[])
                  AS r (shard_key, record_key, revision, outcome, base, delay_ms, charged, error_class, error, learnt_cells, learnt, take, sent,
                        write_id)
         ), gone AS (
             DELETE FROM crm.pending_write p USING r
             WHERE p.shard_key = r.shard_key AND p.map_id = $1 AND p.record_key = r.record_key AND p.state IN ('queued', 'dead')
               AND (p.write_id, p.revision) = (r.write_id, r.revision) AND r.outcome = 'done'
         )
         UPDATE crm.pending_write p
         SET base = CASE WHEN r.outcome = 'done' THEN p.base || r.base::jsonb ELSE crm_internal.base_sent(p.base, r.sent::jsonb) END,
             -- What was requested meanwhile stays requested.
             take = CASE WHEN r.outcome = 'done' THEN crm_internal.cells_minus(p.take, r.take) ELSE p.take END,
             state = CASE WHEN r.outcome = 'dead' AND (p.write_id, p.revision) = (r.write_id, r.revision) THEN 'dead' ELSE 'queued' END,
             attempts = CASE WHEN (p.write_id, p.revision) <> (r.write_id, r.revision) THEN 0 WHEN r.charged THEN p.attempts + 1 ELSE p.attempts END,
             next_attempt_at = CASE WHEN r.outcome = 'retry' THEN now() + r.delay_ms * interval '1 ms' ELSE '-infinity' END,
             error_class = r.error_class, last_error = r.error,
             snapshot_hashes = crm_internal.cells_hash(p.snapshot_hashes, r.learnt_cells, r.learnt)
         FROM r WHERE p.shard_key = r.shard_key AND p.map_id = $1 AND p.record_key = r.record_key AND p.state IN ('queued', 'dead')
                  AND NOT ((p.write_id, p.revision) = (r.write_id, r.revision) AND r.outcome = 'done')"),
        None,
        &[
            map.id.into(),
            records.iter().map(|r| keys_of(r).0).collect::<Vec<_>>().into(),
            records.iter().map(|r| keys_of(r).1).collect::<Vec<_>>().into(),
            records.iter().map(|r| r.pending.revision).collect::<Vec<_>>().into(),
            outcomes.into(),
            bases.into(),
            delays.into(),
            charges.into(),
            classes.into(),
            errors.iter().map(|e| e.as_deref()).collect::<Vec<Option<&str>>>().into(),
            learnt_cells.into(),
            learnt.into(),
            records.iter().map(|r| r.pending.take.to_bytes()).collect::<Vec<_>>().into(),
            records.iter().map(|r| r.sent.as_str()).collect::<Vec<_>>().into(),
            records.iter().map(|r| r.pending.write_id.as_str()).collect::<Vec<_>>().into(),
        ],
    )?;
    Ok(())
}

/// Conflicts of one record and field are one row. A cell that is settled has no conflict any more.
fn conflicts(client: &mut SpiClient, map: &Map, record: &Resolution) -> Result<(), StoreError> {
    let (shard_key, record_key) = keys_of(record);
    let settled: Vec<i16> = record.known.keys().map(|id| *id as i16).collect();
    if !settled.is_empty() {
        client.update(
            Cached("DELETE FROM crm.conflict WHERE shard_key = $1 AND map_id = $2 AND record_key = $3 AND field_id = ANY ($4)"),
            None,
            &[shard_key.into(), map.id.into(), record_key.into(), settled.into()],
        )?;
    }
    for conflict in &record.conflicts {
        let (local, crm, base) = (
            conflict.local.to_string(),
            conflict.crm.to_string(),
            conflict.base.to_string(),
        );
        client.update(
            Cached("INSERT INTO crm.conflict AS c (shard_key, map_id, record_key, field_id, crm_id, conflict_type, local_value, crm_value, base,
                                            policy, write_id, actor, correlation_id, folded)
             SELECT $1, $2, $3, $4, $5, $6, $7::jsonb, $8::jsonb, $9::jsonb, $10, $11::uuid, $12, $13, $14::text[]::uuid[]
             -- The row may be gone by now.
             WHERE EXISTS (SELECT FROM crm.ledger l WHERE l.shard_key = $1 AND l.map_id = $2 AND l.record_key = $3)
             ON CONFLICT (shard_key, map_id, record_key, field_id) DO UPDATE
             SET crm_id = excluded.crm_id, conflict_type = excluded.conflict_type, local_value = excluded.local_value,
                 crm_value = excluded.crm_value, base = excluded.base, policy = excluded.policy, write_id = excluded.write_id,
                 folded = CASE WHEN c.write_id = excluded.write_id THEN excluded.folded
                               ELSE array_remove(c.write_id || c.folded || excluded.folded, NULL) END,
                 actor = excluded.actor, correlation_id = excluded.correlation_id, last_attempt = now()"),
            None,
            &[
                shard_key.into(),
                map.id.into(),
                record_key.into(),
                (conflict.field_id as i16).into(),
                record.pending.crm_id.as_str().into(),
                conflict.kind.into(),
                storable(&local).as_ref().into(),
                storable(&crm).as_ref().into(),
                storable(&base).as_ref().into(),
                conflict.policy.into(),
                record.pending.write_id.as_str().into(),
                record.pending.actor.as_deref().into(),
                record.pending.correlation_id.as_deref().into(),
                record.pending.folded.clone().into(),
            ],
        )?;
    }
    Ok(())
}

fn dead_letter(client: &mut SpiClient, map: &Map, record: &Resolution) -> Result<(), StoreError> {
    let Outcome::Dead { class, code, error } = &record.outcome else {
        return Ok(());
    };
    dead_letter::log_first(client, map, *class, code)?;
    let (shard_key, record_key) = keys_of(record);
    client.update(
        Cached("INSERT INTO crm.dead_letter AS d (shard_key, map_id, record_key, path, crm_id, operation, error_class, vendor_code, error,
                                           attempts, actor, correlation_id)
         SELECT $1, $2, $3, 'reconcile', $4, 'update', $5, $6, $7, $8, $9, $10
         WHERE EXISTS (SELECT FROM crm.pending_write p
                       WHERE p.shard_key = $1 AND p.map_id = $2 AND p.record_key = $3 AND p.state = 'dead')
         ON CONFLICT (shard_key, map_id, record_key, path) DO UPDATE
         SET error_class = excluded.error_class, vendor_code = excluded.vendor_code, error = excluded.error,
             attempts = excluded.attempts, died_at = now(), actor = excluded.actor, correlation_id = excluded.correlation_id"),
        None,
        &[
            shard_key.into(),
            map.id.into(),
            record_key.into(),
            record.pending.crm_id.as_str().into(),
            class.name().into(),
            code.as_str().into(),
            storable_text(error).as_ref().into(),
            (record.pending.attempts as i32 + 1).into(),
            record.pending.actor.as_deref().into(),
            record.pending.correlation_id.as_deref().into(),
        ],
    )?;
    Ok(())
}
