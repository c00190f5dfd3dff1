-- Links between rows and CRM records.

CREATE FUNCTION crm_internal.pend_checked_cells(map_id int, shard_keys text[], record_keys text[]) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH waiting AS MATERIALIZED (
        SELECT q.shard_key, q.map_id, q.record_key, crm_internal.cells_and(q.cells, c.checkable) AS cells, coalesce(q.sent, '{}') AS base,
               coalesce((SELECT max(s.at) FROM unnest(q.changed_at) AS s (at)), now()) AS changed_at,
               q.actor, q.correlation_id
        FROM crm_internal.checked_cells(pend_checked_cells.map_id) AS c (checkable),
             unnest(pend_checked_cells.shard_keys, pend_checked_cells.record_keys) AS k (shard_key, record_key),
             LATERAL (SELECT * FROM crm.queue q
                      WHERE q.shard_key = k.shard_key AND q.map_id = pend_checked_cells.map_id AND q.record_key = k.record_key) AS q
        WHERE crm_internal.cells_count(crm_internal.cells_and(q.cells, c.checkable)) > 0
    ), revived AS (
        DELETE FROM crm.dead_letter d USING waiting w
        WHERE d.path = 'reconcile' AND d.shard_key = w.shard_key AND d.map_id = w.map_id AND d.record_key = w.record_key
    )
    INSERT INTO crm.pending_write AS p (shard_key, map_id, record_key, state, cells, base, created_at, changed_at, actor, correlation_id)
    SELECT w.shard_key, w.map_id, w.record_key, 'queued', w.cells, w.base, w.changed_at, w.changed_at, w.actor, w.correlation_id
    FROM waiting w
    ON CONFLICT (shard_key, map_id, record_key) WHERE state IN ('queued', 'dead') DO UPDATE
    SET state = 'queued', cells = crm_internal.cells_or(p.cells, excluded.cells), take = crm_internal.cells_minus(p.take, excluded.cells),
        base = excluded.base || p.base, changed_at = greatest(p.changed_at, excluded.changed_at),
        correlation_id = coalesce(p.correlation_id, excluded.correlation_id), revision = p.revision + 1, attempts = 0,
        next_attempt_at = '-infinity', error_class = NULL, last_error = NULL;
    UPDATE crm.queue q
    SET cells = crm_internal.cells_minus(q.cells, c.checkable), changed_at = crm_internal.cells_stamp(q.changed_at, c.checkable, NULL),
        sent = NULL, revision = nextval('crm.queue_revision_seq')
    FROM crm_internal.checked_cells(pend_checked_cells.map_id) AS c (checkable),
         unnest(pend_checked_cells.shard_keys, pend_checked_cells.record_keys) AS k (shard_key, record_key)
    WHERE q.shard_key = k.shard_key AND q.map_id = pend_checked_cells.map_id AND q.record_key = k.record_key
      AND crm_internal.cells_count(crm_internal.cells_and(q.cells, c.checkable)) > 0;
    DELETE FROM crm.queue q USING unnest(pend_checked_cells.shard_keys, pend_checked_cells.record_keys) AS k (shard_key, record_key)
    WHERE q.shard_key = k.shard_key AND q.map_id = pend_checked_cells.map_id AND q.record_key = k.record_key
      AND q.op IN ('c', 'u') AND q.state <> 'dead' AND crm_internal.cells_count(q.cells) = 0;
$$;
COMMENT ON FUNCTION crm_internal.pend_checked_cells(int, text[], text[]) IS
    'moves the bidirectional cells of records that have a CRM record from the queue to pending writes: what the CRM holds is compared '
    'before it is written over';

