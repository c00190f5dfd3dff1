//! Conditions on rows, written by the owner of a table.
//!
//! Guarantees: the text is one expression, so it can stand wherever one may; it names nothing but
//! columns of the table and built-in functions that are immutable, so that it reads nothing but the
//! row and gives the same answer each time; and it runs with the owner's rights and nobody else's.

use std::ffi::{CStr, CString};

use pgrx::{PgList, PgSqlErrorCode, pg_sys};

use crate::store::config::filter::holds;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::statement::names::Running;
use crate::store::table::pace::Pace;
use crate::store::transaction::subtransaction;

/// Fails unless the text is a condition on rows of the map's table; returns the columns that it
/// reads.
pub fn check(map: &Map, condition: &str) -> Result<Vec<String>, StoreError> {
    if !subtransaction(|| is_one_expression(condition))? {
        return Err(refused(
            PgSqlErrorCode::ERRCODE_SYNTAX_ERROR,
            "it is not a single expression",
        ));
    }
    let statement = format!("SELECT {} FROM {} AS t", holds(condition), map.relation);
    Pace::new(map, None).run(1, || columns(map, &statement))
}

fn refused(code: PgSqlErrorCode, message: &str) -> StoreError {
    StoreError::Postgres {
        code,
        message: message.to_owned(),
    }
}

/// Analyses a statement that selects nothing but the condition.
fn columns(map: &Map, statement: &str) -> Result<Vec<String>, StoreError> {
    use PgSqlErrorCode::*;
    let Ok(text) = CString::new(statement) else {
        return Err(refused(ERRCODE_SYNTAX_ERROR, "it contains a null byte"));
    };
    let running = Running::begin(statement);
    // SAFETY: inside a transaction; the trees live as long as its memory context, and the statement
    // is one query, as the condition is one expression.
    unsafe {
        let mode = pg_sys::RawParseMode::RAW_PARSE_DEFAULT;
        let statements =
            PgList::<pg_sys::RawStmt>::from_pg(pg_sys::raw_parser(text.as_ptr(), mode));
        let Some(raw) = statements.get_ptr(0) else {
            return Err(refused(ERRCODE_SYNTAX_ERROR, "it is empty"));
        };
        let no_types = std::ptr::null();
        let no_tables = std::ptr::null_mut();
        let query = &*pg_sys::parse_analyze_fixedparams(raw, text.as_ptr(), no_types, 0, no_tables);
        running.must_be_analysed();
        let selected = query.targetList.cast::<pg_sys::Node>();
        for (is_there, code, what) in [
            (query.hasAggs, ERRCODE_GROUPING_ERROR, "aggregate functions"),
            (
                query.hasWindowFuncs,
                ERRCODE_WINDOWING_ERROR,
                "window functions",
            ),
            (
                query.hasSubLinks,
                ERRCODE_FEATURE_NOT_SUPPORTED,
                "subqueries",
            ),
            (
                query.hasTargetSRFs,
                ERRCODE_FEATURE_NOT_SUPPORTED,
                "functions that return sets",
            ),
        ] {
            if is_there {
                return Err(refused(
                    code,
                    &format!("{what} are not allowed in conditions"),
                ));
            }
        }
        if pg_sys::contain_mutable_functions(selected) {
            return Err(refused(
                ERRCODE_INVALID_OBJECT_DEFINITION,
                "functions and operators in conditions must be immutable",
            ));
        }
        if names_the_moment(statement) && has_moments(selected) {
            return Err(refused(
                ERRCODE_INVALID_OBJECT_DEFINITION,
                "'now' and 'today' and their like are not allowed in conditions",
            ));
        }
        columns_of(map.names.table, selected)
    }
}

/// Whether a text has a word in quotes that PostgreSQL reads as a moment of its own: what it is
/// read as is all that is left of it after the analysis.
fn names_the_moment(statement: &str) -> bool {
    let lower = statement.to_ascii_lowercase();
    let mut words = lower.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|word| matches!(word, "now" | "today" | "tomorrow" | "yesterday"))
}

/// Whether an expression has constants of the types that read such words.
///
/// # Safety
/// `node` is an analysed expression.
unsafe fn has_moments(node: *mut pg_sys::Node) -> bool {
    // SAFETY: as promised; the text is a fresh one.
    let tree = unsafe { CStr::from_ptr(pg_sys::nodeToString(node.cast())) }.to_string_lossy();
    let types = [
        pg_sys::DATEOID,
        pg_sys::TIMEOID,
        pg_sys::TIMETZOID,
        pg_sys::TIMESTAMPOID,
        pg_sys::TIMESTAMPTZOID,
    ];
    let is_there = |of: &pg_sys::Oid| tree.contains(&format!(":consttype {} ", of.to_u32()));
    types.iter().any(is_there)
}

/// # Safety
/// `node` is an analysed expression whose only relation is the table.
unsafe fn columns_of(
    table: pg_sys::Oid,
    node: *mut pg_sys::Node,
) -> Result<Vec<String>, StoreError> {
    let mut columns = Vec::new();
    // SAFETY: as promised; names are fresh copies.
    unsafe {
        let mut numbers = std::ptr::null_mut();
        pg_sys::pull_varattnos(node, 1, &mut numbers);
        let mut number = pg_sys::bms_next_member(numbers, -1);
        while number >= 0 {
            let attribute = number + pg_sys::FirstLowInvalidHeapAttributeNumber;
            if attribute <= 0 {
                return Err(refused(
                    PgSqlErrorCode::ERRCODE_INVALID_COLUMN_REFERENCE,
                    "only columns of the table can be named, one by one",
                ));
            }
            let name = pg_sys::get_attname(table, attribute as i16, false);
            columns.push(CStr::from_ptr(name).to_string_lossy().into_owned());
            number = pg_sys::bms_next_member(numbers, number);
        }
    }
    Ok(columns)
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
