-- Configuration that came with a restore or a copy of a database: binding its maps, adopting its connections.

-- A parallel restore may create the key of a table, and so have its map bound, before it loads the map's fields.
CREATE FUNCTION crm_internal.rebind_restored() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- A session that is binding one of these maps does not see these fields.
    PERFORM FROM crm.object_map m WHERE m.map_id IN (SELECT f.map_id FROM fresh f) ORDER BY m.map_id FOR NO KEY UPDATE;
    DELETE FROM crm.map_state s WHERE s.map_id IN (SELECT f.map_id FROM fresh f);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION crm_internal.rebind_restored() IS 'trigger: maps of restored fields (not inserted by crm.map_field()) are bound again';

CREATE FUNCTION crm_internal.is_restoring() RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT current_user <> 'crm_engine' $$;
COMMENT ON FUNCTION crm_internal.is_restoring() IS
    'whether the configuration is being changed other than by functions of pg_crm: by a restore, or a superuser';
CREATE TRIGGER rebind AFTER INSERT ON crm.field_map REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT WHEN (crm_internal.is_restoring()) EXECUTE FUNCTION crm_internal.rebind_restored();

CREATE FUNCTION crm.adopt_connections(connection text DEFAULT NULL) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c crm.connection;
    who CONSTANT text := crm_internal.actor();
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
        VALUES (c.name, c.provider, 'setup', 'adopt', jsonb_build_object('home', jsonb_build_object('old', c.home, 'new', crm.home())),
            'applied', who);
        RAISE LOG 'pg_crm: % adopted connection "%" into database "%"', who, c.name, current_database();
        RAISE NOTICE 'database "%" now sends over connection "%"', current_database(), c.name
            USING HINT = 'The database that it came from must no longer send over it: call crm.drop_connection() or crm.pause() there, unless it no longer exists.';
        RETURN NEXT c.name;
    END LOOP;
    PERFORM crm_internal.notify_worker(true);
    PERFORM crm_internal.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm.adopt_connections(text) IS
    'lets this database send over connections that came with a restore or a copy of a database (all, or the given one); returns their '
    'names';
