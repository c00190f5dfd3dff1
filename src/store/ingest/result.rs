//! What came of records that came in.

use crm_domain::{AuditResult, ErrorClass, Failure, Operation, Path, excerpt, fuse};
use pgrx::spi::SpiClient;
use serde_json::{Map as JsonMap, Value as Json};

use crate::store::audit;
use crate::store::config::connection::Connection;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::ingest::Incoming;
use crate::store::ingest::state::{self, Counts};
use crate::store::record::key::Key;
use crate::store::table::write::Altered;

/// What came of records that came in.
#[derive(Default)]
pub struct Arrived {
    pub counts: Counts,
    /// Rows that lost their record or were deleted with it, or in which a cell was emptied.
    pub hazards: fuse::Counts,
    /// The first of the pass that were applied are among them.
    pub is_first: bool,
    /// Records that could not be compared yet, and into which they were merged.
    pub again: Vec<(String, Option<String>)>,
    /// Other records that are worth a look.
    pub look: Vec<String>,
    /// Records that a person is to decide about.
    pub disputed: Vec<Key>,
    /// Why the first of the records that cannot be ingested fails; and the class of each failure
    /// that no retry can help.
    pub trouble: Option<String>,
    pub quarantined: Vec<ErrorClass>,
    pub failing: Vec<Failing>,
    pub notes: Vec<Note>,
}

/// A record that could not be taken in, and is to be charged with an attempt.
pub struct Failing {
    pub crm_id: String,
    pub merged_into: Option<String>,
    pub by: Option<String>,
    /// Of its row, if it has one.
    pub key: Option<Key>,
    pub failure: Failure,
    pub fields: String,
}

/// A line of the audit.
pub struct Note {
    pub key: Option<Key>,
    pub crm_id: String,
    pub operation: Operation,
    pub result: AuditResult,
    pub fields: String,
    pub by: Option<String>,
    pub failure: Option<Failure>,
    pub attempt: u32,
}

impl Note {
    pub fn of_quarantine(
        key: Option<&Key>,
        crm_id: &str,
        by: Option<&str>,
        failure: Failure,
        fields: String,
    ) -> Note {
        Note {
            key: key.cloned(),
            crm_id: crm_id.to_owned(),
            operation: Operation::Ingest,
            result: AuditResult::Dead,
            fields,
            by: by.map(str::to_owned),
            failure: Some(failure),
            attempt: 1,
        }
    }
}

impl Arrived {
    pub fn note(
        &mut self,
        key: Option<&Key>,
        incoming: &Incoming,
        operation: Operation,
        result: AuditResult,
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

    pub fn again(&mut self, incoming: &Incoming) {
        self.again
            .push((incoming.crm_id.clone(), incoming.merged_into.clone()));
    }
}

pub fn write_audit(
    client: &mut SpiClient,
    connection: &Connection,
    map: &Map,
    notes: &[Note],
) -> Result<(), StoreError> {
    if notes.is_empty() {
        return Ok(());
    }
    let pass = state::pass_id(client, map.id)?;
    let entries: Vec<audit::Entry> = notes
        .iter()
        .map(|note| {
            let key = note
                .key
                .as_ref()
                .map_or(("", note.crm_id.as_str()), Key::parts);
            audit::Entry {
                crm_id: Some(&note.crm_id),
                fields: &note.fields,
                attempt: note.attempt,
                actor: note.by.as_deref(),
                operation_id: pass.as_deref(),
                ..audit::Entry::new(key, note.operation, note.result)
                    .with_failure(note.failure.as_ref())
            }
        })
        .collect();
    audit::write(client, connection, map, Path::Ingest, &entries)
}

/// The audit says what rows hold, and what the CRM does where that is something else.
pub fn note_altered(map: &Map, altered: &Altered, audit: &mut JsonMap<String, Json>) {
    for (id, value) in altered {
        let told = map
            .field(*id)
            .and_then(|f| audit.get_mut(&f.field.name)?.as_object_mut());
        if let Some(told) = told
            && let Some(crm) = told.insert("new".to_owned(), excerpt::of(value))
        {
            told.insert("crm".to_owned(), crm);
        }
    }
}
