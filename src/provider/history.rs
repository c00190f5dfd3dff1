//! The history of writes that no condition protected, for vendors that keep the earlier values of a
//! field. A value between the one we read and the one we wrote was set by somebody else in between,
//! and our write replaced it.
//!
//! Guarantees: what the history does not tell is not guessed; what was set after our write is none
//! that it replaced.

use std::collections::HashMap;

use crm_domain::{DataType, Value, ValueError};
use serde_json::Value as Json;

use crate::{DoneField, DoneRecord, Overwritten};

/// Times of one change are up to a millisecond apart from field to field.
const SLACK: i64 = 1;

/// A value that a field had.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    pub value: Json,
    /// Since when, UTC milliseconds.
    pub at: Option<i64>,
    /// Whether it may have been us who set it, and no person.
    pub is_by_a_program: bool,
    /// Who or what set it, in the vendor's words.
    pub source: Option<String>,
}

/// A change as vendors tell it that keep a log of changes.
pub(crate) struct Logged {
    pub field: String,
    pub old: Json,
    pub set: Entry,
}

/// The values of each field, newest first; at the end, the one that the oldest change replaced. The
/// log runs in either direction.
pub(crate) fn histories(mut log: Vec<Logged>) -> HashMap<String, Vec<Entry>> {
    if log.first().map(|change| change.set.at) < log.last().map(|change| change.set.at) {
        log.reverse();
    }
    let mut histories: HashMap<String, Vec<Entry>> = HashMap::new();
    for change in log {
        let entries = histories.entry(change.field).or_default();
        // What the newer change replaced is what this one set.
        entries.pop();
        entries.push(change.set);
        entries.push(Entry {
            value: change.old,
            ..Entry::default()
        });
    }
    histories
}

/// How a vendor's values are read.
pub(crate) type Reading = fn(DataType, &Json) -> Result<Value, ValueError>;

/// The foreign values that our write of a record replaced. `history` tells a field's entries,
/// newest first.
pub(crate) fn overwritten<'a>(
    record: &DoneRecord,
    history: impl Fn(&str) -> Option<&'a [Entry]>,
    read: Reading,
) -> Vec<Overwritten> {
    let of_field = |done: &DoneField| {
        let entries = history(&done.field.name)?;
        let entry = replaced(done, record.modified_at, entries, read)?;
        Some(Overwritten {
            field: done.field.clone(),
            value: entry.value.clone(),
            modified_at: entry.at,
            source: entry.source.clone(),
        })
    };
    record.fields.iter().filter_map(of_field).collect()
}

/// The foreign value that our write replaced, if it was one that we had not read. `read_at` is the
/// modification time of the record as it was read.
///
/// Our own entry is the newest that holds what we wrote. There is none if the field held that value
/// already, since what does not change makes no history; so whatever was there when we read ends
/// the search. The entry before ours is what we replaced.
fn replaced<'a>(
    done: &DoneField,
    read_at: Option<i64>,
    history: &'a [Entry],
    read: Reading,
) -> Option<&'a Entry> {
    let canonical = |entry: &Entry| read(done.field.data_type, &entry.value).ok();
    let holds = |entry: &Entry, value: &Value| canonical(entry).as_ref() == Some(value);
    let was_read = |entry: &Entry| {
        let times = entry.at.zip(read_at);
        times.is_some_and(|(at, read)| at + SLACK < read)
    };
    let knows_time = |entry: &Entry| read_at.is_some() && entry.at.is_some();
    // Without times, what we read can only be told by its value.
    let since_read = history
        .iter()
        .take_while(|entry| !was_read(entry) && (knows_time(entry) || !holds(entry, &done.read)));
    let ours: Vec<usize> = since_read
        .enumerate()
        .filter(|(_, entry)| holds(entry, &done.written))
        .map(|(at, _)| at)
        .collect();
    // A person who set the same value later, or before, is not us.
    let by_us = ours.iter().copied().find(|&at| history[at].is_by_a_program);
    let at = by_us.or_else(|| ours.first().copied())?;
    let before = history.get(at + 1)?;
    (!was_read(before) && !holds(before, &done.read)).then_some(before)
}
