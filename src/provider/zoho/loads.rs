//! The part of a batch that bulk write jobs carry, and their files.
//!
//! A job carries records that set the same fields. No cell of its file is empty, so it need not be
//! known what an empty one does: the documents tell of `ignore_empty`, and not the same in all
//! places. An update that clears a field goes another way. An upsert leaves fields without a value
//! out: a record that it makes has none in them anyway, and one that was there already is written
//! once more, another way ([`leaves_out`]).

use std::collections::HashMap;

use crm_domain::value::filled;
use crm_domain::{DataType, Value};
use serde_json::Value as Json;

use super::values;
use crate::record::Field;
use crate::{WriteBatch, WriteKind, WriteRecord};

/// What a file holds ("Bulk Write API", "Limitations").
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub rows: usize,
    pub columns: usize,
    pub bytes: usize,
}

pub(super) const LIMITS: Limits = Limits {
    rows: 25_000,
    columns: 200,
    bytes: 25_000_000,
};

/// The column by which the rows of a job are told apart, and the records are found.
pub(super) fn key_column(batch: &WriteBatch) -> &str {
    match batch.kind {
        WriteKind::Upsert => batch.key_field(),
        WriteKind::Update | WriteKind::Delete => "id",
    }
}

/// The fields of a record that have columns, in the order of the columns after the key's.
pub(super) fn fields<'a>(
    batch: &'a WriteBatch,
    record: &'a WriteRecord,
) -> impl Iterator<Item = (&'a Field, &'a Value)> {
    own_fields(batch, record).filter(|(field, value)| !is_left_out(batch, field, value))
}

/// Whether the row of a record does not say all that is to be written.
pub(super) fn leaves_out(batch: &WriteBatch, record: &WriteRecord) -> bool {
    own_fields(batch, record).any(|(field, value)| is_left_out(batch, field, value))
}

fn own_fields<'a>(
    batch: &'a WriteBatch,
    record: &'a WriteRecord,
) -> impl Iterator<Item = (&'a Field, &'a Value)> {
    let key_column = key_column(batch);
    let all = record.fields.iter();
    all.map(|(field, value)| (&**field, value))
        .filter(move |(field, _)| field.name != key_column)
}

fn is_left_out(batch: &WriteBatch, field: &Field, value: &Value) -> bool {
    batch.kind == WriteKind::Upsert && cell(field, value).is_empty()
}

/// Parts the records into loads of more than `threshold` records each, and those that go another
/// way.
pub(super) fn part(
    batch: &WriteBatch,
    records: &[usize],
    threshold: usize,
    limits: Limits,
) -> (Vec<Vec<usize>>, Vec<usize>) {
    let (fitting, mut others): (Vec<usize>, Vec<usize>) = records
        .iter()
        .partition(|&&index| fits(batch, index, limits));
    let mut alike: HashMap<Vec<&str>, Vec<usize>> = HashMap::new();
    let mut order = Vec::new();
    for index in fitting {
        let names: Vec<&str> = fields(batch, &batch.records[index])
            .map(|(field, _)| field.name.as_str())
            .collect();
        let group = alike.entry(names).or_insert_with_key(|names| {
            order.push(names.clone());
            Vec::new()
        });
        group.push(index);
    }
    let mut loads = Vec::new();
    for group in order.iter().filter_map(|names| alike.remove(names)) {
        for load in cut(batch, &group, limits) {
            match load.len() > threshold {
                true => loads.push(load),
                false => others.extend(load),
            }
        }
    }
    others.sort_unstable();
    (loads, others)
}

/// Cuts records that change the same fields to the size of files.
fn cut(batch: &WriteBatch, records: &[usize], limits: Limits) -> Vec<Vec<usize>> {
    let columns = columns(batch, records);
    let header: usize = columns.iter().map(|name| name.len() + 1).sum();
    let mut loads: Vec<Vec<usize>> = Vec::new();
    let mut left = 0;
    for &index in records {
        // A bound of the row's size: quotes around each cell and a comma after it, each quote
        // doubled.
        let bound = |bytes: usize| bytes * 2 + 3;
        let cells = fields(batch, &batch.records[index]);
        let cells = cells.map(|(field, value)| bound(cell(field, value).len()));
        let size = bound(batch.key(index).len()) + cells.sum::<usize>();
        match loads.last_mut() {
            Some(load) if load.len() < limits.rows && size <= left => {
                load.push(index);
                left -= size;
            }
            _ => {
                loads.push(vec![index]);
                left = limits.bytes.saturating_sub(header + size);
            }
        }
    }
    loads
}

/// The file of a load.
pub(super) fn csv(batch: &WriteBatch, load: &[usize]) -> Vec<u8> {
    const IN_MEMORY: &str = "memory takes every row, and every row has every column";
    let mut writer = csv::WriterBuilder::new().from_writer(Vec::with_capacity(load.len() * 64));
    let names = columns(batch, load);
    writer.write_record(&names).expect(IN_MEMORY);
    for &index in load {
        writer.write_field(batch.key(index)).expect(IN_MEMORY);
        for (field, value) in fields(batch, &batch.records[index]) {
            writer.write_field(cell(field, value)).expect(IN_MEMORY);
        }
        writer.write_record(None::<&[u8]>).expect(IN_MEMORY);
    }
    writer.into_inner().expect(IN_MEMORY)
}

/// The names of a file's columns. Our key is the first: of the columns a result repeats the first
/// three alone.
pub(super) fn columns<'a>(batch: &'a WriteBatch, load: &[usize]) -> Vec<&'a str> {
    let first = load.first().map(|&index| &batch.records[index]);
    let others = first.into_iter().flat_map(|record| fields(batch, record));
    std::iter::once(key_column(batch))
        .chain(others.map(|(field, _)| field.name.as_str()))
        .collect()
}

/// A value as a cell has it ("Bulk Write API", "Prepare CSV file").
fn cell(field: &Field, value: &Value) -> String {
    match values::form(field.data_type, value) {
        Json::String(text) => text,
        Json::Array(words) => {
            let words: Vec<&str> = words.iter().filter_map(Json::as_str).collect();
            words.join(";")
        }
        Json::Null => String::new(),
        other => other.to_string(),
    }
}

fn fits(batch: &WriteBatch, index: usize, limits: Limits) -> bool {
    let record = &batch.records[index];
    let key = batch.key(index);
    // What is based on a read is not left to a job, which may take minutes.
    let is_based = record.unless_changed.is_some();
    let count = fields(batch, record).count();
    !is_based
        && (1..limits.columns).contains(&count)
        && is_plain(key)
        && is_name(key_column(batch))
        && fields(batch, record)
            .all(|(field, value)| is_name(&field.name) && has_a_cell(field, value))
}

/// Whether a column can be called so: which sign parts the columns is guessed by their names.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn has_a_cell(field: &Field, value: &Value) -> bool {
    // How a column of references is called, and how its field is named beside it, the documents do
    // not agree on.
    field.data_type != DataType::Reference && is_plain(&cell(field, value))
}

/// Whether a text comes back as it is, even if blanks around it should be cut off.
fn is_plain(text: &str) -> bool {
    filled(text).is_some_and(|filled| filled == text)
}
