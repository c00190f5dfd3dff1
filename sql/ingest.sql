-- Ingestion: polling for changes now, and reading every record.

CREATE FUNCTION crm_internal.do_ingest_now(caller bytea, map_id int, timeout interval) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    maps CONSTANT int[] := crm_internal.maps_to_run(crm_internal.verified(caller), 'ingest', map_id);
    done CONSTANT bool := coalesce((crm_internal.ask_worker(jsonb_build_object('op', 'ingest', 'map_ids', maps),
                                                            crm_internal.timeout_ms(timeout)) ->> 'done')::bool, false);
BEGIN
    IF NOT done THEN
        PERFORM crm_internal.say_why_not(maps);
    END IF;
    RETURN done;
END $$;
COMMENT ON FUNCTION crm_internal.do_ingest_now(bytea, int, interval) IS
    'crm.ingest_now() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm.ingest_now(map_id int DEFAULT NULL, timeout interval DEFAULT '1 minute') RETURNS bool
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_ingest_now(crm_internal.caller(), map_id, timeout)
$$;
COMMENT ON FUNCTION crm.ingest_now(int, interval) IS
    'polls the CRM for changes now, for one map or for all (for a writer: maps of tables that the role may update), and waits until they '
    'are applied. Returns false at the timeout, or if a map or a connection is paused or in error; a NOTICE says why. Cancellable';

CREATE FUNCTION crm_internal.do_backfill(caller bytea, map_id int) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    m crm.object_map := crm_internal.map_of(map_id);
    answer jsonb;
BEGIN
    PERFORM crm_internal.require_owner(who, m.relation);
    -- The worker runs it: a caller that is cancelled may call again.
    answer := crm_internal.ask_worker(jsonb_build_object('op', 'backfill', 'map_ids', ARRAY[map_id]), 86400000);
    IF answer ->> 'read' IS NULL THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('the backfill of map %s has stopped', map_id),
            DETAIL = coalesce((SELECT s.reason FROM crm.status_wide s WHERE s.map_id = m.map_id), 'It did not finish within a day.'),
            HINT = 'It continues by itself once the cause is fixed; see crm.progress and crm.status.';
    END IF;
    RETURN (answer ->> 'read')::bigint;
END $$;
COMMENT ON FUNCTION crm_internal.do_backfill(bytea, int) IS 'crm.backfill() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm.backfill(map_id int) RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_backfill(crm_internal.caller(), map_id)
$$;
COMMENT ON FUNCTION crm.backfill(int) IS
    'reads every record of a map''s CRM object: links rows by external_id_field, applies the CRM values as the direction and policy of '
    'each '
    'field require. Waits for the end and returns the number of records read; if cancelled, it continues in the worker, and another call '
    'waits for it. Progress: crm.progress. Errors: 42704 no such map, 42501 not the owner of the table, 55000 it has stopped';
