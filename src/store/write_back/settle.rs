//! What the CRM answered, written down: queue, ledger, dead letters, audit and claim in one transaction.

use std::collections::HashSet;

use crm_domain::storable::{storable, storable_text};
use crm_domain::{Cells, ErrorClass};
use pgrx::IntoDatum;
use pgrx::datum::DatumWithOid;
use pgrx::spi::SpiClient;

use crate::store::config::{Connection, Map};
use crate::store::error::StoreError;
use crate::store::reconcile::settle;
use crate::store::record::links::BOTH_WENT;
use crate::store::statement::{Cached, CachedIfFew};
use crate::store::write_back::claims::Place;
use crate::store::{audit, dead_letter, ingest};

/// How one record's write ended.
#[derive(Debug)]
pub struct Settled {
    pub shard_key: String,
    pub record_key: String,
    pub crm_id: Option<String>,
    /// create, update or delete.
    pub operation: &'static str,
    pub cells: Cells,
    /// Cells that waited and were not sent, because they are not written any more.
    pub unsent: Cells,
    /// 16 bytes per sent cell, in ordinal order.
    pub hashes: Vec<u8>,
    pub revision: i64,
    pub attempt: u32,
    /// JSON, as the audit has it.
    pub fields: String,
    pub actor: Option<String>,
    pub place: Place,
    pub request_id: Option<String>,
    pub verdict: Verdict,
    /// The row followed its CRM record.
    pub row_gone: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The CRM took it.
    Applied,
    /// Nothing had to be sent (the row is gone, or its fields are no longer mapped).
    Moot,
    /// To be tried again in so many ms; `charged` if it counts as an attempt.
    Retry {
        delay_ms: i64,
        charged: bool,
        class: ErrorClass,
        code: String,
        error: String,
    },
    /// A dead letter.
    Dead {
        class: ErrorClass,
        code: String,
        error: String,
    },
    /// The CRM deleted the record: the link is dissolved and its edits are void.
    Unlinked { code: String, error: String },
}

impl Verdict {
    fn result(&self) -> &'static str {
        match self {
            Verdict::Applied | Verdict::Moot => "applied",
            Verdict::Retry { .. } => "retry",
            Verdict::Dead { .. } => "dead",
            Verdict::Unlinked { .. } => "superseded",
        }
    }

    fn failure(&self) -> (Option<&str>, Option<&str>, Option<&str>) {
        match self {
            Verdict::Applied | Verdict::Moot => (None, None, None),
            Verdict::Retry {
                class, code, error, ..
            }
            | Verdict::Dead { class, code, error } => (Some(class.name()), Some(code), Some(error)),
            Verdict::Unlinked { code, error } => {
                (Some(ErrorClass::NotFound.name()), Some(code), Some(error))
            }
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Verdict::Applied => "applied",
            Verdict::Moot => "moot",
            Verdict::Retry { .. } => "retry",
            Verdict::Dead { .. } => "dead",
            Verdict::Unlinked { .. } => "unlinked",
        }
    }
}

/// Settles records. Returns the indexes of those whose ledger row somebody holds, to be settled later.
pub fn settle(
    client: &mut SpiClient,
    connection: &Connection,
    map: &Map,
    records: &[&Settled],
) -> Result<Vec<usize>, StoreError> {
    let moved = moved(client, map, records)?;
    let (held, found) = if moved.is_empty() {
        (Vec::new(), Vec::new())
    } else {
        held(client, map, records, &moved)?
    };
    let part = |skip: &[usize]| -> Vec<&Settled> {
        let skip: HashSet<usize> = skip.iter().copied().collect();
        let rest = records.iter().enumerate();
        rest.filter(|(i, _)| !skip.contains(i))
            .map(|(_, r)| *r)
            .collect()
    };
    let mut rest = applied(client, map, &part(&moved), IN_PLACE)?;
    rest.extend(found.iter().map(|&i| records[i]));
    let rest = applied(client, map, &rest, BY_KEY)?;
    others(client, map, &rest)?;
    let records = part(&held);
    if records.is_empty() {
        return Ok(held);
    }
    delete_gone(client, map, &records)?;
    dead_letters(client, map, &records)?;
    let entries: Vec<audit::Entry> = records
        .iter()
        .filter(|r| r.verdict != Verdict::Moot)
        .map(|r| {
            let (error_class, vendor_code, error) = r.verdict.failure();
            audit::Entry {
                shard_key: &r.shard_key,
                record_key: &r.record_key,
                crm_id: r.crm_id.as_deref(),
                operation: r.operation,
                fields: &r.fields,
                result: r.verdict.result(),
                attempt: r.attempt,
                error_class,
                vendor_code,
                error,
                request_id: r.request_id.as_deref(),
                actor: r.actor.as_deref(),
                correlation_id: None,
                write_id: None,
                folded: &[],
            }
        })
        .collect();
    audit::write(client, connection, map, "batch", &entries)?;
    Ok(held)
}

