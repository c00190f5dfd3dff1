-- Real time: crm.write() and crm.read_live() for applications; pending writes and conflicts for operators.

CREATE TYPE crm.write_result AS (
    write_id      uuid,
    outcome       text,
    crm_values    jsonb,
    snapshot_hash bytea,
    error_class   text,
    error         text
);
COMMENT ON TYPE crm.write_result IS 'result of crm.write()';
COMMENT ON COLUMN crm.write_result.outcome IS
    'committed: both sides have the new values; conflict: the CRM value differs from the base, nothing was written on either side; '
    'pending: the row has the new values, the reconciler writes them to the CRM';
COMMENT ON COLUMN crm.write_result.crm_values IS
    'CRM values of the mapped fields, by column and in the types of the table; NULL: they could not be read, or nothing was to be sent';
COMMENT ON COLUMN crm.write_result.snapshot_hash IS 'crm.snapshot_hash() of the CRM record; NULL: it could not be read';

-- No SET here: triggers of the table run with the caller's settings.
CREATE FUNCTION crm.write(relation regclass, record_key text, changes jsonb, base jsonb DEFAULT NULL, force bool DEFAULT false,
                          connection text DEFAULT NULL, shard_key text DEFAULT '', correlation_id text DEFAULT NULL)
RETURNS crm.write_result
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE AS $$
BEGIN -- not SQL, which would plan the call each time
    RETURN pg_catalog.jsonb_populate_record(NULL::crm.write_result,
        crm_internal.perform_write(relation::pg_catalog.oid, record_key, changes, base, force, connection, shard_key, correlation_id));
END $$;
COMMENT ON FUNCTION crm.write(regclass, text, jsonb, jsonb, bool, text, text, text) IS
    'changes a row and its CRM record synchronously: reads the record, compares it with base (column -> value; default: the last known CRM '
    'values), writes it, updates the row. changes: column -> value of bidirectional columns. force: overwrites whatever the CRM has. '
    'connection: required if the table is mapped more than once. Cancellable. Errors: 22023 invalid argument, 23514 a rule is violated, '
    'P0002 no such row, 55000 no worker';

CREATE FUNCTION crm.read_live(relation regclass, record_key text, connection text DEFAULT NULL, shard_key text DEFAULT '') RETURNS jsonb
LANGUAGE sql VOLATILE PARALLEL UNSAFE AS $$
    SELECT crm_internal.perform_read(relation::pg_catalog.oid, record_key, connection, shard_key)
$$;
COMMENT ON FUNCTION crm.read_live(regclass, text, text, text) IS
    'reads the mapped fields of a row''s CRM record now, by column and in the types of the table; the caller must see the row. '
    'Cancellable. Errors: 55000 the record is not linked, or no worker; 08006 the CRM could not be read';

CREATE VIEW crm.pending_writes AS
SELECT w.write_id, w.map_id, c.name AS connection, m.relation, w.shard_key, w.record_key, l.crm_id,
       CASE WHEN w.state = 'queued' AND l.crm_id IS NULL THEN 'unlinked' ELSE w.state END AS state,
       CASE WHEN w.is_undone AND crm_internal.cells_count(w.cells) = 0 THEN 'compensate' WHEN w.is_call THEN 'write' ELSE 'update' END AS origin,
       f.columns, f.intended, w.base, m.conflict_scope, s.snapshot, crm.hash(s.snapshot) AS snapshot_hash, now() - w.created_at AS age,
       w.created_at, w.changed_at, w.attempts, w.next_attempt_at, w.error_class, w.last_error, w.actor, w.correlation_id, w.folded
