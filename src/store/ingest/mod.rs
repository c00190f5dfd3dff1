//! What came in from a CRM, written down: rows, links, ledger, conflicts, audit and cursor in one transaction.
//!
//! Guarantees: a record is compared with what the ledger knows now and not with what it knew when the CRM was asked: one
//! on which something of ours was at work since then is read again by itself. Whatever comes twice changes nothing twice.
//! Rows change as their table's owner; one that the table refuses, or a value that cannot be read, is quarantined and its
//! neighbours go on.

mod changed;
mod deleted;
mod key_sequence;
mod locks;
mod new_rows;
pub mod quarantine;
mod refused_fields;
pub mod state;
pub mod stored_forms;
mod unlinked;

use std::collections::{HashMap, HashSet};

use crm_domain::conflict::ShortHash;
use crm_domain::{Failure, Value};
use pgrx::spi::SpiClient;
use serde_json::{Value as Json, json};

use crate::store::audit;
use crate::store::config::{Connection, Map};
use crate::store::error::StoreError;

pub use crate::store::ingest::quarantine::give_up;
use crate::store::ingest::state::Counts;
use crate::store::ingest::stored_forms::WrittenOver;
pub use crate::store::ingest::stored_forms::look_back;
use crate::store::record::links::{self, Key, Known};

/// A CRM record as it came in.
pub struct Incoming {
    pub crm_id: String,
    /// What the map's external_id_field holds.
    pub external_id: Option<String>,
    /// It is not there any more.
    pub deleted: bool,
    /// The record that took it in.
    pub merged_into: Option<String>,
    /// Who made the last change, in the vendor's words: evidence for the audit, nothing else.
    pub by: Option<String>,
    /// Its mapped fields in the order of their ids, or why they cannot be read.
    pub values: Result<Vec<Field>, Unreadable>,
}

/// Why a record cannot be read.
pub struct Unreadable {
    pub failure: Failure,
    /// The CRM's field that cannot, if it is about one.
    pub field: Option<String>,
}

impl Unreadable {
    /// The field at fault, as the audit names fields.
    fn fields(&self) -> String {
        let named = self.field.iter().map(|name| (name.clone(), json!({})));
        Json::Object(named.collect()).to_string()
    }
}

impl From<Failure> for Unreadable {
    fn from(failure: Failure) -> Unreadable {
        Unreadable {
            failure,
            field: None,
        }
    }
}

/// A field of a record that came in.
pub struct Field {
    pub id: u16,
    pub value: Value,
    pub hash: ShortHash,
}

/// What is known of records that came in together.
pub struct Arriving<'a> {
    pub connection: &'a Connection,
    pub map: &'a Map,
    /// See [`state::moment`]: before the CRM was asked.
    pub asked: &'a str,
    /// Records to which something of ours is on its way right now.
    pub busy: &'a HashSet<(String, String)>,
}

impl Arriving<'_> {
    fn is_busy(&self, key: &Key) -> bool {
        // Mostly nothing is.
        !self.busy.is_empty()
            && self
                .busy
                .contains(&(key.shard_key.clone(), key.record_key.clone()))
    }
}

/// What came of records that came in.
#[derive(Default)]
pub struct Arrived {
    pub counts: Counts,
    /// Records that could not be compared yet, and into which they were merged.
    pub again: Vec<(String, Option<String>)>,
    /// Other records that are worth a look.
    pub look: Vec<String>,
    /// Records that a person is to decide about.
    pub disputed: Vec<Key>,
    /// Why the first of the records that cannot be taken in cannot; and how many fail because of the mapping.
    pub trouble: Option<String>,
    pub unmappable: usize,
    failing: Vec<Failing>,
    notes: Vec<Note>,
}

/// A record that could not be taken in, and is to be charged with an attempt.
struct Failing {
    crm_id: String,
    merged_into: Option<String>,
    by: Option<String>,
    /// Of its row, if it has one.
    key: Option<Key>,
    failure: Failure,
    fields: String,
}

/// A line of the audit.
struct Note {
    key: Option<Key>,
    crm_id: String,
    operation: &'static str,
    result: &'static str,
    fields: String,
    by: Option<String>,
    failure: Option<Failure>,
    attempt: u32,
}

impl Note {
    fn of_quarantine(
        key: Option<&Key>,
        crm_id: &str,
        by: Option<&str>,
        failure: Failure,
        fields: String,
    ) -> Note {
        Note {
            key: key.cloned(),
            crm_id: crm_id.to_owned(),
            operation: "ingest",
            result: "dead",
            fields,
            by: by.map(str::to_owned),
            failure: Some(failure),
            attempt: 1,
        }
    }
}

