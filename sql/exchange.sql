-- The whole mapping as one JSON document, for version control and for other databases. Import goes by the functions that set up a mapping by
-- hand, with their checks, NOTICEs and errors.

CREATE FUNCTION crm_internal.exported_connection(c crm.connection) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT to_jsonb(c) - '{connection_id,paused,home,created_at}'::text[]
$$;
COMMENT ON FUNCTION crm_internal.exported_connection(crm.connection) IS 'a connection as crm.export_mapping() exports it';

CREATE FUNCTION crm_internal.exported_field(f crm.field_map) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT to_jsonb(f) - '{map_id,field_id,described}'::text[]
$$;
COMMENT ON FUNCTION crm_internal.exported_field(crm.field_map) IS 'a field as crm.export_mapping() exports it';

CREATE FUNCTION crm_internal.exported_map(m crm.object_map) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET intervalstyle = 'postgres' AS $$
    SELECT to_jsonb(m)
           - '{map_id,connection_id,next_field_id,key_is_case_sensitive,key_max_length,disabled_as_of,keys_changed,paused,filter_columns}'::text[]
           || jsonb_build_object('connection', (SELECT c.name FROM crm.connection c WHERE c.connection_id = m.connection_id),
                  'fields', (SELECT coalesce(jsonb_agg(crm_internal.exported_field(f) ORDER BY f.column_name), '[]')
                             FROM crm.field_map f WHERE f.map_id = m.map_id))
$$;
COMMENT ON FUNCTION crm_internal.exported_map(crm.object_map) IS 'a map with its fields as crm.export_mapping() exports it';

CREATE FUNCTION crm.export_mapping() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object(
        'version', 1,
        'connections', (SELECT coalesce(jsonb_agg(crm_internal.exported_connection(c) ORDER BY c.name), '[]') FROM crm.connection c),
        'maps', (SELECT coalesce(jsonb_agg(crm_internal.exported_map(m) ORDER BY c.name, m.relation::text, m.crm_object), '[]')
                 FROM crm.object_map m JOIN crm.connection c USING (connection_id)))
$$;
COMMENT ON FUNCTION crm.export_mapping() IS
    'the whole mapping as a JSON document: {"version": 1, "connections": [{"name", "provider", "base_url", "options"}], "maps": '
    '[{"connection", "relation" and the other arguments of crm.map_object(), "fields": [{the arguments of crm.map_field()}]}]}; no '
    'credentials, no links. The same mapping gives the same document. For crm.import_mapping()';

CREATE FUNCTION crm_internal.members(what text, document jsonb, key text) RETURNS SETOF jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    list CONSTANT jsonb := document -> key;
    member jsonb;
BEGIN
    IF list IS NULL THEN
        RETURN;
    ELSIF jsonb_typeof(list) <> 'array' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('"%s" of %s is not an array', key, what),
            DETAIL = format('Its type is %s.', jsonb_typeof(list)), HINT = 'crm.export_mapping() shows the form of a document.';
    END IF;
    FOR member IN SELECT e FROM jsonb_array_elements(list) e LOOP
        IF jsonb_typeof(member) <> 'object' THEN
            RAISE invalid_parameter_value USING MESSAGE = format('"%s" of %s contains an element that is not an object', key, what),
                DETAIL = format('Its type is %s.', jsonb_typeof(member)), HINT = 'crm.export_mapping() shows the form of a document.';
        END IF;
        RETURN NEXT member;
    END LOOP;
END $$;
COMMENT ON FUNCTION crm_internal.members(text, jsonb, text) IS
    'the objects in a list of a document; raises invalid_parameter_value (22023) if it is no list of objects';

CREATE FUNCTION crm_internal.require_names(what text, given jsonb, names text[]) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lacking text;
BEGIN
    SELECT n INTO lacking FROM unnest(names) n
    WHERE jsonb_typeof(given -> n) IS DISTINCT FROM 'string' OR given ->> n = '' LIMIT 1;
    IF FOUND THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s of the document lacks the string "%s"', what, lacking),
            DETAIL = format('The element is: %s.', left((given - 'credentials')::text, 200)),
            HINT = format('Each must have the strings %s.', array_to_string(names, ', '));
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.require_names(text, jsonb, text[]) IS
    'raises invalid_parameter_value (22023) unless an object of a document has texts by these names';

CREATE FUNCTION crm_internal.arguments(what text, given jsonb, function regproc) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known CONSTANT text[] := (SELECT p.proargnames FROM pg_proc p WHERE p.oid = arguments.function);
    unknown text;
    argument record;
