//! What came back from a CRM, judged and settled.

use std::collections::HashMap;
use std::sync::Arc;

use crm_domain::cells::{self, CellHashes, HASH_BYTES};
use crm_domain::failure::Scope;
use crm_domain::{Cells, ErrorClass, Failure, Value, canonical, hex};
use crm_provider::record::Field;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use super::main_loop::Worker;
use super::slice::Sent;
use super::{failpoint, report, verdict};
use crate::store::claims::Claimed;
use crate::store::config::{Connection, Map};
use crate::store::settle::{Settled, Verdict};
use crate::store::{StoreError, claims, connections, rounds, settle, transaction, values};

/// A map stops when at least so many records fail for the mapping's sake and none succeeds.
const STOP_AFTER: usize = 5;

/// A claimed record on its way: what is to be remembered of the values that were sent.
pub(super) struct InFlight {
    claimed: Claimed,
    sent: Cells,
    /// 16 bytes per sent cell, in ordinal order.
    hashes: Vec<u8>,
    /// As the audit has it.
    fields: String,
}

impl InFlight {
    /// `fields` come in the order of their cells, as the packed hashes need it.
    pub fn new(claimed: Claimed, fields: &[(u16, Arc<Field>, Value)]) -> Self {
        let mut sent = Cells::new();
        let mut hashes = Vec::with_capacity(fields.len() * HASH_BYTES);
        let mut json = vec![b'{'];
        for (id, field, value) in fields {
            sent.insert(*id);
            if json.len() > 1 {
                json.push(b',');
            }
            canonical::append_text(&mut json, &field.name);
            json.extend_from_slice(b":{\"new\":");
            hashes.extend(cells::short(&canonical::append(&mut json, value)));
            if let Some(old) = CellHashes(&claimed.hashes).get(*id) {
                json.extend_from_slice(b",\"old_hash\":\"");
                hex::append(&mut json, old);
                json.push(b'"');
            }
            json.push(b'}');
        }
        json.push(b'}');
        json.shrink_to_fit();
        InFlight {
            claimed: Claimed {
                hashes: Vec::new(),
                ..claimed
            },
            sent,
            hashes,
            fields: String::from_utf8(json).expect("JSON made of texts"),
        }
    }

    /// The record's key travels too, in that field.
    pub fn note_key(&mut self, field: &str) {
        let mut json = std::mem::take(&mut self.fields).into_bytes();
        json.pop();
        if json.len() > 1 {
            json.push(b',');
        }
        canonical::append_text(&mut json, field);
        json.extend_from_slice(b":{\"new\":");
        canonical::append_text(&mut json, &self.claimed.record_key);
        json.extend_from_slice(b"}}");
        self.fields = String::from_utf8(json).expect("JSON made of texts");
    }

    pub fn claimed(&self) -> &Claimed {
        &self.claimed
    }
}

impl Worker {
    /// Settles what came back.
    pub(super) fn done(&mut self, claim_id: i64, sent: Vec<Sent>, trouble: Option<Failure>) {
        failpoint::reach("send::after");
        let Some(flight) = self.flights.remove(&claim_id) else {
            return;
        };
        report(&format!(
            "settling {} records of {}",
            flight.records.len(),
            flight.map.relation
        ));
        let (map, connection) = (flight.map, flight.connection);
        let settled = self.judge(&map, flight.records, sent);
        let trouble = trouble.or_else(|| connection_trouble(&settled.1));
        let mut settled = settled.0;
        let applied = settled.iter().any(|s| s.verdict == Verdict::Applied);
        let error = settled.iter().find_map(|s| match &s.verdict {
            Verdict::Dead { error, code, .. }
            | Verdict::Retry { error, code, .. }
            | Verdict::Unlinked { error, code } => Some(format!("{error} ({code})")),
            _ => None,
        });
        let stop = stop_reason(&settled);
        let result = transaction(|client| {
            let (held, stays) = write_down(client, &connection, &map, &mut settled)?;
            claims::release(client, claim_id)?;
            rounds::did(
                client,
                map.id,
                settled.len() - held.len(),
                applied,
                stays.as_deref().or(error.as_deref()),
            )?;
            match &trouble {
                Some(failure) => {
                    let wait = verdict::pause(failure, connection.failures, draw());
                    connections::troubled(
                        client,
                        connection.id,
                        failure,
                        wait.as_millis() as i64,
                        connection.version,
                    )?;
                }
                None => connections::healthy(client, connection.id)?,
            }
            if let Some(reason) = &stop {
                rounds::stop(client, map.id, reason)?;
            }
            failpoint::reach("settle::before_commit");
            Ok(held)
        });
        failpoint::reach("settle::after_commit");
        match result {
            Ok(held) if held.is_empty() => {}
            Ok(held) => {
                let settled = keep_only(settled, &held);
                self.held.push((map, connection, settled));
            }
            // The extension was dropped meanwhile; the next turn notices.
            Err(error) if error.is_undefined() => {}
            Err(error) => {
                if !error.is_transient() {
                    log!("pg_crm settles a slice record by record: {error}");
                }
                if let Err(e) = transaction(|client| claims::release(client, claim_id)) {
                    log!("pg_crm could not release a claim: {e}");
                }
                self.settle_parts(map, connection, settled);
            }
        }
    }

