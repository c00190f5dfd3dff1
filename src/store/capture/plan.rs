//! What a push of a table's rows, or of those that are queued, would do to the CRM's records.
//!
//! Guarantees: nothing is changed, nothing locked but the table's definition, and no more than a
//! part is in memory.

use crm_domain::cells::CellHashes;
use crm_domain::{Cells, Failure};
use pgrx::spi::SpiClient;

use crate::store::capture::ledger_state;
pub use crate::store::capture::ledger_state::Fate;
use crate::store::capture::scan_order::Order;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::record::key::Key;
use crate::store::row::Columns;
use crate::store::statement::Cached;
use crate::store::table::pace::Pace;
use crate::store::table::read::{self, Bounds, RowValues, Wanted};

/// A row, and what would become of its record.
pub struct Planned {
    pub key: Key,
    /// `None`: it is outside the filter of the map, or gone.
    pub fate: Option<Fate>,
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
    let fates = ledger_state::fates(client, map, &keys)?;
    let candidates = keys.into_iter().zip(fates);
    let candidates = candidates.map(|(key, (fate, hashes))| Candidate {
        cells: match fate {
            Fate::Created => created.clone(),
            Fate::Updated => written.clone(),
            Fate::Skipped => Cells::new(),
        },
        key,
        fate,
        hashes,
    });
    judged(map, candidates.collect(), bounds)
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
        let row = read.remove(&n);
        let is_there = !matches!(row, Some(RowValues::Missing));
        let (is_cleared, failure) = match row {
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
            fate: is_there.then_some(candidate.fate),
            is_cleared,
            failure,
        }
    };
    Ok(candidates.into_iter().enumerate().map(judge).collect())
}
