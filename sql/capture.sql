-- Validation and change capture: one statement-level trigger per event on each mapped table, all three
-- calling one function that is generated per map (read it with \sf crm.capture_<map_id>).
--
-- Each statement is validated and recorded in one set-based pass over its transition tables. The
-- function appends to crm.change and touches nothing that the worker locks.

-- Where a statement's changes are appended. The one place that decides it: in a sharded deployment the
-- answer is the shard that lies beside the shard being written.
CREATE FUNCTION crm.change_target() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT 'crm.change' $$;
COMMENT ON FUNCTION crm.change_target() IS 'the table to which capture appends';

-- So many keys of usual length fit into a page.
CREATE FUNCTION crm.change_part() RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT 250 $$;
COMMENT ON FUNCTION crm.change_part() IS 'how many records a row of crm.change names at most';

CREATE FUNCTION crm.refuse_violations(relation regclass, violations text[]) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE check_violation USING
        MESSAGE = format('new values of relation "%s" break the rules of its CRM mapping', relation),
        DETAIL = array_to_string(violations[1:5], E'\n')
                 || CASE WHEN cardinality(violations) > 5 THEN E'\n…' ELSE '' END,
        HINT = 'The rules are in crm.field_map.validation; crm.map_field() changes them.',
        SCHEMA = (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation),
        TABLE = (SELECT c.relname FROM pg_class c WHERE c.oid = relation);
END $$;
COMMENT ON FUNCTION crm.refuse_violations(regclass, text[]) IS 'raises check_violation with the first five broken rules';

