//! Cell masks and per-cell arrays of the ledger, as SQL uses them in set-based statements.

use crm_domain::cells::{self, CellHashes};
use crm_domain::{Cells, Value, conflict};
use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;

use crate::store::table::capture_guard;

/// The cells of either mask.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm_internal")]
fn cells_or(a: &[u8], b: &[u8]) -> Vec<u8> {
    if a == b {
        return a.to_vec();
    }
    Cells::from_bytes(a).union(&Cells::from_bytes(b)).to_bytes()
}

/// The cells of both masks.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm_internal")]
fn cells_and(a: &[u8], b: &[u8]) -> Vec<u8> {
    Cells::from_bytes(a)
        .intersection(&Cells::from_bytes(b))
        .to_bytes()
}

/// The cells of the first mask that the second has not.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm_internal")]
fn cells_minus(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut rest = Cells::from_bytes(a)
        .difference(&Cells::from_bytes(b))
        .to_bytes();
    // As long as it was, so that masks of one map compare byte by byte.
    rest.resize(rest.len().max(a.len()), 0);
    rest
}

/// Whether the hashes know the cell of that field_id to hold something.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm_internal")]
fn cell_is_set(hashes: &[u8], field_id: i32) -> bool {
    u16::try_from(field_id)
        .ok()
        .and_then(|id| CellHashes(hashes).get(id))
        .is_some_and(|hash| hash != conflict::hash(&Value::Null))
}

/// The cells of a map that pg_crm itself is setting in this session right now; NULL: none.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
fn applying(map_id: i32) -> Option<Vec<u8>> {
    capture_guard::applying(map_id)
}

/// The records whose cells `applying()` speaks of: shard_key, a slash, record_key.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
fn applying_to(map_id: i32) -> Option<Vec<String>> {
    capture_guard::applying_to(map_id)
}

/// Whether what is being set is what the CRM holds, and no user's edit.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
fn applying_from_crm(map_id: i32) -> bool {
    capture_guard::applying_from_crm(map_id)
}

/// Whether the mask has the cell of that field_id.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm_internal")]
fn cells_has(cells: &[u8], field_id: i32) -> bool {
    u16::try_from(field_id).is_ok_and(|id| cells::contains(cells, id))
}

/// How many cells the mask has.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm_internal")]
fn cells_count(cells: &[u8]) -> i32 {
    cells::len(cells) as i32
}

/// Times by field_id, on their way back to SQL.
struct Times(Vec<Option<pg_sys::TimestampTz>>);

impl Times {
    fn read(array: Option<Array<'_, TimestampWithTimeZone>>) -> Self {
        let times = array.into_iter().flat_map(|a| a.iter().collect::<Vec<_>>());
        Times(times.map(|t| t.map(Into::into)).collect())
    }
}

// SAFETY: an array of timestamptz is what `box_into` makes.
unsafe impl SqlTranslatable for Times {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Times);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> =
        Ok(SqlMappingRef::literal("timestamptz[]"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("timestamptz[]")));
}

// SAFETY: the datum is an array in the memory context of the caller. Made at once: pgrx would add
// one element after the other, and these functions run for each record that is written back.
unsafe impl BoxRet for Times {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        let mut nulls: Vec<bool> = self.0.iter().map(Option::is_none).collect();
        let mut times: Vec<pg_sys::Datum> = self
            .0
            .iter()
            .map(|t| pg_sys::Datum::from(t.unwrap_or_default()))
            .collect();
        let (mut len, mut first) = (times.len() as i32, 1);
        // SAFETY: both vectors have `len` elements, which the array copies.
        unsafe {
            let array = pg_sys::construct_md_array(
                times.as_mut_ptr(),
                nulls.as_mut_ptr(),
                1,
                &mut len,
                &mut first,
                pg_sys::TIMESTAMPTZOID,
                8,
                true,
                pg_sys::TYPALIGN_DOUBLE as _,
            );
            fcinfo.return_raw_datum(pg_sys::Datum::from(array))
        }
    }
}

/// The times with those of the mask's cells set.
#[pg_extern(immutable, parallel_safe, schema = "crm_internal")]
fn cells_stamp(
    times: Option<Array<'_, TimestampWithTimeZone>>,
    cells: Option<&[u8]>,
    at: Option<TimestampWithTimeZone>,
) -> Option<Times> {
    let none = times.is_none() && cells.is_none();
    let mut times = Times::read(times);
    let at = at.map(Into::into);
    for id in cells::iter(cells.unwrap_or_default()) {
        let id = id as usize;
        if times.0.len() <= id {
            times.0.resize(id + 1, None);
        }
        times.0[id] = at;
    }
    (!none).then_some(times)
}

