-- Tables mapped to CRM objects.

CREATE FUNCTION crm_internal.check_key_field(m crm.object_map, column_name name, crm_field text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF crm_field = m.external_id_field AND column_name <> m.key_column THEN
        RAISE duplicate_object USING
            MESSAGE = format('CRM field "%s" already holds the key of the record', crm_field),
            DETAIL = format('Column "%s" cannot be written to it as well.', column_name),
            HINT = 'It is the map''s external_id_field.';
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.check_key_field(crm.object_map, name, text) IS
    'raises duplicate_object (42710) if a column other than the key is mapped to the external_id_field';

-- All that crm.map_object() and crm.alter_map() require of a map. The caller has locked the connection, so that concurrent calls see
-- each other.
CREATE FUNCTION crm_internal.check_map(who oid, m crm.object_map) RETURNS crm.object_map
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    connection CONSTANT text := (SELECT c.name FROM crm.connection c WHERE c.connection_id = m.connection_id);
    kind "char";
    primary_key name[];
    key_type oid;
    shard_type oid;
    shard_is_set bool;
    lax name;
    other regclass;
    same text;
BEGIN
    PERFORM crm_internal.check_choice('on_insert', m.on_insert, '{ignore,create}');
    PERFORM crm_internal.check_choice('on_delete', m.on_delete, '{ignore,unlink,delete}');
    PERFORM crm_internal.check_choice('on_crm_insert', m.on_crm_insert, '{ignore,insert}');
    PERFORM crm_internal.check_choice('on_crm_delete', m.on_crm_delete, '{ignore,unlink,delete}');
    PERFORM crm_internal.check_choice('conflict_scope', m.conflict_scope, '{record,fields}');
    PERFORM crm_internal.check_interval('write_interval', m.write_interval);
    PERFORM crm_internal.check_interval('ingest_interval', m.ingest_interval);
    PERFORM crm_internal.check_choice('capture', m.capture, '{origin,always}');
    PERFORM crm_internal.check_choice('on_filter_out', m.on_filter_out, '{ignore,unlink,delete}');
    IF m.filter IS NOT NULL AND m.capture = 'always' THEN
        RAISE feature_not_supported USING MESSAGE = 'a map with a filter cannot have capture => ''always''',
            HINT = 'Use capture => ''origin'', or replicate only the rows that are to be mapped.';
    END IF;
    IF length(m.filter) > 10000 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'the filter is longer than 10,000 characters',
            HINT = 'Store the result in a generated column, and filter on that column.';
    END IF;
    IF m.ingest IS NOT NULL THEN
        PERFORM crm_internal.check_choice('ingest', m.ingest, '{on,off}');
    END IF;
    IF crm_internal.filled(m.crm_object) IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = 'crm_object must name the CRM''s object',
            HINT = 'For example Contact (Salesforce) or contacts (HubSpot).';
    END IF;
    IF crm_internal.filled(m.crm_object) <> m.crm_object OR m.crm_object ~ '[[:space:][:cntrl:]]' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('crm_object "%s" contains white space', m.crm_object),
            HINT = 'It is the name in the CRM''s API, for example Contact (Salesforce) or contacts (HubSpot).';
    END IF;
    SELECT relkind INTO kind FROM pg_class WHERE oid = m.relation;
    IF kind IS NULL OR kind NOT IN ('r', 'p') THEN
        RAISE wrong_object_type USING MESSAGE = format('"%s" is not a table', m.relation),
            HINT = 'Only tables and partitioned tables can be mapped.';
    END IF;
    IF (SELECT n.nspname FROM pg_class k JOIN pg_namespace n ON n.oid = k.relnamespace WHERE k.oid = m.relation)
       IN ('crm', 'crm_internal', 'crm_stub', 'pg_catalog', 'information_schema', 'pg_toast') THEN
        RAISE wrong_object_type USING MESSAGE = format('"%s" belongs to the system', m.relation), HINT = 'Map a table of your own.';
    END IF;
    IF kind = 'r' AND EXISTS (SELECT FROM pg_class WHERE oid = m.relation AND relispartition) THEN
        RAISE wrong_object_type USING MESSAGE = format('"%s" is a partition', m.relation),
            HINT = 'Map the partitioned table that it belongs to.';
    END IF;
    IF (SELECT relpersistence FROM pg_class WHERE oid = m.relation) = 't' THEN
        RAISE wrong_object_type USING MESSAGE = format('"%s" is a temporary table', m.relation),
            HINT = 'Only this session can see it; the worker cannot.';
    END IF;
    IF crm_internal.is_of_citus(m.relation) THEN
        RAISE feature_not_supported USING
            MESSAGE = format('"%s" is a table of Citus', m.relation),
            DETAIL = 'Its rows are in shards, so triggers on the table itself fire for no edit, and every edit would be lost.',
            HINT = 'Distributed and reference tables are not supported yet; undistribute_table() makes one local, and local tables can be mapped.';
    END IF;
    -- For a partitioned table: its partitions.
    IF EXISTS (SELECT FROM pg_class k WHERE k.relpersistence = 'u'
               AND (k.oid = m.relation OR k.oid IN (SELECT t.relid FROM pg_partition_tree(m.relation) t))) THEN
        RAISE wrong_object_type USING
            MESSAGE = format('"%s" is unlogged', m.relation),
            DETAIL = 'A crash of the server truncates it, and neither the links nor the CRM would be updated.',
            HINT = format('ALTER TABLE %s SET LOGGED.', m.relation);
    END IF;
    IF kind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = m.relation) THEN
        RAISE wrong_object_type USING
            MESSAGE = format('tables inherit from "%s"', m.relation),
            DETAIL = 'A statement on one of them alone would bypass validation and change capture.',
            HINT = 'Map those tables instead, or convert it to a partitioned table.';
    END IF;
    PERFORM crm_internal.require_owner(who, m.relation);
    PERFORM crm_internal.check_capture(m.relation, m.capture);
    IF m.on_insert = 'create' AND m.external_id_field IS NULL THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'on_insert => ''create'' needs an external_id_field',
            DETAIL = 'A created record is upserted by a CRM field that holds the record_key, so that repeating a creation cannot create a duplicate.',
            HINT = 'Name a unique field of the CRM object, such as External_Key__c, in external_id_field.';
    END IF;

    SELECT array_agg(a.attname ORDER BY k.i) INTO primary_key
    FROM pg_index x, unnest(x.indkey) WITH ORDINALITY AS k (attnum, i), pg_attribute a
    WHERE x.indrelid = m.relation AND x.indisprimary AND a.attrelid = m.relation AND a.attnum = k.attnum
      AND a.attname IS DISTINCT FROM m.shard_column;
    IF m.key_column IS NULL THEN
        IF primary_key IS NULL OR cardinality(primary_key) <> 1 THEN
            RAISE invalid_parameter_value USING
                MESSAGE = format('cannot determine the key column of "%s"', m.relation),
                DETAIL = CASE WHEN primary_key IS NULL THEN 'It has no primary key.'
                              ELSE format('Its primary key has several columns: %s.', array_to_string(primary_key, ', ')) END,
                HINT = 'Name a unique column in key_column (and the distribution column in shard_column).';
        END IF;
        m.key_column := primary_key[1];
    END IF;
    SELECT crm_internal.base_type(a.atttypid) INTO key_type FROM pg_attribute a
    WHERE a.attrelid = m.relation AND a.attname = m.key_column AND a.attnum > 0 AND NOT a.attisdropped;
    IF key_type IS NULL THEN
        RAISE undefined_column USING MESSAGE = format('column "%s" of "%s" does not exist', m.key_column, m.relation),
            HINT = 'key_column names the column that identifies a row.';
    END IF;
    IF NOT crm_internal.is_key_type(key_type) THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" of type %s cannot be a key', m.key_column, format_type(key_type, NULL)),
            HINT = 'A key is an integer, a numeric, a uuid or a text.';
    END IF;
    IF NOT (SELECT attnotnull FROM pg_attribute WHERE attrelid = m.relation AND attname = m.key_column) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('column "%s" of "%s" may be null', m.key_column, m.relation),
            HINT = format('A key identifies every row: ALTER TABLE %s ALTER %I SET NOT NULL.', m.relation, m.key_column);
    END IF;
    IF m.shard_column IS NOT NULL THEN
        SELECT a.atttypid, a.attnotnull INTO shard_type, shard_is_set FROM pg_attribute a
        WHERE a.attrelid = m.relation AND a.attname = m.shard_column AND a.attnum > 0 AND NOT a.attisdropped;
        IF NOT FOUND THEN
            RAISE undefined_column USING MESSAGE = format('column "%s" of "%s" does not exist', m.shard_column, m.relation),
                HINT = 'shard_column names the distribution column.';
        END IF;
        IF NOT crm_internal.is_shard_type(shard_type) THEN
            RAISE datatype_mismatch USING
                MESSAGE = format('column "%s" of type %s cannot be a shard_column', m.shard_column, format_type(shard_type, NULL)),
                DETAIL = 'Its text is the shard_key, and equal values of that type can have different texts.',
                HINT = 'A shard_column is a number, a text, a uuid, an enum, a boolean, a date or a timestamp.';
        END IF;
    END IF;
    SELECT u.name INTO lax FROM unnest(ARRAY[m.key_column, m.shard_column]) AS u (name)
        WHERE crm_internal.is_nondeterministic(m.relation, u.name) LIMIT 1;
    IF FOUND THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('column "%s" of "%s" has a nondeterministic collation and cannot be a key', lax, m.relation),
            DETAIL = 'Keys that the collation considers equal are different texts, and the CRM would get a record for each.',
            HINT = format('Give the column a deterministic collation: ALTER TABLE %s ALTER %I TYPE %s COLLATE "C".', m.relation, lax,
                          (SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a WHERE a.attrelid = m.relation
                              AND a.attname = lax));
    END IF;
    IF NOT crm_internal.is_key(m.relation, m.key_column, m.shard_column) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('column "%s" of "%s" is not unique', m.key_column, m.relation),
            HINT = 'A key needs a unique index or a primary key on it (together with shard_column if there is one).';
    END IF;
    -- A unique index that includes a nullable shard_column does not make rows without one unique.
    IF m.shard_column IS NOT NULL AND NOT shard_is_set AND NOT crm_internal.is_unique(m.relation, m.key_column) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('column "%s" of "%s" may be null', m.shard_column, m.relation),
            DETAIL = format('Column "%s" is unique only together with it.', m.key_column),
            HINT = format('ALTER TABLE %s ALTER %I SET NOT NULL.', m.relation, m.shard_column);
    END IF;
    -- The external id is the record_key alone, so rows of two shards with the same key would be one CRM record.
    IF m.external_id_field IS NOT NULL AND m.shard_column IS NOT NULL AND key_type <> 'uuid'::regtype
       AND NOT crm_internal.is_unique(m.relation, m.key_column) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('column "%s" of "%s" is unique only together with "%s"', m.key_column, m.relation, m.shard_column),
            DETAIL = 'external_id_field holds the record_key alone, so rows of different shards could become one CRM record.',
            HINT = 'Use a key that is unique by itself (a uuid, for example), or no external_id_field.';
    END IF;
    SELECT o.crm_object INTO same FROM crm.object_map o
    WHERE o.connection_id = m.connection_id AND o.relation = m.relation AND lower(o.crm_object) = lower(m.crm_object)
      AND o.map_id IS DISTINCT FROM m.map_id;
    IF FOUND THEN
        RAISE duplicate_object USING
            MESSAGE = format('"%s" is already mapped to %s on connection "%s"', m.relation, same, connection),
            HINT = 'crm.map_field() adds columns to it; crm.alter_map() changes it; crm.unmap_object() removes it.';
    END IF;

    -- Rows of two tables with the same key would be one CRM record, and overwrite or delete each other's.
    SELECT o.relation::regclass INTO other FROM crm.object_map o
    WHERE o.connection_id = m.connection_id AND lower(o.crm_object) = lower(m.crm_object)
      AND lower(o.external_id_field) = lower(m.external_id_field) AND o.map_id IS DISTINCT FROM m.map_id;
    IF FOUND THEN
        RAISE duplicate_object USING
            MESSAGE = format('field "%s" of %s already holds the keys of another table', m.external_id_field, m.crm_object),
            DETAIL = format('"%s" is mapped to %s on connection "%s" with this external_id_field.', other, m.crm_object, connection),
            HINT = 'Each table mapped to a CRM object needs its own external_id_field, which identifies the table of a record.';
    END IF;

    PERFORM crm_internal.check_key_field(m, f.column_name, f.crm_field) FROM crm.field_map f WHERE f.map_id = m.map_id;
    RETURN m;
