//! The reconciler: edits that wait are read, compared, written or settled by their fields' policies, in bulk.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crm_domain::cells::CellHashes;
use crm_domain::conflict::{self, Decision, ShortHash};
use crm_domain::failure::Scope;
use crm_domain::{Cells, Failure, Value, canonical};
use pgrx::prelude::*;
use serde_json::{Map as JsonMap, Value as Json, json};

use super::checked_write::{self, Checked, Edit, EditField, Outcome};
use super::event::Event;
use super::flush::stands_still;
use super::link::{Lane, SharedLink};
use super::main_loop::{HELD_AGAIN, Worker};
use super::protocol::from_hex;
use super::{events, failpoint, real_time, report, verdict};
use crate::store::config::{self, Connection, Map};
use crate::store::pending::{self, Pending};
use crate::store::reconcile::{self, Conflict, Settled, Take, Verdict};
use crate::store::values::{self, RowValues, Wanted};
use crate::store::{StoreError, audit, claims, transaction};

/// Pending writes of one slice at most.
const SLICE: usize = 1000;
/// Slices of one connection on their way at once.
const SLICES_IN_FLIGHT: usize = 2;

/// A pending write with what its row holds.
struct Waiting {
    pending: Pending,
    /// What the row holds in the cells of the edit and in those that it takes.
    local: BTreeMap<u16, Value>,
    bases: BTreeMap<u16, ShortHash>,
    /// The row is gone or cannot be read.
    fault: Option<Failure>,
}

/// Pending writes on their way.
pub(super) struct Reconciling {
    pub map: Arc<Map>,
    pub connection: Connection,
    waiting: Vec<Waiting>,
}

impl Worker {
    /// Sends what is due of the pending writes; returns when something will be due next.
    pub(super) fn reconcile(
        &mut self,
        connections: &[Connection],
        maps: &[Arc<Map>],
    ) -> Result<Duration, StoreError> {
        let mut next = Duration::from_secs(3600);
        if self.folded == 0 {
            next = next.min(self.adopt_orphans()?);
        }
        for map in maps.iter().filter(|m| m.realtime) {
            let Some(connection) = connections.iter().find(|c| c.id == map.connection_id) else {
                continue;
            };
            let Some(link) = self.links.get(&connection.id).cloned() else {
                continue;
            };
            if stands_still(map, connections) {
                continue;
            }
            if connection.blocked_ms > 0 {
                next = next.min(Duration::from_millis(connection.blocked_ms as u64 + 1));
                continue;
            }
            let on_their_way = |worker: &Worker| {
                let of = worker.reconciling.values();
                of.filter(|r| r.connection.id == connection.id).count()
            };
            let mut idle = false;
            while on_their_way(self) < SLICES_IN_FLIGHT && !idle {
                idle = !self.dispatch_pending(connection, map, &link)?;
            }
            if idle && let Some(ms) = transaction(|client| pending::next_ms(client, map.id))? {
                // One that is due but was not claimed is on its way or held by somebody.
                let wait = if ms > 0 {
                    Duration::from_millis(ms as u64 + 1)
                } else {
                    HELD_AGAIN
                };
                next = next.min(wait);
            }
        }
        if !self.held_pending.is_empty() {
            next = next.min(HELD_AGAIN);
        }
        Ok(next)
    }

    /// Intents whose callers' transactions came to nothing become the reconciler's.
    fn adopt_orphans(&mut self) -> Result<Duration, StoreError> {
        if !transaction(|client| pending::intents_wait(client))? {
            return Ok(Duration::from_secs(3600));
        }
        let sending: Vec<&str> = self.real_time.sending.keys().map(String::as_str).collect();
        let adopted = transaction(|client| {
            let adopted = pending::adopt_orphans(client, sending)?;
            if adopted > 0 {
                failpoint::reach("adopt::before_commit");
            }
            Ok(adopted)
        })?;
        if adopted > 0 {
            failpoint::reach("adopt::after_commit");
        }
        if adopted > 0 {
            log!(
                "pg_crm makes {adopted} rows agree with the CRM, whose writers' transactions came to nothing"
            );
        }
        Ok(Duration::from_secs(1))
    }

