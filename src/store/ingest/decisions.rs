//! What was decided about records that changed in the CRM, written down: ledger, queue, stored
//! forms, conflicts and audit.
//!
//! The rows were changed before; see [`super::changed`].

use crm_domain::cells::HASH_BYTES;
use crm_domain::storable::storable;
use crm_domain::{AuditResult, Cells, Operation, excerpt, hex};
use pgrx::spi::SpiClient;
use serde_json::{Map as JsonMap, Value as Json, json};

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::ingest::decide::Decided;
use crate::store::ingest::quarantine;
use crate::store::ingest::result::Arrived;
use crate::store::ingest::stored_forms::{self, Answer, WrittenOver};
use crate::store::record::crm_forms;
use crate::store::record::unseen_writes;
use crate::store::statement::Cached;
use crate::store::table::write;

pub(super) fn record(
    client: &mut SpiClient,
    map: &Map,
    mut decided: Vec<Decided>,
    written_over: &WrittenOver,
    arrived: &mut Arrived,
) -> Result<(), StoreError> {
    update_ledger(client, map, &decided)?;
    queue_writes(client, map, &decided)?;
    let answers: Vec<Answer> = decided
        .iter_mut()
        .flat_map(|s| s.answers.drain(..))
        .collect();
    stored_forms::remember(client, map, &answers)?;
    let forms = decided.iter().flat_map(|s| {
        let key = (s.key.shard_key.as_str(), s.key.record_key.as_str());
        crm_forms::of(key, &s.forms)
    });
    crm_forms::remember(client, map, &forms.collect::<Vec<_>>())?;
    let read = decided.iter().map(|s| s.incoming.crm_id.as_str());
    unseen_writes::forget(client, map, &written_over.unseen_among(read))?;
    for record in &decided {
        record_conflicts(client, map, record)?;
    }
    note_in_audit(decided, map, arrived);
    Ok(())
}

/// Records in the ledger what the CRM holds.
fn update_ledger(client: &mut SpiClient, map: &Map, decided: &[Decided]) -> Result<(), StoreError> {
    let known: Vec<&Decided> = decided.iter().filter(|s| !s.known.is_empty()).collect();
    if known.is_empty() {
        return Ok(());
    }
    let cells: Vec<Vec<u8>> = known
        .iter()
        .map(|s| s.known.iter().map(|f| f.id).collect::<Cells>().to_bytes())
        .collect();
    let hashes: Vec<Vec<u8>> = known
        .iter()
        .map(|s| {
            let mut packed = Vec::with_capacity(s.known.len() * HASH_BYTES);
            s.known.iter().for_each(|f| packed.extend(f.hash));
            packed
        })
        .collect();
    let taken = |s: &&Decided| -> Cells { s.accepts.keys().copied().collect() };
    let mask = |cells: Cells| (!cells.is_empty()).then(|| cells.to_bytes());
    client.update(
        Cached(
            "UPDATE crm.ledger l
             SET hashes = crm_internal.cells_hash(l.hashes, r.cells, r.hashes), synced_at = crm_internal.cells_synced(l.synced_at, r.synced, now(), l.changed_at, NULL),
                 changed_at = crm_internal.cells_stamp(l.changed_at, r.taken, now())
             FROM unnest($2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::bytea[], $7::bytea[])
                  AS r (shard_key, record_key, cells, hashes, synced, taken),
                  -- By place, whatever is known of the table: this transaction has locked the rows.
                  LATERAL (SELECT k.ctid AS place FROM crm.ledger k
                           WHERE k.shard_key = r.shard_key AND k.map_id = $1 AND k.record_key = r.record_key OFFSET 0) p
             WHERE l.ctid = p.place",
        ),
        None,
        &[
            map.id.into(),
            known.iter().map(|s| s.key.shard_key.as_str()).collect::<Vec<_>>().into(),
            known.iter().map(|s| s.key.record_key.as_str()).collect::<Vec<_>>().into(),
            cells.into(),
            hashes.into(),
            known.iter().map(|s| mask(s.synced.clone())).collect::<Vec<_>>().into(),
            known.iter().map(|s| mask(taken(s))).collect::<Vec<_>>().into(),
        ],
    )?;
    // What both sides agree on is in dispute no longer, and what was out of line is in.
    client.update(
        Cached(
            "DELETE FROM crm.conflict c USING unnest($2::text[], $3::text[], $4::bytea[]) AS r (shard_key, record_key, synced)
             WHERE c.shard_key = r.shard_key AND c.map_id = $1 AND c.record_key = r.record_key AND crm_internal.cells_has(r.synced, c.field_id)",
        ),
        None,
        &[
            map.id.into(),
            known.iter().map(|s| s.key.shard_key.as_str()).collect::<Vec<_>>().into(),
            known.iter().map(|s| s.key.record_key.as_str()).collect::<Vec<_>>().into(),
            known.iter().map(|s| mask(s.synced.clone())).collect::<Vec<_>>().into(),
        ],
    )?;
    let ids: Vec<&str> = known.iter().map(|s| s.incoming.crm_id.as_str()).collect();
    quarantine::release(client, map, &ids)
}

