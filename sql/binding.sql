-- Maps bound to the columns of their tables, and checks that a table still meets the requirements of mapping.

-- A transform runs as the table's owner, so its own owner must be able to act as that role anyway.
CREATE FUNCTION crm_internal.transform_trouble(transform oid, relation oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN NOT EXISTS (SELECT FROM pg_proc p WHERE p.oid = transform) THEN 'was dropped'
                ELSE (SELECT format('belongs to "%s", who cannot act as "%s", the owner of the table', pg_get_userbyid(p.proowner),
                    pg_get_userbyid(c.relowner))
                      FROM pg_proc p, pg_class c
                      WHERE p.oid = transform AND c.oid = relation AND NOT pg_has_role(p.proowner, c.relowner, 'MEMBER')) END
    WHERE transform IS NOT NULL
$$;
COMMENT ON FUNCTION crm_internal.transform_trouble(oid, oid) IS 'why a transform must not run for a table; NULL: it may';

CREATE FUNCTION crm_internal.lost_transform(map_id int) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('a transform of column "%s" %s', f.column_name, x.trouble)
    FROM crm.field_map f JOIN crm.object_map m USING (map_id), unnest(ARRAY[f.transform_out, f.transform_in]) AS t (oid),
         crm_internal.transform_trouble(t.oid, m.relation) AS x (trouble)
    WHERE f.map_id = lost_transform.map_id AND x.trouble IS NOT NULL
    ORDER BY f.field_id LIMIT 1
$$;
COMMENT ON FUNCTION crm_internal.lost_transform(int) IS 'the first column of a map whose transform was dropped or must not run; NULL: none';

CREATE FUNCTION crm_internal.filter_is_bound(m crm.object_map) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT NOT EXISTS (SELECT FROM unnest(m.filter_columns) AS f (name)
                       WHERE NOT EXISTS (SELECT FROM crm.bound_column b WHERE b.map_id = m.map_id AND b.column_name = f.name))
$$;
COMMENT ON FUNCTION crm_internal.filter_is_bound(crm.object_map) IS 'whether the columns that a map''s filter reads are there by their names';

CREATE FUNCTION crm_internal.filter_reason(map_id int) RETURNS text
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('its filter cannot be evaluated: %s; call crm.alter_map(%s, filter => ...)', f.trouble, map_id)
    FROM crm_internal.filter_trouble(map_id) AS f (trouble) WHERE f.trouble IS NOT NULL
$$;
COMMENT ON FUNCTION crm_internal.filter_reason(int) IS 'why the filter of a map cannot be evaluated for any row, and the remedy; NULL: it can, or there is none';

CREATE FUNCTION crm_internal.table_trouble(map_id int) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN NOT a.attnotnull THEN format('key column "%s" is nullable now', m.key_column)
                WHEN NOT crm_internal.is_key_type(a.atttypid)
                    THEN format('column "%s" of type %s cannot be a key', m.key_column, format_type(a.atttypid, NULL))
                WHEN crm_internal.is_nondeterministic(m.relation, m.key_column)
                    THEN format('key column "%s" has a nondeterministic collation now', m.key_column)
                WHEN NOT crm_internal.is_key(m.relation, m.key_column, m.shard_column)
                    THEN format('key column "%s" is no longer unique', m.key_column)
                WHEN NOT crm_internal.is_shard_type(s.atttypid) THEN
                    format('column "%s" of type %s cannot be a shard_column', m.shard_column, format_type(s.atttypid, NULL))
                WHEN crm_internal.is_nondeterministic(m.relation, m.shard_column)
                    THEN format('shard_column "%s" has a nondeterministic collation now', m.shard_column)
                WHEN NOT s.attnotnull AND NOT crm_internal.is_unique(m.relation, m.key_column) THEN
                    format('shard_column "%s" is nullable now', m.shard_column)
                WHEN c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) THEN
                    format('table "%s" inherits from it, and statements on that bypass validation and change capture',
                           (SELECT i.inhrelid::regclass FROM pg_inherits i WHERE i.inhparent = c.oid ORDER BY i.inhrelid LIMIT 1))
                WHEN crm_internal.is_of_citus(c.oid) THEN 'it is a Citus table now, whose edits are not captured'
                WHEN c.relpersistence = 'u' THEN 'it is unlogged, and a crash would truncate it'
                ELSE (SELECT format('the generated column "%s" can only be mapped outbound', f.column_name)
                      FROM crm.field_map f
                      WHERE f.map_id = m.map_id AND f.direction <> 'outbound' AND crm_internal.is_computed(m.relation, f.column_name)
                      ORDER BY f.field_id LIMIT 1)
                END || format('; fix the table, then call crm.alter_map(%s)', m.map_id)
    FROM crm.object_map m JOIN pg_class c ON c.oid = m.relation
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = m.key_column AND NOT a.attisdropped
    LEFT JOIN pg_attribute s ON s.attrelid = c.oid AND s.attname = m.shard_column AND NOT s.attisdropped
    WHERE m.map_id = table_trouble.map_id
