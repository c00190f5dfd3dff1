//! Committed changes become queued work: `crm.change` is folded into `crm.queue`, a slice at a time.
//!
//! A record whose ledger row somebody holds is left for the next fold, with all of its changes, so its order is kept.

use std::sync::LazyLock;

use pgrx::PgSqlErrorCode;
use pgrx::spi::SpiClient;

use crate::store::error::StoreError;
use crate::store::statement::{Cached, CachedIfFew, FEW};
use crate::store::transaction::subtransaction;

/// Slices that look for records that are queued already, once one was found.
const WARY_FOR: u32 = 20;

/// Where a slice of `crm.change` begins or ends: (shard_key, change_id).
pub type Place = (String, i64);

/// Folds the changes of about `rows` records; returns how many it took. None means that no more can be had now.
///
/// `wary`: for how many slices to come records are expected to be queued already. Looking for that costs as much as the
/// rest of an INSERT, so slices go without it until one finds such a record and is folded again.
///
/// `at`: the last row of the slice that is being folded, for whoever asks after an error.
pub fn fold(
    client: &mut SpiClient,
    rows: usize,
    wary: &mut u32,
    at: &mut Option<Place>,
) -> Result<usize, StoreError> {
    let mut after = (String::new(), i64::MIN);
    while let Some((last, records)) = slice_end(client, &after, rows)? {
        *at = Some(last.clone());
        let mut taken = None;
        if records > FEW && *wary == 0 {
            match subtransaction(|| fold_slice(client, &after, &last, records, &HOPEFUL)) {
                Ok(records) => taken = Some(records),
                Err(error) if error.code() == Some(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION) => {
                    *wary = WARY_FOR;
                }
                Err(error) => return Err(error),
            }
        }
        let taken = match taken {
            Some(taken) => taken,
            None => {
                *wary = wary.saturating_sub(1);
                fold_slice(client, &after, &last, records, &MERGING)?
            }
        };
        if taken > 0 {
            return Ok(taken);
        }
        // Somebody holds all of these records; others come after them.
        after = last;
    }
    Ok(0)
}

/// The last row of the slice that begins after that place and speaks of about so many records; and of how many it does.
fn slice_end(
    client: &SpiClient,
    after: &Place,
    rows: usize,
) -> Result<Option<(Place, usize)>, StoreError> {
    let mut last = None;
    let mut records = 0;
    let mut cursor = client.open_cursor(
        Cached(
            "SELECT shard_key, change_id, cardinality(record_keys) FROM crm.change
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
                records += row.get::<i32>(3)?.unwrap_or_default() as usize;
                last = row.get::<String>(1)?.zip(row.get::<i64>(2)?);
            }
        }
    }
    Ok(last.map(|last| (last, records)))
}

/// What becomes of a record that is queued already.
const MERGE: &str = "ON CONFLICT (shard_key, map_id, record_key) DO UPDATE
    SET state = excluded.state, op = CASE WHEN q.op = 'k' AND excluded.op = 'u' THEN 'k' ELSE excluded.op END, revision = excluded.revision, place = excluded.place, actor = excluded.actor,
        cells = CASE WHEN excluded.op = 'd' THEN NULL WHEN q.cells IS NULL THEN excluded.cells
                     ELSE crm_internal.cells_or(q.cells, excluded.cells) END,
        changed_at = CASE WHEN q.changed_at IS NULL THEN excluded.changed_at
                          ELSE crm_internal.cells_merge(q.changed_at, excluded.changed_at) END,
        attempts = 0, next_attempt_at = '-infinity', error_class = NULL, last_error = NULL";

fn fold_slice(
    client: &mut SpiClient,
    after: &Place,
    last: &Place,
    records: usize,
    statement: &str,
) -> Result<usize, StoreError> {
    let result = client.update(
        CachedIfFew(statement, records),
        None,
        &[
            after.0.as_str().into(),
            after.1.into(),
            last.0.as_str().into(),
            last.1.into(),
        ],
    )?;
    let (mut taken, mut gone) = (0, 0);
    for row in result {
        taken = row.get::<i64>(1)?.unwrap_or_default() as usize;
        gone = row.get::<i64>(2)?.unwrap_or_default();
    }
    if gone > 0 {
        // What a person decided about a record that this fold locked just after, and did not see.
        client.update(Cached(LATE), None, &[])?;
    }
    Ok(taken)
}

