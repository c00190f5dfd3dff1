//! Records that were not written, or were edited meanwhile.

use crm_domain::storable::{storable, storable_text};
use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::dead_letter;
use crate::store::error::StoreError;
use crate::store::outcome::Outcome;
use crate::store::statement::Cached;
use crate::store::write_back::outcome::Settled;

/// Failures, and records that were edited since the claim. Such an edit (another revision) keeps
/// all waiting cells waiting: sent once more, they do no harm.
pub fn others(client: &mut SpiClient, map: &Map, records: &[&Settled]) -> Result<(), StoreError> {
    if records.is_empty() {
        return Ok(());
    }
    let shard_keys: Vec<&str> = records.iter().map(|r| r.shard_key.as_str()).collect();
    let record_keys: Vec<&str> = records.iter().map(|r| r.record_key.as_str()).collect();
    let outcomes: Vec<&str> = records.iter().map(|r| r.outcome.name()).collect();
    let errors: Vec<_> = records
        .iter()
        .map(|r| r.outcome.failure().2.map(storable_text))
        .collect();
    let revisions: Vec<i64> = records.iter().map(|r| r.revision).collect();
    let (delays, charges): (Vec<i64>, Vec<bool>) = records
        .iter()
        .map(|r| match &r.outcome {
            Outcome::Retry {
                delay_ms, charged, ..
            } => (*delay_ms, *charged),
            Outcome::Dead { .. } => (0, true),
            _ => (0, false),
        })
        .unzip();
    client.update(
        "WITH void AS (
             DELETE FROM crm.queue q
             USING unnest($2::text[], $3::text[], $4::text[], $5::bigint[]) AS r (shard_key, record_key, outcome, revision)
             WHERE q.shard_key = r.shard_key AND q.map_id = $1 AND q.record_key = r.record_key
               AND q.revision = r.revision AND r.outcome IN ('nothing_to_do', 'unlinked')
             RETURNING q.shard_key, q.map_id, q.record_key, q.op, r.outcome
         ), unmade AS (
             -- A row that went before its record was made.
             DELETE FROM crm.ledger l USING void v
             WHERE v.op = 'c' AND v.outcome = 'nothing_to_do' AND l.crm_id IS NULL
               AND l.shard_key = v.shard_key AND l.map_id = v.map_id AND l.record_key = v.record_key
         )
         -- But an earlier attempt may have made it.
         INSERT INTO crm.orphaned_create (shard_key, map_id, record_key)
         SELECT v.shard_key, v.map_id, v.record_key FROM void v JOIN crm.object_map m USING (map_id)
         WHERE v.op = 'c' AND v.outcome = 'nothing_to_do' AND (m.on_delete = 'delete' OR m.on_crm_insert = 'insert')
         ON CONFLICT DO NOTHING",
        None,
        &[
            map.id.into(),
            shard_keys.clone().into(),
            record_keys.clone().into(),
            outcomes.clone().into(),
            revisions.clone().into(),
        ],
    )?;
    client.update(
        "UPDATE crm.queue q
         SET state = CASE WHEN r.outcome = 'unlinked' THEN 'unlinked'
                          WHEN r.outcome = 'dead' AND q.revision = r.revision THEN 'dead' ELSE 'queued' END,
             op = CASE WHEN r.outcome = 'applied' AND q.op IN ('c', 'k') THEN 'u' ELSE q.op END,
             attempts = CASE WHEN q.revision <> r.revision OR r.outcome IN ('applied', 'nothing_to_do', 'unlinked') THEN 0
                             WHEN r.charged THEN q.attempts + 1 ELSE q.attempts END,
             next_attempt_at = CASE WHEN r.outcome = 'retry' THEN now() + r.delay_ms * interval '1 ms' ELSE '-infinity' END,
             error_class = r.error_class, last_error = r.error
         FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bool[], $8::text[], $9::text[])
              AS r (shard_key, record_key, outcome, revision, delay_ms, charged, error_class, error)
         WHERE q.shard_key = r.shard_key AND q.map_id = $1 AND q.record_key = r.record_key",
        None,
        &[
            map.id.into(),
            shard_keys.clone().into(),
            record_keys.clone().into(),
            outcomes.clone().into(),
            revisions.into(),
            delays.into(),
            charges.into(),
            records.iter().map(|r| r.outcome.failure().0).collect::<Vec<_>>().into(),
            errors.iter().map(|e| e.as_deref()).collect::<Vec<Option<&str>>>().into(),
        ],
    )?;
    let unlinked = records.iter().filter(|r| r.outcome.name() == "unlinked");
    for r in unlinked {
        client.update(
            "SELECT crm_internal.unlink_record($1, $2, $3)",
            None,
            &[
                r.shard_key.as_str().into(),
                map.id.into(),
                r.record_key.as_str().into(),
            ],
        )?;
    }
    client.update(
        "UPDATE crm.ledger l
         SET crm_id = coalesce(r.crm_id, l.crm_id), synced_at = crm_internal.cells_synced(l.synced_at, r.cells, now(), l.changed_at, NULL),
             hashes = crm_internal.cells_hash(l.hashes, r.cells, r.hashes)
         FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bytea[])
              AS r (shard_key, record_key, outcome, crm_id, cells, hashes)
         WHERE l.shard_key = r.shard_key AND l.map_id = $1 AND l.record_key = r.record_key AND r.outcome = 'applied'",
        None,
        &[
            map.id.into(),
            shard_keys.into(),
            record_keys.into(),
            outcomes.into(),
            records.iter().map(|r| r.crm_id.as_deref()).collect::<Vec<_>>().into(),
            records.iter().map(|r| r.cells.to_bytes()).collect::<Vec<_>>().into(),
            records.iter().map(|r| r.hashes.as_slice()).collect::<Vec<_>>().into(),
        ],
    )?;
    Ok(())
}

