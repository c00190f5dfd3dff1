//! What a CRM makes of what it is sent, where nobody could know that beforehand: a trigger of its
//! own that spells out a telephone number, an undocumented rounding.
//!
//! Guarantees: an outbound cell is written over once for each value of the row and each that the
//! CRM makes of it. Should the CRM hold the same again after the same was sent, and the row's own
//! value was not seen there in between, that is its form of it. A value that is set in the CRM
//! after ours was seen there is overwritten as usual.
//!
//! Of a bidirectional cell, what a record first shows after it was written is the CRM's form of it
//! if it can be ([`crm_domain::crm_form`]): the row keeps its own. Whatever comes next is a change.

use std::collections::{BTreeMap, HashMap};

use crm_domain::Value;
use crm_domain::conflict::{self, ShortHash};
use crm_domain::crm_form::is_form_of;
use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::ingest::incoming::Incoming;
use crate::store::ingest::refetch;
use crate::store::record::unseen_writes;
use crate::store::row::Columns;
use crate::store::statement::Cached;

/// Cells in which the two sides differ, by CRM record and field: what had been sent, or the row
/// held, and what the CRM held in its place.
#[derive(Default)]
pub(super) struct WrittenOver {
    /// Cells that were written over.
    over: HashMap<String, HashMap<u16, (ShortHash, ShortHash)>>,
    /// Cells in which the two agree all the same.
    forms: HashMap<String, HashMap<u16, (ShortHash, ShortHash)>>,
    /// What was written to records that have not been read since.
    unseen: HashMap<String, BTreeMap<u16, Value>>,
}

/// An outbound cell in which the CRM holds something else than it was sent.
pub(super) struct Answer<'a> {
    pub crm_id: &'a str,
    pub field_id: u16,
    pub sent: ShortHash,
    pub held: ShortHash,
}

impl WrittenOver {
    pub(super) fn of(
        client: &SpiClient,
        map: &Map,
        crm_ids: &[&str],
    ) -> Result<WrittenOver, StoreError> {
        let mut found = WrittenOver {
            unseen: unseen_writes::unseen(client, map, crm_ids)?,
            ..WrittenOver::default()
        };
        if !map.fields.iter().any(|f| f.written) {
            return Ok(found);
        }
        let rows = client.select(
            Cached("SELECT o.crm_id, o.field_id, o.sent, o.held, o.is_stored_form FROM crm.overwritten_cell o WHERE o.map_id = $1 AND o.crm_id = ANY ($2)"),
            None,
            &[map.id.into(), crm_ids.to_vec().into()],
        )?;
        for row in rows {
            let hash = |column| -> Result<ShortHash, StoreError> {
                let bytes: &[u8] = row.required(column)?;
                bytes.try_into().map_err(|_| {
                    StoreError::unexpected(format!("column \"{column}\" is no short hash"))
                })
            };
            let id = row.required::<i16>("field_id")? as u16;
            let cells = match row.required("is_stored_form")? {
                true => &mut found.forms,
                false => &mut found.over,
            };
            let record = cells.entry(row.required("crm_id")?).or_default();
            record.insert(id, (hash("sent")?, hash("held")?));
        }
        Ok(found)
    }

    /// What the row holds while the CRM holds this, and the two agree; `None`: the same.
    pub(super) fn agreed_with(
        &self,
        crm_id: &str,
        field_id: u16,
        held: &ShortHash,
    ) -> Option<ShortHash> {
        let (sent, form) = self.forms.get(crm_id)?.get(&field_id)?;
        (form == held).then_some(*sent)
    }

    /// What was last written to a field, if it is what the CRM was known to hold, and the CRM's
    /// value may be its form of it.
    pub(super) fn held_as(
        &self,
        crm_id: &str,
        field_id: u16,
        known: Option<ShortHash>,
        crm: &Value,
    ) -> Option<ShortHash> {
        let ours = self.unseen.get(crm_id)?.get(&field_id)?;
        let written = conflict::hash(ours);
        (known == Some(written) && is_form_of(crm, ours)).then_some(written)
    }

