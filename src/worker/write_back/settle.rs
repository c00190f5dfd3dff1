//! What came back from a CRM, judged and settled.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crm_domain::bisect::{Undone, bisect};
use crm_domain::cells::{self, CellHashes, HASH_BYTES};
use crm_domain::failure::Scope;
use crm_domain::retry::Backoff;
use crm_domain::{Cells, ErrorClass, Failure, Value, canonical, excerpt, hex};
use crm_provider::record::Field;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::failpoint;
use crate::store::config::{Connection, Map};
use crate::store::reconcile::pending_writes;
use crate::store::table::delete;
use crate::store::write_back::claims::Claimed;
use crate::store::write_back::failed;
use crate::store::write_back::outcome::{Settled, Verdict};
use crate::store::write_back::{claims, settle};
use crate::store::{StoreError, map_state, transaction};
use crate::worker::connections::health;
use crate::worker::main_loop::Worker;
use crate::worker::process::report;
use crate::worker::retry_policy;
use crate::worker::sender::batches::Sent;
use crate::worker::step_backoff::{Owner, Step};
use crm_domain::Op;
use crm_domain::mapping::OnCrmDelete;

/// A map stops when at least so many records fail for the mapping's sake and none succeeds.
const STOP_AFTER: usize = 5;

/// A claimed record on its way: what is to be remembered of the values that were sent.
pub struct InFlight {
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
            let start = json.len();
            hashes.extend(cells::short(&value.append_canonical(&mut json)));
            excerpt::shorten(&mut json, start, value);
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
    pub fn on_sent(
        &mut self,
        claim_id: i64,
        sent: Result<Vec<Sent>, Failure>,
        outage: Option<Failure>,
    ) {
        failpoint::reach("send::after");
        let Some(flight) = self.flights.remove(&claim_id) else {
            return;
        };
        // A task that panicked fails each record that it had.
        let sent = sent.unwrap_or_else(|failure| {
            let failed = |index| Sent {
                index,
                request_id: claim_id.to_string(),
                result: Err(failure.clone()),
            };
            (0..flight.records.len()).map(failed).collect()
        });
        report(&format!(
            "settling {} records of {}",
            flight.records.len(),
            flight.map.relation
        ));
        let (map, connection) = (flight.map, flight.connection);
        let settled = self.judge(&map, flight.records, sent);
        let trouble = outage.or_else(|| connection_trouble(&settled.1));
        let mut settled = settled.0;
        let stop = stop_reason(&settled);
        let note = |client: &mut SpiClient| {
            claims::release(client, claim_id)?;
            health::record(client, &connection, trouble.as_ref())?;
            if let Some(reason) = &stop {
                map_state::stop(client, map.id, reason)?;
            }
            Ok(())
        };
        let result = transaction(|client| {
            let held = write_down(client, &connection, &map, &mut settled)?;
            note(client)?;
            failpoint::reach("settle::before_commit");
            Ok(held)
        });
        failpoint::reach("settle::after_commit");
        match result {
            Ok(held) => {
                self.cx.backoff.succeeded(Owner::Map(map.id), Step::Settle);
                self.hold(map, connection, settled, &held);
            }
            // The extension was dropped meanwhile; the next turn notices.
            Err(error) if error.is_undefined() => {}
            Err(error) => {
                if !error.is_transient() {
                    log!("pg_crm settles a slice record by record: {error}");
                }
                if let Err(e) = transaction(note) {
                    log!("pg_crm could not release a claim: {e}");
                    self.cx.release_lost_claims_soon();
                }
                self.settle_parts(map, connection, settled);
            }
        }
    }

    fn hold(
        &mut self,
        map: Arc<Map>,
        connection: Arc<Connection>,
        settled: Vec<Settled>,
        held: &[usize],
    ) {
        if !held.is_empty() {
            let settled = keep_only(settled, held);
            self.held.push((map, connection, settled));
        }
    }

    /// Settles in parts, so that one result that cannot be written down does not keep the others from it: it counts as a
    /// failed attempt, and as a dead letter if no retry can mend it.
    pub fn settle_parts(
        &mut self,
        map: Arc<Map>,
        connection: Arc<Connection>,
        settled: Vec<Settled>,
    ) {
        let mut rest = settled;
        for rung in [Rung::AsItIs, Rung::Blamed, Rung::Bare] {
            let mut held = Vec::new();
            let undone = bisect(rest, StoreError::blames_no_row, |part| {
                let result = transaction(|client| write_down(client, &connection, &map, part));
                result.map(|indexes| held.extend(keep_only(std::mem::take(part), &indexes)))
            });
            if !held.is_empty() {
                self.held.push((map.clone(), connection.clone(), held));
            }
            if undone.is_empty() {
                self.cx.backoff.succeeded(Owner::Map(map.id), Step::Settle);
                return;
            }
            rest = Vec::with_capacity(undone.len());
            for Undone { mut items, error } in undone {
                if error.is_undefined() {
                    continue;
                }
                if error.blames_no_row() {
                    self.keep_for_later(&map, &connection, items, &error);
                    continue;
                }
                let record = &mut items[0];
                log!(
                    "pg_crm cannot write down what became of record {} of {}: {error}",
                    record.record_key,
                    map.relation
                );
                match rung {
                    Rung::AsItIs => record.verdict = self.blamed(&map, record, &error),
                    Rung::Blamed => {
                        record.fields = "{}".to_owned();
                        record.actor = None;
                        record.request_id = None;
                    }
                    Rung::Bare => {}
                }
                rest.extend(items);
            }
        }
        for record in rest {
            let wait = Backoff::RECORD.bound(record.attempt) / 2 + Duration::from_secs(1);
            let result = transaction(|client| {
                let error = "what became of it cannot be written down";
                failed::postpone(client, &map, &record, wait.as_millis() as i64, error)
            });
            if let Err(error) = result {
                self.keep_for_later(&map, &connection, vec![record], &error);
            }
        }
    }

