//! Locks a slice of changes with the ledger rows of its records, takes it out of `crm.change`, and
//! queues plain updates.
//!
//! A record whose ledger row another session has locked stays in `crm.change` with all of its
//! changes.

use std::sync::LazyLock;

use pgrx::IntoDatum;
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::pg_sys::ItemPointerData;
use pgrx::spi::SpiClient;

use crate::store::error::StoreError;
use crate::store::row::Columns;
use crate::store::statement::{Cached, CachedIfFew};
use crate::store::write_back::fold::Place;

/// A part of `crm.change`: what comes after one row, up to another, with about so many records.
pub struct Slice<'a> {
    pub after: &'a Place,
    pub last: &'a Place,
    pub records: usize,
}

/// What becomes of a record that is queued already.
#[derive(Clone, Copy)]
pub enum OnQueued {
    /// The statement fails with a unique violation.
    Fail,
    Merge,
}

pub struct Taken {
    /// How many records were folded.
    pub records: usize,
    /// Those of them that are not done with a place in the queue.
    pub involved: Vec<Record>,
    /// Maps of records whose ledger rows another session has locked.
    pub locked_maps: Vec<i32>,
}

/// A record whose changes are more than a plain update.
pub struct Record {
    pub shard_key: String,
    pub map_id: i32,
    pub record_key: String,
    pub crm_id: Option<String>,
    pub ledger_place: Option<ItemPointerData>,
    pub cells: Vec<u8>,
    pub changed_at: TimestampWithTimeZone,
    pub actor: String,
    /// Of the newest edit that has one.
    pub correlation_id: Option<String>,
    /// What its edits of checked cells say of themselves, a JSON array: change_id, cells, base,
    /// write_id, correlation_id, snapshot of each.
    pub notes: Option<String>,
    /// Or is outside the filter of the map.
    pub is_deleted: bool,
    /// It was deleted while the filter failed for it.
    pub is_unjudged: bool,
    /// Its row was inserted though it has a CRM record.
    pub is_reinserted: bool,
    /// The CRM may create it.
    pub creates: bool,
    /// Its edits are compared with what the CRM holds before they are written.
    pub is_checked: bool,
    /// Its row is gone, and the CRM record is to be deleted.
    pub deletes_record: bool,
    /// Its row has left the filter of the map, and stays linked.
    pub keeps_record: bool,
    /// Should it turn out that the CRM was about to create its record, that goes as well.
    pub is_given_up: bool,
    /// Whether there are cells to write without a check.
    pub writes: bool,
    /// The cells to write without a check.
    pub unchecked: Option<Vec<u8>>,
    /// Those of the queue's row: a record that is created is written as a whole.
    pub queued: Option<Vec<u8>>,
    /// The cells whose edits are checked where a record exists.
    pub checkable: Option<Vec<u8>>,
}

pub fn take(
    client: &mut SpiClient,
    slice: &Slice,
    on_queued: OnQueued,
) -> Result<Taken, StoreError> {
    let statement = match on_queued {
        OnQueued::Fail => &*TAKE_UNQUEUED,
        OnQueued::Merge => &*TAKE,
    };
    let rows = client.update(
        CachedIfFew(statement, slice.records),
        None,
        &[
            slice.after.0.as_str().into(),
            slice.after.1.into(),
            slice.last.0.as_str().into(),
            slice.last.1.into(),
        ],
    )?;
    let mut taken = Taken {
        records: 0,
        involved: Vec::new(),
        locked_maps: Vec::new(),
    };
    for row in rows {
        taken.records = row.number("records")?;
        taken.locked_maps = row.required("locked_maps")?;
        if let Some(record_key) = row.optional("record_key")? {
            taken.involved.push(record(record_key, &row)?);
        }
    }
    Ok(taken)
}

/// The record in a row of what [`TAKE`] returns.
pub fn record(record_key: String, row: &impl Columns) -> Result<Record, StoreError> {
    Ok(Record {
        record_key,
        shard_key: row.required("shard_key")?,
        map_id: row.required("map_id")?,
        crm_id: row.optional("crm_id")?,
        ledger_place: row.optional("place")?,
        cells: row.required("cells")?,
        changed_at: row.required("changed_at")?,
        actor: row.required("actor")?,
        correlation_id: row.optional("correlation_id")?,
        notes: row.optional("notes")?,
        is_deleted: row.required("is_deleted")?,
        is_unjudged: row.required("is_unjudged")?,
        is_reinserted: row.required("is_reinserted")?,
        creates: row.required("creates")?,
        is_checked: row.required("is_checked")?,
        deletes_record: row.required("deletes_record")?,
        keeps_record: row.required("keeps_record")?,
        is_given_up: row.required("is_given_up")?,
        writes: row.required("writes")?,
        unchecked: row.optional("unchecked")?,
        queued: row.optional("queued")?,
        checkable: row.optional("checkable")?,
    })
}

