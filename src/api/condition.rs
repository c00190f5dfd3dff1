//! Conditions on rows of mapped tables, as their owners write them.

use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;

use super::{or_raise, raise};
use crate::store::capture::condition;
use crate::store::{config, rights};

/// Raises unless the text can be a condition on rows of a map's table, or is NULL. To be called as
/// `crm_engine`.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
fn check_condition(map_id: i32, condition: Option<&str>) {
    let Some(condition) = condition else { return };
    let checked = rights::pinned(|| {
        Spi::connect_mut(|client| {
            Ok(config::map(client, map_id)?
                .map(|map| (condition::check(client, &map, condition), map)))
        })
    });
    let Some((Err(error), map)) = or_raise(checked) else {
        return;
    };
    raise(
        error
            .code()
            .unwrap_or(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE),
        format!("invalid condition on {}: {}", map.relation, error.message()),
        Some(format!("The condition is: {condition}")),
        "It is an SQL condition, as after WHERE, over the columns of the table, with built-in functions and operators.",
    )
}

extension_sql!(
    "COMMENT ON FUNCTION crm_internal.check_condition(int, text) IS 'raises unless the text is an SQL condition over the columns of a map''s table, evaluated as its owner, or NULL';",
    name = "condition_comments",
    requires = [check_condition]
);
