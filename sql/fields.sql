-- Columns mapped to CRM fields.

CREATE FUNCTION crm_internal.check_transform(argument text, f regprocedure, relation regclass) RETURNS void
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
            HINT = 'It receives the column as converted by to_jsonb(), and returns the value for the CRM.';
    END IF;
    IF NOT pg_has_role(function_owner, table_owner, 'MEMBER') THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('%s %s belongs to another role', argument, f),
            DETAIL = format('It would run with the privileges of "%s", the owner of table "%s"; "%s", its own owner, does not have these.',
                            pg_get_userbyid(table_owner), relation, pg_get_userbyid(function_owner)),
            HINT = format('ALTER FUNCTION %s OWNER TO %I, or have the owner of the table write one that calls it.', f,
                pg_get_userbyid(table_owner));
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.check_transform(text, regprocedure, regclass) IS
    'raises unless the function takes and returns jsonb, and its owner can act as the owner of the table';

-- Records in flight were read with the previous mapping. As after an edit in the meantime, all their cells are sent again.
CREATE FUNCTION crm_internal.resend_in_flight(map_id int) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    UPDATE crm.queue q
    SET revision = nextval('crm.queue_revision_seq'),
        -- A record that is being created has every field except those mapped since.
        cells = CASE WHEN q.op = 'c' THEN coalesce(crm_internal.map_cells(q.map_id), q.cells) ELSE q.cells END
    FROM crm.claim k, unnest(k.shard_keys, k.record_keys) AS r (shard_key, record_key)
    WHERE k.map_id = resend_in_flight.map_id AND k.path = 'batch' AND q.shard_key = r.shard_key AND q.map_id = k.map_id
      AND q.record_key = r.record_key AND q.state = 'queued' AND q.op <> 'd';
    UPDATE crm.pending_write p SET revision = p.revision + 1
    FROM crm.claim k, unnest(k.shard_keys, k.record_keys) AS r (shard_key, record_key)
    WHERE k.map_id = resend_in_flight.map_id AND k.path = 'reconcile' AND p.shard_key = r.shard_key AND p.map_id = k.map_id
      AND p.record_key = r.record_key AND p.state = 'queued';
$$;
COMMENT ON FUNCTION crm_internal.resend_in_flight(int) IS 'queues the records of a map that are in flight again, with the current mapping';

CREATE FUNCTION crm_internal.do_map_field(caller bytea, map_id int, column_name name, crm_field text, direction text,
                        data_type text, validation jsonb, on_conflict text, transform_out regprocedure,
                        transform_in regprocedure, materialize bool) RETURNS smallint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    m crm.object_map := crm_internal.map_of(map_id);
    type_id oid;
    suggested text;
    other name;
    stated crm.field_map;
    id smallint;