/// Queues records that came back from [`take`]: cells to write, or a deletion. One whose row is
/// back is not to be deleted any more.
pub fn queue(client: &mut SpiClient, records: Vec<&Record>) -> Result<(), StoreError> {
    if records.is_empty() {
        return Ok(());
    }
    client.update(
        Cached(&QUEUE),
        None,
        &[
            column(&records, |r| r.shard_key.as_str()),
            column(&records, |r| r.map_id),
            column(&records, |r| r.record_key.as_str()),
            column(&records, |r| r.crm_id.is_some()),
            column(&records, |r| r.creates),
            column(&records, |r| r.is_deleted),
            column(&records, |r| r.writes),
            column(&records, |r| r.unchecked.as_deref()),
            column(&records, |r| r.queued.as_deref()),
            column(&records, |r| r.changed_at),
            column(&records, |r| r.ledger_place),
            column(&records, |r| r.actor.as_str()),
            column(&records, |r| r.correlation_id.as_deref()),
        ],
    )?;
    Ok(())
}

/// One column of the records, as an array.
pub fn column<'r, T>(records: &[&'r Record], of: impl Fn(&'r Record) -> T) -> DatumWithOid<'r>
where
    Vec<T>: IntoDatum,
    T: 'r,
{
    records.iter().map(|r| of(r)).collect::<Vec<T>>().into()
}

const ON_QUEUED: &str = "
    ON CONFLICT (shard_key, map_id, record_key) DO UPDATE
    SET state = excluded.state, op = CASE WHEN q.op = 'k' AND excluded.op = 'u' THEN 'k' ELSE excluded.op END,
        revision = excluded.revision, place = excluded.place, actor = excluded.actor,
        correlation_id = coalesce(excluded.correlation_id, q.correlation_id),
        cells = CASE WHEN excluded.op = 'd' THEN NULL WHEN q.cells IS NULL THEN excluded.cells
                     ELSE crm_internal.cells_or(q.cells, excluded.cells) END,
        changed_at = CASE WHEN q.changed_at IS NULL THEN excluded.changed_at
                          ELSE crm_internal.cells_merge(q.changed_at, excluded.changed_at) END,
        attempts = 0, next_attempt_at = '-infinity', error_class = NULL, last_error = NULL";

static TAKE: LazyLock<String> = LazyLock::new(|| [LOCK, ON_QUEUED, REMOVE].concat());
static TAKE_UNQUEUED: LazyLock<String> = LazyLock::new(|| [LOCK, REMOVE].concat());
static QUEUE: LazyLock<String> = LazyLock::new(|| [QUEUED, ON_QUEUED].concat());

/// Locks the slice and the ledger rows of its records, enters records that are new to the ledger,
/// and queues plain updates.
const LOCK: &str = "WITH slice AS MATERIALIZED (
        SELECT ctid AS place, shard_key, map_id, record_keys, change_id, op, cells, base, write_id, changed_at, actor, correlation_id, snapshot
        FROM crm.change WHERE (shard_key, change_id) > ($1, $2) AND (shard_key, change_id) <= ($3, $4)
        ORDER BY shard_key, change_id FOR UPDATE SKIP LOCKED
    ), map AS MATERIALIZED (
        SELECT m.map_id, m.on_insert = 'create' AS creates, m.on_delete = 'delete' AS deletes,
               m.on_filter_out = 'delete' AS deletes_left, m.on_filter_out = 'ignore' AS keeps_left,
               crm_internal.checked_cells(m.map_id) AS checkable, crm_internal.map_cells(m.map_id) AS cells
        FROM (SELECT DISTINCT map_id FROM slice) s JOIN crm.object_map m USING (map_id)
    ), record AS MATERIALIZED (
        SELECT s.shard_key, s.map_id, k.record_key, crm_internal.cells_union(s.cells) AS cells, max(s.changed_at) AS changed_at,
               coalesce(max(s.change_id) FILTER (WHERE s.op NOT IN ('i', 'u')) = max(s.change_id), false) AS is_deleted,
               coalesce(max(s.change_id) FILTER (WHERE s.op = 'l') = max(s.change_id), false) AS is_left,
               coalesce(max(s.change_id) FILTER (WHERE s.op = 'o') = max(s.change_id), false) AS is_outside,
               coalesce(max(s.change_id) FILTER (WHERE s.op = 'x') = max(s.change_id), false) AS is_unjudged,
               bool_or(s.op = 'l') AS has_left, bool_or(s.op = 'i') AS is_inserted,
               max(s.actor) AS actor,
               substr(max(CASE WHEN s.correlation_id IS NOT NULL THEN lpad(s.change_id::text, 20, '0') || s.correlation_id END), 21) AS correlation_id,
               bool_or(s.base IS NOT NULL OR s.write_id IS NOT NULL) AS is_noted,
               jsonb_agg(jsonb_build_array(s.change_id, encode(s.cells, 'hex'), s.base, s.write_id, s.correlation_id, s.snapshot))
                   FILTER (WHERE s.base IS NOT NULL OR s.write_id IS NOT NULL
                                 OR s.correlation_id IS NOT NULL AND s.map_id IN (SELECT m.map_id FROM map m WHERE m.checkable IS NOT NULL)) AS notes
        FROM slice s, unnest(s.record_keys) AS k (record_key)
        GROUP BY s.shard_key, s.map_id, k.record_key ORDER BY k.record_key, s.map_id, s.shard_key
    ), seen AS MATERIALIZED (
        SELECT r.*, l.crm_id, l.detached, l.is_locked, l.place FROM record r LEFT JOIN LATERAL (
            SELECT l.crm_id, l.detached, true AS is_locked, l.ctid AS place FROM crm.ledger l
            WHERE l.shard_key = r.shard_key AND l.map_id = r.map_id AND l.record_key = r.record_key
            FOR UPDATE SKIP LOCKED) l ON true
    ), unlocked AS MATERIALIZED (
        SELECT s.*, m.map_id IS NOT NULL AND NOT s.is_deleted AS is_wanted,
               (SELECT 1 FROM crm.ledger l
                WHERE l.shard_key = s.shard_key AND l.map_id = s.map_id AND l.record_key = s.record_key) IS NOT NULL AS is_known
        FROM seen s LEFT JOIN map m USING (map_id) WHERE s.is_locked IS NULL
    ), entered AS (
        INSERT INTO crm.ledger (shard_key, map_id, record_key)
        SELECT shard_key, map_id, record_key FROM unlocked WHERE is_wanted AND NOT is_known
        ON CONFLICT DO NOTHING RETURNING shard_key, map_id, record_key
    ), waiting AS MATERIALIZED (
        SELECT shard_key, map_id, record_key FROM unlocked WHERE is_known
        UNION ALL
        (SELECT shard_key, map_id, record_key FROM unlocked WHERE is_wanted AND NOT is_known
         EXCEPT SELECT shard_key, map_id, record_key FROM entered)
    ), ready AS MATERIALIZED (
        SELECT x.*,
               -- A record that is created is created as a whole.
               CASE WHEN x.crm_id IS NULL AND x.creates THEN crm_internal.cells_or(x.cells, coalesce(x.map_cells, x.cells)) ELSE x.unchecked END AS queued,
               x.checked IS NULL OR x.is_deleted OR crm_internal.cells_count(x.unchecked) > 0 AS writes,
               NOT x.is_noted AND NOT x.is_deleted AND NOT (x.is_inserted AND x.crm_id IS NOT NULL)
                   AND (x.checked IS NULL OR crm_internal.cells_count(crm_internal.cells_and(x.cells, x.checked)) = 0) AS is_plain
        FROM (SELECT k.*, CASE WHEN k.checked IS NULL THEN k.cells ELSE crm_internal.cells_minus(k.cells, k.checked) END AS unchecked
              FROM (SELECT s.*, m.creates AND NOT coalesce(s.detached, false) AS creates, m.cells AS map_cells, m.checkable,
                           -- Deleted outside of the filter: what became of its record was decided when it left.
                           CASE WHEN s.is_left OR s.is_outside AND s.has_left THEN m.deletes_left
                                WHEN s.is_outside THEN EXISTS (SELECT FROM crm.queue q WHERE q.shard_key = s.shard_key AND q.map_id = s.map_id
                                                                                        AND q.record_key = s.record_key AND q.op = 'd')
                                ELSE m.deletes END AS deletes,
                           s.is_left AND m.keeps_left AS keeps,
                           -- There is nothing to check a record against that the CRM does not have.
                           CASE WHEN s.crm_id IS NOT NULL OR NOT m.creates OR s.detached THEN m.checkable END AS checked
                    FROM (SELECT * FROM seen
                          WHERE is_locked OR (shard_key, map_id, record_key) IN (SELECT shard_key, map_id, record_key FROM entered)) s
                    JOIN map m USING (map_id)) k) x
    ), revived AS (
        DELETE FROM crm.dead_letter d USING ready r
        WHERE r.is_plain AND r.writes AND d.path = 'batch'
          AND d.shard_key = r.shard_key AND d.map_id = r.map_id AND d.record_key = r.record_key
    ), recreated AS (
        DELETE FROM crm.orphaned_create u USING ready r
        WHERE NOT r.is_deleted AND r.crm_id IS NULL
          AND u.shard_key = r.shard_key AND u.map_id = r.map_id AND u.record_key = r.record_key
    ), queue AS (
        INSERT INTO crm.queue AS q (shard_key, map_id, record_key, state, op, cells, changed_at, place, actor, correlation_id)
        SELECT shard_key, map_id, record_key, CASE WHEN crm_id IS NOT NULL OR creates THEN 'queued' ELSE 'unlinked' END,
               CASE WHEN crm_id IS NULL THEN 'c' ELSE 'u' END::\"char\", queued, crm_internal.cells_stamp(NULL, unchecked, changed_at), place, actor,
               correlation_id
        FROM ready WHERE is_plain AND writes";

/// Takes the changes out, but for those of records that another session has locked.
const REMOVE: &str = "
    ), kept AS MATERIALIZED (
        SELECT s.place, array_agg(k.record_key) AS record_keys FROM slice s, unnest(s.record_keys) AS k (record_key)
        WHERE (SELECT count(*) FROM waiting) > 0
          AND (s.shard_key, s.map_id, k.record_key) IN (SELECT shard_key, map_id, record_key FROM waiting)
        GROUP BY s.place
    ), trimmed AS (
        UPDATE crm.change c SET record_keys = k.record_keys FROM kept k WHERE c.ctid = k.place
    ), removed AS (
        DELETE FROM crm.change c
        WHERE c.ctid = ANY (ARRAY(SELECT place FROM slice EXCEPT ALL SELECT place FROM kept))
    )
    SELECT t.*, i.*
    FROM (SELECT (SELECT count(*) FROM record) - (SELECT count(*) FROM waiting) AS records,
                 ARRAY(SELECT DISTINCT map_id FROM waiting) AS locked_maps) t
    LEFT JOIN (
        SELECT shard_key, map_id, record_key, crm_id, place, cells, changed_at, actor, correlation_id, notes::text AS notes, is_deleted, is_unjudged,
               is_inserted AND crm_id IS NOT NULL AS is_reinserted, creates, checked IS NOT NULL AS is_checked,
               is_deleted AND deletes AND crm_id IS NOT NULL AS deletes_record, keeps AND crm_id IS NOT NULL AS keeps_record,
               is_deleted AND (deletes OR NOT is_left AND NOT is_outside) AS is_given_up, writes, unchecked, queued, checkable
        FROM ready WHERE NOT is_plain
        UNION ALL
        -- Calls that set cells of a row that came and went before anything was known of it.
        SELECT shard_key, map_id, record_key, NULL, NULL, cells, changed_at, actor, correlation_id, notes::text, true, false, false, false, false, false,
               false, false, false, NULL, NULL, NULL
        FROM unlocked WHERE is_deleted AND NOT is_known AND notes IS NOT NULL) i ON true";

