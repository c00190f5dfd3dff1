//! `crm.write()` and `crm.read_live()`: a user's edit goes to the CRM while they wait.
//!
//! The row is changed first, in a subtransaction and as the caller, so that every rule of the table and of the mapping has
//! spoken before the CRM is touched, and what is sent is what the row holds. Then the worker reads, compares and writes. A
//! conflict undoes the subtransaction. Whatever else happens, the edit stays in the row and is with the CRM, or on its way.

use std::collections::BTreeMap;
use std::time::Duration;

use crm_domain::cells::CellHashes;
use crm_domain::{Cells, ErrorClass, Value, conflict, hex};
use pgrx::prelude::*;
use pgrx::{JsonB, PgSqlErrorCode};
use serde_json::{Map as JsonMap, Value as Json, json};

use super::document::Document;
use super::write_outcome::{in_columns, no_row, object, queue, refuse, settle, snapshot_hash};
use super::write_target::{Right, Target, choose};
use super::{ask, or_raise, raise, wake};
use crate::settings;
use crate::store::calls::caller::{self, Record};
use crate::store::config::MappedField;
use crate::store::rights;
use crate::store::table::read::{self, Bounds, RowValues, Wanted};
use crate::store::table::{capture_guard, row_locks, update};
use crate::store::transaction::nested;
use crate::worker::socket::protocol::{Answer, Intent, IntentField, Question};

pub(super) const INVALID: PgSqlErrorCode = PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE;
/// The worker bounds its requests itself; this is for one that hangs.
const PATIENCE: Duration = Duration::from_secs(3600);

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
    if let Some(id) = correlation_id
        && let Err(why) = settings::is_name(id.as_bytes())
    {
        raise(
            INVALID,
            "correlation_id is no name".to_owned(),
            Some(why.to_string_lossy().into_owned()),
            "Give the application's own short id of what it is doing.",
        )
    }
    let changes = object("changes", changes);
    if changes.is_empty() {
        raise(
            INVALID,
            "changes names no column".to_owned(),
            None,
            "Give what is to change, such as '{\"phone\": \"+49 30 1\"}'; crm.read_live() only reads.",
        )
    }
    refuse_large(&changes);
    let changed = target.columns("changes", &changes, "written", |f| f.is_checked());
    // Written as text it would be: nobody means that.
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
            format!("column \"{}\" takes no JSON array or object", field.column),
            None,
            "Give it a text, a number, true, false or null; several choices as one text, separated by semicolons.",
        )
    }
    let base = base.map(|base| object("base", Some(base)));
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
    let edit = Edit {
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
            Some(record) if record.edits_wait && base.is_none() => {
                let known = CellHashes(&record.hashes);
                let changed = changed.iter().map(|f| f.id);
                changed.filter(|id| known.get(*id).is_some()).collect()
            }
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
    if answer.outcome != "conflict" {
        nested(|| {
            intended = change_row(&target, &changes, &edit);
            let crm_id = record.as_ref().and_then(|r| r.crm_id.as_deref());
            match (&early, crm_id) {
                (Some(_), _) => {}
                (None, Some(crm_id)) => answer = ask_to_write(&target, &edit, crm_id, &intended),
                (None, None) => {
                    let why = "the record is not linked to a CRM record yet";
                    answer = Answer::failed("pending", ErrorClass::NotFound.name(), why);
                }
            }
            answer.outcome != "conflict"
        });
    }
    crate::failpoint::reach("caller::answered");
    match answer.outcome.as_str() {
        "conflict" if early.is_some() => refuse(&target, &edit, &changed, changes, &answer),
        "conflict" => {}
        "committed" => settle(&target, &edit, &intended),
        _ => queue(&target, &edit, &answer, &intended),
    }
    crate::failpoint::reach("caller::settled");
    if answer.outcome == "pending" {
        wake::for_what_waits();
    }
    let visible = target.visible();
    // A hash of few possible values is as good as the value, so it goes where all that is in it may be seen.
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

/// Raises if a value is larger than one that is sent may be.
fn refuse_large(changes: &JsonMap<String, Json>) {
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
                "Nothing is changed. No CRM holds texts of that size.",
            )
        }
    }
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
            "It takes SELECT on those that are to be read, or on the table.",
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
    let Some(crm_id) = record.and_then(|r| r.crm_id) else {
        raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!(
                "record \"{}\" is not linked to a CRM record yet",
                target.record_key
            ),
            None,
            "crm.link() states a known pair of ids; records that pg_crm creates are linked by themselves.",
        )
    };
    let question = Question {
        connection_id: target.connection.id,
        crm_id,
        object: target.map.crm_object.clone(),
        fields: visible
            .iter()
            .map(|f| intent_field(f, None, None, false))
            .collect(),
    };
    let answer = ask_worker("read", &question);
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

