//! Records that were not written, or were edited meanwhile.

use crm_domain::Operation;
use crm_domain::storable::{storable, storable_text};
use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::dead_letter;
use crate::store::error::StoreError;
use crate::store::outcome::Outcome;
use crate::store::record::key::Key;
use crate::store::record::links;
use crate::store::row::Columns;
use crate::store::statement::Cached;
use crate::store::write_back::outcome::{Settled, column, sent_hashes};

/// Failures, and records that were edited since the claim. Such an edit (another revision) keeps
/// all waiting cells waiting: sent once more, they do no harm.
pub fn not_applied(
    client: &mut SpiClient,
    map: &Map,
    records: &[&Settled],
) -> Result<(), StoreError> {
    if records.is_empty() {
        return Ok(());
    }
    end_without_write(client, map, records)?;
    requeue(client, map, records)?;
    for r in records {
        if matches!(r.outcome, Outcome::Unlinked { .. }) {
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
    }
    update_ledger(client, map, records)?;
    let found = records.iter().copied();
    let found: Vec<&Settled> = found.filter(|r| r.outcome == Outcome::Found).collect();
    link_found(client, map, &found)?;
    if !map.spares_records() {
        return Ok(());
    }
    // A row that was edited while its record was made: its cells waited for that as a whole.
    let is_made = |r: &&Settled| r.outcome == Outcome::Applied && r.operation != Operation::Delete;
    let created: Vec<&Settled> = records.iter().copied().filter(is_made).collect();
    if created.is_empty() {
        return Ok(());
    }
    client.update(
        Cached("SELECT crm_internal.pend_checked_cells($1, $2, $3)"),
        None,
        &[
            map.id.into(),
            column(&created, |r| r.shard_key.as_str()),
            column(&created, |r| r.record_key.as_str()),
        ],
    )?;
    Ok(())
}

/// Links rows to records that were found in place of being created, unless nobody wants a record
/// for them any more: they were deleted, or left the filter, meanwhile.
fn link_found(client: &mut SpiClient, map: &Map, found: &[&Settled]) -> Result<(), StoreError> {
    if found.is_empty() {
        return Ok(());
    }
    let wanted = client.update(
        Cached(
            "SELECT k.ord - 1 AS ord FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS k (shard_key, record_key, ord)
             WHERE (SELECT q.op FROM crm.queue q
                    WHERE q.shard_key = k.shard_key AND q.map_id = $1 AND q.record_key = k.record_key) = 'c'",
        ),
        None,
        &[
            map.id.into(),
            column(found, |r| r.shard_key.as_str()),
            column(found, |r| r.record_key.as_str()),
        ],
    )?;
    let mut keys = Vec::with_capacity(wanted.len());
    for row in wanted {
        let record = found[row.number("ord")?];
        let key = Key {
            shard_key: record.shard_key.clone(),
            record_key: record.record_key.clone(),
        };
        keys.push((key, record.crm_id.as_deref().unwrap_or_default()));
    }
    let links: Vec<(&Key, &str)> = keys.iter().map(|(key, id)| (key, *id)).collect();
    links::link(client, map, &links)
}

/// Removes what needs no further attempt from the queue.
fn end_without_write(
    client: &mut SpiClient,
    map: &Map,
    records: &[&Settled],
) -> Result<(), StoreError> {
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
         WHERE v.op = 'c' AND v.outcome = 'nothing_to_do'
           AND (m.on_delete = 'delete' OR m.on_filter_out = 'delete' OR m.on_crm_insert = 'insert')
         ON CONFLICT DO NOTHING",
        None,
        &[
            map.id.into(),
            column(records, |r| r.shard_key.as_str()),
            column(records, |r| r.record_key.as_str()),
            column(records, |r| r.outcome.name()),
            column(records, |r| r.revision),
        ],
    )?;
    Ok(())
}

