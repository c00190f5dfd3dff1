-- crm.check(): the invariants of pg_crm.

-- So many small queries look expensive to the planner: compiling them takes five times as long as running them.
CREATE FUNCTION crm_internal.check_tables() RETURNS TABLE (rule text, detail text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    -- Maps whose work nothing prevents.
    WITH free AS (
        SELECT m.map_id FROM crm.object_map m JOIN crm.connection c USING (connection_id)
        LEFT JOIN crm.map_state s USING (map_id) LEFT JOIN crm.connection_state cs USING (connection_id)
        WHERE m.enabled AND NOT m.paused AND NOT c.paused AND c.home = crm.home()
          AND s.state IS DISTINCT FROM 'error' AND cs.state IS DISTINCT FROM 'error'
          AND NOT EXISTS (SELECT FROM crm.fuse f WHERE f.map_id = m.map_id AND f.held_at IS NOT NULL)
          AND coalesce(cs.blocked_until < now() - interval '5 minutes', true) AND crm.worker_state() = 'running')
    SELECT 'no edit is lost', format('record %s of map %s is %s but has nothing to write', q.record_key, q.map_id, q.state)
    FROM crm.queue q WHERE q.cells IS NULL AND q.op <> 'd'
    UNION ALL
    SELECT 'no edit is lost', format('record %s of map %s is %s but not in the ledger', q.record_key, q.map_id, q.state)
    FROM crm.queue q WHERE NOT EXISTS (
        SELECT FROM crm.ledger l WHERE l.shard_key = q.shard_key AND l.map_id = q.map_id AND l.record_key = q.record_key)
    UNION ALL
    SELECT 'no edit is lost', format('record %s of map %s is dead but has no dead letter', q.record_key, q.map_id)
    FROM crm.queue q WHERE q.state = 'dead' AND NOT EXISTS (
        SELECT FROM crm.dead_letter d WHERE d.shard_key = q.shard_key AND d.map_id = q.map_id AND d.record_key = q.record_key
            AND d.path = 'batch')
    UNION ALL
    SELECT 'no edit is lost', format('dead letter %s names record %s of map %s, which is not dead', d.dead_letter_id, d.record_key,
        d.map_id)
    FROM crm.dead_letter d WHERE d.path = 'batch' AND NOT EXISTS (
        SELECT FROM crm.queue q WHERE q.shard_key = d.shard_key AND q.map_id = d.map_id AND q.record_key = d.record_key
            AND q.state = 'dead')
    UNION ALL
    SELECT 'no edit is lost', format('record %s of map %s waits for a CRM id that it has', q.record_key, q.map_id)
    FROM crm.queue q JOIN crm.ledger l USING (shard_key, map_id, record_key) WHERE q.state = 'unlinked' AND l.crm_id IS NOT NULL
    UNION ALL
    SELECT 'no edit is lost', format('record %s of map %s is to be updated but has no CRM id', q.record_key, q.map_id)
    FROM crm.queue q JOIN crm.ledger l USING (shard_key, map_id, record_key) WHERE q.state = 'queued' AND q.op <> 'c' AND l.crm_id IS NULL
    UNION ALL
    SELECT 'no edit is lost', format('record %s of map %s is synced, but its column %s changed at %s and was synced %s',
                                     l.record_key, l.map_id, f.column_name, l.changed_at[f.field_id + 1],
                                     coalesce('at ' || l.synced_at[f.field_id + 1], 'never'))
    FROM crm.ledger l JOIN crm.field_map f USING (map_id)
    WHERE NOT l.detached AND f.direction <> 'inbound' AND f.materialize AND NOT f.create_only
      AND l.changed_at[f.field_id + 1] > coalesce(l.synced_at[f.field_id + 1], '-infinity')
      AND NOT EXISTS (SELECT FROM crm.queue q WHERE q.shard_key = l.shard_key AND q.map_id = l.map_id AND q.record_key = l.record_key)
    UNION ALL
    SELECT 'no edit is lost', format('%s of map %s, which does not exist', x.what, x.map_id)
    FROM (SELECT DISTINCT 'changes' AS what, h.map_id FROM crm.change h UNION SELECT DISTINCT 'records', l.map_id FROM crm.ledger l
          UNION SELECT DISTINCT 'queued records', q.map_id FROM crm.queue q) x
    WHERE NOT EXISTS (SELECT FROM crm.object_map m WHERE m.map_id = x.map_id)
    UNION ALL
    SELECT 'the configuration is whole', format('%s belongs to %s, which does not exist', x.what, x.whose)
    FROM (SELECT format('map %s', m.map_id) AS what, format('connection %s', m.connection_id) AS whose
          FROM crm.object_map m WHERE NOT EXISTS (SELECT FROM crm.connection c WHERE c.connection_id = m.connection_id)
          UNION ALL
          SELECT format('column "%s"', f.column_name), format('map %s', f.map_id)
          FROM crm.field_map f WHERE NOT EXISTS (SELECT FROM crm.object_map m WHERE m.map_id = f.map_id)
          UNION ALL
          SELECT 'the state of an ingestion', format('map %s', s.map_id)
          FROM crm.ingest_state s WHERE NOT EXISTS (SELECT FROM crm.object_map m WHERE m.map_id = s.map_id)
          UNION ALL
          SELECT DISTINCT 'a webhook', format('connection %s', i.connection_id)
          FROM crm.webhook_inbox i WHERE NOT EXISTS (SELECT FROM crm.connection c WHERE c.connection_id = i.connection_id)) x
    UNION ALL
    SELECT 'no duplicate link', format('CRM record %s of %s is linked %s times: %s', l.crm_id, min(m.crm_object), count(*),
                             string_agg(format('record %s of map %s', l.record_key, l.map_id), ', ' ORDER BY l.map_id, l.record_key))
    FROM crm.ledger l JOIN crm.object_map m USING (map_id) WHERE l.crm_id IS NOT NULL
    GROUP BY m.connection_id, lower(m.crm_object), l.crm_id HAVING count(*) > 1
    UNION ALL
    SELECT 'every attempt is audited', format('record %s of map %s was synced at %s, but the audit log has no entry',
                                              l.record_key, l.map_id, (SELECT max(t) FROM unnest(l.synced_at) t))
    -- Where both sides already agreed, nothing was written that would be audited.
    FROM crm.ledger l WHERE l.synced_at IS NOT NULL AND l.changed_at IS NOT NULL AND NOT EXISTS (
        SELECT FROM crm.audit_log a WHERE a.map_id = l.map_id AND a.record_key = l.record_key
          AND a.result IN ('applied', 'raced', 'superseded'))
      AND NOT EXISTS (SELECT FROM crm.audit_log_retired r WHERE r.until > (SELECT max(t) FROM unnest(l.synced_at) t))
    UNION ALL
    SELECT 'no edit is lost', format('pending write %s of record %s of map %s has nothing to do', p.write_id, p.record_key, p.map_id)
    FROM crm.pending_write p
    WHERE p.state = 'queued' AND crm_internal.cells_count(p.cells) = 0 AND coalesce(crm_internal.cells_count(p.take), 0) = 0
    UNION ALL
    SELECT 'no edit is lost', format('pending write %s of record %s of map %s is %s', p.write_id, p.record_key, p.map_id,
                                     CASE WHEN p.state = 'dead' THEN 'dead but has no dead letter'
                                         ELSE 'not dead but has a dead letter' END)
    FROM crm.pending_write p
    WHERE p.state IN ('queued', 'dead') AND (p.state = 'dead') <> EXISTS (
        SELECT FROM crm.dead_letter d
        WHERE d.path = 'reconcile' AND d.shard_key = p.shard_key AND d.map_id = p.map_id AND d.record_key = p.record_key)
    UNION ALL
    SELECT 'no edit is lost', format('dead letter %s names a pending write of record %s of map %s that does not exist', d.dead_letter_id,
                                     d.record_key, d.map_id)
    FROM crm.dead_letter d WHERE d.path = 'reconcile' AND NOT EXISTS (
        SELECT FROM crm.pending_write p
        WHERE p.state = 'dead' AND p.shard_key = d.shard_key AND p.map_id = d.map_id AND p.record_key = d.record_key)
    UNION ALL
    SELECT 'no edit is lost', format('%s of record %s of map %s, which is not in the ledger', x.what, x.record_key, x.map_id)
    FROM (SELECT 'a pending write' AS what, p.shard_key, p.map_id, p.record_key FROM crm.pending_write p WHERE p.state IN ('queued', 'dead')
          UNION ALL SELECT 'a conflict', c.shard_key, c.map_id, c.record_key FROM crm.conflict c) x
    WHERE NOT EXISTS (SELECT FROM crm.ledger l WHERE l.shard_key = x.shard_key AND l.map_id = x.map_id AND l.record_key = x.record_key)
    UNION ALL
    SELECT 'CRM changes are read', format('CRM record %s has been waiting to be fetched for map %s since %s, and nothing prevents it',
        r.crm_id, r.map_id, r.since)
    FROM crm.refetch r JOIN free USING (map_id) WHERE r.due_at < now() - interval '5 minutes'
    UNION ALL
    SELECT 'intents are finished', format('intent %s of record %s of map %s outlived its caller', p.write_id, p.record_key, p.map_id)
    FROM crm.pending_write p
    WHERE p.state IN ('sending', 'landed', 'failed') AND p.created_at < now() - interval '1 minute'
      -- Its caller's transaction is running in a backend, or prepared.
      AND coalesce(crm_internal.transaction_start(p.backend_pid) > p.created_at, true)
      AND NOT EXISTS (SELECT FROM pg_prepared_xacts x WHERE x.database = current_database())
    UNION ALL
    SELECT 'edits are written promptly', format('an edit of record %s of map %s has been waiting since %s, and nothing prevents it',
        x.record_key, x.map_id, x.since)
    FROM (SELECT h.map_id, h.record_keys[1], h.changed_at FROM crm.change h WHERE h.base IS NOT NULL OR h.write_id IS NOT NULL
          UNION ALL
          SELECT p.map_id, p.record_key, greatest(p.next_attempt_at, p.changed_at)
          FROM crm.pending_write p JOIN crm.ledger l USING (shard_key, map_id, record_key)
          WHERE p.state = 'queued' AND l.crm_id IS NOT NULL) x (map_id, record_key, since)
    JOIN free USING (map_id) WHERE x.since < now() - interval '5 minutes'
    UNION ALL
    SELECT 'claims are released', format('claim %s of map %s outlived its lease (%s)', k.claim_id, k.map_id, k.leased_until)
    FROM crm.claim k WHERE k.leased_until < now() - interval '1 minute'
    UNION ALL
    SELECT 'claims are released', format('claim %s of map %s is that of process %s, which is not a worker of this database: its %s records are not being processed',
                                k.claim_id, k.map_id, k.worker_pid, cardinality(k.record_keys))
    -- A worker releases all claims when it starts.
    FROM crm.claim k WHERE k.claimed_at < now() - interval '1 minute' AND NOT EXISTS (
        SELECT FROM pg_stat_activity a
        WHERE a.pid = k.worker_pid AND a.datname = current_database() AND a.backend_type = 'pg_crm worker')
    UNION ALL
    SELECT 'secrets stay secret', format('connection %s shows a secret in its options', c.name)
    FROM crm.connection c, crm.credential s, jsonb_each_text(s.secret) e
    WHERE s.connection_id = c.connection_id AND length(e.value) > 5 AND position(e.value IN c.options::text) > 0
    UNION ALL
    SELECT 'no unexpected grants', t.trouble FROM crm_internal.unexpected_grants() t
    UNION ALL
    SELECT 'no unexpected grants', format('role crm_engine: %s (%s)', t.trouble, t.hint) FROM crm_internal.engine_trouble() t
    UNION ALL
    SELECT 'edits are captured', format('edits of map %s (%s) are not captured: %s', m.map_id, m.relation, t.trouble)
    FROM crm.object_map m, crm_internal.capture_trouble(m.map_id) AS t (trouble) WHERE t.trouble IS NOT NULL
    UNION ALL
    SELECT 'no unexpected grants', 'there is no role crm_engine' WHERE to_regrole('crm_engine') IS NULL
$$;
COMMENT ON FUNCTION crm_internal.check_tables() IS 'what crm.check() finds in pg_crm''s own tables';

-- For operators only, because it reads every row of other roles' tables.
CREATE FUNCTION crm_internal.check_rows() RETURNS TABLE (rule text, detail text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, MDY' SET timezone = 'UTC' SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
SET xmlbinary = 'base64' SET lc_monetary = 'C'
-- Always in index order, whatever the statistics say: sorting the table for each part of it would take for ever.
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
    id int;
BEGIN
    PERFORM crm_internal.refuse_restricted();
    FOR id IN SELECT m.map_id FROM crm.object_map m JOIN pg_class c ON c.oid = m.relation WHERE m.enabled ORDER BY m.map_id LOOP
        RETURN QUERY SELECT r.rule, r.detail FROM crm_internal.compare_rows(id) r;
    END LOOP;
END $$;
COMMENT ON FUNCTION crm_internal.check_rows() IS 'the violations that crm.check(deep => true) finds in mapped tables';

-- SECURITY INVOKER: a reader may check pg_crm's own tables without the privilege to execute check_rows().
CREATE FUNCTION crm.check(deep bool DEFAULT false) RETURNS TABLE (rule text, detail text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT t.rule, t.detail FROM crm_internal.check_tables() t;
    IF deep THEN
        RETURN QUERY SELECT r.rule, r.detail FROM crm_internal.check_rows() r;
    END IF;
END $$;
COMMENT ON FUNCTION crm.check(bool) IS
    'checks the invariants of pg_crm: one row per violation. deep: also compares every row of every mapped table with the ledger; '
    'for operators only, takes as long as reading the tables, raises a NOTICE every 100,000 rows. Cancellable';