BEGIN
    -- Neither secrets nor the loss of links come with a document.
    SELECT g.key INTO unknown FROM jsonb_each(given) g WHERE g.key <> ALL (known) OR g.key IN ('credentials', 'relink');
    IF FOUND THEN
        RAISE invalid_parameter_value USING MESSAGE = format('"%s" of %s is not known, or cannot be changed', unknown, what),
            HINT = format('Arguments of %s: %s.', function,
                          array_to_string(array_remove(array_remove(known, 'credentials'), 'relink'), ', '));
    END IF;
    FOR argument IN
        SELECT e.key, e.value, format_type(t.oid, NULL) AS type, t.oid AS type_id
        FROM jsonb_each(given) e JOIN pg_proc p ON p.oid = arguments.function
        CROSS JOIN LATERAL (SELECT p.proargtypes[array_position(p.proargnames, e.key) - 1] AS oid) t
        WHERE e.value <> 'null'
    LOOP
        BEGIN
            IF argument.key <> 'create_default'
               AND (argument.type_id = 'jsonb'::regtype AND jsonb_typeof(argument.value) <> 'object'
                    OR argument.type_id <> 'jsonb'::regtype AND jsonb_typeof(argument.value) IN ('object', 'array')) THEN
                RAISE data_exception USING MESSAGE = format('Its type is %s.', jsonb_typeof(argument.value));
            ELSIF argument.type_id NOT IN ('jsonb'::regtype, 'regclass'::regtype, 'regprocedure'::regtype) THEN
                EXECUTE format('SELECT %L::%s', argument.value #>> '{}', argument.type);
            END IF;
        EXCEPTION WHEN data_exception THEN
            RAISE invalid_parameter_value USING MESSAGE = format('"%s" of %s is not a value of type %s', argument.key, what, argument.type),
                DETAIL = sqlerrm, HINT = 'crm.export_mapping() shows the form of a document.';
        END;
    END LOOP;
    -- Of the arguments that are JSON, only this one may be a scalar, or null to remove it.
    RETURN (SELECT string_agg(format('%I => %L', g.key, CASE g.key WHEN 'create_default' THEN g.value::text ELSE g.value #>> '{}' END), ', ')
            FROM jsonb_each(given) g WHERE g.value <> 'null' OR g.key = 'create_default');
END $$;
COMMENT ON FUNCTION crm_internal.arguments(text, jsonb, regproc) IS
    'members of a JSON object as named arguments of a function; raises invalid_parameter_value (22023) if it does not know one';

-- What an alteration needs: NULL would leave an option as it is.
CREATE FUNCTION crm_internal.differences(given jsonb, present jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_object_agg(g.key, CASE
        WHEN g.key IN ('options', 'validation') THEN
            (SELECT coalesce(jsonb_object_agg(o.key, 'null'::jsonb), '{}') FROM jsonb_each(present -> g.key) o) || coalesce(nullif(g.value, 'null'), '{}')
        WHEN g.key = 'create_default' THEN g.value
        WHEN g.value = 'null' THEN CASE WHEN g.key LIKE 'transform%' THEN '"-"' ELSE '""' END::jsonb
        ELSE g.value END), '{}')
    FROM jsonb_each(given) g WHERE g.value IS DISTINCT FROM coalesce(present -> g.key, 'null')
$$;
COMMENT ON FUNCTION crm_internal.differences(jsonb, jsonb) IS 'arguments of an alteration that makes what is there as it is given';

-- With the caller's privileges: it may do what the caller may do by hand.
CREATE FUNCTION crm_internal.do_import_mapping(mapping jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET intervalstyle = 'postgres' AS $$
DECLARE
    done jsonb := '[]';
    given jsonb;
    field jsonb;
    c crm.connection;
    m crm.object_map;
    f crm.field_map;
    what text;
    change jsonb;
    call text;
BEGIN
    IF jsonb_typeof(mapping) IS DISTINCT FROM 'object' OR mapping - '{version,connections,maps}'::text[] <> '{}'
       OR mapping -> 'version' IS DISTINCT FROM '1' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'this is no mapping that crm.export_mapping() could have exported',
            HINT = 'It is an object with version (1), connections and maps.';
    END IF;
    FOR given IN SELECT crm_internal.members('the document', mapping, 'connections') LOOP
        PERFORM crm_internal.require_names('a connection', given, '{name}');
        what := format('connection "%s"', given ->> 'name');
        SELECT * INTO c FROM crm.connection k WHERE k.name = given ->> 'name';
        IF NOT FOUND THEN
            PERFORM crm_internal.require_names(what, given, '{provider}');
            call := format('SELECT crm.create_connection(%s)', crm_internal.arguments(what, given, 'crm.create_connection'));
            done := done || jsonb_build_object('object', what, 'action', 'create', 'changes', given);
        ELSE
            change := crm_internal.differences(given, crm_internal.exported_connection(c));
            IF change ? 'base_url' THEN
                RAISE invalid_parameter_value USING MESSAGE = format('%s has another base_url', what),
                    DETAIL = 'A document does not send the credentials of a connection to another address.',
                    HINT = 'Remove base_url from the document, or call crm.alter_connection() first.';
            END IF;
            call := format('SELECT crm.alter_connection(%L, %s)', c.name, crm_internal.arguments(what, change, 'crm.alter_connection'));
            done := done || jsonb_build_object('object', what, 'action', CASE change WHEN '{}' THEN 'keep' ELSE 'alter' END, 'changes', change);
            CONTINUE WHEN change = '{}';
        END IF;
        EXECUTE call;
    END LOOP;
    FOR given IN SELECT crm_internal.members('the document', mapping, 'maps') LOOP
        PERFORM crm_internal.require_names('a map', given, '{connection,relation,crm_object}');
        what := format('map of %s to %s on "%s"', given ->> 'relation', given ->> 'crm_object', given ->> 'connection');
        PERFORM crm_internal.arguments(what, given - 'fields', 'crm.map_object');
        SELECT o.* INTO m FROM crm.object_map o JOIN crm.connection k USING (connection_id)
        WHERE k.name = given ->> 'connection' AND o.relation = (given ->> 'relation')::regclass
          AND lower(o.crm_object) = lower(given ->> 'crm_object');
        IF NOT FOUND THEN
            EXECUTE format('SELECT crm.map_object(%s)', crm_internal.arguments(what, given - 'fields', 'crm.map_object')) INTO m.map_id;
            done := done || jsonb_build_object('object', what, 'action', 'create', 'changes', given - 'fields');
        ELSE
            change := crm_internal.differences(given - 'fields', crm_internal.exported_map(m));
            done := done || jsonb_build_object('object', what, 'action', CASE change WHEN '{}' THEN 'keep' ELSE 'alter' END, 'changes', change);
            IF change ? 'enabled' THEN
                EXECUTE format('SELECT crm.%I(%s)', CASE WHEN (change ->> 'enabled')::bool THEN 'enable' ELSE 'disable' END, m.map_id);
                change := change - 'enabled';
            END IF;
            IF change <> '{}' THEN
                EXECUTE format('SELECT crm.alter_map(%s, %s)', m.map_id, crm_internal.arguments(what, change, 'crm.alter_map'));
            END IF;
        END IF;
        FOR field IN SELECT crm_internal.members(what, given, 'fields') LOOP
            PERFORM crm_internal.require_names(format('a field of %s', what), field, '{column_name,crm_field}');
            SELECT * INTO f FROM crm.field_map x WHERE x.map_id = m.map_id AND x.column_name = field ->> 'column_name';
            IF NOT FOUND THEN
                call := format('SELECT crm.map_field(%s, %s)', m.map_id, crm_internal.arguments(what, field, 'crm.map_field'));
                done := done || jsonb_build_object('object', format('column "%s" of %s', field ->> 'column_name', what), 'action', 'create',
                                                   'changes', field);
            ELSE
                change := crm_internal.differences(field, crm_internal.exported_field(f));
                call := format('SELECT crm.alter_field(%s, %L, %s)', m.map_id, f.column_name,
                               crm_internal.arguments(what, change, 'crm.alter_field'));
                done := done || jsonb_build_object('object', format('column "%s" of %s', f.column_name, what),
                                                   'action', CASE change WHEN '{}' THEN 'keep' ELSE 'alter' END, 'changes', change);
                CONTINUE WHEN change = '{}';
            END IF;
            EXECUTE call;
        END LOOP;
        SELECT done || coalesce(jsonb_agg(jsonb_build_object('object', format('column "%s" of %s', x.column_name, what), 'action', 'not given',
                                                             'changes', '{}'::jsonb) ORDER BY x.column_name), '[]') INTO done
        FROM crm.field_map x
        WHERE x.map_id = m.map_id
          AND NOT EXISTS (SELECT FROM jsonb_array_elements(given -> 'fields') e WHERE e ->> 'column_name' = x.column_name);
    END LOOP;
    RETURN done;
END $$;
COMMENT ON FUNCTION crm_internal.do_import_mapping(jsonb) IS 'creates and alters connections, maps and fields as given; returns what it did';

CREATE FUNCTION crm.import_mapping(mapping jsonb, dry_run bool DEFAULT true) RETURNS TABLE (object text, action text, changes jsonb)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    done jsonb;
BEGIN
    -- A dry run does all of it, so that every check is made, and is rolled back.
    BEGIN
        done := crm_internal.do_import_mapping(mapping);
        IF dry_run IS NOT FALSE THEN
            RAISE EXCEPTION USING ERRCODE = 'CRM00', MESSAGE = 'dry run';
        END IF;
    EXCEPTION WHEN SQLSTATE 'CRM00' THEN
        NULL;
    END;
    RETURN QUERY SELECT d ->> 'object', d ->> 'action', d -> 'changes' FROM jsonb_array_elements(done) d;
END $$;
COMMENT ON FUNCTION crm.import_mapping(jsonb, bool) IS
    'creates or alters connections, maps and fields so that they are as in a document of crm.export_mapping(), by the functions that do so '
    'by hand; what a document omits stays as it is. One row per object; action: create, alter, keep (it is so already), not given (a '
    'mapped column that the document omits). Connections are created without credentials: crm.set_credentials(). dry_run: the same, '
    'checks and NOTICEs included, and nothing is changed. Errors: 22023 not such a document, and those of the functions called';
