//! An edit that is being made: what it is based on, and what the row then holds.

use std::collections::BTreeMap;

use crm_domain::cells::CellHashes;
use crm_domain::{Cells, ErrorClass, Value, conflict};
use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;
use serde_json::{Map as JsonMap, Value as Json};

use crate::api::write::target::{Target, no_row};
use crate::api::{or_raise, or_raise_with, raise};
use crate::settings;
use crate::store::StoreError;
use crate::store::calls::caller::Record;
use crate::store::config::{Map, MappedField};
use crate::store::rights;
use crate::store::table::read::{self, Bounds, RowValues, Wanted};
use crate::store::table::{capture_guard, cell_value, update};
use crate::worker::socket::protocol::{Answer, AnswerOutcome};

/// An edit that is being made.
pub struct Edit<'a> {
    pub cells: Cells,
    /// Per field the hash of what the CRM held when the edit was formed.
    pub bases: BTreeMap<u16, conflict::ShortHash>,
    pub force: bool,
    /// The caller said what is to be compared.
    pub compares_base: bool,
    /// Cells of a record with edits that wait: their base is what those leave in the CRM, which the
    /// ledger will say by then.
    pub follows: Cells,
    pub write_id: &'a str,
    pub actor: &'a str,
    pub correlation_id: Option<&'a str>,
}

/// What the edit is based on: what the caller saw; else what the CRM last held; else, for a field
/// of which nobody knows that, what the row holds.
pub fn bases(
    target: &Target,
    record: Option<&Record>,
    changed: &[&MappedField],
    given: Option<(&[&MappedField], &JsonMap<String, Json>)>,
) -> BTreeMap<u16, conflict::ShortHash> {
    if let Some((fields, base)) = given {
        let base = Json::Object(base.clone());
        let values = rights::pinned(|| cell_value::of_object(&target.map, fields, &base));
        let values = or_raise_with(
            values,
            "base holds what was read of the row: column -> value, in the form in which the CRM is sent it.",
        );
        return values
            .into_iter()
            .map(|(id, value)| (id, conflict::hash(&value)))
            .collect();
    }
    let hashes = CellHashes(record.map_or(&[][..], |r| &r.hashes));
    let mut bases = BTreeMap::new();
    for field in &target.map.fields {
        if let Some(hash) = hashes.get(field.id).and_then(|hash| hash.try_into().ok()) {
            bases.insert(field.id, hash);
        }
    }
    let unknown: Cells = changed
        .iter()
        .map(|f| f.id)
        .filter(|id| !bases.contains_key(id))
        .collect();
    if !unknown.is_empty() {
        for (id, value) in row_values(target, &unknown, false) {
            bases.insert(id, conflict::hash(&value));
        }
    }
    bases
}

/// Changes the row as the caller, and returns what it then holds in the changed cells.
pub fn change_row(
    target: &Target,
    changes: &JsonMap<String, Json>,
    edit: &Edit,
) -> Vec<(u16, Value)> {
    let columns: Vec<&str> = changes.keys().map(String::as_str).collect();
    let rows = [update::Row {
        shard_key: target.shard_key.clone(),
        record_key: target.record_key.clone(),
        values: Json::Object(changes.clone()).to_string(),
    }];
    let ours = capture_guard::SuppressCapture::of_edit(target.map.id, edit.cells.to_bytes(), &rows);
    let found = Spi::connect_mut(|client| update::update(client, &target.map, &columns, &rows));
    drop(ours);
    if or_raise(found).is_empty() {
        // It is locked, and was visible.
        or_raise_with::<()>(
            Err(StoreError::prevented("changed")),
            "An UPDATE of your own would change nothing either.",
        );
    }
    let intended = row_values(target, &edit.cells, true);
    let unstorable_reason =
        |(id, value): &(u16, Value)| target.map.field(*id)?.unstorable_reason(value);
    if let Some(failure) = intended.iter().find_map(unstorable_reason) {
        raise(
            PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            format!("record \"{}\" cannot be sent", target.record_key),
            Some(failure.message),
            "A validation rule (min, max) keeps such values out of the column.",
        )
    }
    intended
}

