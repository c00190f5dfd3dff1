-- Comparing rows with the ledger when cells may have changed without firing a trigger.

-- Requests are inserted once per map and transaction; the worker finds the cells that changed.
CREATE FUNCTION crm_internal.request_recapture(map_id int, reason text, new_rows bool DEFAULT false, new_since pg_snapshot DEFAULT NULL,
                                               lost_rows bool DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO crm.scan_request (map_id, new_rows, new_since, lost_rows, reason, actor)
    SELECT request_recapture.map_id, request_recapture.new_rows, CASE WHEN request_recapture.new_rows THEN request_recapture.new_since END,
           request_recapture.lost_rows, request_recapture.reason,
           crm_internal.actor()
    WHERE NOT EXISTS (SELECT FROM crm.scan_request r
                      WHERE r.map_id = request_recapture.map_id AND r.task = 'recapture' AND r.xmin = pg_current_xact_id()::xid
                        AND r.new_rows >= request_recapture.new_rows AND r.lost_rows >= request_recapture.lost_rows);
    PERFORM crm_internal.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm_internal.request_recapture(int, text, bool, pg_snapshot, bool) IS 'requests that the worker compare the rows of a map with the ledger';

CREATE FUNCTION crm.recapture(map_id int, new_rows bool DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m crm.object_map := crm_internal.map_of(map_id);
BEGIN
    PERFORM crm_internal.refuse_restricted();
    PERFORM crm_internal.request_recapture(m.map_id, 'crm.recapture()', coalesce(new_rows, false));
END $$;
COMMENT ON FUNCTION crm.recapture(int, bool) IS
    'compares every row of a map with the ledger in the background, and captures cells that changed without firing a trigger. '
    'new_rows: also captures rows without a ledger entry as inserts, if the map has on_insert ''create''. '
    'Progress: crm.progress; crm.flush() waits for it';

-- Fires for a table, or for each of its partitions. 4 is AT_REWRITE_COLUMN_REWRITE (ALTER COLUMN … TYPE … USING): other rewrites
-- do not change values.
CREATE FUNCTION crm_internal.follow_rewrite() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_event_trigger_table_rewrite_reason() & 4 <> 0 THEN
        PERFORM crm_internal.request_recapture(o.map_id, 'ALTER TABLE rewrote its rows')
        FROM crm.object_map o
        WHERE o.relation = pg_event_trigger_table_rewrite_oid()
           OR o.relation IN (SELECT a.relid FROM pg_partition_ancestors(pg_event_trigger_table_rewrite_oid()) AS a (relid));
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.follow_rewrite() IS
    'event trigger: requests a recapture of mapped tables whose columns ALTER TABLE rewrites';
