//! Cell masks and per-cell arrays of the ledger, as SQL uses them in set-based statements.

use crm_domain::Cells;
use crm_domain::cells::{self, CellHashes};
use pgrx::prelude::*;

/// The cells of either mask.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm")]
fn cells_or(a: &[u8], b: &[u8]) -> Vec<u8> {
    if a == b {
        return a.to_vec();
    }
    Cells::from_bytes(a).union(&Cells::from_bytes(b)).to_bytes()
}

/// Whether the mask has the cell of that field_id.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm")]
fn cells_has(cells: &[u8], field_id: i32) -> bool {
    u16::try_from(field_id).is_ok_and(|id| cells::contains(cells, id))
}

/// How many cells the mask has.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm")]
fn cells_count(cells: &[u8]) -> i32 {
    cells::len(cells) as i32
}

/// The times with those of the mask's cells set.
#[pg_extern(immutable, parallel_safe, schema = "crm")]
fn cells_stamp(
    times: Option<Vec<Option<TimestampWithTimeZone>>>,
    cells: Option<&[u8]>,
    at: Option<TimestampWithTimeZone>,
) -> Option<Vec<Option<TimestampWithTimeZone>>> {
    let Some(cells) = cells else { return times };
    let mut times = times.unwrap_or_default();
    for id in cells::iter(cells) {
        let id = id as usize;
        if times.len() <= id {
            times.resize(id + 1, None);
        }
        times[id] = at;
    }
    Some(times)
}

/// Per cell the later of two times.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm")]
fn cells_merge(
    a: Vec<Option<TimestampWithTimeZone>>,
    b: Vec<Option<TimestampWithTimeZone>>,
) -> Vec<Option<TimestampWithTimeZone>> {
    (0..a.len().max(b.len()))
        .map(|i| a.get(i).copied().flatten().max(b.get(i).copied().flatten()))
        .collect()
}

/// The packed hashes (16 bytes per field_id) with those of the mask's cells set, given one after another.
#[pg_extern(immutable, parallel_safe, schema = "crm")]
fn cells_hash(hashes: Option<&[u8]>, cells: Option<&[u8]>, new: Option<&[u8]>) -> Option<Vec<u8>> {
    let (Some(cells), Some(new)) = (cells, new) else {
        return hashes.map(<[u8]>::to_vec);
    };
    Some(CellHashes::set_many(hashes, &Cells::from_bytes(cells), new))
}

extension_sql!(
    r#"
CREATE AGGREGATE crm.cells_union(bytea) (SFUNC = crm.cells_or, STYPE = bytea, COMBINEFUNC = crm.cells_or, PARALLEL = SAFE);
COMMENT ON AGGREGATE crm.cells_union(bytea) IS 'the cells of any of the masks';
COMMENT ON FUNCTION crm.cells_or(bytea, bytea) IS 'the cells of either mask';
COMMENT ON FUNCTION crm.cells_has(bytea, int) IS 'whether a cell mask has the cell of that field_id';
COMMENT ON FUNCTION crm.cells_count(bytea) IS 'how many cells a mask has';
COMMENT ON FUNCTION crm.cells_stamp(timestamptz[], bytea, timestamptz) IS 'times per field_id, with those of the mask''s cells set';
COMMENT ON FUNCTION crm.cells_merge(timestamptz[], timestamptz[]) IS 'per cell the later of two times';
COMMENT ON FUNCTION crm.cells_hash(bytea, bytea, bytea) IS 'hashes per field_id (16 bytes each), with those of the mask''s cells set';
"#,
    name = "cells_union",
    requires = [
        cells_or,
        cells_has,
        cells_count,
        cells_stamp,
        cells_merge,
        cells_hash
    ]
);