    /// Results that cannot be written down now; their records are not sent again meanwhile.
    fn keep_for_later(
        &mut self,
        map: &Arc<Map>,
        connection: &Arc<Connection>,
        settled: Vec<Settled>,
        error: &StoreError,
    ) {
        self.held.push((map.clone(), connection.clone(), settled));
        self.cx
            .backoff
            .map_failed(map, Step::Settle, error, "cannot write down what became of");
    }

    /// What becomes of a record whose result cannot be written down because of the record.
    pub fn blamed(&self, map: &Map, record: &Settled, error: &StoreError) -> Verdict {
        let dead = |class: ErrorClass, code: &str, error: String| Verdict::Dead {
            class,
            code: code.to_owned(),
            error,
        };
        if error.code() == Some(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION)
            && let Some(id) = &record.crm_id
        {
            let error = format!(
                "the CRM says its record {id} is this one, but that is linked to another row"
            );
            return dead(ErrorClass::Conflict, "duplicate_identity", error);
        }
        if error.is_about_values() {
            return dead(ErrorClass::Internal, "settle", error.message());
        }
        let failure = Failure::record(ErrorClass::Transient, "settle", error.message());
        retry_policy::classify(
            &failure,
            record.attempt.saturating_sub(1),
            self.cx.settings.max_attempts,
            map.on_crm_delete,
            draw(),
        )
    }

    pub fn settle_held(&mut self) {
        for (map, connection, settled) in std::mem::take(&mut self.held) {
            if self
                .cx
                .backoff
                .left(Owner::Map(map.id), Step::Settle)
                .is_some()
            {
                self.held.push((map, connection, settled));
            } else {
                self.settle_parts(map, connection, settled);
            }
        }
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
                        let gone = record.claimed.op == Op::Delete
                            && failure.class == ErrorClass::NotFound;
                        let verdict = if gone {
                            Verdict::Applied
                        } else {
                            retry_policy::classify(
                                &failure,
                                record.claimed.attempts,
                                self.cx.settings.max_attempts,
                                map.on_crm_delete,
                                draw(),
                            )
                        };
                        if !gone {
                            failures.push(failure);
                        }
                        (None, verdict, record.claimed.op == Op::Create)
                    }
                };
                settled_record(record, crm_id, verdict, created, request_id)
            })
            .collect();
        (settled, failures)
    }
}

/// Writes results down, after deleting the rows whose records the CRM deleted, if that is wanted, and what is to be seen of
/// them in the map's status. The answer names the results that wait for what somebody holds.
fn write_down(
    client: &mut SpiClient,
    connection: &Connection,
    map: &Map,
    settled: &mut [Settled],
) -> Result<Vec<usize>, StoreError> {
    let keys = settled.iter().map(|s| s.record_key.as_str());
    failpoint::reach_with("settle::store", keys);
    let (mut ready, mut held, mut stays) = (Vec::with_capacity(settled.len()), Vec::new(), None);
    for (i, s) in settled.iter_mut().enumerate() {
        let goes = matches!(s.verdict, Verdict::Unlinked { .. })
            && map.on_crm_delete == OnCrmDelete::Delete
            && s.operation != "delete";
        // Not what a transaction that came to nothing left here.
        s.row_gone = false;
        if goes {
            match delete::delete_row(
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
    let never_made: Vec<(&str, &str)> = records
        .iter()
        .filter(|s| s.verdict == Verdict::Moot && s.crm_id.is_none())
        .map(|s| (s.shard_key.as_str(), s.record_key.as_str()))
        .collect();
    pending_writes::end_with_rows(client, connection, map, &never_made)?;
    let applied = settled.iter().any(|s| s.verdict == Verdict::Applied);
    let error = settled.iter().find_map(|s| match &s.verdict {
        Verdict::Dead { error, code, .. }
        | Verdict::Retry { error, code, .. }
        | Verdict::Unlinked { error, code } => Some(format!("{error} ({code})")),
        _ => None,
    });
    map_state::did(
        client,
        map.id,
        settled.len() - held.len(),
        applied,
        stays.as_deref().or(error.as_deref()),
    )?;
    Ok(held)
}

/// How a result is written down, if it cannot be as it is.
#[derive(Clone, Copy)]
enum Rung {
    AsItIs,
    /// As the failure that it caused.
    Blamed,
    /// Without what may be the trouble.
    Bare,
}

pub fn settled_record(
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
            Op::Delete => "delete",
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
