//! Records as the CSV of a Bulk API 2.0 job.
//!
//! One row per record, one column per field that any of them changes: an empty cell leaves a field
//! alone, `#N/A` clears it. Records that this form cannot carry are named, for another way to send
//! them.

use std::borrow::Cow;
use std::collections::HashMap;

use crm_domain::Value;

use crate::wire::{self, Fields};
use crate::{WriteBatch, WriteKind};

use super::values;

/// What clears a field; so the text itself cannot be written.
const NULL: &str = "#N/A";

/// What a job carries (Bulk API 2.0 Guide, "Limits").
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub field_chars: usize,
    pub record_chars: usize,
    /// 150 MB when encoded as base64, which Salesforce does: send at most 100 MB.
    pub body_bytes: usize,
}

pub(super) const LIMITS: Limits = Limits {
    field_chars: 131_072,
    record_chars: 400_000,
    body_bytes: 100_000_000,
};

/// An upload: the records in it, and those that have to go another way.
pub(super) struct Upload {
    pub body: Vec<u8>,
    pub carried: Vec<usize>,
    pub others: Vec<usize>,
}

/// The column by which the rows of a job are told apart.
pub(super) fn key_column(batch: &WriteBatch) -> &str {
    match batch.kind {
        WriteKind::Upsert => batch.key_field(),
        WriteKind::Update | WriteKind::Delete => "Id",
    }
}

pub(super) fn build(batch: &WriteBatch, records: &[usize], limits: Limits) -> Upload {
    let key_column = key_column(batch);
    let fields = |index: usize| Fields {
        record: &batch.records[index],
        key_field: Some(key_column),
        form: values::form,
    };
    let (fitting, mut others): (Vec<usize>, Vec<usize>) = records
        .iter()
        .partition(|&&index| fits(batch.key(index), &fields(index), limits));
    let columns = Columns::of(fitting.iter().flat_map(|&index| fields(index).iter()));

    let mut writer = csv::WriterBuilder::new().from_writer(Vec::with_capacity(fitting.len() * 64));
    writer
        .write_record(std::iter::once(key_column).chain(columns.names.iter().copied()))
        .expect(IN_MEMORY);
    let mut carried = Vec::with_capacity(fitting.len());
    let mut row: Vec<Option<&Value>> = vec![None; columns.names.len()];
    let mut bytes = columns
        .names
        .iter()
        .map(|name| name.len() + 3)
        .sum::<usize>();
    for index in fitting {
        row.fill(None);
        // A bound of the row's size: quotes around each cell and a comma after it, each quote
        // doubled.
        let mut size = batch.key(index).len() * 2 + 3 * (row.len() + 1);
        for (hint, (name, value)) in fields(index).iter().enumerate() {
            let place = columns.place(hint, name).expect("each field has a column");
            row[place] = Some(value);
            size += text_bytes(value) * 2;
        }
        if bytes + size > limits.body_bytes {
            others.push(index);
            continue;
        }
        bytes += size;
        carried.push(index);
        writer.write_field(batch.key(index)).expect(IN_MEMORY);
        for value in &row {
            writer
                .write_field(value.map_or(Cow::Borrowed(""), cell).as_ref())
                .expect(IN_MEMORY);
        }
        writer.write_record(None::<&[u8]>).expect(IN_MEMORY);
    }
    let body = writer.into_inner().expect(IN_MEMORY);
    Upload {
        body,
        carried,
        others,
    }
}

const IN_MEMORY: &str = "memory takes every row, and every row has every column";

fn cell(value: &Value) -> Cow<'_, str> {
    match wire::text(value) {
        text if text.is_empty() => Cow::Borrowed(NULL),
        text => text,
    }
}

fn fits<'a>(key: &str, fields: &Fields<'a>, limits: Limits) -> bool {
    if key == NULL {
        return false;
    }
    let mut record_bytes = key.len();
    for (_, value) in fields.iter() {
        if matches!(value, Value::Text(text) if text == NULL) {
            return false;
        }
        let bytes = text_bytes(value);
        record_bytes += bytes;
        // Limits are in characters, of which there are never more than bytes: count only when near.
        if bytes > limits.field_chars && wire::text(value).chars().count() > limits.field_chars {
            return false;
        }
    }
    let chars = |value: &Value| wire::text(value).chars().count();
    record_bytes <= limits.record_chars
        || key.chars().count() + fields.iter().map(|(_, value)| chars(value)).sum::<usize>()
            <= limits.record_chars
}

/// At least as many bytes as the value's text has.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::Number(n) => n.as_str().len(),
        // The longest of them is a moment, as `2026-01-02T03:04:05.000Z`.
        Value::Null | Value::Boolean(_) | Value::Date(_) | Value::Timestamp(_) => 24,
        Value::MultiChoice(words) => words.iter().map(|word| word.len() + 1).sum(),
        Value::Json(_) => wire::text(value).len(),
    }
}

/// The union of the fields' names, in the order they are met.
#[derive(Default)]
struct Columns<'a> {
    names: Vec<&'a str>,
    places: HashMap<&'a str, usize>,
}

impl<'a> Columns<'a> {
    fn of(fields: impl Iterator<Item = (&'a str, &'a Value)>) -> Self {
        let mut columns = Columns::default();
        // Records mostly have the same fields in the same order: the next one is the likely one.
        let mut hint = 0;
        for (name, _) in fields {
            let place = columns
                .place(hint, name)
                .or_else(|| columns.place(0, name))
                .unwrap_or_else(|| columns.add(name));
            hint = place + 1;
        }
        columns
    }

    fn add(&mut self, name: &'a str) -> usize {
        self.names.push(name);
        self.places.insert(name, self.names.len() - 1);
        self.names.len() - 1
    }

    fn place(&self, hint: usize, name: &str) -> Option<usize> {
        match self.names.get(hint) {
            Some(likely) if *likely == name => Some(hint),
            _ => self.places.get(name).copied(),
        }
    }
}
