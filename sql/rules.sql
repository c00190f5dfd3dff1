-- Validation rules of field mappings as SQL conditions.

-- A timestamp without time zone is UTC; digits alone are milliseconds since the epoch.
CREATE FUNCTION crm_internal.bound(value text, data_type text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO' AS $$
    SELECT CASE data_type
           WHEN 'number' THEN format('%L::numeric', value)
           WHEN 'date' THEN format('%L::date', moment::date)
           ELSE format('%L::timestamptz', moment) END
    FROM (SELECT CASE WHEN data_type = 'number' THEN NULL
                      WHEN value ~ '^-?[0-9]+([.][0-9]+)?$' THEN to_timestamp(value::numeric / 1000)
                      ELSE value::timestamptz END AS moment) m
$$;
COMMENT ON FUNCTION crm_internal.bound(text, text) IS 'the min or max of a rule as an SQL literal that means the same in every session';

CREATE FUNCTION crm_internal.rule_conditions(f crm.field_map, type_id oid, alias text)
RETURNS TABLE (rule text, condition text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v text := format('(%s)', crm_internal.safe_column(alias, f.column_name, type_id));
    base regtype := crm_internal.base_type(type_id);
    is_array bool := (SELECT typcategory = 'A' FROM pg_type WHERE oid = type_id);
    -- The value as the CRM is sent it. A blank text is NULL for the CRM, so only `nullable` applies to it.
    filled text := format('crm_internal.filled(%s::text)', v);
    words text := format(CASE WHEN is_array THEN 'crm_internal.words(to_jsonb(%s::text[])::text)' ELSE 'crm_internal.words(%s::text)' END,
        v);
    ordered text := CASE f.data_type
        WHEN 'number' THEN format('%s::numeric', v)
        WHEN 'date' THEN format(CASE WHEN base = 'timestamptz'::regtype THEN '(%s AT TIME ZONE ''UTC'')::date' ELSE '%s::date' END, v)
        ELSE format(CASE WHEN base IN ('date'::regtype, 'timestamp'::regtype) THEN '(%s::timestamp AT TIME ZONE ''UTC'')'
                         ELSE '%s::timestamptz' END, v) END;
BEGIN
    IF f.validation -> 'nullable' = 'false' THEN
        RETURN QUERY SELECT 'nullable: false', CASE
            WHEN is_array OR f.data_type = 'multi_choice' THEN format('%s IS NULL', words)
            -- A text that begins with a visible ASCII character is not blank: a cheap test for most rows.
            WHEN f.data_type IN ('text', 'choice', 'reference') THEN
                format('(%1$s IS NULL OR ascii(%1$s::text) NOT BETWEEN 33 AND 126 AND %2$s IS NULL)', v, filled)
            -- JSON null is no value either.
            WHEN f.data_type = 'json' THEN format('coalesce(%s, ''null'') = ''null''', filled)
            ELSE format('%s IS NULL', v) END;
    END IF;
    IF f.validation ? 'min' THEN
        RETURN QUERY SELECT 'min: ' || (f.validation ->> 'min'),
            format('%s < %s', ordered, crm_internal.bound(f.validation ->> 'min', f.data_type));
    END IF;
    IF f.validation ? 'max' THEN
        RETURN QUERY SELECT 'max: ' || (f.validation ->> 'max'),
            format('%s > %s', ordered, crm_internal.bound(f.validation ->> 'max', f.data_type));
    END IF;
    IF f.validation ? 'max_length' THEN
        -- No text has more UTF-16 units than bytes, so most rows need not be counted.
        RETURN QUERY SELECT 'max_length: ' || (f.validation ->> 'max_length'),
            format('octet_length(%1$s::text) > %3$s AND crm_internal.text_length(%2$s) > %3$s',
                   v, filled, (f.validation ->> 'max_length')::bigint);
    END IF;
    IF f.validation ? 'pattern' THEN
        RETURN QUERY SELECT 'pattern: ' || (f.validation ->> 'pattern'),
            format('%s !~ %L', filled, f.validation ->> 'pattern');
    END IF;
    IF f.validation ? 'choices' THEN
        RETURN QUERY SELECT 'choices: ' || array_to_string(ARRAY(SELECT jsonb_array_elements_text(f.validation -> 'choices')), ', '),
            CASE WHEN is_array OR f.data_type = 'multi_choice' THEN
                format('NOT (%s <@ %L::text[])', words, ARRAY(SELECT jsonb_array_elements_text(f.validation -> 'choices')))
            WHEN f.data_type = 'number' THEN
                format('%s <> ALL (%L::numeric[])', ordered, ARRAY(SELECT jsonb_array_elements_text(f.validation -> 'choices')))
            ELSE
                -- Choices are written as the CRM is sent them, so the first comparison is enough for most rows.
                format('%1$s::text <> ALL (%3$L::text[]) AND %2$s <> ALL (%3$L::text[])', v, filled,
                       ARRAY(SELECT jsonb_array_elements_text(f.validation -> 'choices')))
            END;
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.rule_conditions(crm.field_map, oid, text) IS
    'one row per validation rule of a field: its text, and the SQL condition that is true if a row violates it';

CREATE FUNCTION crm_internal.refuse_violations(relation regclass, violations text[]) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE check_violation USING
        MESSAGE = format('new values of relation "%s" violate the rules of its CRM mapping', relation),
        DETAIL = array_to_string(violations[1:5], E'\n')
                 || CASE WHEN cardinality(violations) > 5 THEN E'\n…' ELSE '' END,
        HINT = 'The rules are in crm.field_map.validation; crm.alter_field() changes them.',
        SCHEMA = (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation),
        TABLE = (SELECT c.relname FROM pg_class c WHERE c.oid = relation);
END $$;
COMMENT ON FUNCTION crm_internal.refuse_violations(regclass, text[]) IS 'raises check_violation (23514) with the first five violations';
