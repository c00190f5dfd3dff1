//! Who has set what: the values that a cell may end with.
//!
//! Each side of a cell has its own history. Of each history those edits count that nobody is known
//! to have set anything after; what both sides end with must be one of them, whichever way a policy
//! decided.

use std::collections::{BTreeMap, BTreeSet};

use crm_suites::Json;

use crate::forms::plain;

/// One side of a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Row(String),
    Record(String),
}

#[derive(Clone, Debug)]
pub struct Edit {
    pub value: String,
    pub began: usize,
    pub ended: usize,
    /// It is known to have been made. Of others nobody knows: their caller was cut off, or rolled
    /// back what the CRM took.
    pub certain: bool,
}

#[derive(Default)]
pub struct Oracle {
    edits: BTreeMap<(Side, &'static str), Vec<Edit>>,
    /// CRM records that took others in, which bring their values along.
    merged: BTreeMap<String, BTreeSet<String>>,
}

impl Oracle {
    pub fn edit(&mut self, side: Side, column: &'static str, edit: Edit) {
        self.edits.entry((side, column)).or_default().push(edit);
    }

    /// An edit that was over as soon as it had begun.
    pub fn set(&mut self, side: Side, column: &'static str, value: &Json, at: usize) {
        let value = plain(value);
        self.edit(
            side,
            column,
            Edit {
                value,
                began: at,
                ended: at,
                certain: true,
            },
        );
    }

    pub fn merge(&mut self, into: &str, from: &str) {
        let mut all = self.merged.remove(from).unwrap_or_default();
        all.insert(from.to_owned());
        self.merged.entry(into.to_owned()).or_default().extend(all);
    }

    pub fn merged_into(&self, record: &str) -> impl Iterator<Item = &String> {
        self.merged.get(record).into_iter().flatten()
    }

    /// What a column of this side may hold if nothing came from the other one.
    pub fn last(&self, side: &Side, column: &'static str) -> Vec<&str> {
        let Some(edits) = self.edits.get(&(side.clone(), column)) else {
            return Vec::new();
        };
        let outdated = |e: &&Edit| {
            edits
                .iter()
                .any(|later| later.certain && later.began > e.ended)
        };
        edits
            .iter()
            .filter(|e| !outdated(e))
            .map(|e| e.value.as_str())
            .collect()
    }

    /// Whether somebody has ever set this value there.
    pub fn ever(&self, side: &Side, column: &'static str, value: &str) -> bool {
        self.edits
            .get(&(side.clone(), column))
            .is_some_and(|edits| edits.iter().any(|e| e.value == value))
    }
}
