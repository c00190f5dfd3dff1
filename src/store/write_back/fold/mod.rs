//! Committed changes become queued work: `crm.change` is folded into `crm.queue` and
//! `crm.pending_write`, a slice at a time.
//!
//! Guarantees: a record's changes are folded in the order in which they were committed. A record
//! whose ledger row another session has locked is left for the next fold, with all of its changes.
//!
//! One statement ([`take`]) locks a slice of changes and the ledger rows of its records, and queues
//! plain updates, which are nearly all there is. The records that need more come back, each kind to
//! statements of its own: rows that are gone ([`deletions`]), edits that are checked against the
//! CRM before they are written ([`edits`]), rows inserted over a record that they have already
//! ([`reinsertions`]).

mod deletions;
mod edits;
mod put_aside;
mod reinsertions;
mod take;

use std::collections::HashSet;

use pgrx::PgSqlErrorCode;
use pgrx::spi::SpiClient;

pub use put_aside::put_aside;

use crate::store::error::StoreError;
use crate::store::row::Columns;
use crate::store::statement::{Cached, FEW};
use crate::store::transaction::{subtransaction, transaction};
use take::{OnQueued, Record};

/// Slices that expect records to be queued already, once one was found.
const EXPECT_QUEUED_FOR: u32 = 20;

/// Where a slice of `crm.change` begins or ends: (shard_key, change_id).
pub type Place = (String, i64);

/// What a fold did.
#[derive(Default)]
pub struct Folded {
    /// Records whose changes were folded; 0: no more can be had now.
    pub records: usize,
    /// Maps with changes that had to be left, because another session has locked their records.
    pub locked_maps: HashSet<i32>,
}

/// Folds the changes of about `rows` records.
///
/// `expect_queued`: for how many slices to come records are expected to be queued already. Looking
/// for that costs as much as the rest of an INSERT, so slices go without it until one finds such a
/// record and is folded again.
///
/// `at`: the last row of the slice that is being folded, read after an error.
pub fn fold(
    client: &mut SpiClient,
    rows: usize,
    expect_queued: &mut u32,
    at: &mut Option<Place>,
) -> Result<Folded, StoreError> {
    let mut folded = Folded::default();
    let mut after = (String::new(), i64::MIN);
    while let Some((last, records)) = slice_end(client, &after, rows)? {
        *at = Some(last.clone());
        let slice = take::Slice {
            after: &after,
            last: &last,
            records,
        };
        let mut taken = None;
        if records > FEW && *expect_queued == 0 {
            match subtransaction(|| take::take(client, &slice, OnQueued::Fail)) {
                Ok(all) => taken = Some(all),
                Err(error) if error.code() == Some(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION) => {
                    *expect_queued = EXPECT_QUEUED_FOR;
                }
                Err(error) => return Err(error),
            }
        }
        let taken = match taken {
            Some(taken) => taken,
            None => {
                *expect_queued = expect_queued.saturating_sub(1);
                take::take(client, &slice, OnQueued::Merge)?
            }
        };
        fold_involved(client, taken.involved)?;
        folded.locked_maps.extend(taken.locked_maps);
        if taken.records > 0 {
            folded.records = taken.records;
            break;
        }
        // All of these records are locked; others come after them.
        after = last;
    }
    Ok(folded)
}

/// How many changes after one that cannot be folded are tried, to see whether it is to blame.
const OTHERS: usize = 8;

/// Whether a change after that one can be folded, or could not for another reason. Rolls back what
/// it tried. `None`: there is no other.
pub fn is_alone_at_fault(at: &Place, error: &StoreError) -> Result<Option<bool>, StoreError> {
    let mut after = at.clone();
    for tried in 0..OTHERS {
        let mut is_last = false;
        let trial = transaction(|client| {
            let Some((last, records)) = slice_end(client, &after, 1)? else {
                is_last = true;
                return Ok(());
            };
            let slice = take::Slice {
                after: &after.clone(),
                last: &last,
                records,
            };
            after = last.clone();
            let taken = take::take(client, &slice, OnQueued::Merge)?;
            fold_involved(client, taken.involved)?;
            // Nothing of it stays.
            Err(StoreError::Postponed)
        });
        match trial {
            Ok(()) if is_last => return Ok((tried > 0).then_some(false)),
            Err(StoreError::Postponed) => return Ok(Some(true)),
            Err(other) if other.blames_no_row() => return Err(other),
            Err(other) if other.code() != error.code() => return Ok(Some(true)),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(Some(false))
}

/// The records that need more than a place in the queue. Their ledger rows are locked by now, so
/// that these statements see whatever was decided about them before.
fn fold_involved(client: &mut SpiClient, involved: Vec<Record>) -> Result<(), StoreError> {
    if involved.is_empty() {
        return Ok(());
    }
    let (deleted, live): (Vec<Record>, Vec<Record>) =
        involved.into_iter().partition(|r| r.is_deleted);
    deletions::fold(client, &deleted)?;
    edits::fold(client, &live)?;
    reinsertions::fold(client, &live)?;
    let deletes = deleted.iter().filter(|r| r.deletes_record);
    take::queue(client, live.iter().chain(deletes).collect())?;
    deletions::leave_unjudged(client, &deleted)
}

/// The last row of the slice that begins after that place and has about so many records; and how
/// many it has.
fn slice_end(
    client: &SpiClient,
    after: &Place,
    rows: usize,
) -> Result<Option<(Place, usize)>, StoreError> {
    let mut last = None;
    let mut records = 0;
    let mut cursor = client.open_cursor(
        Cached(
            "SELECT shard_key, change_id, cardinality(record_keys)::bigint AS records FROM crm.change
         WHERE (shard_key, change_id) > ($1, $2) ORDER BY shard_key, change_id",
        ),
        &[after.0.as_str().into(), after.1.into()],
    );
    while records < rows {
        let few = cursor.fetch(50)?;
        if few.is_empty() {
            break;
        }
        for row in few {
            if records < rows {
                records += row.number("records")?;
                last = Some((row.required("shard_key")?, row.required("change_id")?));
            }
        }
    }
    Ok(last.map(|last| (last, records)))
}
