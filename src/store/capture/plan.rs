//! What a push of a table's rows, or of those that are queued, would do to the CRM's records.
//!
//! Guarantees: nothing is changed, nothing locked but the table's definition, and no more than a
//! part is in memory.

use crm_domain::cells::CellHashes;
use crm_domain::mapping::OnInsert;
use crm_domain::{Cells, Failure};
use pgrx::spi::SpiClient;

use crate::store::capture::scan_order::Order;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::record::key::Key;
use crate::store::row::Columns;
use crate::store::statement::Cached;
use crate::store::table::pace::Pace;
use crate::store::table::read::{self, Bounds, RowValues, Wanted};

/// What would become of a record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Created,
    Updated,
    /// It has no CRM record and gets none.
    Skipped,
}

/// A row, and what would become of its record.
pub struct Planned {
    pub key: Key,
    pub fate: Fate,
    /// A field that has a value in the CRM would be emptied.
    pub is_cleared: bool,
    /// Why it cannot be sent.
    pub failure: Option<Failure>,
}

/// A record, with the cells that would be sent and what the CRM is known to hold.
struct Candidate {
    key: Key,
    fate: Fate,
    cells: Cells,
    hashes: Vec<u8>,
}

/// The next rows of a table in the order of its key, all of whose cells are sent; none: there are
/// no more.
pub fn rows(
    client: &mut SpiClient,
    map: &Map,
    order: &Order,
    after: Option<&Key>,
    rows: usize,
    bounds: &Bounds,
) -> Result<Vec<Planned>, StoreError> {
    let mut pace = Pace::new(map, bounds.time);
    let keys = pace.run(rows, || order.keys(map, after, rows))?;
    let (written, created) = (map.cells(|f| f.written), map.cells(|f| f.created));
    let known = client.select(
        Cached(
            "SELECT k.ord - 1 AS ord, l.crm_id IS NOT NULL AS is_linked, coalesce(l.detached, false) AS is_detached, l.hashes
             FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS k (shard_key, record_key, ord)
             -- OFFSET 0, here and below: looked up one by one, whatever is known of the table.
             LEFT JOIN LATERAL (SELECT * FROM crm.ledger l
                                WHERE l.shard_key = k.shard_key AND l.map_id = $1 AND l.record_key = k.record_key OFFSET 0) l ON true
             ORDER BY k.ord",
        ),
        None,
        &[
            map.id.into(),
            keys.iter().map(|k| k.shard_key.as_str()).collect::<Vec<_>>().into(),
            keys.iter().map(|k| k.record_key.as_str()).collect::<Vec<_>>().into(),
        ],
    )?;
    let mut candidates = Vec::with_capacity(keys.len());
    for row in known {
        let fate = match (row.required("is_linked")?, row.required("is_detached")?) {
            (true, _) => Fate::Updated,
            (false, false) if map.on_insert == OnInsert::Create => Fate::Created,
            (false, _) => Fate::Skipped,
        };
        candidates.push(Candidate {
            key: keys[row.number("ord")?].clone(),
            fate,
            cells: match fate {
                Fate::Created => created.clone(),
                Fate::Updated => written.clone(),
                Fate::Skipped => Cells::new(),
            },
            hashes: row.optional("hashes")?.unwrap_or_default(),
        });
    }
    judged(map, candidates, bounds)
}

/// The updates that are queued first.
pub fn queued(
    client: &mut SpiClient,
    map: &Map,
    records: usize,
    bounds: &Bounds,
) -> Result<Vec<Planned>, StoreError> {
    let written = map.cells(|f| f.written);
    let found = client.select(
        Cached(
            "SELECT q.shard_key, q.record_key, q.cells, l.hashes
             FROM (SELECT * FROM crm.queue x WHERE x.map_id = $1 AND x.state = 'queued' AND x.op IN ('u', 'k') ORDER BY x.next_attempt_at LIMIT $2) q
             JOIN crm.ledger l USING (shard_key, map_id, record_key)",
        ),
        None,
        &[map.id.into(), (records as i64).into()],
    )?;
    let mut candidates = Vec::new();
    for row in found {
        let cells: Option<&[u8]> = row.optional("cells")?;
        candidates.push(Candidate {
            key: Key {
                shard_key: row.required("shard_key")?,
                record_key: row.required("record_key")?,
            },
            fate: Fate::Updated,
            cells: Cells::from_bytes(cells.unwrap_or_default()).intersection(&written),
            hashes: row.optional("hashes")?.unwrap_or_default(),
        });
    }
    judged(map, candidates, bounds)
}

fn judged(
    map: &Map,
    candidates: Vec<Candidate>,
    bounds: &Bounds,
) -> Result<Vec<Planned>, StoreError> {
    let wanted: Vec<Wanted> = candidates
        .iter()
        .map(|c| Wanted {
            shard_key: &c.key.shard_key,
            record_key: &c.key.record_key,
            cells: &c.cells,
        })
        .collect();
    let mut read = read::read(map, &wanted, &bounds.whole())?;
    drop(wanted);
    let judge = |(n, candidate): (usize, Candidate)| {
        let known = CellHashes(&candidate.hashes);
        let (is_cleared, failure) = match read.remove(&n) {
            Some(RowValues::Found(fields)) => {
                let clears = fields.iter().any(|(id, _, value)| {
                    let is_sent = map.field(*id).is_some_and(|f| !f.is_withheld(value));
                    value.is_null() && is_sent && known.may_have_value(*id)
                });
                (clears && candidate.fate == Fate::Updated, None)
            }
            Some(RowValues::Unreadable(failure)) => (false, Some(failure)),
            Some(RowValues::Missing) | None => (false, None),
        };
        Planned {
            key: candidate.key,
            fate: candidate.fate,
            is_cleared,
            failure,
        }
    };
    Ok(candidates.into_iter().enumerate().map(judge).collect())
}
