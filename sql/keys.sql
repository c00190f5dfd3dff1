-- Which columns can be keys, and the text of a key.

CREATE FUNCTION crm_internal.is_key_type(type_id oid) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT crm_internal.base_type(type_id) = ANY ('{smallint,integer,bigint,numeric,uuid,text,varchar,bpchar}'::regtype[])
$$;
COMMENT ON FUNCTION crm_internal.is_key_type(oid) IS
    'whether a column of that type can be a key, which means that its text is the same in every session';

-- A value of these types has one text once settings are pinned (crm_internal.pinned_settings()) and
-- crm_internal.key_expression() has trimmed the scale.
CREATE FUNCTION crm_internal.is_shard_type(type_id oid) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT crm_internal.is_key_type(type_id)
        OR crm_internal.base_type(type_id) = ANY (ARRAY['boolean', '"char"', 'name', 'oid', 'date', 'timestamp', 'timestamptz', 'real',
            'double precision']::regtype[])
        OR (SELECT typtype = 'e' FROM pg_type WHERE oid = crm_internal.base_type(type_id))
$$;
COMMENT ON FUNCTION crm_internal.is_shard_type(oid) IS
    'whether a column of that type can be a shard_column, which means that equal values have the same text';

-- By its catalog name: "character" would be character(1). Without a modifier, which would truncate or round the key.
CREATE FUNCTION crm_internal.cast_type(type_id oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'pg_catalog.' || quote_ident(t.typname) FROM pg_type t WHERE t.oid = crm_internal.base_type(type_id)
        AND crm_internal.is_builtin(t.oid)
$$;
COMMENT ON FUNCTION crm_internal.cast_type(oid) IS
    'the type to which the text of a key is cast to look up a row; NULL: a user-defined type';

-- The only place that defines the text of a key, for capture, the worker and arguments alike. Equal values have the same text:
-- 71.0 and 71.00 are '71', 0 and -0 are '0'.
CREATE FUNCTION crm_internal.key_expression(expression text, type_id oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(CASE
        -- The casts of a user-defined type may be functions of that user.
        WHEN NOT crm_internal.is_builtin(type_id)
            THEN 'CASE WHEN (%1$s) IS DISTINCT FROM NULL THEN pg_catalog.format(''%%s'', %1$s) END'
        WHEN crm_internal.base_type(type_id) = 'numeric'::regtype THEN 'pg_catalog.trim_scale(%1$s)::pg_catalog.text'
        WHEN crm_internal.base_type(type_id) = ANY ('{real,double precision}'::regtype[])
            THEN 'CASE WHEN (%1$s) OPERATOR(pg_catalog.=) 0 THEN ''0'' ELSE (%1$s)::pg_catalog.text END'
        ELSE '(%1$s)::pg_catalog.text' END, expression)
$$;
COMMENT ON FUNCTION crm_internal.key_expression(text, oid) IS
    'an SQL expression for the record_key or shard_key of an expression of that type';

-- The text of a key argument as crm_internal.key_expression() would produce it: '01' is '1' for an integer column, '01' for a text.
CREATE FUNCTION crm_internal.key_text(value text, type_id oid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, MDY' SET timezone = 'UTC' SET extra_float_digits = 1 AS $$
DECLARE
    spelled text;
BEGIN
    IF value IS NULL OR NOT crm_internal.is_builtin(type_id) OR crm_internal.base_type(type_id) = ANY ('{text,varchar,name}'::regtype[])
       OR NOT crm_internal.is_shard_type(type_id) THEN
        RETURN value;
    END IF;
    EXECUTE format('SELECT %s', crm_internal.key_expression('$1::' || crm_internal.cast_type(type_id),
        crm_internal.base_type(type_id))) INTO spelled USING value;
    RETURN spelled;
END $$;
COMMENT ON FUNCTION crm_internal.key_text(text, oid) IS
    'the canonical text of a key of a column of that type; raises the error of the type if it is not a valid value';

CREATE FUNCTION crm_internal.is_nondeterministic(relation oid, column_name name) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_attribute a JOIN pg_collation c ON c.oid = a.attcollation
                   WHERE a.attrelid = relation AND a.attname = column_name AND NOT a.attisdropped AND NOT c.collisdeterministic)
$$;
COMMENT ON FUNCTION crm_internal.is_nondeterministic(oid, name) IS
    'whether a column has a nondeterministic collation, so that different texts can be equal';

CREATE FUNCTION crm_internal.is_unique(relation oid, column_name name) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_index x JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = x.indkey[0]
        WHERE x.indrelid = relation AND x.indisunique AND x.indpred IS NULL AND x.indexprs IS NULL AND x.indisvalid
          AND x.indnkeyatts = 1 AND a.attname = column_name)
$$;
COMMENT ON FUNCTION crm_internal.is_unique(oid, name) IS 'whether a unique index covers that column alone';

CREATE FUNCTION crm_internal.is_key(relation regclass, key_column name, shard_column name) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_index x
        WHERE x.indrelid = relation AND x.indisunique AND x.indpred IS NULL AND x.indexprs IS NULL AND x.indisvalid
          AND (SELECT array_agg(a.attname ORDER BY a.attname)
               FROM unnest(x.indkey[0:x.indnkeyatts - 1]) AS k (attnum) JOIN pg_attribute a ON a.attrelid = relation
                   AND a.attnum = k.attnum)
              IN (ARRAY[key_column], (SELECT array_agg(n ORDER BY n) FROM unnest(ARRAY[key_column, shard_column]) AS n)))
$$;
COMMENT ON FUNCTION crm_internal.is_key(regclass, name, name) IS
    'whether a unique index covers the key column, alone or with the shard column';
