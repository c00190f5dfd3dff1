-- Expressions over columns, of which capture functions are made.

-- A column in the expressions of a capture function. That function runs as crm_engine, and the casts and operators of a
-- user-defined type may be functions of that user: only the output of such a type is used.
CREATE FUNCTION crm_internal.safe_column(alias text, column_name name, type_id oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(CASE WHEN crm_internal.is_builtin(type_id) THEN '%1$s.%2$I'
                       ELSE 'CASE WHEN %1$s.%2$I IS DISTINCT FROM NULL THEN pg_catalog.format(''%%s'', %1$s.%2$I) END' END,
                  alias, column_name)
$$;
COMMENT ON FUNCTION crm_internal.safe_column(text, name, oid) IS
    'an SQL expression for a column that calls no user-defined function except its type''s output';

-- User-defined types, and types without a built-in equality operator, are compared as text, and text byte by byte, since a
-- collation may consider different texts equal.
CREATE FUNCTION crm_internal.comparable(alias text, column_name name, type_id oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN NOT crm_internal.is_builtin(type_id) OR NOT EXISTS (
                    SELECT FROM pg_opclass o JOIN pg_am a ON a.oid = o.opcmethod
                    WHERE o.opcdefault AND a.amname IN ('btree', 'hash') AND o.opcnamespace = 'pg_catalog'::regnamespace
                      AND (o.opcintype = e.oid OR (o.opcintype = 'text'::regtype AND e.oid = 'varchar'::regtype)))
                THEN format('(%s)::pg_catalog.text COLLATE pg_catalog."C"', crm_internal.safe_column(alias, column_name, type_id))
                ELSE format('%s.%I%s', alias, column_name, CASE WHEN e.typcollation <> 0 THEN ' COLLATE pg_catalog."C"' END) END
    FROM pg_type t JOIN pg_type e ON e.oid = crm_internal.base_type(CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN t.typelem
        ELSE t.oid END)
    WHERE t.oid = crm_internal.base_type(type_id)
$$;
COMMENT ON FUNCTION crm_internal.comparable(text, name, oid) IS 'the SQL expression that is compared to find out whether a cell changed';

CREATE FUNCTION crm_internal.mask_expression(field_ids smallint[], conditions text[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(format('int8send((%s)::bigint)', coalesce(bits, '0')), ' || ' ORDER BY w)
    FROM (SELECT w, string_agg(CASE WHEN condition = 'true' THEN format('(1::bigint << %s)', id % 64)
                                    ELSE format('CASE WHEN %s THEN (1::bigint << %s) ELSE 0 END', condition, id % 64) END,
                               ' | ' ORDER BY id) AS bits
          FROM generate_series(0, (SELECT max(id) / 64 FROM unnest(field_ids) AS id)) AS w
          LEFT JOIN unnest(field_ids, conditions) AS c (id, condition) ON id / 64 = w
          GROUP BY w) words
$$;
COMMENT ON FUNCTION crm_internal.mask_expression(smallint[], text[]) IS 'an SQL expression for the mask of the cells whose conditions hold';

CREATE FUNCTION crm_internal.json_member(name text, value anyelement) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN jsonb_build_object(name, to_jsonb(value));
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN '{}';
END $$;
COMMENT ON FUNCTION crm_internal.json_member(text, anyelement) IS
    'a JSON object with one member; empty if jsonb cannot represent the value, so that the ledger''s hash is the base of an edit';

CREATE FUNCTION crm_internal.base_expression(old text, new text, type_id oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- Only json has values that jsonb cannot represent. Long values are not copied: the ledger's hash is the base then.
    SELECT format('CASE WHEN %3$s THEN CASE WHEN %4$s THEN ''{}'' ELSE %6$s END WHEN %4$s THEN %5$s ELSE '
                  || CASE WHEN is_json THEN '%5$s || %6$s' ELSE 'jsonb_build_object(''v'', to_jsonb(%1$s), ''n'', to_jsonb(%2$s))' END || ' END',
                  old, new, format(is_long, old), format(is_long, new), format(member, 'v', old), format(member, 'n', new))
    FROM (SELECT 'pg_column_size(%1$s) > 2000 AND octet_length((%1$s)::text) > 32768' AS is_long,
                 crm_internal.base_type(type_id) IN ('json'::regtype, 'json[]'::regtype) AS is_json) t,
         LATERAL (SELECT CASE WHEN is_json THEN 'crm_internal.json_member(%L, %s)' ELSE 'jsonb_build_object(%L, to_jsonb(%s))' END AS member) m
$$;
COMMENT ON FUNCTION crm_internal.base_expression(text, text, oid) IS
    'an SQL expression for the base of an edit of a column, and its new value';