CREATE FUNCTION crm.refuse_key_change(relation regclass, record_key text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE feature_not_supported USING
        MESSAGE = format('the key of a mapped row of "%s" cannot be changed', relation),
        DETAIL = format('The row with record_key "%s" would get another key, and its CRM record would lose its row.', record_key),
        HINT = 'Insert a row with the new key and delete the old one, or crm.unmap_object() first.';
END $$;
COMMENT ON FUNCTION crm.refuse_key_change(regclass, text) IS 'raises: the key of a mapped row is its identity';

CREATE FUNCTION crm.refuse_truncate() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE feature_not_supported USING
        MESSAGE = format('cannot truncate "%s": it is mapped to a CRM and its deletes are followed', TG_RELID::regclass),
        HINT = 'Use DELETE, or map it with on_delete => ''ignore''.';
END $$;
COMMENT ON FUNCTION crm.refuse_truncate() IS 'trigger: TRUNCATE tells no rows, so on_delete could not be followed';

CREATE FUNCTION crm.refuse_leaf_write() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE feature_not_supported USING
        MESSAGE = format('cannot write to partition "%s" directly: its parent is mapped to a CRM', TG_RELID::regclass),
        DETAIL = 'A statement on the partition alone would escape validation and change capture.',
        HINT = 'Write through the partitioned table.';
END $$;
COMMENT ON FUNCTION crm.refuse_leaf_write() IS 'trigger: statements on a partition alone would not be captured';

-- The type beneath domains.
CREATE FUNCTION crm.base_type(type_id oid) RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE layers AS (
        SELECT oid, typbasetype FROM pg_type WHERE oid = type_id
        UNION ALL
        SELECT t.oid, t.typbasetype FROM layers l JOIN pg_type t ON t.oid = l.typbasetype)
    SELECT oid FROM layers WHERE typbasetype = 0
$$;
COMMENT ON FUNCTION crm.base_type(oid) IS 'the type beneath a domain, or the type itself';

CREATE FUNCTION crm.is_builtin(type_id oid) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT typnamespace = 'pg_catalog'::regnamespace FROM pg_type WHERE oid = crm.base_type(type_id)
$$;
COMMENT ON FUNCTION crm.is_builtin(oid) IS 'whether a type is PostgreSQL''s own, or a domain over one';

CREATE FUNCTION crm.is_key_type(type_id oid) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT crm.base_type(type_id) = ANY ('{smallint,integer,bigint,numeric,uuid,text,varchar,bpchar}'::regtype[])
$$;
COMMENT ON FUNCTION crm.is_key_type(oid) IS 'whether a column of that type can be a key: its text is the same in every session';

-- Of these types a value has one text, once the settings are pinned (crm.pinned_settings()) and crm.key_expression() has taken the scale off.
CREATE FUNCTION crm.is_shard_type(type_id oid) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT crm.is_key_type(type_id)
        OR crm.base_type(type_id) = ANY (ARRAY['boolean', '"char"', 'name', 'oid', 'date', 'timestamp', 'timestamptz', 'real', 'double precision']::regtype[])
        OR (SELECT typtype = 'e' FROM pg_type WHERE oid = crm.base_type(type_id))
$$;
COMMENT ON FUNCTION crm.is_shard_type(oid) IS 'whether a column of that type can be a shard_column: values that are equal have one text';

-- By its own name: "character" would be character(1). And without a modifier, which would cut or round what is looked for.
CREATE FUNCTION crm.cast_type(type_id oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'pg_catalog.' || quote_ident(t.typname) FROM pg_type t WHERE t.oid = crm.base_type(type_id) AND crm.is_builtin(t.oid)
$$;
COMMENT ON FUNCTION crm.cast_type(oid) IS 'the type that the text of a key is cast to, to be looked for; NULL: a user''s type';

-- The one place that says what the text of a key is: capture, the worker and callers' arguments all go by it. Values that PostgreSQL
-- calls equal have one text: 71.0 and 71.00 are '71', 0 and -0 are '0'.
CREATE FUNCTION crm.key_expression(expression text, type_id oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(CASE
        -- The casts of a user's type may be functions of that user.
        WHEN NOT crm.is_builtin(type_id)
            THEN 'CASE WHEN (%1$s) IS DISTINCT FROM NULL THEN pg_catalog.format(''%%s'', %1$s) END'
        WHEN crm.base_type(type_id) = 'numeric'::regtype THEN 'pg_catalog.trim_scale(%1$s)::pg_catalog.text'
        WHEN crm.base_type(type_id) = ANY ('{real,double precision}'::regtype[])
            THEN 'CASE WHEN (%1$s) OPERATOR(pg_catalog.=) 0 THEN ''0'' ELSE (%1$s)::pg_catalog.text END'
        ELSE '(%1$s)::pg_catalog.text' END, expression)
$$;
COMMENT ON FUNCTION crm.key_expression(text, oid) IS 'an expression for the record_key or shard_key that an expression of that type makes';

-- What somebody writes for a key, as crm.key_expression() spells it: '01' is the 1 of an integer column, and stays '01' of a text.
CREATE FUNCTION crm.key_text(value text, type_id oid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, MDY' SET timezone = 'UTC' SET extra_float_digits = 1 AS $$
DECLARE
    spelled text;
BEGIN
    IF value IS NULL OR NOT crm.is_builtin(type_id) OR crm.base_type(type_id) = ANY ('{text,varchar,name}'::regtype[])
       OR NOT crm.is_shard_type(type_id) THEN
        RETURN value;
    END IF;
    EXECUTE format('SELECT %s', crm.key_expression('$1::' || crm.cast_type(type_id), crm.base_type(type_id))) INTO spelled USING value;
    RETURN spelled;
END $$;
COMMENT ON FUNCTION crm.key_text(text, oid) IS 'a key as pg_crm spells it, of a column of that type; raises where it cannot be one';

CREATE FUNCTION crm.is_lax(relation oid, column_name name) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_attribute a JOIN pg_collation c ON c.oid = a.attcollation
                   WHERE a.attrelid = relation AND a.attname = column_name AND NOT a.attisdropped AND NOT c.collisdeterministic)
$$;
COMMENT ON FUNCTION crm.is_lax(oid, name) IS 'whether a column''s collation calls texts equal that differ, so that its text is no identity';

CREATE FUNCTION crm.is_unique(relation oid, column_name name) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_index x JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = x.indkey[0]
        WHERE x.indrelid = relation AND x.indisunique AND x.indpred IS NULL AND x.indexprs IS NULL AND x.indisvalid
          AND x.indnkeyatts = 1 AND a.attname = column_name)
$$;
COMMENT ON FUNCTION crm.is_unique(oid, name) IS 'whether a unique index says that a column identifies a row by itself';

-- A column for the expressions of a capture function. That function does not run with its user's rights, and the casts
-- and operators of a user's type may be functions of that user: such a type is taken by its output alone.
CREATE FUNCTION crm.safe_column(alias text, column_name name, type_id oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(CASE WHEN crm.is_builtin(type_id) THEN '%1$s.%2$I'
                       ELSE 'CASE WHEN %1$s.%2$I IS DISTINCT FROM NULL THEN pg_catalog.format(''%%s'', %1$s.%2$I) END' END,
                  alias, column_name)
$$;
COMMENT ON FUNCTION crm.safe_column(text, name, oid) IS 'an expression for a column that calls no function of a user';

-- The column expression whose change counts. Types of users, and those without an equality of PostgreSQL's own, are
-- compared as text, and text byte by byte: a collation may call different texts equal.
CREATE FUNCTION crm.comparable(alias text, column_name name, type_id oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN NOT crm.is_builtin(type_id) OR NOT EXISTS (
                    SELECT FROM pg_opclass o JOIN pg_am a ON a.oid = o.opcmethod
                    WHERE o.opcdefault AND a.amname IN ('btree', 'hash') AND o.opcnamespace = 'pg_catalog'::regnamespace
                      AND (o.opcintype = e.oid OR (o.opcintype = 'text'::regtype AND e.oid = 'varchar'::regtype)))
                THEN format('(%s)::pg_catalog.text COLLATE pg_catalog."C"', crm.safe_column(alias, column_name, type_id))
                ELSE format('%s.%I%s', alias, column_name, CASE WHEN e.typcollation <> 0 THEN ' COLLATE pg_catalog."C"' END) END
    FROM pg_type t JOIN pg_type e ON e.oid = crm.base_type(CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN t.typelem ELSE t.oid END)
    WHERE t.oid = crm.base_type(type_id)
$$;
COMMENT ON FUNCTION crm.comparable(text, name, oid) IS 'the expression whose change makes a cell changed';

-- A bound of a rule as a literal. Without a zone a moment is UTC; digits alone are epoch milliseconds.
CREATE FUNCTION crm.bound(value text, data_type text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO' AS $$
    SELECT CASE data_type
           WHEN 'number' THEN format('%L::numeric', value)
           WHEN 'date' THEN format('%L::date', moment::date)
           ELSE format('%L::timestamptz', moment) END
    FROM (SELECT CASE WHEN data_type = 'number' THEN NULL
                      WHEN value ~ '^-?[0-9]+([.][0-9]+)?$' THEN to_timestamp(value::numeric / 1000)
                      ELSE value::timestamptz END AS moment) m
$$;
COMMENT ON FUNCTION crm.bound(text, text) IS 'the min or max of a rule as an SQL literal that means the same in every session';

-- One SQL condition per broken rule of a field, with the words that describe it.
CREATE FUNCTION crm.rule_conditions(f crm.field_map, type_id oid, alias text)
RETURNS TABLE (rule text, condition text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v text := format('(%s)', crm.safe_column(alias, f.column_name, type_id));
    base regtype := crm.base_type(type_id);
    is_array bool := (SELECT typcategory = 'A' FROM pg_type WHERE oid = type_id);
    -- What a CRM is sent. What is blank is null for it, so `nullable` alone decides on that.
    filled text := format('crm.filled(%s::text)', v);
    words text := format(CASE WHEN is_array THEN 'crm.words(to_jsonb(%s::text[])::text)' ELSE 'crm.words(%s::text)' END, v);
    ordered text := CASE f.data_type
        WHEN 'number' THEN format('%s::numeric', v)
        WHEN 'date' THEN format(CASE WHEN base = 'timestamptz'::regtype THEN '(%s AT TIME ZONE ''UTC'')::date' ELSE '%s::date' END, v)
        ELSE format(CASE WHEN base IN ('date'::regtype, 'timestamp'::regtype) THEN '(%s::timestamp AT TIME ZONE ''UTC'')'
                         ELSE '%s::timestamptz' END, v) END;
BEGIN
    IF f.validation -> 'nullable' = 'false' THEN
        RETURN QUERY SELECT 'nullable: false', CASE
            WHEN is_array OR f.data_type = 'multi_choice' THEN format('%s IS NULL', words)
            -- What begins with a visible ASCII character is not blank: for most rows that look is enough.
            WHEN f.data_type IN ('text', 'choice', 'reference') THEN
                format('(%1$s IS NULL OR ascii(%1$s::text) NOT BETWEEN 33 AND 126 AND %2$s IS NULL)', v, filled)
            ELSE format('%s IS NULL', v) END;
    END IF;
    IF f.validation ? 'min' THEN
        RETURN QUERY SELECT 'min: ' || (f.validation ->> 'min'),
            format('%s < %s', ordered, crm.bound(f.validation ->> 'min', f.data_type));
    END IF;
    IF f.validation ? 'max' THEN
        RETURN QUERY SELECT 'max: ' || (f.validation ->> 'max'),
            format('%s > %s', ordered, crm.bound(f.validation ->> 'max', f.data_type));
    END IF;
    IF f.validation ? 'max_length' THEN
        -- No text has more UTF-16 units than bytes, so most rows need no counting.
        RETURN QUERY SELECT 'max_length: ' || (f.validation ->> 'max_length'),
            format('octet_length(%1$s::text) > %3$s AND crm.text_length(%2$s) > %3$s',
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
                -- A choice is spelt as the CRM is sent it, so for most rows the first comparison is enough.
                format('%1$s::text <> ALL (%3$L::text[]) AND %2$s <> ALL (%3$L::text[])', v, filled,
                       ARRAY(SELECT jsonb_array_elements_text(f.validation -> 'choices')))
            END;
    END IF;
END $$;
COMMENT ON FUNCTION crm.rule_conditions(crm.field_map, oid, text) IS 'per rule of a field the condition that breaks it';

-- The cell mask of a set of fields, as an expression over boolean conditions.
CREATE FUNCTION crm.mask_expression(field_ids smallint[], conditions text[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(format('int8send((%s)::bigint)', coalesce(bits, '0')), ' || ' ORDER BY w)
    FROM (SELECT w, string_agg(CASE WHEN condition = 'true' THEN format('(1::bigint << %s)', id % 64)
                                    ELSE format('CASE WHEN %s THEN (1::bigint << %s) ELSE 0 END', condition, id % 64) END,
                               ' | ' ORDER BY id) AS bits
          FROM generate_series(0, (SELECT max(id) / 64 FROM unnest(field_ids) AS id)) AS w
          LEFT JOIN unnest(field_ids, conditions) AS c (id, condition) ON id / 64 = w
          GROUP BY w) words
$$;
COMMENT ON FUNCTION crm.mask_expression(smallint[], text[]) IS 'an expression for the mask of the cells whose conditions hold';

-- What an expression over a mapped column means may depend on settings of the session; a capture function carries those
-- that its columns need.
CREATE FUNCTION crm.pinned_settings(map_id int) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH used AS (
        SELECT e.oid, e.typtype, crm.is_builtin(e.oid) AS is_builtin, f.data_type
        FROM crm.bound_column b
        JOIN crm.object_map m USING (map_id)
        LEFT JOIN crm.field_map f USING (map_id, column_name)
        JOIN pg_type t ON t.oid = crm.base_type(b.type_id)
        JOIN pg_type e ON e.oid = crm.base_type(CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN t.typelem ELSE t.oid END)
        WHERE b.map_id = pinned_settings.map_id)
    SELECT coalesce(string_agg(DISTINCT format(' SET %s = %L', s.name, s.value), ''), '')
    FROM used u, (VALUES
        ('datestyle', 'ISO, MDY', '{date,time,timetz,timestamp,timestamptz}'::regtype[], true),
        ('timezone', 'UTC', '{date,time,timetz,timestamp,timestamptz}', true),
        ('intervalstyle', 'postgres', '{interval}', false),
        ('extra_float_digits', '1', '{real,double precision,point,line,lseg,box,path,polygon,circle}', false),
        ('bytea_output', 'hex', '{bytea}', false),
        ('lc_monetary', 'C', '{money}', false)) AS s (name, value, types, of_time)
    -- A user's type may hold any of them within.
    WHERE u.oid = ANY (s.types) OR s.of_time AND (u.data_type IN ('date', 'datetime') OR u.typtype IN ('r', 'm'))
       OR NOT u.is_builtin AND u.typtype <> 'e'
$$;
COMMENT ON FUNCTION crm.pinned_settings(int) IS 'the SET clauses of a map''s capture function: settings on which its columns'' values depend';
CREATE FUNCTION crm.json_base(value anyelement) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN jsonb_build_object('v', to_jsonb(value));
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN '{}';
END $$;
COMMENT ON FUNCTION crm.json_base(anyelement) IS
    'what an edit was based on, as crm.change has it; empty, so that the ledger''s hash counts, where jsonb does not take what the column held';

CREATE FUNCTION crm.base_expression(value text, type_id oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- Of the types only json has values that jsonb refuses. No long value is copied: what the ledger knows of the CRM's is
    -- the base then.
    SELECT format('CASE WHEN pg_column_size(%1$s) > 2000 AND octet_length((%1$s)::text) > 32768 THEN ''{}'' ELSE '
                  || CASE WHEN crm.base_type(type_id) IN ('json'::regtype, 'json[]'::regtype) THEN 'crm.json_base(%1$s)'
                          ELSE 'jsonb_build_object(''v'', to_jsonb(%1$s))' END || ' END', value)
$$;
COMMENT ON FUNCTION crm.base_expression(text, oid) IS 'an expression for what an edit of a column was based on';

-- Functions and triggers of a map are this server's alone: in a database with Citus, which would make them everywhere, and take
-- them for its own. Elsewhere the setting is nobody's.
CREATE FUNCTION crm.install_capture(map_id int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET citus.enable_ddl_propagation = off AS $$
DECLARE
    m crm.object_map;
    fn text := format('crm.capture_%s', map_id);
    written smallint[];
    changed text[];
    body text;
    n_key text;
    o_key text;
    n_shard text;
    o_shard text;
    columns text[];
    types oid[];
    join_on text;
    checks_insert text := '';
    checks_update text := '';
    union_insert text;
    union_update text;
    quick text;
    all_cells text;
    changed_cells text;
    realtime bool;
    old_values text;
    known_only text;
    immutable text;
    event record;
BEGIN
    SELECT * INTO STRICT m FROM crm.object_map o WHERE o.map_id = install_capture.map_id;
    PERFORM crm.remove_capture(m.map_id);
    IF NOT EXISTS (SELECT FROM pg_class WHERE oid = m.relation) THEN
        RETURN;
    END IF;

    -- By name and base type, which a restored database has too; 0: a user's type, of which the output alone is taken.
    SELECT array_agg(b.column_name::text ORDER BY b.attnum),
           array_agg(CASE WHEN crm.is_builtin(b.type_id) THEN crm.base_type(b.type_id) ELSE 0 END ORDER BY b.attnum)
    INTO columns, types
    FROM crm.bound_column b WHERE b.map_id = m.map_id;
    -- Texts byte by byte: whatever their collation calls equal, another text is another key.
    SELECT crm.key_expression(format('n.%I', m.key_column), b.type_id), crm.key_expression(format('o.%I', m.key_column), b.type_id),
           format('%s = %s', crm.comparable('n', m.key_column, b.type_id), crm.comparable('o', m.key_column, b.type_id))
    INTO n_key, o_key, join_on
    FROM crm.bound_column b WHERE b.map_id = m.map_id AND b.column_name = m.key_column;
    SELECT format('coalesce(%s, '''')', crm.key_expression(format('n.%I', m.shard_column), b.type_id)),
           format('coalesce(%s, '''')', crm.key_expression(format('o.%I', m.shard_column), b.type_id))
    INTO n_shard, o_shard
    FROM crm.bound_column b WHERE b.map_id = m.map_id AND b.column_name = m.shard_column;
    -- Said thrice, for the planner: it knows nothing of transition tables and takes 1 in 200 pairs of rows for a match. Thinking of
    -- 50 million rows where there are 100,000, it would compile the statement just in time.
    join_on := format('%1$s AND %1$s AND %1$s', join_on)
               || coalesce(' AND ' || n_shard || ' = ' || o_shard, '');
    n_shard := coalesce(n_shard, '''''');
    o_shard := coalesce(o_shard, '''''');

    SELECT array_agg(f.field_id ORDER BY f.field_id),
           array_agg(format('%s IS DISTINCT FROM %s', crm.comparable('n', f.column_name, b.type_id),
                            crm.comparable('o', f.column_name, b.type_id)) ORDER BY f.field_id),
           bool_or(f.direction = 'bidirectional'),
           string_agg(format('CASE WHEN %s IS DISTINCT FROM %s THEN jsonb_build_object(%L, %s) ELSE ''{}'' END',
                             crm.comparable('n', f.column_name, b.type_id), crm.comparable('o', f.column_name, b.type_id),
                             f.field_id, crm.base_expression(crm.safe_column('o', f.column_name, b.type_id), b.type_id)),
                      E'\n                     || ' ORDER BY f.field_id) FILTER (WHERE f.direction = 'bidirectional')
    INTO written, changed, realtime, old_values
    FROM crm.field_map f JOIN crm.bound_column b USING (map_id, column_name)
    WHERE f.map_id = m.map_id AND f.direction <> 'inbound' AND f.materialize;

    -- Rules bind the cells that a statement sets: all of a new row, the changed ones of an old row.
    SELECT string_agg(format('SELECT %L || %s AS at, %s', format('column "%s", rule %s, record_key ', f.column_name, r.rule),
                             n_key, format('n."pg_crm.ord" AS ord, %s AS place FROM numbered n WHERE %s', f.field_id * 8 + r.place, r.condition)), E'\n            UNION ALL '),
           string_agg(format('SELECT %L || %s AS at, n."pg_crm.ord" AS ord, %s AS place FROM numbered n JOIN old_rows o ON %s WHERE (%s) AND %s IS DISTINCT FROM %s',
                             format('column "%s", rule %s, record_key ', f.column_name, r.rule), n_key, f.field_id * 8 + r.place, join_on, r.condition,
                             crm.comparable('n', f.column_name, b.type_id), crm.comparable('o', f.column_name, b.type_id)),
                      E'\n            UNION ALL '),
           string_agg(format('(%s)', r.condition), ' OR ')
    INTO union_insert, union_update, quick
    FROM crm.field_map f JOIN crm.bound_column b USING (map_id, column_name),
         LATERAL crm.rule_conditions(f, b.type_id, 'n') WITH ORDINALITY AS r (rule, condition, place)
    WHERE f.map_id = m.map_id AND f.direction <> 'inbound';

    -- A field that may not change once it is set on both sides: the ledger knows whether the CRM has a value.
    SELECT string_agg(format(
               $t$
            SELECT %1$L || %2$s FROM new_rows n JOIN old_rows o ON %3$s
            WHERE %4$s IS DISTINCT FROM %5$s AND o.%6$I IS DISTINCT FROM NULL AND EXISTS (
                SELECT FROM crm.ledger l WHERE l.shard_key = %7$s COLLATE "C" AND l.map_id = %8$s AND l.record_key = %2$s COLLATE "C"
                  AND crm.cell_is_set(l.hashes, %9$s))$t$,
               format('column "%s", immutable once bound, record_key ', f.column_name), n_key, join_on, crm.comparable('n', f.column_name, b.type_id),
               crm.comparable('o', f.column_name, b.type_id), f.column_name, n_shard, m.map_id, f.field_id),
               E'\n            UNION ALL')
    INTO immutable
    FROM crm.field_map f JOIN crm.bound_column b USING (map_id, column_name)
    WHERE f.map_id = m.map_id AND f.direction = 'bidirectional' AND f.on_conflict = 'immutable_after_bind';

    IF quick IS NOT NULL THEN
        checks_insert := format($t$
        IF EXISTS (SELECT FROM new_rows n WHERE %s) THEN
            WITH numbered AS (SELECT *, row_number() OVER () AS "pg_crm.ord" FROM new_rows)
            SELECT array_agg(at ORDER BY ord, place) INTO violations FROM (SELECT * FROM (
            %s) broken ORDER BY ord, place LIMIT 6) first_broken;
            PERFORM crm.refuse_violations(TG_RELID, violations);
        END IF;$t$, quick, union_insert);
        checks_update := format($t$
        IF EXISTS (SELECT FROM new_rows n WHERE %s) THEN
            WITH numbered AS (SELECT *, row_number() OVER () AS "pg_crm.ord" FROM new_rows)
            SELECT array_agg(at ORDER BY ord, place) INTO violations FROM (SELECT * FROM (
            %s) broken ORDER BY ord, place LIMIT 6) first_broken;
            IF violations IS NOT NULL THEN
                PERFORM crm.refuse_violations(TG_RELID, violations);
            END IF;
        END IF;$t$, quick, union_update);
    END IF;
    IF immutable IS NOT NULL THEN
        checks_update := checks_update || format($t$
        IF NOT crm.applying_from_crm(%s) THEN
            SELECT array_agg(broken) INTO violations FROM (SELECT * FROM (%s) AS u (broken) LIMIT 6) v;
            IF violations IS NOT NULL THEN
                PERFORM crm.refuse_violations(TG_RELID, violations);
            END IF;
        END IF;$t$, m.map_id, immutable);
    END IF;

    -- With on_insert 'ignore', only rows that have a record.
    known_only := CASE m.on_insert WHEN 'create' THEN '' ELSE format($w$
              WHERE EXISTS (SELECT FROM crm.ledger l
                            WHERE l.shard_key = %s COLLATE "C" AND l.map_id = %s AND l.record_key = %s COLLATE "C")$w$,
            n_shard, m.map_id, n_key) END;
    all_cells := coalesce(crm.mask_expression(written, array_fill('true'::text, ARRAY[coalesce(cardinality(written), 0)])), 'decode(''0000000000000000'', ''hex'')');
    changed_cells := coalesce(crm.mask_expression(written, changed), 'decode(''0000000000000000'', ''hex'')');

    body := format($f$
-- Generated by crm.install_capture(%1$s) from the mapping of %2$s; regenerated when the mapping changes.
#variable_conflict use_variable
DECLARE
    -- First of all: nothing that names a column is looked at if the table is another than the one this was made for.
    is_bound CONSTANT bool := crm.require_bound(TG_RELID, %22$L, %23$L);
    violations text[];
    actor text := session_user || coalesce('/' || nullif(current_setting('pg_crm.actor', true), ''), '');
    -- The cells that pg_crm itself is setting, and knows of.
    ours bytea := crm.applying(%1$s);
    our_records text[];
BEGIN
    IF TG_OP = 'UPDATE' THEN%3$s
        IF ours IS NOT NULL THEN
            our_records := crm.applying_to(%1$s);
        END IF;
        PERFORM FROM old_rows LIMIT 1 OFFSET 1;
        IF FOUND THEN
            INSERT INTO %4$s (shard_key, map_id, op, cells, record_keys, actor%17$s)
            SELECT k.shard_key, %1$s, 'u', k.cells, array_agg(k.record_key), actor%18$s
            FROM (SELECT c.*, (row_number() OVER () - 1) / %16$s AS part
                  FROM (SELECT %5$s AS shard_key,
                               CASE WHEN %8$s IS NULL OR %7$s IS NULL
                                    THEN crm.refuse_key_change(TG_RELID, coalesce(%8$s, %7$s))
                                    ELSE %7$s END AS record_key,
                               CASE WHEN ours IS NULL OR %5$s || '/' || %7$s <> ALL (our_records) THEN %9$s
                                    ELSE crm.cells_minus(%9$s, ours) END AS cells%19$s
                        FROM old_rows o FULL JOIN new_rows n ON %10$s
                        OFFSET 0) c
                  WHERE c.cells <> decode(%11$L, 'hex')) k
            GROUP BY k.part, k.shard_key, k.cells%20$s;
        ELSE -- one row has nothing to be joined or gathered
            INSERT INTO %4$s (shard_key, map_id, op, cells, record_keys, actor%17$s)
            SELECT c.shard_key, %1$s, 'u', c.cells, ARRAY[c.record_key], actor%21$s
            FROM (SELECT %5$s AS shard_key,
                         CASE WHEN %10$s THEN %7$s ELSE crm.refuse_key_change(TG_RELID, %8$s) END AS record_key,
                         CASE WHEN ours IS NULL OR %5$s || '/' || %7$s <> ALL (our_records) THEN %9$s
                              ELSE crm.cells_minus(%9$s, ours) END AS cells%19$s
                  FROM old_rows o, new_rows n
                  OFFSET 0) c
            WHERE c.cells <> decode(%11$L, 'hex');
        END IF;
    ELSIF TG_OP = 'INSERT' THEN%12$s
        -- A row that pg_crm inserts for a CRM record holds what that holds; rows that triggers add on the way are users' own.
        IF ours IS NOT NULL AND pg_trigger_depth() = 1 THEN
            RETURN NULL;
        END IF;
        PERFORM FROM new_rows LIMIT 1 OFFSET 1;
        IF FOUND THEN
            INSERT INTO %4$s (shard_key, map_id, op, cells, record_keys, actor)
            SELECT k.shard_key, %1$s, 'i', %13$s, array_agg(k.record_key), actor
            FROM (SELECT %5$s AS shard_key, %7$s AS record_key, (row_number() OVER () - 1) / %16$s AS part
                  FROM new_rows n%14$s) k
            GROUP BY k.part, k.shard_key;
        ELSE
            INSERT INTO %4$s (shard_key, map_id, op, cells, record_keys, actor)
            SELECT %5$s, %1$s, 'i', %13$s, ARRAY[%7$s], actor
            FROM new_rows n%14$s;
        END IF;
    ELSE
        INSERT INTO %4$s (shard_key, map_id, op, cells, record_keys, actor)
        SELECT k.shard_key, %1$s, 'd', decode('0000000000000000', 'hex'), array_agg(k.record_key), actor
        FROM (SELECT %6$s AS shard_key, %8$s AS record_key, (row_number() OVER () - 1) / %16$s AS part
              FROM old_rows o) k
        GROUP BY k.part, k.shard_key;
    END IF;
    IF FOUND THEN
        PERFORM crm.note_change(%15$s);
    END IF;
    RETURN NULL;
END
$f$, m.map_id, translate(m.relation::text, E'\n\r', '  '), checks_update, crm.change_target(), n_shard, o_shard, n_key, o_key,
     changed_cells, join_on, repeat('00', 8 * (1 + coalesce((SELECT max(i) FROM unnest(written) i), 0) / 64)),
     checks_insert, all_cells,
     known_only,
     CASE WHEN realtime THEN 'true' ELSE 'false' END, crm.change_part(),
     -- What an edit of a checked cell was based on is its record's own: such a row speaks of one record.
     CASE WHEN realtime THEN ', base, correlation_id' ELSE '' END,
     CASE WHEN realtime THEN $w$, k.base, nullif(current_setting('pg_crm.correlation_id', true), '')$w$ ELSE '' END,
     CASE WHEN realtime THEN format(E',\n                               nullif(%s, ''{}'') AS base', old_values) ELSE '' END,
     CASE WHEN realtime THEN ', k.base, CASE WHEN k.base IS NOT NULL THEN k.record_key END' ELSE '' END,
     CASE WHEN realtime THEN $w$, c.base, nullif(current_setting('pg_crm.correlation_id', true), '')$w$ ELSE '' END,
     columns, types);

    EXECUTE format('CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER '
                   'SET search_path = pg_catalog, pg_temp%s AS %L', fn, crm.pinned_settings(m.map_id), body);
    PERFORM crm.strip('pg_proc'::regclass, to_regprocedure(fn || '()'));
    EXECUTE format('COMMENT ON FUNCTION %s() IS %L', fn, format('validation and change capture of %s for map %s', m.relation, m.map_id));
    EXECUTE format('ALTER FUNCTION %s() DEPENDS ON EXTENSION pg_crm', fn);

    -- Applying a subscription fires row-level triggers only. What it applies must not be refused, so the rules are not checked, and
    -- an update of the key counts as a delete and an insert.
    IF m.capture = 'always' THEN
        body := format($f$
-- Generated by crm.install_capture(%1$s) from the mapping of %2$s, for what a subscription brings.
#variable_conflict use_variable
DECLARE
    is_bound CONSTANT bool := crm.require_bound(TG_RELID, %3$L, %4$L);
    actor text := session_user || coalesce('/' || nullif(current_setting('pg_crm.actor', true), ''), '');
    is_same bool := true;
BEGIN
    IF NOT crm.is_replicating() THEN
        RETURN NULL; -- the statement's own trigger fires
    END IF;
    IF TG_OP = 'UPDATE' THEN
        SELECT %5$s INTO is_same FROM (SELECT (OLD).*) o, (SELECT (NEW).*) n;
    END IF;
    IF TG_OP = 'UPDATE' AND is_same THEN
        INSERT INTO %6$s (shard_key, map_id, op, cells, record_keys, actor%7$s)
        SELECT c.shard_key, %1$s, 'u', c.cells, ARRAY[c.record_key], actor%8$s
        FROM (SELECT %9$s AS shard_key, %10$s AS record_key, %11$s AS cells%12$s
              FROM (SELECT (OLD).*) o, (SELECT (NEW).*) n
              OFFSET 0) c
        WHERE c.cells <> decode(%13$L, 'hex');
    END IF;
    IF %14$s AND (TG_OP = 'DELETE' OR NOT is_same) THEN
        INSERT INTO %6$s (shard_key, map_id, op, cells, record_keys, actor)
        SELECT %15$s, %1$s, 'd', decode('0000000000000000', 'hex'), ARRAY[%16$s], actor FROM (SELECT (OLD).*) o;
    END IF;
    IF TG_OP = 'INSERT' OR NOT is_same THEN
        INSERT INTO %6$s (shard_key, map_id, op, cells, record_keys, actor)
        SELECT %9$s, %1$s, 'i', %17$s, ARRAY[%10$s], actor
        FROM (SELECT (NEW).*) n%18$s;
    END IF;
    PERFORM crm.note_change(%19$s);
    RETURN NULL;
END
$f$, m.map_id, translate(m.relation::text, E'\n\r', '  '), columns, types, join_on, crm.change_target(),
     CASE WHEN realtime THEN ', base, correlation_id' ELSE '' END,
     CASE WHEN realtime THEN $w$, c.base, nullif(current_setting('pg_crm.correlation_id', true), '')$w$ ELSE '' END,
     n_shard, n_key, changed_cells, CASE WHEN realtime THEN format(', nullif(%s, ''{}'') AS base', old_values) ELSE '' END,
     repeat('00', 8 * (1 + coalesce((SELECT max(i) FROM unnest(written) i), 0) / 64)),
     CASE WHEN m.on_delete <> 'ignore' THEN 'true' ELSE 'false' END, o_shard, o_key, all_cells, known_only,
     CASE WHEN realtime THEN 'true' ELSE 'false' END);
        EXECUTE format('CREATE OR REPLACE FUNCTION %s_row() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER '
                       'SET search_path = pg_catalog, pg_temp%s AS %L', fn, crm.pinned_settings(m.map_id), body);
        PERFORM crm.strip('pg_proc'::regclass, to_regprocedure(fn || '_row()'));
        EXECUTE format('COMMENT ON FUNCTION %s_row() IS %L', fn, format('change capture of replicated rows of %s for map %s', m.relation, m.map_id));
        EXECUTE format('ALTER FUNCTION %s_row() DEPENDS ON EXTENSION pg_crm', fn);
    END IF;

    FOR event IN
        SELECT * FROM (VALUES
            ('insert', 'AFTER INSERT', 'REFERENCING NEW TABLE AS new_rows', fn, true, false),
            ('update', 'AFTER UPDATE', 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows', fn, true, false),
            ('delete', 'AFTER DELETE', 'REFERENCING OLD TABLE AS old_rows', fn, m.on_delete <> 'ignore', false),
            ('truncate', 'BEFORE TRUNCATE', '', 'crm.refuse_truncate', m.on_delete <> 'ignore', false),
            ('row', 'AFTER INSERT OR UPDATE OR DELETE', '', fn || '_row', m.capture = 'always', true)) AS t (name, event, tables, fn, wanted, for_each_row)
        WHERE wanted
    LOOP
        PERFORM crm.put_trigger(m.relation, format('pg_crm_%s_%s', m.map_id, event.name), event.event, event.tables, (event.fn || '()')::regprocedure,
                                event.for_each_row,
                                -- A replicated TRUNCATE must not be refused.
                                CASE WHEN event.for_each_row THEN 'R' WHEN m.capture = 'always' AND event.name <> 'truncate' THEN 'A' ELSE 'O' END);
    END LOOP;
    PERFORM crm.guard_partitions(m.map_id);
END $$;
COMMENT ON FUNCTION crm.install_capture(int) IS 'makes or remakes the triggers of a map';

-- From the catalog alone: pg_partition_tree() waits for whoever has locked a partition.
CREATE FUNCTION crm.partitions(relation regclass) RETURNS SETOF regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE tree AS (
        SELECT i.inhrelid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent
        WHERE i.inhparent = relation AND c.relkind = 'p' AND NOT i.inhdetachpending
        UNION ALL
        SELECT i.inhrelid FROM tree t JOIN pg_class c ON c.oid = t.inhrelid AND c.relkind = 'p'
        JOIN pg_inherits i ON i.inhparent = t.inhrelid AND NOT i.inhdetachpending)
    SELECT inhrelid::regclass FROM tree
$$;
COMMENT ON FUNCTION crm.partitions(regclass) IS 'the partitions of a table at all levels';

CREATE FUNCTION crm.guard_partitions(map_id int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET citus.enable_ddl_propagation = off AS $$
DECLARE
    leaf regclass;
BEGIN
    FOR leaf IN
        SELECT g.tgrelid FROM pg_trigger g, crm.object_map m
        WHERE m.map_id = guard_partitions.map_id AND g.tgname = format('pg_crm_%s_leaf', m.map_id)
          AND g.tgrelid NOT IN (SELECT crm.partitions(m.relation))
    LOOP
        PERFORM crm.drop_trigger(leaf, format('pg_crm_%s_leaf', map_id));
    END LOOP;
    FOR leaf IN
        SELECT t.relid FROM crm.object_map m, crm.partitions(m.relation) AS t (relid)
        WHERE m.map_id = guard_partitions.map_id
          AND NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = t.relid AND g.tgname = format('pg_crm_%s_leaf', m.map_id))
    LOOP
        PERFORM crm.put_trigger(leaf, format('pg_crm_%s_leaf', map_id), 'BEFORE INSERT OR UPDATE OR DELETE', '', 'crm.refuse_leaf_write()'::regprocedure,
                                false, 'O');
    END LOOP;
END $$;
COMMENT ON FUNCTION crm.guard_partitions(int) IS 'puts the guard against direct writes on every partition that lacks it, takes it off tables that were detached';

CREATE FUNCTION crm.remove_capture(map_id int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET citus.enable_ddl_propagation = off AS $$
DECLARE
    t record;
BEGIN
    FOR t IN
        SELECT g.tgname, g.tgrelid AS relation FROM pg_trigger g
        WHERE g.tgname ~ format('^pg_crm_%s_(insert|update|delete|truncate|row|leaf)$', map_id) AND g.tgparentid = 0
    LOOP
        PERFORM crm.drop_trigger(t.relation, t.tgname);
    END LOOP;
    IF to_regprocedure(format('crm.capture_%s()', map_id)) IS NOT NULL THEN
        -- Whoever may name the schema may have made a view of it.
        EXECUTE format('DROP FUNCTION crm.capture_%s() CASCADE', map_id);
    END IF;
    IF to_regprocedure(format('crm.capture_%s_row()', map_id)) IS NOT NULL THEN
        EXECUTE format('DROP FUNCTION crm.capture_%s_row() CASCADE', map_id);
    END IF;
END $$;
COMMENT ON FUNCTION crm.remove_capture(int) IS 'removes the triggers of a map and their functions';

-- A transform runs as the table's owner, so whoever may change it must be able to act as that role anyway.
CREATE FUNCTION crm.transform_trouble(transform oid, relation oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN NOT EXISTS (SELECT FROM pg_proc p WHERE p.oid = transform) THEN 'was dropped'
                ELSE (SELECT format('belongs to "%s", who may not act as "%s", who owns the table', pg_get_userbyid(p.proowner), pg_get_userbyid(c.relowner))
                      FROM pg_proc p, pg_class c
                      WHERE p.oid = transform AND c.oid = relation AND NOT pg_has_role(p.proowner, c.relowner, 'MEMBER')) END
    WHERE transform IS NOT NULL
$$;
COMMENT ON FUNCTION crm.transform_trouble(oid, oid) IS 'says why a transform must not run for a table; NULL: it may';

CREATE FUNCTION crm.lost_transform(map_id int) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('a transform of column "%s" %s', f.column_name, x.trouble)
    FROM crm.field_map f JOIN crm.object_map m USING (map_id), unnest(ARRAY[f.transform_out, f.transform_in]) AS t (oid),
         crm.transform_trouble(t.oid, m.relation) AS x (trouble)
    WHERE f.map_id = lost_transform.map_id AND x.trouble IS NOT NULL
    ORDER BY f.field_id LIMIT 1
$$;
COMMENT ON FUNCTION crm.lost_transform(int) IS 'says which column of a map has a transform that is gone or must not run; NULL: none';

CREATE FUNCTION crm.is_key(relation regclass, key_column name, shard_column name) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_index x
        WHERE x.indrelid = relation AND x.indisunique AND x.indpred IS NULL AND x.indexprs IS NULL AND x.indisvalid
          AND (SELECT array_agg(a.attname ORDER BY a.attname)
               FROM unnest(x.indkey[0:x.indnkeyatts - 1]) AS k (attnum) JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = k.attnum)
              IN (ARRAY[key_column], (SELECT array_agg(n ORDER BY n) FROM unnest(ARRAY[key_column, shard_column]) AS n)))
$$;
COMMENT ON FUNCTION crm.is_key(regclass, name, name) IS 'whether a unique index says that the key, with the shard column if there is one, identifies a row';

CREATE FUNCTION crm.is_computed(relation oid, column_name name) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = is_computed.relation AND a.attname = is_computed.column_name
                     AND NOT a.attisdropped AND (a.attgenerated <> '' OR a.attidentity = 'a'))
$$;
COMMENT ON FUNCTION crm.is_computed(oid, name) IS 'whether no UPDATE can set the column: it is generated, or an identity GENERATED ALWAYS';

-- What crm.map_object() requires of a table, and an ALTER TABLE may take away.
CREATE FUNCTION crm.is_of_citus(relation regclass) RETURNS bool
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_so bool := false;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN
        EXECUTE 'SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition p WHERE p.logicalrelid = $1)' INTO is_so USING relation;
    END IF;
    RETURN is_so;
END $$;
COMMENT ON FUNCTION crm.is_of_citus(regclass) IS
    'whether Citus keeps the table''s rows: a distributed table, a reference table, or a local one that it has in its metadata';

CREATE FUNCTION crm.lost_ground(map_id int) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN NOT a.attnotnull THEN format('key column "%s" may be null now', m.key_column)
                WHEN NOT crm.is_key_type(a.atttypid) THEN format('column "%s" of type %s cannot be a key', m.key_column, format_type(a.atttypid, NULL))
                WHEN crm.is_lax(m.relation, m.key_column) THEN format('key column "%s" has a nondeterministic collation now', m.key_column)
                WHEN NOT crm.is_key(m.relation, m.key_column, m.shard_column) THEN format('key column "%s" is not unique any more', m.key_column)
                WHEN NOT crm.is_shard_type(s.atttypid) THEN
                    format('column "%s" of type %s cannot be a shard_column', m.shard_column, format_type(s.atttypid, NULL))
                WHEN crm.is_lax(m.relation, m.shard_column) THEN format('shard_column "%s" has a nondeterministic collation now', m.shard_column)
                WHEN NOT s.attnotnull AND NOT crm.is_unique(m.relation, m.key_column) THEN
                    format('shard_column "%s" may be null now', m.shard_column)
                WHEN c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) THEN
                    format('table "%s" inherits from it, and statements on that escape validation and change capture',
                           (SELECT i.inhrelid::regclass FROM pg_inherits i WHERE i.inhparent = c.oid ORDER BY i.inhrelid LIMIT 1))
                WHEN crm.is_of_citus(c.oid) THEN 'it is a table of Citus now, of whose edits nothing is heard'
                WHEN c.relpersistence = 'u' THEN 'it is unlogged, and a crash would empty it'
                ELSE (SELECT format('the generated column "%s" can only be mapped outbound', f.column_name)
                      FROM crm.field_map f
                      WHERE f.map_id = m.map_id AND f.direction <> 'outbound' AND crm.is_computed(m.relation, f.column_name)
                      ORDER BY f.field_id LIMIT 1)
                END || '; mend the table, then crm.map_field()'
    FROM crm.object_map m JOIN pg_class c ON c.oid = m.relation
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = m.key_column AND NOT a.attisdropped
    LEFT JOIN pg_attribute s ON s.attrelid = c.oid AND s.attname = m.shard_column AND NOT s.attisdropped
    WHERE m.map_id = lost_ground.map_id
$$;
COMMENT ON FUNCTION crm.lost_ground(int) IS 'says what a mapped table lacks of what mapping it took; NULL: nothing';

-- Ties a map to its table as the catalog now has it, and says whether it can work.
CREATE FUNCTION crm.bind_map(map_id int) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    m crm.object_map;
    reason text;
BEGIN
    -- One at a time: after a restore the worker and whoever alters the table both come.
    SELECT * INTO STRICT m FROM crm.object_map o WHERE o.map_id = bind_map.map_id FOR NO KEY UPDATE;
    DELETE FROM crm.bound_column b WHERE b.map_id = m.map_id;
    INSERT INTO crm.bound_column (map_id, column_name, attnum, type_id)
    SELECT m.map_id, a.attname, a.attnum, a.atttypid
    FROM pg_attribute a
    WHERE a.attrelid = m.relation AND a.attnum > 0 AND NOT a.attisdropped
      AND a.attname IN (SELECT f.column_name FROM crm.field_map f WHERE f.map_id = m.map_id
                        UNION ALL SELECT m.key_column UNION ALL SELECT m.shard_column);
    SELECT CASE
        WHEN NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = m.relation) THEN 'the mapped table was dropped'
        ELSE coalesce((SELECT format('column "%s" was dropped', wanted.column_name)
              FROM (SELECT m.key_column AS column_name
                    UNION ALL SELECT m.shard_column WHERE m.shard_column IS NOT NULL
                    UNION ALL SELECT f.column_name FROM crm.field_map f WHERE f.map_id = m.map_id) wanted
              WHERE NOT EXISTS (SELECT FROM crm.bound_column b
                                WHERE b.map_id = m.map_id AND b.column_name = wanted.column_name)
              LIMIT 1),
             (SELECT format('column "%s" of type %s cannot be a %s', f.column_name, format_type(b.type_id, NULL), f.data_type)
              FROM crm.field_map f JOIN crm.bound_column b USING (map_id, column_name)
              WHERE f.map_id = m.map_id AND f.transform_out IS NULL AND NOT crm.type_fits(b.type_id, f.data_type)
              ORDER BY f.field_id LIMIT 1), crm.lost_transform(m.map_id), crm.lost_ground(m.map_id))
        END INTO reason;
    reason := nullif(concat_ws('; ', reason, m.keys_changed), '');
    INSERT INTO crm.map_state (map_id, state, reason)
    VALUES (m.map_id, CASE WHEN reason IS NULL THEN 'idle' ELSE 'error' END, reason)
    ON CONFLICT (map_id) DO UPDATE SET state = excluded.state, reason = excluded.reason, stale = false;
    RETURN reason;
END $$;
COMMENT ON FUNCTION crm.bind_map(int) IS 'binds a map to its table''s columns; returns why the map cannot work, or NULL';

-- A database that was just restored has maps that nobody bound yet; after a rename it would be too late.
CREATE FUNCTION crm.bind_restored() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    m crm.object_map;
BEGIN
    -- This runs before every DDL command of every role, so it asks nothing else about all maps.
    FOREACH m IN ARRAY ARRAY(
        SELECT o FROM crm.object_map o WHERE NOT EXISTS (SELECT FROM crm.map_state s WHERE s.map_id = o.map_id))
    LOOP
        -- Its keys come last in a restore.
        CONTINUE WHEN NOT crm.is_key(m.relation, m.key_column, m.shard_column);
        BEGIN
            PERFORM crm.bind_map(m.map_id);
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            NULL; -- somebody else is at it
        END;
    END LOOP;
END $$;
COMMENT ON FUNCTION crm.bind_restored() IS 'event trigger: binds maps that a restore brought, before a table of theirs is altered';

-- Reads the catalogs only, so that a view can call it for every map.
CREATE FUNCTION crm.capture_trouble(map_id int) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(
        (SELECT format('trigger "%s" %s', x.name,
                       CASE WHEN g.oid IS NULL THEN format('is missing; run crm.map_field() to recreate it, then crm.recapture(%s) for what was missed', m.map_id)
                            ELSE format('%s; run ALTER TABLE %s ENABLE %sTRIGGER %I, then crm.recapture(%s) for what was missed',
                                        CASE g.tgenabled WHEN 'D' THEN 'is disabled' WHEN 'R' THEN 'fires for replicated rows only'
                                                         ELSE 'does not fire for replicated rows' END,
                                        m.relation, CASE e.fires WHEN 'A' THEN 'ALWAYS ' WHEN 'RA' THEN 'REPLICA ' END, x.name, m.map_id) END)
         FROM (VALUES ('insert', true, CASE m.capture WHEN 'always' THEN 'A' ELSE 'OA' END),
                      ('update', true, CASE m.capture WHEN 'always' THEN 'A' ELSE 'OA' END),
                      ('delete', m.on_delete <> 'ignore', CASE m.capture WHEN 'always' THEN 'A' ELSE 'OA' END),
                      ('truncate', m.on_delete <> 'ignore', 'OA'), ('row', m.capture = 'always', 'RA')) AS e (event, wanted, fires)
         CROSS JOIN LATERAL (SELECT format('pg_crm_%s_%s', m.map_id, e.event)) AS x (name)
         LEFT JOIN pg_trigger g ON g.tgrelid = m.relation AND g.tgname = x.name
         WHERE e.wanted AND (g.oid IS NULL OR position(g.tgenabled::text IN e.fires) = 0)
         LIMIT 1),
        (SELECT format('trigger "%s" of partition %s is disabled; run ALTER TABLE %2$s ENABLE TRIGGER %1$I, then crm.recapture(%3$s) for what was missed',
                       g.tgname, p.relid, m.map_id)
         FROM crm.partitions(m.relation) AS p (relid)
         JOIN pg_trigger g ON g.tgrelid = p.relid AND g.tgname = format('pg_crm_%s_leaf', m.map_id) AND g.tgenabled NOT IN ('O', 'A')
         LIMIT 1),
        (SELECT format('session_replication_role is set to replica for %s, whose sessions fire no capture triggers',
                       CASE WHEN s.setrole = 0 THEN format('database "%s"', current_database()) ELSE format('role %s', s.setrole::regrole) END)
         FROM pg_db_role_setting s
         WHERE m.capture = 'origin' AND s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
           AND 'session_replication_role=replica' = ANY (s.setconfig)
         LIMIT 1),
        (SELECT 'session_replication_role is replica by default in sessions such as this one, which fire no capture triggers'
         FROM pg_settings s WHERE m.capture = 'origin' AND s.name = 'session_replication_role' AND s.reset_val = 'replica'))
    FROM crm.object_map m JOIN pg_class c ON c.oid = m.relation WHERE m.map_id = capture_trouble.map_id
$$;
COMMENT ON FUNCTION crm.capture_trouble(int) IS 'why edits of a mapped table are not captured; NULL: they are';

-- What changes cells without firing a trigger leaves a request, once per map and transaction, and the worker finds the cells.
CREATE FUNCTION crm.request_recapture(map_id int, reason text, new_rows bool DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO crm.recapture_request (map_id, new_rows, reason, actor)
    SELECT request_recapture.map_id, request_recapture.new_rows, request_recapture.reason,
           session_user || coalesce('/' || nullif(current_setting('pg_crm.actor', true), ''), '')
    WHERE NOT EXISTS (SELECT FROM crm.recapture_request r
                      WHERE r.map_id = request_recapture.map_id AND r.xmin = pg_current_xact_id()::xid
                        AND r.new_rows >= request_recapture.new_rows);
    PERFORM crm.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm.request_recapture(int, text, bool) IS 'has the worker compare the rows of a map with the ledger';

-- Fired for a table, or for each of its partitions. 4 is AT_REWRITE_COLUMN_REWRITE (ALTER COLUMN … TYPE … USING): rewrites for other
-- reasons leave the values as they are.
CREATE FUNCTION crm.follow_rewrite() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_event_trigger_table_rewrite_reason() & 4 <> 0 THEN
        PERFORM crm.request_recapture(o.map_id, 'ALTER TABLE rewrote its rows')
        FROM crm.object_map o
        WHERE o.relation = pg_event_trigger_table_rewrite_oid()
           OR o.relation IN (SELECT a.relid FROM pg_partition_ancestors(pg_event_trigger_table_rewrite_oid()) AS a (relid));
    END IF;
END $$;
COMMENT ON FUNCTION crm.follow_rewrite() IS 'event trigger: requests a recapture of mapped tables whose columns ALTER TABLE rewrites';

CREATE FUNCTION crm.is_made_of(type_id oid, part oid) RETURNS bool
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
COMMENT ON FUNCTION crm.is_made_of(oid, oid) IS 'whether a type is another one or is made of it: a domain, array, range or composite type of it';

-- Renames are followed; a dropped or retyped column stops the map.
CREATE FUNCTION crm.follow_map(id int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m crm.object_map;
    c record;
    changed bool := (SELECT s.stale FROM crm.map_state s WHERE s.map_id = id);
    trouble text := crm.lost_transform(id);
BEGIN
    -- One at a time: the worker and whoever alters the table both come.
    SELECT * INTO m FROM crm.object_map o WHERE o.map_id = id FOR NO KEY UPDATE;
    IF changed IS NULL OR NOT FOUND THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_class k WHERE k.oid = m.relation) THEN
        DELETE FROM crm.bound_column b WHERE b.map_id = m.map_id;
        -- crm.follow_drop() has told it by its name.
        UPDATE crm.map_state s SET state = 'error', reason = 'the mapped table was dropped; crm.unmap_object() mends it', stale = false
        WHERE s.map_id = m.map_id AND (s.state <> 'error' OR s.stale);
        RETURN;
    END IF;
    FOR c IN
        SELECT b.column_name, a.attname AS current_name, b.type_id, a.atttypid
        FROM crm.bound_column b
        LEFT JOIN pg_attribute a ON a.attrelid = m.relation AND a.attnum = b.attnum AND NOT a.attisdropped
        WHERE b.map_id = m.map_id
          AND (a.attname IS DISTINCT FROM b.column_name OR a.atttypid IS DISTINCT FROM b.type_id)
    LOOP
        changed := true;
        IF c.current_name IS NULL THEN
            DELETE FROM crm.bound_column b WHERE b.map_id = m.map_id AND b.column_name = c.column_name;
            trouble := format('column "%s" was dropped', c.column_name);
        ELSIF c.atttypid <> c.type_id THEN
            UPDATE crm.bound_column b SET type_id = c.atttypid WHERE b.map_id = m.map_id AND b.column_name = c.column_name;
            trouble := format('column "%s" changed its type to %s', c.column_name, format_type(c.atttypid, NULL));
        END IF;
    END LOOP;
    IF changed THEN
        -- Renames last and at once, so that two columns may swap their names.
        UPDATE crm.field_map f SET column_name = a.attname
        FROM crm.bound_column b JOIN pg_attribute a ON a.attrelid = m.relation AND a.attnum = b.attnum
        WHERE b.map_id = m.map_id AND f.map_id = m.map_id AND f.column_name = b.column_name AND a.attname <> b.column_name;
        UPDATE crm.object_map o
        SET key_column = coalesce((SELECT a.attname FROM crm.bound_column b JOIN pg_attribute a ON a.attrelid = m.relation AND a.attnum = b.attnum
                                   WHERE b.map_id = m.map_id AND b.column_name = o.key_column), o.key_column),
            shard_column = coalesce((SELECT a.attname FROM crm.bound_column b JOIN pg_attribute a ON a.attrelid = m.relation AND a.attnum = b.attnum
                                     WHERE b.map_id = m.map_id AND b.column_name = o.shard_column), o.shard_column)
        WHERE o.map_id = m.map_id;
        UPDATE crm.bound_column b SET column_name = a.attname
        FROM pg_attribute a
        WHERE b.map_id = m.map_id AND a.attrelid = m.relation AND a.attnum = b.attnum AND a.attname <> b.column_name;
    END IF;
    -- Before the triggers are made anew, which is DDL of its own.
    trouble := coalesce(trouble || '; crm.map_field() or crm.unmap_field() mends it', crm.lost_ground(m.map_id));
    trouble := nullif(concat_ws('; ', trouble, m.keys_changed), '');
    UPDATE crm.map_state s
    SET state = CASE WHEN trouble IS NULL THEN 'idle' ELSE 'error' END, reason = trouble, stale = false
    WHERE s.map_id = m.map_id AND (trouble IS NOT NULL AND (s.state <> 'error' OR s.stale) OR trouble IS NULL AND s.stale);
    IF changed THEN
        -- Without its key column the map captures nothing; with it, what is left goes on being captured.
        IF EXISTS (SELECT FROM crm.bound_column b JOIN crm.object_map o USING (map_id)
                   WHERE b.map_id = m.map_id AND b.column_name = o.key_column) THEN
            PERFORM crm.install_capture(m.map_id);
        ELSE
            PERFORM crm.remove_capture(m.map_id);
        END IF;
        PERFORM crm.notify_worker(false);
    ELSIF EXISTS (SELECT FROM pg_class k WHERE k.oid = m.relation AND k.relkind = 'p')
          AND to_regprocedure(format('crm.capture_%s()', m.map_id)) IS NOT NULL THEN
        -- An attached partition may bring rows that differ from the ledger. A new one is empty.
        IF EXISTS (SELECT FROM crm.partitions(m.relation) AS p (relid)
                   WHERE NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = p.relid AND g.tgname = format('pg_crm_%s_leaf', m.map_id))
                     AND pg_relation_size(p.relid) > 0) THEN
            PERFORM crm.request_recapture(m.map_id, 'a partition was attached');
        END IF;
        PERFORM crm.guard_partitions(m.map_id);
    END IF;
END $$;
COMMENT ON FUNCTION crm.follow_map(int) IS
    'follows renamed columns; stops a map whose columns were dropped or retyped, whose transforms are gone, or whose table cannot be mapped any more';

-- It could not be followed now. Nobody's DDL fails for that: until the worker has made it up, the capture function itself refuses
-- what it was not made for.
CREATE FUNCTION crm.follow_later(id int, why text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE crm.map_state s
    SET stale = true, state = 'error',
        reason = coalesce(CASE WHEN s.state = 'error' AND NOT s.stale THEN s.reason || '; ' END, '')
                 || 'its table was altered, and the worker is still to follow: ' || why
    WHERE s.map_id IN (SELECT x.map_id FROM crm.map_state x WHERE x.map_id = id FOR UPDATE SKIP LOCKED);
    PERFORM crm.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm.follow_later(int, text) IS 'leaves it to the worker to follow what became of a map''s table';

-- No tag is left out, so that no way to alter a table is. Looked at are the maps whose tables this very transaction holds as only
-- DDL does, those above a partition that it made or altered, and after a DROP those of lost transforms. So nobody waits for
-- what somebody else does to a mapped table of theirs.
CREATE FUNCTION crm.follow_ddl() RETURNS event_trigger
-- Longer than the worker's own lock_timeout: should each have what the other waits for, the worker gives way.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    id int;
BEGIN
    -- What pg_crm itself does to tables, and cannot alter a column or attach a partition.
    IF TG_TAG IN ('CREATE FUNCTION', 'ALTER FUNCTION', 'CREATE TRIGGER', 'ALTER TRIGGER', 'DROP TRIGGER', 'COMMENT', 'GRANT', 'REVOKE') THEN
        RETURN;
    END IF;
    FOREACH id IN ARRAY ARRAY(
        SELECT o.map_id FROM crm.object_map o WHERE crm.is_held_by_ddl(o.relation)
        UNION
        SELECT o.map_id FROM pg_event_trigger_ddl_commands() d, pg_partition_ancestors(d.objid::regclass) AS a (relid), crm.object_map o
        WHERE d.classid = 'pg_class'::regclass AND o.relation = a.relid
        UNION
        SELECT f.map_id FROM crm.field_map f JOIN crm.map_state s USING (map_id), unnest(ARRAY[f.transform_out, f.transform_in]) AS t (oid)
        WHERE TG_TAG LIKE 'DROP%' AND s.state <> 'error' AND t.oid IS NOT NULL AND NOT EXISTS (SELECT FROM pg_proc p WHERE p.oid = t.oid)
        ORDER BY 1)
    LOOP
        BEGIN
            PERFORM crm.follow_map(id);
        EXCEPTION WHEN OTHERS THEN
            PERFORM crm.follow_later(id, sqlerrm);
        END;
        -- The worker logs it, once.
        PERFORM crm.notify_worker(false) WHERE crm.capture_trouble(id) IS NOT NULL;
    END LOOP;
    -- Asked first: what follows looks at every map, and DDL is everybody's.
    IF TG_TAG LIKE 'ALTER%' AND EXISTS (
           SELECT FROM pg_event_trigger_ddl_commands() d
           WHERE CASE d.classid WHEN 'pg_class'::regclass THEN crm.retyped_columns(d.command, false) <> '{}'
                                WHEN 'pg_type'::regclass THEN crm.renames_label(d.command) END) THEN
        -- No UPDATE changes a key, and where DDL does, rows would be taken for those of other records. A retyped key has stopped the map
        -- already; what USING makes of it is to be told all the same.
        -- The map itself remembers it: a restored one is not to forget.
        WITH renamed AS (
            UPDATE crm.object_map o
            SET keys_changed = concat_ws('; ', o.keys_changed, x.trouble)
            FROM (SELECT DISTINCT ON (m.map_id) m.map_id,
                         format('rows may go by other keys since %s: crm.map_field() if none does, else crm.unmap_object(), and map it anew',
                                CASE WHEN d.classid = 'pg_type'::regclass THEN format('a label of type %s was renamed', d.object_identity)
                                     ELSE format('ALTER TABLE rewrote column "%s"', c.name) END) AS trouble
                  FROM pg_event_trigger_ddl_commands() d
                  CROSS JOIN crm.object_map m JOIN crm.map_state n USING (map_id)
                  CROSS JOIN LATERAL (
                      SELECT r.name FROM unnest(crm.retyped_columns(d.command, n.state = 'error')) AS r (name)
                      WHERE d.classid = 'pg_class'::regclass AND r.name IN (m.key_column, m.shard_column)
                        AND d.objid IN (SELECT m.relation UNION ALL SELECT i.inhparent FROM pg_inherits i WHERE i.inhrelid = m.relation
                                        UNION ALL SELECT t.typrelid FROM pg_class k JOIN pg_type t ON t.oid = k.reloftype WHERE k.oid = m.relation)
                        -- Of this transaction: no other begins at that very moment and is seen.
                        AND EXISTS (SELECT FROM crm.recapture_request q WHERE q.map_id = m.map_id AND q.requested_at = now())
                      UNION ALL
                      SELECT b.column_name FROM crm.bound_column b
                      WHERE d.classid = 'pg_type'::regclass AND crm.renames_label(d.command)
                        AND b.map_id = m.map_id AND b.column_name = m.shard_column AND crm.base_type(b.type_id) = d.objid) c
                  ORDER BY m.map_id) x
            WHERE o.map_id = x.map_id AND position(x.trouble IN coalesce(o.keys_changed, '')) = 0
            RETURNING o.map_id, x.trouble)
        UPDATE crm.map_state s
        SET state = 'error', reason = concat_ws('; ', CASE WHEN s.state = 'error' THEN s.reason END, r.trouble)
        FROM renamed r WHERE s.map_id = r.map_id;
    END IF;
    IF TG_TAG LIKE 'ALTER%' THEN
        -- A label of an enum, or an attribute, may go by another name now.
        PERFORM crm.request_recapture(x.map_id, format('type %s was altered', format_type(x.altered, NULL)))
        FROM (SELECT DISTINCT ON (b.map_id) b.map_id, t.oid AS altered
              FROM pg_event_trigger_ddl_commands() d
              JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid OR d.classid = 'pg_class'::regclass AND t.typrelid = d.objid AND t.typtype = 'c'
              -- Built-in types are not altered.
              JOIN crm.bound_column b ON b.type_id >= 16384 AND crm.is_made_of(b.type_id, t.oid)
              ORDER BY b.map_id) x;
    END IF;
    IF TG_TAG = 'DROP INDEX' THEN
        -- Of an index that was dropped CONCURRENTLY no lock is left to be seen.
        PERFORM crm.notify_worker(false);
    END IF;
END $$;
COMMENT ON FUNCTION crm.follow_ddl() IS 'event trigger: crm.follow_map() for the maps that a command touched';

-- For the worker, which finds what no event trigger saw: they can be disabled, and a superuser can do anything.
CREATE FUNCTION crm.maps_to_follow() RETURNS SETOF int
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT m.map_id
    FROM crm.object_map m JOIN crm.map_state s USING (map_id) LEFT JOIN pg_class c ON c.oid = m.relation
    WHERE s.stale
       OR c.oid IS NULL AND s.state <> 'error'
       OR c.oid IS NOT NULL AND EXISTS (SELECT FROM crm.bound_column b
                  LEFT JOIN pg_attribute a ON a.attrelid = m.relation AND a.attnum = b.attnum AND NOT a.attisdropped
                  WHERE b.map_id = m.map_id AND (a.attname IS DISTINCT FROM b.column_name OR a.atttypid IS DISTINCT FROM b.type_id))
       OR c.relkind = 'p' AND to_regprocedure(format('crm.capture_%s()', m.map_id)) IS NOT NULL
          AND EXISTS (SELECT FROM crm.partitions(m.relation) AS p (relid)
                      WHERE NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = p.relid AND g.tgname = format('pg_crm_%s_leaf', m.map_id)))
       OR s.state <> 'error' AND (
              EXISTS (SELECT FROM pg_attribute a
                      WHERE a.attrelid = m.relation AND a.attname = m.key_column AND NOT a.attisdropped
                        AND (NOT a.attnotnull OR crm.is_lax(m.relation, m.key_column) OR crm.is_lax(m.relation, m.shard_column)
                             OR NOT EXISTS (SELECT FROM pg_index x
                                            WHERE x.indrelid = m.relation AND x.indisunique AND x.indisvalid AND a.attnum = ANY (x.indkey))))
           OR c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = m.relation))
    ORDER BY 1
$$;
COMMENT ON FUNCTION crm.maps_to_follow() IS 'maps whose tables are not as they were bound';

CREATE FUNCTION crm.follow_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
    -- While the extension itself is being dropped its tables are gone already.
    IF to_regclass('crm.map_state') IS NULL OR to_regclass('crm.object_map') IS NULL THEN
        RETURN;
    END IF;
    UPDATE crm.map_state s
    SET state = 'error', reason = format('the mapped table "%s" was dropped; crm.unmap_object() mends it', d.object_identity)
    FROM pg_event_trigger_dropped_objects() d, crm.object_map m
    WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND m.relation = d.objid AND s.map_id = m.map_id;
    IF FOUND THEN
        DELETE FROM crm.bound_column b USING crm.object_map m, pg_event_trigger_dropped_objects() d
        WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND m.relation = d.objid AND b.map_id = m.map_id;
    END IF;
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
    PERFORM crm.notify_worker(false); -- which sees for itself that the table is gone
END $$;
COMMENT ON FUNCTION crm.follow_drop() IS 'event trigger: stops maps whose table was dropped';

CREATE FUNCTION crm.base_sent(base jsonb, sent jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT base || coalesce(
        (SELECT jsonb_object_agg(s.key, coalesce(base -> s.key, '{}') || jsonb_build_object('s',
                    (coalesce(base #> ARRAY[s.key, 's'], '[]') - (s.value #>> '{}')) || jsonb_build_array(s.value)))
         FROM jsonb_each(sent) s), '{}')
$$;
COMMENT ON FUNCTION crm.base_sent(jsonb, jsonb) IS 'the base of a pending write with what was sent meanwhile and may have arrived: field_id -> hash';

CREATE FUNCTION crm.cell_mask(field_id int) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN field_id < 64 THEN int8send(1::bigint << field_id)
                ELSE decode(repeat('00', 8 * (field_id / 64)), 'hex') || int8send(1::bigint << (field_id % 64)) END
$$;
COMMENT ON FUNCTION crm.cell_mask(int) IS 'the mask of one cell';

CREATE FUNCTION crm.map_cells(map_id int) RETURNS bytea
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT crm.cells_union(crm.cell_mask(f.field_id))
    FROM crm.field_map f WHERE f.map_id = map_cells.map_id AND f.direction <> 'inbound' AND f.materialize
$$;
COMMENT ON FUNCTION crm.map_cells(int) IS 'the mask of every cell that a map writes';

CREATE FUNCTION crm.checked_cells(map_id int) RETURNS bytea
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT crm.cells_union(crm.cell_mask(f.field_id))
    FROM crm.field_map f WHERE f.map_id = checked_cells.map_id AND f.direction = 'bidirectional' AND f.materialize
$$;
COMMENT ON FUNCTION crm.checked_cells(int) IS 'the mask of the cells whose edits are checked against the CRM before they are written; NULL: none';
