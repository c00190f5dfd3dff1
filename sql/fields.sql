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

CREATE FUNCTION crm_internal.require_unmapped(map_id int, column_name name) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    f crm.field_map;
BEGIN
    SELECT * INTO f FROM crm.field_map x WHERE x.map_id = require_unmapped.map_id AND x.column_name = require_unmapped.column_name;
    IF FOUND THEN
        RAISE duplicate_object USING
            MESSAGE = format('column "%s" is already mapped by map %s', column_name, map_id),
            DETAIL = format('It is mapped to CRM field "%s" (%s).', f.crm_field, f.direction),
            HINT = 'crm.alter_field() changes its mapping.';
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.require_unmapped(int, name) IS 'raises duplicate_object (42710) if a column is mapped already';

CREATE FUNCTION crm_internal.check_sending(m crm.object_map, f crm.field_map) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    option CONSTANT text := CASE WHEN NOT f.send_null THEN 'send_null => false' WHEN f.create_only THEN 'create_only => true'
                                 WHEN f.create_default IS NOT NULL THEN 'create_default' END;
    trouble text;
BEGIN
    IF f.direction = 'inbound' AND option IS NOT NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = format('column "%s" is inbound and cannot have %s', f.column_name, option),
            DETAIL = 'Its values are never sent to the CRM.',
            HINT = 'Use direction => ''outbound'' or ''bidirectional'', or omit the option.';
    END IF;
    trouble := crm_internal.default_trouble((SELECT c.provider FROM crm.connection c WHERE c.connection_id = m.connection_id),
                                            f.data_type, f.create_default);
    IF trouble IS NOT NULL THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('create_default of column "%s" cannot be sent as a %s', f.column_name, f.data_type),
            DETAIL = trouble,
            HINT = 'Give a JSON value of that type, such as ''"Web"'', ''42'' or ''["A", "B"]''; JSON null removes the default.';
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.check_sending(crm.object_map, crm.field_map) IS
    'raises invalid_parameter_value (22023) if options on how a field is sent do not fit its direction or data_type';

-- All that crm.map_field() and crm.alter_field() require of a field. Queries the CRM, so nothing may be locked yet.
CREATE FUNCTION crm_internal.check_field(m crm.object_map, f crm.field_map) RETURNS crm.field_map
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    type_id oid;
    suggested text;
