-- Views for readers and operators.

CREATE VIEW crm.rate_budget AS
WITH reported AS (
    SELECT c.connection_id, c.name AS connection, c.provider, c.options, s.usage_reported_at AS reported_at, s.usage,
           least(greatest(coalesce((c.options ->> 'realtime_reserve')::numeric, 0.2), 0), 0.9) AS reserve,
           (s.usage ->> 'daily_limit')::bigint AS daily_limit, (s.usage ->> 'daily_remaining')::bigint AS daily_remaining,
           (s.usage ->> 'window_limit')::bigint AS window_limit, (s.usage ->> 'window_remaining')::bigint AS window_remaining,
           make_interval(secs => (s.usage ->> 'window_seconds')::float8) AS window_length,
           (s.usage ->> 'broker_limit')::bigint AS broker_limit, (s.usage ->> 'broker_remaining')::bigint AS broker_remaining,
           make_interval(secs => (s.usage ->> 'broker_seconds')::float8) AS broker_length,
           (c.options ->> 'daily_limit')::bigint AS daily_bound, d.midnight,
           CASE WHEN (s.usage ->> 'day')::bigint = extract(epoch FROM d.midnight) / 86400 - 1 THEN (s.usage ->> 'requests')::bigint
               ELSE 0 END
               AS spent
    FROM crm.connection c LEFT JOIN crm.connection_state s USING (connection_id)
    CROSS JOIN (SELECT date_trunc('day', now(), 'UTC') + interval '1 day') AS d (midnight)
)
SELECT t.connection, t.provider, b.budget, b."limit", b."limit" - b.remaining AS used, b.remaining,
       ceil(b."limit" * t.reserve)::bigint AS reserved, b.per, b.reported_at, b.resets_at, coalesce(crm_internal.waiting_records(t.connection_id), 0) AS waiting