impl Arrived {
    fn note(
        &mut self,
        key: Option<&Key>,
        incoming: &Incoming,
        operation: &'static str,
        result: &'static str,
        fields: String,
    ) {
        self.notes.push(Note {
            key: key.cloned(),
            crm_id: incoming.crm_id.clone(),
            operation,
            result,
            fields,
            by: incoming.by.clone(),
            failure: None,
            attempt: 1,
        });
    }

    fn again(&mut self, incoming: &Incoming) {
        self.again
            .push((incoming.crm_id.clone(), incoming.merged_into.clone()));
    }
}

/// Settles records that came in.
pub fn settle(
    client: &mut SpiClient,
    about: &Arriving,
    incoming: &[Incoming],
) -> Result<Arrived, StoreError> {
    let mut arrived = Arrived::default();
    arrived.counts.read = incoming.len();
    let map = about.map;
    deleted::settle(client, about, incoming, &mut arrived)?;
    let mut live: Vec<&Incoming> = incoming.iter().filter(|r| !r.deleted).collect();
    // Of one that is in the page twice, what came last.
    let last: HashMap<&str, usize> = live
        .iter()
        .enumerate()
        .map(|(n, r)| (r.crm_id.as_str(), n))
        .collect();
    if last.len() < live.len() {
        let mut n = 0;
        live.retain(|r| {
            n += 1;
            last[r.crm_id.as_str()] == n - 1
        });
        arrived.counts.echoes += n - live.len();
    }
    let ids: Vec<&str> = live.iter().map(|r| r.crm_id.as_str()).collect();
    let mut known = links::linked(client, map, &ids)?;
    let mut written_over = WrittenOver::of(client, map, &ids)?;
    written_over.forget_echoes(client, map, &live)?;
    let carried: Vec<(&str, Option<&str>, &str)> = live
        .iter()
        .enumerate()
        .filter_map(|(n, record)| {
            let key = known.get(&n)?.key.record_key.as_str();
            Some((record.crm_id.as_str(), record.external_id.as_deref(), key))
        })
        .collect();
    links::carry(client, map, &carried)?;
    let mut changed: Vec<(&Incoming, Known)> = Vec::new();
    let mut strangers: Vec<&Incoming> = Vec::new();
    for (n, record) in live.into_iter().enumerate() {
        let Some(known) = known.remove(&n) else {
            strangers.push(record);
            continue;
        };
        match &record.values {
            Ok(fields) if changed::is_echo(fields, &known.hashes) => arrived.counts.echoes += 1,
            Ok(_) => changed.push((record, known)),
            Err(unreadable) => {
                arrived.quarantine_unreadable(client, map, Some(&known.key), record, unreadable)?;
            }
        }
    }
    let met = unlinked::settle(client, about, strangers, &mut arrived)?;
    changed.extend(met.linked);
    changed::settle(client, about, changed, &written_over, &mut arrived)?;
    unlinked::insert_waiting(client, map, met.waiting, &mut arrived)?;
    arrived.charge(client, map)?;
    write_audit(client, about.connection, map, &arrived.notes)?;
    state::count(client, map.id, &arrived.counts)?;
    Ok(arrived)
}

fn write_audit(
    client: &mut SpiClient,
    connection: &Connection,
    map: &Map,
    notes: &[Note],
) -> Result<(), StoreError> {
    let entries: Vec<audit::Entry> = notes
        .iter()
        .map(|note| audit::Entry {
            shard_key: note.key.as_ref().map_or("", |k| k.shard_key.as_str()),
            record_key: note
                .key
                .as_ref()
                .map_or(note.crm_id.as_str(), |k| k.record_key.as_str()),
            crm_id: Some(&note.crm_id),
            operation: note.operation,
            fields: &note.fields,
            result: note.result,
            attempt: note.attempt,
            error_class: note.failure.as_ref().map(|f| f.class.name()),
            vendor_code: note.failure.as_ref().map(|f| f.code.as_str()),
            error: note.failure.as_ref().map(|f| f.message.as_str()),
            request_id: None,
            actor: note.by.as_deref(),
            correlation_id: None,
            write_id: None,
            folded: &[],
        })
        .collect();
    if entries.is_empty() {
        return Ok(());
    }
    audit::write(client, connection, map, "ingest", &entries)
}