FROM (SELECT p.write_id, p.map_id, p.shard_key, p.record_key, p.state, p.undone IS NOT NULL AS is_undone,
             p.intended IS NOT NULL AND p.state NOT IN ('queued', 'dead') OR p.undone IS NOT NULL OR cardinality(p.folded) > 0 AS is_call,
             p.cells, p.take, p.intended, p.base, p.snapshot, p.snapshot_hashes, p.created_at, p.changed_at, p.attempts,
             CASE WHEN p.state = 'queued' THEN greatest(nullif(p.next_attempt_at, '-infinity'), now()) END AS next_attempt_at,
             p.error_class, p.last_error, p.actor, p.correlation_id, p.folded || p.undone AS folded
      FROM crm.pending_write p
      UNION ALL
      SELECT h.write_id, h.map_id, h.shard_key, h.record_keys[1], 'captured', false, h.write_id IS NOT NULL, h.cells, NULL, b.intended, b.base,
             h.snapshot, NULL, h.changed_at, h.changed_at, 0, now(), NULL, NULL, h.actor, h.correlation_id, NULL
      FROM crm.change h
      CROSS JOIN LATERAL (
          SELECT jsonb_object_agg(b.key, b.value -> 'n') FILTER (WHERE b.value ? 'n') AS intended, jsonb_object_agg(b.key, b.value - 'n') AS base
          FROM jsonb_each(h.base) b) b
      WHERE h.base IS NOT NULL OR h.write_id IS NOT NULL) w
JOIN crm.object_map m USING (map_id)
JOIN crm.connection c USING (connection_id)
LEFT JOIN crm.ledger l ON l.shard_key = w.shard_key AND l.map_id = w.map_id AND l.record_key = w.record_key
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(f.column_name::text ORDER BY f.field_id) FILTER (
               WHERE (crm_internal.cells_has(w.cells, f.field_id) OR crm_internal.cells_has(w.take, f.field_id))
                 AND (f.direction = 'bidirectional' OR w.state <> 'captured')), '{}') AS columns,
           jsonb_object_agg(f.crm_field, w.intended -> f.field_id::text) FILTER (WHERE w.intended ? f.field_id::text) AS intended,
           jsonb_object_agg(f.crm_field, w.snapshot -> f.field_id::text) FILTER (
               WHERE f.direction <> 'outbound' AND w.snapshot -> f.field_id::text <> 'null') AS known,
           jsonb_object_agg(f.crm_field, jsonb_build_object('hash', encode(h.hash, 'hex'))) FILTER (
               WHERE f.direction <> 'outbound' AND h.hash NOT IN ('', decode(repeat('00', 16), 'hex'))) AS hashes
    FROM crm.field_map f
    -- That of an edit that is not folded yet, or of a call, is still the ledger's.
    CROSS JOIN LATERAL (SELECT substr(CASE WHEN w.state IN ('queued', 'dead') THEN w.snapshot_hashes ELSE l.hashes END,
                                      16 * f.field_id + 1, 16) AS hash) h
    WHERE f.map_id = w.map_id) f
CROSS JOIN LATERAL (SELECT CASE WHEN w.snapshot IS NULL THEN f.hashes ELSE coalesce(f.known, '{}') END AS snapshot) s;
COMMENT ON VIEW crm.pending_writes IS 'edits of bidirectional cells whose outcome is not final: in flight, or queued for the reconciler';
COMMENT ON COLUMN crm.pending_writes.write_id IS
    'id that crm.write() returned, or one made for the edit; NULL: a captured UPDATE that has none yet';
COMMENT ON COLUMN crm.pending_writes.map_id IS 'the map, as crm.map_object() returned it';
COMMENT ON COLUMN crm.pending_writes.connection IS 'name of the connection';
COMMENT ON COLUMN crm.pending_writes.relation IS 'the mapped table';
COMMENT ON COLUMN crm.pending_writes.shard_key IS 'text of the shard_column; empty: the map has none';
COMMENT ON COLUMN crm.pending_writes.record_key IS 'text of the row''s key column';
COMMENT ON COLUMN crm.pending_writes.crm_id IS 'id of the CRM record; NULL: the row is not linked to one';
COMMENT ON COLUMN crm.pending_writes.state IS
    'sending, landed, failed (a crm.write() call in progress), captured (committed, not processed by the worker yet), queued, '
    'unlinked (waiting for a CRM id), dead (see crm.dead_letters)';
COMMENT ON COLUMN crm.pending_writes.origin IS
    'update: a plain UPDATE; write: crm.write(); compensate: a crm.write() call whose transaction was rolled back';
COMMENT ON COLUMN crm.pending_writes.columns IS 'columns to be written or to be set to the CRM value';
COMMENT ON COLUMN crm.pending_writes.intended IS
    'CRM field -> value by the newest edit, for information: what is sent is what the row holds; NULL: not recorded';
COMMENT ON COLUMN crm.pending_writes.base IS 'what the edit was based on, by field_id; NULL: not recorded';
COMMENT ON COLUMN crm.pending_writes.conflict_scope IS
    'of the map. record: the edit is written if all mapped fields that flow in are as in the snapshot; fields: if the edited ones are';
