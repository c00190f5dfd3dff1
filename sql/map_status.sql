-- What each map is doing, cheap however much it has: counts are exact up to 1,000 and estimates beyond, so that nothing is scanned.

-- Index look-ups, whatever is known of the tables.
CREATE FUNCTION crm_internal.waiting_work(map_id int, OUT dirty_cells bigint, OUT records bigint, OUT is_partial bool, OUT unlinked bigint,
                                          OUT pending bigint, OUT conflicts bigint, OUT dead bigint, OUT oldest timestamptz, OUT lag interval)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off AS $$
    WITH unfolded AS MATERIALIZED (
        SELECT h.map_id, h.shard_key, k.record_key, h.cells, h.changed_at
        FROM (SELECT x.* FROM crm.change x ORDER BY x.shard_key, x.change_id LIMIT 1001) h, unnest(h.record_keys) AS k (record_key)
        LIMIT 1001
    ), edit AS (
        (SELECT l.shard_key, l.record_key, l.cells, l.changed_at FROM crm.queue l
         WHERE l.map_id = waiting_work.map_id AND l.state = 'queued' ORDER BY l.next_attempt_at LIMIT 1001)
        UNION ALL
        SELECT h.shard_key, h.record_key, h.cells, ARRAY[h.changed_at] FROM unfolded h WHERE h.map_id = waiting_work.map_id
    ), record AS (
        SELECT crm_internal.cells_union(e.cells) AS cells, min((SELECT min(v.at) FROM unnest(e.changed_at) AS v (at) WHERE v.at > '-infinity')) AS oldest
        FROM edit e GROUP BY e.shard_key, e.record_key
    ), queued AS (
        SELECT coalesce(sum(crm_internal.cells_count(r.cells)), 0) AS dirty_cells, count(*) AS records, min(r.oldest) AS oldest FROM record r
    ), later AS (
        -- Retries come after what is fresh.
        SELECT l.changed_at FROM crm.queue l
        WHERE l.map_id = waiting_work.map_id AND l.state = 'queued' AND l.next_attempt_at > '-infinity' AND (SELECT q.records FROM queued q) > 1000
        ORDER BY l.next_attempt_at LIMIT 1001
    ), stuck AS (
        SELECT l.changed_at FROM crm.queue l WHERE l.map_id = waiting_work.map_id AND l.state <> 'queued' LIMIT 1001
    ), pending AS (
        (SELECT l.created_at, false AS is_dead FROM crm.pending_write l
         WHERE l.map_id = waiting_work.map_id AND l.state = 'queued' ORDER BY l.next_attempt_at LIMIT 1001)
        UNION ALL
        (SELECT l.created_at, false FROM crm.pending_write l
         WHERE l.map_id = waiting_work.map_id AND l.state IN ('sending', 'landed', 'failed') LIMIT 1001)
        UNION ALL
        (SELECT l.created_at, true FROM crm.pending_write l WHERE l.map_id = waiting_work.map_id AND l.state = 'dead' LIMIT 1001)
    )
    SELECT q.dirty_cells::bigint, q.records, (SELECT count(*) FROM unfolded) > 1000,
           (SELECT count(*) FROM (SELECT FROM crm.queue l WHERE l.map_id = waiting_work.map_id AND l.state = 'unlinked' LIMIT 1001) x),
           (SELECT count(*) FROM pending p WHERE NOT p.is_dead),
           (SELECT count(*) FROM (SELECT FROM crm.conflict l WHERE l.map_id = waiting_work.map_id LIMIT 1001) x),
           (SELECT count(*) FROM (SELECT FROM crm.dead_letter l WHERE l.map_id = waiting_work.map_id LIMIT 1001) x),
           least(q.oldest, (SELECT min(v.at) FROM (SELECT * FROM later UNION ALL SELECT * FROM stuck) x, unnest(x.changed_at) AS v (at)
                            WHERE v.at > '-infinity'),
                 (SELECT min(p.created_at) FROM pending p)),
           (SELECT now() - min(x.changed_at) FROM unfolded x WHERE x.map_id = waiting_work.map_id)
    FROM queued q