/// Locks the records' ledger rows where they were when they were claimed; the answer names those that are not there any
/// more, or that somebody holds.
fn moved(
    client: &mut SpiClient,
    map: &Map,
    records: &[&Settled],
) -> Result<Vec<usize>, StoreError> {
    let rows = client.update(
        "SELECT r.ord - 1 FROM unnest($2::text[], $3::text[], $4::tid[]) WITH ORDINALITY AS r (shard_key, record_key, place, ord)
         LEFT JOIN LATERAL (SELECT true AS locked FROM crm.ledger l
                            WHERE l.ctid = r.place AND l.shard_key = r.shard_key AND l.map_id = $1 AND l.record_key = r.record_key
                            FOR UPDATE SKIP LOCKED) l ON true
         WHERE l.locked IS NULL",
        None,
        &[
            map.id.into(),
            column(records, |r| r.shard_key.as_str()),
            column(records, |r| r.record_key.as_str()),
            column(records, |r| r.place.ledger),
        ],
    )?;
    let mut moved = Vec::new();
    for row in rows {
        moved.push(row.get::<i64>(1)?.unwrap_or_default() as usize);
    }
    Ok(moved)
}

/// Locks records' ledger rows, found by their keys; the answer names those that somebody else holds.
pub fn held_records(
    client: &mut SpiClient,
    map: &Map,
    keys: &[(&str, &str)],
) -> Result<Vec<usize>, StoreError> {
    let shard_keys: Vec<&str> = keys.iter().map(|(shard_key, _)| *shard_key).collect();
    let record_keys: Vec<&str> = keys.iter().map(|(_, record_key)| *record_key).collect();
    let rows = client.update(
        CachedIfFew("WITH wanted AS MATERIALIZED (
             SELECT r.* FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS r (shard_key, record_key, ord)
         ), locked AS MATERIALIZED (
             SELECT w.ord FROM (SELECT * FROM wanted ORDER BY shard_key, record_key) w,
                 LATERAL (SELECT FROM crm.ledger l
                          WHERE l.shard_key = w.shard_key AND l.map_id = $1 AND l.record_key = w.record_key
                          FOR UPDATE SKIP LOCKED) l
         )
         SELECT w.ord - 1 FROM wanted w
         WHERE w.ord NOT IN (SELECT ord FROM locked)
           AND (SELECT 1 FROM crm.ledger l
                WHERE l.shard_key = w.shard_key AND l.map_id = $1 AND l.record_key = w.record_key) IS NOT NULL", keys.len()),
        None,
        &[map.id.into(), shard_keys.into(), record_keys.into()],
    )?;
    let mut held = Vec::new();
    for row in rows {
        held.push(row.get::<i64>(1)?.unwrap_or_default() as usize);
    }
    Ok(held)
}

/// Locks the ledger rows of some records, found by their key. The answer names first those that somebody else holds.
fn held(
    client: &mut SpiClient,
    map: &Map,
    records: &[&Settled],
    some: &[usize],
) -> Result<(Vec<usize>, Vec<usize>), StoreError> {
    let keys: Vec<(&str, &str)> = some
        .iter()
        .map(|&i| {
            (
                records[i].shard_key.as_str(),
                records[i].record_key.as_str(),
            )
        })
        .collect();
    let held = held_records(client, map, &keys)?;
    let held: Vec<usize> = held.into_iter().map(|n| some[n]).collect();
    let free = some.iter().copied().filter(|i| !held.contains(i)).collect();
    Ok((held, free))
}

/// One argument of a statement: the same thing of each record.
fn column<'a, 'm, T>(records: &[&'a Settled], of: impl Fn(&'a Settled) -> T) -> DatumWithOid<'m>
where
    Vec<T>: IntoDatum,
{
    records.iter().map(|r| of(r)).collect::<Vec<T>>().into()
}

