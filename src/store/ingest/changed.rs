//! Fields that changed in the CRM, of records that have a row.

use std::collections::{HashMap, HashSet};

use crm_domain::cells::{CellHashes, HASH_BYTES};
use crm_domain::storable::storable;
use crm_domain::{AuditResult, Cells, Operation, Value, excerpt, hex};
use pgrx::spi::SpiClient;
use serde_json::{Map as JsonMap, Value as Json, json};

use crate::failpoint;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::ingest::decide::{Decided, decide};
use crate::store::ingest::incoming::{Arriving, Field, Incoming};
use crate::store::ingest::locks::{Locked, edits_of, lock};
use crate::store::ingest::result::{Arrived, note_altered};
use crate::store::ingest::stored_forms::{self, Answer, WrittenOver};
use crate::store::ingest::{quarantine, refused_fields};
use crate::store::record::key::Key;
use crate::store::record::links::Known;
use crate::store::statement::Cached;
use crate::store::table::pace::Pace;
use crate::store::table::read::{self, Bounds, RowValues, Wanted};
use crate::store::table::row_locks;
use crate::store::table::write::{self, CrmValues};

/// Whether a record holds nothing but what the CRM was known to hold.
pub(super) fn is_echo(fields: &[Field], hashes: &[u8]) -> bool {
    let known = CellHashes(hashes);
    fields.iter().all(|f| known.get(f.id) == Some(&f.hash[..]))
}

/// Compares records with their rows and makes the two agree, as each field's direction and policy
/// have it.
pub(super) fn apply(
    client: &mut SpiClient,
    about: &Arriving,
    changed: Vec<(&Incoming, Known)>,
    written_over: &WrittenOver,
    arrived: &mut Arrived,
) -> Result<(), StoreError> {
    if changed.is_empty() {
        return Ok(());
    }
    let map = about.map;
    let keys: Vec<&Key> = changed.iter().map(|(_, known)| &known.key).collect();
    let mut locked = lock(client, map, about.asked, &keys)?;
    let mut at_hand: Vec<(&Incoming, Key, Locked)> = Vec::with_capacity(changed.len());
    for (n, (record, known)) in changed.into_iter().enumerate() {
        let linked = |l: &Locked| l.crm_id.as_deref() == Some(record.crm_id.as_str());
        match locked.remove(&n) {
            Some(locked) if linked(&locked) && locked.is_settled && !about.is_busy(&known.key) => {
                at_hand.push((record, known.key, locked));
            }
            _ => arrived.again(record),
        }
    }
    failpoint::reach("ingest_records::locked");
    let rows = read_rows(about, &mut at_hand, arrived)?;
    let edited = edited_meanwhile(client, map, &at_hand)?;
    let mut decided = Vec::with_capacity(at_hand.len());
    for ((record, key, locked), row) in at_hand.into_iter().zip(rows) {
        if edited.contains(&key) {
            arrived.again(record);
            continue;
        }
        match row {
            RowValues::Found(local) => {
                let local: HashMap<u16, Value> = local
                    .into_iter()
                    .map(|(id, _, value)| (id, value))
                    .collect();
                let record = decide(map, record, key, &locked, &local, written_over);
                arrived.counts.overwritten += record.overwrites.len();
                decided.push(record);
            }
            // Gone without having been captured (on_delete => 'ignore'), or hidden from the table's
            // owner.
            RowValues::Missing => arrived.counts.ignored += 1,
            RowValues::Unreadable(failure) => {
                let fields = quarantine::NONE.to_owned();
                arrived.refuse(client, map, Some(&key), record, failure, fields)?;
            }
        }
    }
    take(client, about, &mut decided, arrived)?;
    remember(client, map, &decided)?;
    send(client, map, &decided)?;
    let answers: Vec<Answer> = decided
        .iter_mut()
        .flat_map(|s| s.answers.drain(..))
        .collect();
    stored_forms::remember(client, map, &answers)?;
    let formed = decided.iter().flat_map(|s| {
        let ids = s.forms.iter();
        ids.map(|id| (s.incoming.crm_id.as_str(), id))
    });
    stored_forms::note_forms(client, map, &formed.collect::<Vec<_>>())?;
    for record in &decided {
        dispute(client, map, record)?;
    }
    tell(decided, map, arrived);
    Ok(())
}