$$;
COMMENT ON FUNCTION crm_internal.waiting_work(int) IS
    'what waits to be written of a map, from at most 1,001 rows of each table. records: those with cells to be written; is_partial: there '
    'are changes that the worker has not folded and that were not looked at; oldest: when the oldest edit was made that did not reach the CRM';

CREATE VIEW crm.status_wide AS
WITH sample AS MATERIALIZED (SELECT * FROM crm_internal.many_queued)
SELECT m.map_id, c.name AS connection, c.provider, m.relation, m.crm_object,
       CASE WHEN NOT m.enabled THEN 'disabled'
            WHEN s.state = 'error' OR n.state = 'error' THEN 'error'
            WHEN h.reason IS NOT NULL THEN 'held'
            WHEN EXISTS (SELECT FROM crm.claim x WHERE x.map_id = m.map_id) THEN 'syncing'
            ELSE 'idle' END AS state,
       CASE WHEN NOT m.enabled THEN format('map disabled: crm.enable(%s)', m.map_id)
            WHEN s.state = 'error' AND c.home = crm.home() THEN s.reason WHEN m.paused THEN coalesce(n.reason, 'map paused')
            ELSE coalesce(n.reason, h.reason) END AS reason,
       e.rows, g.records AS linked, CASE WHEN e.rows > g.records THEN e.rows - g.records WHEN e.rows IS NOT NULL THEN 0 END AS never_sent,
       CASE WHEN w.records > 1000 THEN w.dirty_cells * z.queued / w.records ELSE w.dirty_cells END::bigint AS dirty_cells,
       z.queued::bigint AS queued, w.unlinked, w.pending, w.conflicts, w.dead,
       date_trunc('second', now() - w.oldest) AS oldest_unsent,
       s.last_success, s.next_write_at,
       CASE WHEN NOT (m.enabled AND crm_internal.ingests(m.map_id)) THEN 'off'
            WHEN i.reading_since IS NOT NULL AND crm.worker_state() = 'running' THEN 'syncing' ELSE 'idle' END AS ingest,
       i.last_at AS last_ingest, date_trunc('second', now() - i.last_at) AS ingest_lag,
       CASE WHEN m.enabled AND crm_internal.ingests(m.map_id) THEN i.next_at END AS next_ingest_at, i.applied AS ingested, i.echoes,
           i.overwritten,
       w.lag,
       s.last_error, s.last_error_at, crm.worker_state() AS worker, make_interval(secs => crm_internal.worker_busy()) AS worker_busy,
       n.circuit, CASE WHEN m.enabled AND t.trouble IS NULL THEN 'on' ELSE 'off' END AS capture, t.trouble AS capture_trouble,
       ARRAY(SELECT x.name FROM (VALUES
                 ('rows', e.rows IS NOT NULL), ('linked', g.is_estimate), ('never_sent', e.rows IS NOT NULL),
                 ('dirty_cells', w.is_partial OR w.records > 1000), ('queued', w.is_partial OR w.records > 1000),
                 ('unlinked', w.unlinked > 1000), ('pending', w.pending > 1000), ('conflicts', w.conflicts > 1000), ('dead', w.dead > 1000),
                 ('oldest_unsent', w.is_partial OR w.records > 1000 OR w.pending > 1000), ('lag', w.is_partial)) AS x (name, is_estimate)
             WHERE x.is_estimate) AS estimated
FROM crm.object_map m
JOIN crm.connection c USING (connection_id)
JOIN crm.connections n ON n.connection = c.name
JOIN crm_internal.linked g USING (map_id)
LEFT JOIN crm.map_state s USING (map_id)
LEFT JOIN crm.ingest_state i USING (map_id)
-- Of a partitioned table: of its partitions. A table of which one was never analysed has no estimate.
CROSS JOIN LATERAL (SELECT CASE WHEN min(a.reltuples) >= 0 THEN sum(a.reltuples)::bigint END AS rows
                    FROM pg_class a
                    WHERE a.relkind = 'r' AND a.oid IN (SELECT m.relation UNION ALL SELECT y.relid FROM pg_partition_tree(m.relation) y)) e
