-- Look-ups and checks of the arguments that set-up functions share.

CREATE FUNCTION crm_internal.actor() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT session_user || coalesce('/' || nullif(current_setting('pg_crm.actor', true), ''), '')
$$;
COMMENT ON FUNCTION crm_internal.actor() IS 'who acts, as crm.audit_log.actor says it';

CREATE FUNCTION crm_internal.connection_named(name text) RETURNS crm.connection
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c crm.connection;
BEGIN
    SELECT * INTO c FROM crm.connection k WHERE k.name = connection_named.name;
    IF NOT FOUND THEN
        RAISE undefined_object USING
            MESSAGE = format('connection "%s" does not exist', name),
            DETAIL = coalesce('Connections: ' || (SELECT string_agg(k.name, ', ' ORDER BY k.name) FROM crm.connection k) || '.',
                              'There are no connections yet.'),
            HINT = 'Create it with crm.create_connection().';
    END IF;
    RETURN c;
END $$;
COMMENT ON FUNCTION crm_internal.connection_named(text) IS 'the connection with that name; raises undefined_object (42704)';

-- Set-up functions that change what belongs to a connection run one at a time.
CREATE FUNCTION crm_internal.locked_connection(name text) RETURNS crm.connection
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM crm.connection k WHERE k.name = locked_connection.name FOR NO KEY UPDATE;
    RETURN crm_internal.connection_named(name);
END $$;
COMMENT ON FUNCTION crm_internal.locked_connection(text) IS
    'the connection with that name, locked until the transaction ends; raises undefined_object (42704)';

CREATE FUNCTION crm_internal.map_of(map_id int) RETURNS crm.object_map
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m crm.object_map;
BEGIN
    SELECT * INTO m FROM crm.object_map o WHERE o.map_id = map_of.map_id;
    IF NOT FOUND THEN
        RAISE undefined_object USING
            MESSAGE = format('map %s does not exist', coalesce(map_id::text, 'NULL')),
            DETAIL = coalesce('Maps: ' || (SELECT string_agg(format('%s (%s)', o.map_id, o.relation), ', ' ORDER BY o.map_id)
                                           FROM crm.object_map o) || '.', 'There are no maps yet.'),
            HINT = 'Create it with crm.map_object().';
    END IF;
    RETURN m;
END $$;
COMMENT ON FUNCTION crm_internal.map_of(int) IS 'the map with that id; raises undefined_object (42704)';

-- The worker locks it while it claims records, so it must not be locked while the CRM is queried.
CREATE FUNCTION crm_internal.locked_map(map_id int) RETURNS crm.object_map
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM crm.object_map o WHERE o.map_id = locked_map.map_id FOR NO KEY UPDATE;
    RETURN crm_internal.map_of(map_id);
END $$;
COMMENT ON FUNCTION crm_internal.locked_map(int) IS
    'the map with that id, its definition locked until the transaction ends; raises undefined_object (42704)';

CREATE FUNCTION crm_internal.field_of(map_id int, column_name name) RETURNS crm.field_map
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    f crm.field_map;
BEGIN
    SELECT * INTO f FROM crm.field_map x WHERE x.map_id = field_of.map_id AND x.column_name = field_of.column_name;
    IF NOT FOUND THEN
        RAISE undefined_object USING
            MESSAGE = format('column "%s" is not mapped by map %s', column_name, map_id),
            DETAIL = coalesce('Mapped: ' || (SELECT string_agg(x.column_name, ', ' ORDER BY x.field_id) FROM crm.field_map x
                                             WHERE x.map_id = field_of.map_id) || '.', 'No columns are mapped.'),
            HINT = 'crm.map_field() maps it; crm.field_map shows what is mapped.';
    END IF;
    RETURN f;
END $$;
COMMENT ON FUNCTION crm_internal.field_of(int, name) IS 'the mapping of a column; raises undefined_object (42704)';

