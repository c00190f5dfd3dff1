//! Whether a claimed batch may go: a round that would delete, clear or create more records than an
//! accident should is held, before any of them is sent, until somebody approves.
//!
//! Guarantees: a map that is held is judged again in each of its rounds, and released if what it
//! was held for was undone. What is queued is counted by an index, not more often than as much was
//! queued as there was room for. Of what empties fields, no more than the limit goes before it is
//! seen.

use std::collections::HashMap;

use crm_domain::fuse::{Counts, Fuse};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::store::StoreError;
use crate::store::config::Map;
use crate::store::fuse::{self, Direction, Exempt, Passed};
use crate::store::reconcile::pending_writes;

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
    /// Not before the changes that wait are folded, or the map is released.
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
        let Some(floor) = fuse.records else {
            return free(client, map);
        };
        if claiming.hazards.is_empty() && !map.is_held {
            return Ok(Verdict::Goes);
        }
        let passed = fuse::passed(client, map.id, Direction::Outbound)?;
        let after = passed.approved_revision;
        let hazards = claiming.hazards.iter();
        let fresh: Vec<&Hazard> = hazards.filter(|h| h.revision > after).collect();
        let batch = passed.exempt.counted(count(&fresh));
        if batch.total() == 0 && !map.is_held {
            return Ok(Verdict::Goes);
        }
        let room = self.0.get(&map.id).copied().unwrap_or(i64::MIN);
        if batch.clears == 0 && !map.is_held && fresh.iter().all(|h| h.revision <= room) {
            fuse::pass(client, map.id, Direction::Outbound, &batch)?;
            return Ok(Verdict::Goes);
        }
        let last = fuse::last_revision(client)?;
        let known = passed
            .counts
            .plus(&clears(client, map, claiming, &passed, batch.clears)?);
        let total = |exempt: Exempt, most| -> Result<Counts, StoreError> {
            let of = (after, exempt, most);
            let queued = fuse::queued(client, map.id, of, claiming.unsettled)?;
            Ok(exempt.counted(queued.plus(&known)))
        };
        let mut exempt = passed.exempt;
        let mut counts = total(exempt, Some(floor + 1))?;
        let is_much = fuse.depends_on_records(&counts);
        let linked = match is_much {
            true => fuse::linked(client, map.id)?,
            false => 0,
        };
        if is_much && exempt == Exempt::Nothing {
            exempt = fuse.exemption(&counts, linked);
        }
        // A row that was deleted may have been inserted again.
        if claiming.is_backlogged && exempt != Exempt::Load {
            return Ok(Verdict::Waits);
        }
        let limit = fuse.limit(linked);
        if is_much {
            counts = total(exempt, Some(limit.saturating_add(1)))?;
            if fuse.holds(&counts, linked) && map.is_held {
                return Ok(Verdict::Waits);
            }
            if fuse.holds(&counts, linked) {
                let all = total(exempt, None)?;
                fuse::hold(client, map.id, Direction::Outbound, &all, linked)?;
                self.forget(map.id);
                return Ok(Verdict::Held(all, linked));
            }
        }
        free(client, map)?;
        if exempt == Exempt::Load && passed.exempt == Exempt::Nothing {
            fuse::begin_load(client, map.id)?;
        }
        self.0.insert(map.id, last + (limit - counts.total()));
        let batch = exempt.counted(batch);
        fuse::pass(client, map.id, Direction::Outbound, &batch)?;
        Ok(Verdict::Goes)
    }
}

/// What the batch clears, and what waits beside it: if most records of a round's first batch are
/// cleared, so are all; and of a map that is held, edits of checked cells wait as well.
fn clears(
    client: &SpiClient,
    map: &Map,
    claiming: &Claiming,
    passed: &Passed,
    in_batch: i64,
) -> Result<Counts, StoreError> {
    let mut counts = Counts {
        clears: in_batch,
        ..Counts::default()
    };
    if passed.counts.clears == 0 && in_batch * 2 > claiming.records as i64 {
        let all = fuse::round_size(client, map.id)?;
        counts = counts.of_all(claiming.records as i64, all);
    }
    if map.is_held && passed.exempt == Exempt::Nothing {
        counts.clears += pending_writes::clears(client, map.id, None)?;
    }
    Ok(counts)
}

/// What a map is held for was undone, or there is no fuse any more.
fn free(client: &mut SpiClient, map: &Map) -> Result<Verdict, StoreError> {
    if map.is_held {
        fuse::release(client, map.id, Direction::Outbound)?;
        let (id, relation) = (map.id, &map.relation);
        log!("pg_crm no longer holds map {id} ({relation}): what it was held for was undone");
    }
    Ok(Verdict::Goes)
}

fn count(hazards: &[&Hazard]) -> Counts {
    let of = |kind| hazards.iter().filter(|h| h.kind == kind).count() as i64;
    Counts {
        deletes: of(Kind::Delete),
        clears: of(Kind::Clear),
        creates: of(Kind::Create),
    }
}