BEGIN
    PERFORM crm_internal.check_choice('direction', f.direction, '{outbound,bidirectional,inbound}');
    PERFORM crm_internal.check_choice('on_conflict', f.on_conflict,
        '{crm_wins,local_wins,merge_with_audit,manual_review,immutable_after_bind,last_writer_wins}');
    IF coalesce(f.crm_field, '') = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'crm_field must name a field of the CRM object',
            HINT = 'It is the API name, such as Title (Salesforce) or jobtitle (HubSpot).';
    END IF;
    SELECT a.atttypid INTO type_id FROM pg_attribute a
    WHERE a.attrelid = m.relation AND a.attname = f.column_name AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        RAISE undefined_column USING
            MESSAGE = format('column "%s" of "%s" does not exist', f.column_name, m.relation),
            DETAIL = 'Columns: ' || (SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
                                     WHERE attrelid = m.relation AND attnum > 0 AND NOT attisdropped) || '.',
            HINT = 'Map one of its columns.';
    END IF;
    IF f.column_name = m.key_column AND f.direction <> 'outbound' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('the key column "%s" can only be mapped outbound', f.column_name),
            HINT = 'The key identifies the row; it never changes. external_id_field writes it into the CRM.';
    END IF;
    IF f.direction <> 'outbound' AND crm_internal.is_computed(m.relation, f.column_name) THEN
        RAISE invalid_parameter_value USING MESSAGE = format('the generated column "%s" can only be mapped outbound', f.column_name),
            DETAIL = 'Its value cannot be set, so it cannot receive values from the CRM.',
            HINT = 'Use direction => ''outbound'', or map the columns that it is computed from.';
    END IF;
    suggested := crm_internal.default_data_type(type_id);
    IF f.data_type IS NULL AND suggested IS NULL THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" has type %s, which suggests no data_type', f.column_name, format_type(type_id, NULL)),
            HINT = 'Pass data_type and a transform_out that converts the column to it.';
    END IF;
    f.data_type := coalesce(f.data_type, suggested);
    f.validation := coalesce(f.validation, '{}');
    PERFORM crm_internal.check_choice('data_type', f.data_type, '{text,number,boolean,date,timestamp,choice,multi_choice,reference,json}');
    IF f.transform_out IS NULL AND NOT crm_internal.type_fits(type_id, f.data_type) THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" of type %s cannot be a %s', f.column_name, format_type(type_id, NULL), f.data_type),
            HINT = format('Use data_type => ''%s'', or give a transform_out.', coalesce(suggested, 'text'));
    END IF;
    PERFORM crm_internal.check_transform('transform_out', f.transform_out, m.relation);
    PERFORM crm_internal.check_transform('transform_in', f.transform_in, m.relation);
    PERFORM crm_internal.check_rules(f.validation, f.data_type);
    IF f.data_type IN ('number', 'date', 'timestamp') AND f.validation ?| '{min,max,choices}'
        AND NOT crm_internal.type_fits(type_id, f.data_type) THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" of type %s cannot be compared as a %s', f.column_name, format_type(type_id, NULL), f.data_type),
            DETAIL = 'Rules are checked against the column, before its transform_out.',
            HINT = 'Omit min, max and choices, and have a CHECK constraint of the table or the transform reject bad values.';
    END IF;
    BEGIN
        PERFORM '' ~ (f.validation ->> 'pattern');
    EXCEPTION WHEN invalid_regular_expression THEN
        RAISE invalid_parameter_value USING MESSAGE = format('pattern is not a regular expression: %s', sqlerrm),
            HINT = 'Patterns are POSIX regular expressions, as the operator ~ takes them.';
    END;
    PERFORM crm_internal.check_sending(m, f);
    f.described := crm_internal.require_compatible(m, f);
    RETURN f;
END $$;
COMMENT ON FUNCTION crm_internal.check_field(crm.object_map, crm.field_map) IS
    'raises unless a column can be mapped so; returns the field with its data_type and what the CRM reports of it';

-- The map's definition is locked.
CREATE FUNCTION crm_internal.check_other_fields(m crm.object_map, f crm.field_map) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    other name;
    id int;
BEGIN
    PERFORM crm_internal.check_key_field(m, f.column_name, f.crm_field);
    SELECT o.column_name INTO other FROM crm.field_map o
    WHERE o.map_id = m.map_id AND o.crm_field = f.crm_field AND o.column_name <> f.column_name;
    IF FOUND THEN
        RAISE duplicate_object USING MESSAGE = format('CRM field "%s" is already mapped to column "%s"', f.crm_field, other),
            HINT = 'Two columns cannot write one CRM field; crm.unmap_field() the other first.';
    END IF;
    SELECT o.map_id INTO id FROM crm.field_map x JOIN crm.object_map o USING (map_id)
    WHERE o.connection_id = m.connection_id AND o.relation = m.relation AND o.crm_object = m.crm_object AND o.map_id <> m.map_id
      AND x.crm_field = f.crm_field;
    IF FOUND THEN
        RAISE duplicate_object USING MESSAGE = format('CRM field "%s" is already mapped by map %s', f.crm_field, id);
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.check_other_fields(crm.object_map, crm.field_map) IS
    'raises duplicate_object (42710) if another column is mapped to the CRM field';

-- Capture, validation and records in flight follow a change of a map's fields.
CREATE FUNCTION crm_internal.apply_fields(map_id int) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT crm_internal.bind_map(map_id);
    SELECT crm_internal.install_capture(map_id);
    SELECT crm_internal.resend_in_flight(map_id);
    SELECT crm_internal.notify_worker(false);
$$;
COMMENT ON FUNCTION crm_internal.apply_fields(int) IS 'makes a change of a map''s fields effective';

