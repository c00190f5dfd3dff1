-- crm.diagnose(): what an operator should know, each finding with its remedy.
--
-- It reads what the views of the worker's state read, the catalog and PostgreSQL's statistics, so it is cheap at any size.

-- What is wrong with the server as pg_crm needs it. Only what may be seen of other roles' sessions is looked at.
CREATE FUNCTION crm_internal.diagnose_server() RETURNS TABLE (severity text, topic text, subject text, finding text, remedy text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    SELECT 'red', 'worker', current_database()::text, 'the background worker is ' || w.state,
           CASE WHEN w.state = 'not preloaded' THEN
                    format('ALTER SYSTEM SET shared_preload_libraries = %s; -- then restart the server',
                           concat_ws(', ', nullif(current_setting('shared_preload_libraries'), ''), 'pg_crm'))
                WHEN w.state LIKE 'waiting%' THEN
                    format('ALTER SYSTEM SET max_worker_processes = %s; -- then restart the server',
                           current_setting('max_worker_processes')::int + 8)
                ELSE '-- the server log says why; it is started again by itself' END
    FROM crm.worker_state() AS w (state) WHERE w.state <> 'running'
    UNION ALL
    SELECT 'yellow', 'worker', current_database(), format('the worker has been at one thing for %s seconds', round(b.seconds)),
           'SELECT pid, state, wait_event, query FROM pg_stat_activity WHERE backend_type = ''pg_crm worker'''
    FROM crm_internal.worker_busy() AS b (seconds) WHERE b.seconds IS NOT NULL
    UNION ALL
    SELECT 'red', 'durability', x.name, format('%s is off: a crash may lose edits that were committed, and corrupt tables', x.name),
           format('ALTER SYSTEM SET %I = on; SELECT pg_reload_conf()', x.name)
    FROM (VALUES ('fsync'), ('full_page_writes')) AS x (name) WHERE current_setting(x.name) = 'off'
    UNION ALL
    SELECT 'red', 'vacuum', 'autovacuum', 'autovacuum is off: the tables of pg_crm grow without bound',
           'ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf()'
    WHERE current_setting('autovacuum') = 'off'
    UNION ALL
    -- As many dead rows as live ones, and enough of them to be felt.
    SELECT 'yellow', 'vacuum', 'crm.' || t.relname,
           format('%s dead rows beside %s live ones; last vacuumed %s', t.n_dead_tup, t.n_live_tup,
                  coalesce('at ' || date_trunc('second', greatest(t.last_vacuum, t.last_autovacuum)), 'never')),
           format('VACUUM crm.%I', t.relname)
    FROM pg_stat_user_tables t
    WHERE t.schemaname = 'crm' AND t.n_dead_tup > 100000 AND t.n_dead_tup > t.n_live_tup
    UNION ALL
    SELECT 'yellow', 'old snapshot', 'process ' || a.pid,
           format('its transaction has been open since %s: rows that died since then cannot be removed', date_trunc('second', t.start)),
           format('SELECT pg_terminate_backend(%s)', a.pid)
    FROM pg_stat_activity a CROSS JOIN LATERAL crm_internal.transaction_start(a.pid) AS t (start)
    WHERE a.datname = current_database() AND t.start < now() - interval '30 minutes'
    UNION ALL
    SELECT 'yellow', 'old snapshot', 'prepared transaction ' || p.gid,
           format('it was prepared at %s: rows that died since then cannot be removed', date_trunc('second', p.prepared)),
           format('ROLLBACK PREPARED %L; -- or COMMIT PREPARED', p.gid)
    FROM pg_prepared_xacts p WHERE p.database = current_database() AND p.prepared < now() - interval '30 minutes'
    UNION ALL
    SELECT 'yellow', 'old snapshot', 'replication slot ' || s.slot_name, 'an inactive slot keeps dead rows from being removed',
           format('SELECT pg_drop_replication_slot(%L); -- if its standby does not come back', s.slot_name)
    FROM pg_replication_slots s WHERE s.xmin IS NOT NULL AND NOT s.active
    UNION ALL
    SELECT 'yellow', 'audit', 'crm.audit_log', format('there is no partition for %s: rows go to crm.audit_log_default', x.name),
           '-- the worker creates partitions every 20 minutes; the server log says why it could not'
    FROM (SELECT 'audit_log_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM') AS name) x
    WHERE crm.worker_state() = 'running' AND to_regclass('crm.' || x.name) IS NULL AND EXISTS (SELECT FROM crm.audit_log_default)
$$;
COMMENT ON FUNCTION crm_internal.diagnose_server() IS 'what crm.diagnose() finds in the server and in pg_crm''s own tables';

