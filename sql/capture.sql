-- Validation and change capture: one statement-level trigger per event on each mapped table, all three
-- calling one function that is generated per map (read it with \sf crm_internal.capture_<map_id>).
--
-- Each statement is validated and recorded in one set-based pass over its transition tables. The
-- function appends to crm.change and touches nothing that the worker locks.

-- The only place that decides where changes are appended: in a sharded deployment it would be the shard beside the one
-- being written.
CREATE FUNCTION crm_internal.change_target() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT 'crm.change' $$;
COMMENT ON FUNCTION crm_internal.change_target() IS 'the table to which capture appends';

-- As many keys of usual length as fit into a page.
CREATE FUNCTION crm_internal.change_part() RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT 250 $$;
COMMENT ON FUNCTION crm_internal.change_part() IS 'maximum number of records in a row of crm.change';

-- The result of an expression over a mapped column may depend on settings of the session; a capture function pins those
-- that its columns depend on.
CREATE FUNCTION crm_internal.pinned_settings(map_id int) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH used AS (
        SELECT e.oid, e.typtype, crm_internal.is_builtin(e.oid) AS is_builtin, f.data_type
        FROM crm.bound_column b
        JOIN crm.object_map m USING (map_id)
        LEFT JOIN crm.field_map f USING (map_id, column_name)
        JOIN pg_type t ON t.oid = crm_internal.base_type(b.type_id)
        JOIN pg_type e ON e.oid = crm_internal.base_type(CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN t.typelem ELSE t.oid END)
        WHERE b.map_id = pinned_settings.map_id)
    SELECT coalesce(string_agg(DISTINCT format(' SET %s = %L', s.name, s.value), ''), '')
    FROM used u, (VALUES
        ('datestyle', 'ISO, MDY', '{date,time,timetz,timestamp,timestamptz}'::regtype[], true),
        ('timezone', 'UTC', '{date,time,timetz,timestamp,timestamptz}', true),
        ('intervalstyle', 'postgres', '{interval}', false),
        ('extra_float_digits', '1', '{real,double precision,point,line,lseg,box,path,polygon,circle}', false),
        ('bytea_output', 'hex', '{bytea}', false),
        ('lc_monetary', 'C', '{money}', false)) AS s (name, value, types, of_time)
    -- A user-defined type may contain any of them.
    WHERE u.oid = ANY (s.types) OR s.of_time AND (u.data_type IN ('date', 'datetime') OR u.typtype IN ('r', 'm'))
       OR NOT u.is_builtin AND u.typtype <> 'e'
$$;
COMMENT ON FUNCTION crm_internal.pinned_settings(int) IS
    'SET clauses of a map''s capture function: settings on which the values of its columns depend';

