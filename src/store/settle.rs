//! What the CRM answered, written down: ledger, dead letters, audit and claim in one transaction.

use crm_domain::{Cells, ErrorClass};
use pgrx::spi::SpiClient;
use serde_json::{Map as JsonMap, Value as Json};

use super::StoreError;
use super::audit;
use super::config::{Connection, Map};

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
    pub fields: JsonMap<String, Json>,
    pub actor: Option<String>,
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
    let held = held(client, map, records)?;
    let records: Vec<&Settled> = records
        .iter()
        .enumerate()
        .filter(|(i, _)| !held.contains(i))
        .map(|(_, r)| *r)
        .collect();
    if records.is_empty() {
        return Ok(held);
    }
    ledger(client, map, &records)?;
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
            }
        })
        .collect();
    audit::write(client, connection, map, "batch", &entries)?;
    Ok(held)
}

/// Locks the records' ledger rows; the answer names those that somebody else holds.
fn held(client: &mut SpiClient, map: &Map, records: &[&Settled]) -> Result<Vec<usize>, StoreError> {
    let shard_keys: Vec<&str> = records.iter().map(|r| r.shard_key.as_str()).collect();
    let record_keys: Vec<&str> = records.iter().map(|r| r.record_key.as_str()).collect();
    let rows = client.update(
        "WITH wanted AS MATERIALIZED (
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
                WHERE l.shard_key = w.shard_key AND l.map_id = $1 AND l.record_key = w.record_key) IS NOT NULL",
        None,
        &[map.id.into(), shard_keys.into(), record_keys.into()],
    )?;
    let mut held = Vec::new();
    for row in rows {
        held.push(row.get::<i64>(1)?.unwrap_or_default() as usize);
    }
    Ok(held)
}

