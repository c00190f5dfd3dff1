-- Adapting maps to DDL on their tables.

CREATE FUNCTION crm_internal.follow_map(id int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m crm.object_map;
    c record;
    changed bool := (SELECT s.stale FROM crm.map_state s WHERE s.map_id = id);
    trouble text := crm_internal.lost_transform(id);
BEGIN
    -- One at a time: the worker and a session that alters the table may both get here.
    SELECT * INTO m FROM crm.object_map o WHERE o.map_id = id FOR NO KEY UPDATE;
    IF changed IS NULL OR NOT FOUND THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_class k WHERE k.oid = m.relation) THEN
        DELETE FROM crm.bound_column b WHERE b.map_id = m.map_id;
        -- crm_internal.follow_drop() has reported it by name.
        UPDATE crm.map_state s SET state = 'error', reason = 'the mapped table was dropped; call crm.unmap_object()', stale = false
        WHERE s.map_id = m.map_id AND (s.state <> 'error' OR s.stale);
        RETURN;
    END IF;
    FOR c IN
        SELECT b.column_name, a.attname AS current_name, b.type_id, a.atttypid,
               -- Otherwise the filter alone reads it.
               b.column_name IN (m.key_column, m.shard_column)
                   OR EXISTS (SELECT FROM crm.field_map f WHERE f.map_id = m.map_id AND f.column_name = b.column_name) AS is_mapped
        FROM crm.bound_column b
        LEFT JOIN pg_attribute a ON a.attrelid = m.relation AND a.attnum = b.attnum AND NOT a.attisdropped
        WHERE b.map_id = m.map_id
          AND (a.attname IS DISTINCT FROM b.column_name OR a.atttypid IS DISTINCT FROM b.type_id)
    LOOP
        changed := true;
        IF c.current_name IS NULL THEN
            DELETE FROM crm.bound_column b WHERE b.map_id = m.map_id AND b.column_name = c.column_name;
            trouble := CASE WHEN c.is_mapped THEN format('column "%s" was dropped', c.column_name) ELSE trouble END;
        ELSIF c.atttypid <> c.type_id THEN
            UPDATE crm.bound_column b SET type_id = c.atttypid WHERE b.map_id = m.map_id AND b.column_name = c.column_name;
            IF c.is_mapped THEN
                trouble := format('column "%s" changed its type to %s', c.column_name, format_type(c.atttypid, NULL));
            ELSE
                -- The filter may say something else of the rows now.
                PERFORM crm_internal.request_recapture(m.map_id, format('column "%s" of its filter changed its type', c.column_name));
            END IF;
        END IF;
    END LOOP;
    IF changed THEN
        -- Renames last and in one statement, so that two columns may swap names.
        UPDATE crm.field_map f SET column_name = a.attname
        FROM crm.bound_column b JOIN pg_attribute a ON a.attrelid = m.relation AND a.attnum = b.attnum
        WHERE b.map_id = m.map_id AND f.map_id = m.map_id AND f.column_name = b.column_name AND a.attname <> b.column_name;
        UPDATE crm.object_map o
        SET key_column = coalesce((SELECT a.attname FROM crm.bound_column b JOIN pg_attribute a ON a.attrelid = m.relation
            AND a.attnum = b.attnum
                                   WHERE b.map_id = m.map_id AND b.column_name = o.key_column), o.key_column),
            shard_column = coalesce((SELECT a.attname FROM crm.bound_column b JOIN pg_attribute a ON a.attrelid = m.relation
                AND a.attnum = b.attnum
                                     WHERE b.map_id = m.map_id AND b.column_name = o.shard_column), o.shard_column)
        WHERE o.map_id = m.map_id;
        UPDATE crm.bound_column b SET column_name = a.attname
        FROM pg_attribute a
        WHERE b.map_id = m.map_id AND a.attrelid = m.relation AND a.attnum = b.attnum AND a.attname <> b.column_name;
    END IF;
    -- Before triggers are re-created, which is DDL itself.
    trouble := coalesce(trouble || '; fix it with crm.alter_field() or crm.unmap_field()', crm_internal.table_trouble(m.map_id));
    IF trouble IS NULL THEN
        trouble := crm_internal.filter_reason(m.map_id);
        -- Which rows have left meanwhile is found once it can be evaluated.
        PERFORM crm_internal.request_recapture(m.map_id, 'its filter could not be evaluated')
        FROM crm.map_state s WHERE s.map_id = m.map_id AND s.state <> 'error' AND trouble IS NOT NULL;
    END IF;
    trouble := nullif(concat_ws('; ', trouble, m.keys_changed), '');
    UPDATE crm.map_state s
    SET state = CASE WHEN trouble IS NULL THEN 'idle' ELSE 'error' END, reason = trouble, stale = false
    WHERE s.map_id = m.map_id AND (trouble IS NOT NULL AND (s.state <> 'error' OR s.stale) OR trouble IS NULL AND s.stale);
    IF changed THEN
        -- Without its key column a map captures nothing; with it, the remaining columns are still captured.
        IF EXISTS (SELECT FROM crm.bound_column b JOIN crm.object_map o USING (map_id)
                   WHERE b.map_id = m.map_id AND b.column_name = o.key_column) THEN
            PERFORM crm_internal.install_capture(m.map_id);
        ELSE
            PERFORM crm_internal.remove_capture(m.map_id);
        END IF;
        PERFORM crm_internal.notify_worker(false);
    ELSIF EXISTS (SELECT FROM pg_class k WHERE k.oid = m.relation AND k.relkind = 'p')
          AND to_regprocedure(format('crm_internal.capture_%s()', m.map_id)) IS NOT NULL THEN
        -- An attached partition may have rows that differ from the ledger. A new one is empty.
        IF EXISTS (SELECT FROM crm_internal.partitions(m.relation) AS p (relid)
                   WHERE NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = p.relid AND g.tgname = format('pg_crm_%s_leaf', m.map_id))
                     AND pg_relation_size(p.relid) > 0) THEN
            PERFORM crm_internal.request_recapture(m.map_id, 'a partition was attached');
        END IF;
        PERFORM crm_internal.guard_partitions(m.map_id);
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.follow_map(int) IS
    'adapts a map to renamed columns; stops it if a column was dropped or retyped, a transform was dropped, or its table can no longer '
    'be mapped';