END $$;
COMMENT ON FUNCTION crm_internal.check_map(oid, crm.object_map) IS
    'raises unless a role may map a table so; returns the map with its key column, if that was not given';

-- The map is in the catalog, since the condition is analysed as one over its table.
CREATE FUNCTION crm_internal.bind_filter(map_id int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m CONSTANT crm.object_map := crm_internal.map_of(map_id);
    columns CONSTANT name[] := crm_internal.check_condition(map_id, m.filter)::name[];
BEGIN
    IF columns = '{}' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'the filter does not reference any column of the table',
            HINT = 'Omit the filter to map all rows, or use crm.disable() to stop the map.';
    END IF;
    UPDATE crm.object_map o SET filter_columns = columns WHERE o.map_id = m.map_id AND o.filter_columns IS DISTINCT FROM columns;
END $$;
COMMENT ON FUNCTION crm_internal.bind_filter(int) IS 'checks the filter of a map, and stores which columns it reads';

CREATE FUNCTION crm_internal.do_map_object(caller bytea, connection text, relation regclass, crm_object text, key_column name,
                        shard_column name, external_id_field text, on_insert text, on_delete text, on_crm_insert text,
                        on_crm_delete text, conflict_scope text, write_interval interval, ingest_interval interval,
                            capture text, ingest text, enabled bool, filter text, on_filter_out text) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    m crm.object_map;
    id int;
BEGIN
    m.connection_id := (crm_internal.locked_connection(connection)).connection_id;
    m.relation := relation;
    m.crm_object := crm_object;
    m.key_column := key_column;
    m.shard_column := shard_column;
    m.external_id_field := nullif(external_id_field, '');
    m.on_insert := on_insert;
    m.on_delete := on_delete;
    m.on_crm_insert := on_crm_insert;
    m.on_crm_delete := on_crm_delete;
    m.conflict_scope := conflict_scope;
    m.write_interval := write_interval;
    m.ingest_interval := ingest_interval;
    m.capture := capture;
    m.ingest := ingest;
    m.filter := nullif(filter, '');
    m.on_filter_out := on_filter_out;
    m := crm_internal.check_map(who, m);
    INSERT INTO crm.object_map (connection_id, relation, crm_object, key_column, shard_column, external_id_field,
                                on_insert, on_delete, on_crm_insert, on_crm_delete, conflict_scope, write_interval, ingest_interval,
                                    capture, ingest, enabled, filter, on_filter_out)
    VALUES (m.connection_id, m.relation, m.crm_object, m.key_column, m.shard_column, m.external_id_field,
            m.on_insert, m.on_delete, m.on_crm_insert, m.on_crm_delete, m.conflict_scope, m.write_interval, m.ingest_interval, m.capture,
            m.ingest, coalesce(enabled, true), m.filter, m.on_filter_out)
    RETURNING object_map.map_id INTO id;
    PERFORM crm_internal.bind_filter(id);
    PERFORM crm_internal.bind_map(id);
    PERFORM crm_internal.install_capture(id);
    PERFORM crm_internal.notify_worker(false);
    RETURN id;
END $$;
COMMENT ON FUNCTION crm_internal.do_map_object(bytea, text, regclass, text, name, name, text, text, text, text, text, text, interval, interval, text, text, bool, text, text) IS
    'crm.map_object() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm.map_object(connection text, relation regclass, crm_object text,
                               key_column name DEFAULT NULL, shard_column name DEFAULT NULL,
                               external_id_field text DEFAULT NULL,
                               on_insert text DEFAULT 'ignore', on_delete text DEFAULT 'ignore',
                               on_crm_insert text DEFAULT 'ignore', on_crm_delete text DEFAULT 'unlink',
                               conflict_scope text DEFAULT 'record',
                               write_interval interval DEFAULT '15 minutes',
                               ingest_interval interval DEFAULT '1 minute',
                               capture text DEFAULT 'origin', ingest text DEFAULT NULL, enabled bool DEFAULT true,
                               filter text DEFAULT NULL, on_filter_out text DEFAULT 'ignore') RETURNS int
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_map_object(crm_internal.caller(), connection, relation, crm_object, key_column, shard_column,
                             external_id_field, on_insert, on_delete, on_crm_insert, on_crm_delete, conflict_scope,
                             write_interval, ingest_interval, capture, ingest, enabled, filter, on_filter_out)
