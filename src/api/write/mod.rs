//! `crm.write()` and `crm.read_live()`: a user's edit goes to the CRM while they wait.
//!
//! The row is changed first, in a subtransaction and as the caller, so that every rule of the table
//! and of the mapping has spoken before the CRM is touched, and what is sent is what the row holds.
//! Then the worker reads, compares and writes. A conflict undoes the subtransaction. Whatever else
//! happens, the edit stays in the row and is in the CRM, or pending.

mod edit;
mod outcome;
mod request;
mod target;

use crm_domain::cells::CellHashes;
use crm_domain::{Cells, ErrorClass, Value};
use pgrx::prelude::*;
use pgrx::{JsonB, PgSqlErrorCode};
use serde_json::{Map as JsonMap, Value as Json, json};

use crate::api::document::Document;
use crate::api::write::edit::{
    Edit, bases, change_row, early_answer, refuse_large, refuse_wide_numbers,
};
use crate::api::write::outcome::{in_columns, snapshot_hash};
use crate::api::write::request::{ask_to_write, ask_worker, intent_field, sightings};
use crate::api::write::target::{INVALID, Right, Target, choose, no_row, object};
use crate::api::{or_raise, raise, wake};
use crate::settings;
use crate::store::calls::caller::{self, Record};
use crate::store::config::MappedField;
use crate::store::record::sightings::Sighted;
use crate::store::table::{cell_value, row_locks};
use crate::store::transaction::nested;
use crate::store::{StoreError, rights};
use crate::worker::socket::protocol::{Answer, AnswerOutcome, ReadRequest};

/// `crm.write()` as one JSON object.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
#[allow(clippy::too_many_arguments)]
fn perform_write(
    relation: Option<pg_sys::Oid>,
    record_key: Option<&str>,
    changes: Option<Document>,
    base: Option<Document>,
    force: Option<bool>,
    connection: Option<&str>,
    shard_key: Option<&str>,
    correlation_id: Option<&str>,
) -> JsonB {
    let target = choose(relation, record_key, connection, shard_key);
    require_id(correlation_id);
    let changes = object("changes", changes);
    if changes.is_empty() {
        raise(
            INVALID,
            "changes names no column".to_owned(),
            None,
            "Pass the new values, such as '{\"phone\": \"+49 30 1\"}'; to read without writing, use crm.read_live().",
        )
    }
    refuse_large(&changes);
    refuse_wide_numbers(&target.map, &changes);
    let changed = target.columns("changes", &changes, "written", |f| f.is_checked());
    refuse_json_for_text(&changes, &changed);
    let base = base.map(|base| object("base", Some(base)));
    refuse_wide_numbers(&target.map, base.as_ref().unwrap_or(&JsonMap::new()));
    let based = base
        .as_ref()
        .map(|base| target.columns("base", base, "compared", |f| f.direction.reads_crm()));
    target.require(Right::Change, &changed);
    target.require(Right::See, based.as_deref().unwrap_or_default());
    let cells: Cells = changed.iter().map(|f| f.id).collect();

    if !or_raise(row_locks::lock(
        &target.map,
        &target.shard_key,
        &target.record_key,
    )) {
        no_row(&target)
    }
    let record = or_raise(caller::record(
        &target.map,
        &target.shard_key,
        &target.record_key,
        true,
    ));
    let (write_id, actor, set) = or_raise(caller::identity());
    let mut edit = Edit {
        bases: bases(
            &target,
            record.as_ref(),
            &changed,
            based.as_deref().zip(base.as_ref()),
        ),
        cells,
        force: force.unwrap_or(false),
        compares_base: base.is_some(),
        follows: match &record {
            Some(record) if record.edits_wait && base.is_none() => known_cells(record, &changed),
            _ => Cells::new(),
        },
        write_id: &write_id,
        actor: &actor,
        correlation_id: correlation_id.or(set.as_deref()),
    };
    let early = early_answer(
        &target,
        record.as_ref(),
        &edit,
        based.as_deref().unwrap_or_default(),
    );
    let mut answer = early.clone().unwrap_or_default();
    let mut intended = Vec::new();
    if answer.outcome != AnswerOutcome::Conflict {
        nested(|| {
            intended = change_row(&target, &changes, &edit);
            // What is never sent is settled by the row alone.
            let is_sent =
                |id: u16, value: &Value| target.map.field(id).is_none_or(|f| !f.is_withheld(value));
            intended.retain(|(id, value)| is_sent(*id, value));
            edit.cells = intended.iter().map(|(id, _)| *id).collect();
            let crm_id = record.as_ref().and_then(|r| r.crm_id.as_deref());
            match (&early, crm_id) {
                (Some(_), _) => {}
                (None, Some(crm_id)) => {
                    let ours = record.as_ref().map(|r| &r.ours);
                    answer = ask_to_write(&target, &edit, (crm_id, ours), &intended)
                }
                (None, None) => {
                    let why = "the record is not linked to a CRM record yet";
                    answer =
                        Answer::failed(AnswerOutcome::Pending, ErrorClass::NotFound.name(), why);
                }
            }
            answer.outcome != AnswerOutcome::Conflict
        });
    }
    if edit.cells.is_empty() && answer.outcome == AnswerOutcome::Pending {
        answer = Answer {
            outcome: AnswerOutcome::Committed,
            values: answer.values,
            ..Answer::default()
        };
    }
    crate::failpoint::reach("caller::answered");
    if let Some(record) = &record {
        record_seen(&target, record, &answer);
    }
    match answer.outcome {
        AnswerOutcome::Conflict if early.is_some() => {
            outcome::audit_conflict(&target, &edit, &changed, changes, &answer)
        }
        AnswerOutcome::Conflict => {}
        AnswerOutcome::Committed => {
            let crm_id = record.as_ref().and_then(|r| r.crm_id.as_deref());
            outcome::record_commit(&target, &edit, crm_id, &answer, &intended)
        }
        AnswerOutcome::Pending | AnswerOutcome::Read => {
            outcome::queue_edit(&target, &edit, &answer, &intended)
        }
    }
    crate::failpoint::reach("caller::settled");
    if answer.outcome == AnswerOutcome::Pending {
        wake::for_what_waits();
    }
    result_of_write(&target, &write_id, &answer)
}