-- Functions and triggers of a map exist on this server only; Citus would create them on all nodes. Without Citus the setting
-- has no effect.
CREATE FUNCTION crm_internal.install_capture(map_id int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET citus.enable_ddl_propagation = off AS $$
DECLARE
    m crm.object_map;
    fn text := format('crm_internal.capture_%s', map_id);
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
    n_in text;
    o_in text;
    same_filter text;
    event record;
BEGIN
    SELECT * INTO STRICT m FROM crm.object_map o WHERE o.map_id = install_capture.map_id;
    PERFORM crm_internal.remove_capture(m.map_id);
    IF NOT m.enabled OR NOT EXISTS (SELECT FROM pg_class WHERE oid = m.relation) THEN
        RETURN;
    END IF;

    -- By name and base type, which a restored database has too; 0: a user-defined type, of which only the output is used.
    SELECT array_agg(b.column_name::text ORDER BY b.attnum),
           array_agg(CASE WHEN crm_internal.is_builtin(b.type_id) THEN crm_internal.base_type(b.type_id) ELSE 0 END ORDER BY b.attnum)
    INTO columns, types
    FROM crm.bound_column b WHERE b.map_id = m.map_id;
    -- Texts byte by byte: whatever their collation considers equal, another text is another key.
    SELECT crm_internal.key_expression(format('n.%I', m.key_column), b.type_id),
        crm_internal.key_expression(format('o.%I', m.key_column), b.type_id),
           format('%s = %s', crm_internal.comparable('n', m.key_column, b.type_id), crm_internal.comparable('o', m.key_column, b.type_id))
    INTO n_key, o_key, join_on
    FROM crm.bound_column b WHERE b.map_id = m.map_id AND b.column_name = m.key_column;
    SELECT format('coalesce(%s, '''')', crm_internal.key_expression(format('n.%I', m.shard_column), b.type_id)),
           format('coalesce(%s, '''')', crm_internal.key_expression(format('o.%I', m.shard_column), b.type_id))
    INTO n_shard, o_shard
    FROM crm.bound_column b WHERE b.map_id = m.map_id AND b.column_name = m.shard_column;
    -- Repeated three times for the planner: it has no statistics of transition tables and estimates that 1 in 200 pairs of rows
    -- match. With 50 million estimated rows instead of 100,000 it would use JIT compilation.
    join_on := format('%1$s AND %1$s AND %1$s', join_on)
               || coalesce(' AND ' || n_shard || ' = ' || o_shard, '');
    n_shard := coalesce(n_shard, '''''');
    o_shard := coalesce(o_shard, '''''');

    SELECT array_agg(f.field_id ORDER BY f.field_id),
           array_agg(format('%s IS DISTINCT FROM %s', crm_internal.comparable('n', f.column_name, b.type_id),
                            crm_internal.comparable('o', f.column_name, b.type_id)) ORDER BY f.field_id),
           bool_or(f.direction = 'bidirectional'),
           string_agg(format('CASE WHEN %s IS DISTINCT FROM %s THEN jsonb_build_object(%L, %s) ELSE ''{}'' END',
                             crm_internal.comparable('n', f.column_name, b.type_id), crm_internal.comparable('o', f.column_name, b.type_id),
                             f.field_id, crm_internal.base_expression(crm_internal.safe_column('o', f.column_name, b.type_id),
                                                                      crm_internal.safe_column('n', f.column_name, b.type_id), b.type_id)),
                      E'\n                     || ' ORDER BY f.field_id) FILTER (WHERE f.direction = 'bidirectional')
    INTO written, changed, realtime, old_values
    FROM crm.field_map f JOIN crm.bound_column b USING (map_id, column_name)
    WHERE f.map_id = m.map_id AND f.direction <> 'inbound' AND f.materialize AND NOT f.create_only;

    -- Rules apply to the cells that a statement sets: all of a new row, the changed ones of an updated row.
    SELECT string_agg(format('SELECT %L || %s AS at, %s', format('column "%s", rule %s, record_key ', f.column_name, r.rule),
                             n_key, format('n."pg_crm.ord" AS ord, %s AS place FROM numbered n WHERE %s', f.field_id * 8 + r.place,
                                 r.condition)), E'\n            UNION ALL '),
           string_agg(format('SELECT %L || %s AS at, n."pg_crm.ord" AS ord, %s AS place FROM numbered n JOIN old_rows o ON %s WHERE (%s) AND %s IS DISTINCT FROM %s',
                             format('column "%s", rule %s, record_key ', f.column_name, r.rule), n_key, f.field_id * 8 + r.place, join_on,
                                 r.condition,
                             crm_internal.comparable('n', f.column_name, b.type_id),
                                 crm_internal.comparable('o', f.column_name, b.type_id)),
                      E'\n            UNION ALL '),
           string_agg(format('(%s)', r.condition), ' OR ')
    INTO union_insert, union_update, quick
    FROM crm.field_map f JOIN crm.bound_column b USING (map_id, column_name),
         LATERAL crm_internal.rule_conditions(f, b.type_id, 'n') WITH ORDINALITY AS r (rule, condition, place)
    WHERE f.map_id = m.map_id AND f.direction <> 'inbound';

    -- Fields that must not change once both sides have a value: the ledger knows whether the CRM has one.
    SELECT string_agg(format(
               $t$
            SELECT %1$L || %2$s FROM new_rows n JOIN old_rows o ON %3$s
            WHERE %4$s IS DISTINCT FROM %5$s AND o.%6$I IS DISTINCT FROM NULL AND EXISTS (
                SELECT FROM crm.ledger l WHERE l.shard_key = %7$s COLLATE "C" AND l.map_id = %8$s AND l.record_key = %2$s COLLATE "C"
                  AND crm_internal.cell_is_set(l.hashes, %9$s))$t$,
               format('column "%s", immutable once bound, record_key ', f.column_name), n_key, join_on,
                   crm_internal.comparable('n', f.column_name, b.type_id),
               crm_internal.comparable('o', f.column_name, b.type_id), f.column_name, n_shard, m.map_id, f.field_id),
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
            PERFORM crm_internal.refuse_violations(TG_RELID, violations);
        END IF;$t$, quick, union_insert);
        checks_update := format($t$
        IF EXISTS (SELECT FROM new_rows n WHERE %s) THEN
            WITH numbered AS (SELECT *, row_number() OVER () AS "pg_crm.ord" FROM new_rows)
            SELECT array_agg(at ORDER BY ord, place) INTO violations FROM (SELECT * FROM (
            %s) broken ORDER BY ord, place LIMIT 6) first_broken;
            IF violations IS NOT NULL THEN
                PERFORM crm_internal.refuse_violations(TG_RELID, violations);
            END IF;
        END IF;$t$, quick, union_update);
    END IF;
    IF immutable IS NOT NULL THEN
        checks_update := checks_update || format($t$
        IF NOT crm_internal.applying_from_crm(%s) THEN
            SELECT array_agg(broken) INTO violations FROM (SELECT * FROM (%s) AS u (broken) LIMIT 6) v;
            IF violations IS NOT NULL THEN
                PERFORM crm_internal.refuse_violations(TG_RELID, violations);
            END IF;
        END IF;$t$, m.map_id, immutable);
    END IF;

    -- With on_insert 'ignore', only rows that are linked or queued.
    known_only := CASE m.on_insert WHEN 'create' THEN '' ELSE format($w$
              WHERE EXISTS (SELECT FROM crm.ledger l
                            WHERE l.shard_key = %s COLLATE "C" AND l.map_id = %s AND l.record_key = %s COLLATE "C")$w$,
            n_shard, m.map_id, n_key) END;
    all_cells := coalesce(crm_internal.mask_expression(written, array_fill('true'::text, ARRAY[coalesce(cardinality(written), 0)])),
        'decode(''0000000000000000'', ''hex'')');
    changed_cells := coalesce(crm_internal.mask_expression(written, changed), 'decode(''0000000000000000'', ''hex'')');

    -- Which rows are inside the filter: before and after a statement. Those for which it fails (NULL) may be, so their changes are
    -- captured, and judged again when they are read to be sent. Without its columns, that holds for all rows.
    IF m.filter IS NOT NULL AND crm_internal.filter_is_bound(m) THEN
        SELECT format('crm_internal.in_filter(TG_RELID, %s, ARRAY[%s])', m.map_id,
                      string_agg(format('(%s)::pg_catalog.text', crm_internal.safe_column('n', b.column_name, b.type_id)), ', ' ORDER BY f.ord)),
               format('crm_internal.in_filter(TG_RELID, %s, ARRAY[%s])', m.map_id,
                      string_agg(format('(%s)::pg_catalog.text', crm_internal.safe_column('o', b.column_name, b.type_id)), ', ' ORDER BY f.ord)),
               string_agg(format('%s IS NOT DISTINCT FROM %s', crm_internal.comparable('n', b.column_name, b.type_id),
                                 crm_internal.comparable('o', b.column_name, b.type_id)), ' AND ' ORDER BY f.ord)
        INTO n_in, o_in, same_filter
        FROM unnest(m.filter_columns) WITH ORDINALITY AS f (column_name, ord)
        JOIN crm.bound_column b ON b.map_id = m.map_id AND b.column_name = f.column_name;
        known_only := known_only || CASE known_only WHEN '' THEN ' WHERE ' ELSE ' AND ' END || n_in || ' IS NOT FALSE';
    END IF;

    body := format($f$
-- Generated by crm_internal.install_capture(%1$s) from the mapping of %2$s; regenerated when the mapping changes.
#variable_conflict use_variable
DECLARE
    -- First: no expression over a column is evaluated unless the table is as it was when this function was generated.
    is_bound CONSTANT bool := crm_internal.require_bound(TG_RELID, %22$L, %23$L);
    violations text[];
    actor text := session_user || coalesce('/' || nullif(current_setting('pg_crm.actor', true), ''), '');
    correlation text := nullif(current_setting('pg_crm.correlation_id', true), '');
    -- The cells that pg_crm itself is setting.
    ours bytea := crm_internal.applying(%1$s);
    our_records text[];
BEGIN
    IF TG_OP = 'UPDATE' THEN%3$s
        IF ours IS NOT NULL THEN
            our_records := crm_internal.applying_to(%1$s);
        END IF;
        PERFORM FROM old_rows LIMIT 1 OFFSET 1;
        IF FOUND THEN
            INSERT INTO %4$s (shard_key, map_id, op, cells, record_keys, actor, correlation_id%17$s)
            SELECT k.shard_key, %1$s, %24$s, k.cells, array_agg(k.record_key), actor, correlation%18$s
            FROM (SELECT c.*, (row_number() OVER () - 1) / %16$s AS part
                  FROM %26$s(SELECT %5$s AS shard_key,
                               CASE WHEN %8$s IS NULL OR %7$s IS NULL
                                    THEN crm_internal.refuse_key_change(TG_RELID, coalesce(%8$s, %7$s))
                                    ELSE %7$s END AS record_key,
                               CASE WHEN ours IS NULL OR %5$s || '/' || %7$s <> ALL (our_records) THEN %9$s
                                    ELSE crm_internal.cells_minus(%9$s, ours) END AS cells%19$s%27$s
                        FROM old_rows o FULL JOIN new_rows n ON %10$s
                        OFFSET 0)%28$s c
                  WHERE %29$sc.cells <> decode(%11$L, 'hex')%30$s) k
            GROUP BY k.part, k.shard_key, k.cells%20$s;
        ELSE -- a single row needs no join and no grouping
            INSERT INTO %4$s (shard_key, map_id, op, cells, record_keys, actor, correlation_id%17$s)
            SELECT c.shard_key, %1$s, %25$s, c.cells, ARRAY[c.record_key], actor, correlation%21$s
            FROM %26$s(SELECT %5$s AS shard_key,
                         CASE WHEN %10$s THEN %7$s ELSE crm_internal.refuse_key_change(TG_RELID, %8$s) END AS record_key,
                         CASE WHEN ours IS NULL OR %5$s || '/' || %7$s <> ALL (our_records) THEN %9$s
                              ELSE crm_internal.cells_minus(%9$s, ours) END AS cells%19$s%27$s
                  FROM old_rows o, new_rows n
                  OFFSET 0)%28$s c
            WHERE %29$sc.cells <> decode(%11$L, 'hex')%30$s;
        END IF;
    ELSIF TG_OP = 'INSERT' THEN%12$s
        -- A row that pg_crm inserts for a CRM record has its values; rows that triggers insert are edits.
        IF ours IS NOT NULL AND pg_trigger_depth() = 1 THEN
            RETURN NULL;
        END IF;
        PERFORM FROM new_rows LIMIT 1 OFFSET 1;
        IF FOUND THEN
            INSERT INTO %4$s (shard_key, map_id, op, cells, record_keys, actor, correlation_id)
            SELECT k.shard_key, %1$s, 'i', %13$s, array_agg(k.record_key), actor, correlation
            FROM (SELECT %5$s AS shard_key, %7$s AS record_key, (row_number() OVER () - 1) / %16$s AS part
                  FROM new_rows n%14$s) k
            GROUP BY k.part, k.shard_key;
        ELSE
            INSERT INTO %4$s (shard_key, map_id, op, cells, record_keys, actor, correlation_id)
            SELECT %5$s, %1$s, 'i', %13$s, ARRAY[%7$s], actor, correlation
            FROM new_rows n%14$s;
        END IF;
    ELSE
        INSERT INTO %4$s (shard_key, map_id, op, cells, record_keys, actor, correlation_id)
        SELECT k.shard_key, %1$s, %31$s, decode('0000000000000000', 'hex'), array_agg(k.record_key), actor, correlation
        FROM (SELECT %6$s AS shard_key, %8$s AS record_key, (row_number() OVER () - 1) / %16$s AS part%32$s
              FROM old_rows o) k
        GROUP BY k.part, k.shard_key%33$s;
    END IF;
    IF FOUND THEN
        PERFORM crm_internal.note_change(%15$s);
    END IF;
    RETURN NULL;
END
$f$, m.map_id, translate(m.relation::text, E'\n\r', '  '), checks_update, crm_internal.change_target(), n_shard, o_shard, n_key, o_key,
     changed_cells, join_on, repeat('00', 8 * (1 + coalesce((SELECT max(i) FROM unnest(written) i), 0) / 64)),
     checks_insert, all_cells,
     known_only,
     CASE WHEN realtime THEN 'true' ELSE 'false' END, crm_internal.change_part(),
     -- The base of an edit of a bidirectional cell differs per record: such a row names one record.
     CASE WHEN realtime THEN ', base' ELSE '' END,
     CASE WHEN realtime THEN ', k.base' ELSE '' END,
     CASE WHEN realtime THEN format(E',\n                               nullif(%s, ''{}'') AS base', old_values) ELSE '' END,
     CASE WHEN n_in IS NULL THEN '' ELSE ', k.op' END
         || CASE WHEN realtime THEN ', k.base, CASE WHEN k.base IS NOT NULL THEN k.record_key END' ELSE '' END,
     CASE WHEN realtime THEN ', c.base' ELSE '' END,
     columns, types,
     CASE WHEN n_in IS NULL THEN '''u''' ELSE 'k.op' END, CASE WHEN n_in IS NULL THEN '''u''' ELSE 'c.op' END,
     -- A row that has entered the filter, or may have, is as if inserted; one that was and is outside is nobody's.
     CASE WHEN n_in IS NULL THEN '' ELSE format(
         '(SELECT f.shard_key, f.record_key, f.op, CASE f.op WHEN ''u'' THEN f.cells WHEN ''i'' THEN %s ELSE decode(''0000000000000000'', ''hex'') END AS cells%s '
         'FROM (SELECT g.*, CASE WHEN g.is_same THEN CASE WHEN g.is_in IS NOT FALSE THEN ''u'' END '
         'WHEN NOT g.is_in THEN CASE WHEN g.was_in IS NOT FALSE THEN ''l'' END WHEN g.was_in THEN ''u'' ELSE ''i'' END::"char" AS op FROM ',
         all_cells, CASE WHEN realtime THEN ', CASE f.op WHEN ''u'' THEN f.base END AS base' ELSE '' END) END,
     CASE WHEN n_in IS NULL THEN '' ELSE format(', %s AS is_in, %s AS is_same, CASE WHEN %2$s THEN NULL ELSE %s END AS was_in', n_in, same_filter, o_in) END,
     CASE WHEN n_in IS NULL THEN '' ELSE ' g) f)' END,
     CASE WHEN n_in IS NULL THEN '' ELSE '(c.op <> ''u'' OR ' END,
     CASE WHEN n_in IS NULL THEN '' ELSE ')' || CASE m.on_insert WHEN 'create' THEN '' ELSE format(
         ' AND (c.op <> ''i'' OR EXISTS (SELECT FROM crm.ledger l WHERE l.shard_key = c.shard_key COLLATE "C" AND l.map_id = %s '
         'AND l.record_key = c.record_key COLLATE "C"))', m.map_id) END END,
     CASE WHEN o_in IS NOT NULL THEN 'k.op' WHEN m.filter IS NOT NULL THEN '''x''' ELSE '''d''' END,
     CASE WHEN o_in IS NULL THEN '' ELSE format(', CASE %s WHEN true THEN ''d'' WHEN false THEN ''o'' ELSE ''x'' END::"char" AS op', o_in) END,
     CASE WHEN o_in IS NULL THEN '' ELSE ', k.op' END);

    EXECUTE format('CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER '
                   'SET search_path = pg_catalog, pg_temp%s AS %L', fn, crm_internal.pinned_settings(m.map_id), body);
    PERFORM crm_internal.revoke_grants('pg_proc'::regclass, to_regprocedure(fn || '()'));
    EXECUTE format('COMMENT ON FUNCTION %s() IS %L', fn, format('validation and change capture of %s for map %s', m.relation, m.map_id));
    EXECUTE format('ALTER FUNCTION %s() DEPENDS ON EXTENSION pg_crm', fn);

    -- A subscription fires row-level triggers only. What it applies must not be rejected, so rules are not checked, and
    -- an update of the key counts as a delete and an insert.
    IF m.capture = 'always' THEN
        body := format($f$
-- Generated by crm_internal.install_capture(%1$s) from the mapping of %2$s, for changes that a subscription applies.
#variable_conflict use_variable
DECLARE
    is_bound CONSTANT bool := crm_internal.require_bound(TG_RELID, %3$L, %4$L);
    actor text := session_user || coalesce('/' || nullif(current_setting('pg_crm.actor', true), ''), '');
    correlation text := nullif(current_setting('pg_crm.correlation_id', true), '');
    is_same bool := true;
BEGIN
    IF NOT crm_internal.is_replicating() THEN
        RETURN NULL; -- the statement-level trigger fires
    END IF;
    IF TG_OP = 'UPDATE' THEN
        SELECT %5$s INTO is_same FROM (SELECT (OLD).*) o, (SELECT (NEW).*) n;
    END IF;
    IF TG_OP = 'UPDATE' AND is_same THEN
        INSERT INTO %6$s (shard_key, map_id, op, cells, record_keys, actor, correlation_id%7$s)
        SELECT c.shard_key, %1$s, 'u', c.cells, ARRAY[c.record_key], actor, correlation%8$s
        FROM (SELECT %9$s AS shard_key, %10$s AS record_key, %11$s AS cells%12$s
              FROM (SELECT (OLD).*) o, (SELECT (NEW).*) n
              OFFSET 0) c
        WHERE c.cells <> decode(%13$L, 'hex');
    END IF;
    IF %14$s AND (TG_OP = 'DELETE' OR NOT is_same) THEN
        INSERT INTO %6$s (shard_key, map_id, op, cells, record_keys, actor, correlation_id)
        SELECT %15$s, %1$s, 'd', decode('0000000000000000', 'hex'), ARRAY[%16$s], actor, correlation FROM (SELECT (OLD).*) o;
    END IF;
    IF TG_OP = 'INSERT' OR NOT is_same THEN
        INSERT INTO %6$s (shard_key, map_id, op, cells, record_keys, actor, correlation_id)
        SELECT %9$s, %1$s, 'i', %17$s, ARRAY[%10$s], actor, correlation
        FROM (SELECT (NEW).*) n%18$s;
    END IF;
    PERFORM crm_internal.note_change(%19$s);
    RETURN NULL;
END
$f$, m.map_id, translate(m.relation::text, E'\n\r', '  '), columns, types, join_on, crm_internal.change_target(),
     CASE WHEN realtime THEN ', base' ELSE '' END,
     CASE WHEN realtime THEN ', c.base' ELSE '' END,
     n_shard, n_key, changed_cells, CASE WHEN realtime THEN format(', nullif(%s, ''{}'') AS base', old_values) ELSE '' END,
     repeat('00', 8 * (1 + coalesce((SELECT max(i) FROM unnest(written) i), 0) / 64)),
     CASE WHEN m.on_delete <> 'ignore' THEN 'true' ELSE 'false' END, o_shard, o_key, all_cells, known_only,
     CASE WHEN realtime THEN 'true' ELSE 'false' END);
        EXECUTE format('CREATE OR REPLACE FUNCTION %s_row() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER '
                       'SET search_path = pg_catalog, pg_temp%s AS %L', fn, crm_internal.pinned_settings(m.map_id), body);
        PERFORM crm_internal.revoke_grants('pg_proc'::regclass, to_regprocedure(fn || '_row()'));
        EXECUTE format('COMMENT ON FUNCTION %s_row() IS %L', fn,
            format('change capture of replicated rows of %s for map %s', m.relation, m.map_id));
        EXECUTE format('ALTER FUNCTION %s_row() DEPENDS ON EXTENSION pg_crm', fn);
    END IF;

    FOR event IN
        SELECT * FROM (VALUES
            ('insert', 'AFTER INSERT', 'REFERENCING NEW TABLE AS new_rows', fn, true, false),
            ('update', 'AFTER UPDATE', 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows', fn, true, false),
            ('delete', 'AFTER DELETE', 'REFERENCING OLD TABLE AS old_rows', fn, m.on_delete <> 'ignore', false),
            ('truncate', 'BEFORE TRUNCATE', '', 'crm_internal.refuse_truncate', m.on_delete <> 'ignore', false),
            ('row', 'AFTER INSERT OR UPDATE OR DELETE', '', fn || '_row', m.capture = 'always', true)) AS t (name, event, tables, fn,
                wanted, for_each_row)
        WHERE wanted
    LOOP
        PERFORM crm_internal.put_trigger(m.relation, format('pg_crm_%s_%s', m.map_id, event.name), event.event, event.tables,
            (event.fn || '()')::regprocedure,
                                event.for_each_row,
                                -- A replicated TRUNCATE must not be rejected.
                                CASE WHEN event.for_each_row THEN 'R' WHEN m.capture = 'always' AND event.name <> 'truncate' THEN 'A'
                                    ELSE 'O' END);
    END LOOP;
    PERFORM crm_internal.guard_partitions(m.map_id);
END $$;
COMMENT ON FUNCTION crm_internal.install_capture(int) IS 'creates the capture function and triggers of a map, or re-creates them; a disabled map has none';

CREATE FUNCTION crm_internal.remove_capture(map_id int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET citus.enable_ddl_propagation = off AS $$
DECLARE
    t record;
BEGIN
    FOR t IN
        SELECT g.tgname, g.tgrelid AS relation FROM pg_trigger g
        WHERE g.tgname ~ format('^pg_crm_%s_(insert|update|delete|truncate|row|leaf)$', map_id) AND g.tgparentid = 0
    LOOP
        PERFORM crm_internal.drop_trigger(t.relation, t.tgname);
    END LOOP;
    IF to_regprocedure(format('crm_internal.capture_%s()', map_id)) IS NOT NULL THEN
        -- A view may depend on it.
        EXECUTE format('DROP FUNCTION crm_internal.capture_%s() CASCADE', map_id);
    END IF;
    IF to_regprocedure(format('crm_internal.capture_%s_row()', map_id)) IS NOT NULL THEN
        EXECUTE format('DROP FUNCTION crm_internal.capture_%s_row() CASCADE', map_id);
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.remove_capture(int) IS 'drops the triggers of a map and their functions';
