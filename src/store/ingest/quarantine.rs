//! CRM records that cannot be ingested: each becomes a dead letter with the reason, and holds up no
//! other.

use crm_domain::storable::storable_text;
use crm_domain::{AuditResult, ErrorClass, Failure};
use pgrx::spi::SpiClient;

use crate::store::config::connection::Connection;
use crate::store::config::map::Map;
use crate::store::dead_letter;
use crate::store::error::StoreError;
use crate::store::ingest::incoming::{Incoming, Unreadable};
use crate::store::ingest::refetch::{self, Refetch};
use crate::store::ingest::result::{Arrived, Failing, Note, write_audit};
use crate::store::map_state;
use crate::store::record::key::Key;
use crate::store::record::links;
use crate::store::statement::Cached;

impl Arrived {
    /// A record that cannot be ingested: quarantined at once, or charged with an attempt if the
    /// failure may pass. `key`: of its row, if it has one. `fields`: those at fault, as the audit
    /// names fields.
    pub(super) fn refuse(
        &mut self,
        client: &mut SpiClient,
        map: &Map,
        key: Option<&Key>,
        incoming: &Incoming,
        failure: Failure,
        fields: String,
    ) -> Result<(), StoreError> {
        if failure.class == ErrorClass::Transient {
            self.failed(key, incoming, failure, fields);
            return Ok(());
        }
        self.quarantine(client, map, key, incoming, failure, fields)
    }

    /// Charges the record with an attempt when the page is settled ([`Arrived::charge`]).
    pub(super) fn failed(
        &mut self,
        key: Option<&Key>,
        incoming: &Incoming,
        failure: Failure,
        fields: String,
    ) {
        self.failing.push(Failing {
            crm_id: incoming.crm_id.clone(),
            merged_into: incoming.merged_into.clone(),
            by: incoming.by.clone(),
            key: key.cloned(),
            failure,
            fields,
        });
    }

    /// Charges an attempt to each record that failed, and quarantines those that have none left of
    /// `max_attempts`.
    pub(super) fn charge(
        &mut self,
        client: &mut SpiClient,
        map: &Map,
        max_attempts: u32,
    ) -> Result<(), StoreError> {
        let failing = std::mem::take(&mut self.failing);
        if failing.is_empty() {
            return Ok(());
        }
        let ids: Vec<(&str, Option<&str>)> = failing
            .iter()
            .map(|f| (f.crm_id.as_str(), f.merged_into.as_deref()))
            .collect();
        let attempts = refetch::charge(client, map.id, &ids)?;
        for failing in failing {
            let Failing {
                crm_id,
                by,
                key,
                failure,
                fields,
                ..
            } = failing;
            let charged = attempts.get(&crm_id).copied().unwrap_or(max_attempts);
            self.note_trouble(&crm_id, &failure);
            let (key, by) = (key.as_ref(), by.as_deref());
            let is_last = charged >= max_attempts;
            if is_last {
                refetch::forget(client, map.id, &crm_id)?;
                if !put(client, map, key, &crm_id, by, &failure, &fields)? {
                    continue;
                }
            }
            let note = Note::of_quarantine(key, &crm_id, by, failure, fields);
            self.notes.push(Note {
                result: if is_last {
                    AuditResult::Dead
                } else {
                    AuditResult::Retry
                },
                attempt: charged,
                ..note
            });
        }
        Ok(())
    }

    pub(super) fn quarantine(
        &mut self,
        client: &mut SpiClient,
        map: &Map,
        key: Option<&Key>,
        incoming: &Incoming,
        failure: Failure,
        fields: String,
    ) -> Result<(), StoreError> {
        let (crm_id, by) = (&incoming.crm_id, incoming.by.as_deref());
        let is_news = put(client, map, key, crm_id, by, &failure, &fields)?;
        self.quarantined.push(failure.class);
        self.note_trouble(crm_id, &failure);
        match is_news {
            true => self
                .notes
                .push(Note::of_quarantine(key, crm_id, by, failure, fields)),
            false => self.counts.echoes += 1,
        }
        Ok(())
    }

    /// The first of a page is what `crm.status_wide.last_error` shows.
    fn note_trouble(&mut self, crm_id: &str, failure: &Failure) {
        self.trouble.get_or_insert_with(|| {
            format!("cannot ingest CRM record {crm_id}: {}", failure.message)
        });
    }

