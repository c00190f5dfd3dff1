-- Write-back: flushing now, and replaying dead letters.

CREATE FUNCTION crm_internal.do_flush(caller bytea, map_id int, timeout interval) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    maps CONSTANT int[] := crm_internal.maps_to_run(crm_internal.verified(caller), 'flush', map_id);
    done CONSTANT bool := coalesce((crm_internal.ask_worker(jsonb_build_object('op', 'flush', 'map_ids', maps),
                                                            crm_internal.timeout_ms(timeout)) ->> 'done')::bool, false);
BEGIN
    IF NOT done THEN
        PERFORM crm_internal.say_why_not(maps);
    END IF;
    RETURN done;
END $$;
COMMENT ON FUNCTION crm_internal.do_flush(bytea, int, interval) IS 'crm.flush() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm.flush(map_id int DEFAULT NULL, timeout interval DEFAULT '1 minute') RETURNS bool
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_flush(crm_internal.caller(), map_id, timeout)
$$;
COMMENT ON FUNCTION crm.flush(int, interval) IS
    'writes committed edits back now, for one map or for all (for a writer: maps of tables that the role may update), and waits until '
    'nothing is due. Returns false at the timeout, or if a map or a connection is paused or in error; a NOTICE says why. Cancellable';

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

CREATE FUNCTION crm_internal.dead_letter_of(dead_letter_id bigint) RETURNS crm.dead_letter
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    d crm.dead_letter;
BEGIN
    SELECT * INTO d FROM crm.dead_letter x WHERE x.dead_letter_id = dead_letter_of.dead_letter_id;
    IF NOT FOUND THEN
        RAISE undefined_object USING MESSAGE = format('dead letter %s does not exist', coalesce(dead_letter_id::text, 'NULL')),
            HINT = 'crm.dead_letters lists them; a dead letter is removed when it is replayed or its record is edited again.';
    END IF;
    RETURN d;
END $$;
COMMENT ON FUNCTION crm_internal.dead_letter_of(bigint) IS 'the dead letter with that id; raises undefined_object (42704)';

