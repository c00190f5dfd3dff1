//! Pending writes with the values of their rows and what they are based on.

use std::collections::BTreeMap;
use std::time::Duration;

use crm_domain::cells::CellHashes;
use crm_domain::conflict::{self, Evidence, ShortHash};
use crm_domain::mapping::ConflictPolicy;
use crm_domain::{Cells, Failure, Value, hex};
use pgrx::spi::SpiClient;
use serde_json::Value as Json;

use crate::store::StoreError;
use crate::store::config::{Map, MappedField};
use crate::store::reconcile::pending_writes::{self, Pending};
use crate::store::record::unseen_writes::{self, OurFields};
use crate::store::table::read::{self, Bounds, RowValues, Wanted};
use crate::store::table::transform::transformed_in_time;
use crate::worker::sender::checked_write::{Edit, EditField};

/// A pending write with its row's values.
pub struct PendingWithRow {
    pub pending: Pending,
    /// The row's values in the cells of the edit and in those that accept the CRM's value.
    pub local: BTreeMap<u16, Value>,
    pub bases: BTreeMap<u16, ShortHash>,
    /// Fields whose base is what the row held before: nobody knows what the CRM did.
    pub guessed: Cells,
    /// What was written to the record before, and may be held in another form.
    pub ours: OurFields,
    /// The row is gone or cannot be read.
    pub fault: Option<Failure>,
}

/// Leaves out edits that stem from an INSERT, and so have no base, while a later one is not folded
/// yet: their rows' values were written after the CRM's value had been seen.
pub fn with_their_bases(
    client: &SpiClient,
    map: &Map,
    mut waiting: Vec<PendingWithRow>,
) -> Result<Vec<PendingWithRow>, StoreError> {
    let baseless = |w: &PendingWithRow| {
        let p = &w.pending;
        let based = |id: u16| {
            let entry = &p.base[id.to_string()];
            ["h", "v", "l", "force"]
                .iter()
                .any(|k| entry.get(k).is_some())
        };
        p.cells.iter().any(|id| !based(id))
    };
    let keys: Vec<(&str, &str)> = waiting
        .iter()
        .filter(|w| baseless(w))
        .map(|w| (w.pending.shard_key.as_str(), w.pending.record_key.as_str()))
        .collect();
    if keys.is_empty() {
        return Ok(waiting);
    }
    // Asked after the rows were read: an edit that they show is seen.
    let edited = pending_writes::edited_since(client, map, &keys)?;
    waiting.retain(|w| {
        let is_it =
            |(s, r): &(String, String)| *s == w.pending.shard_key && *r == w.pending.record_key;
        !(baseless(w) && edited.iter().any(is_it))
    });
    Ok(waiting)
}

/// Reads the rows' values, as far as the bound on bytes allows.
pub fn read(
    client: &SpiClient,
    map: &Map,
    due: Vec<Pending>,
    bounds: &Bounds,
) -> Result<Vec<PendingWithRow>, StoreError> {
    let records: Vec<(&str, &[u8])> = due
        .iter()
        .map(|p| (p.crm_id.as_str(), p.hashes.as_slice()))
        .collect();
    let mut ours = unseen_writes::ours(client, map, &records)?;
    let cells: Vec<Cells> = due.iter().map(|p| p.cells.union(&p.take)).collect();
    let wanted: Vec<Wanted> = due
        .iter()
        .zip(&cells)
        .map(|(p, cells)| Wanted {
            shard_key: &p.shard_key,
            record_key: &p.record_key,
            cells,
        })
        .collect();
    let mut rows = read::read(map, &wanted, bounds)?;
    let mut waiting = Vec::with_capacity(due.len());
    for (n, pending) in due.into_iter().enumerate() {
        let (local, fault) = match rows.remove(&n) {
            None => continue,
            Some(RowValues::Found(fields)) => (
                fields
                    .into_iter()
                    .map(|(id, _, value)| (id, value))
                    .collect(),
                None,
            ),
            Some(RowValues::Missing) => {
                let gone = Failure::record(
                    crm_domain::ErrorClass::NotFound,
                    "no_row",
                    "the row is gone, or outside the filter of its map",
                );
                (BTreeMap::new(), Some(gone))
            }
            Some(RowValues::Unreadable(failure)) => (BTreeMap::new(), Some(failure)),
        };
        // An edit that empties a field which is never cleared has nothing to write.
        let is_withheld = |id: u16, value: &Value| {
            pending.cells.contains(id) && map.field(id).is_some_and(|f| f.is_withheld(value))
        };
        let local: BTreeMap<u16, Value> = local
            .into_iter()
            .filter(|(id, value)| !is_withheld(*id, value))
            .collect();
        let sent = local.iter().filter(|(id, _)| pending.cells.contains(**id));
        let unstorable_reason =
            |(id, value): (&u16, &Value)| map.field(*id)?.unstorable_reason(value);
        let fault = fault.or_else(|| sent.into_iter().find_map(unstorable_reason));
        let (bases, guessed) = bases(map, &pending, bounds.time);
        waiting.push(PendingWithRow {
            ours: ours.remove(&pending.crm_id).unwrap_or_default(),
            pending,
            local,
            bases,
            guessed,
            fault,
        });
    }
    Ok(waiting)
}

