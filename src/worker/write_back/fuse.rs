//! Whether a claimed batch may go: a round that would delete, clear or create more records than
//! an accident should is held, before any of them is sent, until somebody approves.
//!
//! Guarantees: what is queued is counted by an index, not more often than as much was queued as
//! there was room for. Of what empties fields, no more than the limit goes before it is seen.

use std::collections::HashMap;

use crm_domain::fuse::{Counts, Fuse};
use pgrx::spi::SpiClient;

use crate::store::StoreError;
use crate::store::config::Map;
use crate::store::fuse::{self, Direction, Exempt};

/// A record of a batch that the fuse counts, with its revision.
pub struct Hazard {
    pub kind: Kind,
    pub revision: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Create,
    Delete,
    Clear,
}

pub enum Verdict {
    Goes,
    /// Not before the changes that wait are folded.
    Waits,
    /// With the map's records.
    Held(Counts, i64),
}

/// Batches that are claimed, and how much there is to be claimed beside them.
pub struct Claiming<'a> {
    pub hazards: &'a [Hazard],
    pub records: usize,
    /// More changes are being folded.
    pub is_backlogged: bool,
    pub unsettled: &'a [(&'a str, &'a str)],
}

/// By map with a batch that went, the revision up to which creations and deletions cannot be too
/// many.
#[derive(Default)]
pub struct Room(HashMap<i32, i64>);

impl Room {
    /// A round ends, or the map is held; whether anything was counted.
    pub fn forget(&mut self, map_id: i32) -> bool {
        self.0.remove(&map_id).is_some()
    }

    pub fn judge(
        &mut self,
        client: &mut SpiClient,
        map: &Map,
        fuse: &Fuse,
        claiming: &Claiming,
    ) -> Result<Verdict, StoreError> {
        let Some(floor) = fuse.records.filter(|_| !claiming.hazards.is_empty()) else {
            return Ok(Verdict::Goes);
        };
        let passed = fuse::passed(client, map.id, Direction::Outbound)?;
        let after = passed.approved_revision;
        let fresh: Vec<&Hazard> = claiming
            .hazards
            .iter()
            .filter(|h| h.revision > after)
            .collect();
        let is_load = |exempt| exempt == Exempt::Load;
        let counted = |counts: Counts, exempt| match is_load(exempt) {
            true => counts.without_loads(),
            false => counts,
        };
        let batch = counted(count(&fresh), passed.exempt);
        if batch.total() == 0 {
            return Ok(Verdict::Goes);
        }
        let room = self.0.get(&map.id).copied().unwrap_or(i64::MIN);
        if batch.clears == 0 && fresh.iter().all(|h| h.revision <= room) {
            fuse::pass(client, map.id, Direction::Outbound, &batch)?;
            return Ok(Verdict::Goes);
        }
        let last = fuse::last_revision(client)?;
        let mut clears = Counts {
            clears: batch.clears,
            ..Counts::default()
        };
        if passed.counts.clears == 0 && clears.clears * 2 > claiming.records as i64 {
            let all = fuse::round_size(client, map.id)?;
            clears = clears.of_all(claiming.records as i64, all);
        }
        let known = clears.plus(&passed.counts);
        let sum = |queued: Counts, exempt| counted(queued.plus(&known), exempt);
        let unsettled = claiming.unsettled;
        let mut exempt = passed.exempt;
        let queued = |exempt, most| fuse::queued(client, map.id, (after, exempt, most), unsettled);
        let mut total = sum(queued(exempt, Some(floor + 1))?, exempt);
        let (mut limit, mut linked) = (floor, 0);
        if total.total() > floor {
            linked = fuse::linked(client, map.id)?;
            limit = fuse.limit(linked);
            // A map that has hardly any records yet is being filled.
            if linked <= floor && total.deletes + total.clears <= floor {
                exempt = Exempt::Load;
            }
        }
        // A row that was deleted may have been inserted again.
        if claiming.is_backlogged && !is_load(exempt) {
            return Ok(Verdict::Waits);
        }
        if total.total() > floor {
            total = sum(queued(exempt, Some(limit.saturating_add(1)))?, exempt);
            if total.total() > limit {
                let all = sum(queued(exempt, None)?, exempt);
                fuse::hold(client, map.id, Direction::Outbound, &all, linked)?;
                self.forget(map.id);
                return Ok(Verdict::Held(all, linked));
            }
            if is_load(exempt) && !is_load(passed.exempt) {
                fuse::begin_load(client, map.id)?;
            }
        }
        self.0.insert(map.id, last + (limit - total.total()));
        let batch = counted(batch, exempt);
        fuse::pass(client, map.id, Direction::Outbound, &batch)?;
        Ok(Verdict::Goes)
    }
}

fn count(hazards: &[&Hazard]) -> Counts {
    let of = |kind| hazards.iter().filter(|h| h.kind == kind).count() as i64;
    Counts {
        deletes: of(Kind::Delete),
        clears: of(Kind::Clear),
        creates: of(Kind::Create),
    }
}
