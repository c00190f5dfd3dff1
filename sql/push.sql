-- Pushing rows that are there: their cells are queued as if they had been edited.

CREATE FUNCTION crm_internal.do_push(caller bytea, map_id int, columns name[], condition text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    m crm.object_map := crm_internal.map_of(map_id);
    c name;
    f crm.field_map;
    cells bytea;
    id bigint;
BEGIN
    PERFORM crm_internal.require_owner(who, m.relation);
    IF columns IS NOT NULL AND (cardinality(columns) = 0 OR array_position(columns, NULL) IS NOT NULL) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'columns must name columns', HINT = 'NULL, the default, means all of them.';
    END IF;
    FOREACH c IN ARRAY coalesce(columns, '{}') LOOP
        SELECT * INTO f FROM crm.field_map x WHERE x.map_id = m.map_id AND x.column_name = c;
        IF NOT FOUND THEN
            RAISE undefined_column USING MESSAGE = format('column "%s" is not mapped by map %s', c, map_id),
                DETAIL = coalesce('Mapped: ' || (SELECT string_agg(x.column_name, ', ' ORDER BY x.field_id) FROM crm.field_map x
                                                 WHERE x.map_id = m.map_id) || '.', 'No columns are mapped.'),
                HINT = 'crm.map_field() maps a column.';
        ELSIF crm_internal.flow(f) = 'none' THEN
            RAISE invalid_parameter_value USING
                MESSAGE = format('column "%s" is not written to the CRM', c),
                DETAIL = CASE WHEN f.direction = 'inbound' THEN 'Its direction is inbound.' WHEN f.create_only THEN 'It is mapped with create_only => true.'
                              ELSE 'It is mapped with materialize => false.' END,
                HINT = 'Only outbound and bidirectional columns can be pushed.';
        END IF;
        cells := crm_internal.cells_or(coalesce(cells, ''), crm_internal.cell_mask(f.field_id));
    END LOOP;
    IF crm_internal.map_cells(m.map_id) IS NULL THEN
        RAISE object_not_in_prerequisite_state USING MESSAGE = format('map %s has no column that is written to the CRM', map_id),
            HINT = 'crm.map_field() maps one.';
    END IF;
    IF length(condition) > 10000 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'the condition is longer than 10,000 characters',
            HINT = 'Mark the rows in a column of their own, and push those.';
    END IF;
    PERFORM crm_internal.check_condition(m.map_id, condition);
    INSERT INTO crm.scan_request (map_id, task, cells, condition, owner, reason, actor)
    VALUES (m.map_id, 'push', cells, condition, (SELECT pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = m.relation), 'crm.push()',
            crm_internal.actor())
    RETURNING request_id INTO id;
    PERFORM crm_internal.notify_worker(false);
    RETURN id;
END $$;
COMMENT ON FUNCTION crm_internal.do_push(bytea, int, name[], text) IS 'crm.push() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm.push(map_id int, columns name[] DEFAULT NULL, condition text DEFAULT NULL) RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_push(crm_internal.caller(), map_id, columns, condition)
$$;
COMMENT ON FUNCTION crm.push(int, name[], text) IS
    'queues rows that are there to be written to the CRM: all, or those for which a condition holds; all mapped columns, or some. Rows '
    'without a CRM record are created as a whole if on_insert is create, and skipped otherwise; bidirectional cells are compared with '
    'the CRM first, as edits based on what the ledger knows. condition: an SQL condition over the table''s columns, with '
    'immutable built-in functions, evaluated with the rights of the table''s owner, who alone may call this. Returns the push_id of crm.progress at once; '
    'the worker does the work in parts; crm.flush() waits for it. Errors: 42704 no such map, 42703 column not mapped, 22023 column not '
    'written or invalid condition, 42501 not the owner of the table';

CREATE FUNCTION crm_internal.do_cancel_push(caller bytea, push_id bigint) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    m crm.object_map;
BEGIN
    SELECT o.* INTO m FROM crm.scan_request r JOIN crm.object_map o USING (map_id) WHERE r.request_id = push_id AND r.task = 'push';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM crm_internal.require_owner(who, m.relation);
    -- A part that is being queued is completed first.
    DELETE FROM crm.scan_request r WHERE r.request_id = push_id;
    RETURN FOUND;
END $$;
COMMENT ON FUNCTION crm_internal.do_cancel_push(bytea, bigint) IS
    'crm.cancel_push() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm.cancel_push(push_id bigint) RETURNS bool
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_cancel_push(crm_internal.caller(), push_id)
$$;
COMMENT ON FUNCTION crm.cancel_push(bigint) IS
    'ends a push; what it has queued stays queued. Returns false if there is no such push (any more). Errors: 42501 not the owner of the '
    'table';