/// Keeps the others in the queue, with the state and the time of the next attempt that follow from
/// their outcomes.
fn requeue(client: &mut SpiClient, map: &Map, records: &[&Settled]) -> Result<(), StoreError> {
    let delay_ms = |r: &Settled| match r.outcome {
        Outcome::Retry { delay_ms, .. } => delay_ms,
        _ => 0,
    };
    let is_charged = |r: &Settled| match r.outcome {
        Outcome::Retry { charged, .. } => charged,
        Outcome::Dead { .. } => true,
        _ => false,
    };
    client.update(
        "UPDATE crm.queue q
         SET state = CASE WHEN r.outcome = 'unlinked' THEN 'unlinked'
                          WHEN r.outcome = 'dead' AND q.revision = r.revision THEN 'dead' ELSE 'queued' END,
             op = CASE WHEN r.outcome = 'applied' AND q.op IN ('c', 'k') THEN 'u' ELSE q.op END,
             attempts = CASE WHEN q.revision <> r.revision OR r.outcome IN ('applied', 'nothing_to_do', 'unlinked') THEN 0
                             WHEN r.charged THEN q.attempts + 1 ELSE q.attempts END,
             next_attempt_at = CASE WHEN r.outcome = 'retry' THEN now() + r.delay_ms * interval '1 ms' ELSE '-infinity' END,
             error_class = r.error_class, last_error = r.error,
             sent = CASE WHEN r.sent IS NULL THEN q.sent ELSE crm_internal.base_sent(coalesce(q.sent, '{}'), r.sent::jsonb) END
         FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bool[], $8::text[], $9::text[], $10::text[])
              AS r (shard_key, record_key, outcome, revision, delay_ms, charged, error_class, error, sent)
         WHERE q.shard_key = r.shard_key AND q.map_id = $1 AND q.record_key = r.record_key",
        None,
        &[
            map.id.into(),
            column(records, |r| r.shard_key.as_str()),
            column(records, |r| r.record_key.as_str()),
            column(records, |r| r.outcome.name()),
            column(records, |r| r.revision),
            column(records, delay_ms),
            column(records, is_charged),
            column(records, |r| r.outcome.failure().0.map(str::to_owned)),
            column(records, |r| {
                let error = r.outcome.failure().2;
                error.map(|error| storable_text(error).into_owned())
            }),
            column(records, |r| {
                let may_have_arrived = matches!(r.outcome, Outcome::Retry { .. } | Outcome::Dead { .. })
                    && r.operation == Operation::Create;
                may_have_arrived
                    .then(|| sent_hashes(map, &r.cells, &r.hashes))
                    .flatten()
            }),
        ],
    )?;
    Ok(())
}

/// Records what the CRM accepted of records that were edited meanwhile.
fn update_ledger(
    client: &mut SpiClient,
    map: &Map,
    records: &[&Settled],
) -> Result<(), StoreError> {
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
            column(records, |r| r.shard_key.as_str()),
            column(records, |r| r.record_key.as_str()),
            column(records, |r| r.outcome.name()),
            column(records, |r| r.crm_id.as_deref()),
            column(records, |r| r.cells.to_bytes()),
            column(records, |r| r.hashes.as_slice()),
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
    let mut is_logged = false;
    for r in records {
        let Outcome::Dead { class, code, error } = &r.outcome else {
            continue;
        };
        if !is_logged {
            dead_letter::log_first(client, map, *class, code)?;
            is_logged = true;
        }
        client.update(
            "INSERT INTO crm.dead_letter AS d (shard_key, map_id, record_key, crm_id, operation, fields, error_class, vendor_code,
                                               error, attempts, actor, correlation_id, operation_id)
             SELECT $1, $2, $3, $4, $5, $6::jsonb, $7, $8, $9, $10, $11, $12, $13::uuid
             WHERE EXISTS (SELECT FROM crm.queue q WHERE q.shard_key = $1 AND q.map_id = $2 AND q.record_key = $3 AND q.state = 'dead')
             ON CONFLICT (shard_key, map_id, record_key, path) DO UPDATE
             SET operation = excluded.operation, fields = excluded.fields, error_class = excluded.error_class,
                 vendor_code = excluded.vendor_code, error = excluded.error, attempts = excluded.attempts, died_at = now(),
                 actor = excluded.actor, correlation_id = excluded.correlation_id, operation_id = excluded.operation_id",
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
                r.correlation_id.as_deref().into(),
                r.operation_id.as_deref().into(),
            ],
        )?;
    }
    Ok(())
}