    pub(super) fn quarantine_unreadable(
        &mut self,
        client: &mut SpiClient,
        map: &Map,
        key: Option<&Key>,
        incoming: &Incoming,
        unreadable: &Unreadable,
    ) -> Result<(), StoreError> {
        let failure = unreadable.failure.clone();
        self.quarantine(client, map, key, incoming, failure, unreadable.fields())
    }
}

/// No field is at fault, in the audit's form.
pub(super) const NONE: &str = "{}";

/// The failure of a record that the table refuses.
pub(super) fn refusal(error: &StoreError) -> Failure {
    error.failure("refused_by_table")
}

/// Quarantines a record that has failed as often as it may.
pub fn give_up(
    client: &mut SpiClient,
    connection: &Connection,
    map: &Map,
    record: &Refetch,
    failure: &Failure,
) -> Result<(), StoreError> {
    let known = links::linked(client, map, &[&record.crm_id])?;
    let key = known.get(&0).map(|known| &known.key);
    let is_news = put(client, map, key, &record.crm_id, None, failure, NONE)?;
    refetch::reread(client, map.id, &[record])?;
    if !is_news {
        return Ok(());
    }
    let note = Note::of_quarantine(key, &record.crm_id, None, failure.clone(), NONE.to_owned());
    write_audit(client, connection, map, &[note])
}

/// Charges a record with an attempt, after which it is read again by itself, or gives it up if it
/// has none left of `max_attempts`.
pub fn charge(
    client: &mut SpiClient,
    connection: &Connection,
    map: &Map,
    record: &Refetch,
    failure: &Failure,
    max_attempts: u32,
) -> Result<(), StoreError> {
    let (crm_id, into) = (record.crm_id.as_str(), record.merged_into.as_deref());
    let known = links::linked(client, map, &[crm_id])?;
    let mut arrived = Arrived::default();
    arrived.failing.push(Failing {
        crm_id: crm_id.to_owned(),
        merged_into: into.map(str::to_owned),
        by: None,
        key: known.get(&0).map(|known| known.key.clone()),
        failure: failure.clone(),
        fields: NONE.to_owned(),
    });
    arrived.charge(client, map, max_attempts)?;
    if let Some(reason) = &arrived.trouble {
        map_state::note_error(client, map.id, reason)?;
    }
    write_audit(client, connection, map, &arrived.notes)
}

/// Makes the dead letter; `false`: there is the same one already. Pages overlap, so an unchanged
/// record comes more than once.
fn put(
    client: &mut SpiClient,
    map: &Map,
    key: Option<&Key>,
    crm_id: &str,
    by: Option<&str>,
    failure: &Failure,
    fields: &str,
) -> Result<bool, StoreError> {
    dead_letter::log_first(client, map, failure.class, &failure.code)?;
    let put = client.update(
        Cached(
            "INSERT INTO crm.dead_letter AS d (shard_key, map_id, record_key, path, crm_id, operation, error_class, vendor_code, error, attempts, actor, fields,
                                               operation_id)
             VALUES ($1, $2, $3, 'ingest', $4, 'ingest', $5, $6, $7, 1, $8, $9::jsonb,
                     (SELECT i.pass_id FROM crm.ingest_state i WHERE i.map_id = $2))
             ON CONFLICT (shard_key, map_id, record_key, path) DO UPDATE
             SET crm_id = excluded.crm_id, error_class = excluded.error_class, vendor_code = excluded.vendor_code, error = excluded.error,
                 attempts = d.attempts + 1, died_at = now(), actor = excluded.actor, fields = excluded.fields,
                 operation_id = excluded.operation_id
             WHERE (d.crm_id, d.error_class, d.vendor_code, d.error, d.fields)
                   IS DISTINCT FROM (excluded.crm_id, excluded.error_class, excluded.vendor_code, excluded.error, excluded.fields)
             RETURNING 1",
        ),
        None,
        &[
            key.map_or("", |k| k.shard_key.as_str()).into(),
            map.id.into(),
            key.map_or(crm_id, |k| k.record_key.as_str()).into(),
            crm_id.into(),
            failure.class.name().into(),
            failure.code.as_str().into(),
            storable_text(&failure.message).as_ref().into(),
            by.into(),
            fields.into(),
        ],
    )?;
    Ok(!put.is_empty())
}

/// Ends the quarantine of records that were ingested.
pub fn release(client: &mut SpiClient, map: &Map, crm_ids: &[&str]) -> Result<(), StoreError> {
    client.update(
        Cached("DELETE FROM crm.dead_letter WHERE map_id = $1 AND path = 'ingest' AND crm_id = ANY ($2)"),
        None,
        &[map.id.into(), crm_ids.to_vec().into()],
    )?;
    Ok(())
}