    /// Claims a slice and sends it; `false` when nothing is due.
    fn dispatch_pending(
        &mut self,
        connection: &Connection,
        map: &Arc<Map>,
        link: &SharedLink,
    ) -> Result<bool, StoreError> {
        let rows = self.settings.batch_rows.min(SLICE);
        let bytes = self.settings.batch_bytes;
        let limit = Some(self.settings.transform_timeout);
        let claimed = transaction(|client| {
            if !claims::may_send(client, connection.id)? {
                return Ok(None);
            }
            let Some(map) = config::maps(client)?
                .into_iter()
                .find(|m| m.id == map.id && !m.in_error)
            else {
                return Ok(None);
            };
            let due = pending::due(client, &map, rows)?;
            if due.is_empty() {
                return Ok(None);
            }
            report(&format!("reading {} edits of {}", due.len(), map.relation));
            let waiting = read(&map, due, bytes, limit)?;
            if waiting.is_empty() {
                return Ok(None);
            }
            let shard_keys = waiting
                .iter()
                .map(|w| w.pending.shard_key.as_str())
                .collect();
            let record_keys = waiting
                .iter()
                .map(|w| w.pending.record_key.as_str())
                .collect();
            let claim_id = claims::claim(client, &map, "reconcile", shard_keys, record_keys)?;
            let started = waiting
                .iter()
                .map(|w| event("sync_started", connection, &map, &w.pending, None))
                .collect();
            pending::notify(client, started)?;
            failpoint::reach("reconcile_claim::before_commit");
            Ok(Some((claim_id, waiting, map)))
        })?;
        let Some((claim_id, waiting, map)) = claimed else {
            return Ok(false);
        };
        failpoint::reach("reconcile_claim::after_commit");
        let edits: Vec<Edit> = waiting
            .iter()
            .filter(|w| w.fault.is_none())
            .map(|w| edit(&map, w, self.settings.max_attempts))
            .collect();
        let flight = Reconciling {
            map: map.clone(),
            connection: connection.clone(),
            waiting,
        };
        self.reconciling.insert(claim_id, flight);
        failpoint::reach("request::before");
        let (link, outbox) = (link.clone(), self.outbox.clone());
        let object = map.crm_object.clone();
        self.runtime.spawn(async move {
            let id = claim_id.to_string();
            let checked = checked_write::run(&link, Lane::Batch, &id, &object, &edits).await;
            let trouble = link.take_trouble();
            outbox.send(Event::Reconciled {
                claim_id,
                checked,
                trouble,
            });
        });
        Ok(true)
    }

    /// Settles what came back.
    pub(super) fn reconciled(
        &mut self,
        claim_id: i64,
        checked: Vec<Checked>,
        trouble: Option<Failure>,
    ) {
        let Some(flight) = self.reconciling.remove(&claim_id) else {
            return;
        };
        failpoint::reach("request::after");
        let Reconciling {
            map,
            connection,
            waiting,
        } = flight;
        report(&format!(
            "settling {} edits of {}",
            waiting.len(),
            map.relation
        ));
        let mut answers = checked.into_iter();
        let mut failures = Vec::new();
        let judged: Vec<(Settled, Entry)> = waiting
            .into_iter()
            .map(|w| {
                let checked = match &w.fault {
                    None => answers.next(),
                    Some(_) => None,
                };
                if let Some(Checked {
                    outcome: Outcome::Failed(failure),
                    ..
                }) = &checked
                {
                    failures.push(failure.clone());
                }
                judge(&map, w, checked, self.settings.max_attempts)
            })
            .collect();
        let trouble =
            trouble.or_else(|| failures.into_iter().find(|f| f.scope == Scope::Connection));
        if let Some(known) = self.connections.iter_mut().find(|c| c.id == connection.id) {
            real_time::note_health(known, trouble.as_ref());
        }
        self.settle_pending(map, connection, judged, Some(claim_id));
    }

