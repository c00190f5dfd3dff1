-- Set-up: connections, mappings, access. Everything is checked when it is stated, so that the worker
-- never has to guess.

-- Who calls is the role in force where a function is called, and not who the session is of. So a function that asks is two:
-- the one that people call has their rights, and hands what crm.caller() says of them to one that has the engine's.

CREATE FUNCTION crm.connection_named(name text) RETURNS crm.connection
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c crm.connection;
BEGIN
    SELECT * INTO c FROM crm.connection k WHERE k.name = connection_named.name;
    IF NOT FOUND THEN
        RAISE undefined_object USING
            MESSAGE = format('connection "%s" does not exist', name),
            DETAIL = coalesce('Connections: ' || (SELECT string_agg(k.name, ', ' ORDER BY k.name) FROM crm.connection k) || '.',
                              'There is no connection yet.'),
            HINT = 'Make it with crm.create_connection().';
    END IF;
    RETURN c;
END $$;
COMMENT ON FUNCTION crm.connection_named(text) IS 'the connection of that name; raises undefined_object (42704)';

CREATE FUNCTION crm.map_of(map_id int) RETURNS crm.object_map
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m crm.object_map;
BEGIN
    SELECT * INTO m FROM crm.object_map o WHERE o.map_id = map_of.map_id;
    IF NOT FOUND THEN
        RAISE undefined_object USING
            MESSAGE = format('map %s does not exist', coalesce(map_id::text, 'NULL')),
            DETAIL = coalesce('Maps: ' || (SELECT string_agg(format('%s (%s)', o.map_id, o.relation), ', ' ORDER BY o.map_id)
                                           FROM crm.object_map o) || '.', 'There is no map yet.'),
            HINT = 'Make it with crm.map_object().';
    END IF;
    RETURN m;
END $$;
COMMENT ON FUNCTION crm.map_of(int) IS 'the map of that id; raises undefined_object (42704)';

CREATE FUNCTION crm.require_owner(who oid, relation regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT pg_has_role(who, (SELECT relowner FROM pg_class WHERE oid = relation), 'USAGE') THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('must be owner of table "%s" to map it', relation),
            HINT = 'pg_crm reads and writes a mapped table as its owner; let the owner map it.';
    END IF;
END $$;
COMMENT ON FUNCTION crm.require_owner(oid, regclass) IS 'raises unless that role owns the table';

CREATE FUNCTION crm.require_references(who oid, credentials jsonb) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM jsonb_each(credentials) c WHERE jsonb_typeof(c.value) = 'object' OR c.key LIKE E'%\\_file')
       AND NOT pg_has_role(who, 'pg_read_server_files', 'USAGE') THEN
        RAISE insufficient_privilege USING
            MESSAGE = 'credentials by reference need the rights of role pg_read_server_files',
            DETAIL = 'The worker reads the file or the environment of the server and sends it to the connection''s base_url.',
            HINT = 'Give the credentials themselves, or let a member of pg_read_server_files call this.';
    END IF;
END $$;
COMMENT ON FUNCTION crm.require_references(oid, jsonb) IS 'raises unless that role may let the worker read files and environment variables';

CREATE FUNCTION crm.do_create_connection(caller bytea, name text, provider text, base_url text, options jsonb,
                        credentials jsonb) RETURNS int
-- Generic plans hold parameters where others hold their values, which auto_explain would print.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    who CONSTANT oid := crm.verified(caller);
    id int;
BEGIN
    IF coalesce(name, '') = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a connection needs a name', HINT = 'For example: crm.create_connection(''acme'', ''hubspot'', …).';
    END IF;
    IF EXISTS (SELECT FROM crm.connection k WHERE k.name = do_create_connection.name) THEN
        RAISE duplicate_object USING MESSAGE = format('connection "%s" exists already', name),
            HINT = 'crm.set_credentials() changes its credentials; crm.drop_connection() removes it.';
    END IF;
    PERFORM crm.check_connection(provider, base_url, coalesce(options, '{}'));
    PERFORM crm.check_credentials(provider, coalesce(options, '{}'), coalesce(credentials, '{}'));
    PERFORM crm.require_references(who, coalesce(credentials, '{}'));
    INSERT INTO crm.connection (name, provider, base_url, options, home)
    VALUES (name, provider, rtrim(base_url, '/'), coalesce(options, '{}'), crm.home()) RETURNING connection_id INTO id;
    INSERT INTO crm.credential (connection_id, secret) VALUES (id, coalesce(credentials, '{}'));
    INSERT INTO crm.connection_state (connection_id) VALUES (id);
    PERFORM crm.notify_worker(false);
    RETURN id;
END $$;
COMMENT ON FUNCTION crm.do_create_connection(bytea, text, text, text, jsonb, jsonb) IS 'what crm.create_connection() does for the role that crm.caller() names';

CREATE FUNCTION crm.create_connection(name text, provider text, base_url text DEFAULT NULL,
                                      options jsonb DEFAULT '{}', credentials jsonb DEFAULT '{}') RETURNS int
LANGUAGE sql VOLATILE AS $$
    SELECT crm.do_create_connection(crm.caller(), name, provider, base_url, options, credentials)
$$;
COMMENT ON FUNCTION crm.create_connection(text, text, text, jsonb, jsonb) IS
    'names a CRM org. provider: stub, salesforce, hubspot, pipedrive, zoho or dynamics365. options: max_in_flight (1..64), rate_limit, realtime_reserve, '
    'via ("composio") with connected_account_id and user_id, and the provider''s own. '
    'credentials: strings, or references that the worker resolves, {"file": "/run/secrets/x"} or {"env": "NAME"}. Returns connection_id';