/// An edit folded since the claim (another revision) keeps all waiting cells waiting: sent once more, they do no harm.
fn ledger(client: &mut SpiClient, map: &Map, records: &[&Settled]) -> Result<(), StoreError> {
    let mut shard_keys = Vec::with_capacity(records.len());
    let mut record_keys = Vec::with_capacity(records.len());
    let mut crm_ids = Vec::with_capacity(records.len());
    let mut verdicts = Vec::with_capacity(records.len());
    let mut cells = Vec::with_capacity(records.len());
    let mut unsent = Vec::with_capacity(records.len());
    let mut hashes = Vec::with_capacity(records.len());
    let mut revisions = Vec::with_capacity(records.len());
    let mut delays = Vec::with_capacity(records.len());
    let mut charges = Vec::with_capacity(records.len());
    let mut classes = Vec::with_capacity(records.len());
    let mut errors = Vec::with_capacity(records.len());
    for r in records {
        shard_keys.push(r.shard_key.as_str());
        record_keys.push(r.record_key.as_str());
        crm_ids.push(r.crm_id.as_deref());
        verdicts.push(r.verdict.word());
        cells.push(r.cells.to_bytes());
        unsent.push((!r.unsent.is_empty()).then(|| r.unsent.to_bytes()));
        hashes.push(r.hashes.as_slice());
        revisions.push(r.revision);
        let (delay, charged) = match &r.verdict {
            Verdict::Retry {
                delay_ms, charged, ..
            } => (*delay_ms, *charged),
            Verdict::Dead { .. } => (0, true),
            _ => (0, false),
        };
        delays.push(delay);
        charges.push(charged);
        let (class, _, error) = r.verdict.failure();
        classes.push(class);
        errors.push(error);
    }
    client.update(
        "UPDATE crm.ledger l
         SET crm_id = CASE r.verdict WHEN 'unlinked' THEN NULL WHEN 'applied' THEN coalesce(r.crm_id, l.crm_id) ELSE l.crm_id END,
             state = CASE WHEN r.verdict = 'unlinked' THEN CASE WHEN l.revision = r.revision THEN 'synced' ELSE 'unlinked' END
                          WHEN r.verdict IN ('applied', 'moot') AND l.revision = r.revision THEN 'synced'
                          WHEN r.verdict = 'dead' AND l.revision = r.revision THEN 'dead'
                          ELSE 'queued' END,
             op = CASE WHEN r.verdict IN ('applied', 'moot') AND l.revision = r.revision THEN NULL
                       WHEN r.verdict = 'unlinked' AND l.revision = r.revision THEN NULL
                       WHEN r.verdict = 'applied' AND l.op = 'c' THEN 'u'
                       ELSE l.op END,
             cells = CASE WHEN r.verdict IN ('applied', 'moot', 'unlinked') AND l.revision = r.revision THEN NULL ELSE l.cells END,
             changed_at = CASE WHEN r.verdict = 'moot' AND l.revision = r.revision THEN NULL
                               WHEN r.verdict = 'applied' AND l.revision = r.revision AND r.unsent IS NOT NULL
                                   THEN crm.cells_stamp(l.changed_at, r.unsent, NULL)
                               ELSE l.changed_at END,
             synced_at = CASE r.verdict WHEN 'applied' THEN crm.cells_stamp(l.synced_at, r.cells, now()) ELSE l.synced_at END,
             hashes = CASE r.verdict WHEN 'applied' THEN crm.cells_hash(l.hashes, r.cells, r.hashes)
                                     WHEN 'unlinked' THEN NULL ELSE l.hashes END,
             detached = l.detached OR r.verdict = 'unlinked',
             attempts = CASE WHEN l.revision <> r.revision OR r.verdict IN ('applied', 'moot', 'unlinked') THEN 0
                             WHEN r.charged THEN l.attempts + 1 ELSE l.attempts END,
             next_attempt_at = CASE WHEN r.verdict = 'retry' THEN now() + r.delay_ms * interval '1 ms' ELSE '-infinity' END,
             error_class = r.error_class, last_error = r.error
         FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bytea[], $8::bigint[], $9::bigint[],
                     $10::bool[], $11::text[], $12::text[], $13::bytea[])
              AS r (shard_key, record_key, crm_id, verdict, cells, hashes, revision, delay_ms, charged, error_class, error, unsent),
              LATERAL (SELECT k.ctid AS place FROM crm.ledger k
                       WHERE k.shard_key = r.shard_key AND k.map_id = $1 AND k.record_key = r.record_key OFFSET 0) k
         WHERE l.ctid = k.place",
        None,
        &[
            map.id.into(),
            shard_keys.into(),
            record_keys.into(),
            crm_ids.into(),
            verdicts.into(),
            cells.into(),
            hashes.into(),
            revisions.into(),
            delays.into(),
            charges.into(),
            classes.into(),
            errors.into(),
            unsent.into(),
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
            "DELETE FROM crm.ledger l USING unnest($2::text[], $3::text[]) AS r (shard_key, record_key)
             WHERE l.shard_key = r.shard_key AND l.map_id = $1 AND l.record_key = r.record_key AND l.op = 'd'",
            None,
            &[map.id.into(), shard_keys.into(), record_keys.into()],
        )?;
    }
    let gone: Vec<&&Settled> = records
        .iter()
        .filter(|r| {
            r.row_gone
                || (r.operation == "delete" && (r.verdict == Verdict::Applied || is_unlinked(r)))
        })
        .collect();
    if gone.is_empty() {
        return Ok(());
    }
    let shard_keys: Vec<&str> = gone.iter().map(|r| r.shard_key.as_str()).collect();
    let record_keys: Vec<&str> = gone.iter().map(|r| r.record_key.as_str()).collect();
    client.update(
        "DELETE FROM crm.ledger l USING unnest($2::text[], $3::text[]) AS r (shard_key, record_key)
         WHERE l.shard_key = r.shard_key AND l.map_id = $1 AND l.record_key = r.record_key AND l.state = 'synced'",
        None,
        &[map.id.into(), shard_keys.clone().into(), record_keys.clone().into()],
    )?;
    // Inserted again meanwhile: it has no CRM record any more and is created or waits for a link.
    client.update(
        "UPDATE crm.ledger l
         SET crm_id = NULL, op = 'c', hashes = NULL, synced_at = NULL, next_attempt_at = '-infinity', detached = false,
             state = CASE m.on_insert WHEN 'create' THEN 'queued' ELSE 'unlinked' END,
             cells = CASE m.on_insert WHEN 'create' THEN crm.map_cells(m.map_id) ELSE l.cells END
         FROM unnest($2::text[], $3::text[]) AS r (shard_key, record_key), crm.object_map m
         WHERE l.shard_key = r.shard_key AND l.map_id = $1 AND l.record_key = r.record_key AND m.map_id = $1",
        None,
        &[map.id.into(), shard_keys.into(), record_keys.into()],
    )?;
    Ok(())
}

fn dead_letters(client: &mut SpiClient, map: &Map, records: &[&Settled]) -> Result<(), StoreError> {
    for r in records {
        let Verdict::Dead { class, code, error } = &r.verdict else {
            continue;
        };
        client.update(
            "INSERT INTO crm.dead_letter AS d (shard_key, map_id, record_key, crm_id, operation, fields, error_class, vendor_code,
                                               error, attempts, actor)
             SELECT $1, $2, $3, $4, $5, $6::jsonb, $7, $8, $9, $10, $11
             WHERE EXISTS (SELECT FROM crm.ledger l WHERE l.shard_key = $1 AND l.map_id = $2 AND l.record_key = $3 AND l.state = 'dead')
             ON CONFLICT (shard_key, map_id, record_key) DO UPDATE
             SET operation = excluded.operation, fields = excluded.fields, error_class = excluded.error_class,
                 vendor_code = excluded.vendor_code, error = excluded.error, attempts = excluded.attempts, died_at = now()",
            None,
            &[
                r.shard_key.as_str().into(),
                map.id.into(),
                r.record_key.as_str().into(),
                r.crm_id.as_deref().into(),
                r.operation.into(),
                Json::Object(r.fields.clone()).to_string().into(),
                class.name().into(),
                code.as_str().into(),
                error.as_str().into(),
                (r.attempt as i32).into(),
                r.actor.as_deref().into(),
            ],
        )?;
    }
    Ok(())
}