    fn settle_pending(
        &mut self,
        map: Arc<Map>,
        connection: Connection,
        judged: Vec<(Settled, Entry)>,
        claim_id: Option<i64>,
    ) {
        let (records, mut entries): (Vec<Settled>, Vec<Entry>) = judged.into_iter().unzip();
        let by_key: HashMap<(String, String), usize> = records
            .iter()
            .enumerate()
            .map(|(n, r)| {
                (
                    (r.pending.shard_key.clone(), r.pending.record_key.clone()),
                    n,
                )
            })
            .collect();
        let place =
            |r: &Settled| by_key[&(r.pending.shard_key.clone(), r.pending.record_key.clone())];
        let result = transaction(|client| {
            let (now, later) = reconcile::settle(client, &map, records)?;
            for record in &now {
                let entry = &entries[place(record)];
                entry.write(client, &connection, &map, record)?;
            }
            let events = now
                .iter()
                .map(|r| {
                    let (name, error) = told(r);
                    event(name, &connection, &map, &r.pending, error)
                })
                .collect();
            pending::notify(client, events)?;
            if let Some(claim_id) = claim_id {
                claims::release(client, claim_id)?;
            }
            failpoint::reach("reconcile_settle::before_commit");
            Ok(later)
        });
        failpoint::reach("reconcile_settle::after_commit");
        match result {
            Ok(later) if later.is_empty() => {}
            Ok(later) => {
                let places: Vec<usize> = later.iter().map(place).collect();
                let later = later
                    .into_iter()
                    .zip(places)
                    .map(|(record, n)| (record, std::mem::take(&mut entries[n])))
                    .collect();
                self.held_pending.push((map, connection, later));
            }
            Err(error) if error.is_undefined() => {}
            Err(error) => {
                // Nothing is lost: what the CRM took is found by the next read.
                log!("pg_crm could not settle edits of {}: {error}", map.relation);
                if let Some(claim_id) = claim_id
                    && let Err(e) = transaction(|client| claims::release(client, claim_id))
                {
                    log!("pg_crm could not release a claim: {e}");
                }
            }
        }
    }

    pub(super) fn settle_held_pending(&mut self) {
        for (map, connection, judged) in std::mem::take(&mut self.held_pending) {
            self.settle_pending(map, connection, judged, None);
        }
    }
}

/// What rows hold, as far as the bound on bytes lets us read.
fn read(
    map: &Map,
    due: Vec<Pending>,
    bytes: usize,
    limit: Option<Duration>,
) -> Result<Vec<Waiting>, StoreError> {
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
    let mut rows = values::read(map, &wanted, bytes, limit)?;
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
                    "the row is gone",
                );
                (BTreeMap::new(), Some(gone))
            }
            Some(RowValues::Unreadable(failure)) => (BTreeMap::new(), Some(failure)),
        };
        let bases = bases(map, &pending);
        waiting.push(Waiting {
            pending,
            local,
            bases,
            fault,
        });
    }
    Ok(waiting)
}

/// What the edit was based on, per field: what its row held, or the hash of what the CRM held; else what the ledger
/// knows. A column that goes through a transform goes through it here too.
fn bases(map: &Map, pending: &Pending) -> BTreeMap<u16, ShortHash> {
    let mut bases = BTreeMap::new();
    for field in &map.fields {
        let id = field.id;
        let known = || {
            CellHashes(&pending.hashes)
                .get(id)
                .and_then(|hash| hash.try_into().ok())
        };
        let entry = &pending.base[id.to_string()];
        let base = if let Some(hash) = entry["h"].as_str() {
            from_hex(hash)
        } else if let Some(value) = entry.get("v") {
            let value = match &field.transform_out {
                Some(transform) => crate::store::subtransaction(|| {
                    crate::store::edits::transformed(map, transform, value)
                })
                .unwrap_or(Json::Null),
                None => value.clone(),
            };
            Value::from_json(field.field.data_type, &value)
                .ok()
                .map(|v| conflict::hash(&field.stored(v)))
        } else {
            known()
        };
        if let Some(base) = base {
            bases.insert(id, base);
        }
    }
    bases
}

fn edit(map: &Map, w: &Waiting, _max_attempts: u32) -> Edit {
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
                // A compensation takes whatever the CRM holds; a person's choice only what that person saw.
                base: w
                    .bases
                    .get(&f.id)
                    .copied()
                    .filter(|_| !take || p.base.get(f.id.to_string()).is_some()),
                compared: changes,
                policy: f.policy,
                take,
            }
        });
    Edit {
        crm_id: p.crm_id.clone(),
        attempts: p.attempts,
        fields: fields.collect(),
        strict: false,
        changed_at: Some(p.changed_at_ms),
    }
}

/// What the audit says of a pending write.
#[derive(Default)]
pub(super) struct Entry {
    fields: JsonMap<String, Json>,
    conflicting: JsonMap<String, Json>,
    /// Fields in which the CRM's value stands.
    superseded: JsonMap<String, Json>,
    raced: bool,
    wrote: bool,
    failure: Option<Failure>,
    request_id: Option<String>,
}

