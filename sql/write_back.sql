-- Write-back: flushing now, and replaying dead letters.

CREATE FUNCTION crm_internal.do_flush(caller bytea, map_id int, timeout interval) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
BEGIN
    RETURN coalesce((crm_internal.ask_worker(jsonb_build_object('op', 'flush', 'map_ids', crm_internal.maps_to_run(who, 'flush', map_id)),
                                    crm_internal.timeout_ms(timeout)) ->> 'done')::bool, false);
END $$;
COMMENT ON FUNCTION crm_internal.do_flush(bytea, int, interval) IS 'crm.flush() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm.flush(map_id int DEFAULT NULL, timeout interval DEFAULT '1 minute') RETURNS bool
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_flush(crm_internal.caller(), map_id, timeout)
$$;
COMMENT ON FUNCTION crm.flush(int, interval) IS
    'writes committed edits back now, for one map or for all (for a writer: maps of tables that the role may update), and waits until '
    'nothing is due. Returns false at the timeout, or if a connection is paused or in error. Cancellable';

CREATE FUNCTION crm_internal.requeue(dead crm.dead_letter[]) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n bigint;
BEGIN
    PERFORM FROM (SELECT * FROM unnest(dead) ORDER BY shard_key, map_id, record_key) d,
        LATERAL (SELECT FROM crm.ledger l
                 WHERE l.shard_key = d.shard_key AND l.map_id = d.map_id AND l.record_key = d.record_key FOR UPDATE) l;
    UPDATE crm.queue q
    SET state = 'queued', attempts = 0, next_attempt_at = now(), error_class = NULL, last_error = NULL,
        revision = nextval('crm.queue_revision_seq'),
        -- A record that is still to be created gets every field, including those mapped since.
        cells = CASE WHEN q.op = 'c' THEN coalesce(crm_internal.map_cells(q.map_id), q.cells) ELSE q.cells END
    FROM unnest(dead) d
    WHERE d.path = 'batch' AND q.shard_key = d.shard_key AND q.map_id = d.map_id AND q.record_key = d.record_key AND q.state = 'dead';
    UPDATE crm.pending_write p
    SET state = 'queued', attempts = 0, next_attempt_at = now(), error_class = NULL, last_error = NULL, revision = p.revision + 1
    FROM unnest(dead) d
    WHERE d.path = 'reconcile' AND p.shard_key = d.shard_key AND p.map_id = d.map_id AND p.record_key = d.record_key AND p.state = 'dead';
    INSERT INTO crm.refetch AS r (map_id, crm_id)
    SELECT DISTINCT d.map_id, d.crm_id FROM unnest(dead) d WHERE d.path = 'ingest'
    ON CONFLICT ON CONSTRAINT refetch_pkey DO UPDATE SET revision = excluded.revision, attempts = 0, due_at = now();
    DELETE FROM crm.dead_letter x USING unnest(dead) d WHERE x.shard_key = d.shard_key AND x.dead_letter_id = d.dead_letter_id;
    GET DIAGNOSTICS n = ROW_COUNT;
    PERFORM crm_internal.notify_worker(true);
    RETURN n;
END $$;
COMMENT ON FUNCTION crm_internal.requeue(crm.dead_letter[]) IS
    'queues dead records again, with attempts reset; CRM records that could not be stored are fetched again';

CREATE FUNCTION crm.replay(dead_letter_id bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dead crm.dead_letter[];
BEGIN
    PERFORM crm_internal.refuse_restricted();
    SELECT array_agg(d) INTO dead FROM crm.dead_letter d WHERE d.dead_letter_id = replay.dead_letter_id;
    IF dead IS NULL THEN
        RAISE undefined_object USING MESSAGE = format('dead letter %s does not exist', coalesce(dead_letter_id::text, 'NULL')),
            HINT = 'crm.dead_letters lists them; a dead letter is removed when it is replayed or its record is edited again.';
    END IF;
    RETURN crm_internal.requeue(dead);
END $$;
COMMENT ON FUNCTION crm.replay(bigint) IS
    'queues the record of a dead letter again, with the current values of its row; returns 1. Errors: 42704 no such dead letter';

CREATE FUNCTION crm.replay_all(connection text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c crm.connection;
    dead crm.dead_letter[];
BEGIN
    PERFORM crm_internal.refuse_restricted();
    IF connection IS NOT NULL THEN
        c := crm_internal.connection_named(connection);
    END IF;
    SELECT array_agg(d) INTO dead FROM crm.dead_letter d JOIN crm.object_map m USING (map_id)
    WHERE connection IS NULL OR m.connection_id = c.connection_id;
    -- The mapping may have been fixed in the CRM, which does not report that.
    UPDATE crm.map_state s SET state = CASE WHEN m.keys_changed IS NULL THEN 'idle' ELSE 'error' END, reason = m.keys_changed
    FROM crm.object_map m
    WHERE m.map_id = s.map_id AND (connection IS NULL OR m.connection_id = c.connection_id)
      AND s.state = 'error' AND s.reason LIKE '%; fix the mapping, then call crm.replay_all()';
    RETURN crm_internal.requeue(coalesce(dead, '{}'));
END $$;
COMMENT ON FUNCTION crm.replay_all(text) IS
    'queues all dead letters again, of one connection or of all, and restarts maps that were stopped by errors of the CRM; returns the '
    'number of '
    'dead letters. Errors: 42704 no such connection';