COMMENT ON COLUMN crm.pending_writes.snapshot IS
    'what the CRM held when the oldest edit was made: CRM field -> canonical value as crm.write() read it, else {"hash": …} from the '
    'ledger; without the fields of which nobody knew. NULL: nothing was known';
COMMENT ON COLUMN crm.pending_writes.snapshot_hash IS 'crm.hash() of the snapshot (BLAKE3); NULL: nothing was known';
COMMENT ON COLUMN crm.pending_writes.age IS 'time since created_at';
COMMENT ON COLUMN crm.pending_writes.created_at IS 'when the oldest of the edits was made';
COMMENT ON COLUMN crm.pending_writes.changed_at IS 'when the newest of the edits was made';
COMMENT ON COLUMN crm.pending_writes.attempts IS 'failed attempts so far';
COMMENT ON COLUMN crm.pending_writes.next_attempt_at IS 'when the next attempt is due; NULL: none is scheduled';
COMMENT ON COLUMN crm.pending_writes.error_class IS 'class of the last error, as in crm.dead_letters; NULL: none';
COMMENT ON COLUMN crm.pending_writes.last_error IS 'message of the last error; NULL: none';
COMMENT ON COLUMN crm.pending_writes.actor IS 'who made the edit, as in crm.dead_letters';
COMMENT ON COLUMN crm.pending_writes.correlation_id IS 'correlation_id of crm.write(), or pg_crm.correlation_id of the session; NULL: none';
COMMENT ON COLUMN crm.pending_writes.folded IS 'ids of further crm.write() calls merged into this write; NULL: none';

CREATE VIEW crm.conflicts AS
SELECT x.conflict_id, x.map_id, c.name AS connection, m.relation, x.shard_key, x.record_key, x.crm_id, f.column_name,
       f.crm_field, x.conflict_type, x.local_value, x.crm_value, x.base, x.policy, x.first_seen, x.last_attempt, x.write_id, x.actor,
       x.correlation_id
FROM crm.conflict x
JOIN crm.object_map m USING (map_id)
JOIN crm.connection c USING (connection_id)
LEFT JOIN crm.field_map f USING (map_id, field_id);
COMMENT ON VIEW crm.conflicts IS 'cells that changed on both sides and that no policy decides; crm.resolve_conflict() resolves one';
COMMENT ON COLUMN crm.conflicts.conflict_id IS 'argument of crm.resolve_conflict()';
COMMENT ON COLUMN crm.conflicts.map_id IS 'the map, as crm.map_object() returned it';
COMMENT ON COLUMN crm.conflicts.connection IS 'name of the connection';
COMMENT ON COLUMN crm.conflicts.relation IS 'the mapped table';
COMMENT ON COLUMN crm.conflicts.shard_key IS 'text of the shard_column; empty: the map has none';
COMMENT ON COLUMN crm.conflicts.record_key IS 'text of the row''s key column';
COMMENT ON COLUMN crm.conflicts.crm_id IS 'id of the CRM record; NULL: the row is not linked to one';
COMMENT ON COLUMN crm.conflicts.column_name IS 'column of the table; NULL: the conflict is about the record as a whole';
COMMENT ON COLUMN crm.conflicts.crm_field IS 'field of the CRM object; NULL: the conflict is about the record as a whole';
COMMENT ON COLUMN crm.conflicts.conflict_type IS
    'stale_write: the CRM value is not the one the edit was based on; stale_record: another mapped field of the record changed in the '
    'CRM since the edit; immutable: an edit of a field that must not change once both '
    'sides have it; locked_field: the CRM changed such a field; unknown_base: the sides differ and it is not known which is newer; '
    'mapping_mismatch: the table rejects the CRM value; duplicate_identity: two CRM records claim one row (local_value: id of the '
    'linked record, crm_value: id of the other)';
