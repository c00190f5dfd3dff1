//! CRM records that cannot be taken in: each a dead letter with the reason, while its neighbours go on.

use crm_domain::storable::storable_text;
use crm_domain::{ErrorClass, Failure};
use pgrx::spi::SpiClient;

use super::identity::{self, Key};
use super::state::{self, Reread};
use super::{Arrived, Incoming, Note, Unreadable, write_audit};
use crate::store::config::{Connection, Map};
use crate::store::{Kept, StoreError, dead};

impl Arrived {
    /// `key`: of its row, if it has one. `fields`: those at fault, as the audit names fields.
    pub(super) fn quarantine(
        &mut self,
        client: &mut SpiClient,
        map: &Map,
        key: Option<&Key>,
        incoming: &Incoming,
        failure: Failure,
        fields: String,
    ) -> Result<(), StoreError> {
        let by = incoming.by.as_deref();
        let is_news = put(client, map, key, &incoming.crm_id, by, &failure, &fields)?;
        self.unmappable += usize::from(failure.class == ErrorClass::Mapping);
        self.quarantined.get_or_insert_with(|| {
            format!(
                "CRM record {} cannot be taken in: {}",
                incoming.crm_id, failure.message
            )
        });
        if !is_news {
            self.counts.echoes += 1;
            return Ok(());
        }
        self.notes.push(Note::of_quarantine(
            key,
            &incoming.crm_id,
            by,
            failure,
            fields,
        ));
        Ok(())
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

/// No field is to blame.
pub(super) const NONE: &str = "{}";

/// Why the table would not have it.
pub(super) fn refusal(error: &StoreError) -> Failure {
    let code = match error {
        StoreError::TooLong(_) => "transform_timeout",
        _ => "refused_by_table",
    };
    Failure::record(ErrorClass::Mapping, code, error.message())
}

/// A record that cannot be read, however often it is tried.
pub fn give_up(
    client: &mut SpiClient,
    connection: &Connection,
    map: &Map,
    record: &Reread,
    failure: &Failure,
) -> Result<(), StoreError> {
    let known = identity::linked(client, map, &[&record.crm_id])?;
    let key = known.get(&0).map(|known| &known.key);
    put(client, map, key, &record.crm_id, None, failure, NONE)?;
    state::reread(client, map.id, &[record])?;
    let note = Note::of_quarantine(key, &record.crm_id, None, failure.clone(), NONE.to_owned());
    write_audit(client, connection, map, &[note])
}

/// `false`: nothing that is not in the dead letter already, as when a record is shown once more.
fn put(
    client: &mut SpiClient,
    map: &Map,
    key: Option<&Key>,
    crm_id: &str,
    by: Option<&str>,
    failure: &Failure,
    fields: &str,
) -> Result<bool, StoreError> {
    dead::tell_the_first(client, map, failure.class, &failure.code)?;
    let rows = client.update(
        Kept(
            "INSERT INTO crm.dead_letter AS d (shard_key, map_id, record_key, path, crm_id, operation, error_class, vendor_code, error, attempts, actor, fields)
             VALUES ($1, $2, $3, 'ingest', $4, 'ingest', $5, $6, $7, 1, $8, $9::jsonb)
             ON CONFLICT (shard_key, map_id, record_key, path) DO UPDATE
             SET crm_id = excluded.crm_id, error_class = excluded.error_class, vendor_code = excluded.vendor_code, error = excluded.error,
                 attempts = d.attempts + 1, died_at = now(), actor = excluded.actor, fields = excluded.fields
             WHERE (d.crm_id, d.error_class, d.vendor_code, d.error, d.fields)
                   IS DISTINCT FROM (excluded.crm_id, excluded.error_class, excluded.vendor_code, excluded.error, excluded.fields)
             RETURNING d.map_id",
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
    Ok(!rows.is_empty())
}

/// Records that came in well after all are in quarantine no longer.
pub fn release(client: &mut SpiClient, map: &Map, crm_ids: &[&str]) -> Result<(), StoreError> {
    client.update(
        Kept("DELETE FROM crm.dead_letter WHERE map_id = $1 AND path = 'ingest' AND crm_id = ANY ($2)"),
        None,
        &[map.id.into(), crm_ids.to_vec().into()],
    )?;
    Ok(())
}