BEGIN
    PERFORM crm_internal.require_owner(who, m.relation);
    PERFORM crm_internal.check_choice('direction', direction, '{outbound,bidirectional,inbound}');
    PERFORM crm_internal.check_choice('on_conflict', on_conflict,
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
    IF direction <> 'outbound' AND crm_internal.is_computed(m.relation, column_name) THEN
        RAISE invalid_parameter_value USING MESSAGE = format('the generated column "%s" can only be mapped outbound', column_name),
            DETAIL = 'Its value cannot be set, so it cannot receive values from the CRM.',
            HINT = 'Use direction => ''outbound'', or map the columns that it is computed from.';
    END IF;
    suggested := crm_internal.default_data_type(type_id);
    IF data_type IS NULL AND suggested IS NULL THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" has type %s, which suggests no data_type', column_name, format_type(type_id, NULL)),
            HINT = 'Pass data_type and a transform_out that converts the column to it.';
    END IF;
    data_type := coalesce(data_type, suggested);
    PERFORM crm_internal.check_choice('data_type', data_type, '{text,number,boolean,date,timestamp,choice,multi_choice,reference,json}');
    IF transform_out IS NULL AND NOT crm_internal.type_fits(type_id, data_type) THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" of type %s cannot be a %s', column_name, format_type(type_id, NULL), data_type),
            HINT = format('Use data_type => ''%s'', or give a transform_out.', coalesce(suggested, 'text'));
    END IF;
    PERFORM crm_internal.check_transform('transform_out', transform_out, m.relation);
    PERFORM crm_internal.check_transform('transform_in', transform_in, m.relation);
    PERFORM crm_internal.check_rules(coalesce(validation, '{}'), data_type);
    IF data_type IN ('number', 'date', 'timestamp') AND validation ?| '{min,max,choices}'
        AND NOT crm_internal.type_fits(type_id, data_type) THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" of type %s cannot be compared as a %s', column_name, format_type(type_id, NULL), data_type),
            DETAIL = 'Rules are checked against the column, before its transform_out.',
            HINT = 'Omit min, max and choices, and have a CHECK constraint of the table or the transform reject bad values.';
    END IF;
    BEGIN
        PERFORM '' ~ (validation ->> 'pattern');
    EXCEPTION WHEN invalid_regular_expression THEN
        RAISE invalid_parameter_value USING MESSAGE = format('pattern is not a regular expression: %s', sqlerrm),
            HINT = 'Patterns are POSIX regular expressions, as the operator ~ takes them.';
    END;
    stated := (m.map_id, 0, column_name, crm_field, direction, data_type, coalesce(validation, '{}'), on_conflict,
               transform_out, transform_in, materialize, NULL);
    stated.described := crm_internal.require_compatible(m, stated);
    -- The worker locks it while it claims records, so it must not be locked while the CRM is queried.
    PERFORM FROM crm.object_map o WHERE o.map_id = m.map_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        m := crm_internal.map_of(map_id); -- unmapped by another session
    END IF;
    IF crm_field = m.external_id_field AND column_name <> m.key_column THEN
        RAISE duplicate_object USING MESSAGE = format('CRM field "%s" already holds the key of the record', crm_field),
            HINT = 'It is the map''s external_id_field.';
    END IF;
    SELECT f.column_name INTO other FROM crm.field_map f
    WHERE f.map_id = m.map_id AND f.crm_field = do_map_field.crm_field AND f.column_name <> do_map_field.column_name;
    IF FOUND THEN
        RAISE duplicate_object USING MESSAGE = format('CRM field "%s" is already mapped to column "%s"', crm_field, other),
            HINT = 'Two columns cannot write one CRM field; crm.unmap_field() the other first.';
    END IF;
    SELECT f.map_id INTO id FROM crm.field_map f JOIN crm.object_map o USING (map_id)
    WHERE o.connection_id = m.connection_id AND o.relation = m.relation AND o.crm_object = m.crm_object AND o.map_id <> m.map_id
      AND f.crm_field = do_map_field.crm_field;
    IF FOUND THEN
        RAISE duplicate_object USING MESSAGE = format('CRM field "%s" is already mapped by map %s', crm_field, id);
    END IF;

    SELECT f.field_id INTO id FROM crm.field_map f WHERE f.map_id = m.map_id AND f.column_name = do_map_field.column_name;
    IF direction <> 'outbound' AND NOT EXISTS (
        SELECT FROM crm.field_map f WHERE f.map_id = m.map_id AND f.column_name = do_map_field.column_name
          AND (f.crm_field, f.direction, f.data_type, f.transform_in) IS NOT DISTINCT FROM
              (do_map_field.crm_field, do_map_field.direction, do_map_field.data_type, do_map_field.transform_in)) THEN
        -- The CRM values of the field are not known yet: every record is read again.
        UPDATE crm.ingest_state s SET cursor = NULL WHERE s.map_id = m.map_id;
    END IF;
    -- Hashes of another field's values do not apply to this one.
    UPDATE crm.ledger l SET hashes = crm_internal.cells_hash(l.hashes, crm_internal.cell_mask(id), decode(repeat('00', 16), 'hex'))
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
        -- If the CRM was not queried, keep what it reported of the same field before.
        described = CASE WHEN f.crm_field = excluded.crm_field THEN coalesce(excluded.described, f.described) ELSE excluded.described END;
    -- Mapping a field confirms that the keys of its rows have not changed.
    UPDATE crm.object_map o SET keys_changed = NULL WHERE o.map_id = m.map_id AND o.keys_changed IS NOT NULL;
    PERFORM crm_internal.bind_map(m.map_id);
    PERFORM crm_internal.install_capture(m.map_id);
    PERFORM crm_internal.resend_in_flight(m.map_id);
    PERFORM crm_internal.notify_worker(false);
    RETURN id;
END $$;
COMMENT ON FUNCTION crm_internal.do_map_field(bytea, int, name, text, text, text, jsonb, text, regprocedure, regprocedure, bool) IS
    'crm.map_field() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm.map_field(map_id int, column_name name, crm_field text, direction text DEFAULT 'bidirectional',
                              data_type text DEFAULT NULL, validation jsonb DEFAULT '{}', on_conflict text DEFAULT 'crm_wins',
                              transform_out regprocedure DEFAULT NULL, transform_in regprocedure DEFAULT NULL,
                              materialize bool DEFAULT true) RETURNS smallint
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_map_field(crm_internal.caller(), map_id, column_name, crm_field, direction, data_type, validation,
                            on_conflict, transform_out, transform_in, materialize)
$$;
COMMENT ON FUNCTION crm.map_field(int, name, text, text, text, jsonb, text, regprocedure, regprocedure, bool) IS
    'maps a column to a CRM field, or changes the mapping of the column. direction: outbound | bidirectional | inbound. '
    'validation: {"min", "max", "max_length", "nullable", "pattern", "choices"}. If the CRM responds, the field must exist and accept the '
    'values of the column (pg_crm.check_fields). Returns field_id';

CREATE FUNCTION crm_internal.do_unmap_field(caller bytea, map_id int, column_name name) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    m crm.object_map := crm_internal.map_of(map_id);
BEGIN
    IF EXISTS (SELECT FROM pg_class WHERE oid = m.relation) THEN
        PERFORM crm_internal.require_owner(who, m.relation);
    END IF;
    PERFORM FROM crm.object_map o WHERE o.map_id = m.map_id FOR NO KEY UPDATE;
    DELETE FROM crm.field_map f WHERE f.map_id = m.map_id AND f.column_name = do_unmap_field.column_name;
    IF NOT FOUND THEN
        RAISE undefined_object USING
            MESSAGE = format('column "%s" is not mapped by map %s', column_name, map_id),
            DETAIL = coalesce('Mapped: ' || (SELECT string_agg(f.column_name, ', ' ORDER BY f.field_id) FROM crm.field_map f
                                             WHERE f.map_id = m.map_id) || '.', 'No columns are mapped.'),
            HINT = 'crm.field_map shows what is mapped.';
    END IF;
    PERFORM crm_internal.bind_map(m.map_id);
    PERFORM crm_internal.install_capture(m.map_id);
    PERFORM crm_internal.resend_in_flight(m.map_id);
    PERFORM crm_internal.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm_internal.do_unmap_field(bytea, int, name) IS
    'crm.unmap_field() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm.unmap_field(map_id int, column_name name) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_unmap_field(crm_internal.caller(), map_id, column_name)
$$;
COMMENT ON FUNCTION crm.unmap_field(int, name) IS
    'removes a column from a map; its queued changes are dropped. Errors: 42704 no such map, or the column is not mapped; 42501 not '
    'the owner of the table';