static MERGING: LazyLock<String> = LazyLock::new(|| statement(MERGE));
/// In the hope that none is.
static HOPEFUL: LazyLock<String> = LazyLock::new(|| statement(""));

fn statement(merge: &str) -> String {
    FOLD.replace("MERGE", merge).replace("CALLED", CALLED)
}

/// The calls among the notes of a record: their ids in order, and the cells that they set.
const CALLED: &str =
    "(SELECT array_agg((n.note ->> 3)::uuid ORDER BY (n.note ->> 0)::bigint) AS writes,
                    crm_internal.cells_union(decode(n.note ->> 1, 'hex')) AS cells
             FROM jsonb_array_elements(w.notes) AS n (note) WHERE n.note ->> 3 IS NOT NULL)";

const FOLD: &str = "WITH slice AS MATERIALIZED (
             SELECT ctid AS place, shard_key, map_id, record_keys, change_id, op, cells, base, write_id, changed_at, actor, correlation_id
             FROM crm.change WHERE (shard_key, change_id) > ($1, $2) AND (shard_key, change_id) <= ($3, $4)
             ORDER BY shard_key, change_id FOR UPDATE SKIP LOCKED
         ), checked AS MATERIALIZED (
             SELECT map_id, crm_internal.checked_cells(map_id) AS cells FROM (SELECT DISTINCT map_id FROM slice) m
         ), record AS MATERIALIZED (
             SELECT s.shard_key, s.map_id, k.record_key, crm_internal.cells_union(s.cells) AS cells, max(s.changed_at) AS changed_at,
                    coalesce(max(s.change_id) FILTER (WHERE s.op = 'd') = max(s.change_id), false) AS deleted,
                    bool_or(s.op = 'i') AS inserted,
                    max(s.actor) AS actor,
                    -- What edits of checked cells say of themselves, gathered once: whoever asks for it has it with its record.
                    jsonb_agg(jsonb_build_array(s.change_id, encode(s.cells, 'hex'), s.base, s.write_id, s.correlation_id))
                        FILTER (WHERE s.base IS NOT NULL OR s.write_id IS NOT NULL OR s.correlation_id IS NOT NULL) AS notes
             FROM slice s, unnest(s.record_keys) AS k (record_key)
             GROUP BY s.shard_key, s.map_id, k.record_key ORDER BY k.record_key, s.map_id, s.shard_key
         ), seen AS MATERIALIZED (
             SELECT r.*, l.crm_id, l.detached, l.held, l.place FROM record r LEFT JOIN LATERAL (
                 SELECT l.crm_id, l.detached, true AS held, l.ctid AS place FROM crm.ledger l
                 WHERE l.shard_key = r.shard_key AND l.map_id = r.map_id AND l.record_key = r.record_key
                 FOR UPDATE SKIP LOCKED) l ON true
         ), unheld AS MATERIALIZED (
             SELECT s.*, m.map_id IS NOT NULL AND NOT s.deleted AS wanted,
                    (SELECT 1 FROM crm.ledger l
                     WHERE l.shard_key = s.shard_key AND l.map_id = s.map_id AND l.record_key = s.record_key) IS NOT NULL AS known
             FROM seen s LEFT JOIN crm.object_map m USING (map_id) WHERE s.held IS NULL
         ), born AS (
             INSERT INTO crm.ledger (shard_key, map_id, record_key)
             SELECT shard_key, map_id, record_key FROM unheld WHERE wanted AND NOT known
             ON CONFLICT DO NOTHING RETURNING shard_key, map_id, record_key
         ), stuck AS MATERIALIZED (
             SELECT shard_key, map_id, record_key FROM unheld WHERE known
             UNION ALL
             (SELECT shard_key, map_id, record_key FROM unheld WHERE wanted AND NOT known
              EXCEPT SELECT shard_key, map_id, record_key FROM born)
         ), known AS MATERIALIZED (
             SELECT s.*, m.on_insert = 'create' AND NOT coalesce(s.detached, false) AS creates, m.on_delete, m.on_crm_insert,
                    -- A record that the CRM does not have is created as a whole: there is nothing to check it against.
                    CASE WHEN s.crm_id IS NOT NULL OR m.on_insert <> 'create' OR s.detached THEN c.cells END AS checked, c.cells AS checkable
             FROM (SELECT * FROM seen
                   WHERE held OR (shard_key, map_id, record_key) IN (SELECT shard_key, map_id, record_key FROM born)) s
             JOIN crm.object_map m USING (map_id)
             JOIN checked c USING (map_id)
         ), work AS MATERIALIZED (
             SELECT k.*, CASE WHEN checked IS NULL OR deleted OR crm_internal.cells_count(crm_internal.cells_minus(cells, checked)) > 0 THEN true
                              -- The row is back: its record is not to be deleted any more.
                              WHEN inserted AND crm_id IS NOT NULL THEN EXISTS (
                                  SELECT FROM crm.queue q WHERE q.shard_key = k.shard_key AND q.map_id = k.map_id
                                                            AND q.record_key = k.record_key AND q.op = 'd')
                              ELSE false END AS writes
             FROM known k
         ), edit AS MATERIALIZED (
             SELECT w.shard_key, w.map_id, w.record_key, w.changed_at, w.actor, e.cells, c.writes,
                    (SELECT jsonb_object_agg(b.key, b.value ORDER BY b.value ? 'force', b.change_id DESC)
                     FROM (SELECT b.key, b.value, (n.note ->> 0)::bigint AS change_id
                           FROM jsonb_array_elements(w.notes) AS n (note), jsonb_each(nullif(n.note -> 2, 'null')) b
                           WHERE crm_internal.cells_has(decode(n.note ->> 1, 'hex'), b.key::int) AND (w.checked IS NOT NULL OR b.value ? 'force')
                           UNION ALL
                           -- What a row is inserted with over a record that it has is based on what that one held.
                           SELECT f.field_id::text, jsonb_build_object('h', encode(substr(l.hashes, 16 * f.field_id + 1, 16), 'hex')), -1
                           FROM crm.ledger l JOIN crm.field_map f USING (map_id)
                           WHERE w.inserted AND w.crm_id IS NOT NULL
                             AND l.shard_key = w.shard_key AND l.map_id = w.map_id AND l.record_key = w.record_key
                             AND f.direction = 'bidirectional' AND crm_internal.cells_has(w.cells, f.field_id)
                             AND substr(l.hashes, 16 * f.field_id + 1, 16) NOT IN ('', decode(repeat('00', 16), 'hex'))) b) AS base,
                    (SELECT n.note ->> 4 FROM jsonb_array_elements(w.notes) AS n (note)
                     WHERE n.note ->> 4 IS NOT NULL ORDER BY (n.note ->> 0)::bigint DESC LIMIT 1) AS correlation_id
             FROM work w
             CROSS JOIN LATERAL CALLED c
             -- A call is told what became of it, also if it goes with the creation: it waits for that, and finds it landed.
             CROSS JOIN LATERAL (SELECT crm_internal.cells_and(CASE WHEN w.checked IS NULL THEN c.cells ELSE w.cells END, w.checkable) AS cells) e
             WHERE NOT w.deleted AND (w.checked IS NOT NULL OR c.writes IS NOT NULL) AND crm_internal.cells_count(e.cells) > 0
         ), whole AS MATERIALIZED (
             SELECT map_id, crm_internal.map_cells(map_id) AS cells
             FROM (SELECT DISTINCT map_id FROM work WHERE crm_id IS NULL AND creates) m
         ), revived AS (
             DELETE FROM crm.dead_letter d USING work w
             WHERE w.writes AND d.path = 'batch' AND d.shard_key = w.shard_key AND d.map_id = w.map_id AND d.record_key = w.record_key
         ), revived_edits AS (
             DELETE FROM crm.dead_letter d USING (SELECT shard_key, map_id, record_key FROM edit
                                                  UNION ALL SELECT shard_key, map_id, record_key FROM work WHERE deleted) e
             WHERE d.path = 'reconcile' AND d.shard_key = e.shard_key AND d.map_id = e.map_id AND d.record_key = e.record_key
         ), gone_edits AS (
             DELETE FROM crm.pending_write p USING work w
             WHERE w.deleted AND p.state IN ('queued', 'dead')
               AND p.shard_key = w.shard_key AND p.map_id = w.map_id AND p.record_key = w.record_key
             RETURNING p.shard_key, p.map_id, p.record_key, p.folded || p.undone AS calls
         ), gone_calls AS (
             INSERT INTO crm.audit_log (shard_key, map_id, connection, provider, relation, record_key, path, operation, result, error, folded)
             SELECT g.shard_key, g.map_id, n.name, n.provider, m.relation::text, g.record_key, 'reconcile', 'update', 'superseded',
                    'the row is gone', g.calls
             FROM (SELECT * FROM gone_edits WHERE calls IS NOT NULL
                   UNION ALL
                   SELECT w.shard_key, w.map_id, w.record_key, c.writes FROM record w CROSS JOIN LATERAL CALLED c
                   WHERE w.deleted AND c.writes IS NOT NULL
                     AND (w.shard_key, w.map_id, w.record_key) NOT IN (SELECT shard_key, map_id, record_key FROM stuck)) g
             JOIN crm.object_map m USING (map_id) JOIN crm.connection n USING (connection_id)
         ), gone_conflicts AS (
             DELETE FROM crm.conflict c USING work w
             WHERE w.deleted AND c.shard_key = w.shard_key AND c.map_id = w.map_id AND c.record_key = w.record_key
         ), gone AS (
             DELETE FROM crm.ledger l USING work w
             WHERE w.deleted AND (w.on_delete <> 'delete' OR w.crm_id IS NULL)
               AND l.shard_key = w.shard_key AND l.map_id = w.map_id AND l.record_key = w.record_key
             RETURNING l.shard_key, l.map_id, l.record_key
         ), former AS (
             -- Where CRM records get rows, one whose row was deleted does not get it again.
             INSERT INTO crm.former_link (shard_key, map_id, crm_id, record_key, ended_by)
             SELECT w.shard_key, w.map_id, w.crm_id, w.record_key, 'row_deleted' FROM work w
             WHERE w.deleted AND w.on_delete <> 'delete' AND w.on_crm_insert = 'insert' AND w.crm_id IS NOT NULL
             ON CONFLICT (shard_key, map_id, crm_id) DO UPDATE SET ended_by = excluded.ended_by, ended_at = now()
         ), anew AS (
             -- Inserted over a record that it has: that was its predecessor's, and what comes from the CRM comes anew.
             UPDATE crm.ledger l
             SET hashes = crm_internal.cells_hash(l.hashes, i.cells, decode(repeat('00', 16 * crm_internal.cells_count(i.cells)), 'hex'))
             FROM work w, LATERAL (SELECT crm_internal.cells_union(crm_internal.cell_mask(f.field_id)) AS cells FROM crm.field_map f
                                   WHERE f.map_id = w.map_id AND f.direction = 'inbound') i
             WHERE w.inserted AND NOT w.deleted AND w.crm_id IS NOT NULL AND i.cells IS NOT NULL AND l.hashes IS NOT NULL
               AND l.shard_key = w.shard_key AND l.map_id = w.map_id AND l.record_key = w.record_key
             RETURNING l.map_id, l.crm_id
         ), asked AS (
             INSERT INTO crm.reread AS r (map_id, crm_id) SELECT map_id, crm_id FROM anew
             ON CONFLICT ON CONSTRAINT reread_pkey DO UPDATE SET revision = excluded.revision, due_at = now()
         ), unborn AS (
             -- The CRM may have made its record, or be about to.
             INSERT INTO crm.unborn (shard_key, map_id, record_key)
             SELECT w.shard_key, w.map_id, w.record_key FROM work w
             WHERE w.deleted AND w.crm_id IS NULL AND (w.on_delete = 'delete' OR w.on_crm_insert = 'insert') AND EXISTS (
                 SELECT FROM crm.queue q
                 WHERE q.shard_key = w.shard_key AND q.map_id = w.map_id AND q.record_key = w.record_key AND q.op = 'c' AND q.state <> 'unlinked')
             ON CONFLICT DO NOTHING
         ), reborn AS (
             DELETE FROM crm.unborn u USING work w
             WHERE NOT w.deleted AND w.crm_id IS NULL
               AND u.shard_key = w.shard_key AND u.map_id = w.map_id AND u.record_key = w.record_key
         ), void AS (
             DELETE FROM crm.queue q USING gone g
             WHERE q.shard_key = g.shard_key AND q.map_id = g.map_id AND q.record_key = g.record_key
         ), folded AS (
             INSERT INTO crm.queue AS q (shard_key, map_id, record_key, state, op, cells, changed_at, place, actor)
             SELECT shard_key, map_id, record_key,
                    CASE WHEN crm_id IS NOT NULL OR creates THEN 'queued' ELSE 'unlinked' END,
                    CASE WHEN deleted THEN 'd' WHEN crm_id IS NULL THEN 'c' ELSE 'u' END::\"char\",
                    CASE WHEN deleted THEN NULL
                         WHEN crm_id IS NULL AND creates THEN crm_internal.cells_or(w.cells, coalesce(a.cells, w.cells))
                         WHEN checked IS NULL THEN w.cells ELSE crm_internal.cells_minus(w.cells, checked) END,
                    crm_internal.cells_stamp(NULL, CASE WHEN checked IS NULL THEN w.cells ELSE crm_internal.cells_minus(w.cells, checked) END, changed_at),
                    place, actor
             FROM work w
             LEFT JOIN whole a USING (map_id)
             WHERE writes AND NOT (deleted AND (on_delete <> 'delete' OR crm_id IS NULL))
             MERGE
         ), pended AS (
             INSERT INTO crm.pending_write AS p (shard_key, map_id, record_key, write_id, folded, state, cells, base, changed_at, actor,
                                                 correlation_id, revision)
             SELECT e.shard_key, e.map_id, e.record_key,
                    CASE WHEN e.writes IS NULL OR EXISTS (SELECT FROM crm.pending_write i
                                                          WHERE i.shard_key = e.shard_key AND i.write_id = e.writes[1])
                         THEN gen_random_uuid() ELSE e.writes[1] END,
                    e.writes, 'queued', e.cells, coalesce(e.base, '{}'), e.changed_at, e.actor, e.correlation_id, 1
             FROM edit e
             ON CONFLICT (shard_key, map_id, record_key) WHERE state IN ('queued', 'dead') DO UPDATE
             SET state = 'queued', cells = crm_internal.cells_or(p.cells, excluded.cells), take = crm_internal.cells_minus(p.take, excluded.cells),
                 -- The oldest base stands, unless a later edit is forced.
                 base = excluded.base || p.base || coalesce(
                     (SELECT jsonb_object_agg(b.key, b.value) FROM jsonb_each(excluded.base) b WHERE b.value ? 'force'), '{}'),
                 folded = p.folded || excluded.folded,
                 changed_at = excluded.changed_at, actor = excluded.actor,
                 correlation_id = coalesce(excluded.correlation_id, p.correlation_id),
                 revision = p.revision + 1, attempts = 0, next_attempt_at = '-infinity', error_class = NULL, last_error = NULL
         ), kept AS MATERIALIZED (
             SELECT s.place, array_agg(k.record_key) AS record_keys FROM slice s, unnest(s.record_keys) AS k (record_key)
             WHERE (SELECT count(*) FROM stuck) > 0
               AND (s.shard_key, s.map_id, k.record_key) IN (SELECT shard_key, map_id, record_key FROM stuck)
             GROUP BY s.place
         ), trimmed AS (
             UPDATE crm.change c SET record_keys = k.record_keys FROM kept k WHERE c.ctid = k.place
         ), deleted AS (
             DELETE FROM crm.change c
             WHERE c.ctid = ANY (ARRAY(SELECT place FROM slice EXCEPT ALL SELECT place FROM kept))
         )
         SELECT (SELECT count(*) FROM record) - (SELECT count(*) FROM stuck), (SELECT count(*) FROM gone)";