/// Raises unless a mapped column's value, as JSON, can be sent to the CRM.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
fn check_value(map_id: i32, relation: pg_sys::Oid, column: &str, value: Option<Document>) {
    let Some(target) = Target::of_map(relation, map_id) else {
        return;
    };
    let map = &target.map;
    let Some(field) = map.fields.iter().find(|f| f.column == column) else {
        return;
    };
    target.require(Right::Change, &[field]);
    let value = value.map_or(Json::Null, |value| value.0);
    let object = JsonMap::from_iter([(column.to_owned(), value)]);
    refuse_large(&object);
    refuse_wide_numbers(map, &object);
    refuse_json_for_text(&object, &[field]);
    let refuse = |code, why: String| {
        raise(
            code,
            format!("the value for column \"{column}\" cannot be sent"),
            Some(why),
            "Check the value and the column's transform_out.",
        )
    };
    match rights::pinned(|| cell_value::of_object(map, &[field], &Json::Object(object))) {
        Ok(values) => {
            let reason = |(_, value): &(u16, Value)| field.unstorable_reason(value);
            if let Some(failure) = values.iter().find_map(reason) {
                refuse(
                    PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
                    failure.message,
                )
            }
        }
        Err(StoreError::Postgres {
            code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            message,
        }) => refuse(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION, message),
        // What is no value of the column's type is refused in the words of that type.
        Err(error) => or_raise(Err(error)),
    }
}

/// What `crm.write()` returns.
fn result_of_write(target: &Target, write_id: &str, answer: &Answer) -> JsonB {
    let visible = target.visible();
    // A hash of one of few possible values reveals the value: it is shown to those who may see
    // every value in it.
    let sees_all = visible.len() == target.map.fields.len();
    JsonB(json!({
        "write_id": write_id,
        "outcome": answer.outcome,
        "crm_values": answer.values.as_ref().map(|v| in_columns(&target.map, &visible, v)),
        "snapshot_hash": answer.values.as_ref().filter(|_| sees_all).map(|v| snapshot_hash(&target.map, v)),
        "error_class": answer.error_class,
        "error": answer.error,
    }))
}

