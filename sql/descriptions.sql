-- Field descriptions from CRMs, and checks of mappings against them.

CREATE FUNCTION crm_internal.ask_fields(connection_id int, crm_object text, fresh bool) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer jsonb;
BEGIN
    BEGIN
        answer := crm_internal.ask_worker(jsonb_build_object('op', 'describe', 'connection_id', connection_id, 'object', crm_object,
            'fresh', fresh),
                                 CASE WHEN fresh THEN 60000 ELSE 5000 END);
    EXCEPTION WHEN object_not_in_prerequisite_state THEN
        answer := jsonb_build_object('failure', jsonb_build_object('class', 'transient', 'code', 'no_worker', 'message', sqlerrm));
    END;
    IF answer ?| '{description,failure}' THEN
        RETURN answer;
    END IF;
    RETURN jsonb_build_object('failure', jsonb_build_object('class', 'transient', 'code', 'timeout',
        'message', coalesce(answer ->> 'error', 'no response in time')));
END $$;
COMMENT ON FUNCTION crm_internal.ask_fields(int, text, bool) IS
    'queries the CRM for the fields of an object through the worker: {"description"} or {"failure"}. Not fresh: a cached description '
    'is enough, and a connection in back-off is not used';

-- An unknown path is not an unknown object.
CREATE FUNCTION crm_internal.is_unknown_object(failure jsonb) RETURNS bool
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(failure ->> 'class' = 'mapping' AND failure ->> 'code' NOT LIKE 'http%', false)
$$;
COMMENT ON FUNCTION crm_internal.is_unknown_object(jsonb) IS 'whether a failure says that the CRM has no such object';

CREATE FUNCTION crm.describe(connection text, crm_object text)
RETURNS TABLE (name text, data_type text, crm_type text, label text, max_length int, required bool, read_only bool, createable bool,
               updateable bool, is_key bool, choices text[], choice_labels text[])
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    c crm.connection := crm_internal.connection_named(connection);
    answer jsonb;
