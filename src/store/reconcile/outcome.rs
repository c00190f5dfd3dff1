//! What the reconciler decided of a pending write.

use std::collections::BTreeMap;

use crm_domain::Value;
use crm_domain::conflict::ShortHash;
use crm_domain::crm_form::Sighting;
use serde_json::Value as Json;

use crate::store::outcome::Outcome;
use crate::store::reconcile::pending_writes::Pending;

/// A pending write with what became of it.
#[derive(Clone)]
pub struct Resolution {
    pub pending: Pending,
    /// What the CRM is now known to hold in cells that are settled.
    pub known: BTreeMap<u16, ShortHash>,
    /// Cells in which the row takes the CRM's value, and what the row held when that was decided.
    pub accepts: BTreeMap<u16, Accepted>,
    /// What was written just now, of which nobody knows yet what the CRM makes of it.
    pub written: BTreeMap<u16, Value>,
    /// Of these, in which the CRM holds its own form of what the row holds: what both hold.
    pub forms: BTreeMap<u16, (ShortHash, ShortHash)>,
    pub conflicts: Vec<Conflict>,
    pub outcome: Outcome,
    /// What the read showed of what was written before.
    pub seen: BTreeMap<u16, Sighting>,
    /// What was sent: field_id -> hash, as JSON. It may have arrived, whatever came back.
    pub sent: String,
    /// What the snapshot lacks: what we wrote since, and fields of which nobody knew when the edit
    /// was made. For the edits that are left.
    pub learnt: BTreeMap<u16, ShortHash>,
    /// Another field changed in the CRM, which the row is to have soon.
    pub is_outdated: bool,
}

#[derive(Clone)]
pub struct Accepted {
    pub crm: Value,
    /// `None`: whatever it held.
    pub local: Option<Value>,
}

#[derive(Clone)]
pub struct Conflict {
    pub field_id: u16,
    pub kind: &'static str,
    pub local: Json,
    pub crm: Json,
    pub base: Json,
    pub policy: &'static str,
}

pub fn keys_of(record: &Resolution) -> (&str, &str) {
    (&record.pending.shard_key, &record.pending.record_key)
}