CREATE FUNCTION crm_internal.diagnose_connections() RETURNS TABLE (severity text, topic text, subject text, finding text, remedy text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    SELECT x.severity, 'connection', n.connection, x.finding, x.remedy
    FROM crm.connections n JOIN crm.connection c ON c.name = n.connection
    CROSS JOIN LATERAL (
        SELECT 'red', n.reason, CASE WHEN c.home <> crm.home() THEN 'SELECT crm.adopt_connections()'
                                     ELSE format('SELECT crm.set_credentials(%L, …)', n.connection) END
        WHERE n.state = 'error'
        UNION ALL
        SELECT CASE n.circuit WHEN 'open' THEN 'red' ELSE 'yellow' END,
               format('the circuit is %s: %s (%s)', n.circuit, n.last_error, n.error_class),
               format('SELECT * FROM crm.test_connection(%L); -- it is tried again by itself', n.connection)
        WHERE n.state <> 'error' AND n.circuit <> 'closed'
        UNION ALL
        SELECT 'yellow', format('paused, with %s records waiting', n.waiting), format('SELECT crm.resume(%L)', n.connection)
        WHERE n.state = 'paused'
        ) AS x (severity, finding, remedy)
    UNION ALL
    -- A tenth, or less than what real-time writes are to have.
    SELECT CASE WHEN b.remaining = 0 THEN 'red' ELSE 'yellow' END, 'budget', b.connection,
           format('%s of %s requests are left of budget %s%s', b.remaining, b."limit", b.budget,
                  ', until ' || date_trunc('second', b.resets_at)),
           '-- longer intervals cost fewer requests: crm.alter_map(map_id, write_interval => …, ingest_interval => …)'
    FROM crm.rate_budget b
    WHERE b.budget IN ('day', 'daily_limit') AND b.remaining <= greatest(b.reserved, b."limit" / 10)
      AND coalesce(b.reported_at > now() - interval '1 day', true)
    UNION ALL
    SELECT 'yellow', 'webhooks', c.name, format('webhooks received since %s are not processed', date_trunc('second', i.received_at)),
           'SELECT * FROM crm.status; -- of the maps of this connection'
    FROM crm.connection c
    CROSS JOIN LATERAL (SELECT b.received_at FROM crm.webhook_inbox b WHERE b.connection_id = c.connection_id AND b.done_at IS NULL
                        ORDER BY b.inbox_id LIMIT 1) i
    WHERE i.received_at < now() - interval '15 minutes' AND NOT c.paused
$$;
COMMENT ON FUNCTION crm_internal.diagnose_connections() IS 'what crm.diagnose() finds in connections';

-- Counts of crm.status_wide end at 1,001.
CREATE FUNCTION crm_internal.at_least(number bigint) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN number > 1000 THEN 'more than 1,000' ELSE number::text END
$$;
COMMENT ON FUNCTION crm_internal.at_least(bigint) IS 'a count that ends at 1,001, in words';

CREATE FUNCTION crm_internal.diagnose_maps() RETURNS TABLE (severity text, topic text, subject text, finding text, remedy text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH w AS MATERIALIZED (
        SELECT s.*, m.write_interval, m.ingest_interval, m.paused, m.filter, m.on_insert, m.external_id_field, m.key_column, m.shard_column
        FROM crm.status_wide s JOIN crm.object_map m USING (map_id)
    )
    SELECT x.severity, x.topic, format('map %s (%s)', w.map_id, w.relation), x.finding, x.remedy
    FROM w
    CROSS JOIN LATERAL (
        SELECT 'red', 'capture', f.trouble, f.remedy FROM crm_internal.capture_finding(w.map_id) f WHERE f.trouble IS NOT NULL
        UNION ALL
        SELECT 'red', 'map', w.reason,
               -- Most reasons name the call. They quote names that a table's owner chose, so no other call is taken from them.
               coalesce('SELECT ' || substring(w.reason FROM format('crm\.(?:alter_map|recapture|enable)\(%s\)', w.map_id)),
                        format('SELECT * FROM crm.check_mapping(%s); SELECT crm.resume(%1$s)', w.map_id))
        -- The connection's own error is told once, of the connection.
        WHERE w.state = 'error' AND EXISTS (SELECT FROM crm.map_state s WHERE s.map_id = w.map_id AND s.state = 'error')
        UNION ALL
        SELECT 'red', 'fuse', w.reason, format('SELECT * FROM crm.plan(%s); SELECT crm.approve(%1$s)', w.map_id) WHERE w.state = 'held'
        UNION ALL
        SELECT 'yellow', 'map', 'disabled: edits are not captured, and nothing is sent or read', format('SELECT crm.enable(%s)', w.map_id)
        WHERE w.state = 'disabled'
        UNION ALL
        SELECT 'yellow', 'map', format('paused, with %s records waiting', w.queued), format('SELECT crm.resume(%s)', w.map_id)
        WHERE w.paused AND w.state <> 'disabled'
        UNION ALL
        SELECT 'yellow', 'dead letters', format('%s: %s', CASE WHEN w.dead = 1 THEN 'a dead letter' ELSE crm_internal.at_least(w.dead) || ' dead letters, one of them' END, d.error),
               format('SELECT * FROM crm.dead_letters WHERE map_id = %s; SELECT crm.replay(map_id => %1$s)', w.map_id)
        FROM (SELECT format('%s (%s%s)', x.error, x.error_class, ', ' || x.vendor_code) AS error FROM crm.dead_letter x
              WHERE x.map_id = w.map_id LIMIT 1) d
        UNION ALL
        SELECT 'yellow', 'conflicts', CASE WHEN w.conflicts = 1 THEN 'a conflict is to be resolved' ELSE crm_internal.at_least(w.conflicts) || ' conflicts are to be resolved' END,
               format('SELECT * FROM crm.conflicts WHERE map_id = %s; SELECT crm.resolve_conflict(conflict_id, ''crm'')', w.map_id)
        WHERE w.conflicts > 0
        UNION ALL
        SELECT 'yellow', 'links', format('edits of %s records wait for a CRM record', crm_internal.at_least(w.unlinked)),
               format('SELECT * FROM crm.match(%s, …); SELECT crm.link(%1$s, record_key, crm_id)', w.map_id)
        WHERE w.unlinked > 0
        UNION ALL
        -- More than a hundredth, because the number of rows is PostgreSQL's estimate.
        SELECT 'yellow', 'links', format('about %s of %s rows have no CRM record', w.never_sent, w.rows),
               CASE w.on_insert WHEN 'create' THEN format('SELECT * FROM crm.plan(%s); SELECT crm.push(%1$s)', w.map_id)
                                ELSE format('SELECT * FROM crm.match(%s, …)', w.map_id) END
        WHERE w.filter IS NULL AND w.state <> 'disabled' AND w.never_sent > greatest(w.rows / 100, 10) AND w.queued = 0
        UNION ALL
        SELECT CASE WHEN w.oldest_unsent > 10 * greatest(w.write_interval, interval '15 minutes') THEN 'red' ELSE 'yellow' END, 'lag',
               format('the oldest edit that has not reached the CRM is %s old%s', w.oldest_unsent, '; last error: ' || w.last_error),
               format('SELECT * FROM crm.cell_status WHERE map_id = %s AND state NOT IN (''synced'', ''never synced''); SELECT crm.flush(%1$s)', w.map_id)
        -- What waits for an operator is told as such.
        WHERE w.reason IS NULL AND w.dead + w.conflicts + w.unlinked = 0
          AND w.oldest_unsent > 3 * greatest(w.write_interval, interval '5 minutes')
        UNION ALL
        SELECT CASE WHEN w.ingest_lag > 10 * greatest(w.ingest_interval, interval '15 minutes') THEN 'red' ELSE 'yellow' END, 'lag',
               format('the CRM''s changes were last read to the end %s ago', w.ingest_lag), format('SELECT crm.ingest_now(%s)', w.map_id)
        WHERE w.reason IS NULL AND w.ingest <> 'off' AND w.ingest_lag > 3 * greatest(w.ingest_interval, interval '5 minutes')
        UNION ALL
        SELECT 'red', 'index', format('no index begins with key column "%s": each record reads the whole table', w.key_column),
               format('CREATE UNIQUE INDEX CONCURRENTLY ON %s (%s)', w.relation, concat_ws(', ', quote_ident(w.shard_column), quote_ident(w.key_column)))
        WHERE NOT EXISTS (
            SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
            WHERE i.indrelid = w.relation AND i.indisvalid AND i.indpred IS NULL AND a.attname IN (w.key_column, w.shard_column))
        ) AS x (severity, topic, finding, remedy)
$$;
COMMENT ON FUNCTION crm_internal.diagnose_maps() IS 'what crm.diagnose() finds in maps';

CREATE FUNCTION crm.diagnose() RETURNS TABLE (severity text, topic text, subject text, finding text, remedy text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH f AS MATERIALIZED (
        SELECT * FROM crm_internal.diagnose_server() UNION ALL SELECT * FROM crm_internal.diagnose_connections()
        UNION ALL SELECT * FROM crm_internal.diagnose_maps()
    ), good (topic, finding) AS (VALUES
        ('worker', 'the background worker is running'), ('connection', 'all connections send'), ('map', 'no map is in error, paused or disabled'),
        ('capture', 'edits of all mapped tables are captured'), ('dead letters', 'there are none'), ('conflicts', 'there are none'),
        ('lag', 'no edit and no change of a CRM waits for long'), ('vacuum', 'dead rows are removed'),
        ('old snapshot', 'no transaction has been open for more than 30 minutes')
    )
    SELECT x.severity, x.topic, x.subject, x.finding, x.remedy
    FROM (SELECT f.severity, f.topic, f.subject, f.finding, f.remedy FROM f
          UNION ALL
          SELECT 'green', g.topic, NULL, g.finding, NULL FROM good g WHERE NOT EXISTS (SELECT FROM f WHERE f.topic = g.topic)) x
    ORDER BY array_position('{red,yellow,green}', x.severity), x.topic, x.subject
$$;
COMMENT ON FUNCTION crm.diagnose() IS
    'what needs attention, the most urgent first. severity: red (edits are lost, or nothing moves), yellow (soon, or in part), green (what was '
    'looked at and found in order); topic; subject: what it is about, NULL if green; finding; remedy: SQL that mends it, or a comment that says '
    'what does (…: an argument that only you know), NULL if green. Cheap at any size; does not ask a CRM. See also crm.check(), which '
    'looks for what must never be';
