-- crm.metrics(): what monitoring tools read, from the same places as the views, cheap at any size.

CREATE FUNCTION crm_internal.metric_families() RETURNS TABLE (name text, type text, help text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    VALUES
    ('pg_crm_worker_up', 'gauge', '1: the background worker of the database is running'),
    ('pg_crm_findings', 'gauge', 'Findings of crm.diagnose() by severity'),
    ('pg_crm_connection_up', 'gauge', '1: nothing prevents the connection from sending; state tells what does'),
    ('pg_crm_circuit_open', 'gauge', '1: the CRM failed several times in a row, and nothing is sent for a while'),
    ('pg_crm_budget_limit_requests', 'gauge', 'Requests that a budget of the connection allows'),
    ('pg_crm_budget_remaining_requests', 'gauge', 'Requests left in that budget'),
    ('pg_crm_requests_total', 'counter', 'Requests to the CRM since the server started, by lane and by class of error (none: it succeeded)'),
    ('pg_crm_request_duration_seconds', 'histogram', 'How long requests to the CRM took'),
    ('pg_crm_request_bytes_total', 'counter', 'Bytes of the bodies of requests'),
    ('pg_crm_response_bytes_total', 'counter', 'Bytes of the bodies of responses'),
    ('pg_crm_map_info', 'gauge', '1, with the connection, the table and the CRM object of a map'),
    ('pg_crm_map_state', 'gauge', '1 for the state that the map is in, as in crm.status'),
    ('pg_crm_capture_on', 'gauge', '1: edits of the mapped table are captured'),
    ('pg_crm_records_total', 'counter', 'Attempts on records since the server started, by path, result and class of error (none: there was none), as in crm.audit_log'),
    ('pg_crm_ingested_records_total', 'counter', 'CRM records that were read, by outcome: applied, echo, ignored, overwritten'),
    ('pg_crm_rows', 'gauge', 'Rows of the mapped table, as PostgreSQL estimates them'),
    ('pg_crm_linked_records', 'gauge', 'Rows that are linked to a CRM record; an estimate above 1,000'),
    ('pg_crm_dirty_cells', 'gauge', 'Changed cells that are not written back yet; an estimate above 1,000 records'),
    ('pg_crm_queued_records', 'gauge', 'Records that are queued to be written; an estimate above 1,000'),
    ('pg_crm_unlinked_records', 'gauge', 'Records whose edits wait for a CRM record; counted up to 1,001'),
    ('pg_crm_pending_writes', 'gauge', 'Edits whose outcome is not final; counted up to 1,001'),
    ('pg_crm_conflicts', 'gauge', 'Conflicts to be resolved; counted up to 1,001'),
    ('pg_crm_dead_letters', 'gauge', 'Dead letters; counted up to 1,001'),
    ('pg_crm_oldest_unsent_seconds', 'gauge', 'Age of the oldest edit that has not reached the CRM; 0: there is none'),
    ('pg_crm_capture_lag_seconds', 'gauge', 'Age of the oldest captured change that the worker has not read; 0: there is none'),
    ('pg_crm_ingest_lag_seconds', 'gauge', 'Time since the changes of the CRM were last read to the end')
$$;
COMMENT ON FUNCTION crm_internal.metric_families() IS 'what crm.metrics() reports, in the order in which it does';

CREATE FUNCTION crm_internal.samples() RETURNS TABLE (name text, suffix text, labels jsonb, value float8, place int)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH map AS MATERIALIZED (SELECT w.*, jsonb_build_object('map', w.map_id::text) AS labels FROM crm.status_wide w),
    connection AS MATERIALIZED (
        SELECT n.connection, n.state, n.reason, n.circuit, jsonb_build_object('connection', n.connection) AS labels FROM crm.connections n),
    counted AS MATERIALIZED (
        SELECT k.*, c.name AS connection, jsonb_build_object('connection', c.name) AS labels
        FROM crm_internal.counters() k LEFT JOIN crm.connection c ON c.connection_id = k.id AND k.counter <> 'records')
    SELECT 'pg_crm_worker_up', '', '{}'::jsonb, (crm.worker_state() = 'running')::int::float8, 0
    UNION ALL
    SELECT 'pg_crm_findings', '', jsonb_build_object('severity', s.severity),
           (SELECT count(*) FROM crm.diagnose() d WHERE d.severity = s.severity), s.place
    FROM (VALUES ('red', 1), ('yellow', 2)) AS s (severity, place)
    UNION ALL
    SELECT x.name, '', n.labels || x.more, x.value, 0
    FROM connection n CROSS JOIN LATERAL (VALUES
        ('pg_crm_connection_up', jsonb_build_object('state', n.state), (n.reason IS NULL)::int),
        ('pg_crm_circuit_open', '{}', (n.circuit = 'open')::int)) AS x (name, more, value)
    UNION ALL
    SELECT x.name, '', jsonb_build_object('connection', b.connection, 'budget', b.budget), x.value, 0
    FROM crm.rate_budget b CROSS JOIN LATERAL (VALUES
        ('pg_crm_budget_limit_requests', b."limit"), ('pg_crm_budget_remaining_requests', b.remaining)) AS x (name, value)
    UNION ALL
    SELECT 'pg_crm_requests', '_total', k.labels || jsonb_build_object('lane', k.label, 'class', coalesce(k.class, 'none')), k.value, 0
    FROM counted k WHERE k.counter = 'requests' AND k.connection IS NOT NULL
    UNION ALL
    SELECT x.name, '_total', k.labels, k.value, 0
    FROM counted k JOIN (VALUES ('sent', 'pg_crm_request_bytes'), ('received', 'pg_crm_response_bytes')) AS x (counter, name) USING (counter)
    WHERE k.connection IS NOT NULL
    UNION ALL
    -- Each bucket of a histogram counts those below it too.
    SELECT 'pg_crm_request_duration_seconds', '_bucket', n.labels || jsonb_build_object('le', coalesce(b.bound, '+Inf')),
           (SELECT coalesce(sum(k.value), 0) FROM counted k
            WHERE k.counter = 'duration' AND k.connection = n.connection AND (b.bound IS NULL OR k.label::float8 <= b.bound::float8)), b.place
    FROM connection n, (SELECT x.bound, x.place::int FROM unnest(array_append(crm_internal.duration_bounds(), NULL)) WITH ORDINALITY AS x (bound, place)) b
    UNION ALL
    SELECT 'pg_crm_request_duration_seconds', x.suffix, n.labels, x.value, x.place
    FROM connection n CROSS JOIN LATERAL (VALUES
        ('_count', (SELECT coalesce(sum(k.value), 0) FROM counted k WHERE k.counter = 'duration' AND k.connection = n.connection), 101),
        ('_sum', (SELECT coalesce(sum(k.value), 0) / 1e6 FROM counted k
                  WHERE k.counter = 'microseconds' AND k.connection = n.connection), 102)) AS x (suffix, value, place)
    UNION ALL
    SELECT 'pg_crm_map_info', '', m.labels || jsonb_build_object('connection', m.connection, 'relation', m.relation::text, 'object', m.crm_object), 1, 0
    FROM map m
    UNION ALL
    SELECT 'pg_crm_map_state', '', m.labels || jsonb_build_object('state', s.state), (m.state = s.state)::int, 0
    FROM map m, unnest('{idle,syncing,held,error,disabled}'::text[]) AS s (state)
    UNION ALL
    SELECT x.name, '', m.labels, x.value, 0
    FROM map m CROSS JOIN LATERAL (VALUES
        ('pg_crm_capture_on', (m.capture = 'on')::int::float8), ('pg_crm_rows', m.rows), ('pg_crm_linked_records', m.linked),
        ('pg_crm_dirty_cells', m.dirty_cells), ('pg_crm_queued_records', m.queued), ('pg_crm_unlinked_records', m.unlinked),
        ('pg_crm_pending_writes', m.pending), ('pg_crm_conflicts', m.conflicts), ('pg_crm_dead_letters', m.dead),
        ('pg_crm_oldest_unsent_seconds', coalesce(extract(epoch FROM m.oldest_unsent), 0)),
        ('pg_crm_capture_lag_seconds', coalesce(extract(epoch FROM m.lag), 0)),
        ('pg_crm_ingest_lag_seconds', CASE WHEN m.ingest <> 'off' THEN extract(epoch FROM m.ingest_lag) END)) AS x (name, value)
    UNION ALL
    SELECT 'pg_crm_ingested_records', '_total', jsonb_build_object('map', i.map_id::text, 'outcome', x.outcome), x.value, 0
    FROM crm.ingest_state i CROSS JOIN LATERAL (VALUES
        ('applied', i.applied), ('echo', i.echoes), ('ignored', i.ignored), ('overwritten', i.overwritten)) AS x (outcome, value)
    UNION ALL
    SELECT 'pg_crm_records', '_total', m.labels || jsonb_build_object('path', k.label, 'result', k.result, 'class', coalesce(k.class, 'none')), k.value, 0
    FROM counted k JOIN map m ON m.map_id = k.id WHERE k.counter = 'records'
$$;
COMMENT ON FUNCTION crm_internal.samples() IS
    'the samples of crm.metrics(): suffix is that of the family''s name (_total, _bucket, …), place orders those of one family';

CREATE FUNCTION crm.metrics() RETURNS TABLE (name text, labels jsonb, value float8, type text, help text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT f.family || s.suffix, s.labels, s.value, f.type, f.help
    FROM (SELECT regexp_replace(x.name, '_total$', '') AS family, x.type, x.help, x.place
          FROM crm_internal.metric_families() WITH ORDINALITY AS x (name, type, help, place)) f
    JOIN crm_internal.samples() s ON s.name = f.family
    WHERE s.value IS NOT NULL
    ORDER BY f.place, s.labels - 'le', s.place, s.labels
$$;
COMMENT ON FUNCTION crm.metrics() IS
    'metrics for monitoring, in the order of the OpenMetrics format: name of the sample, labels, value, type (counter, gauge, histogram) and what '
    'it is. Counters of records and requests begin at 0 when the server starts; those of ingestion when the map was made. Cheap at any size';

CREATE FUNCTION crm_internal.overview() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    SELECT jsonb_build_object(
        'database', current_database(), 'at', now(), 'worker', crm.worker_state(),
        'findings', (SELECT coalesce(jsonb_agg(to_jsonb(d)), '[]') FROM crm.diagnose() d),
        'connections', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                            'connection', n.connection, 'provider', n.provider, 'state', n.state, 'reason', n.reason, 'circuit', n.circuit,
                            'maps', n.maps, 'last_success', n.last_success, 'last_error', n.last_error,
                            'budgets', (SELECT coalesce(jsonb_agg(jsonb_build_object('budget', b.budget, 'limit', b."limit", 'remaining', b.remaining)
                                                        ORDER BY b.budget), '[]')
                                        FROM crm.rate_budget b WHERE b.connection = n.connection AND b.remaining IS NOT NULL)) ORDER BY n.connection), '[]')
                        FROM crm.connections n),
        'maps', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                     'map', w.map_id, 'connection', w.connection, 'relation', w.relation::text, 'object', w.crm_object, 'state', w.state,
                     'reason', w.reason, 'ingest', w.ingest, 'rows', w.rows, 'linked', w.linked, 'queued', w.queued, 'pending', w.pending,
                     'conflicts', w.conflicts, 'dead', w.dead, 'unlinked', w.unlinked, 'estimated', w.estimated,
                     'oldest_unsent', extract(epoch FROM w.oldest_unsent), 'ingest_lag', extract(epoch FROM w.ingest_lag),
                     'last_success', w.last_success, 'capture', w.capture) ORDER BY w.connection, w.map_id), '[]')
                 FROM crm.status_wide w),
        'progress', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                         'map', p.map_id, 'relation', p.relation::text, 'phase', p.phase, 'done', p.records_done, 'total', p.records_total,
                         'rate', p.records_per_second, 'eta', extract(epoch FROM p.eta)) ORDER BY p.map_id), '[]')
                     FROM crm.progress p),
        -- Of a thousand of each map: enough to see what kinds there are.
        'errors', (SELECT coalesce(jsonb_agg(to_jsonb(e) ORDER BY e.number DESC, e.class), '[]')
                   FROM (SELECT d.error_class AS class, count(*) AS number, min(d.error) AS example, max(d.died_at) AS last
                         FROM crm.object_map m
                         CROSS JOIN LATERAL (SELECT * FROM crm.dead_letter x WHERE x.map_id = m.map_id LIMIT 1000) d
                         GROUP BY d.error_class) e))
$$;
COMMENT ON FUNCTION crm_internal.overview() IS 'what the monitoring page shows (pg_crm.metrics_listen)';
