-- Which column types can be mapped, and to which data types.

CREATE FUNCTION crm_internal.default_data_type(type_id oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN e.typcategory = 'A' AND el.typcategory IN ('S', 'E') THEN 'multi_choice'
        WHEN e.oid IN ('json'::regtype, 'jsonb'::regtype) OR e.typcategory = 'C' THEN 'json'
        WHEN e.typcategory = 'N' AND e.oid <> ALL ('{money,oid,regclass,regproc,regtype}'::regtype[]) THEN 'number'
        WHEN e.typcategory = 'B' THEN 'boolean'
        WHEN e.oid = 'date'::regtype THEN 'date'
        WHEN e.oid IN ('timestamptz'::regtype, 'timestamp'::regtype) THEN 'timestamp'
        WHEN e.typcategory = 'E' THEN 'choice'
        WHEN e.typcategory = 'S' OR e.oid = 'uuid'::regtype THEN 'text'
        END
    FROM pg_type t JOIN pg_type e ON e.oid = crm_internal.base_type(t.oid)
         LEFT JOIN pg_type el ON el.oid = e.typelem
    WHERE t.oid = type_id
$$;
COMMENT ON FUNCTION crm_internal.default_data_type(oid) IS 'the default data_type of a column type; NULL: there is none';

CREATE FUNCTION crm_internal.type_fits(type_id oid, data_type text) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (data_type = suggested OR data_type = 'text'
            OR (suggested = 'text' AND data_type IN ('choice', 'multi_choice', 'reference'))
            OR (suggested = 'choice' AND data_type = 'reference')
            OR (suggested = 'timestamp' AND data_type = 'date') OR (suggested = 'date' AND data_type = 'timestamp')
            OR (suggested = 'multi_choice' AND data_type = 'json')) IS TRUE
    FROM crm_internal.default_data_type(type_id) AS suggested
$$;
COMMENT ON FUNCTION crm_internal.type_fits(oid, text) IS 'whether columns of a type can be mapped as that data_type without a transform';

CREATE FUNCTION crm_internal.is_computed(relation oid, column_name name) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = is_computed.relation AND a.attname = is_computed.column_name
                     AND NOT a.attisdropped AND (a.attgenerated <> '' OR a.attidentity = 'a'))
$$;
COMMENT ON FUNCTION crm_internal.is_computed(oid, name) IS
    'whether a column cannot be set by UPDATE: it is generated, or an identity column GENERATED ALWAYS';

CREATE FUNCTION crm_internal.is_of_citus(relation regclass) RETURNS bool
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_so bool := false;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN
        EXECUTE 'SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition p WHERE p.logicalrelid = $1)' INTO is_so USING relation;
    END IF;
    RETURN is_so;
END $$;
COMMENT ON FUNCTION crm_internal.is_of_citus(regclass) IS
    'whether a table is managed by Citus: distributed, reference, or local with metadata';

CREATE FUNCTION crm_internal.is_made_of(type_id oid, part oid) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE parts (oid) AS (
        SELECT type_id
        UNION
        SELECT x.oid
        FROM parts p JOIN pg_type t ON t.oid = p.oid
        LEFT JOIN pg_range r ON t.oid IN (r.rngtypid, r.rngmultitypid)
        CROSS JOIN LATERAL (SELECT unnest(ARRAY[t.typbasetype, t.typelem, r.rngsubtype])
                            UNION ALL
                            SELECT a.atttypid FROM pg_attribute a
                            WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS x (oid)
        WHERE x.oid <> 0)
    SELECT EXISTS (SELECT FROM parts p WHERE p.oid = part)
$$;
COMMENT ON FUNCTION crm_internal.is_made_of(oid, oid) IS
    'whether a type is the other one or is made of it: a domain, array, range or composite type of it';
