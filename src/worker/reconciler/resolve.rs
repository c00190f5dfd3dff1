//! Conflict resolution: from the CRM's response to the outcome of each cell of a pending write.

use std::collections::BTreeMap;

use crm_domain::cells::CellHashes;
use crm_domain::conflict::{self, Decision, ShortHash};
use crm_domain::crm_form::Ours;
use crm_domain::{ErrorClass, Failure, Value, excerpt};
use serde_json::{Map as JsonMap, Value as Json, json};

use super::audit::Entry;
use super::read::{PendingWithRow, sending};
use crate::store::StoreError;
use crate::store::config::{Connection, Map};
use crate::store::outcome::Outcome as RecordOutcome;
use crate::store::reconcile::outcome::{Accepted, Conflict, Resolution};
use crate::store::reconcile::pending_writes::Pending;
use crate::worker::notification;
use crate::worker::retry_policy;
use crate::worker::sender::checked_write::{Checked, Outcome};

pub fn resolve(
    map: &Map,
    w: PendingWithRow,
    checked: Option<Checked>,
    max_attempts: u32,
) -> (Resolution, Entry) {
    let mut entry = Entry::default();
    let mut settled = Resolution {
        sent: sending(&w),
        pending: w.pending,
        known: BTreeMap::new(),
        accepts: BTreeMap::new(),
        written: BTreeMap::new(),
        forms: BTreeMap::new(),
        seen: BTreeMap::new(),
        conflicts: Vec::new(),
        outcome: RecordOutcome::Applied,
        learnt: BTreeMap::new(),
        is_outdated: false,
    };
    let failure = match (w.fault, checked) {
        // A row that is gone has no edits.
        (Some(fault), _) if fault.code == "no_row" && !map.hides_rows => {
            entry.failure = Some(fault);
            return (settled, entry);
        }
        (Some(fault), _) => Some(fault),
        (None, None) => Some(Failure::missing_result()),
        (None, Some(checked)) => {
            entry.request_id = Some(checked.request_id).filter(|id| !id.is_empty());
            entry.raced = !checked.raced.is_empty();
            let read = checked.read.unwrap_or_default();
            settled.learnt = unknown(&settled.pending, &read);
            let sighting = |(id, ours): (&u16, &Ours)| Some((*id, ours.sighting(read.get(id)?)?));
            settled.seen = w.ours.iter().filter_map(sighting).collect();
            match checked.outcome {
                Outcome::Done(decisions) => {
                    let changed = &checked.changed;
                    let came = Came {
                        map,
                        local: &w.local,
                        bases: &w.bases,
                        read: &read,
                        changed,
                        held: &checked.held,
                        raced: &checked.raced,
                    };
                    decide(&came, &mut settled, &mut entry, &decisions);
                    note_withheld(&came, &settled.pending, &mut entry);
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
        settled.outcome = outcome_of(&failure, attempts, max_attempts, map);
        entry.failure = Some(failure);
    }
    (settled, entry)
}

/// What a failure leads to.
fn outcome_of(failure: &Failure, attempts: u32, max_attempts: u32, map: &Map) -> RecordOutcome {
    let draw = fastrand::f64();
    retry_policy::classify(failure, attempts, max_attempts, map.on_crm_delete, draw)
}

/// An edit that cannot be read, or whose result cannot be recorded, because of this error.
pub fn blamed(
    map: &Map,
    pending: Pending,
    sent: String,
    error: &StoreError,
    max_attempts: u32,
) -> (Resolution, Entry) {
    let class = match error.is_about_values() {
        true => ErrorClass::Internal,
        false => ErrorClass::Transient,
    };
    let failure = Failure::record(class, "settle", error.message());
    let settled = Resolution {
        known: BTreeMap::new(),
        accepts: BTreeMap::new(),
        written: BTreeMap::new(),
        forms: BTreeMap::new(),
        seen: BTreeMap::new(),
        conflicts: Vec::new(),
        outcome: outcome_of(&failure, pending.attempts, max_attempts, map),
        sent,
        learnt: BTreeMap::new(),
        is_outdated: false,
        pending,
    };
    let entry = Entry {
        failure: Some(failure),
        ..Entry::default()
    };
    (settled, entry)
}

/// Fields that were read and of which nobody knew when the edit was made: changes from now on are
/// noticed.
fn unknown(pending: &Pending, read: &BTreeMap<u16, Value>) -> BTreeMap<u16, ShortHash> {
    let snapshot = CellHashes(&pending.snapshot);
    let fields = read.iter();
    let fields = fields.filter(|(id, _)| !pending.cells.contains(**id));
    let fields = fields.filter(|(id, _)| snapshot.get(**id).is_none());
    fields
        .map(|(id, value)| (*id, conflict::hash(value)))
        .collect()
}

/// What came of an edit.
struct Came<'a> {
    map: &'a Map,
    local: &'a BTreeMap<u16, Value>,
    /// What each field's edit was based on, if that is known.
    bases: &'a BTreeMap<u16, ShortHash>,
    read: &'a BTreeMap<u16, Value>,
    /// Fields that somebody else changed since the edit was made.
    changed: &'a [u16],
    /// What the answer to the write shows that the CRM now holds.
    held: &'a BTreeMap<u16, Value>,
    raced: &'a [(u16, Value)],
}

impl Came<'_> {
    /// Whether an edit of this field met a change of other fields, and none of its own.
    fn is_outdated(&self, pending: &Pending, id: u16, crm: Option<&Value>) -> bool {
        let is_same = self.bases.contains_key(&id) || crm.is_some_and(Value::is_null);
        let others = self.changed.iter().any(|other| *other != id);
        pending.cells.contains(id) && is_same && others && !self.changed.contains(&id)
    }

    /// The names of the fields that others changed beside this one.
    fn others(&self, id: u16) -> Vec<&str> {
        let others = self.changed.iter().filter(|other| **other != id);
        others
            .filter_map(|other| Some(self.map.field(*other)?.field.name.as_str()))
            .collect()
    }
}

fn decide(came: &Came, settled: &mut Resolution, entry: &mut Entry, decisions: &[(u16, Decision)]) {
    let Came {
        map,
        local,
        read,
        changed,
        held: told,
        raced,
        ..
    } = came;
    for (id, decision) in decisions {
        let (ours, theirs) = (local.get(id), read.get(id));
        match decision {
            Decision::Write | Decision::AlreadyApplied => {
                let Some(value) = ours else { continue };
                let row = conflict::hash(value);
                let seen = match decision {
                    Decision::AlreadyApplied => theirs,
                    _ => told.get(id),
                };
                let held = seen.map_or(row, conflict::hash);
                settled.known.insert(*id, held);
                settled.learnt.insert(*id, held);
                if seen.is_none() {
                    settled.written.insert(*id, value.clone());
                } else if held != row {
                    settled.forms.insert(*id, (row, held));
                }
                // What is there already was written by an attempt whose response was lost.
                entry.wrote = true;
                note(map, &mut entry.fields, *id, ours, theirs);
                if let Some(held) = told.get(id).filter(|held| *held != value)
                    && let Some(field) = map.field(*id)
                {
                    entry.fields[&field.field.name]["held"] = excerpt::of(held);
                }
                if let Some((_, value)) = raced.iter().find(|(raced, _)| raced == id)
                    && let Some(field) = map.field(*id)
                {
                    entry.fields[&field.field.name]["raced"] = excerpt::of(value);
                }
            }
            Decision::AcceptCrm => {
                let Some(crm) = theirs else { continue };
                settled.known.insert(*id, conflict::hash(crm));
                if !changed.contains(id) {
                    settled.learnt.insert(*id, conflict::hash(crm));
                }
                let undone = settled.pending.undoes(*id);
                // A call that was rolled back is reported even where nothing has to be put right.
                if undone {
                    note_superseded(map, &mut entry.undone, *id, ours, crm);
                } else if ours != Some(crm) {
                    note_superseded(map, &mut entry.superseded, *id, ours, crm);
                    if came.is_outdated(&settled.pending, *id, theirs)
                        && let Some(field) = map.field(*id)
                    {
                        settled.is_outdated = true;
                        entry.superseded[&field.field.name]["because"] = came.others(*id).into();
                    }
                }
                let take = Accepted {
                    crm: crm.clone(),
                    local: ours.cloned(),
                };
                settled.accepts.insert(*id, take);
            }
            Decision::ManualReview => {
                let field = map.field(*id);
                note(map, &mut entry.conflicting, *id, ours, theirs);
                settled.conflicts.push(Conflict {
                    field_id: *id,
                    kind: match field.map(|f| f.policy) {
                        _ if came.is_outdated(&settled.pending, *id, theirs) => {
                            settled.is_outdated = true;
                            "stale_record"
                        }
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

/// Edits that empty fields which are never cleared: the CRM keeps what it holds.
fn note_withheld(came: &Came, pending: &Pending, entry: &mut Entry) {
    for id in pending
        .cells
        .iter()
        .filter(|id| !came.local.contains_key(id))
    {
        if let (Some(field), Some(kept)) = (came.map.field(id), came.read.get(&id)) {
            let kept = json!({ "new": null, "kept": excerpt::of(kept) });
            entry.superseded.insert(field.field.name.clone(), kept);
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
        entry.insert("new".into(), excerpt::of(new));
    }
    if let Some(old) = old {
        entry.insert("old".into(), excerpt::of(old));
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
    let entry = json!({ "new": excerpt::of(crm), "lost": ours.map(excerpt::of) });
    fields.insert(field.field.name.clone(), entry);
}

pub fn notification(record: &Resolution) -> (&'static str, Option<ErrorClass>) {
    match &record.outcome {
        RecordOutcome::Applied if !record.conflicts.is_empty() => ("conflict", None),
        RecordOutcome::Applied | RecordOutcome::Found | RecordOutcome::NothingToDo => {
            ("sync_completed", None)
        }
        RecordOutcome::Retry { class, .. } | RecordOutcome::Dead { class, .. } => {
            ("sync_failed", Some(*class))
        }
        RecordOutcome::Unlinked { .. } => ("sync_failed", Some(ErrorClass::NotFound)),
    }
}

pub fn event(
    name: &str,
    connection: &Connection,
    map: &Map,
    p: &Pending,
    error: Option<ErrorClass>,
) -> String {
    notification::payload(
        name,
        &notification::Subject {
            connection: &connection.name,
            map_id: map.id,
            relation: &map.relation,
            write_id: Some(&p.write_id),
            conflicts: &[],
            correlation_id: p.correlation_id.as_deref(),
        },
        error,
    )
}