COMMENT ON COLUMN crm.conflicts.local_value IS 'value of the row, canonical; NULL: null';
COMMENT ON COLUMN crm.conflicts.crm_value IS 'value in the CRM, canonical; NULL: null';
COMMENT ON COLUMN crm.conflicts.base IS 'value before the edit, canonical; NULL: not known';
COMMENT ON COLUMN crm.conflicts.policy IS 'on_conflict policy of the field';
COMMENT ON COLUMN crm.conflicts.first_seen IS 'when the conflict was first found';
COMMENT ON COLUMN crm.conflicts.last_attempt IS 'when it was last found unresolved';
COMMENT ON COLUMN crm.conflicts.write_id IS 'crm.write() call that conflicts; NULL: a plain UPDATE or a change in the CRM';
COMMENT ON COLUMN crm.conflicts.actor IS 'who made the edit, as in crm.dead_letters';
COMMENT ON COLUMN crm.conflicts.correlation_id IS 'correlation_id of the edit; NULL: none';

CREATE FUNCTION crm.write_status(write_id uuid)
RETURNS TABLE (write_id uuid, state text, map_id int, relation regclass, shard_key text, record_key text, attempts int,
               next_attempt_at timestamptz, error_class text, error text, at timestamptz, correlation_id text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH waiting AS (
        SELECT write_status.write_id, p.state, p.map_id, p.relation, p.shard_key, p.record_key, p.attempts::int, p.next_attempt_at,
               p.error_class, p.last_error, p.created_at, p.correlation_id
        FROM crm.pending_writes p
        WHERE p.write_id = ANY (ARRAY(SELECT w.write_id FROM crm.pending_write w
                                      WHERE w.folded @> ARRAY[write_status.write_id] OR w.undone @> ARRAY[write_status.write_id])
                                || write_status.write_id)
        ORDER BY p.state IN ('captured', 'queued', 'unlinked', 'dead') DESC LIMIT 1
    ), conflicting AS (
        SELECT write_status.write_id, 'conflict', c.map_id, c.relation, c.shard_key, c.record_key, NULL::int, NULL::timestamptz,
               'conflict', 'waiting for crm.resolve_conflict(' || c.conflict_id || ')', c.last_attempt, c.correlation_id
        FROM crm.conflicts c JOIN crm.conflict x USING (shard_key, conflict_id)
        WHERE x.write_id = write_status.write_id OR write_status.write_id = ANY (x.folded) LIMIT 1
    ), ended AS (
        SELECT write_status.write_id, CASE WHEN a.result IN ('applied', 'raced') THEN 'committed' ELSE a.result END, a.map_id,
               (SELECT m.relation FROM crm.object_map m WHERE m.map_id = a.map_id), a.shard_key, a.record_key, a.attempt,
                   NULL::timestamptz, a.error_class, a.error, a.at,
               a.correlation_id
        FROM (SELECT * FROM crm.audit_log l WHERE l.write_id = write_status.write_id
              UNION ALL
              SELECT * FROM crm.audit_log l WHERE l.folded @> ARRAY[write_status.write_id]) a
        -- What a call wrote itself counts, even if its caller rolled back: the row was set to it then.
        ORDER BY a.path = 'realtime' AND a.result IN ('applied', 'raced') DESC, a.at DESC, a.audit_id DESC LIMIT 1
    )
    SELECT * FROM (SELECT * FROM waiting UNION ALL SELECT * FROM conflicting UNION ALL SELECT * FROM ended) s
    LIMIT 1
$$;
COMMENT ON FUNCTION crm.write_status(uuid) IS
    'state of a crm.write() call: as in crm.pending_writes, or conflict; finally committed, superseded or conflict. '
    'No row: there is no such write, or its month of the audit log was dropped';

CREATE FUNCTION crm_internal.resolve_identity(x crm.conflict, winner text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    linked text := x.local_value #>> '{}';
    claims text := x.crm_value #>> '{}';
    other text;
BEGIN
    PERFORM FROM crm.ledger l WHERE l.shard_key = x.shard_key AND l.map_id = x.map_id AND l.record_key = x.record_key FOR UPDATE;
    IF winner = 'crm' THEN
        SELECT l.record_key INTO other FROM crm.ledger l WHERE l.map_id = x.map_id AND l.crm_id = claims AND l.record_key <> x.record_key;
        IF FOUND THEN
            RAISE unique_violation USING
                MESSAGE = format('CRM record "%s" is already linked to record "%s"', claims, other),
                DETAIL = 'A CRM record can be linked to one row only.',
                HINT = format('Delete one of the rows "%s" and "%s" or link it to another record, or resolve the conflict with ''local''.', x.record_key, other);
        END IF;
        other := crm_internal.linked_elsewhere(x.map_id, claims);
        IF other IS NOT NULL THEN
            RAISE unique_violation USING
                MESSAGE = format('CRM record "%s" is already linked to %s', claims, other),
                DETAIL = 'A CRM record can be linked to one row of one table only.',
                HINT = 'Decide for ''local''.';
        END IF;
        PERFORM crm_internal.link_records(x.map_id, ARRAY[x.shard_key], ARRAY[x.record_key], ARRAY[claims]);
    END IF;
    -- The rejected record is not linked again, except by crm.link().
    INSERT INTO crm.former_link (shard_key, map_id, crm_id, record_key, ended_by)
    SELECT x.shard_key, x.map_id, lost, x.record_key, 'rejected'
    FROM (SELECT CASE winner WHEN 'crm' THEN linked ELSE claims END AS lost) y
    WHERE lost IS NOT NULL AND NOT EXISTS (SELECT FROM crm.ledger l WHERE l.map_id = x.map_id AND l.crm_id = lost)
    ON CONFLICT (shard_key, map_id, crm_id) DO UPDATE SET ended_by = excluded.ended_by, ended_at = now();
    DELETE FROM crm.conflict c WHERE c.shard_key = x.shard_key AND c.conflict_id = x.conflict_id;
    PERFORM crm_internal.notify_worker(true);
END $$;
COMMENT ON FUNCTION crm_internal.resolve_identity(crm.conflict, text) IS 'decides which of two CRM records a row is linked to';

CREATE FUNCTION crm_internal.do_resolve_conflict(conflict_id bigint, winner text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    x crm.conflict;
    cell bytea;
BEGIN
    PERFORM crm_internal.refuse_restricted();
    PERFORM crm_internal.check_choice('winner', winner, '{crm,local}');
    -- The record first, as the worker does: deleting a row deletes its conflicts.
    PERFORM FROM crm.ledger l JOIN crm.conflict c USING (shard_key, map_id, record_key)
    WHERE c.conflict_id = do_resolve_conflict.conflict_id FOR UPDATE OF l;
    SELECT * INTO x FROM crm.conflict c WHERE c.conflict_id = do_resolve_conflict.conflict_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE undefined_object USING MESSAGE = format('conflict %s does not exist', coalesce(conflict_id::text, 'NULL')),
            HINT = 'crm.conflicts lists them; a conflict is removed when it is resolved.';
    END IF;
    IF x.field_id = -1 THEN
        PERFORM crm_internal.resolve_identity(x, winner);
        RETURN;
    END IF;
    cell := crm_internal.cell_mask(x.field_id);
    -- Based on the CRM value that was shown: if it has changed since, the conflict is reopened.
    INSERT INTO crm.pending_write AS p (shard_key, map_id, record_key, state, cells, take, base, intended, folded, actor, correlation_id)
    VALUES (x.shard_key, x.map_id, x.record_key, 'queued',
            CASE winner WHEN 'local' THEN cell ELSE decode('0000000000000000', 'hex') END, CASE winner WHEN 'crm' THEN cell END,
            -- What became of other fields is no matter: a person decided on this one.
            jsonb_build_object(x.field_id, jsonb_build_object('h', encode(substr(crm.hash(x.crm_value), 1, 16), 'hex'), 'alone', true)),
            CASE winner WHEN 'local' THEN jsonb_build_object(x.field_id, x.local_value) END,
            nullif(array_remove(x.write_id || x.folded, NULL), '{}'),
                crm_internal.actor(), x.correlation_id)
    ON CONFLICT (shard_key, map_id, record_key) WHERE state IN ('queued', 'dead') DO UPDATE
    SET cells = CASE winner WHEN 'local' THEN crm_internal.cells_or(p.cells, excluded.cells)
        ELSE crm_internal.cells_minus(p.cells, excluded.take) END,
        take = CASE winner WHEN 'crm' THEN crm_internal.cells_or(coalesce(p.take, excluded.take), excluded.take)
                    ELSE crm_internal.cells_minus(p.take, excluded.cells) END,
        base = p.base || excluded.base, intended = coalesce(p.intended || excluded.intended, p.intended, excluded.intended),
        folded = p.folded || excluded.folded, revision = p.revision + 1, state = 'queued', attempts = 0,
        next_attempt_at = '-infinity';
    DELETE FROM crm.dead_letter d
    WHERE d.path = 'reconcile' AND d.shard_key = x.shard_key AND d.map_id = x.map_id AND d.record_key = x.record_key;
    DELETE FROM crm.conflict c WHERE c.shard_key = x.shard_key AND c.conflict_id = x.conflict_id;
    PERFORM crm_internal.notify_worker(true);
END $$;
COMMENT ON FUNCTION crm_internal.do_resolve_conflict(bigint, text) IS 'crm.resolve_conflict() for crm or local';

-- With the caller's privileges and settings, as an UPDATE of the caller's own.
CREATE FUNCTION crm_internal.set_cell(c crm.conflicts, value jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    m crm.object_map;
    column_type pg_catalog.text;
    key_type pg_catalog.text;
    shard_type pg_catalog.text;
    n bigint;
BEGIN
    SELECT * INTO m FROM crm.object_map o WHERE o.map_id OPERATOR(pg_catalog.=) c.map_id;
    SELECT pg_catalog.format_type(a.atttypid, a.atttypmod) INTO column_type FROM pg_catalog.pg_attribute a
    WHERE a.attrelid OPERATOR(pg_catalog.=) m.relation AND a.attname OPERATOR(pg_catalog.=) c.column_name AND NOT a.attisdropped;
    SELECT pg_catalog.format_type(a.atttypid, a.atttypmod) INTO key_type FROM pg_catalog.pg_attribute a
    WHERE a.attrelid OPERATOR(pg_catalog.=) m.relation AND a.attname OPERATOR(pg_catalog.=) m.key_column AND NOT a.attisdropped;
    SELECT pg_catalog.format_type(a.atttypid, a.atttypmod) INTO shard_type FROM pg_catalog.pg_attribute a
    WHERE a.attrelid OPERATOR(pg_catalog.=) m.relation AND a.attname OPERATOR(pg_catalog.=) m.shard_column AND NOT a.attisdropped;
    EXECUTE pg_catalog.format(
        'UPDATE %1$s t SET %2$I = r.v FROM pg_catalog.jsonb_to_record(pg_catalog.jsonb_build_object(''v'', $1)) AS r (v %3$s) '
        'WHERE t.%4$I OPERATOR(pg_catalog.=) $2::%5$s', m.relation, c.column_name, column_type, m.key_column, key_type)
        OPERATOR(pg_catalog.||) CASE WHEN m.shard_column IS NULL THEN ''
            -- IS NOT DISTINCT FROM would look for its operator along the caller's search_path.
            WHEN c.shard_key OPERATOR(pg_catalog.=) '' THEN pg_catalog.format(' AND t.%1$I IS NULL', m.shard_column)
            ELSE pg_catalog.format(' AND t.%1$I OPERATOR(pg_catalog.=) $3::%2$s', m.shard_column, shard_type) END
        USING value, c.record_key, CASE WHEN c.shard_key OPERATOR(pg_catalog.<>) '' THEN c.shard_key END;
    GET DIAGNOSTICS n = ROW_COUNT;
    IF n OPERATOR(pg_catalog.<>) 1 THEN
        RAISE no_data_found USING MESSAGE = pg_catalog.format('no row of "%s" with the key "%s" can be updated', m.relation, c.record_key),
            HINT = 'It was deleted, or row security hides it.';
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.set_cell(crm.conflicts, jsonb) IS 'sets the cell of a conflict, as the caller; raises no_data_found (P0002)';

CREATE FUNCTION crm.resolve_conflict(conflict_id bigint, winner text, value jsonb DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE AS $$
DECLARE
    c crm.conflicts;
BEGIN
    PERFORM crm_internal.check_choice('winner', winner, '{crm,local,value}');
    IF (winner OPERATOR(pg_catalog.=) 'value') OPERATOR(pg_catalog.<>) (value IS NOT NULL) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a value is given if, and only if, winner is ''value''',
            HINT = 'It is in the type of the column, as JSON; ''null'' empties the cell.';
    END IF;
    IF winner OPERATOR(pg_catalog.<>) 'value' THEN
        PERFORM crm_internal.do_resolve_conflict(conflict_id, winner);
        RETURN;
    END IF;
    SELECT * INTO c FROM crm.conflicts x WHERE x.conflict_id OPERATOR(pg_catalog.=) resolve_conflict.conflict_id;
    IF FOUND AND c.column_name IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = 'the conflict is about a record, which has no value',
            HINT = 'Decide for crm or local.';
    END IF;
    -- Based on the CRM value that was shown; what is sent is what the row holds then.
    PERFORM crm_internal.check_value(c.map_id, c.relation, c.column_name::pg_catalog.text, value);
    PERFORM crm_internal.do_resolve_conflict(conflict_id, 'local');
    PERFORM crm_internal.set_cell(c, value);
END $$;
COMMENT ON FUNCTION crm.resolve_conflict(bigint, text, jsonb) IS
    'resolves a conflict: the row is set to the CRM value (crm), the CRM to the row''s value (local), or both to a value of one''s own '
    '(value; in the type of the column; the caller must be allowed to update the row), by the same read-check-write as any edit. If the '
    'CRM value has changed meanwhile, the conflict is reopened with the new one. duplicate_identity: the row is linked to the '
    'record that claims it (crm), or keeps its link (local). Errors: 42704 no such conflict, 22023 invalid winner or value, 22000 the '
    'value cannot be sent, 22003 no CRM can hold such a number, 42804 it is of another type, 54000 it is too large, 23505 the record is '
    'linked, P0002 no such row';

CREATE FUNCTION crm.resolve_conflicts(map_id int, column_name name DEFAULT NULL, winner text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    f crm.field_map;
    id bigint;
    n bigint := 0;
BEGIN
    PERFORM crm_internal.refuse_restricted();
    PERFORM crm_internal.map_of(resolve_conflicts.map_id);
    PERFORM crm_internal.check_choice('winner', winner, '{crm,local}');
    IF resolve_conflicts.column_name IS NOT NULL THEN
        f := crm_internal.field_of(resolve_conflicts.map_id, resolve_conflicts.column_name);
    END IF;
    FOR id IN
        SELECT c.conflict_id FROM crm.conflict c
        WHERE c.map_id = resolve_conflicts.map_id AND c.field_id >= 0 AND (f.field_id IS NULL OR c.field_id = f.field_id)
        ORDER BY c.shard_key, c.record_key, c.field_id
    LOOP
        PERFORM crm_internal.do_resolve_conflict(id, winner);
        n := n + 1;
    END LOOP;
    RETURN n;
END $$;
COMMENT ON FUNCTION crm.resolve_conflicts(int, name, text) IS
    'resolves the conflicts of a column of a map, or of all of its columns (NULL), as crm.resolve_conflict() does: winner crm or local; '
    'not those about whole records (duplicate_identity). Returns their number. Errors: 42704 no such map or column, 22023 invalid winner';

CREATE FUNCTION crm.cancel_write(write_id uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    p crm.pending_write;
BEGIN
    PERFORM crm_internal.refuse_restricted();
    SELECT * INTO p FROM crm.pending_write w
    WHERE (w.write_id = cancel_write.write_id OR cancel_write.write_id = ANY (w.folded)) AND w.state IN ('queued', 'dead') FOR UPDATE;
    IF NOT FOUND THEN
        RAISE undefined_object USING MESSAGE = format('pending write %s does not exist', coalesce(write_id::text, 'NULL')),
            HINT = 'crm.pending_writes lists them; a write in flight cannot be cancelled.';
    END IF;
    -- The edit is not written; the row is set to the CRM value, so that both sides agree again.
    UPDATE crm.pending_write w
    SET state = 'queued', cells = decode('0000000000000000', 'hex'), take = crm_internal.cells_or(w.cells, coalesce(w.take, w.cells)),
        base = '{}',
        revision = w.revision + 1, attempts = 0, next_attempt_at = '-infinity', error_class = NULL, last_error = NULL
    WHERE w.shard_key = p.shard_key AND w.write_id = p.write_id;
    DELETE FROM crm.dead_letter d
    WHERE d.path = 'reconcile' AND d.shard_key = p.shard_key AND d.map_id = p.map_id AND d.record_key = p.record_key;
    PERFORM crm_internal.notify_worker(true);
END $$;
COMMENT ON FUNCTION crm.cancel_write(uuid) IS
    'cancels a queued edit: the row is set back to the CRM values; the audit log keeps the edit. Errors: 42704 no such pending write';