/// What the row holds, as it would be sent. `filtered`: raises if it is outside the filter of the
/// map, or that fails for it.
fn row_values(target: &Target, cells: &Cells, filtered: bool) -> Vec<(u16, Value)> {
    let wanted = [Wanted {
        shard_key: &target.shard_key,
        record_key: &target.record_key,
        cells,
    }];
    let bounds = Bounds {
        bytes: usize::MAX,
        value: settings::max_value(),
        time: None,
        lenient: false,
        raw: false,
        filtered,
    };
    let read = rights::pinned(|| read::read(&target.map, &wanted, &bounds));
    match or_raise(read).remove(&0) {
        Some(RowValues::Found(fields)) => fields
            .into_iter()
            .map(|(id, _, value)| (id, value))
            .collect(),
        Some(RowValues::Unreadable(failure)) => raise(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            format!("record \"{}\" cannot be sent", target.record_key),
            Some(failure.message),
            "Check the record_key, the column's value and its transform_out.",
        ),
        Some(RowValues::Missing) | None => no_row(target),
    }
}

/// The answer that needs no CRM: where edits wait the CRM cannot tell whether the caller has seen
/// them, but the row can.
pub fn early_answer(
    target: &Target,
    record: Option<&Record>,
    edit: &Edit,
    based: &[&MappedField],
) -> Option<Answer> {
    if !edit.compares_base || edit.force || !record.is_some_and(|r| r.edits_wait) {
        return None;
    }
    Some(if row_differs(target, based, &edit.bases) {
        let why = "the row holds an edit, not yet in the CRM, that this edit was not based on";
        Answer::failed(AnswerOutcome::Conflict, "conflict", why)
    } else {
        let why = "an earlier edit of this record is still pending; this edit follows it";
        Answer::failed(AnswerOutcome::Pending, ErrorClass::Transient.name(), why)
    })
}

/// Whether the row holds something else than the caller saw.
pub fn row_differs(
    target: &Target,
    based: &[&MappedField],
    bases: &BTreeMap<u16, conflict::ShortHash>,
) -> bool {
    let cells: Cells = based
        .iter()
        .filter(|f| f.is_checked())
        .map(|f| f.id)
        .collect();
    let values = row_values(target, &cells, false);
    let mut values = values.iter();
    values.any(|(id, value)| bases.get(id) != Some(&conflict::hash(value)))
}

/// Raises if a number is one that no integer and no double holds: PostgreSQL would repeat every
/// digit of it.
pub fn refuse_wide_numbers(map: &Map, values: &JsonMap<String, Json>) {
    const FEW: usize = 40;
    const NARROW: [&str; 5] = ["smallint", "integer", "bigint", "real", "double precision"];
    for field in map
        .fields
        .iter()
        .filter(|f| NARROW.contains(&f.type_name.as_str()))
    {
        let text = match values.get(&field.column) {
            Some(Json::Number(number)) => number.to_string(),
            Some(Json::String(text)) => text.trim().to_owned(),
            _ => continue,
        };
        let whole = text.split(['.', 'e', 'E']).next().unwrap_or_default();
        let digits = whole.trim_start_matches(['+', '-']).trim_start_matches('0');
        if digits.len() > FEW && digits.bytes().all(|b| b.is_ascii_digit()) {
            let (column, type_name) = (&field.column, &field.type_name);
            raise(
                PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
                format!("the value for column \"{column}\" is out of range for type {type_name}"),
                Some(format!("It is a number of {} digits.", digits.len())),
                "",
            )
        }
    }
}

/// Raises if a value is larger than one that is sent may be.
pub fn refuse_large(changes: &JsonMap<String, Json>) {
    let most = settings::max_value();
    for (column, value) in changes {
        let bytes = match value {
            Json::String(text) => text.len(),
            Json::Array(_) | Json::Object(_) | Json::Number(_) => value.to_string().len(),
            Json::Null | Json::Bool(_) => 0,
        };
        if bytes > most {
            raise(
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                format!("the value for column \"{column}\" is too large to be sent to a CRM"),
                Some(format!(
                    "It has {bytes} bytes; pg_crm.max_value_bytes allows {most}."
                )),
                "No CRM stores texts of that size.",
            )
        }
    }
}
