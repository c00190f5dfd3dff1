//! How the write of one record ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use crm_domain::cells::HASH_BYTES;
use crm_domain::conflict::ShortHash;
use crm_domain::{Cells, Operation, hex};
use pgrx::IntoDatum;
use pgrx::datum::DatumWithOid;
use serde_json::{Map as JsonMap, Value as Json};

use crate::store::config::{Map, MappedField};
use crate::store::outcome::Outcome;
use crate::store::write_back::claims::Place;

/// How one record's write ended.
#[derive(Debug)]
pub struct Settled {
    pub shard_key: String,
    pub record_key: String,
    pub crm_id: Option<String>,
    pub operation: Operation,
    pub cells: Cells,
    /// Cells that waited and were not sent, because they are not written any more.
    pub unsent: Cells,
    /// Cells that were created with a default, which the row is to take.
    pub defaulted: Cells,
    /// 16 bytes per sent cell, in ordinal order: what the CRM holds.
    pub hashes: Vec<u8>,
    /// What the CRM may hold in another form, as JSON; see [`unseen_writes`].
    ///
    /// [`unseen_writes`]: crate::store::record::unseen_writes
    pub unseen: Option<String>,
    /// Cells in which the CRM's answer shows another form than was sent: what was sent, and what it
    /// holds.
    pub forms: BTreeMap<u16, (ShortHash, ShortHash)>,
    pub revision: i64,
    pub attempt: u32,
    /// JSON, as the audit has it.
    pub fields: String,
    pub actor: Option<String>,
    pub correlation_id: Option<String>,
    pub operation_id: Option<Arc<str>>,
    pub place: Place,
    pub request_id: Option<String>,
    pub outcome: Outcome,
    /// The row followed its CRM record.
    pub row_gone: bool,
}

/// The hashes of the bidirectional cells among some that are sent with a creation: should the CRM
/// hold these values although no response said so, they are ours. JSON, field_id -> hash in hex.
pub fn sent_hashes(map: &Map, cells: &Cells, hashes: &[u8]) -> Option<String> {
    let sent = cells.iter().zip(hashes.chunks(HASH_BYTES));
    let checked = sent.filter(|(id, _)| map.field(*id).is_some_and(MappedField::is_checked));
    let sent: JsonMap<String, Json> = checked
        .map(|(id, hash)| (id.to_string(), hex::encode(hash).into()))
        .collect();
    (!sent.is_empty()).then(|| Json::Object(sent).to_string())
}

/// One argument of a statement: the same thing of each record.
pub fn column<'a, 'm, T>(records: &[&'a Settled], of: impl Fn(&'a Settled) -> T) -> DatumWithOid<'m>
where
    Vec<T>: IntoDatum,
{
    records.iter().map(|r| of(r)).collect::<Vec<T>>().into()
}