CREATE FUNCTION crm_internal.link_records(map_id int, shard_keys text[], record_keys text[], crm_ids text[]) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    -- A snapshot is of the record that the row was linked to.
    UPDATE crm.pending_write p SET snapshot = NULL, snapshot_hashes = NULL
    FROM unnest(shard_keys, record_keys, crm_ids) AS k (shard_key, record_key, crm_id)
    WHERE p.shard_key = k.shard_key AND p.map_id = link_records.map_id AND p.record_key = k.record_key AND p.state IN ('queued', 'dead')
      AND NOT EXISTS (SELECT FROM crm.ledger l WHERE l.shard_key = k.shard_key AND l.map_id = link_records.map_id
                                                 AND l.record_key = k.record_key AND l.crm_id = k.crm_id);
    INSERT INTO crm.ledger AS l (shard_key, map_id, record_key, crm_id)
    SELECT k.shard_key, link_records.map_id, k.record_key, k.crm_id
    FROM unnest(shard_keys, record_keys, crm_ids) AS k (shard_key, record_key, crm_id)
    ON CONFLICT ON CONSTRAINT ledger_pkey DO UPDATE
    SET crm_id = excluded.crm_id, detached = false,
        hashes = CASE WHEN l.crm_id IS DISTINCT FROM excluded.crm_id THEN NULL ELSE l.hashes END;
    -- A queued delete was for another record.
    DELETE FROM crm.queue q USING unnest(shard_keys, record_keys) AS k (shard_key, record_key)
    WHERE q.shard_key = k.shard_key AND q.map_id = link_records.map_id AND q.record_key = k.record_key AND q.state = 'unlinked'
        AND q.op = 'd';
    SELECT crm_internal.pend_checked_cells(link_records.map_id, shard_keys, record_keys);
    UPDATE crm.queue q
    SET op = CASE q.op WHEN 'c' THEN 'u' ELSE q.op END, revision = nextval('crm.queue_revision_seq'),
        state = CASE q.state WHEN 'unlinked' THEN 'queued' ELSE q.state END,
        next_attempt_at = CASE q.state WHEN 'unlinked' THEN '-infinity' ELSE q.next_attempt_at END
    FROM unnest(shard_keys, record_keys) AS k (shard_key, record_key)
    WHERE q.shard_key = k.shard_key AND q.map_id = link_records.map_id AND q.record_key = k.record_key;
    DELETE FROM crm.former_link f WHERE f.map_id = link_records.map_id AND f.crm_id = ANY (crm_ids);
    DELETE FROM crm.orphaned_create u USING unnest(shard_keys, record_keys) AS k (shard_key, record_key)
    WHERE u.shard_key = k.shard_key AND u.map_id = link_records.map_id AND u.record_key = k.record_key;
    DELETE FROM crm.conflict c USING unnest(shard_keys, record_keys) AS k (shard_key, record_key)
    WHERE c.shard_key = k.shard_key AND c.map_id = link_records.map_id AND c.record_key = k.record_key AND c.field_id = -1;
$$;
COMMENT ON FUNCTION crm_internal.link_records(int, text[], text[], text[]) IS
    'links rows to CRM records; edits that waited for the link are queued';

