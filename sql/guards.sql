-- Statements that capture rejects, and guards on partitions.

CREATE FUNCTION crm_internal.refuse_key_change(relation regclass, record_key text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE feature_not_supported USING
        MESSAGE = format('the key of a mapped row of "%s" cannot be changed', relation),
        DETAIL = format('The row with record_key "%s" would get another key, and its CRM record would no longer have a row.', record_key),
        HINT = 'Insert a row with the new key and delete the old one, or crm.unmap_object() first.';
END $$;
COMMENT ON FUNCTION crm_internal.refuse_key_change(regclass, text) IS
    'raises feature_not_supported (0A000): the key of a mapped row must not change';

CREATE FUNCTION crm_internal.refuse_truncate() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE feature_not_supported USING
        MESSAGE = format('cannot truncate "%s": it is mapped to a CRM, and deletes are propagated', TG_RELID::regclass),
        HINT = 'Use DELETE, or map it with on_delete => ''ignore''.';
END $$;
COMMENT ON FUNCTION crm_internal.refuse_truncate() IS
    'trigger: raises feature_not_supported (0A000), since TRUNCATE does not list rows for on_delete';

CREATE FUNCTION crm_internal.refuse_leaf_write() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE feature_not_supported USING
        MESSAGE = format('cannot write to partition "%s" directly: its parent is mapped to a CRM', TG_RELID::regclass),
        DETAIL = 'A statement on the partition alone would bypass validation and change capture.',
        HINT = 'Write through the partitioned table.';
END $$;
COMMENT ON FUNCTION crm_internal.refuse_leaf_write() IS
    'trigger: raises feature_not_supported (0A000), since statements on a partition alone would not be captured';

-- From the catalog only: pg_partition_tree() would wait for locks on partitions.
CREATE FUNCTION crm_internal.partitions(relation regclass) RETURNS SETOF regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE tree AS (
        SELECT i.inhrelid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent
        WHERE i.inhparent = relation AND c.relkind = 'p' AND NOT i.inhdetachpending
        UNION ALL
        SELECT i.inhrelid FROM tree t JOIN pg_class c ON c.oid = t.inhrelid AND c.relkind = 'p'
        JOIN pg_inherits i ON i.inhparent = t.inhrelid AND NOT i.inhdetachpending)
    SELECT inhrelid::regclass FROM tree
$$;
COMMENT ON FUNCTION crm_internal.partitions(regclass) IS 'partitions of a table at all levels';

CREATE FUNCTION crm_internal.guard_partitions(map_id int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET citus.enable_ddl_propagation = off AS $$
DECLARE
    leaf regclass;
BEGIN
    FOR leaf IN
        SELECT g.tgrelid FROM pg_trigger g, crm.object_map m
        WHERE m.map_id = guard_partitions.map_id AND g.tgname = format('pg_crm_%s_leaf', m.map_id)
          AND g.tgrelid NOT IN (SELECT crm_internal.partitions(m.relation))
    LOOP
        PERFORM crm_internal.drop_trigger(leaf, format('pg_crm_%s_leaf', map_id));
    END LOOP;
    FOR leaf IN
        SELECT t.relid FROM crm.object_map m, crm_internal.partitions(m.relation) AS t (relid)
        WHERE m.map_id = guard_partitions.map_id
          AND NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = t.relid AND g.tgname = format('pg_crm_%s_leaf', m.map_id))
    LOOP
        PERFORM crm_internal.put_trigger(leaf, format('pg_crm_%s_leaf', map_id), 'BEFORE INSERT OR UPDATE OR DELETE', '',
            'crm_internal.refuse_leaf_write()'::regprocedure,
                                false, 'O');
    END LOOP;
END $$;
COMMENT ON FUNCTION crm_internal.guard_partitions(int) IS
    'adds the guard trigger to partitions that lack it, and drops it from detached tables';