FROM reported t
CROSS JOIN LATERAL (
    SELECT 'day', t.daily_limit, t.daily_remaining, interval '1 day', t.reported_at, NULL::timestamptz
    WHERE t.daily_remaining IS NOT NULL
    UNION ALL
    SELECT 'window', t.window_limit, t.window_remaining, t.window_length, t.reported_at, t.reported_at + t.window_length
    WHERE t.window_remaining IS NOT NULL
    UNION ALL
    SELECT 'broker', t.broker_limit, t.broker_remaining, t.broker_length, t.reported_at, t.reported_at + t.broker_length
    WHERE t.broker_remaining IS NOT NULL
    UNION ALL
    SELECT 'daily_limit', t.daily_bound, t.daily_bound - least(t.daily_bound, t.spent), interval '1 day', t.reported_at, t.midnight
    WHERE t.daily_bound IS NOT NULL
    UNION ALL
    SELECT 'rate_limit', (t.options #>> '{rate_limit,requests}')::bigint, NULL,
           make_interval(secs => (t.options #>> '{rate_limit,seconds}')::float8), NULL, NULL
    WHERE t.options ? 'rate_limit') AS b (budget, "limit", remaining, per, reported_at, resets_at);
COMMENT ON VIEW crm.rate_budget IS
    'one row per request budget of a connection: what the CRM reported last (day, window), what a broker reported (broker), and what '
    'the administrator allows (rate_limit, daily_limit)';
COMMENT ON COLUMN crm.rate_budget.connection IS 'name of the connection';
COMMENT ON COLUMN crm.rate_budget.provider IS 'provider of the connection';
COMMENT ON COLUMN crm.rate_budget.budget IS
    'day: requests per day; window: requests per short interval; broker: requests of the broker; daily_limit, rate_limit: the options '
    'of that name';
COMMENT ON COLUMN crm.rate_budget."limit" IS 'requests allowed per interval; NULL: the CRM does not report it';
COMMENT ON COLUMN crm.rate_budget.used IS 'requests used in the current interval; NULL: not known';
COMMENT ON COLUMN crm.rate_budget.remaining IS 'requests left in the current interval; NULL: not known';
COMMENT ON COLUMN crm.rate_budget.reserved IS
    'requests of the limit that are reserved for real-time writes (option realtime_reserve); NULL: the limit is not known';
COMMENT ON COLUMN crm.rate_budget.per IS 'length of the interval; NULL: the CRM does not report it';
COMMENT ON COLUMN crm.rate_budget.reported_at IS 'when the CRM or the broker last reported its budget; NULL: it never did';
COMMENT ON COLUMN crm.rate_budget.resets_at IS 'when the interval ends; NULL: not known';
COMMENT ON COLUMN crm.rate_budget.waiting IS 'records queued to be written or read over this connection; of a map with more than 1,000 an estimate';

CREATE VIEW crm.connections AS
SELECT c.name AS connection, c.provider,
       CASE WHEN s.state = 'error' OR c.home <> crm.home() THEN 'error' WHEN c.paused THEN 'paused' ELSE 'ok' END AS state,
       CASE WHEN c.home <> crm.home() THEN
                format('connection "%s" came with a restore or a copy of a database that may still be sending; '
                       'once it has stopped, call crm.adopt_connections() here', c.name)
            WHEN s.state = 'error' THEN 'credentials rejected: ' || s.last_error
            WHEN c.paused THEN 'connection paused'
            WHEN crm.worker_state() <> 'running' THEN 'worker ' || crm.worker_state()
            WHEN s.blocked_until > now() THEN format('waiting for the CRM until %s: %s', s.blocked_until, s.last_error)
            WHEN r.connection IS NOT NULL THEN
                format('the remaining %s of the day''s %s requests are reserved for real-time writes', r.remaining, r."limit")
            END AS reason,
       CASE WHEN coalesce(s.failures, 0) < 3 THEN 'closed' WHEN s.blocked_until > now() THEN 'open' ELSE 'half-open' END AS circuit,
       (SELECT count(*) FROM crm.object_map m WHERE m.connection_id = c.connection_id) AS maps,
       coalesce(crm_internal.waiting_records(c.connection_id), 0) AS waiting,
       (SELECT max(x.last_success) FROM crm.map_state x JOIN crm.object_map m USING (map_id)
        WHERE m.connection_id = c.connection_id) AS last_success,
       s.error_class, s.last_error, b.budget, b.remaining
FROM crm.connection c
LEFT JOIN crm.connection_state s USING (connection_id)
LEFT JOIN LATERAL (SELECT x.* FROM crm.rate_budget x
                   WHERE x.connection = c.name AND x.remaining <= x.reserved
                     AND (x.budget = 'day' AND x.reported_at > now() - interval '15 minutes' OR x.budget = 'daily_limit')
                   ORDER BY x.remaining LIMIT 1) r ON true
LEFT JOIN LATERAL (SELECT x.budget, x.remaining FROM crm.rate_budget x
                   WHERE x.connection = c.name AND x.remaining IS NOT NULL
                   ORDER BY x.remaining::numeric / nullif(x."limit", 0), x.remaining LIMIT 1) b ON true;
COMMENT ON VIEW crm.connections IS 'one row per connection: whether it sends, what is queued, what went wrong';
COMMENT ON COLUMN crm.connections.connection IS 'name of the connection';
COMMENT ON COLUMN crm.connections.provider IS 'provider of the connection';
COMMENT ON COLUMN crm.connections.state IS
    'ok; paused (crm.pause()); error: nothing is sent until crm.set_credentials() or, after a restore, crm.adopt_connections()';
COMMENT ON COLUMN crm.connections.reason IS 'why nothing is sent; NULL: nothing is in the way';
COMMENT ON COLUMN crm.connections.circuit IS
    'closed; open: the CRM failed at least three times in a row, and no requests are sent for a while; half-open: the next request '
    'shows whether it has recovered';
COMMENT ON COLUMN crm.connections.maps IS 'number of maps';
COMMENT ON COLUMN crm.connections.waiting IS 'records queued to be written or read over this connection; of a map with more than 1,000 an estimate';
COMMENT ON COLUMN crm.connections.last_success IS 'when a write-back of one of its maps last succeeded; NULL: never';
COMMENT ON COLUMN crm.connections.error_class IS
    'class of the failure that lasts: transient, rate_limited, auth or internal; NULL: the CRM responds';
COMMENT ON COLUMN crm.connections.last_error IS 'its message; NULL: the CRM responds';
COMMENT ON COLUMN crm.connections.budget IS
    'the request budget with the smallest part left: day, window, broker or daily_limit (crm.rate_budget); NULL: none is known';
COMMENT ON COLUMN crm.connections.remaining IS 'requests left in that budget; NULL: none is known';

CREATE VIEW crm.cell_status AS
WITH unfolded AS (
    SELECT h.shard_key, h.map_id, k.record_key, crm_internal.cells_union(h.cells) AS cells, max(h.changed_at) AS changed_at
    FROM crm.change h, unnest(h.record_keys) AS k (record_key) GROUP BY h.shard_key, h.map_id, k.record_key
)
SELECT m.map_id, r.shard_key, r.record_key, f.column_name, f.crm_field, r.crm_id,
       greatest(r.changed_at[f.field_id + 1], q.changed_at[f.field_id + 1],
                CASE WHEN crm_internal.cells_has(w.cells, f.field_id) THEN w.changed_at END) AS changed_at,
       nullif(r.synced_at[f.field_id + 1], '-infinity') AS last_synced_at,
       CASE WHEN crm_internal.cells_has(w.cells, f.field_id) THEN 'changed'
            WHEN crm_internal.cells_has(p.cells, f.field_id) OR crm_internal.cells_has(p.take, f.field_id) THEN
                CASE p.state WHEN 'dead' THEN 'dead' ELSE 'pending' END
            WHEN x.conflict_id IS NOT NULL THEN 'conflict'
            WHEN q.cells IS NULL OR NOT crm_internal.cells_has(q.cells, f.field_id) THEN
                CASE WHEN r.detached THEN 'detached' WHEN nullif(r.synced_at[f.field_id + 1], '-infinity') IS NULL THEN 'never synced' ELSE 'synced' END
            WHEN q.state = 'queued' AND k.claim_id IS NOT NULL THEN 'sending'
            WHEN q.state = 'queued' AND q.attempts > 0 THEN 'retrying'
            ELSE q.state END AS state,
       coalesce(q.attempts, 0::smallint) AS attempts,
       CASE WHEN q.attempts > 0 AND q.state = 'queued' THEN q.next_attempt_at END AS next_attempt_at,
       CASE WHEN q.record_key IS NULL AND r.detached THEN 'not_found' ELSE q.error_class END AS error_class,
       CASE WHEN q.record_key IS NULL AND r.detached THEN 'the CRM deleted the record' ELSE q.last_error END AS last_error
FROM crm.object_map m
JOIN crm.field_map f USING (map_id)
JOIN (SELECT l.shard_key, l.map_id, l.record_key, l.crm_id, l.changed_at, l.synced_at, l.detached
      FROM crm.ledger l
      UNION ALL
      SELECT h.shard_key, h.map_id, h.record_key, NULL, NULL::timestamptz[], NULL::timestamptz[], false
      FROM unfolded h
      WHERE NOT EXISTS (SELECT FROM crm.ledger l WHERE l.shard_key = h.shard_key AND l.map_id = h.map_id AND l.record_key = h.record_key)
     ) r USING (map_id)
LEFT JOIN crm.queue q USING (shard_key, map_id, record_key)
LEFT JOIN unfolded w USING (shard_key, map_id, record_key)
LEFT JOIN (SELECT c.map_id, u.shard_key, u.record_key, c.claim_id
           FROM crm.claim c, unnest(c.shard_keys, c.record_keys) AS u (shard_key, record_key)) k USING (shard_key, map_id, record_key)
LEFT JOIN LATERAL (SELECT p.state, crm_internal.cells_union(p.cells) AS cells, crm_internal.cells_union(p.take) AS take
                   FROM crm.pending_write p
                   WHERE p.shard_key = r.shard_key AND p.map_id = r.map_id AND p.record_key = r.record_key
                   GROUP BY p.state ORDER BY p.state = 'dead' LIMIT 1) p ON true
LEFT JOIN crm.conflict x ON x.shard_key = r.shard_key AND x.map_id = r.map_id AND x.record_key = r.record_key AND x.field_id = f.field_id
WHERE f.direction <> 'inbound' OR r.synced_at[f.field_id + 1] IS NOT NULL OR x.conflict_id IS NOT NULL;
COMMENT ON VIEW crm.cell_status IS 'one row per cell of each known record: when it changed, when it was last synced, and its state';
COMMENT ON COLUMN crm.cell_status.map_id IS 'the map, as crm.map_object() returned it';
COMMENT ON COLUMN crm.cell_status.shard_key IS 'text of the shard_column; empty: the map has none';
COMMENT ON COLUMN crm.cell_status.record_key IS 'text of the row''s key column';
COMMENT ON COLUMN crm.cell_status.column_name IS 'column of the table';
COMMENT ON COLUMN crm.cell_status.crm_field IS 'field of the CRM object';
COMMENT ON COLUMN crm.cell_status.crm_id IS 'id of the CRM record; NULL: the row is not linked to one';
COMMENT ON COLUMN crm.cell_status.changed_at IS 'when the column was last changed; NULL: not since it was mapped';
COMMENT ON COLUMN crm.cell_status.last_synced_at IS 'when both sides last agreed on the value; NULL: never';
COMMENT ON COLUMN crm.cell_status.state IS
    'never synced, synced, changed (not processed by the worker yet), queued, sending, retrying, unlinked (waiting for a CRM id), '
    'pending (see crm.pending_writes), conflict (see crm.conflicts), dead (see crm.dead_letters), detached (the CRM deleted the '
    'record)';
COMMENT ON COLUMN crm.cell_status.attempts IS 'failed attempts so far; 0: none, or nothing is queued';
COMMENT ON COLUMN crm.cell_status.next_attempt_at IS 'when the next retry is due; NULL: no retry is scheduled';
COMMENT ON COLUMN crm.cell_status.error_class IS
    'class of the last error: transient, rate_limited, auth, validation, mapping, conflict, not_found or internal; NULL: none';
COMMENT ON COLUMN crm.cell_status.last_error IS 'message of the last error; NULL: none';

CREATE VIEW crm.dead_letters AS
SELECT d.dead_letter_id, d.map_id, c.name AS connection, m.relation, d.shard_key, d.record_key, d.crm_id, d.path, d.operation, d.fields,
       d.error_class, d.vendor_code, d.error, d.attempts, d.died_at, d.actor, d.correlation_id, d.operation_id
FROM crm.dead_letter d JOIN crm.object_map m USING (map_id) JOIN crm.connection c USING (connection_id);
COMMENT ON VIEW crm.dead_letters IS
    'records that could not be written or ingested, and why; crm.replay() queues one again, and so does the next edit of the record';
COMMENT ON COLUMN crm.dead_letters.dead_letter_id IS 'argument of crm.replay()';
COMMENT ON COLUMN crm.dead_letters.map_id IS 'the map, as crm.map_object() returned it';
COMMENT ON COLUMN crm.dead_letters.connection IS 'name of the connection';
COMMENT ON COLUMN crm.dead_letters.relation IS 'the mapped table';
COMMENT ON COLUMN crm.dead_letters.shard_key IS 'text of the shard_column; empty: the map has none';
COMMENT ON COLUMN crm.dead_letters.record_key IS 'text of the row''s key column; of a CRM record without a row: its CRM id';
COMMENT ON COLUMN crm.dead_letters.crm_id IS 'id of the CRM record; NULL: the row is not linked to one';
COMMENT ON COLUMN crm.dead_letters.path IS
    'batch: scheduled write-back; reconcile: a pending write; ingest: a CRM record that could not be stored';
COMMENT ON COLUMN crm.dead_letters.operation IS 'what was attempted: create, update or delete; of path ingest also insert or ingest';
COMMENT ON COLUMN crm.dead_letters.fields IS
    'CRM field -> {"new": value sent, "old": value before, where it is known}; of path ingest: the values that the table refused, each with '
    'the "column" and its "type"';
COMMENT ON COLUMN crm.dead_letters.error_class IS
    'class of the error: transient, rate_limited, auth, validation, mapping, conflict, not_found or internal';
COMMENT ON COLUMN crm.dead_letters.vendor_code IS 'the CRM''s error code, or the SQLSTATE of the table''s error; NULL: there was none';
COMMENT ON COLUMN crm.dead_letters.error IS 'error message; NULL: there was none';
COMMENT ON COLUMN crm.dead_letters.attempts IS 'attempts made';
COMMENT ON COLUMN crm.dead_letters.died_at IS 'when the last attempt failed';
COMMENT ON COLUMN crm.dead_letters.actor IS
    'who made the edit: session_user, followed by a slash and pg_crm.actor if that was set; NULL: not known';

COMMENT ON COLUMN crm.dead_letters.correlation_id IS
    'pg_crm.correlation_id, or the argument of crm.write(), of the newest edit that has one; NULL: none was set';
COMMENT ON COLUMN crm.dead_letters.operation_id IS
    'the round or pass of the last attempt, as in crm.audit_log; NULL: of path reconcile';

CREATE VIEW crm.progress AS
SELECT s.map_id, c.name AS connection, m.relation, 'write-back'::text AS phase, s.round_start AS started_at,
       s.round_total AS records_total, s.round_done AS records_done,
       round((s.round_done / nullif(extract(epoch FROM now() - s.round_start), 0))::numeric, 1) AS records_per_second,
       CASE WHEN s.round_done > 0 THEN
           (now() - s.round_start) * (greatest(s.round_total - s.round_done, 0)::float8 / s.round_done) END AS eta,
       (SELECT coalesce(sum(cardinality(k.record_keys)), 0) FROM crm.claim k WHERE k.map_id = s.map_id) AS records_in_flight,
       NULL::bigint AS push_id
FROM crm.map_state s JOIN crm.object_map m USING (map_id) JOIN crm.connection c USING (connection_id)
WHERE s.round_start IS NOT NULL
UNION ALL
SELECT i.map_id, c.name, m.relation, 'backfill', i.backfill, i.total, i.backfilled,
       round((i.backfilled / nullif(extract(epoch FROM now() - i.backfill), 0))::numeric, 1),
       CASE WHEN i.backfilled > 0 THEN (now() - i.backfill) * (greatest(i.total - i.backfilled, 0)::float8 / i.backfilled) END, 0, NULL
FROM crm.ingest_state i JOIN crm.object_map m USING (map_id) JOIN crm.connection c USING (connection_id)
WHERE i.backfill IS NOT NULL
UNION ALL
(SELECT DISTINCT ON (r.map_id, CASE r.task WHEN 'push' THEN r.request_id END) r.map_id, c.name, m.relation, r.task, r.requested_at, nullif(e.rows, 0), r.compared,
       round((r.compared / nullif(extract(epoch FROM now() - r.requested_at), 0))::numeric, 1),
       CASE WHEN r.compared > 0 AND e.rows > 0 THEN
           (now() - r.requested_at) * (greatest(e.rows - r.compared, 0)::float8 / r.compared) END, 0, CASE r.task WHEN 'push' THEN r.request_id END
FROM crm.scan_request r JOIN crm.object_map m USING (map_id) JOIN crm.connection c USING (connection_id)
CROSS JOIN LATERAL (SELECT greatest(k.reltuples::bigint, 0) AS rows FROM pg_class k WHERE k.oid = m.relation) e
ORDER BY r.map_id, CASE r.task WHEN 'push' THEN r.request_id END, r.request_id DESC);
COMMENT ON VIEW crm.progress IS 'one row per running write-back, backfill, recapture or push, like pg_stat_progress_*';
COMMENT ON COLUMN crm.progress.map_id IS 'the map, as crm.map_object() returned it';
COMMENT ON COLUMN crm.progress.connection IS 'name of the connection';
COMMENT ON COLUMN crm.progress.relation IS 'the mapped table';
COMMENT ON COLUMN crm.progress.phase IS 'write-back; backfill; recapture: rows are compared with the ledger; push: rows are queued (crm.push())';
COMMENT ON COLUMN crm.progress.started_at IS 'when it started';
COMMENT ON COLUMN crm.progress.records_total IS
    'write-back: records read so far in this round, including those already done; backfill: records in the CRM when it started, NULL: '
    'the CRM does not report it; recapture and push: PostgreSQL''s estimate of the rows, NULL: there is none';
COMMENT ON COLUMN crm.progress.records_done IS 'records done so far';
COMMENT ON COLUMN crm.progress.records_per_second IS 'average since the start; NULL: it has just started';
COMMENT ON COLUMN crm.progress.eta IS 'estimated time remaining; NULL: not known';
COMMENT ON COLUMN crm.progress.records_in_flight IS 'records being sent to the CRM now; 0 for the other phases';
COMMENT ON COLUMN crm.progress.push_id IS 'argument of crm.cancel_push(); NULL: not a push';
