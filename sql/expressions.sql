-- Expressions over columns, of which capture functions are made.

-- A column for the expressions of a capture function. That function does not run with its user's rights, and the casts
-- and operators of a user's type may be functions of that user: such a type is taken by its output alone.
CREATE FUNCTION crm_internal.safe_column(alias text, column_name name, type_id oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(CASE WHEN crm_internal.is_builtin(type_id) THEN '%1$s.%2$I'
                       ELSE 'CASE WHEN %1$s.%2$I IS DISTINCT FROM NULL THEN pg_catalog.format(''%%s'', %1$s.%2$I) END' END,
                  alias, column_name)
$$;
COMMENT ON FUNCTION crm_internal.safe_column(text, name, oid) IS 'an expression for a column that calls no function of a user';

-- The column expression whose change counts. Types of users, and those without an equality of PostgreSQL's own, are
-- compared as text, and text byte by byte: a collation may call different texts equal.
CREATE FUNCTION crm_internal.comparable(alias text, column_name name, type_id oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN NOT crm_internal.is_builtin(type_id) OR NOT EXISTS (
                    SELECT FROM pg_opclass o JOIN pg_am a ON a.oid = o.opcmethod
                    WHERE o.opcdefault AND a.amname IN ('btree', 'hash') AND o.opcnamespace = 'pg_catalog'::regnamespace
                      AND (o.opcintype = e.oid OR (o.opcintype = 'text'::regtype AND e.oid = 'varchar'::regtype)))
                THEN format('(%s)::pg_catalog.text COLLATE pg_catalog."C"', crm_internal.safe_column(alias, column_name, type_id))
                ELSE format('%s.%I%s', alias, column_name, CASE WHEN e.typcollation <> 0 THEN ' COLLATE pg_catalog."C"' END) END
    FROM pg_type t JOIN pg_type e ON e.oid = crm_internal.base_type(CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN t.typelem ELSE t.oid END)
    WHERE t.oid = crm_internal.base_type(type_id)
$$;
COMMENT ON FUNCTION crm_internal.comparable(text, name, oid) IS 'the expression whose change makes a cell changed';

-- The cell mask of a set of fields, as an expression over boolean conditions.
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
COMMENT ON FUNCTION crm_internal.mask_expression(smallint[], text[]) IS 'an expression for the mask of the cells whose conditions hold';

CREATE FUNCTION crm_internal.json_base(value anyelement) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN jsonb_build_object('v', to_jsonb(value));
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN '{}';
END $$;
COMMENT ON FUNCTION crm_internal.json_base(anyelement) IS
    'what an edit was based on, as crm.change has it; empty, so that the ledger''s hash counts, where jsonb does not take what the column held';

CREATE FUNCTION crm_internal.base_expression(value text, type_id oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- Of the types only json has values that jsonb refuses. No long value is copied: what the ledger knows of the CRM's is
    -- the base then.
    SELECT format('CASE WHEN pg_column_size(%1$s) > 2000 AND octet_length((%1$s)::text) > 32768 THEN ''{}'' ELSE '
                  || CASE WHEN crm_internal.base_type(type_id) IN ('json'::regtype, 'json[]'::regtype) THEN 'crm_internal.json_base(%1$s)'
                          ELSE 'jsonb_build_object(''v'', to_jsonb(%1$s))' END || ' END', value)
$$;
COMMENT ON FUNCTION crm_internal.base_expression(text, oid) IS 'an expression for what an edit of a column was based on';