CREATE FUNCTION crm.replay(dead_letter_id bigint DEFAULT NULL, map_id int DEFAULT NULL, error_class text DEFAULT NULL,
                           died_from timestamptz DEFAULT NULL, died_until timestamptz DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM crm_internal.refuse_restricted();
    IF num_nonnulls(dead_letter_id, map_id, error_class, died_from, died_until) = 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'it is not said which dead letters are to be replayed',
            HINT = 'Pass a dead_letter_id, or any of map_id, error_class, died_from and died_until; crm.replay_all() replays all.';
    END IF;
    IF dead_letter_id IS NOT NULL THEN
        PERFORM crm_internal.dead_letter_of(dead_letter_id);
    END IF;
    IF map_id IS NOT NULL THEN
        PERFORM crm_internal.map_of(map_id);
    END IF;
    IF error_class IS NOT NULL THEN
        PERFORM crm_internal.check_choice('error_class', error_class,
            '{transient,rate_limited,auth,validation,mapping,conflict,not_found,internal}');
    END IF;
    RETURN crm_internal.requeue(ARRAY(
        SELECT d FROM crm.dead_letter d
        WHERE (replay.dead_letter_id IS NULL OR d.dead_letter_id = replay.dead_letter_id)
          AND (replay.map_id IS NULL OR d.map_id = replay.map_id) AND (replay.error_class IS NULL OR d.error_class = replay.error_class)
          AND (died_from IS NULL OR d.died_at >= died_from) AND (died_until IS NULL OR d.died_at < died_until)));
END $$;
COMMENT ON FUNCTION crm.replay(bigint, int, text, timestamptz, timestamptz) IS
    'queues the records of dead letters again, with the current values of their rows: of one, or of all of a map, a class of errors, a '
    'time (died_from <= died_at < died_until), together; returns their number. Errors: 42704 no such dead letter or map, 22023 nothing '
    'is said, or no such class';

CREATE FUNCTION crm.discard(dead_letter_id bigint, reason text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    d crm.dead_letter := crm_internal.dead_letter_of(dead_letter_id);
    given_up bytea;
    calls uuid[];
    deletes bool;
BEGIN
    PERFORM crm_internal.refuse_restricted();
    IF coalesce(btrim(reason), '') = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a reason is needed to discard a dead letter', HINT = 'The audit log keeps it.';
    END IF;
    -- The record first, as the worker does.
    PERFORM FROM crm.ledger l WHERE l.shard_key = d.shard_key AND l.map_id = d.map_id AND l.record_key = d.record_key FOR UPDATE;
    d := crm_internal.dead_letter_of(dead_letter_id); -- replayed by another session
    IF d.path = 'batch' THEN
        DELETE FROM crm.queue q
        WHERE q.shard_key = d.shard_key AND q.map_id = d.map_id AND q.record_key = d.record_key AND q.state = 'dead'
        RETURNING q.cells, q.op = 'd' INTO given_up, deletes;
    ELSIF d.path = 'reconcile' THEN
        DELETE FROM crm.pending_write p
        WHERE p.shard_key = d.shard_key AND p.map_id = d.map_id AND p.record_key = d.record_key AND p.state = 'dead'
        RETURNING crm_internal.cells_or(p.cells, coalesce(p.take, p.cells)), array_remove(p.write_id || p.folded || p.undone, NULL)
        INTO given_up, calls;
    END IF;
    IF deletes THEN
        -- The row is gone, and its record stays.
        INSERT INTO crm.former_link (shard_key, map_id, crm_id, record_key, ended_by)
        SELECT l.shard_key, l.map_id, l.crm_id, l.record_key, 'row_deleted' FROM crm.ledger l
        WHERE l.shard_key = d.shard_key AND l.map_id = d.map_id AND l.record_key = d.record_key AND l.crm_id IS NOT NULL
        ON CONFLICT (shard_key, map_id, crm_id) DO UPDATE SET ended_by = excluded.ended_by, ended_at = now();
        DELETE FROM crm.ledger l WHERE l.shard_key = d.shard_key AND l.map_id = d.map_id AND l.record_key = d.record_key;
    ELSE
        -- The sides differ, and are left so: the cells count as never synced, but what the CRM held stays known to the next edit.
        UPDATE crm.ledger l
        SET changed_at = CASE WHEN l.changed_at IS NOT NULL THEN crm_internal.cells_stamp(l.changed_at, given_up, NULL) END,
            synced_at = nullif(ARRAY(
                SELECT CASE WHEN s.at IS NOT NULL AND crm_internal.cells_has(given_up, s.ord::int - 1) THEN '-infinity' ELSE s.at END
                FROM unnest(l.synced_at) WITH ORDINALITY AS s (at, ord) ORDER BY s.ord), '{}')
        WHERE l.shard_key = d.shard_key AND l.map_id = d.map_id AND l.record_key = d.record_key AND given_up IS NOT NULL;
    END IF;
    DELETE FROM crm.dead_letter x WHERE x.shard_key = d.shard_key AND x.dead_letter_id = d.dead_letter_id;
    INSERT INTO crm.audit_log (shard_key, map_id, connection, provider, relation, record_key, crm_id, path, operation, fields, result,
                               attempt, error_class, vendor_code, error, actor, correlation_id, folded)
    SELECT d.shard_key, d.map_id, c.name, c.provider, m.relation::text, d.record_key, d.crm_id, d.path, d.operation, d.fields, 'discarded',
           d.attempts, d.error_class, d.vendor_code, discard.reason, crm_internal.actor(), d.correlation_id, nullif(calls, '{}')
    FROM crm.object_map m JOIN crm.connection c USING (connection_id) WHERE m.map_id = d.map_id;
    PERFORM crm_internal.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm.discard(bigint, text) IS
    'gives up a dead letter: its edit is not written, row and CRM record stay as they are and are not compared any more; the next edit of '
    'the cells is written as usual. The audit log keeps the reason. Errors: 42704 no such dead letter, 22023 no reason';

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