CREATE FUNCTION crm.do_set_credentials(caller bytea, connection text, credentials jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    who CONSTANT oid := crm.verified(caller);
    c crm.connection := crm.connection_named(connection);
BEGIN
    PERFORM crm.check_credentials(c.provider, c.options, coalesce(credentials, '{}'));
    PERFORM crm.require_references(who, coalesce(credentials, '{}'));
    -- Whoever settles what came of the old ones sees that somebody is at it.
    PERFORM FROM crm.connection k WHERE k.connection_id = c.connection_id FOR NO KEY UPDATE;
    INSERT INTO crm.credential (connection_id, secret) VALUES (c.connection_id, coalesce(credentials, '{}'))
    ON CONFLICT (connection_id) DO UPDATE SET secret = excluded.secret, version = credential.version + 1, updated_at = now();
    INSERT INTO crm.connection_state (connection_id) VALUES (c.connection_id)
    ON CONFLICT (connection_id) DO UPDATE
    SET state = 'ok', failures = 0, blocked_until = '-infinity', error_class = NULL, last_error = NULL, changed_at = now();
    PERFORM crm.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm.do_set_credentials(bytea, text, jsonb) IS 'what crm.set_credentials() does for the role that crm.caller() names';

CREATE FUNCTION crm.set_credentials(connection text, credentials jsonb) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT crm.do_set_credentials(crm.caller(), connection, credentials)
$$;
COMMENT ON FUNCTION crm.set_credentials(text, jsonb) IS
    'replaces a connection''s credentials and revives it from state error; its waiting work goes on';

CREATE FUNCTION crm.pause(connection text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c crm.connection := crm.connection_named(connection);
BEGIN
    PERFORM crm.refuse_restricted();
    UPDATE crm.connection k SET paused = true WHERE k.connection_id = c.connection_id;
    PERFORM crm.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm.pause(text) IS 'stops sending over a connection; edits go on being captured and wait';

CREATE FUNCTION crm.resume(connection text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c crm.connection := crm.connection_named(connection);
BEGIN
    PERFORM crm.refuse_restricted();
    UPDATE crm.connection k SET paused = false WHERE k.connection_id = c.connection_id;
    UPDATE crm.connection_state s SET blocked_until = '-infinity', failures = 0, told_at = NULL
    WHERE s.connection_id = c.connection_id AND s.state = 'ok';
    PERFORM crm.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm.resume(text) IS 'ends crm.pause(), and the wait of a connection that an outage, a rate limit or a spent budget holds up';

CREATE FUNCTION crm.drop_connection(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c crm.connection := crm.connection_named(name);
BEGIN
    PERFORM crm.refuse_restricted();
    IF EXISTS (SELECT FROM crm.object_map o WHERE o.connection_id = c.connection_id) THEN
        RAISE dependent_objects_still_exist USING
            MESSAGE = format('connection "%s" still has mapped tables', name),
            DETAIL = (SELECT string_agg(format('map %s: %s', o.map_id, o.relation), E'\n' ORDER BY o.map_id)
                      FROM crm.object_map o WHERE o.connection_id = c.connection_id),
            HINT = 'crm.unmap_object() them first.';
    END IF;
    DELETE FROM crm.connection k WHERE k.connection_id = c.connection_id;
    PERFORM crm.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm.drop_connection(text) IS 'removes a connection and its credentials; refused while tables are mapped over it';

CREATE FUNCTION crm.do_map_object(caller bytea, connection text, relation regclass, crm_object text, key_column name,
                        shard_column name, external_id_field text, on_insert text, on_delete text, on_crm_insert text,
                        on_crm_delete text, conflict_scope text, write_interval interval, ingest_interval interval, capture text) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm.verified(caller);
    c crm.connection := crm.connection_named(connection);
    kind "char";
    primary_key name[];
    key_type oid;
    shard_type oid;
    shard_is_set bool;
    lax name;
    other regclass;
    same text;
    id int;
BEGIN
    PERFORM crm.check_word('on_insert', on_insert, '{ignore,create}');
    PERFORM crm.check_word('on_delete', on_delete, '{ignore,unlink,delete}');
    PERFORM crm.check_word('on_crm_insert', on_crm_insert, '{ignore,insert}');
    PERFORM crm.check_word('on_crm_delete', on_crm_delete, '{ignore,unlink,delete}');
    PERFORM crm.check_word('conflict_scope', conflict_scope, '{record,fields}');
    PERFORM crm.check_interval('write_interval', write_interval);
    PERFORM crm.check_interval('ingest_interval', ingest_interval);
    PERFORM crm.check_word('capture', capture, '{origin,always}');
    IF coalesce(crm_object, '') = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'crm_object must name the CRM''s object', HINT = 'For example Contact (Salesforce) or contacts (HubSpot).';
    END IF;
    SELECT relkind INTO kind FROM pg_class WHERE oid = relation;
    IF kind IS NULL OR kind NOT IN ('r', 'p') THEN
        RAISE wrong_object_type USING MESSAGE = format('"%s" is not a table', relation), HINT = 'Only tables and partitioned tables can be mapped.';
    END IF;
    IF (SELECT n.nspname FROM pg_class k JOIN pg_namespace n ON n.oid = k.relnamespace WHERE k.oid = relation)
       IN ('crm', 'crm_stub', 'pg_catalog', 'information_schema', 'pg_toast') THEN
        RAISE wrong_object_type USING MESSAGE = format('"%s" belongs to the system', relation), HINT = 'Map a table of your own.';
    END IF;
    IF kind = 'r' AND EXISTS (SELECT FROM pg_class WHERE oid = relation AND relispartition) THEN
        RAISE wrong_object_type USING MESSAGE = format('"%s" is a partition', relation), HINT = 'Map the partitioned table that it belongs to.';
    END IF;
    IF (SELECT relpersistence FROM pg_class WHERE oid = relation) = 't' THEN
        RAISE wrong_object_type USING MESSAGE = format('"%s" is a temporary table', relation), HINT = 'Only this session sees it; the worker could not.';
    END IF;
    IF crm.is_of_citus(relation) THEN
        RAISE feature_not_supported USING
            MESSAGE = format('"%s" is a table of Citus', relation),
            DETAIL = 'Its rows lie in shards: triggers on the table itself hear of no edit, so every one would be lost.',
            HINT = 'Distributed and reference tables are not supported yet; undistribute_table() makes one local, and local tables can be mapped.';
    END IF;
    -- Of a partitioned table the rows' own.
    IF EXISTS (SELECT FROM pg_class k WHERE k.relpersistence = 'u'
               AND (k.oid = relation OR k.oid IN (SELECT t.relid FROM pg_partition_tree(relation) t))) THEN
        RAISE wrong_object_type USING
            MESSAGE = format('"%s" is unlogged', relation),
            DETAIL = 'A crash of the server empties it, and neither the links nor the CRM would hear of that.',
            HINT = format('ALTER TABLE %s SET LOGGED.', relation);
    END IF;
    IF kind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = relation) THEN
        RAISE wrong_object_type USING
            MESSAGE = format('tables inherit from "%s"', relation),
            DETAIL = 'A statement on one of them alone would escape validation and change capture.',
            HINT = 'Map those tables, or make it a partitioned table.';
    END IF;
    PERFORM crm.require_owner(who, relation);
    PERFORM crm.check_capture(relation, capture);
    IF on_insert = 'create' AND external_id_field IS NULL THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'on_insert => ''create'' needs an external_id_field',
            DETAIL = 'A created record is upserted by a CRM field that holds our key, so that a repeated creation cannot make a twin.',
            HINT = 'Name a unique field of the CRM object, such as External_Key__c, in external_id_field.';
    END IF;

    SELECT array_agg(a.attname ORDER BY k.i) INTO primary_key
    FROM pg_index x, unnest(x.indkey) WITH ORDINALITY AS k (attnum, i), pg_attribute a
    WHERE x.indrelid = relation AND x.indisprimary AND a.attrelid = relation AND a.attnum = k.attnum
      AND a.attname IS DISTINCT FROM shard_column;
    IF key_column IS NULL THEN
        IF primary_key IS NULL OR cardinality(primary_key) <> 1 THEN
            RAISE invalid_parameter_value USING
                MESSAGE = format('cannot tell the key column of "%s"', relation),
                DETAIL = CASE WHEN primary_key IS NULL THEN 'It has no primary key.'
                              ELSE format('Its primary key has several columns: %s.', array_to_string(primary_key, ', ')) END,
                HINT = 'Name a unique column in key_column (and the distribution column in shard_column).';
        END IF;
        key_column := primary_key[1];
    END IF;
    SELECT crm.base_type(a.atttypid) INTO key_type FROM pg_attribute a
    WHERE a.attrelid = relation AND a.attname = key_column AND a.attnum > 0 AND NOT a.attisdropped;
    IF key_type IS NULL THEN
        RAISE undefined_column USING MESSAGE = format('column "%s" of "%s" does not exist', key_column, relation), HINT = 'key_column names the column that identifies a row.';
    END IF;
    IF NOT crm.is_key_type(key_type) THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" of type %s cannot be a key', key_column, format_type(key_type, NULL)),
            HINT = 'A key is an integer, a numeric, a uuid or a text.';
    END IF;
    IF NOT (SELECT attnotnull FROM pg_attribute WHERE attrelid = relation AND attname = key_column) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('column "%s" of "%s" may be null', key_column, relation),
            HINT = format('A key identifies every row: ALTER TABLE %s ALTER %I SET NOT NULL.', relation, key_column);
    END IF;
    IF shard_column IS NOT NULL THEN
        SELECT a.atttypid, a.attnotnull INTO shard_type, shard_is_set FROM pg_attribute a
        WHERE a.attrelid = relation AND a.attname = shard_column AND a.attnum > 0 AND NOT a.attisdropped;
        IF NOT FOUND THEN
            RAISE undefined_column USING MESSAGE = format('column "%s" of "%s" does not exist', shard_column, relation), HINT = 'shard_column names the distribution column.';
        END IF;
        IF NOT crm.is_shard_type(shard_type) THEN
            RAISE datatype_mismatch USING
                MESSAGE = format('column "%s" of type %s cannot be a shard_column', shard_column, format_type(shard_type, NULL)),
                DETAIL = 'Its text is the shard_key, and equal values of that type can be spelt in several ways.',
                HINT = 'A shard_column is a number, a text, a uuid, an enum, a boolean, a date or a timestamp.';
        END IF;
    END IF;
    SELECT u.name INTO lax FROM unnest(ARRAY[key_column, shard_column]) AS u (name) WHERE crm.is_lax(relation, u.name) LIMIT 1;
    IF FOUND THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('column "%s" of "%s" has a nondeterministic collation and cannot be a key', lax, relation),
            DETAIL = 'Keys that the collation calls equal are different texts, and the CRM would get a record for each.',
            HINT = format('Give the column a deterministic collation: ALTER TABLE %s ALTER %I TYPE %s COLLATE "C".', relation, lax,
                          (SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = lax));
    END IF;
    IF NOT crm.is_key(relation, key_column, shard_column) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('column "%s" of "%s" is not unique', key_column, relation),
            HINT = 'A key needs a unique index or a primary key on it (together with shard_column if there is one).';
    END IF;
    -- Of rows without a shard, a unique index that has it among its columns says nothing.
    IF shard_column IS NOT NULL AND NOT shard_is_set AND NOT crm.is_unique(relation, key_column) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('column "%s" of "%s" may be null', shard_column, relation),
            DETAIL = format('Column "%s" is unique only together with it.', key_column),
            HINT = format('ALTER TABLE %s ALTER %I SET NOT NULL.', relation, shard_column);
    END IF;
    -- The external id is the record_key alone, so two shards' rows of one key would be one CRM record.
    IF external_id_field IS NOT NULL AND shard_column IS NOT NULL AND key_type <> 'uuid'::regtype
       AND NOT crm.is_unique(relation, key_column) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('column "%s" of "%s" is unique only together with "%s"', key_column, relation, shard_column),
            DETAIL = 'external_id_field holds the record_key alone, so rows of different shards could become one CRM record.',
            HINT = 'Use a key that is unique by itself (a uuid, for example), or no external_id_field.';
    END IF;
    -- One at a time, so that each sees the other.
    PERFORM FROM crm.connection k WHERE k.connection_id = c.connection_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        c := crm.connection_named(connection); -- dropped meanwhile
    END IF;
    SELECT o.crm_object INTO same FROM crm.object_map o
    WHERE o.connection_id = c.connection_id AND o.relation = do_map_object.relation AND lower(o.crm_object) = lower(do_map_object.crm_object);
    IF FOUND THEN
        RAISE duplicate_object USING
            MESSAGE = format('"%s" is mapped to %s on connection "%s" already', relation, same, connection),
            HINT = 'crm.map_field() adds columns to it; crm.unmap_object() removes it.';
    END IF;

    -- A key of two tables would be one CRM record's: the rows of one would overwrite and delete the other's.
    SELECT o.relation::regclass INTO other FROM crm.object_map o
    WHERE o.connection_id = c.connection_id AND lower(o.crm_object) = lower(do_map_object.crm_object)
      AND lower(o.external_id_field) = lower(do_map_object.external_id_field);
    IF FOUND THEN
        RAISE duplicate_object USING
            MESSAGE = format('field "%s" of %s holds the keys of another table already', external_id_field, crm_object),
            DETAIL = format('"%s" is mapped to %s on connection "%s" with this external_id_field.', other, crm_object, connection),
            HINT = 'Each table that is mapped to one CRM object needs an external_id_field of its own; it says whose a record is.';
    END IF;

    INSERT INTO crm.object_map (connection_id, relation, crm_object, key_column, shard_column, external_id_field,
                                on_insert, on_delete, on_crm_insert, on_crm_delete, conflict_scope, write_interval, ingest_interval, capture)
    VALUES (c.connection_id, relation, crm_object, key_column, shard_column, external_id_field,
            on_insert, on_delete, on_crm_insert, on_crm_delete, conflict_scope, write_interval, ingest_interval, capture)
    RETURNING object_map.map_id INTO id;
    PERFORM crm.bind_map(id);
    PERFORM crm.install_capture(id);
    PERFORM crm.notify_worker(false);
    RETURN id;
END $$;
COMMENT ON FUNCTION crm.do_map_object(bytea, text, regclass, text, name, name, text, text, text, text, text, text, interval, interval, text) IS 'what crm.map_object() does for the role that crm.caller() names';

CREATE FUNCTION crm.map_object(connection text, relation regclass, crm_object text,
                               key_column name DEFAULT NULL, shard_column name DEFAULT NULL,
                               external_id_field text DEFAULT NULL,
                               on_insert text DEFAULT 'ignore', on_delete text DEFAULT 'ignore',
                               on_crm_insert text DEFAULT 'ignore', on_crm_delete text DEFAULT 'unlink',
                               conflict_scope text DEFAULT 'record',
                               write_interval interval DEFAULT '15 minutes',
                               ingest_interval interval DEFAULT '1 minute',
                               capture text DEFAULT 'origin') RETURNS int
LANGUAGE sql VOLATILE AS $$
    SELECT crm.do_map_object(crm.caller(), connection, relation, crm_object, key_column, shard_column,
                             external_id_field, on_insert, on_delete, on_crm_insert, on_crm_delete, conflict_scope,
                             write_interval, ingest_interval, capture)
$$;
COMMENT ON FUNCTION crm.map_object(text, regclass, text, name, name, text, text, text, text, text, text, interval, interval, text) IS
    'maps a table to a CRM object; the caller must own the table. on_insert: ignore | create (upsert by external_id_field). '
    'on_delete: ignore | unlink | delete (what a deleted row does to the CRM). on_crm_insert: ignore | insert (a CRM record without a row gets one). '
    'on_crm_delete: ignore | unlink | delete (what a deleted CRM record does to its row). write_interval, ingest_interval: 1 minute .. 24 hours; '
    'the first look for changes comes an ingest_interval later, or with crm.backfill() or crm.ingest_now(). '
    'capture: origin | always (see crm.set_capture()). Returns map_id, for crm.map_field()';

-- Attaching a partition clones row-level triggers as the role that attaches it, which may not execute their function.
CREATE FUNCTION crm.check_capture(relation regclass, capture text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF capture = 'always' AND (SELECT c.relkind FROM pg_class c WHERE c.oid = relation) = 'p' THEN
        RAISE feature_not_supported USING
            MESSAGE = format('capture => ''always'' is not supported for the partitioned table %s', relation),
            HINT = 'Replicate into a table that is not partitioned, or call crm.recapture() to find what replication changed.';
    END IF;
END $$;
COMMENT ON FUNCTION crm.check_capture(regclass, text) IS 'raises an error if replicated rows of a table cannot be captured';

CREATE FUNCTION crm.do_set_capture(caller bytea, map_id int, capture text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm.verified(caller);
    m crm.object_map := crm.map_of(map_id);
BEGIN
    PERFORM crm.require_owner(who, m.relation);
    PERFORM crm.check_word('capture', capture, '{origin,always}');
    PERFORM crm.check_capture(m.relation, capture);
    UPDATE crm.object_map o SET capture = do_set_capture.capture WHERE o.map_id = m.map_id;
    PERFORM crm.install_capture(m.map_id);
    PERFORM crm.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm.do_set_capture(bytea, int, text) IS 'what crm.set_capture() does for the role that crm.caller() names';

CREATE FUNCTION crm.set_capture(map_id int, capture text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT crm.do_set_capture(crm.caller(), map_id, capture)
$$;
COMMENT ON FUNCTION crm.set_capture(int, text) IS
    'sets which edits of a mapped table are captured; the caller must own the table. origin: those of ordinary sessions; always: also rows that a '
    'subscription applies (the rules of the mapping do not apply to them) and edits under session_replication_role = replica';

CREATE FUNCTION crm.check_word(argument text, word text, known text[]) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF word IS NULL OR word <> ALL (known) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('%s cannot be "%s"', argument, coalesce(word, 'NULL')),
            HINT = format('Known words: %s.', array_to_string(known, ', '));
    END IF;
END $$;
COMMENT ON FUNCTION crm.check_word(text, text, text[]) IS 'raises unless the word is known, and lists the known ones';

CREATE FUNCTION crm.check_interval(argument text, value interval) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF value IS NULL OR value < interval '1 minute' OR value > interval '24 hours' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('%s cannot be %s', argument, coalesce(value::text, 'NULL')),
            HINT = 'It lies between 1 minute and 24 hours; crm.flush() runs a write-back at once.';
    END IF;
END $$;
COMMENT ON FUNCTION crm.check_interval(text, interval) IS 'raises unless the interval lies between 1 minute and 24 hours';

CREATE FUNCTION crm.default_data_type(type_id oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN e.typcategory = 'A' AND el.typcategory IN ('S', 'E') THEN 'multi_choice'
        WHEN e.oid IN ('json'::regtype, 'jsonb'::regtype) OR e.typcategory = 'C' THEN 'json'
        WHEN e.typcategory = 'N' AND e.oid <> ALL ('{money,oid,regclass,regproc,regtype}'::regtype[]) THEN 'number'
        WHEN e.typcategory = 'B' THEN 'boolean'
        WHEN e.oid = 'date'::regtype THEN 'date'
        WHEN e.oid IN ('timestamptz'::regtype, 'timestamp'::regtype) THEN 'timestamp'
        WHEN e.typcategory = 'E' THEN 'choice'
        WHEN e.typcategory = 'S' OR e.oid = 'uuid'::regtype THEN 'text'
        END
    FROM pg_type t JOIN pg_type e ON e.oid = crm.base_type(t.oid)
         LEFT JOIN pg_type el ON el.oid = e.typelem
    WHERE t.oid = type_id
$$;
COMMENT ON FUNCTION crm.default_data_type(oid) IS 'the data_type that a column''s type suggests; NULL: none';

CREATE FUNCTION crm.type_fits(type_id oid, data_type text) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (data_type = suggested OR data_type = 'text'
            OR (suggested = 'text' AND data_type IN ('choice', 'multi_choice', 'reference'))
            OR (suggested = 'choice' AND data_type = 'reference')
            OR (suggested = 'timestamp' AND data_type = 'date') OR (suggested = 'date' AND data_type = 'timestamp')
            OR (suggested = 'multi_choice' AND data_type = 'json')) IS TRUE
    FROM crm.default_data_type(type_id) AS suggested
$$;
COMMENT ON FUNCTION crm.type_fits(oid, text) IS 'whether columns of a type can be that data_type without a transform';

CREATE FUNCTION crm.check_transform(argument text, f regprocedure, relation regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    function_owner oid;
    table_owner CONSTANT oid := (SELECT c.relowner FROM pg_class c WHERE c.oid = relation);
BEGIN
    IF f IS NULL THEN
        RETURN;
    END IF;
    SELECT p.proowner INTO function_owner FROM pg_proc p
    WHERE p.oid = f AND p.prorettype = 'jsonb'::regtype AND NOT p.proretset AND p.prokind = 'f'
      AND p.pronargs = 1 AND p.proargtypes[0] = 'jsonb'::regtype;
    IF NOT FOUND THEN
        RAISE invalid_function_definition USING
            MESSAGE = format('%s %s is not a function f(jsonb) that returns jsonb', argument, f),
            HINT = 'It gets the column as to_jsonb() gives it, and returns the value for the CRM.';
    END IF;
    IF NOT pg_has_role(function_owner, table_owner, 'MEMBER') THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('%s %s is somebody else''s', argument, f),
            DETAIL = format('It would run with the rights of "%s", who owns table "%s", and "%s", who may change it, does not have those.',
                            pg_get_userbyid(table_owner), relation, pg_get_userbyid(function_owner)),
            HINT = format('ALTER FUNCTION %s OWNER TO %I, or let the table''s owner write one that calls it.', f, pg_get_userbyid(table_owner));
    END IF;
END $$;
COMMENT ON FUNCTION crm.check_transform(text, regprocedure, regclass) IS
    'raises unless the function takes and returns one jsonb, and belongs to somebody who could act as the table''s owner anyway';

-- What is on its way was read by the mapping of before. As after an edit in the meantime, all its cells go once more.
CREATE FUNCTION crm.send_again(map_id int) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    UPDATE crm.queue q
    SET revision = nextval('crm.queue_revision_seq'),
        -- A record that is just being created has taken every field but those mapped since.
        cells = CASE WHEN q.op = 'c' THEN coalesce(crm.map_cells(q.map_id), q.cells) ELSE q.cells END
    FROM crm.claim k, unnest(k.shard_keys, k.record_keys) AS r (shard_key, record_key)
    WHERE k.map_id = send_again.map_id AND k.path = 'batch' AND q.shard_key = r.shard_key AND q.map_id = k.map_id
      AND q.record_key = r.record_key AND q.state = 'queued' AND q.op <> 'd';
    UPDATE crm.pending_write p SET revision = p.revision + 1
    FROM crm.claim k, unnest(k.shard_keys, k.record_keys) AS r (shard_key, record_key)
    WHERE k.map_id = send_again.map_id AND k.path = 'reconcile' AND p.shard_key = r.shard_key AND p.map_id = k.map_id
      AND p.record_key = r.record_key AND p.state = 'queued';
$$;
COMMENT ON FUNCTION crm.send_again(int) IS 'has the records of a map that are on their way sent once more, by the mapping as it is now';

CREATE FUNCTION crm.do_map_field(caller bytea, map_id int, column_name name, crm_field text, direction text,
                        data_type text, validation jsonb, on_conflict text, transform_out regprocedure,
                        transform_in regprocedure, materialize bool) RETURNS smallint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm.verified(caller);
    m crm.object_map := crm.map_of(map_id);
    type_id oid;
    suggested text;
    other name;
    stated crm.field_map;
    id smallint;
BEGIN
    PERFORM crm.require_owner(who, m.relation);
    PERFORM crm.check_word('direction', direction, '{outbound,bidirectional,inbound}');
    PERFORM crm.check_word('on_conflict', on_conflict,
        '{crm_wins,local_wins,merge_with_audit,manual_review,immutable_after_bind,last_writer_wins}');
    IF coalesce(crm_field, '') = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'crm_field must name a field of the CRM object',
            HINT = 'It is the API name, such as Title (Salesforce) or jobtitle (HubSpot).';
    END IF;
    SELECT a.atttypid INTO type_id FROM pg_attribute a
    WHERE a.attrelid = m.relation AND a.attname = do_map_field.column_name AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        RAISE undefined_column USING
            MESSAGE = format('column "%s" of "%s" does not exist', column_name, m.relation),
            DETAIL = 'Columns: ' || (SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
                                     WHERE attrelid = m.relation AND attnum > 0 AND NOT attisdropped) || '.',
            HINT = 'Map one of its columns.';
    END IF;
    IF column_name = m.key_column AND direction <> 'outbound' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('the key column "%s" can only be mapped outbound', column_name),
            HINT = 'The key identifies the row; it never changes. external_id_field writes it into the CRM.';
    END IF;
    IF direction <> 'outbound' AND crm.is_computed(m.relation, column_name) THEN
        RAISE invalid_parameter_value USING MESSAGE = format('the generated column "%s" can only be mapped outbound', column_name),
            DETAIL = 'Nobody can set it, so it takes nothing from the CRM.',
            HINT = 'Say direction => ''outbound'', or map the columns that it is made of.';
    END IF;
    suggested := crm.default_data_type(type_id);
    IF data_type IS NULL AND suggested IS NULL THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" has type %s, which suggests no data_type', column_name, format_type(type_id, NULL)),
            HINT = 'Give data_type and a transform_out that turns the column into it.';
    END IF;
    data_type := coalesce(data_type, suggested);
    PERFORM crm.check_word('data_type', data_type, '{text,number,boolean,date,timestamp,choice,multi_choice,reference,json}');
    IF transform_out IS NULL AND NOT crm.type_fits(type_id, data_type) THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" of type %s cannot be a %s', column_name, format_type(type_id, NULL), data_type),
            HINT = format('Use data_type => ''%s'', or give a transform_out.', coalesce(suggested, 'text'));
    END IF;
    PERFORM crm.check_transform('transform_out', transform_out, m.relation);
    PERFORM crm.check_transform('transform_in', transform_in, m.relation);
    PERFORM crm.check_rules(coalesce(validation, '{}'), data_type);
    IF data_type IN ('number', 'date', 'timestamp') AND validation ?| '{min,max,choices}' AND NOT crm.type_fits(type_id, data_type) THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" of type %s cannot be compared as a %s', column_name, format_type(type_id, NULL), data_type),
            DETAIL = 'Rules judge the column, before its transform_out.',
            HINT = 'Leave out min, max and choices, and let a CHECK constraint of the table or the transform refuse bad values.';
    END IF;
    BEGIN
        PERFORM '' ~ (validation ->> 'pattern');
    EXCEPTION WHEN invalid_regular_expression THEN
        RAISE invalid_parameter_value USING MESSAGE = format('pattern is not a regular expression: %s', sqlerrm),
            HINT = 'Patterns are POSIX regular expressions, as the operator ~ takes them.';
    END;
    stated := (m.map_id, 0, column_name, crm_field, direction, data_type, coalesce(validation, '{}'), on_conflict,
               transform_out, transform_in, materialize, NULL);
    stated.described := crm.require_fit(m, stated);
    -- The worker holds it while it claims records, so it is not held while the CRM is asked.
    PERFORM FROM crm.object_map o WHERE o.map_id = m.map_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        m := crm.map_of(map_id); -- unmapped meanwhile
    END IF;
    IF crm_field = m.external_id_field AND column_name <> m.key_column THEN
        RAISE duplicate_object USING MESSAGE = format('CRM field "%s" is written with the record''s key already', crm_field),
            HINT = 'It is the map''s external_id_field.';
    END IF;
    SELECT f.column_name INTO other FROM crm.field_map f
    WHERE f.map_id = m.map_id AND f.crm_field = do_map_field.crm_field AND f.column_name <> do_map_field.column_name;
    IF FOUND THEN
        RAISE duplicate_object USING MESSAGE = format('CRM field "%s" is mapped to column "%s" already', crm_field, other),
            HINT = 'Two columns cannot write one CRM field; crm.unmap_field() the other first.';
    END IF;
    SELECT f.map_id INTO id FROM crm.field_map f JOIN crm.object_map o USING (map_id)
    WHERE o.connection_id = m.connection_id AND o.relation = m.relation AND o.crm_object = m.crm_object AND o.map_id <> m.map_id
      AND f.crm_field = do_map_field.crm_field;
    IF FOUND THEN
        RAISE duplicate_object USING MESSAGE = format('CRM field "%s" is mapped by map %s already', crm_field, id);
    END IF;

    SELECT f.field_id INTO id FROM crm.field_map f WHERE f.map_id = m.map_id AND f.column_name = do_map_field.column_name;
    IF direction <> 'outbound' AND NOT EXISTS (
        SELECT FROM crm.field_map f WHERE f.map_id = m.map_id AND f.column_name = do_map_field.column_name
          AND (f.crm_field, f.direction, f.data_type, f.transform_in) IS NOT DISTINCT FROM
              (do_map_field.crm_field, do_map_field.direction, do_map_field.data_type, do_map_field.transform_in)) THEN
        -- What the CRM holds in it is not known yet: every record is looked at again.
        UPDATE crm.ingest_state s SET cursor = NULL WHERE s.map_id = m.map_id;
    END IF;
    -- What is known of another field says nothing of this one.
    UPDATE crm.ledger l SET hashes = crm.cells_hash(l.hashes, crm.cell_mask(id), decode(repeat('00', 16), 'hex'))
    WHERE l.map_id = m.map_id AND id IS NOT NULL AND EXISTS (
        SELECT FROM crm.field_map f WHERE f.map_id = m.map_id AND f.field_id = id AND f.crm_field <> do_map_field.crm_field);
    IF id IS NULL THEN
        UPDATE crm.object_map o SET next_field_id = next_field_id + 1 WHERE o.map_id = m.map_id RETURNING next_field_id - 1 INTO id;
    END IF;
    INSERT INTO crm.field_map AS f (map_id, field_id, column_name, crm_field, direction, data_type, validation, on_conflict,
                                    transform_out, transform_in, materialize, described)
    VALUES (m.map_id, id, column_name, crm_field, direction, data_type, coalesce(validation, '{}'), on_conflict,
            transform_out, transform_in, materialize, stated.described)
    ON CONFLICT ON CONSTRAINT field_map_pkey DO UPDATE
    SET crm_field = excluded.crm_field, direction = excluded.direction, data_type = excluded.data_type,
        validation = excluded.validation, on_conflict = excluded.on_conflict, transform_out = excluded.transform_out,
        transform_in = excluded.transform_in, materialize = excluded.materialize,
        -- Where the CRM was not asked, what it said of the same field before.
        described = CASE WHEN f.crm_field = excluded.crm_field THEN coalesce(excluded.described, f.described) ELSE excluded.described END;
    -- Whoever maps its fields says that its rows have their keys still.
    UPDATE crm.object_map o SET keys_changed = NULL WHERE o.map_id = m.map_id AND o.keys_changed IS NOT NULL;
    PERFORM crm.bind_map(m.map_id);
    PERFORM crm.install_capture(m.map_id);
    PERFORM crm.send_again(m.map_id);
    PERFORM crm.notify_worker(false);
    RETURN id;
END $$;
COMMENT ON FUNCTION crm.do_map_field(bytea, int, name, text, text, text, jsonb, text, regprocedure, regprocedure, bool) IS 'what crm.map_field() does for the role that crm.caller() names';

CREATE FUNCTION crm.map_field(map_id int, column_name name, crm_field text, direction text DEFAULT 'bidirectional',
                              data_type text DEFAULT NULL, validation jsonb DEFAULT '{}', on_conflict text DEFAULT 'crm_wins',
                              transform_out regprocedure DEFAULT NULL, transform_in regprocedure DEFAULT NULL,
                              materialize bool DEFAULT true) RETURNS smallint
LANGUAGE sql VOLATILE AS $$
    SELECT crm.do_map_field(crm.caller(), map_id, column_name, crm_field, direction, data_type, validation,
                            on_conflict, transform_out, transform_in, materialize)
$$;
COMMENT ON FUNCTION crm.map_field(int, name, text, text, text, jsonb, text, regprocedure, regprocedure, bool) IS
    'maps a column to a CRM field; again for the same column: changes the mapping. direction: outbound | bidirectional | inbound. '
    'validation: {"min", "max", "max_length", "nullable", "pattern", "choices"}. If the CRM answers, the field must be there, and take what '
    'is to be written (pg_crm.check_fields). Returns field_id';

CREATE FUNCTION crm.do_unmap_field(caller bytea, map_id int, column_name name) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm.verified(caller);
    m crm.object_map := crm.map_of(map_id);
BEGIN
    IF EXISTS (SELECT FROM pg_class WHERE oid = m.relation) THEN
        PERFORM crm.require_owner(who, m.relation);
    END IF;
    PERFORM FROM crm.object_map o WHERE o.map_id = m.map_id FOR NO KEY UPDATE;
    DELETE FROM crm.field_map f WHERE f.map_id = m.map_id AND f.column_name = do_unmap_field.column_name;
    IF NOT FOUND THEN
        RAISE undefined_object USING
            MESSAGE = format('column "%s" is not mapped by map %s', column_name, map_id),
            DETAIL = coalesce('Mapped: ' || (SELECT string_agg(f.column_name, ', ' ORDER BY f.field_id) FROM crm.field_map f
                                             WHERE f.map_id = m.map_id) || '.', 'No column is.'),
            HINT = 'crm.field_map shows what is mapped.';
    END IF;
    PERFORM crm.bind_map(m.map_id);
    PERFORM crm.install_capture(m.map_id);
    PERFORM crm.send_again(m.map_id);
    PERFORM crm.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm.do_unmap_field(bytea, int, name) IS 'what crm.unmap_field() does for the role that crm.caller() names';

CREATE FUNCTION crm.unmap_field(map_id int, column_name name) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT crm.do_unmap_field(crm.caller(), map_id, column_name)
$$;
COMMENT ON FUNCTION crm.unmap_field(int, name) IS 'removes a column from a map; what it still had to write is dropped';

CREATE FUNCTION crm.do_unmap_object(caller bytea, map_id int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm.verified(caller);
    m crm.object_map := crm.map_of(map_id);
BEGIN
    IF EXISTS (SELECT FROM pg_class WHERE oid = m.relation) THEN
        PERFORM crm.require_owner(who, m.relation);
    END IF;
    PERFORM crm.remove_capture(m.map_id);
    DELETE FROM crm.change x WHERE x.map_id = m.map_id;
    DELETE FROM crm.claim x WHERE x.map_id = m.map_id;
    DELETE FROM crm.dead_letter x WHERE x.map_id = m.map_id;
    DELETE FROM crm.pending_write x WHERE x.map_id = m.map_id;
    DELETE FROM crm.conflict x WHERE x.map_id = m.map_id;
    DELETE FROM crm.reread x WHERE x.map_id = m.map_id;
    DELETE FROM crm.written_over x WHERE x.map_id = m.map_id;
    DELETE FROM crm.former_link x WHERE x.map_id = m.map_id;
    DELETE FROM crm.unborn x WHERE x.map_id = m.map_id;
    DELETE FROM crm.carried_key x WHERE x.map_id = m.map_id;
    -- First the rows by which the worker sees that somebody holds a record.
    DELETE FROM crm.ledger x WHERE x.map_id = m.map_id;
    DELETE FROM crm.queue x WHERE x.map_id = m.map_id;
    DELETE FROM crm.object_map x WHERE x.map_id = m.map_id;
    PERFORM crm.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm.do_unmap_object(bytea, int) IS 'what crm.unmap_object() does for the role that crm.caller() names';

CREATE FUNCTION crm.unmap_object(map_id int) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT crm.do_unmap_object(crm.caller(), map_id)
$$;
COMMENT ON FUNCTION crm.unmap_object(int) IS 'removes a map, its links and what waited; neither the table nor the CRM is touched, the audit stays';

CREATE FUNCTION crm.link_records(map_id int, shard_keys text[], record_keys text[], crm_ids text[]) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO crm.ledger AS l (shard_key, map_id, record_key, crm_id)
    SELECT k.shard_key, link_records.map_id, k.record_key, k.crm_id
    FROM unnest(shard_keys, record_keys, crm_ids) AS k (shard_key, record_key, crm_id)
    ON CONFLICT ON CONSTRAINT ledger_pkey DO UPDATE
    SET crm_id = excluded.crm_id, detached = false,
        hashes = CASE WHEN l.crm_id IS DISTINCT FROM excluded.crm_id THEN NULL ELSE l.hashes END;
    -- A delete that waited was for another record.
    DELETE FROM crm.queue q USING unnest(shard_keys, record_keys) AS k (shard_key, record_key)
    WHERE q.shard_key = k.shard_key AND q.map_id = link_records.map_id AND q.record_key = k.record_key AND q.state = 'unlinked' AND q.op = 'd';
    UPDATE crm.queue q
    SET op = CASE q.op WHEN 'c' THEN 'u' ELSE q.op END, revision = nextval('crm.queue_revision_seq'),
        state = CASE q.state WHEN 'unlinked' THEN 'queued' ELSE q.state END,
        next_attempt_at = CASE q.state WHEN 'unlinked' THEN '-infinity' ELSE q.next_attempt_at END
    FROM unnest(shard_keys, record_keys) AS k (shard_key, record_key)
    WHERE q.shard_key = k.shard_key AND q.map_id = link_records.map_id AND q.record_key = k.record_key;
    DELETE FROM crm.former_link f WHERE f.map_id = link_records.map_id AND f.crm_id = ANY (crm_ids);
    DELETE FROM crm.unborn u USING unnest(shard_keys, record_keys) AS k (shard_key, record_key)
    WHERE u.shard_key = k.shard_key AND u.map_id = link_records.map_id AND u.record_key = k.record_key;
    DELETE FROM crm.conflict c USING unnest(shard_keys, record_keys) AS k (shard_key, record_key)
    WHERE c.shard_key = k.shard_key AND c.map_id = link_records.map_id AND c.record_key = k.record_key AND c.field_id = -1;
$$;
COMMENT ON FUNCTION crm.link_records(int, text[], text[], text[]) IS 'joins records to CRM records; edits that waited for the link are queued';

CREATE FUNCTION crm.unlink_record(shard_key text, map_id int, record_key text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO crm.former_link (shard_key, map_id, crm_id, record_key, ended_by)
    SELECT l.shard_key, l.map_id, l.crm_id, l.record_key, 'crm_deleted' FROM crm.ledger l
    WHERE l.shard_key = unlink_record.shard_key AND l.map_id = unlink_record.map_id AND l.record_key = unlink_record.record_key
      AND l.crm_id IS NOT NULL
    ON CONFLICT (shard_key, map_id, crm_id) DO UPDATE SET ended_by = excluded.ended_by, ended_at = now();
    UPDATE crm.queue q SET state = 'unlinked', revision = nextval('crm.queue_revision_seq')
    WHERE q.shard_key = unlink_record.shard_key AND q.map_id = unlink_record.map_id AND q.record_key = unlink_record.record_key
      AND q.state = 'queued';
    UPDATE crm.ledger l SET crm_id = NULL, hashes = NULL, detached = true
    WHERE l.shard_key = unlink_record.shard_key AND l.map_id = unlink_record.map_id AND l.record_key = unlink_record.record_key;
    -- Another CRM record that claimed the row may have it now.
    INSERT INTO crm.reread AS r (map_id, crm_id)
    SELECT c.map_id, c.crm_value #>> '{}' FROM crm.conflict c
    WHERE c.shard_key = unlink_record.shard_key AND c.map_id = unlink_record.map_id AND c.record_key = unlink_record.record_key
      AND c.field_id = -1 AND c.crm_value #>> '{}' IS NOT NULL
    ON CONFLICT ON CONSTRAINT reread_pkey DO UPDATE SET revision = excluded.revision, due_at = now();
    DELETE FROM crm.conflict c
    WHERE c.shard_key = unlink_record.shard_key AND c.map_id = unlink_record.map_id AND c.record_key = unlink_record.record_key
      AND c.field_id = -1;
$$;
COMMENT ON FUNCTION crm.unlink_record(text, int, text) IS 'dissolves the link of a record whose CRM record is gone';

CREATE FUNCTION crm.linked_elsewhere(map_id int, crm_id text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('record "%s" of map %s', l.record_key, l.map_id)
    FROM crm.object_map m JOIN crm.object_map o ON o.connection_id = m.connection_id AND lower(o.crm_object) = lower(m.crm_object)
    JOIN crm.ledger l ON l.map_id = o.map_id AND l.crm_id = linked_elsewhere.crm_id
    WHERE m.map_id = linked_elsewhere.map_id AND o.map_id <> m.map_id
    LIMIT 1
$$;
COMMENT ON FUNCTION crm.linked_elsewhere(int, text) IS 'which record of another map of the same connection and CRM object a CRM record is linked to; NULL: none';

CREATE FUNCTION crm.do_link(caller bytea, map_id int, record_key text, crm_id text, shard_key text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm.verified(caller);
    m crm.object_map := crm.map_of(map_id);
    other text;
BEGIN
    PERFORM crm.require_owner(who, m.relation);
    IF coalesce(record_key, '') = '' OR coalesce(crm_id, '') = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a link needs a record_key and a crm_id', HINT = 'record_key is the text of the row''s key column.';
    END IF;
    SELECT crm.key_text(do_link.record_key, k.atttypid),
           coalesce(CASE WHEN s.attname IS NULL THEN do_link.shard_key ELSE crm.key_text(nullif(do_link.shard_key, ''), s.atttypid) END, '')
    INTO record_key, shard_key
    FROM pg_attribute k LEFT JOIN pg_attribute s ON s.attrelid = m.relation AND s.attname = m.shard_column
    WHERE k.attrelid = m.relation AND k.attname = m.key_column;
    SELECT crm.canonical_id(c.provider, do_link.crm_id) INTO crm_id FROM crm.connection c WHERE c.connection_id = m.connection_id;
    SELECT l.record_key INTO other FROM crm.ledger l
    WHERE l.map_id = m.map_id AND l.crm_id = do_link.crm_id AND l.record_key <> do_link.record_key;
    IF FOUND THEN
        RAISE unique_violation USING MESSAGE = format('CRM record "%s" is linked to record "%s" already', crm_id, other),
            HINT = 'A CRM record goes with one row.';
    END IF;
    -- One at a time over all maps of the object.
    PERFORM FROM crm.object_map o
    WHERE o.connection_id = m.connection_id AND lower(o.crm_object) = lower(m.crm_object) ORDER BY o.map_id FOR NO KEY UPDATE;
    other := crm.linked_elsewhere(m.map_id, crm_id);
    IF other IS NOT NULL THEN
        RAISE unique_violation USING MESSAGE = format('CRM record "%s" is linked to %s already', crm_id, other),
            DETAIL = 'Both maps write to one CRM object over one connection.',
            HINT = 'A CRM record goes with one row of one table.';
    END IF;
    PERFORM crm.link_records(m.map_id, ARRAY[shard_key], ARRAY[record_key], ARRAY[crm_id]);
    PERFORM crm.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm.do_link(bytea, int, text, text, text) IS 'what crm.link() does for the role that crm.caller() names';

CREATE FUNCTION crm.link(map_id int, record_key text, crm_id text, shard_key text DEFAULT '') RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT crm.do_link(crm.caller(), map_id, record_key, crm_id, shard_key)
$$;
COMMENT ON FUNCTION crm.link(int, text, text, text) IS 'states that a row and a CRM record are one; edits that waited for the link are queued';

CREATE FUNCTION crm.requeue(dead crm.dead_letter[]) RETURNS bigint
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
        -- A record that the CRM does not have yet takes every field, those mapped since then too.
        cells = CASE WHEN q.op = 'c' THEN coalesce(crm.map_cells(q.map_id), q.cells) ELSE q.cells END
    FROM unnest(dead) d
    WHERE d.path = 'batch' AND q.shard_key = d.shard_key AND q.map_id = d.map_id AND q.record_key = d.record_key AND q.state = 'dead';
    UPDATE crm.pending_write p
    SET state = 'queued', attempts = 0, next_attempt_at = now(), error_class = NULL, last_error = NULL, revision = p.revision + 1
    FROM unnest(dead) d
    WHERE d.path = 'reconcile' AND p.shard_key = d.shard_key AND p.map_id = d.map_id AND p.record_key = d.record_key AND p.state = 'dead';
    INSERT INTO crm.reread AS r (map_id, crm_id)
    SELECT DISTINCT d.map_id, d.crm_id FROM unnest(dead) d WHERE d.path = 'ingest'
    ON CONFLICT ON CONSTRAINT reread_pkey DO UPDATE SET revision = excluded.revision, attempts = 0, due_at = now();
    DELETE FROM crm.dead_letter x USING unnest(dead) d WHERE x.shard_key = d.shard_key AND x.dead_letter_id = d.dead_letter_id;
    GET DIAGNOSTICS n = ROW_COUNT;
    PERFORM crm.notify_worker(true);
    RETURN n;
END $$;
COMMENT ON FUNCTION crm.requeue(crm.dead_letter[]) IS 'queues dead records again, with fresh attempts; those that could not be taken in are read again';

CREATE FUNCTION crm.replay(dead_letter_id bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dead crm.dead_letter[];
BEGIN
    PERFORM crm.refuse_restricted();
    SELECT array_agg(d) INTO dead FROM crm.dead_letter d WHERE d.dead_letter_id = replay.dead_letter_id;
    IF dead IS NULL THEN
        RAISE undefined_object USING MESSAGE = format('dead letter %s does not exist', coalesce(dead_letter_id::text, 'NULL')),
            HINT = 'crm.dead_letters lists them; one is gone once it was replayed or its record was edited again.';
    END IF;
    RETURN crm.requeue(dead);
END $$;
COMMENT ON FUNCTION crm.replay(bigint) IS 'queues a dead letter''s record again with its row''s current values; returns 1';

CREATE FUNCTION crm.replay_all(connection text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c crm.connection;
    dead crm.dead_letter[];
BEGIN
    PERFORM crm.refuse_restricted();
    IF connection IS NOT NULL THEN
        c := crm.connection_named(connection);
    END IF;
    SELECT array_agg(d) INTO dead FROM crm.dead_letter d JOIN crm.object_map m USING (map_id)
    WHERE connection IS NULL OR m.connection_id = c.connection_id;
    -- The mapping may have been mended in the CRM, of which nobody hears here.
    UPDATE crm.map_state s SET state = CASE WHEN m.keys_changed IS NULL THEN 'idle' ELSE 'error' END, reason = m.keys_changed
    FROM crm.object_map m
    WHERE m.map_id = s.map_id AND (connection IS NULL OR m.connection_id = c.connection_id)
      AND s.state = 'error' AND s.reason LIKE '%; mend the mapping, then crm.replay_all()';
    RETURN crm.requeue(coalesce(dead, '{}'));
END $$;
COMMENT ON FUNCTION crm.replay_all(text) IS
    'queues every dead letter again, of one connection or of all, and revives maps that the CRM''s answers stopped; returns how many dead letters';

CREATE FUNCTION crm.recapture(map_id int, new_rows bool DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m crm.object_map := crm.map_of(map_id);
BEGIN
    PERFORM crm.refuse_restricted();
    PERFORM crm.request_recapture(m.map_id, 'crm.recapture()', coalesce(new_rows, false));
END $$;
COMMENT ON FUNCTION crm.recapture(int, bool) IS
    'compares every row of a map with the ledger in the background, and captures cells that changed without firing a trigger. '
    'new_rows: also captures rows without a ledger entry, as inserts, if the map has on_insert ''create''. '
    'Progress: crm.progress; crm.flush() waits for it';

-- Sessions keep what they read of the configuration: a change reaches them as one of a table does.
CREATE FUNCTION crm.tell_of_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM crm.invalidate(TG_RELID);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION crm.tell_of_change() IS 'trigger: every session forgets what it keeps of the configuration';
CREATE TRIGGER told AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON crm.connection FOR EACH STATEMENT EXECUTE FUNCTION crm.tell_of_change();
CREATE TRIGGER told AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON crm.object_map FOR EACH STATEMENT EXECUTE FUNCTION crm.tell_of_change();
CREATE TRIGGER told AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON crm.field_map FOR EACH STATEMENT EXECUTE FUNCTION crm.tell_of_change();
CREATE TRIGGER told AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON crm.bound_column FOR EACH STATEMENT EXECUTE FUNCTION crm.tell_of_change();
CREATE TRIGGER told AFTER INSERT OR UPDATE OF state OR DELETE OR TRUNCATE ON crm.map_state FOR EACH STATEMENT EXECUTE FUNCTION crm.tell_of_change();
