//! The audit of pending writes that came back: each edit under its own path, beside the
//! compensation that it may have been folded into, and under the id of every call of `crm.write()`
//! that ends with it.

use crm_domain::Failure;
use pgrx::spi::SpiClient;
use serde_json::{Map as JsonMap, Value as Json};

use crate::store::config::{Connection, Map};
use crate::store::outcome::Outcome as RecordOutcome;
use crate::store::reconcile::outcome::Resolution;
use crate::store::reconcile::pending_writes::Pending;
use crate::store::{StoreError, audit};
use crm_domain::{AuditResult, Operation, Path};

type Fields = JsonMap<String, Json>;

/// What the audit says of a pending write.
#[derive(Default)]
pub struct Entry {
    pub fields: Fields,
    pub conflicting: Fields,
    /// Fields in which the CRM's value stands.
    pub superseded: Fields,
    /// Those among them whose edit was rolled back with its caller's transaction.
    pub undone: Fields,
    pub raced: bool,
    pub wrote: bool,
    pub failure: Option<Failure>,
    pub request_id: Option<String>,
}

impl Entry {
    pub fn write(
        &self,
        client: &mut SpiClient,
        connection: &Connection,
        map: &Map,
        record: &Resolution,
    ) -> Result<(), StoreError> {
        let p = &record.pending;
        let (compensates, edits) = (!p.undone.is_empty(), p.edits());
        if compensates {
            let result = outcome(record).unwrap_or(AuditResult::Superseded);
            let mut rows = vec![(result, &self.undone)];
            let mut calls = p.undone.clone();
            if !edits {
                rows.extend(self.settled(record));
                calls.extend(p.folded.iter().cloned());
            }
            self.insert(
                client,
                connection,
                map,
                (Path::Compensate, &calls),
                p,
                &rows,
            )?;
        }
        // The last word on an edit is its own.
        if edits || !compensates {
            let mut rows = match outcome(record) {
                Some(result) => vec![(result, &self.fields)],
                None => self.settled(record),
            };
            if rows.is_empty() {
                // Nothing is left to be written, such as when the row is gone.
                rows.push((AuditResult::Superseded, &self.superseded));
            }
            self.insert(
                client,
                connection,
                map,
                (Path::Reconcile, &p.folded),
                p,
                &rows,
            )?;
        }
        Ok(())
    }

    /// What became of the edits of a pending write whose every cell is settled.
    fn settled(&self, record: &Resolution) -> Vec<(AuditResult, &Fields)> {
        let mut rows = Vec::new();
        if !matches!(record.outcome, RecordOutcome::Applied) {
            return rows;
        }
        if self.wrote {
            rows.push((
                if self.raced {
                    AuditResult::Raced
                } else {
                    AuditResult::Applied
                },
                &self.fields,
            ));
        }
        if !record.conflicts.is_empty() {
            rows.push((AuditResult::Conflict, &self.conflicting));
        }
        if !self.superseded.is_empty() {
            rows.push((AuditResult::Superseded, &self.superseded));
        }
        rows
    }

    fn insert(
        &self,
        client: &mut SpiClient,
        connection: &Connection,
        map: &Map,
        (path, calls): (Path, &[String]),
        p: &Pending,
        rows: &[(AuditResult, &Fields)],
    ) -> Result<(), StoreError> {
        let texts: Vec<String> = rows
            .iter()
            .map(|(_, fields)| Json::Object((*fields).clone()).to_string())
            .collect();
        let entries: Vec<audit::Entry> = rows
            .iter()
            .zip(&texts)
            .map(|((result, _), fields)| {
                let key = (p.shard_key.as_str(), p.record_key.as_str());
                audit::Entry {
                    crm_id: Some(&p.crm_id),
                    fields,
                    attempt: p.attempts + 1,
                    request_id: self.request_id.as_deref(),
                    actor: p.actor.as_deref(),
                    correlation_id: p.correlation_id.as_deref(),
                    write_id: Some(&p.write_id),
                    folded: calls,
                    ..audit::Entry::new(key, Operation::Update, *result)
                        .with_failure(self.failure.as_ref())
                }
            })
            .collect();
        audit::write(client, connection, map, path, &entries)
    }
}

/// The one result of an attempt that did not settle the edit.
fn outcome(record: &Resolution) -> Option<AuditResult> {
    match &record.outcome {
        RecordOutcome::Retry { .. } => Some(AuditResult::Retry),
        RecordOutcome::Dead { .. } => Some(AuditResult::Dead),
        RecordOutcome::Unlinked { .. } => Some(AuditResult::Superseded),
        RecordOutcome::Applied | RecordOutcome::Found | RecordOutcome::NothingToDo => None,
    }
}
