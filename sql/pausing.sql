-- Pausing and resuming connections and maps. Edits are captured and queued meanwhile.

CREATE FUNCTION crm.pause(connection text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c crm.connection := crm_internal.connection_named(connection);
BEGIN
    PERFORM crm_internal.refuse_restricted();
    UPDATE crm.connection k SET paused = true WHERE k.connection_id = c.connection_id;
    PERFORM crm_internal.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm.pause(text) IS
    'stops sending over a connection; edits are still captured and are queued. Errors: 42704 no such connection';

CREATE FUNCTION crm.pause(map_id int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m crm.object_map := crm_internal.map_of(map_id);
BEGIN
    PERFORM crm_internal.refuse_restricted();
    UPDATE crm.object_map o SET paused = true WHERE o.map_id = m.map_id;
    PERFORM crm_internal.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm.pause(int) IS
    'stops sending and reading for one map; edits are still captured and are queued. Errors: 42704 no such map';

CREATE FUNCTION crm_internal.queued(maps int[]) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (SELECT coalesce(sum(cardinality(h.record_keys)), 0) FROM crm.change h WHERE h.map_id = ANY (maps))
         + (SELECT count(*) FROM crm.queue q WHERE q.map_id = ANY (maps) AND q.state = 'queued')
         + (SELECT count(*) FROM crm.pending_write p WHERE p.map_id = ANY (maps) AND p.state = 'queued')
$$;
COMMENT ON FUNCTION crm_internal.queued(int[]) IS 'number of changes of some maps that wait to be written';

-- What waited is sent at once, retries included.
CREATE FUNCTION crm_internal.send_now(maps int[]) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    UPDATE crm.map_state s SET next_write_at = now() WHERE s.map_id = ANY (maps) AND s.next_write_at > now();
    UPDATE crm.ingest_state s SET next_at = now() WHERE s.map_id = ANY (maps) AND s.next_at > now();
    UPDATE crm.queue q SET next_attempt_at = now() WHERE q.map_id = ANY (maps) AND q.state = 'queued' AND q.next_attempt_at > now();
    UPDATE crm.pending_write p SET next_attempt_at = now() WHERE p.map_id = ANY (maps) AND p.state = 'queued' AND p.next_attempt_at > now();
    SELECT crm_internal.notify_worker(true);
    SELECT crm_internal.notify_worker(false);
$$;
COMMENT ON FUNCTION crm_internal.send_now(int[]) IS 'makes the queued work of some maps due at once';

CREATE FUNCTION crm.resume(connection text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c crm.connection := crm_internal.connection_named(connection);
    s crm.connection_state;
    maps int[];
    did text[] := '{}';
    tested jsonb;
BEGIN
    PERFORM crm_internal.refuse_restricted();
    SELECT * INTO s FROM crm.connection_state k WHERE k.connection_id = c.connection_id;
    IF s.state = 'error' AND c.home = crm.home() THEN
        -- The request is made without any lock: the worker stores what it finds.
        tested := crm_internal.ask_worker(jsonb_build_object('op', 'test', 'connection_id', c.connection_id), 60000);
        IF (tested ->> 'ok')::bool THEN
            did := did || 'the CRM accepts the credentials again'::text;
        ELSE
            RAISE WARNING 'connection "%" stays in state error: %', c.name, coalesce(tested ->> 'detail', 'no response within a minute')
                USING HINT = 'crm.set_credentials() replaces the credentials.';
        END IF;
    END IF;
    SELECT * INTO c FROM crm.connection k WHERE k.connection_id = c.connection_id FOR NO KEY UPDATE;
    IF c.paused THEN
        UPDATE crm.connection k SET paused = false WHERE k.connection_id = c.connection_id;
        did := did || 'it is not paused any more'::text;
    END IF;
    UPDATE crm.connection_state k SET blocked_until = '-infinity', failures = 0, usage_reported_at = NULL,
        state = 'ok', error_class = NULL, last_error = NULL, changed_at = now()
    WHERE k.connection_id = c.connection_id AND (k.state = 'ok' OR (tested ->> 'ok')::bool);
    IF FOUND AND s.blocked_until > now() THEN
        did := did || 'it does not wait for the CRM any more'::text;
    END IF;
    maps := ARRAY(SELECT o.map_id FROM crm.object_map o WHERE o.connection_id = c.connection_id AND NOT o.paused ORDER BY o.map_id);
    PERFORM crm_internal.send_now(maps);
    RAISE NOTICE 'connection "%": %', c.name, coalesce(nullif(array_to_string(did, '; '), ''), 'it was neither paused nor waiting')
        USING DETAIL = format('%s changes are due now.', crm_internal.queued(maps));
    IF c.home <> crm.home() THEN
        RAISE NOTICE 'connection "%" came with a restore or a copy of a database and still waits', c.name
            USING HINT = 'Call crm.adopt_connections() once no other database sends over it.';
    END IF;
END $$;
COMMENT ON FUNCTION crm.resume(text) IS
    'ends crm.pause(), and the wait after an outage, a rate limit or an exhausted budget; tests a connection in state error, and ends that '
    'if the CRM accepts its credentials; what is queued is sent at once. A NOTICE says what it did. Errors: 42704 no such connection, '
    '55000 no worker';

CREATE FUNCTION crm.resume(map_id int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m crm.object_map := crm_internal.map_of(map_id);
    reason text;
BEGIN
    PERFORM crm_internal.refuse_restricted();
    UPDATE crm.object_map o SET paused = false WHERE o.map_id = m.map_id AND o.paused;
    PERFORM crm_internal.send_now(ARRAY[m.map_id]);
    RAISE NOTICE 'map % (%): %', m.map_id, m.relation, CASE WHEN m.paused THEN 'it is not paused any more' ELSE 'it was not paused' END
        USING DETAIL = format('%s changes are due now.', crm_internal.queued(ARRAY[m.map_id]));
    SELECT s.reason INTO reason FROM crm.status_wide s WHERE s.map_id = m.map_id;
    IF reason IS NOT NULL THEN
        RAISE NOTICE 'nothing is sent all the same: %', reason;
    END IF;
END $$;
COMMENT ON FUNCTION crm.resume(int) IS
    'ends crm.pause() of a map; what is queued is sent at once. A NOTICE says what it did, and what else keeps the map from sending. '
    'Errors: 42704 no such map';

-- For crm.flush() and crm.ingest_now().
CREATE FUNCTION crm_internal.say_why_not(maps int[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    all_maps CONSTANT int[] := coalesce(maps, ARRAY(SELECT m.map_id FROM crm.object_map m));
    said int := 0;
    s record;
BEGIN
    FOR s IN SELECT x.map_id, x.relation, x.reason FROM crm.status_wide x WHERE x.map_id = ANY (all_maps) AND x.reason IS NOT NULL ORDER BY x.map_id LOOP
        said := said + 1;
        IF said <= 5 THEN
            RAISE NOTICE 'map % (%) waits: %', s.map_id, s.relation, s.reason;
        END IF;
    END LOOP;
    IF said > 5 THEN
        RAISE NOTICE '% more maps wait', said - 5 USING HINT = 'crm.status shows why.';
    ELSIF said = 0 THEN
        RAISE NOTICE 'the timeout has passed'
            USING DETAIL = format('%s changes wait to be written, %s records are in flight, %s wait to be read.', crm_internal.queued(all_maps),
                (SELECT coalesce(sum(cardinality(k.record_keys)), 0) FROM crm.claim k WHERE k.map_id = ANY (all_maps)),
                (SELECT count(*) FROM crm.refetch r WHERE r.map_id = ANY (all_maps) AND r.due_at < 'infinity')),
                  HINT = 'The worker goes on; see crm.progress and crm.status.';
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.say_why_not(int[]) IS
    'NOTICEs why work of these maps (NULL: of all) is not done: what their maps wait for, or what is left at the timeout';