CREATE FUNCTION crm_internal.unlink_record(shard_key text, map_id int, record_key text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO crm.former_link (shard_key, map_id, crm_id, record_key, ended_by)
    SELECT l.shard_key, l.map_id, l.crm_id, l.record_key, 'crm_deleted' FROM crm.ledger l
    WHERE l.shard_key = unlink_record.shard_key AND l.map_id = unlink_record.map_id AND l.record_key = unlink_record.record_key
      AND l.crm_id IS NOT NULL
    ON CONFLICT (shard_key, map_id, crm_id) DO UPDATE SET ended_by = excluded.ended_by, ended_at = now();
    UPDATE crm.queue q SET state = 'unlinked', revision = nextval('crm.queue_revision_seq')
    WHERE q.shard_key = unlink_record.shard_key AND q.map_id = unlink_record.map_id AND q.record_key = unlink_record.record_key
      AND q.state = 'queued';
    UPDATE crm.ledger l SET crm_id = NULL, hashes = NULL, detached = true
    WHERE l.shard_key = unlink_record.shard_key AND l.map_id = unlink_record.map_id AND l.record_key = unlink_record.record_key;
    DELETE FROM crm.conflict c
    WHERE c.shard_key = unlink_record.shard_key AND c.map_id = unlink_record.map_id AND c.record_key = unlink_record.record_key
      AND c.field_id = -1;
$$;
COMMENT ON FUNCTION crm_internal.unlink_record(text, int, text) IS 'removes the link of a row whose CRM record was deleted';

-- Whatever ended the conflict, the row and its link with it: the CRM record that claimed the row may be linked to it now, or
-- get a row of its own.
CREATE FUNCTION crm_internal.ask_claimant() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO crm.refetch AS r (map_id, crm_id) VALUES (OLD.map_id, OLD.crm_value #>> '{}')
    ON CONFLICT ON CONSTRAINT refetch_pkey DO UPDATE SET revision = excluded.revision, due_at = now();
    RETURN NULL;
END $$;
COMMENT ON FUNCTION crm_internal.ask_claimant() IS 'has the CRM record that claimed a row be read again when the conflict about it has ended';
CREATE TRIGGER ask_claimant AFTER DELETE ON crm.conflict
FOR EACH ROW WHEN (OLD.field_id = -1 AND OLD.crm_value #>> '{}' IS NOT NULL) EXECUTE FUNCTION crm_internal.ask_claimant();

CREATE FUNCTION crm_internal.linked_elsewhere(map_id int, crm_id text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('record "%s" of map %s', l.record_key, l.map_id)
    FROM crm.object_map m JOIN crm.object_map o ON o.connection_id = m.connection_id AND lower(o.crm_object) = lower(m.crm_object)
    JOIN crm.ledger l ON l.map_id = o.map_id AND l.crm_id = linked_elsewhere.crm_id
    WHERE m.map_id = linked_elsewhere.map_id AND o.map_id <> m.map_id
    LIMIT 1
$$;
COMMENT ON FUNCTION crm_internal.linked_elsewhere(int, text) IS
    'the record of another map of the same connection and CRM object to which a CRM record is linked; NULL: none';

-- Op k is an update that also writes the key.
CREATE FUNCTION crm_internal.queue_keys(map_id int, shard_keys text[], record_keys text[], actor text DEFAULT crm_internal.actor()) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO crm.queue AS q (shard_key, map_id, record_key, op, cells, next_attempt_at, actor)
    SELECT k.shard_key, m.map_id, k.record_key, 'k', '\x0000000000000000', now(), queue_keys.actor
    FROM crm.object_map m, unnest(queue_keys.shard_keys, queue_keys.record_keys) AS k (shard_key, record_key)
    WHERE m.map_id = queue_keys.map_id AND m.external_id_field IS NOT NULL
    ON CONFLICT (shard_key, map_id, record_key) DO UPDATE
    SET op = 'k', revision = excluded.revision, next_attempt_at = CASE q.state WHEN 'dead' THEN q.next_attempt_at ELSE now() END
$$;
COMMENT ON FUNCTION crm_internal.queue_keys(int, text[], text[], text) IS
    'queues the keys of linked rows to be written to external_id_field, if the map has one';

CREATE FUNCTION crm_internal.do_link(caller bytea, map_id int, record_key text, crm_id text, shard_key text, replace bool,
                                     write_key bool) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    m crm.object_map := crm_internal.map_of(map_id);
    c crm.connection;
    other text;
BEGIN
    PERFORM crm_internal.require_owner(who, m.relation);
    IF coalesce(record_key, '') = '' OR coalesce(crm_id, '') = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a link needs a record_key and a crm_id',
            HINT = 'record_key is the text of the row''s key column.';
    END IF;
    SELECT crm_internal.key_text(do_link.record_key, k.atttypid),
           coalesce(CASE WHEN s.attname IS NULL THEN do_link.shard_key
               ELSE crm_internal.key_text(nullif(do_link.shard_key, ''), s.atttypid) END, '')
    INTO record_key, shard_key
    FROM pg_attribute k LEFT JOIN pg_attribute s ON s.attrelid = m.relation AND s.attname = m.shard_column
    WHERE k.attrelid = m.relation AND k.attname = m.key_column;
    SELECT * INTO c FROM crm.connection x WHERE x.connection_id = m.connection_id;
    crm_id := crm_internal.canonical_id(c.provider, crm_id);
    other := crm_internal.record_id_trouble(c.provider, crm_id);
    IF other IS NOT NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = format('"%s" cannot be the id of a record in %s', crm_id, c.provider),
            HINT = format('An id of %s is %s.', c.provider, other);
    END IF;
    IF NOT crm_internal.hold_row(m.map_id, shard_key, record_key) THEN
        RAISE no_data_found USING
            MESSAGE = format('table %s has no row with record_key "%s"%s', m.relation, record_key,
                             CASE WHEN shard_key <> '' THEN format(' and shard_key "%s"', shard_key) ELSE '' END),
            HINT = 'record_key is the text of the row''s key column; insert the row first.';
    END IF;
    -- One at a time for all maps of the object.
    PERFORM crm_internal.lock_links(m);
    SELECT l.record_key INTO other FROM crm.ledger l
    WHERE l.map_id = m.map_id AND l.crm_id = do_link.crm_id AND (l.shard_key, l.record_key) <> (do_link.shard_key, do_link.record_key);
    IF FOUND THEN
        RAISE unique_violation USING MESSAGE = format('CRM record "%s" is already linked to record "%s"', crm_id, other),
            HINT = 'A CRM record can be linked to one row only.';
    END IF;
    SELECT l.crm_id INTO other FROM crm.ledger l
    WHERE l.shard_key = do_link.shard_key AND l.map_id = m.map_id AND l.record_key = do_link.record_key AND l.crm_id <> do_link.crm_id;
    IF FOUND AND NOT coalesce(replace, false) THEN
        RAISE unique_violation USING MESSAGE = format('record "%s" is already linked to CRM record "%s"', record_key, other),
            HINT = format('With replace => true it is linked to "%s" instead.', crm_id);
    ELSIF FOUND AND EXISTS (SELECT FROM crm.claim k, unnest(k.shard_keys, k.record_keys) AS r (shard_key, record_key)
                            WHERE k.map_id = m.map_id AND r.shard_key = do_link.shard_key AND r.record_key = do_link.record_key) THEN
        -- Claims are made under a lock that this transaction has: none is made before its end.
        RAISE object_in_use USING MESSAGE = format('record "%s" is being written to CRM record "%s"', record_key, other),
            HINT = 'Try again once the CRM has answered.';
    END IF;
    other := crm_internal.linked_elsewhere(m.map_id, crm_id);
    IF other IS NOT NULL THEN
        RAISE unique_violation USING MESSAGE = format('CRM record "%s" is already linked to %s', crm_id, other),
            DETAIL = 'Both maps write to one CRM object over one connection.',
            HINT = 'A CRM record can be linked to one row of one table only.';
    END IF;
    PERFORM crm_internal.link_records(m.map_id, ARRAY[shard_key], ARRAY[record_key], ARRAY[crm_id]);
    IF write_key THEN
        PERFORM crm_internal.queue_keys(m.map_id, ARRAY[shard_key], ARRAY[record_key]);
    END IF;
    PERFORM crm_internal.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm_internal.do_link(bytea, int, text, text, text, bool, bool) IS
    'crm.link() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm.link(map_id int, record_key text, crm_id text, shard_key text DEFAULT '', replace bool DEFAULT false,
                         write_key bool DEFAULT true) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_link(crm_internal.caller(), map_id, record_key, crm_id, shard_key, replace, write_key)
$$;
COMMENT ON FUNCTION crm.link(int, text, text, text, bool, bool) IS
    'links a row to a CRM record; edits that waited for the link are queued. replace: a row that is linked to another record is linked to '
    'this one instead. write_key: the row''s key is queued to be written to external_id_field, if the map has one; false: it is there '
    'already. Errors: 42704 no such map, P0002 no such row, 22023 the text cannot be an id of the CRM, 23505 either is linked already, '
    '55006 the row is being written to the record that is replaced, 42501 not the owner of the table';