    /// Of these records, those of which something was written that had not been seen.
    pub(super) fn unseen_among<'a>(&self, crm_ids: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        crm_ids.filter(|id| self.unseen.contains_key(*id)).collect()
    }

    /// Whether the CRM held this once before, after the same was sent.
    pub(super) fn is_answer(&self, answer: &Answer) -> bool {
        let record = self.over.get(answer.crm_id);
        record.and_then(|record| record.get(&answer.field_id)) == Some(&(answer.sent, answer.held))
    }

    /// Forgets cells in which the CRM now shows what it was sent: whatever comes next is a change
    /// made in the CRM.
    pub(super) fn forget_echoes(
        &mut self,
        client: &mut SpiClient,
        map: &Map,
        incoming: &[&Incoming],
    ) -> Result<(), StoreError> {
        let mut echoes = Vec::new();
        for record in incoming {
            let Some(cells) = self.over.get_mut(&record.crm_id) else {
                continue;
            };
            for field in record.values.iter().flatten() {
                if cells
                    .get(&field.id)
                    .is_some_and(|(sent, _)| *sent == field.hash)
                {
                    cells.remove(&field.id);
                    echoes.push((record.crm_id.as_str(), field.id));
                }
            }
        }
        forget(client, map, &echoes)
    }
}

/// Remembers cells that are about to be written over.
pub(super) fn remember(
    client: &mut SpiClient,
    map: &Map,
    answers: &[Answer],
) -> Result<(), StoreError> {
    if answers.is_empty() {
        return Ok(());
    }
    client.update(
        Cached(
            "INSERT INTO crm.overwritten_cell (map_id, crm_id, field_id, sent, held)
             SELECT $1, r.* FROM unnest($2::text[], $3::smallint[], $4::bytea[], $5::bytea[]) AS r
             ON CONFLICT (map_id, crm_id, field_id) DO UPDATE SET sent = excluded.sent, held = excluded.held, is_stored_form = false",
        ),
        None,
        &[
            map.id.into(),
            answers.iter().map(|a| a.crm_id).collect::<Vec<_>>().into(),
            answers.iter().map(|a| a.field_id as i16).collect::<Vec<_>>().into(),
            answers.iter().map(|a| a.sent.to_vec()).collect::<Vec<_>>().into(),
            answers.iter().map(|a| a.held.to_vec()).collect::<Vec<_>>().into(),
        ],
    )?;
    Ok(())
}

/// Forgets that these cells were written over.
fn forget(client: &mut SpiClient, map: &Map, cells: &[(&str, u16)]) -> Result<(), StoreError> {
    if cells.is_empty() {
        return Ok(());
    }
    let (ids, fields): (Vec<&str>, Vec<i16>) = cells
        .iter()
        .map(|(crm_id, id)| (*crm_id, *id as i16))
        .unzip();
    client.update(
        Cached(
            "DELETE FROM crm.overwritten_cell o USING unnest($2::text[], $3::smallint[]) AS r (crm_id, field_id)
             WHERE o.map_id = $1 AND o.crm_id = r.crm_id AND o.field_id = r.field_id",
        ),
        None,
        &[map.id.into(), ids.into(), fields.into()],
    )?;
    Ok(())
}

/// Asks for the records of these in which a cell was written over: read at once, they show what the
/// CRM makes of it before anybody else has changed it.
pub fn refetch_overwritten(
    client: &mut SpiClient,
    map_id: i32,
    crm_ids: &[&str],
) -> Result<(), StoreError> {
    let rows = client.select(
        Cached("SELECT DISTINCT o.crm_id FROM crm.overwritten_cell o WHERE o.map_id = $1 AND o.crm_id = ANY ($2) AND NOT o.is_stored_form"),
        None,
        &[map_id.into(), crm_ids.to_vec().into()],
    )?;
    let ids: Vec<String> = rows
        .map(|row| row.required("crm_id"))
        .collect::<Result<_, _>>()?;
    let asked: Vec<(&str, Option<&str>)> = ids.iter().map(|id| (id.as_str(), None)).collect();
    refetch::ask(client, map_id, &asked, 0)
}
