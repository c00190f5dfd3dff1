-- The mapping of Heroku Connect, and the links that are in its tables. Everything is set up by the functions that do so by hand, with their
-- checks; what does not pass is reported, and the rest goes on.

CREATE FUNCTION crm_internal.check_heroku_document(document jsonb) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    form CONSTANT text := '{"version": 1, "mappings": [{"object_name": "Contact", "config": {"access": "read_write", "fields": {"Email": {}}}}]}';
    mapping jsonb;
    trouble text := CASE
        WHEN jsonb_typeof(document) IS DISTINCT FROM 'object' THEN format('It is of type %s.', coalesce(jsonb_typeof(document), 'null'))
        WHEN document -> 'version' IS DISTINCT FROM '1' THEN format('Its version is %s.', coalesce(left((document -> 'version')::text, 100), 'missing'))
        WHEN jsonb_typeof(document -> 'mappings') IS DISTINCT FROM 'array' THEN 'It lacks the array "mappings".' END;
BEGIN
    IF trouble IS NULL THEN
        FOR mapping IN SELECT m FROM jsonb_array_elements(document -> 'mappings') AS m LOOP
            trouble := CASE
                WHEN jsonb_typeof(mapping) <> 'object' THEN 'A mapping is not an object'
                WHEN jsonb_typeof(mapping -> 'object_name') IS DISTINCT FROM 'string' OR mapping ->> 'object_name' = ''
                    THEN 'A mapping lacks the string "object_name"'
                WHEN jsonb_typeof(mapping -> 'config') IS DISTINCT FROM 'object' THEN 'A mapping lacks the object "config"'
                WHEN jsonb_typeof(mapping #> '{config,access}') IS DISTINCT FROM 'string' THEN 'The config of a mapping lacks the string "access"'
                WHEN jsonb_typeof(mapping #> '{config,fields}') IS DISTINCT FROM 'object' THEN 'The config of a mapping lacks the object "fields"'
                END || format(': %s.', left(mapping::text, 200));
            EXIT WHEN trouble IS NOT NULL;
        END LOOP;
    END IF;
    IF trouble IS NOT NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = 'the document is not a Heroku Connect mapping export',
            DETAIL = trouble, HINT = format('Use the output of "heroku connect:export", which has the form %s.', form);
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.check_heroku_document(jsonb) IS
    'raises invalid_parameter_value (22023) unless a document has the form of those that Heroku Connect exports';

CREATE FUNCTION crm_internal.do_link_by_column(caller bytea, map_id int, column_name name)
RETURNS TABLE (status text, number bigint, samples text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    m CONSTANT crm.object_map := crm_internal.map_of(do_link_by_column.map_id);
    f CONSTANT crm.field_map := crm_internal.field_of(do_link_by_column.map_id, do_link_by_column.column_name);
    provider text;
    pair record;
    shard_keys text[] := '{}';
    record_keys text[] := '{}';
    crm_ids text[] := '{}';
    refused text[] := '{}';
    reasons text[] := '{}';
    given bigint := 0;
    linked bigint := 0;
BEGIN
    PERFORM crm_internal.require_owner(who, m.relation);
    SELECT c.provider INTO provider FROM crm.connection c WHERE c.connection_id = m.connection_id;
    FOR pair IN
        WITH given AS MATERIALIZED (
            -- A row that cannot be read has an empty list.
            SELECT crm_internal.canonical_id(provider, r.row_values ->> 0) AS crm_id, r.shard_key, r.record_key
            FROM crm_internal.row_values(m.map_id, ARRAY[f.field_id::int]) AS r WHERE r.row_values = '[]' OR r.row_values ->> 0 <> '')
        SELECT g.*, CASE WHEN g.crm_id IS NULL THEN 'unreadable'
                         WHEN crm_internal.record_id_trouble(provider, g.crm_id) IS NOT NULL THEN 'invalid'
                         WHEN count(*) OVER (PARTITION BY g.crm_id COLLATE "C") > 1 THEN 'ambiguous' END AS trouble
        FROM given g ORDER BY g.record_key COLLATE "C"
    LOOP
        IF pair.trouble IS NOT NULL THEN
            refused := refused || pair.record_key;
            reasons := reasons || pair.trouble;
            CONTINUE;
        END IF;
        shard_keys := shard_keys || pair.shard_key;
        record_keys := record_keys || pair.record_key;
        crm_ids := crm_ids || pair.crm_id;
        given := given + 1;
        CONTINUE WHEN cardinality(crm_ids) < 1000;
        linked := linked + cardinality(crm_internal.link_free(m, shard_keys, record_keys, crm_ids));
        shard_keys := '{}';
        record_keys := '{}';
        crm_ids := '{}';
    END LOOP;
    linked := linked + cardinality(crm_internal.link_free(m, shard_keys, record_keys, crm_ids));
    RETURN QUERY
        SELECT x.reason, count(*), (array_agg(x.record_key ORDER BY x.n))[:5]
        FROM unnest(reasons, refused) WITH ORDINALITY AS x (reason, record_key, n) GROUP BY x.reason;
    PERFORM crm_internal.notify_worker(false);
    RETURN QUERY SELECT x.* FROM (VALUES ('linked', linked, '{}'::text[]), ('taken', given - linked, '{}')) AS x (status, number, samples)
                 WHERE x.status = 'linked' OR x.number > 0;
END $$;
COMMENT ON FUNCTION crm_internal.do_link_by_column(bytea, int, name) IS
    'links the rows of a map to the records whose ids a mapped column holds, for the role that the token of crm_internal.caller() names, and '
    'writes nothing to the CRM. status: linked, invalid (no id of a record), ambiguous (in several rows), taken (the row or the record has '
    'another link), unreadable';

-- With the caller's privileges. Raises if the object cannot be mapped at all.
CREATE FUNCTION crm_internal.import_heroku_object(given jsonb, connection text, schema_name name)
RETURNS TABLE (item text, outcome text, detail text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config CONSTANT jsonb := given -> 'config';
    object_name CONSTANT text := given ->> 'object_name';
    is_written CONSTANT bool := config ->> 'access' = 'read_write';
    upsert_field CONSTANT text := CASE WHEN jsonb_typeof(config -> 'upsert_field') = 'string' THEN nullif(config ->> 'upsert_field', '') END;
    polls CONSTANT numeric := CASE WHEN jsonb_typeof(config -> 'sf_polling_seconds') = 'number' THEN (config ->> 'sf_polling_seconds')::numeric END;
    polling CONSTANT interval := make_interval(secs => least(greatest(coalesce(polls, 600), 60), 86400)::float8);
    relation CONSTANT regclass := to_regclass(format('%I.%I', schema_name, lower(object_name)));
    id int;
    key_trouble text;
    way text;
    f record;
    l record;
BEGIN
    IF config ->> 'access' NOT IN ('read_only', 'read_write') THEN
        RAISE feature_not_supported USING MESSAGE = format('access "%s" is neither read_only nor read_write', left(config ->> 'access', 100));
    ELSIF relation IS NULL THEN
        RAISE undefined_table USING MESSAGE = format('schema "%s" has no table "%s"', schema_name, lower(object_name));
    END IF;
    -- A row is created by a field of the CRM that holds its key, and the rows' keys are not to overwrite what applications have put there.
    IF is_written AND upsert_field IS NOT NULL THEN
        BEGIN
            id := crm.map_object(connection, relation, object_name, key_column => lower(upsert_field)::name, external_id_field => upsert_field,
                on_insert => 'create', on_delete => 'delete', on_crm_insert => 'insert', on_crm_delete => 'delete', write_interval => '1 minute',
                ingest_interval => polling, enabled => false);
        EXCEPTION WHEN invalid_parameter_value OR datatype_mismatch OR undefined_column THEN
            key_trouble := sqlerrm;
        END;
    END IF;
    IF id IS NULL THEN
        id := crm.map_object(connection, relation, object_name, on_delete => CASE WHEN is_written THEN 'delete' ELSE 'ignore' END,
            on_crm_insert => 'insert', on_crm_delete => 'delete', write_interval => '1 minute', ingest_interval => polling, enabled => false);
    END IF;
    RETURN QUERY SELECT 'table', 'mapped', format('map %s: %s, key column %s, disabled', id, m.relation, m.key_column)
                 FROM crm.object_map m WHERE m.map_id = id;

    -- Read as rows are, with the rights of the table's owner. Without its links, a map would insert every record once more.
    PERFORM crm.map_field(id, 'sfid', 'Id', direction => 'outbound', materialize => false);
    FOR l IN SELECT x.* FROM crm_internal.do_link_by_column(crm_internal.caller(), id, 'sfid') AS x
             ORDER BY x.status <> 'linked', x.status COLLATE "C" LOOP
        RETURN QUERY SELECT 'sfid', CASE l.status WHEN 'linked' THEN 'linked' ELSE 'not carried over' END,
            CASE l.status WHEN 'linked' THEN format('%s rows', l.number)
                WHEN 'invalid' THEN format('%s rows whose sfid is not the id of a record', l.number)
                WHEN 'ambiguous' THEN format('%s rows whose sfid is also that of another row', l.number)
                WHEN 'taken' THEN format('%s rows whose record is linked to a row of another map', l.number)
                ELSE format('%s rows that cannot be read', l.number) END
            || CASE WHEN cardinality(l.samples) > 0 THEN ': ' || array_to_string(l.samples, ', ') ELSE '' END;
    END LOOP;
    PERFORM crm.unmap_field(id, 'sfid');

    IF is_written AND upsert_field IS NULL THEN
        RETURN QUERY VALUES ('upsert_field', 'not carried over',
            'none is given: rows that are inserted are not created in the CRM until the map has an external_id_field and on_insert => ''create''');
    ELSIF is_written AND key_trouble IS NOT NULL THEN
        RETURN QUERY VALUES ('upsert_field', 'not carried over', format(
            '%s; rows that are inserted are not created in the CRM until that column is a key, or the map has an external_id_field of its own '
            'and on_insert => ''create''', key_trouble));
    END IF;
    FOR f IN SELECT e.key, e.value, lower(e.key)::name AS name FROM jsonb_each(config -> 'fields') AS e ORDER BY e.key COLLATE "C" LOOP
        IF f.value NOT IN ('{}', 'null') THEN
            RETURN QUERY VALUES (f.key, 'not carried over', format('options %s', left(f.value::text, 200)));
        END IF;
        IF lower(f.key) IN ('id', 'isdeleted') THEN
            RETURN QUERY VALUES (f.key, 'left out',
                CASE lower(f.key) WHEN 'id' THEN 'kept as the link' ELSE 'not needed: deleting a record deletes its row' END);
            CONTINUE;
        ELSIF is_written AND key_trouble IS NULL AND lower(f.key) = lower(upsert_field) THEN
            RETURN QUERY VALUES (f.key, 'mapped', 'external_id_field, which holds the key of the row');
            CONTINUE;
        END IF;
        way := CASE WHEN is_written AND lower(f.key) NOT IN ('createddate', 'createdbyid', 'lastmodifieddate', 'lastmodifiedbyid', 'systemmodstamp')
                    THEN 'bidirectional' ELSE 'inbound' END;
        BEGIN
            BEGIN
                PERFORM crm.map_field(id, f.name, f.key, direction => way);
                RETURN QUERY VALUES (f.key, 'mapped', way);
            EXCEPTION WHEN invalid_parameter_value THEN
                -- One that the CRM computes.
                IF way = 'inbound' THEN
                    RAISE;
                END IF;
                way := sqlerrm;
                PERFORM crm.map_field(id, f.name, f.key, direction => 'inbound');
                RETURN QUERY VALUES (f.key, 'mapped', 'inbound: ' || way);
            END;
        EXCEPTION WHEN OTHERS THEN
            -- Neither a failing server nor a lost lock is a fault of the document.
            IF sqlstate ~ '^(40|53|55|57|58|XX)' THEN
                RAISE;
            END IF;
            RETURN QUERY VALUES (f.key, 'not carried over', sqlerrm);
        END;
    END LOOP;
    IF coalesce(config ->> 'sf_notify_enabled', 'false') <> 'false' THEN
        RETURN QUERY VALUES ('sf_notify_enabled', 'not carried over', 'the CRM is polled; configure webhooks for faster notification');
    END IF;
    IF config ? 'sf_polling_seconds' AND polls IS DISTINCT FROM extract(epoch FROM polling) THEN
        RETURN QUERY VALUES ('sf_polling_seconds', 'not carried over', format('ingest_interval is %s', polling));
    END IF;
    IF config ? 'sf_max_daily_api_calls' THEN
        RETURN QUERY VALUES ('sf_max_daily_api_calls', 'not carried over', 'the option daily_limit of a connection limits requests');
    END IF;
    -- The tables keep their indexes.
    RETURN QUERY
        SELECT u.key, 'not carried over', 'not known'
        FROM (SELECT k FROM jsonb_object_keys(given - '{object_name,config}'::text[]) AS k
              UNION ALL
              SELECT k FROM jsonb_object_keys(config - '{access,fields,indexes,upsert_field,sf_notify_enabled,sf_polling_seconds,'
                                                       'sf_max_daily_api_calls,revision,applied_at}'::text[]) AS k) AS u (key)
        ORDER BY u.key COLLATE "C";
    RETURN QUERY
        SELECT coalesce(c.field, 'table'), 'check', concat_ws(' ', c.message, c.hint) FROM crm.check_mapping(id) AS c
        WHERE c.severity <> 'info' ORDER BY c.field COLLATE "C", c.code;
END $$;
COMMENT ON FUNCTION crm_internal.import_heroku_object(jsonb, text, name) IS
    'maps an object of a document of Heroku Connect, links its rows, and returns what it did; raises if the object cannot be mapped';

CREATE FUNCTION crm_internal.do_import_heroku_connect(document jsonb, connection text, schema_name name) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET client_min_messages = 'error' AS $$
DECLARE
    given jsonb;
    done jsonb;
    detail text;
    provider CONSTANT text := (SELECT c.provider FROM crm.connection c WHERE c.name = connection);
BEGIN
    PERFORM crm_internal.check_heroku_document(document);
    IF provider IS NULL THEN
        RAISE undefined_object USING MESSAGE = format('connection "%s" does not exist', connection),
            HINT = 'crm.create_connection() creates it.';
    ELSIF provider <> 'salesforce' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('connection "%s" is not a Salesforce connection', connection),
            DETAIL = format('Its provider is %s.', provider), HINT = 'Heroku Connect works with Salesforce only.';
    END IF;
    SELECT coalesce(jsonb_agg(jsonb_build_object('item', k, 'outcome', 'not carried over', 'detail', 'not known') ORDER BY k COLLATE "C"), '[]')
    INTO done FROM jsonb_object_keys(document - '{connection,mappings,version}'::text[]) AS k;
    FOR given IN SELECT m FROM jsonb_array_elements(document -> 'mappings') AS m LOOP
        BEGIN
            SELECT done || coalesce(jsonb_agg(to_jsonb(x) || jsonb_build_object('object', given -> 'object_name') ORDER BY x.ordinality), '[]')
            INTO done FROM crm_internal.import_heroku_object(given, connection, schema_name) WITH ORDINALITY AS x;
        EXCEPTION WHEN OTHERS THEN
            IF sqlstate ~ '^(40|53|55|57|58|XX)' THEN
                RAISE;
            END IF;
            GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
            done := done || jsonb_build_object('object', given -> 'object_name', 'item', 'table', 'outcome', 'not carried over',
                                               'detail', concat_ws(': ', sqlerrm, nullif(detail, '')));
        END;
    END LOOP;
    RETURN done;
END $$;
COMMENT ON FUNCTION crm_internal.do_import_heroku_connect(jsonb, text, name) IS
    'maps the objects of a document of Heroku Connect, and links their rows; returns what it did';

CREATE FUNCTION crm.import_heroku_connect(document jsonb, connection text, schema_name name DEFAULT 'salesforce', dry_run bool DEFAULT true)
RETURNS TABLE (object text, item text, outcome text, detail text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    done jsonb;
BEGIN
    -- A dry run does all of it, so that every check is made, and is rolled back.
    BEGIN
        done := crm_internal.do_import_heroku_connect(document, connection, coalesce(schema_name, 'salesforce'));
        IF dry_run IS NOT FALSE THEN
            RAISE EXCEPTION USING ERRCODE = 'CRM00', MESSAGE = 'dry run';
        END IF;
    EXCEPTION WHEN SQLSTATE 'CRM00' THEN
        NULL;
    END;
    RETURN QUERY SELECT d ->> 'object', d ->> 'item', d ->> 'outcome', d ->> 'detail' FROM jsonb_array_elements(done) AS d;
END $$;
COMMENT ON FUNCTION crm.import_heroku_connect(jsonb, text, name, bool) IS
    'maps the tables of Heroku Connect, in schema_name, to the Salesforce objects of a connection as in a document of "heroku '
    'connect:export", and links each row to the record whose id is in its column sfid. The maps are disabled: crm.plan() and crm.enable(). '
    'Nothing is written to the CRM. One row per item: object (NULL: of the document), item (table, sfid, a field or an option), outcome: '
    'mapped, linked, left out (not needed), not carried over, check (what crm.check_mapping() says), detail. What cannot be carried over '
    'does not stop the rest. dry_run: the same, and nothing is changed. Errors: 22023 not such a document, or a connection to another CRM, '
    '42704 no such connection';