/// An edit that is being made.
pub(super) struct Edit<'a> {
    pub cells: Cells,
    /// Per field the hash of what the CRM held when the edit was formed.
    pub bases: BTreeMap<u16, conflict::ShortHash>,
    pub force: bool,
    /// The caller said what is to be compared.
    pub compares_base: bool,
    /// Cells of a record with edits that wait: their base is what those leave in the CRM, which the ledger will say by then.
    pub follows: Cells,
    pub write_id: &'a str,
    pub actor: &'a str,
    pub correlation_id: Option<&'a str>,
}

/// What the edit is based on: what the caller saw; else what the CRM last held; else, for a field of which nobody knows
/// that, what the row holds.
fn bases(
    target: &Target,
    record: Option<&Record>,
    changed: &[&MappedField],
    given: Option<(&[&MappedField], &JsonMap<String, Json>)>,
) -> BTreeMap<u16, conflict::ShortHash> {
    if let Some((fields, base)) = given {
        let base = Json::Object(base.clone());
        let values = or_raise(rights::pinned(|| {
            read::of_object(&target.map, fields, &base)
        }));
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
        for (id, value) in row_values(target, &unknown) {
            bases.insert(id, conflict::hash(&value));
        }
    }
    bases
}

/// Changes the row as the caller, and returns what it then holds in the changed cells.
fn change_row(target: &Target, changes: &JsonMap<String, Json>, edit: &Edit) -> Vec<(u16, Value)> {
    let columns: Vec<&str> = changes.keys().map(String::as_str).collect();
    let rows = [update::Row {
        shard_key: target.shard_key.clone(),
        record_key: target.record_key.clone(),
        values: Json::Object(changes.clone()).to_string(),
    }];
    let ours = capture_guard::Ours::edited(target.map.id, edit.cells.to_bytes(), &rows);
    let found = Spi::connect_mut(|client| update::update(client, &target.map, &columns, &rows));
    drop(ours);
    if or_raise(found).is_empty() {
        no_row(target)
    }
    let intended = row_values(target, &edit.cells);
    let unholdable = |(id, value): &(u16, Value)| target.map.field(*id)?.unholdable(value);
    if let Some(failure) = intended.iter().find_map(unholdable) {
        raise(
            PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            format!("record \"{}\" cannot be sent", target.record_key),
            Some(failure.message),
            "Nothing is changed. A validation rule (min, max) keeps such values out of the column.",
        )
    }
    intended
}

/// What the row holds, as it would be sent.
fn row_values(target: &Target, cells: &Cells) -> Vec<(u16, Value)> {
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
            "The record_key, the column's value or its transform_out is at fault.",
        ),
        Some(RowValues::Missing) | None => no_row(target),
    }
}