$$;
COMMENT ON FUNCTION crm_internal.table_trouble(int) IS 'which requirement of crm.map_object() a mapped table no longer meets; NULL: none';

CREATE FUNCTION crm_internal.bind_map(map_id int) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    m crm.object_map;
    reason text;
    trouble text;
BEGIN
    -- One at a time: after a restore, the worker and a session that alters the table may both get here.
    SELECT * INTO STRICT m FROM crm.object_map o WHERE o.map_id = bind_map.map_id FOR NO KEY UPDATE;
    DELETE FROM crm.bound_column b WHERE b.map_id = m.map_id;
    INSERT INTO crm.bound_column (map_id, column_name, attnum, type_id)
    SELECT m.map_id, a.attname, a.attnum, a.atttypid
    FROM pg_attribute a
    WHERE a.attrelid = m.relation AND a.attnum > 0 AND NOT a.attisdropped
      AND a.attname IN (SELECT f.column_name FROM crm.field_map f WHERE f.map_id = m.map_id
                        UNION ALL SELECT m.key_column UNION ALL SELECT m.shard_column UNION ALL SELECT unnest(m.filter_columns));
    SELECT CASE
        WHEN NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = m.relation) THEN 'the mapped table was dropped'
        ELSE coalesce((SELECT format('column "%s" was dropped', wanted.column_name)
              FROM (SELECT m.key_column AS column_name
                    UNION ALL SELECT m.shard_column WHERE m.shard_column IS NOT NULL
                    UNION ALL SELECT unnest(m.filter_columns)
                    UNION ALL SELECT f.column_name FROM crm.field_map f WHERE f.map_id = m.map_id) wanted
              WHERE NOT EXISTS (SELECT FROM crm.bound_column b
                                WHERE b.map_id = m.map_id AND b.column_name = wanted.column_name)
              LIMIT 1),
             (SELECT format('column "%s" of type %s cannot be a %s', f.column_name, format_type(b.type_id, NULL), f.data_type)
              FROM crm.field_map f JOIN crm.bound_column b USING (map_id, column_name)
              WHERE f.map_id = m.map_id AND f.transform_out IS NULL AND NOT crm_internal.type_fits(b.type_id, f.data_type)
              ORDER BY f.field_id LIMIT 1), crm_internal.lost_transform(m.map_id), crm_internal.table_trouble(m.map_id))
        END INTO reason;
    reason := nullif(concat_ws('; ', reason, m.keys_changed), '');
    INSERT INTO crm.map_state (map_id, state, reason)
    VALUES (m.map_id, CASE WHEN reason IS NULL THEN 'idle' ELSE 'error' END, reason)
    ON CONFLICT (map_id) DO UPDATE SET state = excluded.state, reason = excluded.reason, stale = false;
    -- Asked last: whoever reads a map that has no state binds it.
    IF reason IS NULL AND m.filter IS NOT NULL THEN
        trouble := crm_internal.filter_reason(m.map_id);
        UPDATE crm.map_state s SET state = 'error', reason = trouble WHERE s.map_id = m.map_id AND trouble IS NOT NULL;
    END IF;
    RETURN coalesce(reason, trouble);
END $$;
COMMENT ON FUNCTION crm_internal.bind_map(int) IS
    'binds a map to the columns of its table as the catalog has them now; returns why the map cannot work, or NULL';

-- A restored database has maps that are not bound yet; after a rename it would be too late.
CREATE FUNCTION crm_internal.bind_restored() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    m crm.object_map;
BEGIN
    -- This runs before every DDL command of every role, so it does not examine maps any further.
    FOREACH m IN ARRAY ARRAY(
        SELECT o FROM crm.object_map o WHERE NOT EXISTS (SELECT FROM crm.map_state s WHERE s.map_id = o.map_id))
    LOOP
        -- A restore creates keys last.
        CONTINUE WHEN NOT crm_internal.is_key(m.relation, m.key_column, m.shard_column);
        BEGIN
            PERFORM crm_internal.bind_map(m.map_id);
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            NULL; -- another session is binding it
        END;
    END LOOP;
END $$;
COMMENT ON FUNCTION crm_internal.bind_restored() IS 'event trigger: binds restored maps before their tables are altered';