impl Entry {
    fn write(
        &self,
        client: &mut pgrx::spi::SpiClient,
        connection: &Connection,
        map: &Map,
        record: &Settled,
    ) -> Result<(), StoreError> {
        let p = &record.pending;
        let path = if p.compensates {
            "compensate"
        } else {
            "reconcile"
        };
        let mut rows = Vec::new();
        let result = match &record.verdict {
            Verdict::Retry { .. } => Some("retry"),
            Verdict::Dead { .. } => Some("dead"),
            Verdict::Unlinked { .. } => Some("superseded"),
            Verdict::Done => None,
        };
        if let Some(result) = result {
            rows.push((result, &self.fields));
        }
        if matches!(record.verdict, Verdict::Done) {
            if self.wrote {
                rows.push((if self.raced { "raced" } else { "applied" }, &self.fields));
            }
            if !record.conflicts.is_empty() {
                rows.push(("conflict", &self.conflicting));
            }
            if !self.superseded.is_empty() {
                rows.push(("superseded", &self.superseded));
            }
        }
        let rows: Vec<_> = rows
            .iter()
            .map(|(result, fields)| (result, Json::Object((*fields).clone()).to_string()))
            .collect::<Vec<_>>();
        let entries: Vec<audit::Entry> = rows
            .iter()
            .map(|(result, fields)| audit::Entry {
                shard_key: &p.shard_key,
                record_key: &p.record_key,
                crm_id: Some(&p.crm_id),
                operation: "update",
                fields,
                result,
                attempt: p.attempts + 1,
                error_class: self.failure.as_ref().map(|f| f.class.name()),
                vendor_code: self.failure.as_ref().map(|f| f.code.as_str()),
                error: self.failure.as_ref().map(|f| f.message.as_str()),
                request_id: self.request_id.as_deref(),
                actor: p.actor.as_deref(),
                correlation_id: p.correlation_id.as_deref(),
                write_id: Some(&p.write_id),
            })
            .collect();
        audit::write(client, connection, map, path, &entries)
    }
}

fn judge(map: &Map, w: Waiting, checked: Option<Checked>, max_attempts: u32) -> (Settled, Entry) {
    let mut entry = Entry::default();
    let mut settled = Settled {
        pending: w.pending,
        known: BTreeMap::new(),
        takes: BTreeMap::new(),
        conflicts: Vec::new(),
        verdict: Verdict::Done,
        snapshot: None,
    };
    let failure = match (w.fault, checked) {
        // A row that is gone has no edits.
        (Some(fault), _) if fault.code == "no_row" && !map.hides_rows => return (settled, entry),
        (Some(fault), _) => Some(fault),
        (None, None) => Some(Failure::record(
            crm_domain::ErrorClass::Transient,
            "no_result",
            "nothing came back for this record",
        )),
        (None, Some(checked)) => {
            entry.request_id = Some(checked.request_id).filter(|id| !id.is_empty());
            entry.raced = !checked.raced.is_empty();
            let read = checked.read.unwrap_or_default();
            settled.snapshot = (!read.is_empty()).then(|| snapshot(map, &read));
            match checked.outcome {
                Outcome::Done(decisions) => {
                    decide(
                        map,
                        &mut settled,
                        &mut entry,
                        &w.local,
                        &read,
                        &decisions,
                        &checked.raced,
                    );
                    None
                }
                Outcome::Failed(failure) => {
                    for id in settled.pending.cells.iter() {
                        note(map, &mut entry.fields, id, w.local.get(&id), read.get(&id));
                    }
                    Some(failure)
                }
                Outcome::Conflict => None,
            }
        }
    };
    if let Some(failure) = failure {
        let attempts = settled.pending.attempts;
        settled.verdict = match verdict::of(
            &failure,
            attempts,
            max_attempts,
            &map.on_crm_delete,
            fastrand::f64(),
        ) {
            crate::store::settle::Verdict::Retry {
                delay_ms,
                charged,
                class,
                error,
                ..
            } => Verdict::Retry {
                delay_ms,
                charged,
                class,
                error,
            },
            crate::store::settle::Verdict::Unlinked { error, .. } => Verdict::Unlinked { error },
            crate::store::settle::Verdict::Dead { class, code, error } => {
                Verdict::Dead { class, code, error }
            }
            _ => Verdict::Done,
        };
        entry.failure = Some(failure);
    }
    (settled, entry)
}