    /// Settles in parts, so that one result that cannot be written down does not keep the others from it.
    fn settle_parts(&mut self, map: Arc<Map>, connection: Connection, mut settled: Vec<Settled>) {
        let result = transaction(|client| {
            let (held, stays) = write_down(client, &connection, &map, &mut settled)?;
            if stays.is_some() {
                rounds::did(client, map.id, 0, false, stays.as_deref())?;
            }
            Ok(held)
        });
        match result {
            Ok(held) if held.is_empty() => {}
            Ok(held) => self.held.push((map, connection, keep_only(settled, &held))),
            Err(error) if error.is_transient() => self.held.push((map, connection, settled)),
            Err(error) if settled.len() == 1 => {
                let record = &mut settled[0];
                if matches!(record.verdict, Verdict::Dead { .. }) {
                    log!(
                        "pg_crm cannot write down what became of record {} of {}: {error}",
                        record.record_key,
                        map.relation
                    );
                    return;
                }
                let twin = error.code() == Some(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION);
                record.verdict = Verdict::Dead {
                    class: if twin {
                        ErrorClass::Conflict
                    } else {
                        ErrorClass::Internal
                    },
                    code: if twin { "duplicate_identity" } else { "settle" }.to_owned(),
                    error: match &record.crm_id {
                        Some(id) if twin => format!(
                            "the CRM says its record {id} is this one, but that is linked to another row"
                        ),
                        _ => error.message(),
                    },
                };
                self.settle_parts(map, connection, settled);
            }
            Err(_) => {
                let mut left = settled;
                let right = left.split_off(left.len() / 2);
                self.settle_parts(map.clone(), connection.clone(), left);
                self.settle_parts(map, connection, right);
            }
        }
    }

    pub(super) fn settle_held(&mut self) -> Result<(), StoreError> {
        for (map, connection, settled) in std::mem::take(&mut self.held) {
            self.settle_parts(map, connection, settled);
        }
        Ok(())
    }

    /// From the CRM's answers to verdicts, and the failures among them.
    fn judge(
        &self,
        map: &Map,
        records: Vec<InFlight>,
        sent: Vec<Sent>,
    ) -> (Vec<Settled>, Vec<Failure>) {
        let mut failures = Vec::new();
        let mut answers: HashMap<usize, Sent> = sent.into_iter().map(|s| (s.index, s)).collect();
        let settled = records
            .into_iter()
            .enumerate()
            .map(|(index, record)| {
                let answer = answers.remove(&index);
                let (request_id, result) = match answer {
                    Some(sent) => (Some(sent.request_id), sent.result),
                    None => (
                        None,
                        Err(Failure::record(
                            ErrorClass::Transient,
                            "no_result",
                            "nothing came back for this record",
                        )),
                    ),
                };
                let (crm_id, verdict, created) = match result {
                    Ok(written) => (
                        Some(written.crm_id).filter(|id| !id.is_empty()),
                        Verdict::Applied,
                        written.created,
                    ),
                    Err(failure) => {
                        // Deleting what is gone already is done.
                        let gone =
                            record.claimed.op == b'd' && failure.class == ErrorClass::NotFound;
                        let verdict = if gone {
                            Verdict::Applied
                        } else {
                            verdict::of(
                                &failure,
                                record.claimed.attempts,
                                self.settings.max_attempts,
                                &map.on_crm_delete,
                                draw(),
                            )
                        };
                        if !gone {
                            failures.push(failure);
                        }
                        (None, verdict, record.claimed.op == b'c')
                    }
                };
                settled_record(record, crm_id, verdict, created, request_id)
            })
            .collect();
        (settled, failures)
    }
}

