//! Whether what came from a CRM may be taken in: records that would delete, unlink or empty more
//! rows than an accident should are held, with the rest of their pass, until somebody approves.

use crm_domain::Path;
use crm_domain::fuse::{Counts, Fuse};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use super::request::{PollRequest, Target};
use crate::store::fuse::{self, Direction, Exempt};
use crate::store::ingest::state;
use crate::store::{StoreError, notify, transaction};
use crate::worker::notification;

/// Counts what records do that are being applied; fails if that is too much, so that none of it is
/// done.
pub fn judge(
    client: &mut SpiClient,
    poll: &PollRequest,
    records: usize,
    hazards: &Counts,
    fuse: &Fuse,
) -> Result<(), StoreError> {
    if hazards.total() == 0 || fuse.records.is_none() {
        return Ok(());
    }
    let map_id = poll.map.id;
    let passed = fuse::passed(client, map_id, Direction::Inbound)?;
    if passed.exempt == Exempt::All {
        return Ok(());
    }
    // After a pass that did not show them, all records may be read by themselves.
    let coming = match &poll.target {
        Target::Records(_) => hazards.of_all(records as i64, fuse::rereads(client, map_id)?),
        Target::Page { .. } => *hazards,
    };
    let counts = passed.counts.plus(&coming);
    if fuse.depends_on_records(&counts) {
        let linked = fuse::linked(client, map_id)? + hazards.deletes;
        if fuse.holds(&counts, linked) {
            return Err(StoreError::Held { counts, linked });
        }
    }
    fuse::pass(client, map_id, Direction::Inbound, hazards)
}

/// Holds ingestion of a map, and says so.
pub fn hold(poll: &PollRequest, counts: &Counts, linked: i64) -> Result<(), StoreError> {
    let (map, connection) = (&poll.map, &poll.connection);
    transaction(|client| {
        fuse::hold(client, map.id, Direction::Inbound, counts, linked)?;
        let pass = state::pass_id(client, map.id)?;
        let of = (Path::Ingest, pass.as_deref());
        let event = notification::held(connection, map, of, counts);
        notify::notify(client, vec![event])
    })?;
    let Counts {
        deletes, clears, ..
    } = counts;
    let (id, relation) = (map.id, &map.relation);
    log!(
        "pg_crm holds the ingestion of {relation}: it would delete or unlink {deletes} rows and empty cells of {clears}, and {linked} are linked; crm.approve({id}) resumes it"
    );
    Ok(())
}