fn decide(
    map: &Map,
    settled: &mut Settled,
    entry: &mut Entry,
    local: &BTreeMap<u16, Value>,
    read: &BTreeMap<u16, Value>,
    decisions: &[(u16, Decision)],
    raced: &[(u16, Value)],
) {
    for (id, decision) in decisions {
        let (ours, theirs) = (local.get(id), read.get(id));
        match decision {
            Decision::Write | Decision::Landed => {
                let Some(value) = ours else { continue };
                settled.known.insert(*id, conflict::hash(value));
                // What is there already was written by an attempt of which we did not hear.
                entry.wrote = true;
                note(map, &mut entry.fields, *id, ours, theirs);
                if let Some((_, value)) = raced.iter().find(|(raced, _)| raced == id)
                    && let Some(field) = map.field(*id)
                {
                    entry.fields[&field.field.name]["raced"] = value.to_json();
                }
            }
            Decision::Take => {
                let Some(crm) = theirs else { continue };
                settled.known.insert(*id, conflict::hash(crm));
                // That somebody's call came to nothing is told even where nothing has to be put right.
                if ours != Some(crm) || settled.pending.compensates {
                    note_superseded(map, &mut entry.superseded, *id, ours, crm);
                }
                let take = Take {
                    crm: crm.clone(),
                    local: ours.cloned(),
                };
                settled.takes.insert(*id, take);
            }
            Decision::Review => {
                let field = map.field(*id);
                note(map, &mut entry.conflicting, *id, ours, theirs);
                settled.conflicts.push(Conflict {
                    field_id: *id,
                    kind: match field.map(|f| f.policy) {
                        Some(crm_domain::mapping::ConflictPolicy::ImmutableAfterBind) => {
                            "immutable"
                        }
                        _ => "stale_write",
                    },
                    local: ours.map_or(Json::Null, Value::to_json),
                    crm: theirs.map_or(Json::Null, Value::to_json),
                    base: settled.pending.base[id.to_string()]["v"].clone(),
                    policy: field.map_or("manual_review", |f| f.policy.name()),
                });
            }
        }
    }
}

fn note(
    map: &Map,
    fields: &mut JsonMap<String, Json>,
    id: u16,
    new: Option<&Value>,
    old: Option<&Value>,
) {
    let Some(field) = map.field(id) else { return };
    let mut entry = JsonMap::new();
    if let Some(new) = new {
        entry.insert("new".into(), new.to_json());
    }
    if let Some(old) = old {
        entry.insert("old".into(), old.to_json());
    }
    fields.insert(field.field.name.clone(), Json::Object(entry));
}

/// The row takes the CRM's value: the loser is in the audit alone.
fn note_superseded(
    map: &Map,
    fields: &mut JsonMap<String, Json>,
    id: u16,
    ours: Option<&Value>,
    crm: &Value,
) {
    let Some(field) = map.field(id) else { return };
    let entry = json!({ "new": crm.to_json(), "lost": ours.map(Value::to_json) });
    fields.insert(field.field.name.clone(), entry);
}

fn snapshot(map: &Map, read: &BTreeMap<u16, Value>) -> (Json, Vec<u8>) {
    let fields: BTreeMap<String, Value> = read
        .iter()
        .filter_map(|(id, value)| Some((map.field(*id)?.field.name.clone(), value.clone())))
        .collect();
    let hash = canonical::snapshot_hash(&fields).as_bytes().to_vec();
    (canonical::snapshot(&fields), hash)
}

fn told(record: &Settled) -> (&'static str, Option<&str>) {
    match &record.verdict {
        Verdict::Done if !record.conflicts.is_empty() => ("conflict", None),
        Verdict::Done => ("sync_completed", None),
        Verdict::Retry { error, .. }
        | Verdict::Dead { error, .. }
        | Verdict::Unlinked { error } => ("sync_failed", Some(error)),
    }
}

fn event(
    name: &str,
    connection: &Connection,
    map: &Map,
    p: &Pending,
    error: Option<&str>,
) -> String {
    events::payload(
        name,
        &events::Subject {
            connection: &connection.name,
            map_id: map.id,
            relation: &map.relation,
            shard_key: &p.shard_key,
            record_key: &p.record_key,
            write_id: Some(&p.write_id),
            correlation_id: p.correlation_id.as_deref(),
        },
        error,
    )
}

/// Results that wait for a lock, with what their audit will say.
pub(super) type Held = (Arc<Map>, Connection, Vec<(Settled, Entry)>);