CREATE FUNCTION crm_internal.merged(argument text, options jsonb, changes jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    unknown text;
BEGIN
    IF jsonb_typeof(changes) <> 'object' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s must be a JSON object', argument),
            HINT = 'It is merged into what is set; a key whose value is null is removed.';
    END IF;
    SELECT c.key INTO unknown FROM jsonb_each(changes) c WHERE c.value = 'null' AND NOT options ? c.key LIMIT 1;
    IF FOUND THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('%s has no "%s" that could be removed', argument, unknown),
            HINT = coalesce('Set: ' || (SELECT string_agg(o.key, ', ' ORDER BY o.key) FROM jsonb_each(options) o) || '.', 'None is set.');
    END IF;
    RETURN (SELECT coalesce(jsonb_object_agg(x.key, x.value), '{}') FROM jsonb_each(options || coalesce(changes, '{}')) x
            WHERE x.value <> 'null' OR NOT coalesce(changes, '{}') ? x.key);
END $$;
COMMENT ON FUNCTION crm_internal.merged(text, jsonb, jsonb) IS
    'options with changes merged into them: a json null removes a key; raises invalid_parameter_value (22023) if there is none';

CREATE FUNCTION crm_internal.require_owner(who oid, relation regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT pg_has_role(who, (SELECT relowner FROM pg_class WHERE oid = relation), 'USAGE') THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('must be owner of table "%s" to map it', relation),
            HINT = 'pg_crm reads and writes a mapped table as its owner, so the owner has to map it.';
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.require_owner(oid, regclass) IS 'raises insufficient_privilege (42501) unless the role owns the table';

CREATE FUNCTION crm_internal.require_references(who oid, credentials jsonb) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM jsonb_each(credentials) c WHERE jsonb_typeof(c.value) = 'object' OR c.key LIKE E'%\\_file')
       AND NOT pg_has_role(who, 'pg_read_server_files', 'USAGE') THEN
        RAISE insufficient_privilege USING
            MESSAGE = 'credentials by reference require the privileges of role pg_read_server_files',
            DETAIL = 'The worker reads the file or the environment of the server and sends it to the connection''s base_url.',
            HINT = 'Pass the credentials themselves, or have a member of pg_read_server_files call this function.';
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.require_references(oid, jsonb) IS
    'raises insufficient_privilege (42501) unless the role may have the worker read files and environment variables';

CREATE FUNCTION crm_internal.check_choice(argument text, word text, known text[]) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF word IS NULL OR word <> ALL (known) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('%s cannot be "%s"', argument, coalesce(word, 'NULL')),
            HINT = format('Valid values: %s.', array_to_string(known, ', '));
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.check_choice(text, text, text[]) IS
    'raises invalid_parameter_value (22023) unless the value is one of the valid ones, and lists these';

CREATE FUNCTION crm_internal.check_interval(argument text, value interval) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF value IS NULL OR value < interval '1 minute' OR value > interval '24 hours' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('%s cannot be %s', argument, coalesce(value::text, 'NULL')),
            HINT = 'It must be between 1 minute and 24 hours; crm.flush() runs a write-back at once.';
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.check_interval(text, interval) IS
    'raises invalid_parameter_value (22023) unless the interval is between 1 minute and 24 hours';

CREATE FUNCTION crm_internal.timeout_ms(timeout interval) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF timeout IS NULL OR timeout < interval '0' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'timeout must not be negative', HINT = 'For example interval ''1 minute''.';
    END IF;
    RETURN (extract(epoch FROM timeout) * 1000)::bigint;
END $$;
COMMENT ON FUNCTION crm_internal.timeout_ms(interval) IS
    'a timeout in milliseconds; raises invalid_parameter_value (22023) if it is NULL or negative';

CREATE FUNCTION crm_internal.may_write(who oid, relation regclass) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(has_any_column_privilege(who, relation, 'UPDATE')
                    OR pg_has_role(who, (SELECT c.relowner FROM pg_class c WHERE c.oid = relation), 'USAGE'), false)
$$;
COMMENT ON FUNCTION crm_internal.may_write(oid, regclass) IS 'whether a role owns a table or may update it';

CREATE FUNCTION crm_internal.maps_to_run(who oid, what text, map_id int) RETURNS int[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m crm.object_map;
    wanted int[];
BEGIN
    -- Operators and admins may run every map: theirs is the level that may pause connections.
    IF map_id IS NOT NULL THEN
        m := crm_internal.map_of(map_id);
        wanted := ARRAY[map_id];
    END IF;
    IF NOT has_function_privilege(who, 'crm.pause(text)', 'EXECUTE') THEN
        IF map_id IS NOT NULL AND NOT crm_internal.may_write(who, m.relation) THEN
            RAISE insufficient_privilege USING
                MESSAGE = format('permission denied to %s map %s', what, map_id),
                DETAIL = format('"%s" may not update table "%s".', pg_get_userbyid(who), m.relation),
                HINT = format('A writer may %s the maps of tables that the role owns or may update; an operator any.', what);
        ELSIF map_id IS NULL THEN
            SELECT array_agg(o.map_id) INTO wanted FROM crm.object_map o
            WHERE crm_internal.may_write(who, o.relation) AND o.enabled AND (what <> 'ingest' OR crm_internal.ingests(o.map_id));
            IF wanted IS NULL AND EXISTS (SELECT FROM crm.object_map) THEN
                RAISE insufficient_privilege USING
                    MESSAGE = format('permission denied to %s any map', what),
                    DETAIL = format('"%s" may update none of the mapped tables.', pg_get_userbyid(who)),
                    HINT = format('A writer may %s the maps of tables that the role owns or may update; an operator any.', what);
            END IF;
        END IF;
    END IF;
    RETURN wanted;
END $$;
COMMENT ON FUNCTION crm_internal.maps_to_run(oid, text, int) IS
    'ids of the maps that a role may flush or ingest, or the given one if it may; NULL: all; raises insufficient_privilege (42501)';
