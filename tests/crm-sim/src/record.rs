//! One record: its values, times and past.

use crate::value::Value;

/// Who made a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// The user or app whose token the request carried.
    Integration,
    /// Somebody in the CRM's own pages.
    Human,
}

impl Actor {
    pub fn name(self) -> &'static str {
        match self {
            Self::Integration => "integration",
            Self::Human => "human",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    Live,
    Deleted,
    /// Rolled back or purged: the slot stays empty.
    Gone,
}

/// Fields to set (or, with `None`, to clear) by position.
pub type Change = Vec<(u16, Option<Value>)>;

/// A value a field had, since when, and who set it.
#[derive(Debug, Clone)]
pub struct Past {
    pub field: u16,
    pub value: Option<Value>,
    pub at: i64,
    pub by: Actor,
}

#[derive(Debug, Clone)]
pub struct Record {
    /// By position, ascending; most fields of most records are empty.
    pub values: Vec<(u16, Value)>,
    pub created: i64,
    pub modified: i64,
    pub created_by: Actor,
    pub modified_by: Actor,
    pub version: u32,
    /// Its last change's number among those of its object.
    pub turn: u64,
    pub life: Life,
    /// Oldest first; only kept where the vendor shows it.
    pub history: Vec<Past>,
    /// The record that this one was merged into.
    pub master: Option<u32>,
    /// Records that were merged into this one, and when.
    pub merged: Vec<(u32, i64)>,
}

impl Record {
    pub fn get(&self, field: u16) -> Option<&Value> {
        let at = self.values.binary_search_by_key(&field, |(at, _)| *at);
        at.ok().map(|at| &self.values[at].1)
    }

    pub fn live(&self) -> bool {
        self.life == Life::Live
    }

    pub fn set(&mut self, field: u16, value: Option<Value>) {
        let at = self.values.binary_search_by_key(&field, |(at, _)| *at);
        match (at, value) {
            (Ok(at), Some(value)) => self.values[at].1 = value,
            (Ok(at), None) => drop(self.values.remove(at)),
            (Err(at), Some(value)) => self.values.insert(at, (field, value)),
            (Err(_), None) => {}
        }
    }
}

/// A change, for those who are told of changes.
#[derive(Debug, Clone)]
pub struct Note {
    pub slot: u32,
    pub at: i64,
    pub by: Actor,
    pub event: Event,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Created,
    /// With the fields that were set.
    Updated(Vec<u16>),
    Deleted,
    Restored,
    /// The record took these in.
    Merged(Vec<u32>),
}

/// When and by whom.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    pub at: i64,
    pub by: Actor,
}