-- DDL never fails because the map could not be adapted: until the worker has done so, the capture function itself rejects edits
-- of a table for which it was not generated.
CREATE FUNCTION crm_internal.follow_later(id int, why text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE crm.map_state s
    SET stale = true, state = 'error',
        reason = coalesce(CASE WHEN s.state = 'error' AND NOT s.stale THEN s.reason || '; ' END, '')
                 || 'its table was altered, and the worker has not rebuilt the map yet: ' || why
    WHERE s.map_id IN (SELECT x.map_id FROM crm.map_state x WHERE x.map_id = id FOR UPDATE SKIP LOCKED);
    PERFORM crm_internal.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm_internal.follow_later(int, text) IS 'marks a map as stale, so that the worker adapts it to its table';

CREATE FUNCTION crm_internal.altered_types() RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.oid FROM pg_event_trigger_ddl_commands() d
    JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
                   OR d.classid = 'pg_class'::regclass AND t.typrelid = d.objid AND t.typtype = 'c'
$$;
COMMENT ON FUNCTION crm_internal.altered_types() IS 'for event triggers: types that a command altered, those of tables among them';

-- All commands, so that no way to alter a table is missed. Examines the maps whose tables this transaction has locked as only
-- DDL does, those of the parents of partitions that it created or altered, and after a DROP those with dropped transforms. So a
-- command never waits for DDL on other mapped tables.
CREATE FUNCTION crm_internal.follow_ddl() RETURNS event_trigger
-- Longer than the worker's lock_timeout: in a deadlock, the worker gives way.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    id int;
BEGIN
    -- Commands that pg_crm itself runs, and that cannot alter a column or attach a partition.
    IF TG_TAG IN ('CREATE FUNCTION', 'ALTER FUNCTION', 'CREATE TRIGGER', 'ALTER TRIGGER', 'DROP TRIGGER', 'COMMENT', 'GRANT', 'REVOKE') THEN
        RETURN;
    END IF;
    FOREACH id IN ARRAY ARRAY(
        SELECT o.map_id FROM crm.object_map o WHERE crm_internal.is_held_by_ddl(o.relation)
        UNION
        SELECT o.map_id FROM pg_event_trigger_ddl_commands() d, pg_partition_ancestors(d.objid::regclass) AS a (relid), crm.object_map o
        WHERE d.classid = 'pg_class'::regclass AND o.relation = a.relid
        UNION
        SELECT f.map_id FROM crm.field_map f JOIN crm.map_state s USING (map_id), unnest(ARRAY[f.transform_out, f.transform_in]) AS t (oid)
        WHERE TG_TAG LIKE 'DROP%' AND s.state <> 'error' AND t.oid IS NOT NULL AND NOT EXISTS (SELECT FROM pg_proc p WHERE p.oid = t.oid)
        UNION
        -- A filter names labels and attributes.
        SELECT b.map_id FROM crm.object_map o JOIN crm.bound_column b ON b.map_id = o.map_id AND b.column_name = ANY (o.filter_columns),
               crm_internal.altered_types() AS t (oid)
        WHERE TG_TAG LIKE 'ALTER%' AND b.type_id >= 16384 AND crm_internal.is_made_of(b.type_id, t.oid)
        ORDER BY 1)
    LOOP
        BEGIN
            PERFORM crm_internal.follow_map(id);
        EXCEPTION WHEN OTHERS THEN
            PERFORM crm_internal.follow_later(id, sqlerrm);
        END;
        -- The worker logs it once.
        PERFORM crm_internal.notify_worker(false) WHERE crm_internal.capture_trouble(id) IS NOT NULL;
    END LOOP;
    -- A cheap test first: what follows examines every map.
    IF TG_TAG LIKE 'ALTER%' AND EXISTS (
           SELECT FROM pg_event_trigger_ddl_commands() d
           WHERE CASE d.classid WHEN 'pg_class'::regclass THEN crm_internal.retyped_columns(d.command, false) <> '{}'
                                WHEN 'pg_type'::regclass THEN crm_internal.renames_label(d.command) END) THEN
        -- UPDATE cannot change a key, but DDL can, and rows would be taken for those of other records. A retyped key has already
        -- stopped the map; a USING clause is reported all the same. It is kept in the map, so that it survives a restore.
        WITH renamed AS (
            UPDATE crm.object_map o
            SET keys_changed = concat_ws('; ', o.keys_changed, x.trouble)
            FROM (SELECT DISTINCT ON (m.map_id) m.map_id,
                         format('%s, and keys of rows may have changed: call crm.alter_map(%s) if none did, otherwise '
                                'crm.unmap_object(), and map the table again',
                                CASE WHEN d.classid = 'pg_type'::regclass THEN format('a label of type %s was renamed', d.object_identity)
                                     ELSE format('ALTER TABLE rewrote column "%s"', c.name) END, m.map_id) AS trouble
                  FROM pg_event_trigger_ddl_commands() d
                  CROSS JOIN crm.object_map m JOIN crm.map_state n USING (map_id)
                  CROSS JOIN LATERAL (
                      SELECT r.name FROM unnest(crm_internal.retyped_columns(d.command, n.state = 'error')) AS r (name)
                      WHERE d.classid = 'pg_class'::regclass AND r.name IN (m.key_column, m.shard_column)
                        AND d.objid IN (SELECT m.relation UNION ALL SELECT i.inhparent FROM pg_inherits i WHERE i.inhrelid = m.relation
                                        UNION ALL SELECT t.typrelid FROM pg_class k JOIN pg_type t ON t.oid = k.reloftype
                                            WHERE k.oid = m.relation)
                        -- By this transaction: no other has the same start time and is visible.
                        AND EXISTS (SELECT FROM crm.scan_request q WHERE q.map_id = m.map_id AND q.task = 'recapture' AND q.requested_at = now())
                      UNION ALL
                      SELECT b.column_name FROM crm.bound_column b
                      WHERE d.classid = 'pg_type'::regclass AND crm_internal.renames_label(d.command)
                        AND b.map_id = m.map_id AND b.column_name = m.shard_column AND crm_internal.base_type(b.type_id) = d.objid) c
                  ORDER BY m.map_id) x
            WHERE o.map_id = x.map_id AND position(x.trouble IN coalesce(o.keys_changed, '')) = 0
            RETURNING o.map_id, x.trouble)
        UPDATE crm.map_state s
        SET state = 'error', reason = concat_ws('; ', CASE WHEN s.state = 'error' THEN s.reason END, r.trouble)
        FROM renamed r WHERE s.map_id = r.map_id;
    END IF;
    IF TG_TAG LIKE 'ALTER%' THEN
        -- A label of an enum or an attribute may have been renamed.
        PERFORM crm_internal.request_recapture(x.map_id, format('type %s was altered', format_type(x.altered, NULL)))
        FROM (SELECT DISTINCT ON (b.map_id) b.map_id, t.oid AS altered
              FROM crm_internal.altered_types() AS t (oid)
              -- Built-in types are not altered.
              JOIN crm.bound_column b ON b.type_id >= 16384 AND crm_internal.is_made_of(b.type_id, t.oid)
              ORDER BY b.map_id) x;
    END IF;
    IF TG_TAG = 'DROP INDEX' THEN
        -- DROP INDEX CONCURRENTLY leaves no lock to detect.
        PERFORM crm_internal.notify_worker(false);
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.follow_ddl() IS 'event trigger: crm_internal.follow_map() for the maps that a command touched';

-- For the worker: event triggers can be disabled, and superusers can change catalogs.
CREATE FUNCTION crm_internal.maps_to_follow() RETURNS SETOF int
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT m.map_id
    FROM crm.object_map m JOIN crm.map_state s USING (map_id) LEFT JOIN pg_class c ON c.oid = m.relation
    WHERE s.stale
       OR c.oid IS NULL AND s.state <> 'error'
       OR c.oid IS NOT NULL AND EXISTS (SELECT FROM crm.bound_column b
                  LEFT JOIN pg_attribute a ON a.attrelid = m.relation AND a.attnum = b.attnum AND NOT a.attisdropped
                  WHERE b.map_id = m.map_id AND (a.attname IS DISTINCT FROM b.column_name OR a.atttypid IS DISTINCT FROM b.type_id))
       OR c.relkind = 'p' AND to_regprocedure(format('crm_internal.capture_%s()', m.map_id)) IS NOT NULL
          AND EXISTS (SELECT FROM crm_internal.partitions(m.relation) AS p (relid)
                      WHERE NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = p.relid
                          AND g.tgname = format('pg_crm_%s_leaf', m.map_id)))
       OR s.state <> 'error' AND (
              EXISTS (SELECT FROM pg_attribute a
                      WHERE a.attrelid = m.relation AND a.attname = m.key_column AND NOT a.attisdropped
                        AND (NOT a.attnotnull OR crm_internal.is_nondeterministic(m.relation, m.key_column)
                            OR crm_internal.is_nondeterministic(m.relation, m.shard_column)
                             OR NOT EXISTS (SELECT FROM pg_index x
                                            WHERE x.indrelid = m.relation AND x.indisunique AND x.indisvalid
                                                AND a.attnum = ANY (x.indkey))))
           OR c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = m.relation)
           OR m.filter IS NOT NULL AND c.oid IS NOT NULL AND crm_internal.filter_trouble(m.map_id) IS NOT NULL)
    ORDER BY 1
$$;
COMMENT ON FUNCTION crm_internal.maps_to_follow() IS 'maps whose tables differ from what they were bound to';

CREATE FUNCTION crm_internal.follow_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
    -- When the extension itself is being dropped, its tables no longer exist.
    IF to_regclass('crm.map_state') IS NULL OR to_regclass('crm.object_map') IS NULL THEN
        RETURN;
    END IF;
    UPDATE crm.map_state s
    SET state = 'error', reason = format('the mapped table "%s" was dropped; call crm.unmap_object()', d.object_identity)
    FROM pg_event_trigger_dropped_objects() d, crm.object_map m
    WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND m.relation = d.objid AND s.map_id = m.map_id;
    IF FOUND THEN
        DELETE FROM crm.bound_column b USING crm.object_map m, pg_event_trigger_dropped_objects() d
        WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND m.relation = d.objid AND b.map_id = m.map_id;
    END IF;
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
    PERFORM crm_internal.notify_worker(false); -- it detects the drop itself
END $$;
COMMENT ON FUNCTION crm_internal.follow_drop() IS 'event trigger: stops maps whose tables were dropped';
