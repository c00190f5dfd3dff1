//! What is to become of the fields of a record that changed in the CRM.

use std::collections::{BTreeMap, HashMap};

use crm_domain::cells::CellHashes;
use crm_domain::conflict::ShortHash;
use crm_domain::inbound::{self, InboundDecision, InboundField};
use crm_domain::{Cells, Value, conflict, excerpt};
use serde_json::{Map as JsonMap, Value as Json, json};

use crate::store::config::field::MappedField;
use crate::store::config::map::Map;
use crate::store::ingest::incoming::{Field, Incoming};
use crate::store::ingest::locks::Locked;
use crate::store::ingest::stored_forms::{Answer, WrittenOver};
use crate::store::record::key::Key;

/// A record with what was decided of its fields.
pub struct Decided<'a> {
    pub incoming: &'a Incoming,
    pub key: Key,
    /// What the CRM is known to hold from now on.
    pub known: Vec<&'a Field>,
    /// Of these, in which both sides agree now.
    pub synced: Cells,
    pub accepts: BTreeMap<u16, &'a Value>,
    /// Cells that go to the CRM with the map's next round.
    pub overwrites: Cells,
    /// Of these, in which the CRM held something else than it had been sent.
    pub answers: Vec<Answer<'a>>,
    /// Cells in which the CRM has a form of its own of what the row holds.
    pub forms: BTreeMap<u16, (ShortHash, ShortHash)>,
    /// Cells that are edits to be sent, based on what the CRM was read to hold.
    pub writes: Vec<&'a Field>,
    pub conflicts: Vec<Conflict<'a>>,
    pub audit: JsonMap<String, Json>,
    pub formed: JsonMap<String, Json>,
    pub conflicting: JsonMap<String, Json>,
}

pub struct Conflict<'a> {
    pub field: &'a Field,
    /// `None`: there is one already.
    pub kind: Option<&'static str>,
    pub local: Json,
    pub policy: &'static str,
}

/// Decides on the fields that changed. `held`: what the row holds in them, as it holds it.
pub fn decide<'a>(
    map: &Map,
    incoming: &'a Incoming,
    key: Key,
    locked: &Locked,
    held: &HashMap<u16, Value>,
    written_over: &WrittenOver,
) -> Decided<'a> {
    let mut decided = Decided {
        incoming,
        key,
        known: Vec::new(),
        synced: Cells::new(),
        accepts: BTreeMap::new(),
        overwrites: Cells::new(),
        answers: Vec::new(),
        forms: BTreeMap::new(),
        writes: Vec::new(),
        conflicts: Vec::new(),
        audit: JsonMap::new(),
        formed: JsonMap::new(),
        conflicting: JsonMap::new(),
    };
    let hashes = CellHashes(&locked.hashes);
    for arriving in incoming.values.iter().flatten() {
        let (Some(field), Some(row)) = (map.field(arriving.id), held.get(&arriving.id)) else {
            continue;
        };
        let local = &field.stored(row.clone());
        let answer = Answer {
            crm_id: &incoming.crm_id,
            field_id: field.id,
            sent: conflict::hash(local),
            held: arriving.hash,
        };
        let known: Option<ShortHash> = hashes.get(field.id).and_then(|hash| hash.try_into().ok());
        // The row may hold more of what came from the CRM than would be sent back.
        let is_as_agreed = |known: &ShortHash| {
            let form = written_over.agreed_with(&incoming.crm_id, field.id, known);
            let is = |row: ShortHash| row == *known || Some(row) == form;
            is(answer.sent) || is(conflict::hash(row))
        };
        let written = written_over.held_as(&incoming.crm_id, field.id, known, &arriving.value);
        let has_pending_edit = locked.edited.contains(field.id) || locked.queued.contains(field.id);
        let in_conflict = locked.disputed.contains(field.id);
        let decision = inbound::decide(&InboundField {
            direction: field.direction,
            policy: field.policy,
            is_written: field.written,
            is_withheld: field.is_withheld(local),
            known,
            synced: locked.synced.contains(field.id),
            row_changed: locked.agreed.contains(field.id)
                && known.as_ref().is_some_and(|known| !is_as_agreed(known)),
            local,
            crm: &arriving.value,
            crm_insists: written_over.is_answer(&answer),
            is_own_form: written.is_some(),
            has_pending_edit,
            in_conflict,
        });
        if decision == InboundDecision::KeepCrmForm {
            let of_row = !has_pending_edit && !in_conflict;
            let row = written.unwrap_or(answer.sent);
            decided.keep_form(field, arriving, local, row, of_row);
        }
        decided.add(field, arriving, local, decision);
        if decision == InboundDecision::Overwrite && known == Some(answer.sent) {
            decided.answers.push(answer);
        }
    }
    decided
}

impl<'a> Decided<'a> {
    pub fn add(
        &mut self,
        field: &MappedField,
        arriving: &'a Field,
        local: &Value,
        decision: InboundDecision,
    ) {
        let name = || field.field.name.clone();
        let told = || json!({ "new": excerpt::of(&arriving.value), "old": excerpt::of(local) });
        let mut conflict = |kind: Option<&'static str>| {
            self.conflicts.push(Conflict {
                field: arriving,
                kind,
                local: local.to_json(),
                policy: field.policy.name(),
            });
            if kind.is_some() {
                let fields =
                    json!({ "new": excerpt::of(local), "old": excerpt::of(&arriving.value) });
                self.conflicting.insert(name(), fields);
            }
        };
        match decision {
            InboundDecision::Unchanged
            | InboundDecision::LeavePending
            | InboundDecision::KeepCrmForm => {}
            InboundDecision::Agreed => {
                self.known.push(arriving);
                self.synced.insert(field.id);
            }
            InboundDecision::Remember => self.known.push(arriving),
            InboundDecision::AcceptCrm => {
                self.known.push(arriving);
                self.synced.insert(field.id);
                self.accepts.insert(field.id, &arriving.value);
                self.audit.insert(name(), told());
            }
            InboundDecision::Overwrite => {
                self.known.push(arriving);
                self.overwrites.insert(field.id);
            }
            InboundDecision::Write => {
                self.known.push(arriving);
                self.writes.push(arriving);
            }
            InboundDecision::InConflict => conflict(None),
            InboundDecision::Immutable => conflict(Some("locked_field")),
            InboundDecision::ManualReview => conflict(Some("unknown_base")),
            InboundDecision::BothChanged => conflict(Some("stale_write")),
        }
    }

    /// The CRM holds its form of what was sent. `of_row`: the row still holds that, so both are in
    /// step.
    fn keep_form(
        &mut self,
        field: &MappedField,
        arriving: &'a Field,
        local: &Value,
        sent: ShortHash,
        of_row: bool,
    ) {
        self.known.push(arriving);
        self.forms.insert(field.id, (sent, arriving.hash));
        if of_row {
            self.synced.insert(field.id);
            let told = json!({ "new": excerpt::of(local), "held": excerpt::of(&arriving.value) });
            self.formed.insert(field.field.name.clone(), told);
        }
    }

    pub fn is_nothing(&self) -> bool {
        self.accepts.is_empty()
            && self.overwrites.is_empty()
            && self.writes.is_empty()
            && self.conflicting.is_empty()
    }
}