/// Queues what goes to the CRM.
fn queue_writes(client: &mut SpiClient, map: &Map, decided: &[Decided]) -> Result<(), StoreError> {
    let over: Vec<&Decided> = decided
        .iter()
        .filter(|s| !s.overwrites.is_empty())
        .collect();
    if !over.is_empty() {
        client.update(Cached("SELECT crm_internal.note_change(false)"), None, &[])?;
        client.update(
            Cached(
                "INSERT INTO crm.change (shard_key, map_id, op, cells, record_keys, actor)
                 SELECT r.shard_key, $1, 'u', r.cells, array_agg(r.record_key), 'pg_crm'
                 FROM unnest($2::text[], $3::text[], $4::bytea[]) WITH ORDINALITY AS r (shard_key, record_key, cells, ord)
                 GROUP BY r.shard_key, r.cells, r.ord / crm_internal.change_part()",
            ),
            None,
            &[
                map.id.into(),
                over.iter().map(|s| s.key.shard_key.as_str()).collect::<Vec<_>>().into(),
                over.iter().map(|s| s.key.record_key.as_str()).collect::<Vec<_>>().into(),
                over.iter().map(|s| s.overwrites.to_bytes()).collect::<Vec<_>>().into(),
            ],
        )?;
    }
    for s in decided.iter().filter(|s| !s.writes.is_empty()) {
        let base = s
            .writes
            .iter()
            .map(|f| (f.id.to_string(), json!({ "h": hex::encode(&f.hash) })));
        let cells = s.writes.iter().map(|f| f.id).collect();
        write::edited(
            client,
            map,
            &s.key.shard_key,
            &s.key.record_key,
            &cells,
            base.collect(),
        )?;
    }
    Ok(())
}

/// Conflicts of one record and field are one row.
fn record_conflicts(
    client: &mut SpiClient,
    map: &Map,
    decided: &Decided,
) -> Result<(), StoreError> {
    for conflict in &decided.conflicts {
        client.update(
            Cached(
                "INSERT INTO crm.conflict AS c (shard_key, map_id, record_key, field_id, crm_id, conflict_type, local_value, crm_value, policy, actor)
                 VALUES ($1, $2, $3, $4, $5, coalesce($6, 'stale_write'), $7::jsonb, $8::jsonb, $9, $10)
                 ON CONFLICT (shard_key, map_id, record_key, field_id) DO UPDATE
                 SET crm_id = excluded.crm_id, conflict_type = coalesce($6, c.conflict_type), local_value = excluded.local_value,
                     crm_value = excluded.crm_value, last_attempt = now()",
            ),
            None,
            &[
                decided.key.shard_key.as_str().into(),
                map.id.into(),
                decided.key.record_key.as_str().into(),
                (conflict.field.id as i16).into(),
                decided.incoming.crm_id.as_str().into(),
                conflict.kind.into(),
                storable(&conflict.local.to_string()).as_ref().into(),
                storable(&conflict.field.value.to_json().to_string())
                    .as_ref()
                    .into(),
                conflict.policy.into(),
                decided.incoming.by.as_deref().into(),
            ],
        )?;
    }
    Ok(())
}

/// Adds the audit's entries.
fn note_in_audit(decided: Vec<Decided>, map: &Map, arrived: &mut Arrived) {
    for record in decided {
        if !record.formed.is_empty() {
            let fields = Json::Object(record.formed.clone()).to_string();
            arrived.note(
                Some(&record.key),
                record.incoming,
                Operation::Update,
                AuditResult::StoredForm,
                fields,
            );
        }
        if record.is_nothing() {
            arrived.counts.echoes += 1;
            continue;
        }
        arrived.counts.applied += 1;
        let (key, incoming) = (&record.key, record.incoming);
        if !record.audit.is_empty() {
            let fields = Json::Object(record.audit.clone()).to_string();
            arrived.note(
                Some(key),
                incoming,
                Operation::Update,
                AuditResult::Applied,
                fields,
            );
        }
        if !record.conflicting.is_empty() {
            let fields = Json::Object(record.conflicting.clone()).to_string();
            arrived.note(
                Some(key),
                incoming,
                Operation::Update,
                AuditResult::Conflict,
                fields,
            );
            arrived.disputed.push(key.clone());
        }
        if !record.overwrites.is_empty() {
            let mut fields = JsonMap::new();
            for value in incoming.values.iter().flatten() {
                if record.overwrites.contains(value.id)
                    && let Some(field) = map.field(value.id)
                {
                    let lost = json!({ "lost": excerpt::of(&value.value) });
                    fields.insert(field.field.name.clone(), lost);
                }
            }
            let fields = Json::Object(fields).to_string();
            arrived.note(
                Some(key),
                incoming,
                Operation::Update,
                AuditResult::Overwritten,
                fields,
            );
        }
    }
}
