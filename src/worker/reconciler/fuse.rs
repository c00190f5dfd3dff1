//! Whether claimed edits may go: those that empty too many fields are held, with the map's
//! write-back, until somebody approves. Edits of `crm.write()` are not counted and not held.

use crm_domain::Value;
use crm_domain::cells::CellHashes;
use crm_domain::fuse::{Counts, Fuse};
use pgrx::spi::SpiClient;

use super::read::PendingWithRow;
use crate::store::StoreError;
use crate::store::config::Map;
use crate::store::fuse::{self, Direction, Exempt};
use crate::store::reconcile::pending_writes;

/// What is held, if it is too much.
pub fn judge(
    client: &mut SpiClient,
    map: &Map,
    edits: &[PendingWithRow],
    fuse: &Fuse,
) -> Result<Option<(Counts, i64)>, StoreError> {
    let clears = edits.iter().filter(|e| is_clear(e)).count() as i64;
    let Some(floor) = fuse.records.filter(|_| clears > 0) else {
        return Ok(None);
    };
    let passed = fuse::passed(client, map.id, Direction::Outbound)?;
    if passed.exempt == Exempt::Load {
        return Ok(None);
    }
    let counts = |most| -> Result<Counts, StoreError> {
        let waiting = Counts {
            clears: pending_writes::clears(client, map.id, most)?,
            ..Counts::default()
        };
        Ok(passed.counts.plus(&waiting))
    };
    if fuse.depends_on_records(&counts(Some(floor + 1))?) {
        let linked = fuse::linked(client, map.id)?;
        let most = fuse.limit(linked).saturating_add(1);
        if fuse.holds(&counts(Some(most))?, linked) {
            let all = counts(None)?;
            fuse::hold(client, map.id, Direction::Outbound, &all, linked)?;
            return Ok(Some((all, linked)));
        }
    }
    let counts = Counts {
        clears,
        ..Counts::default()
    };
    fuse::pass(client, map.id, Direction::Outbound, &counts)?;
    Ok(None)
}

/// Whether an edit empties a field that may have a value.
fn is_clear(edit: &PendingWithRow) -> bool {
    let known = CellHashes(&edit.pending.hashes);
    let is_emptied = |(id, value): (&u16, &Value)| {
        edit.pending.cells.contains(*id) && *value == Value::Null && known.may_have_value(*id)
    };
    edit.pending.is_counted && edit.local.iter().any(is_emptied)
}