CREATE FUNCTION crm_internal.do_map_field(caller bytea, map_id int, column_name name, crm_field text, direction text,
                        data_type text, validation jsonb, on_conflict text, transform_out regprocedure,
                        transform_in regprocedure, materialize bool, send_null bool, create_only bool, create_default jsonb)
RETURNS smallint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    m crm.object_map := crm_internal.map_of(map_id);
    f crm.field_map;
BEGIN
    PERFORM crm_internal.require_owner(who, m.relation);
    PERFORM crm_internal.require_unmapped(m.map_id, column_name);
    f := (m.map_id, NULL, column_name, crm_field, direction, data_type, validation, on_conflict, transform_out, transform_in,
          coalesce(materialize, true), coalesce(send_null, true), coalesce(create_only, false), nullif(create_default, 'null'), NULL);
    f := crm_internal.check_field(m, f);
    m := crm_internal.locked_map(map_id);
    PERFORM crm_internal.require_unmapped(m.map_id, column_name); -- by another session
    PERFORM crm_internal.check_other_fields(m, f);
    IF f.direction <> 'outbound' THEN
        -- The CRM values of the field are not known yet: every record is read again.
        UPDATE crm.ingest_state s SET cursor = NULL WHERE s.map_id = m.map_id;
    END IF;
    UPDATE crm.object_map o SET next_field_id = next_field_id + 1 WHERE o.map_id = m.map_id RETURNING next_field_id - 1 INTO f.field_id;
    INSERT INTO crm.field_map SELECT f.*;
    PERFORM crm_internal.apply_fields(m.map_id);
    RETURN f.field_id;
END $$;
COMMENT ON FUNCTION crm_internal.do_map_field(bytea, int, name, text, text, text, jsonb, text, regprocedure, regprocedure, bool, bool, bool, jsonb) IS
    'crm.map_field() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm.map_field(map_id int, column_name name, crm_field text, direction text DEFAULT 'bidirectional',
                              data_type text DEFAULT NULL, validation jsonb DEFAULT '{}', on_conflict text DEFAULT 'crm_wins',
                              transform_out regprocedure DEFAULT NULL, transform_in regprocedure DEFAULT NULL,
                              materialize bool DEFAULT true, send_null bool DEFAULT true, create_only bool DEFAULT false,
                              create_default jsonb DEFAULT NULL) RETURNS smallint
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_map_field(crm_internal.caller(), map_id, column_name, crm_field, direction, data_type, validation,
                            on_conflict, transform_out, transform_in, materialize, send_null, create_only, create_default)
$$;
COMMENT ON FUNCTION crm.map_field(int, name, text, text, text, jsonb, text, regprocedure, regprocedure, bool, bool, bool, jsonb) IS
    'maps a column to a CRM field; crm.alter_field() changes the mapping. direction: outbound | bidirectional | inbound. '
    'validation: {"min", "max", "max_length", "nullable", "pattern", "choices"}. materialize: false: not written back. send_null: '
    'false: an empty cell is not sent, and never clears the CRM field. create_only: true: sent when a record is created, and never '
    'again. create_default: what a record is created with where the cell is empty, in the form of data_type. If the CRM responds, the field must exist and accept the '
    'values of the column (pg_crm.check_fields). Returns field_id. Errors: 42710 the column or the field is mapped already, 42703 no such '
    'column, 22023 invalid value, or an option that the direction rules out, 42804 the types do not fit, 42501 not the owner of the table';

CREATE FUNCTION crm_internal.do_unmap_field(caller bytea, map_id int, column_name name) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    m crm.object_map := crm_internal.map_of(map_id);
    f crm.field_map;
BEGIN
    IF EXISTS (SELECT FROM pg_class WHERE oid = m.relation) THEN
        PERFORM crm_internal.require_owner(who, m.relation);
    END IF;
    m := crm_internal.locked_map(map_id);
    f := crm_internal.field_of(map_id, column_name);
    DELETE FROM crm.field_map x WHERE x.map_id = m.map_id AND x.field_id = f.field_id;
    PERFORM crm_internal.apply_fields(m.map_id);
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
