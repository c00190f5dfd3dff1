-- Changing one's mind: connections, maps and fields are altered in place. Arguments that are NULL leave as is what they name.
--
-- Links, ledger, queue, pending writes and dead letters stay. An alteration under which work that waits could never be done is refused.

CREATE FUNCTION crm_internal.do_alter_map(caller bytea, map_id int, external_id_field text, on_insert text, on_delete text,
                        on_crm_insert text, on_crm_delete text, conflict_scope text, write_interval interval, ingest_interval interval,
                        capture text, ingest text, filter text, on_filter_out text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    old crm.object_map := crm_internal.map_of(map_id);
    m crm.object_map;
BEGIN
    PERFORM crm_internal.require_owner(who, old.relation);
    PERFORM crm_internal.locked_connection(c.name) FROM crm.connection c WHERE c.connection_id = old.connection_id;
    old := crm_internal.locked_map(map_id);
    m := old;
    m.external_id_field := nullif(coalesce(external_id_field, m.external_id_field), '');
    m.on_insert := coalesce(on_insert, m.on_insert);
    m.on_delete := coalesce(on_delete, m.on_delete);
    m.on_crm_insert := coalesce(on_crm_insert, m.on_crm_insert);
    m.on_crm_delete := coalesce(on_crm_delete, m.on_crm_delete);
    m.conflict_scope := coalesce(conflict_scope, m.conflict_scope);
    m.write_interval := coalesce(write_interval, m.write_interval);
    m.ingest_interval := coalesce(ingest_interval, m.ingest_interval);
    m.capture := coalesce(capture, m.capture);
    m.ingest := nullif(coalesce(ingest, m.ingest), '');
    m.filter := nullif(coalesce(filter, m.filter), '');
    m.on_filter_out := coalesce(on_filter_out, m.on_filter_out);
    m := crm_internal.check_map(who, m);
    IF m.external_id_field IS DISTINCT FROM old.external_id_field THEN
        PERFORM crm_internal.require_no_creations(m.map_id);
        m.key_is_case_sensitive := NULL;
        m.key_max_length := NULL;
        DELETE FROM crm.mismatched_key k WHERE k.map_id = m.map_id;
        -- Records without a row are looked for by their new keys.
        UPDATE crm.ingest_state s SET cursor = NULL WHERE s.map_id = m.map_id;
    END IF;
    IF m IS NOT DISTINCT FROM old THEN
        m.keys_changed := NULL;
    END IF;
    UPDATE crm.object_map o
    SET external_id_field = m.external_id_field, on_insert = m.on_insert, on_delete = m.on_delete, on_crm_insert = m.on_crm_insert,
        on_crm_delete = m.on_crm_delete, conflict_scope = m.conflict_scope, write_interval = m.write_interval,
        ingest_interval = m.ingest_interval, capture = m.capture, ingest = m.ingest, key_is_case_sensitive = m.key_is_case_sensitive,
        key_max_length = m.key_max_length, keys_changed = m.keys_changed, filter = m.filter, on_filter_out = m.on_filter_out
    WHERE o.map_id = m.map_id;
    UPDATE crm.map_state s SET next_write_at = s.next_write_at + (m.write_interval - old.write_interval) WHERE s.map_id = m.map_id;
    UPDATE crm.ingest_state s SET next_at = s.next_at + (m.ingest_interval - old.ingest_interval) WHERE s.map_id = m.map_id;
    PERFORM crm_internal.bind_filter(m.map_id);
    PERFORM crm_internal.bind_map(m.map_id);
    PERFORM crm_internal.install_capture(m.map_id);
    PERFORM crm_internal.notify_worker(false);
    PERFORM crm_internal.say_of_map(old, m);
END $$;
COMMENT ON FUNCTION crm_internal.do_alter_map(bytea, int, text, text, text, text, text, text, interval, interval, text, text, text, text) IS
    'crm.alter_map() for the role that the token of crm_internal.caller() names';

-- A creation whose outcome is not known is repeated by the field that holds the key; by another field it would make a duplicate.
CREATE FUNCTION crm_internal.require_no_creations(map_id int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM crm.queue q WHERE q.map_id = require_no_creations.map_id AND q.state <> 'unlinked' AND q.op = 'c') THEN
        RAISE object_in_use USING
            MESSAGE = format('the external_id_field of map %s cannot be changed while records are queued for creation', map_id),
            DETAIL = 'A creation that is repeated finds the record that it made by that field.',
            HINT = format('crm.flush(%s) creates them; crm.discard() gives up dead letters.', map_id);
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.require_no_creations(int) IS 'raises object_in_use (55006) if a map has records to create';

CREATE FUNCTION crm_internal.say_of_map(old crm.object_map, m crm.object_map) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n bigint;
BEGIN
    IF m.external_id_field IS DISTINCT FROM old.external_id_field AND m.external_id_field IS NOT NULL
       AND EXISTS (SELECT FROM crm.ledger l WHERE l.map_id = m.map_id AND l.crm_id IS NOT NULL) THEN
        RAISE NOTICE 'records that are linked already keep their links, and do not get their keys in "%" by this', m.external_id_field;
    END IF;
    IF m.on_insert = 'create' AND old.on_insert = 'ignore' THEN
        RAISE NOTICE 'rows of "%" that were inserted before are not created in the CRM by this', m.relation
            USING HINT = format('crm.push(%s) creates them.', m.map_id);
    ELSIF m.on_insert = 'ignore' AND old.on_insert = 'create' THEN
        SELECT count(*) INTO n FROM crm.queue q WHERE q.map_id = m.map_id AND q.state = 'queued' AND q.op = 'c';
        IF n > 0 THEN
            RAISE NOTICE '% records that are queued for creation are still created', n;
        END IF;
    END IF;
    IF m.on_delete <> 'delete' AND old.on_delete = 'delete' THEN
        SELECT count(*) INTO n FROM crm.queue q WHERE q.map_id = m.map_id AND q.state = 'queued' AND q.op = 'd';
        IF n > 0 THEN
            RAISE NOTICE '% records that are queued for deletion are still deleted', n;
        END IF;
    END IF;
    IF m.filter IS NOT NULL AND m.filter IS DISTINCT FROM old.filter THEN
        RAISE NOTICE 'existing rows of "%" are neither created nor released by the new filter', m.relation
            USING DETAIL = 'Edits of rows that do not match the filter are no longer sent.',
                  HINT = format('crm.push(%s) sends the rows that match the filter, and applies on_filter_out to linked rows that do not.', m.map_id);
    END IF;
    IF m.on_crm_insert = 'insert' AND old.on_crm_insert = 'ignore' THEN
        RAISE NOTICE 'records that have no row get one when they change in the CRM'
            USING HINT = format('crm.backfill(%s) reads all of them now.', m.map_id);
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.say_of_map(crm.object_map, crm.object_map) IS
    'NOTICEs of what an alteration of a map does to rows and records that exist, or does not';

CREATE FUNCTION crm.alter_map(map_id int, external_id_field text DEFAULT NULL, on_insert text DEFAULT NULL,
                              on_delete text DEFAULT NULL, on_crm_insert text DEFAULT NULL, on_crm_delete text DEFAULT NULL,
                              conflict_scope text DEFAULT NULL, write_interval interval DEFAULT NULL,
                              ingest_interval interval DEFAULT NULL, capture text DEFAULT NULL, ingest text DEFAULT NULL,
                              filter text DEFAULT NULL, on_filter_out text DEFAULT NULL) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_alter_map(crm_internal.caller(), map_id, external_id_field, on_insert, on_delete, on_crm_insert,
                            on_crm_delete, conflict_scope, write_interval, ingest_interval, capture, ingest, filter, on_filter_out)
$$;
COMMENT ON FUNCTION crm.alter_map(int, text, text, text, text, text, text, interval, interval, text, text, text, text) IS
    'changes options of a map; arguments as in crm.map_object(), NULL leaves an option as it is, external_id_field '''' and filter '''' remove it, ingest '''' is the default again. '
    'Connection, table, CRM object, key_column and shard_column cannot be changed: map the table anew. Links and queued work are kept; '
    'NOTICEs say what the change means for existing rows and records. Without any option: binds the map to its table anew, and confirms '
    'after DDL that no row''s key changed. capture: '
    'origin: edits of ordinary sessions are captured; always: also rows that a subscription applies (the rules of the mapping do not '
    'apply to them) and edits under session_replication_role = replica. Errors: 42704 no such map, 22023 invalid value, 42501 not the '
    'owner of the table, 55006 records are queued for creation by the external_id_field';

CREATE FUNCTION crm_internal.flow(f crm.field_map) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN f.direction = 'inbound' OR NOT f.materialize OR f.create_only THEN 'none' WHEN f.direction = 'outbound' THEN 'unchecked' ELSE 'checked' END
$$;
COMMENT ON FUNCTION crm_internal.flow(crm.field_map) IS
    'how edits of a column are written to the CRM: none: not at all; unchecked: whatever it holds; checked: compared with it first';

-- Called once the triggers of the new mapping are there: earlier edits are committed by then. One statement, so that no edit is missed
-- that the worker moves from one table to another meanwhile.
CREATE FUNCTION crm_internal.require_no_edits(f crm.field_map, old_flow text, new_flow text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    edits bigint;
    conflicts bigint;
BEGIN
    IF NOT (new_flow = 'none' AND old_flow <> 'none' OR old_flow = 'checked' AND new_flow <> 'checked') THEN
        RETURN;
    END IF;
    SELECT (SELECT coalesce(sum(cardinality(h.record_keys)), 0) FROM crm.change h
            WHERE h.map_id = f.map_id AND crm_internal.cells_has(h.cells, f.field_id))
         + (SELECT count(*) FROM crm.queue q
            WHERE q.map_id = f.map_id AND crm_internal.cells_has(q.cells, f.field_id) AND new_flow = 'none')
         + (SELECT count(*) FROM crm.pending_write p
            WHERE p.map_id = f.map_id AND (crm_internal.cells_has(p.cells, f.field_id) OR crm_internal.cells_has(p.take, f.field_id))),
           (SELECT count(*) FROM crm.conflict c WHERE c.map_id = f.map_id AND c.field_id = f.field_id)
    INTO edits, conflicts;
    IF edits + conflicts > 0 THEN
        RAISE object_in_use USING
            MESSAGE = format('edits of column "%s" are not written to the CRM yet', f.column_name),
            DETAIL = format('%s records wait to be written or are dead letters, %s are conflicts; they would be lost.', edits, conflicts),
            HINT = format('crm.flush(%s) writes them; crm.cancel_write(), crm.discard() and crm.resolve_conflicts() decide about the rest.',
                          f.map_id);
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.require_no_edits(crm.field_map, text, text) IS
    'raises object_in_use (55006) if edits of a column wait that would never be written after a change of its flow';

CREATE FUNCTION crm_internal.without_hashes(base jsonb, field_id int) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN base ? field_id::text
        THEN jsonb_set(base, ARRAY[field_id::text], (base -> field_id::text) - 'h' - 's') ELSE base END
$$;
COMMENT ON FUNCTION crm_internal.without_hashes(jsonb, int) IS 'the base of an edit without what it says of a field by hashes';

CREATE FUNCTION crm_internal.do_alter_field(caller bytea, map_id int, column_name name, crm_field text, direction text, data_type text,
                        validation jsonb, on_conflict text, transform_out regprocedure, transform_in regprocedure, materialize bool,
                        send_null bool, create_only bool, create_default jsonb)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    m crm.object_map := crm_internal.map_of(map_id);
    old crm.field_map := crm_internal.field_of(map_id, column_name);
    f crm.field_map := old;
    now crm.field_map;
BEGIN
    PERFORM crm_internal.require_owner(who, m.relation);
    f.crm_field := coalesce(crm_field, f.crm_field);
    f.direction := coalesce(direction, f.direction);
    f.data_type := coalesce(data_type, f.data_type);
    f.validation := crm_internal.merged('validation', f.validation, validation);
    f.on_conflict := coalesce(on_conflict, f.on_conflict);
    f.transform_out := nullif(coalesce(transform_out, f.transform_out)::oid, 0::oid);
    f.transform_in := nullif(coalesce(transform_in, f.transform_in)::oid, 0::oid);
    f.materialize := coalesce(materialize, f.materialize);
    f.send_null := coalesce(send_null, f.send_null);
    f.create_only := coalesce(create_only, f.create_only);
    f.create_default := nullif(coalesce(create_default, f.create_default), 'null');
    f := crm_internal.check_field(m, f);
    m := crm_internal.locked_map(map_id);
    now := crm_internal.field_of(map_id, column_name);
    now.described := old.described;
    IF now IS DISTINCT FROM old THEN
        RAISE serialization_failure USING MESSAGE = format('another session has changed the mapping of column "%s"', column_name),
            HINT = 'Try again.';
    END IF;
    PERFORM crm_internal.check_other_fields(m, f);
    IF f.crm_field = old.crm_field THEN
        -- If the CRM was not queried.
        f.described := coalesce(f.described, old.described);
    END IF;
    IF (f.crm_field, f.data_type, f.transform_out, f.transform_in)
       IS DISTINCT FROM (old.crm_field, old.data_type, old.transform_out, old.transform_in) THEN
        -- Hashes of another field's values, or of values of another form, do not apply to this one.
        UPDATE crm.ledger l
        SET hashes = crm_internal.cells_hash(l.hashes, crm_internal.cell_mask(f.field_id), decode(repeat('00', 16), 'hex'))
        WHERE l.map_id = m.map_id;
        -- Nor to waiting edits of this column and of others: they would be taken for changes made in the CRM.
        UPDATE crm.pending_write p
        SET snapshot_hashes = crm_internal.cells_hash(p.snapshot_hashes, crm_internal.cell_mask(f.field_id), decode(repeat('00', 16), 'hex')),
            snapshot = p.snapshot - f.field_id::text, base = crm_internal.without_hashes(p.base, f.field_id), revision = p.revision + 1
        WHERE p.map_id = m.map_id AND p.state IN ('queued', 'dead');
        UPDATE crm.change h
        SET snapshot = h.snapshot - f.field_id::text, base = crm_internal.without_hashes(h.base, f.field_id)
        WHERE h.map_id = m.map_id AND (h.snapshot ? f.field_id::text OR h.base ? f.field_id::text);
        DELETE FROM crm.overwritten_cell x WHERE x.map_id = m.map_id AND x.field_id = f.field_id;
        UPDATE crm.unseen_write u SET cells = u.cells - f.field_id::text WHERE u.map_id = m.map_id AND u.cells ? f.field_id::text;
    END IF;
    UPDATE crm.field_map x
    SET crm_field = f.crm_field, direction = f.direction, data_type = f.data_type, validation = f.validation, on_conflict = f.on_conflict,
        transform_out = f.transform_out, transform_in = f.transform_in, materialize = f.materialize, send_null = f.send_null,
        create_only = f.create_only, create_default = f.create_default, described = f.described
    WHERE x.map_id = f.map_id AND x.field_id = f.field_id;
    IF f.direction <> 'outbound' AND (f.crm_field, f.direction, f.data_type, f.transform_in)
       IS DISTINCT FROM (old.crm_field, old.direction, old.data_type, old.transform_in) THEN
        -- The CRM values of the field are not known yet: every record is read again.
        UPDATE crm.ingest_state s SET cursor = NULL WHERE s.map_id = m.map_id;
        RAISE NOTICE 'the next poll of map % reads every record again, for the values of CRM field "%"', m.map_id, f.crm_field;
    END IF;
    PERFORM crm_internal.apply_fields(m.map_id);
    PERFORM crm_internal.require_no_edits(f, crm_internal.flow(old), crm_internal.flow(f));
    PERFORM crm_internal.say_of_field(m, old, f);
END $$;
COMMENT ON FUNCTION crm_internal.do_alter_field(bytea, int, name, text, text, text, jsonb, text, regprocedure, regprocedure, bool, bool, bool, jsonb) IS
    'crm.alter_field() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm_internal.say_of_field(m crm.object_map, old crm.field_map, f crm.field_map) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
-- Texts of values.
SET datestyle = 'ISO, MDY' SET timezone = 'UTC' SET extra_float_digits = 1 AS $$
DECLARE
    n bigint;
    c record;
BEGIN
    IF f.direction <> 'inbound' AND f.validation <> '{}' AND (f.validation, f.data_type) IS DISTINCT FROM (old.validation, old.data_type) THEN
        SELECT x.* INTO c
        FROM pg_attribute a JOIN pg_type t ON t.oid = crm_internal.base_type(a.atttypid),
             crm_internal.count_violations(m.relation, f.column_name, t.typcategory = 'A', f.data_type, f.validation) x
        WHERE a.attrelid = m.relation AND a.attname = f.column_name AND NOT a.attisdropped;
        IF c.violating > 0 THEN
            RAISE NOTICE '% of % rows violate the rules of column "%"', CASE WHEN c.is_whole THEN '' ELSE 'at least ' END || c.violating,
                c.rows, f.column_name
                USING DETAIL = 'They stay as they are; the rules apply to cells that are changed from now on.'
                               || CASE WHEN c.is_whole THEN '' ELSE ' No more rows were read.' END;
        END IF;
    END IF;
    IF crm_internal.flow(old) = 'none' AND crm_internal.flow(f) <> 'none' THEN
        RAISE NOTICE 'column "%" is written to the CRM from now on; the values that its rows have are not sent by this', f.column_name
            USING HINT = format('crm.push(%s, %L) queues them.', m.map_id, ARRAY[f.column_name]);
    ELSIF crm_internal.flow(old) = 'unchecked' AND crm_internal.flow(f) = 'checked' THEN
        SELECT count(*) INTO n FROM crm.queue q WHERE q.map_id = m.map_id AND crm_internal.cells_has(q.cells, f.field_id);
        IF n > 0 THEN
            RAISE NOTICE '% records with earlier edits of column "%" are still written without being compared with the CRM', n, f.column_name;
        END IF;
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.say_of_field(crm.object_map, crm.field_map, crm.field_map) IS
    'NOTICEs of what an alteration of a field does to existing rows, or does not';

CREATE FUNCTION crm.alter_field(map_id int, column_name name, crm_field text DEFAULT NULL, direction text DEFAULT NULL,
                                data_type text DEFAULT NULL, validation jsonb DEFAULT NULL, on_conflict text DEFAULT NULL,
                                transform_out regprocedure DEFAULT NULL, transform_in regprocedure DEFAULT NULL,
                                materialize bool DEFAULT NULL, send_null bool DEFAULT NULL, create_only bool DEFAULT NULL,
                                create_default jsonb DEFAULT NULL) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_alter_field(crm_internal.caller(), map_id, column_name, crm_field, direction, data_type, validation,
                              on_conflict, transform_out, transform_in, materialize, send_null, create_only, create_default)
$$;
COMMENT ON FUNCTION crm.alter_field(int, name, text, text, text, jsonb, text, regprocedure, regprocedure, bool, bool, bool, jsonb) IS
    'changes how a column is mapped; arguments as in crm.map_field(), NULL leaves an option as it is. validation is merged, a json null '
    'removes a rule, or create_default; ''-'' removes a transform. Links and queued work are kept; NOTICEs say what the change means for existing rows, and '
    'how many violate new rules. Errors: 42704 no such map, or the column is not mapped, and those of crm.map_field(); 55006 edits wait '
    'that would never be written';

CREATE FUNCTION crm_internal.org(c crm.connection) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_array(c.base_url, c.options -> 'org_id', c.options -> 'connected_account_id')
$$;
COMMENT ON FUNCTION crm_internal.org(crm.connection) IS 'what decides in which org of the CRM the ids of records are';

CREATE FUNCTION crm_internal.do_alter_connection(caller bytea, name text, base_url text, options jsonb, credentials jsonb, relink bool)
RETURNS void
-- Generic plans have parameters in place of values, which auto_explain would log.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    old CONSTANT crm.connection := crm_internal.locked_connection(name);
    secret CONSTANT jsonb := coalesce(credentials, (SELECT k.secret FROM crm.credential k WHERE k.connection_id = old.connection_id), '{}');
    c crm.connection := old;
BEGIN
    c.base_url := nullif(coalesce(rtrim(base_url, '/'), c.base_url), '');
    c.options := crm_internal.merged('options', c.options, options);
    PERFORM crm_internal.check_connection(c.provider, c.base_url, c.options);
    PERFORM crm_internal.check_credentials(c.provider, c.options, secret);
    IF crm_internal.destination(c) IS DISTINCT FROM crm_internal.destination(old) AND credentials IS NULL AND secret <> '{}'
       AND NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.oid = who) THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('only a superuser can have the credentials of connection "%s" sent to another address', name),
            HINT = 'Pass the credentials for the new address in credentials.';
    END IF;
    IF crm_internal.org(c) IS DISTINCT FROM crm_internal.org(old) AND NOT relink AND EXISTS (
           SELECT FROM crm.object_map o JOIN crm.ledger l USING (map_id) WHERE o.connection_id = c.connection_id AND l.crm_id IS NOT NULL) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('rows are linked to records of the org that connection "%s" reaches', name),
            DETAIL = 'In another org, the same ids are other records, or none.',
            HINT = 'With relink => true, the links are dropped and the rows are kept; they are linked anew by key as the CRM''s records are read.';
    END IF;
    UPDATE crm.connection k SET base_url = c.base_url, options = c.options WHERE k.connection_id = c.connection_id;
    IF credentials IS NOT NULL THEN
        PERFORM crm_internal.do_set_credentials(caller, name, credentials);
    END IF;
    IF relink OR crm_internal.org(c) IS DISTINCT FROM crm_internal.org(old) THEN
        PERFORM crm_internal.leave_org(c);
    END IF;
    INSERT INTO crm.audit_log (connection, provider, path, operation, fields, result, actor)
    SELECT c.name, c.provider, 'setup', 'alter', jsonb_object_agg(x.key, jsonb_build_object('old', x.old, 'new', x.new)), 'applied',
           crm_internal.actor()
    FROM (VALUES ('base_url', to_jsonb(old.base_url), to_jsonb(c.base_url)), ('options', old.options, c.options),
                 ('relink', NULL, to_jsonb(relink))) AS x (key, old, new);
    PERFORM crm_internal.notify_worker(true);
    PERFORM crm_internal.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm_internal.do_alter_connection(bytea, text, text, jsonb, jsonb, bool) IS
    'crm.alter_connection() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm_internal.destination(c crm.connection) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_object_agg(o.key, o.value) FILTER (WHERE o.key LIKE '%url' OR o.key = 'via'), '{}')
           || jsonb_build_object('base_url', c.base_url)
    FROM jsonb_each(c.options) o
$$;
COMMENT ON FUNCTION crm_internal.destination(crm.connection) IS 'what decides where the credentials of a connection are sent';

-- Nothing is in flight, so nothing of the old org can arrive later: the connection is locked, so that the worker begins nothing. Pages of
-- ingestion that are under way are dropped, because the version of the credentials is another one.
CREATE FUNCTION crm_internal.leave_org(c crm.connection) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    maps int[];
    dropped bigint;
    given_up bigint;
BEGIN
    PERFORM FROM crm.object_map o WHERE o.connection_id = c.connection_id ORDER BY o.map_id FOR NO KEY UPDATE;
    maps := ARRAY(SELECT o.map_id FROM crm.object_map o WHERE o.connection_id = c.connection_id ORDER BY o.map_id);
    -- Waits for calls of crm.write() in progress.
    SELECT count(*) INTO dropped FROM (
        SELECT FROM crm.ledger l WHERE l.map_id = ANY (maps) AND l.crm_id IS NOT NULL ORDER BY l.shard_key, l.map_id, l.record_key FOR UPDATE) l;
    IF EXISTS (SELECT FROM crm.claim k WHERE k.map_id = ANY (maps))
       OR EXISTS (SELECT FROM crm.pending_write p WHERE p.map_id = ANY (maps) AND p.state IN ('sending', 'landed', 'failed')) THEN
        RAISE object_in_use USING
            MESSAGE = format('requests over connection "%s" are in flight', c.name),
            HINT = format('Call crm.pause(%L), and try again in a moment.', c.name);
    END IF;
    -- What only has a meaning for the old org.
    DELETE FROM crm.overwritten_cell x WHERE x.map_id = ANY (maps);
    DELETE FROM crm.unseen_write x WHERE x.map_id = ANY (maps);
    DELETE FROM crm.former_link x WHERE x.map_id = ANY (maps);
    DELETE FROM crm.orphaned_create x WHERE x.map_id = ANY (maps);
    DELETE FROM crm.mismatched_key x WHERE x.map_id = ANY (maps);
    DELETE FROM crm.webhook_inbox x WHERE x.connection_id = c.connection_id;
    WITH conflict AS (DELETE FROM crm.conflict x WHERE x.map_id = ANY (maps) RETURNING 1),
         deletion AS (DELETE FROM crm.queue q WHERE q.map_id = ANY (maps) AND q.op = 'd' RETURNING 1)
    SELECT (SELECT count(*) FROM conflict) + (SELECT count(*) FROM deletion) INTO given_up;
    DELETE FROM crm.refetch x WHERE x.map_id = ANY (maps);
    DELETE FROM crm.fuse x WHERE x.map_id = ANY (maps);
    -- Edits wait for the new links of their records, or go with their creation. The old org's errors do not count any more.
    INSERT INTO crm.queue AS q (shard_key, map_id, record_key, op, state, cells, changed_at, actor, correlation_id)
    SELECT p.shard_key, p.map_id, p.record_key, 'u', 'unlinked', p.cells, crm_internal.cells_stamp(NULL, p.cells, p.changed_at), p.actor,
           p.correlation_id
    FROM crm.pending_write p WHERE p.map_id = ANY (maps) AND crm_internal.cells_count(p.cells) > 0
    ON CONFLICT (shard_key, map_id, record_key) DO UPDATE
    SET cells = crm_internal.cells_or(q.cells, excluded.cells), changed_at = crm_internal.cells_merge(q.changed_at, excluded.changed_at),
        correlation_id = coalesce(q.correlation_id, excluded.correlation_id);
    UPDATE crm.queue q
    SET op = 'c', state = CASE m.on_insert WHEN 'create' THEN 'queued' ELSE 'unlinked' END,
        cells = CASE m.on_insert WHEN 'create' THEN crm_internal.cells_or(q.cells, coalesce(crm_internal.map_cells(q.map_id), q.cells))
                                 ELSE q.cells END,
        revision = nextval('crm.queue_revision_seq'), attempts = 0, next_attempt_at = '-infinity', error_class = NULL, last_error = NULL
    FROM crm.object_map m WHERE m.map_id = q.map_id AND q.map_id = ANY (maps);
    INSERT INTO crm.audit_log (shard_key, map_id, connection, provider, relation, record_key, path, operation, result, error, actor, correlation_id,
                               folded)
    SELECT p.shard_key, p.map_id, c.name, c.provider, m.relation::text, p.record_key, 'setup', 'update', 'superseded',
           'the connection leads to another org now; the edit goes with the next write of the record', p.actor, p.correlation_id,
           array_remove(p.write_id || p.folded || p.undone, NULL)
    FROM crm.pending_write p JOIN crm.object_map m USING (map_id) WHERE p.map_id = ANY (maps);
    DELETE FROM crm.pending_write p WHERE p.map_id = ANY (maps);
    DELETE FROM crm.dead_letter x WHERE x.map_id = ANY (maps);
    -- The rows stay known, so that their edits are captured and wait for links.
    UPDATE crm.ledger l SET crm_id = NULL, hashes = NULL, detached = false, changed_at = NULL, synced_at = NULL WHERE l.map_id = ANY (maps);
    UPDATE crm.ingest_state s SET cursor = NULL, backfill = NULL, next_at = now() WHERE s.map_id = ANY (maps);
    UPDATE crm.field_map f SET described = NULL WHERE f.map_id = ANY (maps);
    UPDATE crm.object_map o SET key_is_case_sensitive = NULL, key_max_length = NULL WHERE o.map_id = ANY (maps);
    UPDATE crm.connection_state s
    SET state = 'ok', failures = 0, blocked_until = '-infinity', error_class = NULL, last_error = NULL, usage = '{}',
        usage_reported_at = NULL, changed_at = now()
    WHERE s.connection_id = c.connection_id;
    UPDATE crm.credential k SET version = version + 1 WHERE k.connection_id = c.connection_id;
    PERFORM crm_internal.bind_map(m.map_id) FROM unnest(maps) AS m (map_id);
    RAISE NOTICE 'connection "%" leads to another org now: % links of % maps were dropped', c.name, dropped, cardinality(maps)
        USING HINT = 'Rows are linked by key as records are read: crm.backfill() reads all. crm.check_mapping() compares the fields.';
    IF given_up > 0 THEN
        RAISE NOTICE '% conflicts and queued deletions of records of the old org were given up', given_up;
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.leave_org(crm.connection) IS
    'drops everything that is about the records of a connection''s old org; rows and their edits are kept';

CREATE FUNCTION crm.alter_connection(name text, base_url text DEFAULT NULL, options jsonb DEFAULT NULL, credentials jsonb DEFAULT NULL,
                                     relink bool DEFAULT false) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_alter_connection(crm_internal.caller(), name, base_url, options, credentials, coalesce(relink, false))
$$;
COMMENT ON FUNCTION crm.alter_connection(text, text, jsonb, jsonb, bool) IS
    'changes a connection; arguments as in crm.create_connection(), NULL leaves as is. options are merged, a json null removes one; '
    'base_url '''' is the provider''s default. relink: the connection leads to another org: the links of its maps are dropped, rows are '
    'kept, and queued edits wait for new links. The provider cannot be changed. Errors: 42704 no such connection, 22023 invalid value, '
    '55000 rows are linked and relink is not true, 55006 requests are in flight, 42501 credentials would be sent to another address';