CROSS JOIN LATERAL (SELECT string_agg(crm_internal.held_reason(f), '; ' ORDER BY f.direction DESC) AS reason
                    FROM crm.fuse f WHERE f.map_id = m.map_id) h
CROSS JOIN LATERAL crm_internal.waiting_work(m.map_id) w
CROSS JOIN LATERAL (SELECT CASE WHEN w.records <= 1000 THEN w.records
                                ELSE greatest(w.records, (SELECT y.records FROM sample y WHERE y.map_id = m.map_id)) END AS queued) z
CROSS JOIN LATERAL (SELECT crm_internal.capture_trouble(m.map_id) AS trouble) t
ORDER BY c.name, m.map_id;
COMMENT ON VIEW crm.status_wide IS
    'one row per map, in the order of connections: what it is doing, what is queued, what went wrong. Counts are exact up to 1,000; '
    'estimated names those that are estimates, or at least that many. crm.status has the most important columns';
COMMENT ON COLUMN crm.status_wide.map_id IS 'the map, as crm.map_object() returned it';
COMMENT ON COLUMN crm.status_wide.connection IS 'name of the connection';
COMMENT ON COLUMN crm.status_wide.provider IS 'provider of the connection';
COMMENT ON COLUMN crm.status_wide.relation IS 'the mapped table';
COMMENT ON COLUMN crm.status_wide.crm_object IS 'the CRM object that the table is mapped to';
COMMENT ON COLUMN crm.status_wide.state IS 'idle, syncing, held (crm.approve()), error, or disabled (crm.disable())';
COMMENT ON COLUMN crm.status_wide.reason IS 'why nothing is sent; NULL: nothing is in the way';
COMMENT ON COLUMN crm.status_wide.rows IS
    'rows of the table, as PostgreSQL estimated them when it last analysed it; NULL: it has not yet';
COMMENT ON COLUMN crm.status_wide.linked IS 'records of the CRM that rows are linked to';
COMMENT ON COLUMN crm.status_wide.never_sent IS 'rows without a CRM record: rows less linked; NULL: rows is not known';
COMMENT ON COLUMN crm.status_wide.dirty_cells IS 'changed cells that are not written back yet';
COMMENT ON COLUMN crm.status_wide.queued IS
    'records with changes that are not written back yet; includes those that the worker has not read from crm.change';
COMMENT ON COLUMN crm.status_wide.unlinked IS 'records whose edits are waiting for a CRM id (crm.link())';
COMMENT ON COLUMN crm.status_wide.pending IS 'edits of bidirectional cells whose outcome is not final (crm.pending_writes)';
COMMENT ON COLUMN crm.status_wide.conflicts IS 'conflicts to be resolved with crm.resolve_conflict() (crm.conflicts)';
COMMENT ON COLUMN crm.status_wide.dead IS 'dead letters of the map (crm.dead_letters)';
COMMENT ON COLUMN crm.status_wide.oldest_unsent IS
    'age of the oldest edit that has not reached the CRM, whatever it waits for: the next round, a retry, a paused connection, a link, '
    'crm.replay(); NULL: there is none';
COMMENT ON COLUMN crm.status_wide.last_success IS 'when a write-back last succeeded; NULL: never';
COMMENT ON COLUMN crm.status_wide.next_write_at IS 'when the next scheduled write-back starts';
COMMENT ON COLUMN crm.status_wide.ingest IS 'off; idle; syncing: the CRM''s changes are being read';
COMMENT ON COLUMN crm.status_wide.last_ingest IS 'when the CRM''s changes were last read to the end; NULL: never';
COMMENT ON COLUMN crm.status_wide.ingest_lag IS 'age of last_ingest; NULL: never';
COMMENT ON COLUMN crm.status_wide.next_ingest_at IS 'when the CRM is polled for changes next; NULL: it is not (ingest of crm.map_object())';
COMMENT ON COLUMN crm.status_wide.ingested IS 'total CRM records that changed a row, a link or a conflict';
COMMENT ON COLUMN crm.status_wide.echoes IS 'total CRM records that were read and changed nothing, mostly our own writes';
COMMENT ON COLUMN crm.status_wide.overwritten IS 'total edits of outbound fields by CRM users that were overwritten, or will be';
COMMENT ON COLUMN crm.status_wide.lag IS 'age of the oldest captured change that the worker has not processed; NULL: there is none';
COMMENT ON COLUMN crm.status_wide.last_error IS 'the last error of this map; NULL: none';
COMMENT ON COLUMN crm.status_wide.last_error_at IS 'when the last error occurred; NULL: none did';
COMMENT ON COLUMN crm.status_wide.worker IS 'state of the background worker: running, starting, failing, no free slot, stopped, or not preloaded';
COMMENT ON COLUMN crm.status_wide.worker_busy IS
    'how long the worker has been at one turn of its work, if longer than five seconds: pg_stat_activity shows at what; NULL: it has not';
