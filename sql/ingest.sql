-- Ingestion: looking for changes now, and reading every record once.

CREATE FUNCTION crm_internal.do_ingest_now(caller bytea, map_id int, timeout interval) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
BEGIN
    RETURN coalesce((crm_internal.ask_worker(jsonb_build_object('op', 'ingest', 'map_ids', crm_internal.maps_to_run(who, 'ingest', map_id)),
                                    crm_internal.timeout_ms(timeout)) ->> 'done')::bool, false);
END $$;
COMMENT ON FUNCTION crm_internal.do_ingest_now(bytea, int, interval) IS 'what crm.ingest_now() does for the role that crm_internal.caller() names';

CREATE FUNCTION crm.ingest_now(map_id int DEFAULT NULL, timeout interval DEFAULT '1 minute') RETURNS bool
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_ingest_now(crm_internal.caller(), map_id, timeout)
$$;
COMMENT ON FUNCTION crm.ingest_now(int, interval) IS
    'looks for changes in the CRM now, of one map or of all (a writer''s: of the tables that the role may update), and waits until they are '
    'applied. false: at the timeout, or when a connection is paused or in error. Cancellable';

CREATE FUNCTION crm_internal.do_backfill(caller bytea, map_id int) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    m crm.object_map := crm_internal.map_of(map_id);
    answer jsonb;
BEGIN
    PERFORM crm_internal.require_owner(who, m.relation);
    -- Its progress is the worker's: whoever waits here may go, and come again.
    answer := crm_internal.ask_worker(jsonb_build_object('op', 'backfill', 'map_ids', ARRAY[map_id]), 86400000);
    IF answer ->> 'read' IS NULL THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('the backfill of map %s stands still', map_id),
            DETAIL = coalesce((SELECT s.reason FROM crm.status s WHERE s.map_id = m.map_id), 'It has not ended within a day.'),
            HINT = 'It goes on by itself when what holds it up is mended; see crm.progress and crm.status.';
    END IF;
    RETURN (answer ->> 'read')::bigint;
END $$;
COMMENT ON FUNCTION crm_internal.do_backfill(bytea, int) IS 'what crm.backfill() does for the role that crm_internal.caller() names';

CREATE FUNCTION crm.backfill(map_id int) RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_backfill(crm_internal.caller(), map_id)
$$;
COMMENT ON FUNCTION crm.backfill(int) IS
    'reads every record of a map''s CRM object: links rows by external_id_field, applies what the CRM holds as each field''s direction and '
    'policy have it. Waits for the end and returns how many records were read; cancelled or killed, it goes on in the worker, and calling '
    'it again waits on. Progress: crm.progress. Errors: 42704 no such map, 42501 not the table''s owner, 55000 it stands still';