/// Locks rows and reads the fields that changed. Records whose rows another session has locked are
/// read again later.
fn read_rows(
    about: &Arriving,
    at_hand: &mut Vec<(&Incoming, Key, Locked)>,
    arrived: &mut Arrived,
) -> Result<Vec<RowValues>, StoreError> {
    let (map, settings) = (about.map, about.settings);
    let keys: Vec<(&str, &str)> = at_hand
        .iter()
        .map(|(_, key, _)| (key.shard_key.as_str(), key.record_key.as_str()))
        .collect();
    let free = row_locks::lock_free(map, &keys, settings.transform_timeout)?;
    let cells: Vec<Cells> = at_hand
        .iter()
        .map(|(record, _, locked)| {
            let known = CellHashes(&locked.hashes);
            let fields = record.values.iter().flatten();
            let changed = fields.filter(|f| known.get(f.id) != Some(&f.hash[..]));
            changed.map(|f| f.id).collect()
        })
        .collect();
    let wanted: Vec<Wanted> = at_hand
        .iter()
        .zip(&cells)
        .map(|((_, key, _), cells)| Wanted {
            shard_key: &key.shard_key,
            record_key: &key.record_key,
            cells,
        })
        .collect();
    let mut read = read::read(map, &wanted, &Bounds::of(settings).lenient())?;
    let mut rows = Vec::with_capacity(at_hand.len());
    let mut places = 0..;
    at_hand.retain(|(record, _, _)| {
        let place = places.next().unwrap_or_default();
        match read.remove(&place) {
            Some(RowValues::Missing) => rows.push(RowValues::Missing),
            Some(row @ RowValues::Unreadable(_)) => rows.push(row),
            Some(row) if free.contains(&place) => rows.push(row),
            _ => {
                arrived.again(record);
                return false;
            }
        }
        true
    });
    Ok(rows)
}

/// Records with edits that were committed after their ledger rows were locked and before their rows
/// were. What the CRM holds must not go over these edits, so the records are read again.
fn edited_meanwhile(
    client: &mut SpiClient,
    map: &Map,
    at_hand: &[(&Incoming, Key, Locked)],
) -> Result<HashSet<Key>, StoreError> {
    if !map.realtime || at_hand.is_empty() {
        return Ok(HashSet::new());
    }
    let keys: Vec<&Key> = at_hand.iter().map(|(_, key, _)| key).collect();
    let edits = edits_of(client, map, &keys)?;
    let is_unseen = |(key, cells): (Key, Cells)| {
        let (_, _, locked) = at_hand.iter().find(|(_, k, _)| *k == key)?;
        (!cells.difference(&locked.edited).is_empty()).then_some(key)
    };
    Ok(edits.into_iter().filter_map(is_unseen).collect())
}

/// Rows take what the CRM holds. What the table refuses is quarantined, with everything else of
/// that record.
fn take(
    client: &mut SpiClient,
    about: &Arriving,
    decided: &mut Vec<Decided>,
    arrived: &mut Arrived,
) -> Result<(), StoreError> {
    let (map, settings) = (about.map, about.settings);
    let places: Vec<usize> = (0..decided.len())
        .filter(|&n| !decided[n].accepts.is_empty())
        .collect();
    let changes: Vec<CrmValues> = places
        .iter()
        .map(|&n| CrmValues {
            shard_key: &decided[n].key.shard_key,
            record_key: &decided[n].key.record_key,
            values: decided[n].accepts.clone(),
        })
        .collect();
    let mut pace = Pace::putting_off(map, settings.transform_timeout);
    let taken = write::set(client, map, &changes, &mut pace, &Bounds::of(settings))?;
    drop(changes);
    for (place, altered) in &taken.altered {
        note_altered(map, altered, &mut decided[places[*place]].audit);
    }
    let mut gone = HashSet::new();
    for (place, error) in taken.refused {
        let record = &decided[places[place]];
        gone.insert(places[place]);
        if error.reached_no_row() {
            arrived.again(record.incoming);
            continue;
        }
        let fields =
            refused_fields::of_row(client, map, &record.key, &record.accepts, &error, settings);
        let failure = quarantine::refusal(&error);
        let key = Some(&record.key);
        arrived.refuse(client, map, key, record.incoming, failure, fields)?;
    }
    let mut n = 0;
    decided.retain(|_| {
        n += 1;
        !gone.contains(&(n - 1))
    });
    Ok(())
}

/// The ledger knows what the CRM holds.
fn remember(client: &mut SpiClient, map: &Map, decided: &[Decided]) -> Result<(), StoreError> {
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
                  AS r (shard_key, record_key, cells, hashes, synced, taken)
             WHERE l.shard_key = r.shard_key AND l.map_id = $1 AND l.record_key = r.record_key",
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
fn send(client: &mut SpiClient, map: &Map, decided: &[Decided]) -> Result<(), StoreError> {
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
fn dispute(client: &mut SpiClient, map: &Map, decided: &Decided) -> Result<(), StoreError> {
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

/// What the audit says.
fn tell(decided: Vec<Decided>, map: &Map, arrived: &mut Arrived) {
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
                    let told = json!({ "lost": excerpt::of(&value.value) });
                    fields.insert(field.field.name.clone(), told);
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
