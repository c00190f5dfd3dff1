//! What a fuse knows of each map and direction: what has passed since the round or pass began, and
//! what is held.

use crm_domain::fuse::Counts;
pub use crm_domain::fuse::{Direction, Exempt};
use pgrx::spi::SpiClient;

use crate::store::error::StoreError;
use crate::store::row::{self, Columns};
use crate::store::statement::Cached;

/// How far a round or pass has come.
pub struct Passed {
    pub exempt: Exempt,
    pub counts: Counts,
    /// Edits with a revision up to this one were approved.
    pub approved_revision: i64,
}

pub fn passed(client: &SpiClient, map_id: i32, direction: Direction) -> Result<Passed, StoreError> {
    let mut rows = client.select(
        Cached(
            "SELECT coalesce(exempt, 'nothing') AS exempt, deletes, clears, creates, approved_revision FROM crm.fuse WHERE map_id = $1 AND direction = $2",
        ),
        None,
        &[map_id.into(), direction.name().into()],
    )?;
    let Some(row) = rows.next() else {
        return Ok(Passed {
            exempt: Exempt::Nothing,
            counts: Counts::default(),
            approved_revision: 0,
        });
    };
    Ok(Passed {
        exempt: row.parsed("exempt")?,
        counts: Counts {
            deletes: row.required("deletes")?,
            clears: row.required("clears")?,
            creates: row.required("creates")?,
        },
        approved_revision: row.required("approved_revision")?,
    })
}

/// Adds what passes.
pub fn pass(
    client: &mut SpiClient,
    map_id: i32,
    direction: Direction,
    counts: &Counts,
) -> Result<(), StoreError> {
    client.update(
        Cached(
            "INSERT INTO crm.fuse AS f (map_id, direction, deletes, clears, creates) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (map_id, direction) DO UPDATE
             SET deletes = f.deletes + excluded.deletes, clears = f.clears + excluded.clears, creates = f.creates + excluded.creates",
        ),
        None,
        &[
            map_id.into(),
            direction.name().into(),
            counts.deletes.into(),
            counts.clears.into(),
            counts.creates.into(),
        ],
    )?;
    Ok(())
}

/// Rows are being loaded: records that are created and cleared are not counted until the round
/// ends.
pub fn begin_load(client: &mut SpiClient, map_id: i32) -> Result<(), StoreError> {
    client.update(
        Cached(
            "INSERT INTO crm.fuse AS f (map_id, direction, exempt) VALUES ($1, 'outbound', 'load')
             ON CONFLICT (map_id, direction) DO UPDATE SET exempt = 'load' WHERE f.exempt IS NULL",
        ),
        None,
        &[map_id.into()],
    )?;
    Ok(())
}

/// Holds a map back until somebody approves. `linked`: its records. What is queued by now is what
/// an approval covers.
pub fn hold(
    client: &mut SpiClient,
    map_id: i32,
    direction: Direction,
    counts: &Counts,
    linked: i64,
) -> Result<(), StoreError> {
    client.update(
        Cached(
            "INSERT INTO crm.fuse AS f (map_id, direction, held_at, held, held_revision)
             VALUES ($1, $2, now(), jsonb_build_object('deletes', $3, 'clears', $4, 'creates', $5, 'records', $6),
                     (SELECT last_value FROM crm.queue_revision_seq))
             ON CONFLICT (map_id, direction) DO UPDATE
             SET held_at = excluded.held_at, held = excluded.held, held_revision = excluded.held_revision",
        ),
        None,
        &[
            map_id.into(),
            direction.name().into(),
            counts.deletes.into(),
            counts.clears.into(),
            counts.creates.into(),
            linked.into(),
        ],
    )?;
    Ok(())
}

/// Holds a map back no longer.
pub fn release(
    client: &mut SpiClient,
    map_id: i32,
    direction: Direction,
) -> Result<(), StoreError> {
    client.update(
        Cached(
            "UPDATE crm.fuse SET held_at = NULL, held = NULL, held_revision = NULL WHERE map_id = $1 AND direction = $2",
        ),
        None,
        &[map_id.into(), direction.name().into()],
    )?;
    Ok(())
}