/// Takes a row of changes that cannot be folded out of the way. One that names several records is parted, so that each can be
/// tried by itself; that of one record becomes a dead letter, and its record is written anew as a whole once it is replayed.
pub fn put_aside(client: &mut SpiClient, at: &Place, error: &str) -> Result<(), StoreError> {
    let place = [at.0.as_str().into(), at.1.into()];
    // What comes first of its shard has room before it.
    let parted = client.update(
        "WITH whole AS (
             SELECT ctid AS place, record_keys, cardinality(record_keys) / 2 AS half FROM crm.change c
             WHERE shard_key = $1 AND change_id = $2 AND cardinality(record_keys) > 1
               AND NOT EXISTS (SELECT FROM crm.change e WHERE e.shard_key = $1 AND e.change_id < $2) FOR UPDATE
         ), rest AS (
             UPDATE crm.change c SET record_keys = w.record_keys[w.half + 1:] FROM whole w WHERE c.ctid = w.place
             RETURNING c.*, w.record_keys[:w.half] AS first
         )
         INSERT INTO crm.change (shard_key, change_id, map_id, record_keys, op, cells, base, write_id, changed_at, actor, correlation_id)
         OVERRIDING SYSTEM VALUE
         SELECT shard_key, change_id - 1, map_id, first, op, cells, base, write_id, changed_at, actor, correlation_id FROM rest",
        None,
        &place,
    )?;
    if !parted.is_empty() {
        return Ok(());
    }
    client.update(
        "INSERT INTO crm.ledger (shard_key, map_id, record_key)
         SELECT c.shard_key, c.map_id, k FROM crm.change c JOIN crm.object_map m USING (map_id), unnest(c.record_keys) AS k
         WHERE c.shard_key = $1 AND c.change_id = $2 ORDER BY k
         ON CONFLICT DO NOTHING",
        None,
        &place,
    )?;
    let [shard_key, change_id] = [at.0.as_str().into(), at.1.into()];
    client.update(PUT_ASIDE, None, &[shard_key, change_id, error.into()])?;
    Ok(())
}