/// Lets a record wait whose result cannot be written down in any way, with an attempt charged.
pub fn postpone(
    client: &mut SpiClient,
    map: &Map,
    record: &Settled,
    delay_ms: i64,
    error: &str,
) -> Result<(), StoreError> {
    client.update(
        Cached("UPDATE crm.queue
         SET attempts = least(attempts + 1, 1000), next_attempt_at = now() + $5 * interval '1 ms', error_class = 'internal', last_error = $6
         WHERE shard_key = $1 AND map_id = $2 AND record_key = $3 AND revision = $4 AND state = 'queued'"),
        None,
        &[
            record.shard_key.as_str().into(),
            map.id.into(),
            record.record_key.as_str().into(),
            record.revision.into(),
            delay_ms.into(),
            error.into(),
        ],
    )?;
    Ok(())
}

pub fn dead_letters(
    client: &mut SpiClient,
    map: &Map,
    records: &[&Settled],
) -> Result<(), StoreError> {
    let mut is_told = false;
    for r in records {
        let Outcome::Dead { class, code, error } = &r.outcome else {
            continue;
        };
        if !is_told {
            dead_letter::log_first(client, map, *class, code)?;
            is_told = true;
        }
        client.update(
            "INSERT INTO crm.dead_letter AS d (shard_key, map_id, record_key, crm_id, operation, fields, error_class, vendor_code,
                                               error, attempts, actor)
             SELECT $1, $2, $3, $4, $5, $6::jsonb, $7, $8, $9, $10, $11
             WHERE EXISTS (SELECT FROM crm.queue q WHERE q.shard_key = $1 AND q.map_id = $2 AND q.record_key = $3 AND q.state = 'dead')
             ON CONFLICT (shard_key, map_id, record_key, path) DO UPDATE
             SET operation = excluded.operation, fields = excluded.fields, error_class = excluded.error_class,
                 vendor_code = excluded.vendor_code, error = excluded.error, attempts = excluded.attempts, died_at = now()",
            None,
            &[
                r.shard_key.as_str().into(),
                map.id.into(),
                r.record_key.as_str().into(),
                r.crm_id.as_deref().into(),
                r.operation.name().into(),
                storable(&r.fields).as_ref().into(),
                class.name().into(),
                code.as_str().into(),
                storable_text(error).as_ref().into(),
                (r.attempt as i32).into(),
                r.actor.as_deref().into(),
            ],
        )?;
    }
    Ok(())
}
