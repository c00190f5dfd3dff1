//! Conditions on rows of mapped tables, as their owners write them.

use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;

use super::{or_raise, raise};
use crate::store::capture::condition;
use crate::store::{config, rights};

/// The columns that a condition on rows of a map's table reads; raises unless the text can be one.
/// NULL: there is no condition. To be called as `crm_engine`.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
fn check_condition(map_id: i32, condition: Option<&str>) -> Option<Vec<String>> {
    let condition = condition?;
    let checked = rights::pinned(|| {
        Spi::connect_mut(|client| {
            Ok(config::map(client, map_id)?.map(|map| (condition::check(&map, condition), map)))
        })
    });
    let (error, map) = match or_raise(checked)? {
        (Ok(columns), _) => return Some(columns),
        (Err(error), map) => (error, map),
    };
    raise(
        error
            .code()
            .unwrap_or(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE),
        format!("invalid condition on {}: {}", map.relation, error.message()),
        Some(format!("The condition is: {condition}")),
        "It is an SQL condition, as after WHERE, over the columns of the table, with immutable built-in functions and operators; use a literal timestamp instead of now().",
    )
}

extension_sql!(
    "COMMENT ON FUNCTION crm_internal.check_condition(int, text) IS 'columns that an SQL condition over the columns of a map''s table reads; raises unless the text is one; NULL: there is none';",
    name = "condition_comments",
    requires = [check_condition]
);
