-- The fuse: a round that would delete, clear or create too many records waits for a person.

CREATE FUNCTION crm_internal.held_reason(f crm.fuse) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN f.held_at IS NOT NULL THEN format(
        CASE f.direction WHEN 'outbound' THEN 'held: %s CRM records would be deleted, %s cleared and %s created, and %s are linked; crm.approve(%s) releases them'
                         ELSE 'ingestion held: %s rows would be deleted or unlinked, %s cleared, and %4$s are linked; crm.approve(%5$s) resumes ingestion' END,
        f.held ->> 'deletes', f.held ->> 'clears', f.held ->> 'creates', f.held ->> 'records', f.map_id) END
$$;
COMMENT ON FUNCTION crm_internal.held_reason(crm.fuse) IS 'why a map is held and what to do about it; NULL: it is not';

CREATE FUNCTION crm.approve(map_id int) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m CONSTANT crm.object_map := crm_internal.map_of(map_id);
    f crm.fuse;
    approved bool := false;
BEGIN
    PERFORM crm_internal.refuse_restricted();
    FOR f IN SELECT * FROM crm.fuse x WHERE x.map_id = m.map_id AND x.held_at IS NOT NULL ORDER BY x.direction FOR UPDATE LOOP
        -- Edits of bidirectional cells are due as retries are, which are not counted.
        UPDATE crm.pending_write p SET next_attempt_at = now()
        WHERE f.direction = 'outbound' AND p.map_id = m.map_id AND p.state = 'queued' AND p.next_attempt_at = '-infinity' AND p.folded IS NULL
          AND p.intended @? '$.* ? (@ == null)' AND p.changed_at <= f.held_at;
        -- What was queued since is counted anew. Ingestion reads the rest of its pass.
        UPDATE crm.fuse x
        SET held_at = NULL, held = NULL, held_revision = NULL, deletes = 0, clears = 0, creates = 0,
            approved_revision = CASE x.direction WHEN 'outbound' THEN x.held_revision ELSE 0 END,
            exempt = CASE x.direction WHEN 'outbound' THEN x.exempt ELSE 'all' END
        WHERE x.map_id = m.map_id AND x.direction = f.direction;
        INSERT INTO crm.audit_log (map_id, connection, provider, relation, path, operation, fields, result, actor)
        SELECT m.map_id, c.name, c.provider, m.relation::text, 'setup', 'approve',
               jsonb_build_object(f.direction, f.held || jsonb_build_object('held_at', f.held_at)), 'applied', crm_internal.actor()
        FROM crm.connection c WHERE c.connection_id = m.connection_id;
        RAISE NOTICE 'map % (%) is no longer held', m.map_id, m.relation USING DETAIL = crm_internal.held_reason(f);
        approved := true;
    END LOOP;
    IF approved THEN
        PERFORM crm_internal.send_now(ARRAY[m.map_id]);
    END IF;
    RETURN approved;
END $$;
COMMENT ON FUNCTION crm.approve(int) IS
    'releases a map that is held (state held of crm.status): what was counted is written, or the CRM''s changes are read to their end; '
    'later edits are counted anew. Audited. Returns false if the map is not held. Errors: 42704 no such map';