COMMENT ON COLUMN crm.status_wide.circuit IS
    'of the connection: closed; open: the CRM failed at least three times in a row, and no requests are sent for a while; half-open: '
    'the next request shows whether it has recovered';
COMMENT ON COLUMN crm.status_wide.capture IS
    'on; off: edits of the table are not captured. A single session with session_replication_role = replica: crm.check(deep => true) finds what it wrote';
COMMENT ON COLUMN crm.status_wide.capture_trouble IS 'why edits are not captured, and how to fix it; NULL: they are, or the map is disabled';
COMMENT ON COLUMN crm.status_wide.estimated IS
    'columns of this row that are estimates, or, beyond 1,000, lower bounds (unlinked, pending, conflicts, dead)';

CREATE VIEW crm.status AS
SELECT w.map_id, w.connection, w.provider, w.relation, w.state, w.ingest,
       CASE WHEN 'linked' = ANY (w.estimated) THEN '~' ELSE '' END || w.linked || '/' || coalesce('~' || w.rows, '?') AS coverage,
       w.dirty_cells, w.pending, w.conflicts, w.dead, w.oldest_unsent,
       coalesce(w.reason, 'edits are not captured: ' || nullif(w.capture_trouble, ''),
                'the worker has been busy for ' || date_trunc('second', w.worker_busy)) AS reason
FROM crm.status_wide w
ORDER BY w.connection, w.map_id;
COMMENT ON VIEW crm.status IS
    'one row per map, in the order of connections, to be read on a screen: crm.status_wide says more';
COMMENT ON COLUMN crm.status.map_id IS 'the map, as crm.map_object() returned it';
COMMENT ON COLUMN crm.status.connection IS 'name of the connection';
COMMENT ON COLUMN crm.status.provider IS 'provider of the connection';
COMMENT ON COLUMN crm.status.relation IS 'the mapped table';
COMMENT ON COLUMN crm.status.state IS 'idle, syncing, held (crm.approve()), error, or disabled (crm.disable())';
COMMENT ON COLUMN crm.status.ingest IS 'off; idle; syncing: the CRM''s changes are being read';
COMMENT ON COLUMN crm.status.coverage IS
    'CRM records that rows are linked to / rows of the table; ~: an estimate; ?: not known before the table is analysed';
COMMENT ON COLUMN crm.status.dirty_cells IS 'changed cells that are not written back yet; an estimate beyond 1,000 records';
COMMENT ON COLUMN crm.status.pending IS
    'edits of bidirectional cells whose outcome is not final (crm.pending_writes); 1,001: at least';
COMMENT ON COLUMN crm.status.conflicts IS 'conflicts to be resolved with crm.resolve_conflict() (crm.conflicts); 1,001: at least';
COMMENT ON COLUMN crm.status.dead IS 'dead letters of the map (crm.dead_letters); 1,001: at least';
COMMENT ON COLUMN crm.status.oldest_unsent IS
    'age of the oldest edit that has not reached the CRM, whatever it waits for: the next round, a retry, a paused connection, a link, '
    'crm.replay(); NULL: there is none';
COMMENT ON COLUMN crm.status.reason IS
    'why nothing is sent, why edits are not captured, or for how long the worker has been busy with one thing; NULL: nothing is in the way';