/// Dead letters about the same are void.
const QUEUED: &str = "WITH record AS MATERIALIZED (
        SELECT *
        FROM unnest($1::text[], $2::int[], $3::text[], $4::bool[], $5::bool[], $6::bool[], $7::bool[], $8::bytea[], $9::bytea[],
                    $10::timestamptz[], $11::tid[], $12::text[], $13::text[])
             AS r (shard_key, map_id, record_key, is_linked, creates, is_deleted, writes, unchecked, queued, changed_at, place, actor,
                   correlation_id)
        WHERE r.writes OR EXISTS (
            SELECT FROM crm.queue q WHERE q.shard_key = r.shard_key AND q.map_id = r.map_id AND q.record_key = r.record_key AND q.op = 'd')
    ), revived AS (
        DELETE FROM crm.dead_letter d USING record r
        WHERE d.path = 'batch' AND d.shard_key = r.shard_key AND d.map_id = r.map_id AND d.record_key = r.record_key
    )
    INSERT INTO crm.queue AS q (shard_key, map_id, record_key, state, op, cells, changed_at, place, actor, correlation_id)
    SELECT shard_key, map_id, record_key, CASE WHEN is_linked OR creates THEN 'queued' ELSE 'unlinked' END,
           CASE WHEN is_deleted THEN 'd' WHEN is_linked THEN 'u' ELSE 'c' END::\"char\",
           CASE WHEN NOT is_deleted THEN queued END,
           -- Of a deletion, which has no cells: how long it has been waiting.
           CASE WHEN is_deleted THEN ARRAY[changed_at] ELSE crm_internal.cells_stamp(NULL, unchecked, changed_at) END, place, actor,
           correlation_id
    FROM record";