/// The round or pass has ended: the next begins with nothing counted. Of a push, what is captured
/// and not sent yet belongs to the round; and so do records that are still to be read by themselves
/// to the pass.
pub fn end(client: &mut SpiClient, map_id: i32, direction: Direction) -> Result<(), StoreError> {
    client.update(
        Cached(
            "UPDATE crm.fuse f SET exempt = NULL, deletes = 0, clears = 0, creates = 0
             WHERE f.map_id = $1 AND f.direction = $2 AND (f.exempt IS NOT NULL OR f.deletes + f.clears + f.creates > 0)
               AND f.held_at IS NULL
               AND CASE f.direction
                   WHEN 'outbound' THEN NOT EXISTS (SELECT FROM crm.scan_request r WHERE r.map_id = f.map_id AND r.task = 'push')
                       AND NOT EXISTS (SELECT FROM crm.pending_write p WHERE p.map_id = f.map_id AND p.state = 'queued'
                                                                         AND p.next_attempt_at = '-infinity')
                   ELSE NOT EXISTS (SELECT FROM crm.refetch r WHERE r.map_id = f.map_id AND r.due_at < 'infinity') END",
        ),
        None,
        &[map_id.into(), direction.name().into()],
    )?;
    Ok(())
}

/// How many records of a map are linked: an estimate, if there are more than a thousand.
pub fn linked(client: &SpiClient, map_id: i32) -> Result<i64, StoreError> {
    let mut rows = client.select(
        Cached("SELECT records FROM crm_internal.linked WHERE map_id = $1"),
        None,
        &[map_id.into()],
    )?;
    rows.next().map_or(Ok(0), |row| row.required("records"))
}

/// The revision that was given out last.
pub fn last_revision(client: &SpiClient) -> Result<i64, StoreError> {
    let rows = client.select(
        Cached("SELECT last_value FROM crm.queue_revision_seq"),
        None,
        &[],
    )?;
    row::only(rows)?.required("last_value")
}

/// Records that are queued to be created or deleted, and were never sent: those with a later
/// revision that are in no claim and not `unsettled`; only deletions while rows are loaded. No more
/// than `most` are looked at.
pub fn queued(
    client: &SpiClient,
    map_id: i32,
    (after, exempt, most): (i64, Exempt, Option<i64>),
    unsettled: &[(&str, &str)],
) -> Result<Counts, StoreError> {
    let rows = client.select(
        Cached(
            "SELECT count(*) FILTER (WHERE x.op = 'd') AS deletes, count(*) FILTER (WHERE x.op = 'c') AS creates
             FROM (SELECT q.op FROM crm.queue q
                   WHERE q.map_id = $1 AND q.state = 'queued' AND q.op IN ('c', 'd') AND q.next_attempt_at = '-infinity' AND q.revision > $2
                     AND (q.op = 'd' OR NOT $6)
                     AND (q.shard_key, q.record_key) NOT IN (
                         SELECT k.s, k.r FROM crm.claim c, unnest(c.shard_keys, c.record_keys) AS k (s, r)
                         WHERE c.map_id = $1 AND c.path = 'batch'
                         UNION ALL SELECT * FROM unnest($4::text[], $5::text[]))
                   LIMIT $3) x",
        ),
        None,
        &[
            map_id.into(),
            after.into(),
            most.into(),
            unsettled.iter().map(|(s, _)| *s).collect::<Vec<_>>().into(),
            unsettled.iter().map(|(_, r)| *r).collect::<Vec<_>>().into(),
            (exempt == Exempt::Load).into(),
        ],
    )?;
    let row = row::only(rows)?;
    Ok(Counts {
        deletes: row.required("deletes")?,
        clears: 0,
        creates: row.required("creates")?,
    })
}

/// Records that are queued and were never sent.
pub fn round_size(client: &SpiClient, map_id: i32) -> Result<i64, StoreError> {
    let rows = client.select(
        Cached(
            "SELECT count(*) AS records FROM crm.queue q
             WHERE q.map_id = $1 AND q.state = 'queued' AND q.next_attempt_at = '-infinity'",
        ),
        None,
        &[map_id.into()],
    )?;
    row::only(rows)?.required("records")
}

/// Records that are to be read by themselves by now.
pub fn rereads(client: &SpiClient, map_id: i32) -> Result<i64, StoreError> {
    let rows = client.select(
        Cached("SELECT count(*) AS records FROM crm.refetch WHERE map_id = $1 AND due_at <= now()"),
        None,
        &[map_id.into()],
    )?;
    row::only(rows)?.required("records")
}