$$;
COMMENT ON FUNCTION crm.map_object(text, regclass, text, name, name, text, text, text, text, text, text, interval, interval, text, text, bool, text, text) IS
    'maps a table to a CRM object; the caller must own the table. on_insert: ignore | create (upsert by external_id_field). '
    'on_delete: ignore | unlink | delete (what a deleted row does to the CRM). on_crm_insert: ignore | insert (a CRM record without a '
    'row gets one). '
    'on_crm_delete: ignore | unlink | delete (what a deleted CRM record does to its row). write_interval, ingest_interval: 1 minute .. '
    '24 hours; '
    'the CRM is first polled for changes after an ingest_interval, or by crm.backfill() or crm.ingest_now(). '
    'capture: origin | always (crm.alter_map()). ingest: on | off, whether the CRM''s changes are read; by default they are if a '
    'field is not outbound, on_crm_insert is insert or on_crm_delete is delete. enabled: false creates a map that does nothing until '
    'crm.enable(). filter: an SQL condition over the table''s columns, with immutable built-in functions; only rows that '
    'satisfy it are mapped. on_filter_out: ignore | unlink | delete (what happens when a row leaves the filter). Returns map_id, for '
    'crm.map_field()';

-- Attaching a partition clones row-level triggers as the role that attaches it, which may lack EXECUTE on their function.
CREATE FUNCTION crm_internal.check_capture(relation regclass, capture text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF capture = 'always' AND (SELECT c.relkind FROM pg_class c WHERE c.oid = relation) = 'p' THEN
        RAISE feature_not_supported USING
            MESSAGE = format('capture => ''always'' is not supported for the partitioned table %s', relation),
            HINT = 'Replicate into a table that is not partitioned, or call crm.recapture() to find what replication changed.';
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.check_capture(regclass, text) IS
    'raises feature_not_supported (0A000) if replicated rows of a table cannot be captured';

CREATE FUNCTION crm_internal.ingests(map_id int) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(m.ingest = 'on',
                    m.on_crm_insert = 'insert' OR m.on_crm_delete = 'delete'
                    OR EXISTS (SELECT FROM crm.field_map f WHERE f.map_id = m.map_id AND f.direction <> 'outbound'))
    FROM crm.object_map m WHERE m.map_id = ingests.map_id
$$;
COMMENT ON FUNCTION crm_internal.ingests(int) IS 'whether the worker polls for changes of a map, and reads what webhooks name';

-- A row that was inserted or updated since has an xmin that the snapshot does not show; DDL that rewrites a table gives every row
-- such an xmin, and so does a restore.
CREATE FUNCTION crm_internal.table_as_of(relation regclass) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object(
        'home', crm.home(),
        'files', (SELECT array_agg(pg_relation_filenode(t.oid) ORDER BY t.oid)
                  FROM (SELECT relation::oid AS oid UNION SELECT p.relid FROM pg_partition_tree(relation) AS p) t),
        'snapshot', pg_current_snapshot()::text)
$$;
COMMENT ON FUNCTION crm_internal.table_as_of(regclass) IS
    'what identifies the rows of a table that are inserted or updated from now on: {"home", "files", "snapshot"}';

CREATE FUNCTION crm_internal.do_enable(caller bytea, map_id int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    m crm.object_map := crm_internal.map_of(map_id);
    is_comparable bool;
BEGIN
    PERFORM crm_internal.require_owner(who, m.relation);
    m := crm_internal.locked_map(map_id);
    IF m.enabled THEN
        RETURN;
    END IF;
    UPDATE crm.object_map o SET enabled = true, disabled_as_of = NULL WHERE o.map_id = m.map_id;
    -- Whatever was edited before this point is found by the comparison, later edits by the triggers.
    PERFORM crm_internal.install_capture(m.map_id);
    IF m.disabled_as_of IS NOT NULL THEN
        is_comparable := crm_internal.table_as_of(m.relation) - 'snapshot' = m.disabled_as_of - 'snapshot';
        PERFORM crm_internal.request_recapture(m.map_id, 'crm.enable()', is_comparable, (m.disabled_as_of ->> 'snapshot')::pg_snapshot,
                                               m.on_delete <> 'ignore');
        IF NOT is_comparable AND m.on_insert = 'create' THEN
            RAISE NOTICE USING
                MESSAGE = format('rows inserted into "%s" while map %s was disabled are not created in the CRM', m.relation, m.map_id),
                DETAIL = 'The table was rewritten, truncated or restored, so they cannot be distinguished from older rows.',
                HINT = format('crm.push(%s) sends rows that are there.', m.map_id);
        END IF;
    END IF;
    PERFORM crm_internal.notify_worker(true);
END $$;
COMMENT ON FUNCTION crm_internal.do_enable(bytea, int) IS 'crm.enable() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm.enable(map_id int) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_enable(crm_internal.caller(), map_id)
$$;
COMMENT ON FUNCTION crm.enable(int) IS
    'enables a disabled map; the caller must own the table. Of a map that was enabled before, the edits made since crm.disable() are '
    'found by comparing its rows with the ledger (progress: crm.progress); rows of a map that is enabled for the first time stay as '
    'they are until they are edited or pushed (crm.push()). Errors: 42704 no such map, 42501 not the owner of the table';

CREATE FUNCTION crm_internal.do_disable(caller bytea, map_id int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    m crm.object_map := crm_internal.map_of(map_id);
BEGIN
    PERFORM crm_internal.require_owner(who, m.relation);
    m := crm_internal.locked_map(map_id);
    IF NOT m.enabled THEN
        RETURN;
    END IF;
    -- Dropping the triggers waits for open edits; what they captured is sent once the map is enabled again.
    PERFORM crm_internal.remove_capture(m.map_id);
    UPDATE crm.object_map o SET enabled = false, disabled_as_of = crm_internal.table_as_of(m.relation) WHERE o.map_id = m.map_id;
    PERFORM crm_internal.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm_internal.do_disable(bytea, int) IS 'crm.disable() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm.disable(map_id int) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_disable(crm_internal.caller(), map_id)
$$;
COMMENT ON FUNCTION crm.disable(int) IS
    'disables a map until crm.enable(); the caller must own the table. Its edits are neither validated nor captured, nothing is sent or '
    'read, and crm.write() fails; what was queued stays queued, requests in flight are completed. Errors: 42704 no such map, 42501 not '
    'the owner of the table';

CREATE FUNCTION crm_internal.do_unmap_object(caller bytea, map_id int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    m crm.object_map := crm_internal.map_of(map_id);
BEGIN
    IF EXISTS (SELECT FROM pg_class WHERE oid = m.relation) THEN
        PERFORM crm_internal.require_owner(who, m.relation);
    END IF;
    PERFORM crm_internal.remove_capture(m.map_id);
    DELETE FROM crm.change x WHERE x.map_id = m.map_id;
    DELETE FROM crm.claim x WHERE x.map_id = m.map_id;
    DELETE FROM crm.fuse x WHERE x.map_id = m.map_id;
    DELETE FROM crm.dead_letter x WHERE x.map_id = m.map_id;
    DELETE FROM crm.pending_write x WHERE x.map_id = m.map_id;
    DELETE FROM crm.conflict x WHERE x.map_id = m.map_id;
    DELETE FROM crm.refetch x WHERE x.map_id = m.map_id;
    DELETE FROM crm.overwritten_cell x WHERE x.map_id = m.map_id;
    DELETE FROM crm.unseen_write x WHERE x.map_id = m.map_id;
    DELETE FROM crm.former_link x WHERE x.map_id = m.map_id;
    DELETE FROM crm.orphaned_create x WHERE x.map_id = m.map_id;
    DELETE FROM crm.mismatched_key x WHERE x.map_id = m.map_id;
    -- First the rows that show the worker that a record is locked.
    DELETE FROM crm.ledger x WHERE x.map_id = m.map_id;
    DELETE FROM crm.queue x WHERE x.map_id = m.map_id;
    DELETE FROM crm.object_map x WHERE x.map_id = m.map_id;
    PERFORM crm_internal.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm_internal.do_unmap_object(bytea, int) IS
    'crm.unmap_object() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm.unmap_object(map_id int) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_unmap_object(crm_internal.caller(), map_id)
$$;
COMMENT ON FUNCTION crm.unmap_object(int) IS
    'removes a map, its links and queued changes; neither the table nor the CRM is changed, and the audit log is kept. '
    'Errors: 42704 no such map, 42501 not the owner of the table';
