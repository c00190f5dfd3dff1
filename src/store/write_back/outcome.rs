//! How the write of one record ended.

use crm_domain::{Cells, ErrorClass};
use pgrx::IntoDatum;
use pgrx::datum::DatumWithOid;

use crate::store::write_back::claims::Place;

/// How one record's write ended.
#[derive(Debug)]
pub struct Settled {
    pub shard_key: String,
    pub record_key: String,
    pub crm_id: Option<String>,
    /// create, update or delete.
    pub operation: &'static str,
    pub cells: Cells,
    /// Cells that waited and were not sent, because they are not written any more.
    pub unsent: Cells,
    /// 16 bytes per sent cell, in ordinal order.
    pub hashes: Vec<u8>,
    pub revision: i64,
    pub attempt: u32,
    /// JSON, as the audit has it.
    pub fields: String,
    pub actor: Option<String>,
    pub place: Place,
    pub request_id: Option<String>,
    pub verdict: Verdict,
    /// The row followed its CRM record.
    pub row_gone: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The CRM took it.
    Applied,
    /// Nothing had to be sent (the row is gone, or its fields are no longer mapped).
    Moot,
    /// To be tried again in so many ms; `charged` if it counts as an attempt.
    Retry {
        delay_ms: i64,
        charged: bool,
        class: ErrorClass,
        code: String,
        error: String,
    },
    /// A dead letter.
    Dead {
        class: ErrorClass,
        code: String,
        error: String,
    },
    /// The CRM deleted the record: the link is dissolved and its edits are void.
    Unlinked { code: String, error: String },
}

impl Verdict {
    pub fn result(&self) -> &'static str {
        match self {
            Verdict::Applied | Verdict::Moot => "applied",
            Verdict::Retry { .. } => "retry",
            Verdict::Dead { .. } => "dead",
            Verdict::Unlinked { .. } => "superseded",
        }
    }

    pub fn failure(&self) -> (Option<&str>, Option<&str>, Option<&str>) {
        match self {
            Verdict::Applied | Verdict::Moot => (None, None, None),
            Verdict::Retry {
                class, code, error, ..
            }
            | Verdict::Dead { class, code, error } => (Some(class.name()), Some(code), Some(error)),
            Verdict::Unlinked { code, error } => {
                (Some(ErrorClass::NotFound.name()), Some(code), Some(error))
            }
        }
    }

    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Applied => "applied",
            Verdict::Moot => "moot",
            Verdict::Retry { .. } => "retry",
            Verdict::Dead { .. } => "dead",
            Verdict::Unlinked { .. } => "unlinked",
        }
    }
}

/// One argument of a statement: the same thing of each record.
pub fn column<'a, 'm, T>(records: &[&'a Settled], of: impl Fn(&'a Settled) -> T) -> DatumWithOid<'m>
where
    Vec<T>: IntoDatum,
{
    records.iter().map(|r| of(r)).collect::<Vec<T>>().into()
}
