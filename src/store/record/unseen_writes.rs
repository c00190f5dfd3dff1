//! What was written to CRM records that have not been read since, and in which forms CRMs are known
//! to hold what was written.
//!
//! Guarantees: an entry says what the cells were last written with; it counts only while the ledger
//! has its hash, and only until the record is read. A record's entry is changed by whoever holds
//! its ledger row, and never waited for.

use std::collections::{BTreeMap, HashMap};

use crm_domain::cells::CellHashes;
use crm_domain::crm_form::{Ours, may_be_altered};
use crm_domain::{Value, conflict, hex};
use pgrx::spi::SpiClient;
use serde_json::{Map as JsonMap, Value as Json};

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::row::Columns;
use crate::store::statement::Cached;

/// What was written to a record's fields, by field_id.
pub type OurFields = BTreeMap<u16, Ours>;

/// The cells of a write that are to be remembered until they are seen, as JSON; `None`: the CRM can
/// hold none of them in another form, or changes of them are not taken in.
pub fn cells<'a>(map: &Map, written: impl Iterator<Item = (u16, &'a Value)>) -> Option<String> {
    let is_open = |id: u16, value: &Value| {
        let field = map.field(id);
        field.is_some_and(|f| f.is_checked()) && may_be_altered(value) && value.fits_jsonb()
    };
    let cells: JsonMap<String, Json> = written
        .filter(|(id, value)| is_open(*id, value))
        .map(|(id, value)| (id.to_string(), value.to_json()))
        .collect();
    (!cells.is_empty()).then(|| Json::Object(cells).to_string())
}

/// Remembers what was written, by CRM records.
pub fn remember(
    client: &mut SpiClient,
    map: &Map,
    written: &[(&str, &str)],
) -> Result<(), StoreError> {
    if written.is_empty() {
        return Ok(());
    }
    client.update(
        Cached(
            "INSERT INTO crm.unseen_write AS u (map_id, crm_id, cells)
             SELECT $1, w.crm_id, w.cells::jsonb FROM unnest($2::text[], $3::text[]) AS w (crm_id, cells)
             ON CONFLICT (map_id, crm_id) DO UPDATE SET cells = u.cells || excluded.cells",
        ),
        None,
        &[
            map.id.into(),
            written.iter().map(|(crm_id, _)| *crm_id).collect::<Vec<_>>().into(),
            written.iter().map(|(_, cells)| *cells).collect::<Vec<_>>().into(),
        ],
    )?;
    Ok(())
}

/// Forgets what was written to records that were read. One that another session is writing is left
/// to it.
pub fn forget(client: &mut SpiClient, map: &Map, crm_ids: &[&str]) -> Result<(), StoreError> {
    if crm_ids.is_empty() {
        return Ok(());
    }
    client.update(
        Cached(
            "DELETE FROM crm.unseen_write u USING (
                 SELECT w.crm_id FROM crm.unseen_write w WHERE w.map_id = $1 AND w.crm_id = ANY ($2) FOR UPDATE SKIP LOCKED) AS w
             WHERE u.map_id = $1 AND u.crm_id = w.crm_id",
        ),
        None,
        &[map.id.into(), crm_ids.to_vec().into()],
    )?;
    Ok(())
}

/// What was written to records that have not been read since.
pub fn unseen(
    client: &SpiClient,
    map: &Map,
    crm_ids: &[&str],
) -> Result<HashMap<String, BTreeMap<u16, Value>>, StoreError> {
    let mut found = HashMap::new();
    if !map.fields.iter().any(|f| f.is_checked()) {
        return Ok(found);
    }
    let rows = client.select(
        Cached("SELECT u.crm_id, u.cells::text AS cells FROM crm.unseen_write u WHERE u.map_id = $1 AND u.crm_id = ANY ($2)"),
        None,
        &[map.id.into(), crm_ids.to_vec().into()],
    )?;
    for row in rows {
        found.insert(row.required("crm_id")?, values(map, &row.json("cells")?));
    }
    Ok(found)
}

/// What was written to linked records, with the ledger's hashes of each.
pub fn ours(
    client: &SpiClient,
    map: &Map,
    records: &[(&str, &[u8])],
) -> Result<HashMap<String, OurFields>, StoreError> {
    let mut found = HashMap::new();
    if records.is_empty() || !map.fields.iter().any(|f| f.is_checked()) {
        return Ok(found);
    }
    let ids: Vec<&str> = records.iter().map(|(crm_id, _)| *crm_id).collect();
    let rows = client.select(
        Cached(
            "SELECT r.ord - 1 AS ord,
                    (SELECT u.cells::text FROM crm.unseen_write u WHERE u.map_id = $1 AND u.crm_id = r.crm_id) AS unseen,
                    (SELECT jsonb_object_agg(o.field_id, jsonb_build_array(encode(o.sent, 'hex'), encode(o.held, 'hex')))::text
                     FROM crm.overwritten_cell o WHERE o.map_id = $1 AND o.crm_id = r.crm_id AND o.is_stored_form) AS forms
             FROM unnest($2::text[]) WITH ORDINALITY AS r (crm_id, ord)",
        ),
        None,
        &[map.id.into(), ids.into()],
    )?;
    for row in rows {
        let (crm_id, hashes) = records[row.number("ord")?];
        let mut fields = OurFields::new();
        let known = CellHashes(hashes);
        if row.optional::<&str>("unseen")?.is_some() {
            for (id, value) in values(map, &row.json("unseen")?) {
                if known.get(id) == Some(&conflict::hash(&value)[..]) {
                    fields.entry(id).or_default().unseen = Some(value);
                }
            }
        }
        if row.optional::<&str>("forms")?.is_some()
            && let Json::Object(forms) = row.json("forms")?
        {
            for (id, form) in forms {
                let hash = |n: usize| form[n].as_str().and_then(hex::decode);
                if let (Ok(id), Some((written, held))) = (id.parse(), hash(0).zip(hash(1)))
                    && known.get(id) == Some(&held[..])
                {
                    fields.entry(id).or_default().form = Some((written, held));
                }
            }
        }
        if !fields.is_empty() {
            found.insert(crm_id.to_owned(), fields);
        }
    }
    Ok(found)
}

/// What a type that was changed since cannot read is left out.
fn values(map: &Map, cells: &Json) -> BTreeMap<u16, Value> {
    let cells = cells.as_object().into_iter().flatten();
    let value = |(id, json): (&String, &Json)| {
        let id = id.parse().ok()?;
        let value = Value::from_json(map.field(id)?.field.data_type, json).ok()?;
        Some((id, value))
    };
    cells.filter_map(value).collect()
}