/// What the edit was based on, for each field, by [`conflict::Evidence`]. The column's old value
/// goes through its transform.
fn bases(
    map: &Map,
    pending: &Pending,
    limit: Option<Duration>,
) -> (BTreeMap<u16, ShortHash>, Cells) {
    let mut bases = BTreeMap::new();
    let mut guessed = Cells::new();
    for field in &map.fields {
        let id = field.id;
        if pending.is_forced(id) {
            continue;
        }
        let entry = &pending.base[id.to_string()];
        let mut evidence = Evidence {
            stated: entry["h"].as_str().and_then(hex::decode),
            ledger: CellHashes(&pending.hashes)
                .get(id)
                .and_then(|hash| hash.try_into().ok()),
            agreed: pending.synced.contains(id),
            old: None,
        };
        if evidence.asks_for_old()
            && let Some(value) = entry.get("v")
        {
            evidence.old = base_hash(map, field, value, limit);
            if evidence.ledger.is_none() {
                guessed.insert(id);
            }
        }
        if let Some(base) = evidence.base() {
            bases.insert(id, base);
        }
    }
    (bases, guessed)
}

/// The hash of a column's earlier value, as it would have been sent.
fn base_hash(
    map: &Map,
    field: &MappedField,
    value: &Json,
    limit: Option<Duration>,
) -> Option<ShortHash> {
    let value = match &field.transform_out {
        Some(transform) => transformed_in_time(map, transform, value, limit).unwrap_or(Json::Null),
        None => value.clone(),
    };
    let value = Value::from_json(field.field.data_type, &value).ok()?;
    Some(conflict::hash(&field.stored(value)))
}

pub fn edit(map: &Map, w: &PendingWithRow) -> Edit {
    let p = &w.pending;
    let fields = map
        .fields
        .iter()
        .filter(|f| f.direction.reads_crm())
        .map(|f| {
            let changes = p.cells.contains(f.id) && f.is_checked();
            let take = p.take.contains(f.id) && !changes;
            EditField {
                id: f.id,
                field: f.field.clone(),
                local: changes.then(|| w.local.get(&f.id).cloned()).flatten(),
                // A compensation takes whatever the CRM holds; a person's choice only what that
                // person saw.
                snapshot: CellHashes(&p.snapshot)
                    .get(f.id)
                    .filter(|_| !f.described.is_computed())
                    .and_then(|hash| hash.try_into().ok()),
                base_is_guessed: w.guessed.contains(f.id),
                is_alone: p.is_forced(f.id) || p.stands_alone(f.id),
                base: w
                    .bases
                    .get(&f.id)
                    .copied()
                    .filter(|_| !take || p.base[f.id.to_string()].get("h").is_some()),
                compared: changes,
                sent: sent(&p.base[f.id.to_string()]),
                ours: w.ours.get(&f.id).cloned().unwrap_or_default(),
                policy: match f.policy {
                    _ if p.is_forced(f.id) => ConflictPolicy::LocalWins,
                    // Whether anybody changed it in the CRM cannot be told: a person can.
                    ConflictPolicy::CrmWins | ConflictPolicy::MergeWithAudit
                        if p.is_forgotten(f.id) =>
                    {
                        ConflictPolicy::ManualReview
                    }
                    policy => policy,
                },
                take,
            }
        });
    Edit {
        crm_id: p.crm_id.clone(),
        attempts: p.attempts,
        fields: fields.collect(),
        strict: false,
        scope: map.conflict_scope,
        changed_at: Some(p.changed_at_ms),
    }
}

/// What earlier attempts sent of a cell.
fn sent(entry: &Json) -> Vec<ShortHash> {
    let hashes = entry["s"].as_array().into_iter().flatten();
    hashes
        .filter_map(|hash| hex::decode(hash.as_str()?))
        .collect()
}

/// What an attempt is about to send: field_id -> hash in hex, as JSON. It is remembered until the
/// outcome is known.
pub fn sending(w: &PendingWithRow) -> String {
    let cells = w
        .local
        .iter()
        .filter(|(id, _)| w.pending.cells.contains(**id));
    let hashes =
        cells.map(|(id, value)| (id.to_string(), hex::encode(&conflict::hash(value)).into()));
    Json::Object(hashes.collect()).to_string()
}