BEGIN
    IF coalesce(crm_object, '') = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'crm_object must name the CRM''s object',
            HINT = 'For example Contact (Salesforce) or contacts (HubSpot).';
    END IF;
    answer := crm_internal.ask_fields(c.connection_id, crm_object, true);
    IF crm_internal.is_unknown_object(answer -> 'failure') THEN
        RAISE undefined_object USING
            MESSAGE = format('connection "%s" has no object "%s"', connection, crm_object),
            DETAIL = answer #>> '{failure,message}',
            HINT = 'It is the API name, such as Contact (Salesforce) or contacts (HubSpot); the connection''s user must see it.';
    ELSIF answer ? 'failure' THEN
        RAISE connection_failure USING
            MESSAGE = format('connection "%s" could not be queried for the fields of "%s"', connection, crm_object),
            DETAIL = format('%s (%s)', answer #>> '{failure,message}', answer #>> '{failure,code}'),
            HINT = 'See crm.test_connection() and crm.status for the state of the connection.';
    END IF;
    RETURN QUERY
        SELECT f.name, f.data_types ->> 0, f.crm_type, f.label, f.max_length, f.required, NOT (f.createable OR f.updateable),
               f.createable, f.updateable, f.is_key,
               (SELECT array_agg(o.value ->> 'value' ORDER BY o.n) FROM jsonb_array_elements(f.choices) WITH ORDINALITY AS o (value, n)),
               (SELECT array_agg(o.value ->> 'label' ORDER BY o.n) FROM jsonb_array_elements(f.choices) WITH ORDINALITY AS o (value, n))
        FROM jsonb_to_recordset(answer #> '{description,fields}')
             AS f (name text, label text, data_types jsonb, crm_type text, max_length int, required bool, createable bool,
                   updateable bool, is_key bool, choices jsonb)
        ORDER BY f.name COLLATE "C";
END $$;
COMMENT ON FUNCTION crm.describe(text, text) IS
    'queries the CRM for the fields of an object. data_type: as in crm.map_field(), NULL: not known; crm_type: the vendor''s type; '
    'required: needed to create a record; is_key: can be an external_id_field; choices: values, choice_labels: their labels in the CRM. '
    'Errors: 42704 no such connection or object, 08006 the CRM did not respond, or returned an error';

CREATE FUNCTION crm_internal.text_bound(relation regclass, column_name name) RETURNS int
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN b.typcategory = 'E' THEN (SELECT max(crm_internal.text_length(e.enumlabel)) FROM pg_enum e WHERE e.enumtypid = b.oid)
        WHEN b.typcategory <> 'S' THEN 64 -- a number, a timestamp, a uuid
        WHEN b.oid IN ('varchar'::regtype, 'bpchar'::regtype)
            THEN nullif(greatest(CASE WHEN a.atttypmod > 0 THEN a.atttypmod ELSE t.typtypmod END - 4, 0), 0)
        END
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_type b ON b.oid = crm_internal.base_type(t.oid)
    WHERE a.attrelid = relation AND a.attname = column_name AND a.attnum > 0 AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION crm_internal.text_bound(regclass, name) IS 'maximum text length of a column''s type, in characters; NULL: unlimited';

CREATE FUNCTION crm_internal.mapping_json(m crm.object_map, fields crm.field_map[]) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('on_insert', m.on_insert, 'external_id_field', m.external_id_field, 'fields',
        coalesce(jsonb_agg(jsonb_build_object(
            'column', f.column_name, 'crm_field', f.crm_field, 'direction', f.direction, 'data_type', f.data_type,
            'materialize', f.materialize, 'is_transformed', f.transform_out IS NOT NULL,
            'is_transformed_in', f.transform_in IS NOT NULL,
            'column_type', coalesce((SELECT crm_internal.type_beneath(a.atttypid, a.atttypmod) FROM pg_attribute a
                                     WHERE a.attrelid = m.relation AND a.attname = f.column_name AND a.attnum > 0 AND NOT a.attisdropped),
                                         ''),
            'max_length', least((f.validation ->> 'max_length')::bigint, crm_internal.text_bound(m.relation, f.column_name)),
            'choices', (SELECT jsonb_agg(v #>> '{}') FROM jsonb_array_elements(f.validation -> 'choices') v)) ORDER BY f.field_id), '[]'))
    FROM unnest(fields) f
$$;
COMMENT ON FUNCTION crm_internal.mapping_json(crm.object_map, crm.field_map[]) IS
    'a mapping in the form that crm_internal.judge_mapping() takes';

CREATE FUNCTION crm_internal.described_field(description jsonb, crm_field text) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'name', d -> 'name', 'crm_type', d -> 'crm_type', 'scale', d -> 'scale', 'max_length', d -> 'max_length',
        'createable', d -> 'createable', 'updateable', d -> 'updateable',
        'choices', (SELECT jsonb_agg(jsonb_build_object('value', c -> 'value')) FROM jsonb_array_elements(d -> 'choices') c)))
    FROM jsonb_array_elements(description -> 'fields') d WHERE d ->> 'name' = crm_field
$$;
COMMENT ON FUNCTION crm_internal.described_field(jsonb, text) IS
    'the part of a CRM''s description that is stored in crm.field_map for a field; NULL: it does not include the field';

-- The worker needs it to compare keys.
CREATE FUNCTION crm_internal.note_key_field(m crm.object_map, description jsonb) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    UPDATE crm.object_map o SET key_is_case_sensitive = (d ->> 'is_case_sensitive')::bool, key_max_length = (d ->> 'max_length')::int
    FROM jsonb_array_elements(description -> 'fields') d
    WHERE o.map_id = m.map_id AND d ->> 'name' = m.external_id_field
      AND (o.key_is_case_sensitive, o.key_max_length) IS DISTINCT FROM ((d ->> 'is_case_sensitive')::bool, (d ->> 'max_length')::int)
$$;
COMMENT ON FUNCTION crm_internal.note_key_field(crm.object_map, jsonb) IS 'stores what a CRM reports of the external_id_field of a map';

CREATE FUNCTION crm.check_mapping(map_id int) RETURNS TABLE (field text, severity text, code text, message text, hint text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    m crm.object_map := crm_internal.map_of(map_id);
    answer jsonb := crm_internal.ask_fields(m.connection_id, m.crm_object, true);
    finding record;
    room int;
    longest int;
BEGIN
    IF answer ? 'failure' THEN
        severity := 'error';
        message := format('%s (%s)', answer #>> '{failure,message}', answer #>> '{failure,code}');
        IF crm_internal.is_unknown_object(answer -> 'failure') THEN
            code := 'unknown_object';
            hint := format('The CRM has no object "%s" that the connection''s user may see.', m.crm_object);
        ELSE
            code := 'no_answer';
            hint := 'Nothing could be checked; see crm.test_connection() and crm.status for the state of the connection.';
        END IF;
        RETURN NEXT;
        RETURN;
    END IF;
    IF NOT current_setting('transaction_read_only')::bool THEN
        UPDATE crm.field_map f SET described = crm_internal.described_field(answer -> 'description', f.crm_field)
        WHERE f.map_id = m.map_id AND f.described IS DISTINCT FROM crm_internal.described_field(answer -> 'description', f.crm_field);
        PERFORM crm_internal.note_key_field(m, answer -> 'description');
    END IF;
    FOR finding IN
        SELECT j.field, j.severity, j.code, j.message, j.hint, f.column_name
        FROM jsonb_to_recordset(crm_internal.judge_mapping(answer -> 'description', crm_internal.mapping_json(m,
                 ARRAY(SELECT x FROM crm.field_map x WHERE x.map_id = m.map_id))))
             AS j (field text, severity text, code text, message text, hint text)
        LEFT JOIN crm.field_map f ON f.map_id = m.map_id AND f.crm_field = j.field
    LOOP
        field := finding.field;
        severity := finding.severity;
        code := finding.code;
        message := finding.message;
        hint := finding.hint;
        IF code IN ('too_long', 'unbounded') THEN
            SELECT (d ->> 'max_length')::int INTO room FROM jsonb_array_elements(answer #> '{description,fields}') d
                WHERE d ->> 'name' = field;
            longest := crm_internal.longest_text(m.relation, finding.column_name);
            IF longest > room THEN
                severity := 'warning';
                code := 'content_too_long';
                message := format('"%s" is limited to %s characters, but column "%s" has texts of up to %s', field, room,
                    finding.column_name, longest);
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION crm.check_mapping(int) IS
    'queries the CRM for the fields of the object of a map, and returns the problems of the mapping; no row: none. severity: error (it '
    'cannot work), warning (it will fail for some records), info. field: the CRM field, or NULL. Columns of unlimited length are read, '
    'as the owner of the table. Errors: 42704 no such map';

-- For crm.map_field(): raises certain problems and reports the others. An outage of the CRM must not prevent mapping.
CREATE FUNCTION crm_internal.require_compatible(m crm.object_map, f crm.field_map) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    connection text := (SELECT c.name FROM crm.connection c WHERE c.connection_id = m.connection_id);
    refuses CONSTANT bool := current_setting('pg_crm.check_fields') = 'error';
    fields crm.field_map[] := ARRAY(SELECT x FROM crm.field_map x WHERE x.map_id = m.map_id AND x.column_name <> f.column_name) || f;
    fresh bool;
    answer jsonb;
    findings jsonb;
    finding record;
BEGIN
    IF current_setting('pg_crm.check_fields') = 'off' THEN
        RETURN NULL;
    END IF;
    -- A field that was just created in the CRM must not be rejected because of a cached description.
    FOREACH fresh IN ARRAY '{false,true}'::bool[] LOOP
        answer := crm_internal.ask_fields(m.connection_id, m.crm_object, fresh);
        EXIT WHEN answer ? 'failure';
        findings := crm_internal.judge_mapping(answer -> 'description', crm_internal.mapping_json(m, fields));
        EXIT WHEN NOT (answer ->> 'is_kept')::bool
            OR NOT jsonb_path_exists(findings, '$[*] ? (@.field == $name && @.severity == "error")',
                jsonb_build_object('name', f.crm_field))
               -- Its description of the external_id_field is stored.
               AND (m.external_id_field IS NULL
                    OR jsonb_path_exists(answer, '$.description.fields[*] ? (@.name == $name)',
                        jsonb_build_object('name', m.external_id_field)));
    END LOOP;
    IF crm_internal.is_unknown_object(answer -> 'failure') THEN
        findings := jsonb_build_array(jsonb_build_object('field', f.crm_field, 'severity', 'error', 'code', 'unknown_object',
            'message', format('the CRM has no object "%s"', m.crm_object), 'hint', answer #>> '{failure,message}'));
    ELSIF answer ? 'failure' THEN
        RAISE NOTICE USING
            MESSAGE = format('CRM field "%s" was not checked: the CRM was not queried, or did not respond', f.crm_field),
            DETAIL = format('Connection "%s": %s (%s).', connection, answer #>> '{failure,message}', answer #>> '{failure,code}'),
            HINT = format('Check the mapping later with crm.check_mapping(%s).', m.map_id);
        RETURN NULL;
    ELSE
        PERFORM crm_internal.note_key_field(m, answer -> 'description');
    END IF;
    FOR finding IN
        SELECT * FROM jsonb_to_recordset(findings) AS j (field text, severity text, code text, message text, hint text)
        WHERE j.field = f.crm_field OR j.code = 'required_unmapped'
    LOOP
        IF finding.severity = 'error' AND refuses THEN
            RAISE EXCEPTION USING
                ERRCODE = CASE finding.code WHEN 'unknown_field' THEN 'undefined_column' WHEN 'unknown_object' THEN 'undefined_object'
                                            WHEN 'type_mismatch' THEN 'datatype_mismatch' ELSE 'invalid_parameter_value' END,
                MESSAGE = finding.message,
                DETAIL = format('Connection "%s" was asked for the fields of "%s".', connection, m.crm_object),
                HINT = finding.hint;
        ELSIF finding.code = 'required_unmapped' THEN
            -- It may be the next to be mapped.
            RAISE NOTICE USING MESSAGE = finding.message, HINT = finding.hint;
        ELSIF finding.severity IN ('error', 'warning') THEN
            RAISE WARNING USING MESSAGE = finding.message, HINT = finding.hint;
        END IF;
    END LOOP;
    RETURN crm_internal.described_field(answer -> 'description', f.crm_field);
END $$;
COMMENT ON FUNCTION crm_internal.require_compatible(crm.object_map, crm.field_map) IS
    'raises an error if the CRM''s description rules the mapping out (pg_crm.check_fields), warns about what is doubtful, and returns '
    'the CRM''s description of the field (NULL: none)';
