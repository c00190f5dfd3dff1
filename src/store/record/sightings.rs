//! What reads showed of what had been written to CRM records: it is unseen no longer, and a form of
//! the CRM's own is known.
//!
//! Guarantees: every path that reads linked records live records here what it saw, and whatever the
//! CRM shows after that is a change. What was written while the read was under way stays unseen.
//! The caller holds the records' ledger rows.

use std::collections::BTreeMap;

use crm_domain::conflict::{ShortHash, hash};
use crm_domain::crm_form::Sighting;
use crm_domain::storable::storable;
use crm_domain::{AuditResult, Cells, Operation, Path, Value, excerpt};
use pgrx::spi::SpiClient;
use serde_json::{Map as JsonMap, Value as Json, json};

use crate::store::audit;
use crate::store::config::connection::Connection;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::record::crm_forms;
use crate::store::row::Columns;
use crate::store::statement::Cached;

/// A record that was read: what had been written to its fields, by field_id.
pub struct Sighted<'a> {
    /// Its shard_key and record_key.
    pub key: (&'a str, &'a str),
    pub crm_id: &'a str,
    pub cells: &'a BTreeMap<u16, Sighting>,
}

impl Sighted<'_> {
    /// The fields that the CRM holds in a form of its own: what was written, and that form.
    fn forms(&self) -> impl Iterator<Item = (u16, &Value, &Value)> {
        let cells = self.cells.iter();
        cells.filter_map(|(id, seen)| Some((*id, &seen.written, seen.form.as_ref()?)))
    }
}

/// Records what reads showed; `path` is theirs.
pub fn record(
    client: &mut SpiClient,
    (connection, map): (&Connection, &Map),
    path: Path,
    records: &[Sighted],
) -> Result<(), StoreError> {
    let records: Vec<&Sighted> = records.iter().filter(|r| !r.cells.is_empty()).collect();
    if records.is_empty() {
        return Ok(());
    }
    forget(client, map, &records)?;
    let altered: Vec<&Sighted> = records
        .into_iter()
        .filter(|r| r.forms().next().is_some())
        .collect();
    if altered.is_empty() {
        return Ok(());
    }
    let altered = note_held(client, map, &altered)?;
    let forms: Vec<BTreeMap<u16, (ShortHash, ShortHash)>> = altered
        .iter()
        .map(|r| {
            let forms = r.forms();
            forms
                .map(|(id, ours, crm)| (id, (hash(ours), hash(crm))))
                .collect()
        })
        .collect();
    let forms = altered.iter().zip(&forms);
    let forms = forms.flat_map(|(r, forms)| crm_forms::of(r.key, forms));
    crm_forms::remember(client, map, &forms.collect::<Vec<_>>())?;
    note_in_audit(client, connection, map, path, &altered)
}

/// An entry that another session is writing is left to it.
fn forget(client: &mut SpiClient, map: &Map, records: &[&Sighted]) -> Result<(), StoreError> {
    let cells = |record: &&Sighted| {
        let cells = record.cells.iter();
        let cells = cells.map(|(id, seen)| (id.to_string(), seen.written.to_json()));
        let cells = Json::Object(cells.collect()).to_string();
        storable(&cells).into_owned()
    };
    client.update(
        Cached(
            "WITH seen AS MATERIALIZED (
                 SELECT u.crm_id, (SELECT jsonb_object_agg(c.key, c.value) FROM jsonb_each(u.cells) c
                                   WHERE s.cells -> c.key IS DISTINCT FROM c.value) AS unseen
                 FROM unnest($2::text[], $3::text[]::jsonb[]) AS s (crm_id, cells),
                     LATERAL (SELECT u.crm_id, u.cells FROM crm.unseen_write u WHERE u.map_id = $1 AND u.crm_id = s.crm_id
                              FOR UPDATE SKIP LOCKED) u
             ), gone AS (
                 DELETE FROM crm.unseen_write u USING seen s WHERE u.map_id = $1 AND u.crm_id = s.crm_id AND s.unseen IS NULL
             )
             UPDATE crm.unseen_write u SET cells = s.unseen FROM seen s
             WHERE u.map_id = $1 AND u.crm_id = s.crm_id AND s.unseen IS NOT NULL",
        ),
        None,
        &[
            map.id.into(),
            records.iter().map(|r| r.crm_id).collect::<Vec<_>>().into(),
            records.iter().map(cells).collect::<Vec<_>>().into(),
        ],
    )?;
    Ok(())
}

/// The ledger has what the CRM holds, unless something was written or read since; returns the
/// records of which that is so.
fn note_held<'a, 'b>(
    client: &mut SpiClient,
    map: &Map,
    records: &[&'a Sighted<'b>],
) -> Result<Vec<&'a Sighted<'b>>, StoreError> {
    let cells = |r: &&Sighted| {
        let ids = r.forms().map(|(id, _, _)| id);
        ids.collect::<Cells>().to_bytes()
    };
    let written = |r: &&Sighted| r.forms().flat_map(|(_, ours, _)| hash(ours)).collect();
    let held = |r: &&Sighted| r.forms().flat_map(|(_, _, crm)| hash(crm)).collect();
    let rows = client.update(
        Cached(
            "UPDATE crm.ledger l SET hashes = crm_internal.cells_hash(l.hashes, r.cells, r.held)
             FROM unnest($2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $7::bytea[]) WITH ORDINALITY
                  AS r (shard_key, record_key, crm_id, cells, written, held, ord),
                  -- By place, whatever is known of the table: this transaction has locked the rows.
                  LATERAL (SELECT k.ctid AS place FROM crm.ledger k
                           WHERE k.shard_key = r.shard_key AND k.map_id = $1 AND k.record_key = r.record_key OFFSET 0) p
             WHERE l.ctid = p.place AND l.crm_id = r.crm_id AND crm_internal.cells_hash(l.hashes, r.cells, r.written) = l.hashes
             RETURNING r.ord - 1 AS ord",
        ),
        None,
        &[
            map.id.into(),
            records.iter().map(|r| r.key.0).collect::<Vec<_>>().into(),
            records.iter().map(|r| r.key.1).collect::<Vec<_>>().into(),
            records.iter().map(|r| r.crm_id).collect::<Vec<_>>().into(),
            records.iter().map(cells).collect::<Vec<_>>().into(),
            records.iter().map(written).collect::<Vec<Vec<u8>>>().into(),
            records.iter().map(held).collect::<Vec<Vec<u8>>>().into(),
        ],
    )?;
    rows.map(|row| Ok(records[row.number("ord")?])).collect()
}

fn note_in_audit(
    client: &mut SpiClient,
    connection: &Connection,
    map: &Map,
    path: Path,
    records: &[&Sighted],
) -> Result<(), StoreError> {
    let fields = |record: &&Sighted| {
        let forms = record.forms().filter_map(|(id, ours, crm)| {
            let name = map.field(id)?.field.name.clone();
            Some((
                name,
                json!({ "new": excerpt::of(ours), "held": excerpt::of(crm) }),
            ))
        });
        Json::Object(forms.collect::<JsonMap<_, _>>()).to_string()
    };
    let fields: Vec<String> = records.iter().map(fields).collect();
    let entries: Vec<audit::Entry> = records
        .iter()
        .zip(&fields)
        .map(|(record, fields)| audit::Entry {
            crm_id: Some(record.crm_id),
            fields,
            ..audit::Entry::new(record.key, Operation::Update, AuditResult::StoredForm)
        })
        .collect();
    audit::write(client, connection, map, path, &entries)
}
