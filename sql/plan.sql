-- What a map would do, before it does it.

CREATE FUNCTION crm_internal.plan_cost(c crm.connection, m crm.object_map, creates bigint, updates bigint, deletes bigint, reads bigint)
RETURNS TABLE (item text, number bigint, note text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    requests CONSTANT bigint := crm_internal.plan_requests(c.provider, c.options, m.crm_object, creates, updates, deletes, reads);
    at_once CONSTANT numeric := least(greatest(coalesce((c.options ->> 'max_in_flight')::numeric, 4), 1), 64);
    b record;
    seconds numeric := requests * 0.5 / at_once;
BEGIN
    RETURN QUERY VALUES ('request', requests, 'if nothing has to be repeated');
    FOR b IN SELECT x.budget, x.remaining, x."limit", extract(epoch FROM x.per) AS per FROM crm.rate_budget x WHERE x.connection = c.name LOOP
        IF b.remaining IS NOT NULL THEN
            RETURN QUERY SELECT 'percent of budget', ceil(100.0 * requests / greatest(b.remaining, 1))::bigint,
                format('%s: %s requests are left', b.budget, b.remaining);
        END IF;
        IF b."limit" > 0 AND b.per < 86400 THEN
            seconds := greatest(seconds, requests * b.per / b."limit");
        END IF;
    END LOOP;
    RETURN QUERY SELECT 'second', ceil(seconds)::bigint,
        'at half a second per request, ' || at_once || ' at once, within the rate limits that are known';
END $$;
COMMENT ON FUNCTION crm_internal.plan_cost(crm.connection, crm.object_map, bigint, bigint, bigint, bigint) IS
    'requests, parts of the request budgets and time that it takes to create, update, delete and read so many records';

CREATE FUNCTION crm_internal.plan_round(m crm.object_map, c crm.connection, s crm.status_wide)
RETURNS TABLE (item text, number bigint, is_estimate bool, note text, samples text[])
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    q record;
    p record;
    f record;
    total bigint;
    most bigint;
BEGIN
    -- What is queued, and what is not folded yet.
    SELECT coalesce(sum(x.creates), 0)::bigint AS creates, coalesce(sum(x.updates), 0)::bigint AS updates,
           coalesce(sum(x.deletes), 0)::bigint AS deletes, bool_or(x.is_unfolded AND x.updates + x.creates + x.deletes > 0) AS is_estimate
    INTO q
    FROM (SELECT count(*) FILTER (WHERE y.op = 'c') AS creates, count(*) FILTER (WHERE y.op IN ('u', 'k')) AS updates,
                 count(*) FILTER (WHERE y.op = 'd') AS deletes, false AS is_unfolded
          FROM crm.queue y WHERE y.map_id = m.map_id AND y.state = 'queued'
          UNION ALL
          SELECT coalesce(sum(cardinality(y.record_keys)) FILTER (WHERE y.op = 'i' AND m.on_insert = 'create'), 0),
                 coalesce(sum(cardinality(y.record_keys)) FILTER (WHERE y.op = 'u'), 0),
                 coalesce(sum(cardinality(y.record_keys)) FILTER (WHERE y.op = 'd' AND m.on_delete = 'delete'
                                                                      OR y.op = 'l' AND m.on_filter_out = 'delete'), 0), true
          FROM crm.change y WHERE y.map_id = m.map_id) x;
    RETURN QUERY
    SELECT x.item, x.number, coalesce(q.is_estimate, false), NULL::text,
           ARRAY(SELECT y.record_key FROM crm.queue y
                 WHERE y.map_id = m.map_id AND y.state = 'queued' AND y.op::text = ANY (x.ops) ORDER BY y.next_attempt_at LIMIT 5)
    FROM (VALUES ('create', q.creates, '{c}'::text[]), ('update', q.updates, '{u,k}'), ('delete', q.deletes, '{d}'))
         AS x (item, number, ops);
    SELECT x.* INTO p FROM crm_internal.plan_rows(m.map_id, true) x WHERE x.item = 'clear';
    total := CASE WHEN p.is_whole THEN p.records ELSE round(p.records::numeric * q.updates / greatest(p.rows, 1)) END;
    RETURN QUERY VALUES ('clear', total, NOT p.is_whole, 'updates that empty a field which has a value, as far as the ledger knows', p.samples);
    SELECT count(*) AS n, array_agg(y.record_key) FILTER (WHERE y.place <= 5) AS samples INTO f
    FROM (SELECT x.record_key, row_number() OVER (ORDER BY x.next_attempt_at) AS place FROM crm.pending_write x
          WHERE x.map_id = m.map_id AND x.state = 'queued') y;
    most := crm_internal.exceeded_limit(q.deletes, total, q.creates, s.linked);
    RETURN QUERY VALUES ('edit', f.n, false, 'edits of bidirectional cells, compared with the CRM first',
                         coalesce(f.samples, '{}'));
    IF EXISTS (SELECT FROM crm.fuse x WHERE x.map_id = m.map_id AND x.direction = 'outbound' AND x.held_at IS NOT NULL)
       OR most IS NOT NULL THEN
        RETURN QUERY VALUES ('held', q.creates + q.deletes + total, false,
                             CASE WHEN most IS NULL THEN format('crm.approve(%s) releases them', m.map_id)
                                  ELSE format('more than %s records: crm.approve(%s) will be needed', most, m.map_id) END, '{}'::text[]);
    END IF;
    RETURN QUERY SELECT x.item, x.number, true, x.note, '{}'::text[]
    FROM crm_internal.plan_cost(c, m, q.creates, q.updates + f.n, q.deletes, f.n) x;
END $$;
COMMENT ON FUNCTION crm_internal.plan_round(crm.object_map, crm.connection, crm.status_wide) IS 'crm.plan() of the next round: what is queued, and what is not folded yet';

CREATE FUNCTION crm_internal.plan_push(m crm.object_map, c crm.connection, s crm.status_wide)
RETURNS TABLE (item text, number bigint, is_estimate bool, note text, samples text[])
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    p record;
    f record;
    v record;
    scale numeric;
    counted bigint[] := '{0,0}';
BEGIN
    FOR p IN SELECT * FROM crm_internal.plan_rows(m.map_id, false) LOOP
        scale := CASE WHEN p.is_whole OR p.rows = 0 THEN 1 ELSE greatest(coalesce(s.rows, p.rows)::numeric / p.rows, 1) END;
        IF p.item = 'create' THEN
            RETURN QUERY VALUES ('row', round(p.rows * scale)::bigint, NOT p.is_whole,
                                 CASE WHEN NOT p.is_whole THEN format('%s rows were read, and the numbers scaled up', p.rows) END, '{}'::text[]);
        END IF;
        IF p.item IN ('create', 'update') THEN
            counted[CASE p.item WHEN 'create' THEN 1 ELSE 2 END] := round(p.records * scale)::bigint;
        END IF;
        RETURN QUERY VALUES (p.item, round(p.records * scale)::bigint, NOT p.is_whole,
            CASE p.item WHEN 'clear' THEN 'updates that empty a field which has a value, as far as the ledger knows'
                        WHEN 'skip' THEN 'rows without a CRM record, which are not created: on_insert, or the CRM deleted it'
                        WHEN 'unreadable' THEN 'rows that would become dead letters' END, p.samples);
    END LOOP;
    FOR f IN SELECT x.*, crm_internal.base_type(a.atttypid) AS base FROM crm.field_map x
             JOIN pg_attribute a ON a.attrelid = m.relation AND a.attname = x.column_name AND NOT a.attisdropped
             WHERE x.map_id = m.map_id AND x.direction <> 'inbound' AND x.validation <> '{}' ORDER BY x.field_id LOOP
        FOR v IN SELECT x.* FROM crm_internal.count_violations(m.relation, f.column_name,
                     (SELECT t.typcategory = 'A' FROM pg_type t WHERE t.oid = f.base), f.data_type, f.validation) x LOOP
            RETURN QUERY VALUES ('break rules', v.violating, NOT v.is_whole,
                format('rows that violate the rules of column "%s"%s; they are sent as they are', f.column_name,
                       CASE WHEN v.is_whole THEN '' ELSE format(', of %s that were read', v.rows) END), '{}'::text[]);
        END LOOP;
    END LOOP;
    RETURN QUERY SELECT x.item, x.number, true, x.note, '{}'::text[]
    FROM crm_internal.plan_cost(c, m, counted[1], counted[2], 0, 0) x;
END $$;
COMMENT ON FUNCTION crm_internal.plan_push(crm.object_map, crm.connection, crm.status_wide) IS 'crm.plan() of a push of all rows';

CREATE FUNCTION crm_internal.plan_backfill(m crm.object_map, c crm.connection, s crm.status_wide)
RETURNS TABLE (item text, number bigint, is_estimate bool, note text, samples text[])
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    total bigint;
BEGIN
    IF NOT c.paused AND NOT m.paused AND c.home = crm.home() THEN
        BEGIN
            total := (crm_internal.ask_worker(jsonb_build_object('op', 'test', 'connection_id', c.connection_id, 'count', m.crm_object),
                                              10000) ->> 'count')::bigint;
        EXCEPTION WHEN object_not_in_prerequisite_state THEN
            NULL; -- there is no worker
        END;
    END IF;
    RETURN QUERY VALUES
        ('record', total, true, CASE WHEN total IS NULL THEN 'unknown: the CRM does not report it, or the connection or the map is paused, or there is no worker' END, '{}'::text[]),
        ('record without a row', CASE WHEN total > s.linked THEN total - s.linked WHEN total IS NOT NULL THEN 0 END::bigint, true,
            CASE WHEN total IS NULL THEN 'unknown' WHEN m.on_crm_insert = 'insert' THEN 'a row is inserted unless the key is that of one'
                 ELSE 'linked if their key is that of a row, ignored otherwise' END, '{}'),
        ('row without a record', s.never_sent, true,
            CASE WHEN s.rows IS NULL THEN 'unknown: the table was not analysed' WHEN m.external_id_field IS NULL THEN 'linked by crm.link() only'
                 ELSE 'linked to records with their key' END, '{}');
    IF total IS NOT NULL THEN
        RETURN QUERY SELECT x.item, x.number, true, x.note, '{}'::text[] FROM crm_internal.plan_cost(c, m, 0, 0, 0, total) x;
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.plan_backfill(crm.object_map, crm.connection, crm.status_wide) IS 'crm.plan() of a backfill';

CREATE FUNCTION crm_internal.do_plan(caller bytea, map_id int)
RETURNS TABLE (step text, item text, number bigint, is_estimate bool, note text, samples text[])
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    m CONSTANT crm.object_map := crm_internal.map_of(map_id);
    c crm.connection;
    s crm.status_wide;
BEGIN
    PERFORM crm_internal.require_owner(who, m.relation);
    SELECT * INTO c FROM crm.connection x WHERE x.connection_id = m.connection_id;
    SELECT * INTO s FROM crm.status_wide x WHERE x.map_id = m.map_id;
    RETURN QUERY SELECT 'next round', x.* FROM crm_internal.plan_round(m, c, s) x;
    IF crm_internal.map_cells(m.map_id) IS NOT NULL THEN
        RETURN QUERY SELECT 'push', x.* FROM crm_internal.plan_push(m, c, s) x;
    END IF;
    RETURN QUERY SELECT 'backfill', x.* FROM crm_internal.plan_backfill(m, c, s) x;
END $$;
COMMENT ON FUNCTION crm_internal.do_plan(bytea, int) IS 'crm.plan() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm.plan(map_id int)
RETURNS TABLE (step text, item text, number bigint, is_estimate bool, note text, samples text[])
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_plan(crm_internal.caller(), map_id)
$$;
COMMENT ON FUNCTION crm.plan(int) IS
    'what the next round, a push of all rows (crm.push()) and a backfill (crm.backfill()) of a map would do: a row for each kind of thing, '
    'with its number (NULL: not known), keys of up to five of them, requests, percent of the request budgets and seconds. Changes nothing; '
    'asks the CRM how many records it has, unless the connection or the map is paused; reads at most 100,000 rows of the table, as its owner, who alone may call this. Errors: 42704 no such map, 42501 '
    'not the owner of the table';
