//! Which record of which map a call means, said clearly when it means none or several.

use std::sync::Arc;

use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;
use serde_json::{Map as JsonMap, Value as Json};

use crate::api::document::Document;
use crate::api::{ask, or_raise, raise};
use crate::store::calls::caller;
use crate::store::config::{Connection, Map, MappedField};
use crate::store::map_cache;

/// What a role may do with a column.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Right {
    See,
    Change,
}

pub struct Target {
    relation: pg_sys::Oid,
    pub map: Arc<Map>,
    pub connection: Connection,
    pub shard_key: String,
    pub record_key: String,
}

/// Raises unless the arguments name one map that works, and unless there is a worker.
pub fn choose(
    relation: Option<pg_sys::Oid>,
    record_key: Option<&str>,
    connection: Option<&str>,
    shard_key: Option<&str>,
) -> Target {
    let (Some(relation), Some(record_key)) = (relation, record_key) else {
        raise(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            "relation and record_key must not be NULL".to_owned(),
            None,
            "record_key is the text of the row's key column.",
        )
    };
    let maps = or_raise(map_cache::targets(relation));
    let named: Vec<_> = maps
        .iter()
        .filter(|(_, c)| connection.is_none_or(|name| c.name == name))
        .collect();
    let known = || {
        let list: Vec<String> = maps
            .iter()
            .map(|(m, c)| format!("map {} to {} on connection {}", m.id, m.crm_object, c.name))
            .collect();
        (!list.is_empty()).then(|| format!("It has: {}.", list.join("; ")))
    };
    let (map, connection) = match named[..] {
        [one] => one,
        [] => raise(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            match connection {
                Some(name) => format!("the table is not mapped on connection \"{name}\""),
                None => "the table is not mapped to a CRM".to_owned(),
            },
            known(),
            "crm.map_object() maps a table.",
        ),
        _ => raise(
            PgSqlErrorCode::ERRCODE_AMBIGUOUS_PARAMETER,
            "the table is mapped more than once".to_owned(),
            known(),
            "Name the connection; the other CRMs receive the edit like any other.",
        ),
    };
    if !map.enabled {
        raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("map {} of {} is disabled", map.id, map.relation),
            None,
            "crm.enable() enables it.",
        )
    }
    if map.in_error {
        raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("map {} of {} is in state error", map.id, map.relation),
            None,
            "crm.status.reason says why and how to fix it.",
        )
    }
    let shard_key = shard_key.unwrap_or_default();
    if !shard_key.is_empty() && map.shard.is_none() {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!(
                "map {} of {} has no shard_column, so its records have no shard_key",
                map.id, map.relation
            ),
            None,
            "Omit shard_key.",
        )
    }
    let (shard_key, record_key) = or_raise(caller::spelt(map, shard_key, record_key));
    ask::require_worker();
    Target {
        relation,
        map: map.clone(),
        connection: connection.clone(),
        shard_key,
        record_key,
    }
}

impl Target {
    /// A map of a table as it is, whatever keeps it from working, and none of its rows.
    pub fn of_map(relation: pg_sys::Oid, map_id: i32) -> Option<Target> {
        let maps = or_raise(map_cache::targets(relation));
        let (map, connection) = maps.iter().find(|(map, _)| map.id == map_id)?;
        Some(Target {
            relation,
            map: map.clone(),
            connection: connection.clone(),
            shard_key: String::new(),
            record_key: String::new(),
        })
    }

    /// Whether the caller has the right to a column, or to the whole table.
    pub fn admits(&self, right: Right, column: &str) -> bool {
        let mode = match right {
            Right::See => pg_sys::ACL_SELECT,
            Right::Change => pg_sys::ACL_UPDATE,
        };
        let Ok(name) = std::ffi::CString::new(column) else {
            return false;
        };
        // SAFETY: syscache look-ups inside a transaction.
        unsafe {
            let caller = pg_sys::GetUserId();
            let mode = pg_sys::AclMode::from(mode);
            let granted = pg_sys::AclResult::ACLCHECK_OK;
            if pg_sys::pg_class_aclcheck(self.relation, caller, mode) == granted {
                return true;
            }
            let number = pg_sys::get_attnum(self.relation, name.as_ptr());
            number != pg_sys::InvalidAttrNumber as i16
                && pg_sys::pg_attribute_aclcheck(self.relation, number, caller, mode) == granted
        }
    }

    /// Raises unless the caller has the right to all of these columns.
    pub fn require(&self, right: Right, fields: &[&MappedField]) {
        let refused = fields.iter().find(|f| !self.admits(right, &f.column));
        let Some(field) = refused else { return };
        let (what, grant) = match right {
            Right::See => ("compare", "SELECT"),
            Right::Change => ("change", "UPDATE"),
        };
        raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!(
                "permission denied to {what} column \"{}\" of {}",
                field.column, self.map.relation
            ),
            None,
            &format!("This requires {grant} on the column or on the table."),
        )
    }

    /// The fields whose columns the caller may read.
    pub fn visible(&self) -> Vec<&MappedField> {
        let fields = self.map.fields.iter();
        fields
            .filter(|f| self.admits(Right::See, &f.column))
            .collect()
    }

    /// The mapped fields of an object's keys, or an error that lists the columns that may be there.
    pub fn columns(
        &self,
        what: &str,
        object: &JsonMap<String, Json>,
        may_be: &str,
        admits: fn(&MappedField) -> bool,
    ) -> Vec<&MappedField> {
        let field = |column: &String| self.map.fields.iter().find(|f| f.column == *column);
        object
            .keys()
            .map(|column| {
                let why = match field(column) {
                    Some(f) if admits(f) => return f,
                    Some(f) if f.direction.reads_crm() && f.written => "is not mapped so".to_owned(),
                    Some(f) => format!("is mapped {}{}", f.direction, if f.written { "" } else { ", not written back" }),
                    None => "is not mapped".to_owned(),
                };
                let list: Vec<&str> = self
                    .map
                    .fields
                    .iter()
                    .filter(|f| admits(f))
                    .map(|f| f.column.as_str())
                    .collect();
                raise(
                    PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                    format!("{what}: column \"{column}\" of {} {why}", self.map.relation),
                    Some(if list.is_empty() {
                        format!("No column can be {may_be}: none is mapped as bidirectional.")
                    } else {
                        format!("Columns that can be {may_be}: {}.", list.join(", "))
                    }),
                    "Other columns are changed by UPDATE; outbound ones are written back with the map's next round.",
                )
            })
            .collect()
    }
}

pub const INVALID: PgSqlErrorCode = PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE;

pub fn object(what: &str, json: Option<Document>) -> JsonMap<String, Json> {
    match json {
        Some(Document(Json::Object(object))) => object,
        _ => raise(
            INVALID,
            format!("{what} must be a JSON object of column -> value"),
            None,
            "For example '{\"phone\": \"+49 30 1\"}'.",
        ),
    }
}

pub fn no_row(target: &Target) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
        format!(
            "table {} has no row with record_key \"{}\" that you may change",
            target.map.relation, target.record_key
        ),
        (!target.shard_key.is_empty())
            .then(|| format!("Its shard_key is \"{}\".", target.shard_key)),
        match target.map.filter {
            None => "record_key is the text of the key column; row security may hide a row.",
            Some(_) => {
                "record_key is the text of the key column. The row may be outside the filter of its map: UPDATE changes it, and nothing is sent."
            }
        },
    )
}