/// What the CRM took leaves the queue, and the ledger remembers it. The first two lines find the rows: where they were
/// when the record was claimed (the ledger row is locked, so it still is there), or by their key.
const APPLIED: &str = "WITH record AS MATERIALIZED (
    SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $7::bigint[], $8::tid[], $9::tid[], $10::bytea[])
        WITH ORDINALITY AS r (shard_key, record_key, crm_id, cells, hashes, revision, queue_place, ledger_place, unsent, ord)
), done AS (
    DELETE FROM crm.queue q USING record r
    WHERE QUEUE AND q.shard_key = r.shard_key AND q.map_id = $1 AND q.record_key = r.record_key AND q.revision = r.revision
    RETURNING r.*, CASE WHEN r.unsent IS NULL THEN q.changed_at ELSE crm_internal.cells_stamp(q.changed_at, r.unsent, NULL) END AS changed_at
), known AS (
    UPDATE crm.ledger l
    SET crm_id = coalesce(r.crm_id, l.crm_id),
        changed_at = CASE WHEN l.changed_at IS NULL THEN r.changed_at ELSE crm_internal.cells_merge(l.changed_at, r.changed_at) END,
        synced_at = crm_internal.cells_synced(l.synced_at, r.cells, now(), l.changed_at, r.changed_at),
        hashes = crm_internal.cells_hash(l.hashes, r.cells, r.hashes)
    FROM done r
    WHERE LEDGER AND l.shard_key = r.shard_key AND l.map_id = $1 AND l.record_key = r.record_key
)
SELECT ord - 1 FROM record WHERE ord NOT IN (SELECT ord FROM done)";
const IN_PLACE: (&str, &str) = ("q.ctid = r.queue_place", "l.ctid = r.ledger_place");
const BY_KEY: (&str, &str) = ("true", "true");

/// Settles what the CRM took; returns what is left to be settled otherwise.
fn applied<'a>(
    client: &mut SpiClient,
    map: &Map,
    records: &[&'a Settled],
    (queue, ledger): (&str, &str),
) -> Result<Vec<&'a Settled>, StoreError> {
    let (taken, mut rest): (Vec<&Settled>, Vec<&Settled>) =
        records.iter().partition(|r| r.verdict == Verdict::Applied);
    if taken.is_empty() {
        return Ok(rest);
    }
    let rows = client.update(
        &APPLIED.replace("QUEUE", queue).replace("LEDGER", ledger),
        None,
        &[
            map.id.into(),
            column(&taken, |r| r.shard_key.as_str()),
            column(&taken, |r| r.record_key.as_str()),
            column(&taken, |r| r.crm_id.as_deref()),
            column(&taken, |r| r.cells.to_bytes()),
            column(&taken, |r| r.hashes.as_slice()),
            column(&taken, |r| r.revision),
            column(&taken, |r| r.place.queue),
            column(&taken, |r| r.place.ledger),
            column(&taken, |r| {
                (!r.unsent.is_empty()).then(|| r.unsent.to_bytes())
            }),
        ],
    )?;
    let updated = taken.iter().filter(|r| r.operation == "update");
    let updated: Vec<&str> = updated.filter_map(|r| r.crm_id.as_deref()).collect();
    for row in rows {
        rest.push(taken[row.get::<i64>(1)?.unwrap_or_default() as usize]);
    }
    ingest::look_back(client, map.id, &updated)?;
    Ok(rest)
}