/// Records what was read of the CRM's record, as far as it is left to the caller.
fn record_seen(target: &Target, record: &Record, answer: &Answer) {
    let seen = sightings(&target.map, &record.ours, answer);
    if let Some(crm_id) = &record.crm_id {
        let sighted = Sighted {
            key: (&target.shard_key, &target.record_key),
            crm_id,
            cells: &seen,
        };
        or_raise(caller::seen(&target.map, &target.connection, &sighted));
    }
}

fn require_id(correlation_id: Option<&str>) {
    if let Some(id) = correlation_id
        && let Err(why) = settings::is_name(id.as_bytes())
    {
        raise(
            INVALID,
            "invalid correlation_id".to_owned(),
            Some(why.to_string_lossy().into_owned()),
            "Pass a short id of your own, such as that of a request.",
        )
    }
}

/// JSON for a column that is not JSON would be written as its text, which nobody means.
fn refuse_json_for_text(changes: &JsonMap<String, Json>, changed: &[&MappedField]) {
    if let Some(field) = changed.iter().find(|f| {
        let of_json = f.as_json || f.is_json_column;
        !of_json
            && matches!(
                changes.get(&f.column),
                Some(Json::Array(_) | Json::Object(_))
            )
    }) {
        raise(
            PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            format!(
                "column \"{}\" does not accept a JSON array or object",
                field.column
            ),
            None,
            "Pass a string, a number, true, false or null; several choices as one string, separated by semicolons.",
        )
    }
}

/// The cells whose values in the CRM the ledger knows.
fn known_cells(record: &Record, changed: &[&MappedField]) -> Cells {
    let known = CellHashes(&record.hashes);
    let changed = changed.iter().map(|f| f.id);
    changed.filter(|id| known.get(*id).is_some()).collect()
}

/// What the CRM holds now, by column.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
fn perform_read(
    relation: Option<pg_sys::Oid>,
    record_key: Option<&str>,
    connection: Option<&str>,
    shard_key: Option<&str>,
) -> JsonB {
    let target = choose(relation, record_key, connection, shard_key);
    let visible = target.visible();
    if visible.is_empty() && !target.map.fields.is_empty() {
        raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!(
                "permission denied for the mapped columns of {}",
                target.map.relation
            ),
            None,
            "This requires SELECT on the columns to be read, or on the table.",
        )
    }
    if !or_raise(row_locks::is_visible(
        &target.map,
        &target.shard_key,
        &target.record_key,
    )) {
        no_row(&target)
    }
    let record = or_raise(caller::record(
        &target.map,
        &target.shard_key,
        &target.record_key,
        false,
    ));
    let linked = record.as_ref().and_then(|r| Some((r, r.crm_id.clone()?)));
    let Some((record, crm_id)) = linked else {
        raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!(
                "record \"{}\" is not linked to a CRM record yet",
                target.record_key
            ),
            None,
            "crm.link() links a known pair of ids; records that pg_crm creates are linked automatically.",
        )
    };
    let request = ReadRequest {
        connection_id: target.connection.id,
        map_id: target.map.id,
        shard_key: target.shard_key.clone(),
        record_key: target.record_key.clone(),
        crm_id,
        object: target.map.crm_object.clone(),
        fields: visible
            .iter()
            .map(|f| intent_field(f, None, None, record.ours.get(&f.id)))
            .collect(),
    };
    let answer = ask_worker("read", &request);
    record_seen(&target, record, &answer);
    match answer.values {
        Some(values) => JsonB(Json::Object(in_columns(&target.map, &visible, &values))),
        None => raise(
            PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE,
            format!(
                "the CRM could not be read: {}",
                answer.error.as_deref().unwrap_or("no answer")
            ),
            answer
                .error_class
                .map(|class| format!("Error class: {class}.")),
            "crm.status shows how the connection is doing.",
        ),
    }
}

extension_sql!(
    r#"
COMMENT ON FUNCTION crm_internal.perform_write(oid, text, jsonb, jsonb, bool, text, text, text) IS 'implementation of crm.write(); returns its result as a JSON object';
COMMENT ON FUNCTION crm_internal.check_value(int, oid, text, jsonb) IS 'raises unless a mapped column''s value, as JSON, can be sent to the CRM: 22000, 22003, 42804, 54000';
COMMENT ON FUNCTION crm_internal.perform_read(oid, text, text, text) IS 'implementation of crm.read_live()';
"#,
    name = "write_comments",
    requires = [perform_write, perform_read, check_value]
);
