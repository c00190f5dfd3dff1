//! Conditions on rows, written by the owner of a table.
//!
//! Guarantees: the text is one expression, so it can stand wherever one may; it names nothing but
//! columns of the table and built-in functions; and it runs with the owner's rights and nobody
//! else's.

use std::ffi::CString;

use pgrx::spi::SpiClient;
use pgrx::{PgList, PgSqlErrorCode, pg_sys};

use crate::store::capture::scan_order::Order;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::table::pace::Pace;
use crate::store::transaction::subtransaction;

/// Fails unless the text is a condition on rows of the map's table: what the statement that uses it
/// would fail with.
pub fn check(client: &mut SpiClient, map: &Map, condition: &str) -> Result<(), StoreError> {
    if !subtransaction(|| is_one_expression(condition))? {
        return Err(StoreError::Postgres {
            code: PgSqlErrorCode::ERRCODE_SYNTAX_ERROR,
            message: "it is not a single expression".to_owned(),
        });
    }
    let order = Order::of(client, map)?;
    let mut pace = Pace::new(map, None);
    pace.run(1, || order.rows(map, None, 0, Some(condition)))?;
    Ok(())
}

fn is_one_expression(condition: &str) -> Result<bool, StoreError> {
    let Ok(text) = CString::new(format!("({condition}\n)")) else {
        return Ok(false);
    };
    // SAFETY: inside a transaction; the parser's trees live as long as its memory context, and each
    // cast follows from the mode in which it parsed.
    unsafe {
        let mode = pg_sys::RawParseMode::RAW_PARSE_PLPGSQL_EXPR;
        let statements =
            PgList::<pg_sys::RawStmt>::from_pg(pg_sys::raw_parser(text.as_ptr(), mode));
        let Some(statement) = statements.get_ptr(0).filter(|_| statements.len() == 1) else {
            return Ok(false);
        };
        let select = &*(*statement).stmt.cast::<pg_sys::SelectStmt>();
        let targets = PgList::<pg_sys::ResTarget>::from_pg(select.targetList);
        let lists = [
            select.distinctClause,
            select.fromClause,
            select.groupClause,
            select.windowClause,
            select.sortClause,
            select.lockingClause,
        ];
        let nodes = [
            select.whereClause,
            select.havingClause,
            select.limitOffset,
            select.limitCount,
        ];
        let has_no_name = |n: *mut pg_sys::ResTarget| (*n).name.is_null();
        Ok(targets.len() == 1
            && targets.get_ptr(0).is_some_and(has_no_name)
            && lists.iter().all(|list| list.is_null())
            && nodes.iter().all(|node| node.is_null()))
    }
}