-- Reads catalogs only, so that a view can call it for every map.
CREATE FUNCTION crm_internal.capture_finding(map_id int, OUT trouble text, OUT remedy text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT f.trouble, f.remedy
    FROM crm.object_map m JOIN pg_class c ON c.oid = m.relation
    CROSS JOIN LATERAL (
        (SELECT 1 AS place, format('trigger "%s" %s', x.name, CASE WHEN g.oid IS NULL THEN 'is missing' WHEN g.tgenabled = 'D' THEN 'is disabled'
                            WHEN g.tgenabled = 'R' THEN 'fires for replicated rows only' ELSE 'does not fire for replicated rows' END) AS trouble,
                -- What was missed is found last.
                format(CASE WHEN g.oid IS NULL THEN 'SELECT crm.alter_map(%s)' ELSE 'ALTER TABLE %2$s ENABLE %3$sTRIGGER %4$I' END
                       || '; SELECT crm.recapture(%1$s)', m.map_id, m.relation,
                       CASE e.fires WHEN 'A' THEN 'ALWAYS ' WHEN 'RA' THEN 'REPLICA ' END, x.name) AS remedy
         FROM (VALUES ('insert', true, CASE m.capture WHEN 'always' THEN 'A' ELSE 'OA' END),
                      ('update', true, CASE m.capture WHEN 'always' THEN 'A' ELSE 'OA' END),
                      ('delete', m.on_delete <> 'ignore', CASE m.capture WHEN 'always' THEN 'A' ELSE 'OA' END),
                      ('truncate', m.on_delete <> 'ignore', 'OA'), ('row', m.capture = 'always', 'RA')) AS e (event, wanted, fires)
         CROSS JOIN LATERAL (SELECT format('pg_crm_%s_%s', m.map_id, e.event)) AS x (name)
         LEFT JOIN pg_trigger g ON g.tgrelid = m.relation AND g.tgname = x.name
         WHERE e.wanted AND (g.oid IS NULL OR position(g.tgenabled::text IN e.fires) = 0)
         LIMIT 1)
        UNION ALL
        (SELECT 2, format('trigger "%s" of partition %s is disabled', g.tgname, p.relid),
                format('ALTER TABLE %s ENABLE TRIGGER %I; SELECT crm.recapture(%s)', p.relid, g.tgname, m.map_id)
         FROM crm_internal.partitions(m.relation) AS p (relid)
         JOIN pg_trigger g ON g.tgrelid = p.relid AND g.tgname = format('pg_crm_%s_leaf', m.map_id) AND g.tgenabled NOT IN ('O', 'A')
         LIMIT 1)
        UNION ALL
        (SELECT 3, format('session_replication_role is set to replica for %s, whose sessions do not fire capture triggers', x.whom),
                format('ALTER %s RESET session_replication_role; SELECT crm.recapture(%s)', x.command, m.map_id)
         FROM pg_db_role_setting s
         CROSS JOIN LATERAL (
             SELECT CASE WHEN s.setrole = 0 THEN format('database "%s"', current_database()) ELSE format('role %s', s.setrole::regrole) END AS whom,
                    concat_ws(' ', 'ROLE ' || nullif(s.setrole, 0)::regrole, CASE WHEN s.setrole <> 0 AND s.setdatabase <> 0 THEN 'IN' END,
                              CASE WHEN s.setdatabase <> 0 THEN format('DATABASE %I', current_database()) END) AS command) x
         WHERE m.capture = 'origin' AND s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
           AND 'session_replication_role=replica' = ANY (s.setconfig)
         LIMIT 1)
        UNION ALL
        (SELECT 4, 'session_replication_role is replica by default in sessions such as this one, which do not fire capture triggers',
                format('ALTER SYSTEM RESET session_replication_role; SELECT pg_reload_conf(); SELECT crm.recapture(%s)', m.map_id)
         FROM pg_settings s WHERE m.capture = 'origin' AND s.name = 'session_replication_role' AND s.reset_val = 'replica')) f
    WHERE m.map_id = capture_finding.map_id AND m.enabled
    ORDER BY f.place LIMIT 1
$$;
COMMENT ON FUNCTION crm_internal.capture_finding(int) IS
    'why edits of a mapped table are not captured, and the SQL that mends it; NULL: they are, or the map is disabled';

CREATE FUNCTION crm_internal.capture_trouble(map_id int) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('%s; run %s', f.trouble, f.remedy) FROM crm_internal.capture_finding(map_id) f WHERE f.trouble IS NOT NULL
$$;
COMMENT ON FUNCTION crm_internal.capture_trouble(int) IS 'why edits of a mapped table are not captured, and how to fix it; NULL: they are, or the map is disabled';