/// The answer that needs no CRM: where edits wait the CRM cannot tell whether the caller has seen them, but the row can.
fn early_answer(
    target: &Target,
    record: Option<&Record>,
    edit: &Edit,
    based: &[&MappedField],
) -> Option<Answer> {
    if !edit.compares_base || edit.force || !record.is_some_and(|r| r.edits_wait) {
        return None;
    }
    Some(if row_differs(target, based, &edit.bases) {
        let why = "the row holds an edit on its way to the CRM that this one was not based on";
        Answer::failed("conflict", "conflict", why)
    } else {
        let why = "an earlier edit of this record waits; this one follows it";
        Answer::failed("pending", ErrorClass::Transient.name(), why)
    })
}

/// Whether the row holds something else than the caller saw.
fn row_differs(
    target: &Target,
    based: &[&MappedField],
    bases: &BTreeMap<u16, conflict::ShortHash>,
) -> bool {
    let cells: Cells = based
        .iter()
        .filter(|f| f.is_checked())
        .map(|f| f.id)
        .collect();
    let values = row_values(target, &cells);
    let mut values = values.iter();
    values.any(|(id, value)| bases.get(id) != Some(&conflict::hash(value)))
}

fn ask_to_write(target: &Target, edit: &Edit, crm_id: &str, intended: &[(u16, Value)]) -> Answer {
    let field = |f: &MappedField| {
        let value = intended.iter().find(|(id, _)| *id == f.id);
        let compared = f.direction.reads_crm()
            && edit.bases.contains_key(&f.id)
            && !edit.force
            && (edit.compares_base || target.map.compares_record || edit.cells.contains(f.id));
        let base = edit.bases.get(&f.id).filter(|_| !edit.force);
        intent_field(f, value.map(|(_, value)| value), base, compared)
    };
    let intent = Intent {
        write_id: edit.write_id.to_owned(),
        connection_id: target.connection.id,
        map_id: target.map.id,
        shard_key: target.shard_key.clone(),
        record_key: target.record_key.clone(),
        crm_id: crm_id.to_owned(),
        relation: target.map.relation.clone(),
        connection: target.connection.name.clone(),
        provider: target.connection.provider.clone(),
        object: target.map.crm_object.clone(),
        force: edit.force,
        fields: target.map.fields.iter().map(field).collect(),
        actor: edit.actor.to_owned(),
        correlation_id: edit.correlation_id.map(str::to_owned),
        backend_pid: std::process::id() as i32,
    };
    crate::failpoint::reach("caller::asks");
    // Whatever ends this call from here on, a cancel for instance: what the CRM took is put right.
    wake::if_undone();
    let answer = ask_worker("write", &intent);
    if answer.outcome == "conflict" {
        wake::intent_is_closed();
    }
    answer
}

fn intent_field(
    f: &MappedField,
    value: Option<&Value>,
    base: Option<&conflict::ShortHash>,
    compared: bool,
) -> IntentField {
    IntentField {
        id: f.id,
        name: f.field.name.clone(),
        data_type: f.field.data_type.name().to_owned(),
        value: value.map(Value::to_json),
        base: base.map(|hash| hex::encode(hash)),
        compared,
    }
}

fn ask_worker(op: &str, question: &impl serde::Serialize) -> Answer {
    let mut request = match serde_json::to_value(question) {
        Ok(Json::Object(request)) => request,
        _ => unreachable!("a struct is a JSON object"),
    };
    request.insert("op".into(), json!(op));
    let answer = ask::ask(request, PATIENCE).and_then(|a| serde_json::from_value(a).ok());
    answer.unwrap_or_else(|| {
        raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the pg_crm worker did not answer as it should".to_owned(),
            None,
            "Nothing is changed; should the CRM have taken the write, the row will be made to agree. See the server log.",
        )
    })
}

extension_sql!(
    r#"
COMMENT ON FUNCTION crm_internal.perform_write(oid, text, jsonb, jsonb, bool, text, text, text) IS 'crm.write() as one JSON object';
COMMENT ON FUNCTION crm_internal.perform_read(oid, text, text, text) IS 'what crm.read_live() does';
"#,
    name = "write_comments",
    requires = [perform_write, perform_read]
);