/// Writes results down, after deleting the rows whose records the CRM deleted, if that is wanted. The answer names the
/// results that wait for what somebody holds, and says why a row stays that should have gone.
fn write_down(
    client: &mut SpiClient,
    connection: &Connection,
    map: &Map,
    settled: &mut [Settled],
) -> Result<(Vec<usize>, Option<String>), StoreError> {
    let (mut ready, mut held, mut stays) = (Vec::with_capacity(settled.len()), Vec::new(), None);
    for (i, s) in settled.iter_mut().enumerate() {
        let goes = matches!(s.verdict, Verdict::Unlinked { .. })
            && map.on_crm_delete == "delete"
            && s.operation != "delete";
        // Not what a transaction that came to nothing left here.
        s.row_gone = false;
        if goes {
            match values::delete_row(
                map,
                &s.shard_key,
                &s.record_key,
                crate::settings::Settings::current().transform_timeout,
            ) {
                Ok(()) => s.row_gone = true,
                Err(error) if error.is_transient() => {
                    held.push(i);
                    continue;
                }
                Err(error) => {
                    let reason = format!(
                        "the CRM deleted record {}, but its row cannot be deleted: {}",
                        s.record_key,
                        error.message()
                    );
                    log!("pg_crm, {}: {reason}", map.relation);
                    stays = Some(reason);
                }
            }
        }
        ready.push(i);
    }
    let records: Vec<&Settled> = ready.iter().map(|&i| &settled[i]).collect();
    let not_yet = settle::settle(client, connection, map, &records)?;
    held.extend(not_yet.into_iter().map(|n| ready[n]));
    Ok((held, stays))
}

pub(super) fn settled_record(
    record: InFlight,
    crm_id: Option<String>,
    verdict: Verdict,
    created: bool,
    request_id: Option<String>,
) -> Settled {
    let InFlight {
        claimed,
        sent,
        hashes,
        fields,
    } = record;
    Settled {
        operation: match claimed.op {
            b'd' => "delete",
            _ if created => "create",
            _ => "update",
        },
        crm_id: crm_id.or(claimed.crm_id),
        shard_key: claimed.shard_key,
        record_key: claimed.record_key,
        unsent: claimed.cells.difference(&sent),
        cells: sent,
        row_gone: false,
        hashes,
        revision: claimed.revision,
        attempt: claimed.attempts + 1,
        fields,
        actor: claimed.actor,
        place: claimed.place,
        request_id,
        verdict,
    }
}

fn connection_trouble(failures: &[Failure]) -> Option<Failure> {
    failures
        .iter()
        .find(|f| f.scope == Scope::Connection)
        .cloned()
}

/// A map whose every record fails for the mapping's sake stops, instead of making a dead letter of each.
fn stop_reason(settled: &[Settled]) -> Option<String> {
    let errors: Vec<&str> = settled
        .iter()
        .filter_map(|s| match &s.verdict {
            Verdict::Dead {
                class: ErrorClass::Mapping,
                error,
                ..
            } => Some(error.as_str()),
            _ => None,
        })
        .collect();
    (errors.len() >= STOP_AFTER && errors.len() == settled.len())
        .then(|| format!("every record fails: {}", errors[0]))
}

fn keep_only(settled: Vec<Settled>, indexes: &[usize]) -> Vec<Settled> {
    settled
        .into_iter()
        .enumerate()
        .filter(|(i, _)| indexes.contains(i))
        .map(|(_, s)| s)
        .collect()
}

/// A uniform draw from 0.0..1.0, for jitter.
fn draw() -> f64 {
    fastrand::f64()
}
