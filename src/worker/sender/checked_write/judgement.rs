//! What is to be done with each cell of an edit, by what the CRM held when it was read.

use std::collections::BTreeMap;

use crm_domain::conflict::{self, Decision, FieldEdit, RecordField, ShortHash, Sides};
use crm_domain::crm_form::is_form_of;
use crm_domain::{ErrorClass, Failure, Value};

use super::{Checked, Edit, EditField, Outcome, Read, values};
use crate::worker::link::Link;

/// A record as read, before it is written.
pub struct Judged {
    pub index: usize,
    pub read: Option<BTreeMap<u16, Value>>,
    pub version: Option<String>,
    pub modified_at: Option<i64>,
    pub decisions: Vec<(u16, Decision)>,
    /// Fields that somebody else changed since the edit was made.
    pub changed: Vec<u16>,
}

impl Judged {
    /// Whether the write holds this field.
    pub fn writes(&self, field: u16) -> bool {
        self.decisions.contains(&(field, Decision::Write))
    }
}

impl EditField {
    /// What we wrote there, if what the CRM holds is its form of that.
    fn held_as(&self, crm: &Value) -> Option<ShortHash> {
        // An attempt of which nobody knows whether it arrived.
        let attempt = self
            .local
            .as_ref()
            .map(|local| (conflict::hash(local), local));
        let attempt = attempt.filter(|(hash, _)| self.sent.contains(hash));
        let attempt = attempt.filter(|(_, local)| is_form_of(crm, local));
        self.ours.held_as(crm).or(attempt.map(|(hash, _)| hash))
    }
}

/// Decides on each cell of an edit. `Err`: nothing is to be written.
pub fn judge(link: &Link, edit: &Edit, index: usize, read: Read) -> Result<Judged, Box<Checked>> {
    let object = match read {
        Ok(Some(object)) => object,
        Ok(None) => {
            return Err(Box::new(Checked::failed(Failure::record(
                ErrorClass::NotFound,
                "not_found",
                "the CRM has no such record any more",
            ))));
        }
        // A caller waits: what cannot be compared is written all the same, based on the ledger.
        Err(failure) if edit.strict && failure.class != ErrorClass::NotFound => {
            link.take_outage();
            let cells = edit.fields.iter().filter(|f| f.local.is_some());
            return Ok(Judged {
                index,
                read: None,
                version: None,
                modified_at: None,
                changed: Vec::new(),
                decisions: cells.map(|f| (f.id, Decision::Write)).collect(),
            });
        }
        Err(failure) => return Err(Box::new(Checked::failed(failure))),
    };
    let fields = edit.fields.iter().map(|f| (f.id, f.field.clone()));
    let read = values(link, fields, &object).map_err(|f| Box::new(Checked::failed(f)))?;
    let crm_changed_at = object.modified_at.map(|at| at - link.clock_offset_ms());
    let record: Vec<RecordField> = edit
        .fields
        .iter()
        .map(|f| record_field(edit, f, &read[&f.id], crm_changed_at))
        .collect();
    let mut resolved = conflict::resolve_record(edit.scope, &record).into_iter();
    let mut decisions = Vec::new();
    let mut differs = false;
    for (f, field) in edit.fields.iter().zip(&record) {
        let resolved = resolved.next().flatten();
        let crm = &read[&f.id];
        let moved = f
            .base
            .is_some_and(|base| base != conflict::hash(crm) && Some(base) != field.ours);
        differs |= edit.strict && f.compared && moved;
        let decision = match &f.local {
            _ if f.take && moved => Some(Decision::ManualReview),
            _ if f.take => Some(Decision::AcceptCrm),
            Some(local) if edit.strict && local != crm => Some(Decision::Write),
            _ => resolved,
        };
        decisions.extend(decision.map(|decision| (f.id, decision)));
    }
    let fields = edit.fields.iter().zip(&record);
    let changed = fields.filter(|(_, field)| field.is_changed());
    let changed = changed.map(|(f, _)| f.id).collect();
    if differs {
        // What is there already needs no second writer.
        return Err(Box::new(Checked {
            request_id: String::new(),
            read: Some(read),
            outcome: Outcome::Conflict,
            changed,
            held: BTreeMap::new(),
            raced: Vec::new(),
        }));
    }
    Ok(Judged {
        index,
        read: Some(read),
        version: object.version,
        modified_at: object.modified_at,
        decisions,
        changed,
    })
}

fn record_field<'a>(
    edit: &Edit,
    f: &'a EditField,
    crm: &'a Value,
    crm_changed_at: Option<i64>,
) -> RecordField<'a> {
    let edited = f.local.as_ref().filter(|_| !f.take);
    let ours = f.held_as(crm);
    RecordField {
        crm,
        snapshot: f.snapshot,
        sent: &f.sent,
        ours,
        edit: edited.map(|local| FieldEdit {
            policy: f.policy,
            is_alone: f.is_alone,
            sides: Sides {
                // What the row held before may never have been there: to fill an empty field takes
                // nothing from anybody.
                base: match f.base_is_guessed && crm.is_null() {
                    true => Some(conflict::hash(crm)),
                    false => f.base,
                },
                sent: &f.sent,
                ours,
                local,
                crm,
                local_changed_at: edit.changed_at,
                crm_changed_at,
            },
        }),
    }
}