/// Failures, and records that were edited since the claim. Such an edit (another revision) keeps all waiting cells
/// waiting: sent once more, they do no harm.
fn others(client: &mut SpiClient, map: &Map, records: &[&Settled]) -> Result<(), StoreError> {
    if records.is_empty() {
        return Ok(());
    }
    let shard_keys: Vec<&str> = records.iter().map(|r| r.shard_key.as_str()).collect();
    let record_keys: Vec<&str> = records.iter().map(|r| r.record_key.as_str()).collect();
    let verdicts: Vec<&str> = records.iter().map(|r| r.verdict.word()).collect();
    let errors: Vec<_> = records
        .iter()
        .map(|r| r.verdict.failure().2.map(storable_text))
        .collect();
    let revisions: Vec<i64> = records.iter().map(|r| r.revision).collect();
    let (delays, charges): (Vec<i64>, Vec<bool>) = records
        .iter()
        .map(|r| match &r.verdict {
            Verdict::Retry {
                delay_ms, charged, ..
            } => (*delay_ms, *charged),
            Verdict::Dead { .. } => (0, true),
            _ => (0, false),
        })
        .unzip();
    client.update(
        "WITH void AS (
             DELETE FROM crm.queue q
             USING unnest($2::text[], $3::text[], $4::text[], $5::bigint[]) AS r (shard_key, record_key, verdict, revision)
             WHERE q.shard_key = r.shard_key AND q.map_id = $1 AND q.record_key = r.record_key
               AND q.revision = r.revision AND r.verdict IN ('moot', 'unlinked')
             RETURNING q.shard_key, q.map_id, q.record_key, q.op, r.verdict
         ), unmade AS (
             -- A row that went before its record was made.
             DELETE FROM crm.ledger l USING void v
             WHERE v.op = 'c' AND v.verdict = 'moot' AND l.crm_id IS NULL
               AND l.shard_key = v.shard_key AND l.map_id = v.map_id AND l.record_key = v.record_key
         )
         -- But an earlier attempt may have made it.
         INSERT INTO crm.unborn (shard_key, map_id, record_key)
         SELECT v.shard_key, v.map_id, v.record_key FROM void v JOIN crm.object_map m USING (map_id)
         WHERE v.op = 'c' AND v.verdict = 'moot' AND (m.on_delete = 'delete' OR m.on_crm_insert = 'insert')
         ON CONFLICT DO NOTHING",
        None,
        &[
            map.id.into(),
            shard_keys.clone().into(),
            record_keys.clone().into(),
            verdicts.clone().into(),
            revisions.clone().into(),
        ],
    )?;
    client.update(
        "UPDATE crm.queue q
         SET state = CASE WHEN r.verdict = 'unlinked' THEN 'unlinked'
                          WHEN r.verdict = 'dead' AND q.revision = r.revision THEN 'dead' ELSE 'queued' END,
             op = CASE WHEN r.verdict = 'applied' AND q.op IN ('c', 'k') THEN 'u' ELSE q.op END,
             attempts = CASE WHEN q.revision <> r.revision OR r.verdict IN ('applied', 'moot', 'unlinked') THEN 0
                             WHEN r.charged THEN q.attempts + 1 ELSE q.attempts END,
             next_attempt_at = CASE WHEN r.verdict = 'retry' THEN now() + r.delay_ms * interval '1 ms' ELSE '-infinity' END,
             error_class = r.error_class, last_error = r.error
         FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bool[], $8::text[], $9::text[])
              AS r (shard_key, record_key, verdict, revision, delay_ms, charged, error_class, error)
         WHERE q.shard_key = r.shard_key AND q.map_id = $1 AND q.record_key = r.record_key",
        None,
        &[
            map.id.into(),
            shard_keys.clone().into(),
            record_keys.clone().into(),
            verdicts.clone().into(),
            revisions.into(),
            delays.into(),
            charges.into(),
            records.iter().map(|r| r.verdict.failure().0).collect::<Vec<_>>().into(),
            errors.iter().map(|e| e.as_deref()).collect::<Vec<Option<&str>>>().into(),
        ],
    )?;
    let unlinked = records.iter().filter(|r| r.verdict.word() == "unlinked");
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
              AS r (shard_key, record_key, verdict, crm_id, cells, hashes)
         WHERE l.shard_key = r.shard_key AND l.map_id = $1 AND l.record_key = r.record_key AND r.verdict = 'applied'",
        None,
        &[
            map.id.into(),
            shard_keys.into(),
            record_keys.into(),
            verdicts.into(),
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

/// A record that was deleted on both sides leaves the ledger.
fn delete_gone(client: &mut SpiClient, map: &Map, records: &[&Settled]) -> Result<(), StoreError> {
    let is_unlinked = |r: &Settled| matches!(r.verdict, Verdict::Unlinked { .. });
    // The CRM deleted it, and so did an edit that was folded meanwhile.
    let unlinked: Vec<&&Settled> = records.iter().filter(|r| is_unlinked(r)).collect();
    if !unlinked.is_empty() {
        let shard_keys: Vec<&str> = unlinked.iter().map(|r| r.shard_key.as_str()).collect();
        let record_keys: Vec<&str> = unlinked.iter().map(|r| r.record_key.as_str()).collect();
        client.update(
            "WITH void AS (
                 DELETE FROM crm.queue q USING unnest($2::text[], $3::text[]) AS r (shard_key, record_key)
                 WHERE q.shard_key = r.shard_key AND q.map_id = $1 AND q.record_key = r.record_key AND q.op = 'd'
                 RETURNING q.shard_key, q.record_key
             )
             DELETE FROM crm.ledger l USING void v
             WHERE l.shard_key = v.shard_key AND l.map_id = $1 AND l.record_key = v.record_key",
            None,
            &[map.id.into(), shard_keys.into(), record_keys.into()],
        )?;
    }
    for r in records.iter().filter(|r| r.row_gone) {
        settle::forget(client, map, &r.shard_key, &r.record_key)?;
    }
    let gone: Vec<&&Settled> = records
        .iter()
        .filter(|r| r.operation == "delete" && (r.verdict == Verdict::Applied || is_unlinked(r)))
        .collect();
    if gone.is_empty() {
        return Ok(());
    }
    let shard_keys: Vec<&str> = gone.iter().map(|r| r.shard_key.as_str()).collect();
    let record_keys: Vec<&str> = gone.iter().map(|r| r.record_key.as_str()).collect();
    client.update(
        &format!("WITH known AS (
             DELETE FROM crm.ledger l USING unnest($2::text[], $3::text[]) AS r (shard_key, record_key)
             WHERE l.shard_key = r.shard_key AND l.map_id = $1 AND l.record_key = r.record_key AND NOT EXISTS (
                 SELECT FROM crm.queue q WHERE q.shard_key = l.shard_key AND q.map_id = $1 AND q.record_key = l.record_key)
             RETURNING l.shard_key, l.map_id, l.crm_id, l.record_key
         ) {BOTH_WENT}"),
        None,
        &[map.id.into(), shard_keys.clone().into(), record_keys.clone().into()],
    )?;
    // What was to be decided about the CRM record is moot. Edits are too, unless the row was inserted again.
    client.update(
        "WITH gone AS (
             SELECT r.shard_key, r.record_key, l.record_key IS NULL AS wholly FROM unnest($2::text[], $3::text[]) AS r (shard_key, record_key)
             LEFT JOIN crm.ledger l ON l.shard_key = r.shard_key AND l.map_id = $1 AND l.record_key = r.record_key
         ), edits AS (
             DELETE FROM crm.pending_write p USING gone g
             WHERE g.wholly AND p.shard_key = g.shard_key AND p.map_id = $1 AND p.record_key = g.record_key AND p.state IN ('queued', 'dead')
         ), letters AS (
             DELETE FROM crm.dead_letter d USING gone g
             WHERE g.wholly AND d.shard_key = g.shard_key AND d.map_id = $1 AND d.record_key = g.record_key
         )
         DELETE FROM crm.conflict c USING gone g
         WHERE c.shard_key = g.shard_key AND c.map_id = $1 AND c.record_key = g.record_key",
        None,
        &[map.id.into(), shard_keys.clone().into(), record_keys.clone().into()],
    )?;
    // Inserted again meanwhile: it has no CRM record any more and is created or waits for a link.
    client.update(
        "WITH left_over AS (
             UPDATE crm.ledger l SET crm_id = NULL, hashes = NULL, synced_at = NULL, detached = false
             FROM unnest($2::text[], $3::text[]) AS r (shard_key, record_key)
             WHERE l.shard_key = r.shard_key AND l.map_id = $1 AND l.record_key = r.record_key
             RETURNING l.shard_key, l.record_key
         )
         UPDATE crm.queue q
         SET op = 'c', next_attempt_at = '-infinity',
             state = CASE m.on_insert WHEN 'create' THEN 'queued' ELSE 'unlinked' END,
             cells = CASE m.on_insert WHEN 'create' THEN crm_internal.map_cells(m.map_id) ELSE q.cells END
         FROM left_over l, crm.object_map m
         WHERE q.shard_key = l.shard_key AND q.map_id = $1 AND q.record_key = l.record_key AND m.map_id = $1",
        None,
        &[map.id.into(), shard_keys.into(), record_keys.into()],
    )?;
    Ok(())
}

fn dead_letters(client: &mut SpiClient, map: &Map, records: &[&Settled]) -> Result<(), StoreError> {
    let mut is_told = false;
    for r in records {
        let Verdict::Dead { class, code, error } = &r.verdict else {
            continue;
        };
        if !is_told {
            dead_letter::tell_the_first(client, map, *class, code)?;
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
                r.operation.into(),
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