/// The times of the last sync with those of the mask's cells set: now, but not before what is
/// synced was changed. The clock may have gone back since.
#[pg_extern(immutable, parallel_safe, schema = "crm_internal")]
fn cells_synced(
    times: Option<Array<'_, TimestampWithTimeZone>>,
    cells: Option<&[u8]>,
    at: TimestampWithTimeZone,
    changed: Option<Array<'_, TimestampWithTimeZone>>,
    changed_since: Option<Array<'_, TimestampWithTimeZone>>,
) -> Option<Times> {
    let none = times.is_none() && cells.is_none();
    let mut times = Times::read(times);
    let at = at.into();
    let changed = [changed, changed_since].map(|times| Times::read(times).0);
    for id in cells::iter(cells.unwrap_or_default()) {
        let id = id as usize;
        if times.0.len() <= id {
            times.0.resize(id + 1, None);
        }
        let changed = changed.iter().filter_map(|times| *times.get(id)?);
        times.0[id] = changed.chain([at]).max();
    }
    (!none).then_some(times)
}

/// Per cell the later of two times.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm_internal")]
fn cells_merge(a: Array<'_, TimestampWithTimeZone>, b: Array<'_, TimestampWithTimeZone>) -> Times {
    let (mut a, b) = (Times::read(Some(a)).0, Times::read(Some(b)).0);
    a.resize(a.len().max(b.len()), None);
    a.iter_mut().zip(b).for_each(|(a, b)| *a = (*a).max(b));
    Times(a)
}

/// The packed hashes (16 bytes per field_id) with those of the mask's cells set, given one after
/// another.
#[pg_extern(immutable, parallel_safe, schema = "crm_internal")]
fn cells_hash(hashes: Option<&[u8]>, cells: Option<&[u8]>, new: Option<&[u8]>) -> Option<Vec<u8>> {
    let (Some(cells), Some(new)) = (cells, new) else {
        return hashes.map(<[u8]>::to_vec);
    };
    Some(CellHashes::set_many(hashes, &Cells::from_bytes(cells), new))
}

extension_sql!(
    r#"
CREATE AGGREGATE crm_internal.cells_union(bytea) (SFUNC = crm_internal.cells_or, STYPE = bytea, COMBINEFUNC = crm_internal.cells_or, PARALLEL = SAFE);
COMMENT ON AGGREGATE crm_internal.cells_union(bytea) IS 'union of cell masks';
COMMENT ON FUNCTION crm_internal.cells_or(bytea, bytea) IS 'union of two cell masks';
COMMENT ON FUNCTION crm_internal.cells_and(bytea, bytea) IS 'intersection of two cell masks';
COMMENT ON FUNCTION crm_internal.cells_minus(bytea, bytea) IS 'cells of the first mask that are not in the second';
COMMENT ON FUNCTION crm_internal.cell_is_set(bytea, int) IS 'whether the hashes show that the CRM has a value for that field_id';
COMMENT ON FUNCTION crm_internal.applying(int) IS 'for capture triggers: cells of a map that pg_crm itself is setting in this session; NULL: none';
COMMENT ON FUNCTION crm_internal.applying_to(int) IS 'for capture triggers: records whose cells pg_crm itself is setting: shard_key, a slash, record_key';
COMMENT ON FUNCTION crm_internal.applying_from_crm(int) IS 'for capture triggers: whether the cells that pg_crm itself is setting get CRM values';
COMMENT ON FUNCTION crm_internal.cells_has(bytea, int) IS 'whether a cell mask includes that field_id';
COMMENT ON FUNCTION crm_internal.cells_count(bytea) IS 'number of cells in a mask';
COMMENT ON FUNCTION crm_internal.cells_stamp(timestamptz[], bytea, timestamptz) IS 'array of times by field_id, with the cells of the mask set to a time';
COMMENT ON FUNCTION crm_internal.cells_synced(timestamptz[], bytea, timestamptz, timestamptz[], timestamptz[]) IS
    'array of times by field_id, with the cells of the mask set to a time, or to the time of their change if that is later';
COMMENT ON FUNCTION crm_internal.cells_merge(timestamptz[], timestamptz[]) IS 'element-wise maximum of two arrays of times';
COMMENT ON FUNCTION crm_internal.cells_hash(bytea, bytea, bytea) IS 'hashes by field_id (16 bytes each), with the cells of the mask set';
"#,
    name = "cells_union",
    requires = [
        cells_or,
        cells_and,
        cells_minus,
        cell_is_set,
        applying,
        applying_to,
        applying_from_crm,
        cells_has,
        cells_count,
        cells_stamp,
        cells_synced,
        cells_merge,
        cells_hash
    ]
);
