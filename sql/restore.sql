-- Where the configuration is at home, and whether it is whole: what came by a restore or with a copy of a database.

-- A parallel restore may make a table's key, and so have its map bound, before it brings the map's fields.
CREATE FUNCTION crm_internal.rebind_restored() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Whoever is binding one of these maps has seen none of these fields.
    PERFORM FROM crm.object_map m WHERE m.map_id IN (SELECT f.map_id FROM fresh f) ORDER BY m.map_id FOR NO KEY UPDATE;
    DELETE FROM crm.map_state s WHERE s.map_id IN (SELECT f.map_id FROM fresh f);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION crm_internal.rebind_restored() IS 'trigger: fields that came by a restore, and not by crm.map_field(), have their map bound anew';

CREATE FUNCTION crm_internal.is_restoring() RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT current_user <> 'crm_engine' $$;
COMMENT ON FUNCTION crm_internal.is_restoring() IS 'whether the configuration is being changed by somebody else than the functions of pg_crm: a restore, or a superuser';
CREATE TRIGGER rebind AFTER INSERT ON crm.field_map REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT WHEN (crm_internal.is_restoring()) EXECUTE FUNCTION crm_internal.rebind_restored();

CREATE FUNCTION crm.adopt_connections(connection text DEFAULT NULL) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c crm.connection;
    who CONSTANT text := session_user || coalesce('/' || nullif(current_setting('pg_crm.actor', true), ''), '');
BEGIN
    PERFORM crm_internal.refuse_restricted();
    IF connection IS NOT NULL THEN
        PERFORM crm_internal.connection_named(connection);
    END IF;
    FOR c IN
        SELECT k.* FROM crm.connection k
        WHERE k.home <> crm.home() AND (connection IS NULL OR k.name = adopt_connections.connection)
        ORDER BY k.connection_id FOR NO KEY UPDATE
    LOOP
        UPDATE crm.connection k SET home = crm.home() WHERE k.connection_id = c.connection_id;
        INSERT INTO crm.audit_log (connection, provider, path, operation, fields, result, actor)
        VALUES (c.name, c.provider, 'setup', 'adopt', jsonb_build_object('home', jsonb_build_object('old', c.home, 'new', crm.home())), 'applied', who);
        RAISE LOG 'pg_crm: % adopted connection "%" into database "%"', who, c.name, current_database();
        RAISE NOTICE 'database "%" sends over connection "%" from now on', current_database(), c.name
            USING HINT = 'The database that it came from must not send over it any more: crm.drop_connection() or crm.pause() there, unless it is gone.';
        RETURN NEXT c.name;
    END LOOP;
    PERFORM crm_internal.notify_worker(true);
    PERFORM crm_internal.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm.adopt_connections(text) IS
    'has this database send over the connections, or the one, that came with a restore or a copy of a database and wait for it; returns their names';