const PUT_ASIDE: &str = "WITH change AS (
         DELETE FROM crm.change WHERE shard_key = $1 AND change_id = $2 RETURNING *
     ), locked AS MATERIALIZED (
         SELECT l.shard_key, l.map_id, l.record_key, l.crm_id, l.ctid AS place
         FROM change c, unnest(c.record_keys) AS k, LATERAL (
             SELECT ctid, * FROM crm.ledger l WHERE l.shard_key = c.shard_key AND l.map_id = c.map_id AND l.record_key = k FOR UPDATE) l
     ), record AS MATERIALIZED (
         SELECT l.*, c.op = 'd' AS deleted, c.actor, c.write_id,
                CASE WHEN l.crm_id IS NOT NULL AND c.op <> 'd' THEN k.cells END AS checked,
                CASE WHEN l.crm_id IS NULL OR k.cells IS NULL THEN m.cells ELSE crm_internal.cells_minus(m.cells, k.cells) END AS written
         FROM locked l, change c, LATERAL (SELECT crm_internal.map_cells(c.map_id) AS cells) m,
              LATERAL (SELECT crm_internal.checked_cells(c.map_id) AS cells) k
     ), queued AS (
         INSERT INTO crm.queue AS q (shard_key, map_id, record_key, state, op, cells, place, actor, error_class, last_error)
         SELECT shard_key, map_id, record_key, 'dead', (CASE WHEN deleted THEN 'd' WHEN crm_id IS NULL THEN 'c' ELSE 'u' END)::\"char\",
                CASE WHEN NOT deleted THEN written END, place, actor, 'internal', $3
         FROM record WHERE deleted OR crm_internal.cells_count(written) > 0
         ON CONFLICT (shard_key, map_id, record_key) DO UPDATE
         SET state = 'dead', op = excluded.op, cells = excluded.cells, revision = excluded.revision, error_class = 'internal', last_error = $3
         RETURNING q.shard_key, q.map_id, q.record_key, q.op, q.actor
     ), pending AS (
         INSERT INTO crm.pending_write AS p (shard_key, map_id, record_key, state, cells, actor, folded, error_class, last_error, revision)
         SELECT shard_key, map_id, record_key, 'dead', checked, actor, CASE WHEN write_id IS NOT NULL THEN ARRAY[write_id] END, 'internal', $3, 1
         FROM record WHERE crm_internal.cells_count(checked) > 0
         ON CONFLICT (shard_key, map_id, record_key) WHERE state IN ('queued', 'dead') DO UPDATE
         SET state = 'dead', cells = crm_internal.cells_or(p.cells, excluded.cells), folded = p.folded || excluded.folded, error_class = 'internal',
             last_error = $3, revision = p.revision + 1
         RETURNING p.shard_key, p.map_id, p.record_key, 'u'::\"char\" AS op, p.actor
     ), letter AS (
         INSERT INTO crm.dead_letter AS d (shard_key, map_id, record_key, path, crm_id, operation, error_class, vendor_code, error, attempts, actor)
         SELECT x.shard_key, x.map_id, x.record_key, x.path, r.crm_id,
                CASE x.op WHEN 'd' THEN 'delete' WHEN 'c' THEN 'create' ELSE 'update' END, 'internal', 'fold', $3, 1, x.actor
         FROM (SELECT *, 'batch' AS path FROM queued UNION ALL SELECT *, 'reconcile' FROM pending) x
         JOIN record r USING (shard_key, map_id, record_key)
         ON CONFLICT (shard_key, map_id, record_key, path) DO UPDATE
         SET operation = excluded.operation, error_class = excluded.error_class, vendor_code = excluded.vendor_code, error = excluded.error,
             died_at = now()
         RETURNING d.*
     )
     INSERT INTO crm.audit_log (shard_key, map_id, connection, provider, relation, record_key, crm_id, path, operation, result, error_class,
                                vendor_code, error, actor)
     SELECT l.shard_key, l.map_id, n.name, n.provider, m.relation::text, l.record_key, l.crm_id, l.path, l.operation, 'dead', l.error_class,
            l.vendor_code, l.error, l.actor
     FROM letter l JOIN crm.object_map m USING (map_id) JOIN crm.connection n USING (connection_id)";

/// Edits of rows that are gone.
const LATE: &str = "WITH late AS (
         DELETE FROM crm.pending_write p
         WHERE p.state IN ('queued', 'dead') AND NOT EXISTS (
             SELECT FROM crm.ledger l WHERE l.shard_key = p.shard_key AND l.map_id = p.map_id AND l.record_key = p.record_key)
         RETURNING p.shard_key, p.map_id, p.record_key, p.folded || p.undone AS calls
     )
     INSERT INTO crm.audit_log (shard_key, map_id, connection, provider, relation, record_key, path, operation, result, error, folded)
     SELECT l.shard_key, l.map_id, n.name, n.provider, m.relation::text, l.record_key, 'reconcile', 'update', 'superseded', 'the row is gone',
            l.calls
     FROM late l JOIN crm.object_map m USING (map_id) JOIN crm.connection n USING (connection_id)
     WHERE l.calls IS NOT NULL";
