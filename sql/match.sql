-- Linking rows and CRM records that are on both sides, by what they have in common.

-- In the memory of the call, and on its disk beyond that: it may be a call in a transaction that is READ ONLY.
CREATE FUNCTION crm_internal.matched(m crm.object_map, names name[], crm_fields text[])
RETURNS TABLE (status text, shard_key text, record_key text, crm_id text, natural_key jsonb, carried text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    others CONSTANT bool := EXISTS (SELECT FROM crm.object_map o WHERE o.connection_id = m.connection_id AND o.map_id <> m.map_id
                                                               AND lower(o.crm_object) = lower(m.crm_object));
    ids int[];
    types jsonb;
BEGIN
    SELECT array_agg(f.field_id::int ORDER BY p.n), jsonb_object_agg(p.crm_field, f.data_type) INTO ids, types
    FROM unnest(names, crm_fields) WITH ORDINALITY AS p (name, crm_field, n)
    JOIN crm.field_map f ON f.map_id = m.map_id AND f.column_name = p.name;
    RETURN QUERY
    -- Links are scalar subqueries: each is an index look-up, whatever the planner knows of the ledger.
    WITH row AS MATERIALIZED (
        SELECT crm_internal.natural_key(r.row_values) AS natural_key, r.shard_key, r.record_key, NULL::text AS crm_id,
               (SELECT l.crm_id FROM crm.ledger l
                WHERE l.shard_key = r.shard_key AND l.map_id = m.map_id AND l.record_key = r.record_key) IS NOT NULL AS is_linked
        FROM crm_internal.row_values(m.map_id, ids) AS r
    ), listed AS MATERIALIZED (
        -- One that changed while the pages were read is listed twice.
        SELECT DISTINCT ON (r.crm_id) r.*
        FROM crm_internal.crm_records(jsonb_build_object(
            'connection_id', m.connection_id, 'object', m.crm_object, 'fields', types, 'external_id_field', m.external_id_field))
            WITH ORDINALITY AS r (crm_id, record_key, fields, modified_at_ms, n)
        ORDER BY r.crm_id, r.n DESC
    ), side AS MATERIALIZED (
        -- record_key: of a CRM record, the key that it carries.
        SELECT * FROM row
        UNION ALL
        SELECT crm_internal.natural_key((SELECT jsonb_agg(r.fields -> f.name ORDER BY f.n)
                                         FROM unnest(crm_fields) WITH ORDINALITY AS f (name, n) WHERE r.fields IS NOT NULL)),
               NULL, r.record_key, r.crm_id,
               (SELECT l.record_key FROM crm.ledger l WHERE l.map_id = m.map_id AND l.crm_id = r.crm_id LIMIT 1) IS NOT NULL
               OR others AND crm_internal.linked_elsewhere(m.map_id, r.crm_id) IS NOT NULL
        FROM listed r
    ), counted AS (
        SELECT s.*, count(*) FILTER (WHERE s.crm_id IS NULL) OVER same AS rows, count(*) FILTER (WHERE s.crm_id IS NOT NULL) OVER same AS records,
               max(s.crm_id) OVER same AS other_id, max(s.record_key) FILTER (WHERE s.crm_id IS NOT NULL) OVER same AS other_key
        FROM side s WHERE NOT s.is_linked AND s.natural_key IS NOT NULL
        WINDOW same AS (PARTITION BY s.natural_key COLLATE "C")
    ), judged AS (
        SELECT c.*, CASE WHEN c.rows = 0 OR c.records = 0 THEN 'unmatched'
                         WHEN c.rows > 1 OR c.records > 1 THEN 'ambiguous'
                         WHEN c.crm_id IS NULL AND coalesce(c.other_key, c.record_key) <> c.record_key THEN 'ambiguous'
                         ELSE 'unique' END AS status
        FROM counted c
    )
    SELECT j.status, coalesce(j.shard_key, ''), CASE WHEN j.crm_id IS NULL THEN j.record_key END,
           CASE WHEN j.crm_id IS NOT NULL THEN j.crm_id WHEN j.rows = 1 AND j.records = 1 THEN j.other_id END, j.natural_key::jsonb,
           CASE WHEN j.crm_id IS NULL THEN j.other_key ELSE j.record_key END
    FROM judged j WHERE NOT (j.crm_id IS NOT NULL AND j.rows = 1 AND j.records = 1)
    UNION ALL
    SELECT CASE WHEN s.is_linked THEN 'linked' ELSE 'unmatched' END, coalesce(s.shard_key, ''), CASE WHEN s.crm_id IS NULL THEN s.record_key END,
           s.crm_id, s.natural_key::jsonb, NULL
    FROM side s WHERE s.is_linked OR s.natural_key IS NULL;
END $$;
COMMENT ON FUNCTION crm_internal.matched(crm.object_map, name[], text[]) IS
    'all rows of a map and all records of its CRM object, compared by some fields as crm.match() reports them; carried: the key that the CRM record '
    'has in external_id_field';

CREATE FUNCTION crm_internal.lock_links(m crm.object_map) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT FROM crm.object_map o
    WHERE o.connection_id = m.connection_id AND lower(o.crm_object) = lower(m.crm_object) ORDER BY o.map_id FOR NO KEY UPDATE
$$;
COMMENT ON FUNCTION crm_internal.lock_links(crm.object_map) IS
    'locks all maps of a CRM object: rows are linked to its records one at a time, and nothing is claimed before the end of the transaction';

-- Parts are looked up by index, whatever the planner knows of the ledger.
CREATE FUNCTION crm_internal.link_free(m crm.object_map, shard_keys text[], record_keys text[], crm_ids text[]) RETURNS int[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    free int[];
BEGIN
    PERFORM crm_internal.lock_links(m);
    free := crm_internal.hold_rows(m.map_id, shard_keys, record_keys);
    PERFORM FROM crm.ledger l, unnest(shard_keys, record_keys) AS k (shard_key, record_key)
    WHERE l.shard_key = k.shard_key AND l.map_id = m.map_id AND l.record_key = k.record_key FOR NO KEY UPDATE OF l;
    free := ARRAY(
        SELECT k.n FROM unnest(shard_keys, record_keys, crm_ids) WITH ORDINALITY AS k (shard_key, record_key, crm_id, n)
        WHERE k.n = ANY (free)
          AND (SELECT l.crm_id FROM crm.ledger l
               WHERE l.shard_key = k.shard_key AND l.map_id = m.map_id AND l.record_key = k.record_key) IS NULL
          AND (SELECT l.record_key FROM crm.ledger l WHERE l.map_id = m.map_id AND l.crm_id = k.crm_id LIMIT 1) IS NULL
          AND crm_internal.linked_elsewhere(m.map_id, k.crm_id) IS NULL
        ORDER BY k.n);
    PERFORM crm_internal.link_records(m.map_id, ARRAY(SELECT shard_keys[n] FROM unnest(free) AS n), ARRAY(SELECT record_keys[n] FROM unnest(free) AS n),
                                      ARRAY(SELECT crm_ids[n] FROM unnest(free) AS n));
    RETURN free;
END $$;
COMMENT ON FUNCTION crm_internal.link_free(crm.object_map, text[], text[], text[]) IS
    'links rows that are there to CRM records, unless either is linked already; returns the places of those that were linked';

CREATE FUNCTION crm_internal.link_matched(m crm.object_map, shard_keys text[], record_keys text[], crm_ids text[], carried text[], actor text)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Whatever was linked while the CRM was read is left alone.
    linked CONSTANT int[] := crm_internal.link_free(m, shard_keys, record_keys, crm_ids);
BEGIN
    IF carried IS NOT NULL THEN
        PERFORM crm_internal.queue_keys(m.map_id, array_agg(shard_keys[n]), array_agg(record_keys[n]), link_matched.actor)
        FROM unnest(linked) AS n WHERE carried[n] <> record_keys[n];
    END IF;
    PERFORM crm_internal.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm_internal.link_matched(crm.object_map, text[], text[], text[], text[], text) IS
    'links rows and CRM records that crm.match() found to be unique, but for what was linked or deleted meanwhile; carried: the keys that the records '
    'have, so that those that they lack are queued; NULL: no key is written';

-- The worker may not get a lock that another session has for a moment.
CREATE FUNCTION crm_internal.have_linked(m crm.object_map, shard_keys text[], record_keys text[], crm_ids text[], carried text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer jsonb;
BEGIN
    FOR attempt IN 1..30 LOOP
        answer := crm_internal.ask_worker(jsonb_build_object(
            'op', 'link', 'map_id', m.map_id, 'shard_keys', shard_keys, 'record_keys', record_keys, 'crm_ids', crm_ids, 'carried', carried,
            'actor', crm_internal.actor()), 60000);
        IF answer -> 'done' = 'true' THEN
            RETURN;
        END IF;
        EXIT WHEN answer -> 'may_pass' IS DISTINCT FROM 'true';
        PERFORM pg_sleep(0.1);
    END LOOP;
    RAISE lock_not_available USING MESSAGE = format('rows of map %s could not be linked', m.map_id),
        DETAIL = coalesce(answer ->> 'error', 'The worker did not answer in time.'),
        HINT = 'What was linked before stays linked: call crm.match() again.';
END $$;
COMMENT ON FUNCTION crm_internal.have_linked(crm.object_map, text[], text[], text[], text[]) IS
    'crm_internal.link_matched() in a transaction of the worker; raises lock_not_available (55P03) if it cannot';

CREATE FUNCTION crm_internal.link_part(m crm.object_map, shard_keys text[], record_keys text[], crm_ids text[], carried text[], is_own bool)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF is_own THEN
        PERFORM crm_internal.have_linked(m, shard_keys, record_keys, crm_ids, carried);
    ELSE
        PERFORM crm_internal.link_matched(m, shard_keys, record_keys, crm_ids, carried, crm_internal.actor());
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.link_part(crm.object_map, text[], text[], text[], text[], bool) IS
    'links a part of what crm.match() found, in a transaction of its own or in the caller''s';

CREATE FUNCTION crm_internal.do_match(caller bytea, map_id int, on_fields jsonb, dry_run bool, write_key bool)
RETURNS TABLE (status text, record_key text, shard_key text, crm_id text, natural_key jsonb)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    m CONSTANT crm.object_map := crm_internal.map_of(do_match.map_id);
    names CONSTANT name[] := ARRAY(SELECT p.key FROM jsonb_each_text(
        CASE jsonb_typeof(on_fields) WHEN 'object' THEN on_fields ELSE '{}' END) AS p ORDER BY p.key COLLATE "C");
    crm_fields CONSTANT text[] := ARRAY(SELECT on_fields ->> n.name FROM unnest(names) WITH ORDINALITY AS n (name, ord) ORDER BY n.ord);
    links CONSTANT bool := NOT coalesce(dry_run, true);
    writes_key CONSTANT bool := coalesce(write_key, true);
    -- The links are part of a transaction that has changed something, perhaps the map itself. Otherwise each part is one of its own: the map is
    -- not locked for as long as it takes to link all rows.
    is_own CONSTANT bool := pg_current_xact_id_if_assigned() IS NULL;
    shard_keys text[] := '{}';
    record_keys text[] := '{}';
    crm_ids text[] := '{}';
    carried text[] := '{}';
    pair record;
    c name;
BEGIN
    PERFORM crm_internal.require_owner(who, m.relation);
    IF jsonb_typeof(on_fields) IS DISTINCT FROM 'object' OR on_fields = '{}'
        OR EXISTS (SELECT FROM jsonb_each(on_fields) AS p WHERE jsonb_typeof(p.value) <> 'string' OR p.value = '""') THEN
        RAISE invalid_parameter_value USING MESSAGE = 'on_fields must be a JSON object of columns and CRM fields',
            HINT = 'For example {"email": "Email"}; of several, all must be equal.';
    ELSIF cardinality(crm_fields) <> (SELECT count(DISTINCT f.name) FROM unnest(crm_fields) AS f (name)) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'on_fields names a CRM field twice', HINT = 'Each column is compared with a field of its own.';
    END IF;
    FOREACH c IN ARRAY names LOOP
        IF NOT EXISTS (SELECT FROM crm.field_map f WHERE f.map_id = m.map_id AND f.column_name = c) THEN
            RAISE undefined_column USING MESSAGE = format('column "%s" is not mapped by map %s', c, m.map_id),
                DETAIL = 'Rows are compared in the form in which they are sent.',
                HINT = 'crm.map_field() maps it; with materialize => false it is not written to the CRM.';
        END IF;
    END LOOP;
    FOR pair IN
        SELECT x.*, (SELECT jsonb_object_agg(n.name, x.natural_key -> (n.ord - 1)::int) FROM unnest(names) WITH ORDINALITY AS n (name, ord)
                     WHERE x.natural_key IS NOT NULL) AS named
        FROM crm_internal.matched(m, names, crm_fields) AS x
        ORDER BY array_position(ARRAY['unique', 'ambiguous', 'unmatched', 'linked'], x.status), x.record_key IS NULL, x.natural_key::text COLLATE "C",
                 x.record_key COLLATE "C", x.crm_id COLLATE "C"
    LOOP
        IF pair.status = 'unique' AND links THEN
            shard_keys := shard_keys || pair.shard_key;
            record_keys := record_keys || pair.record_key;
            crm_ids := crm_ids || pair.crm_id;
            carried := carried || coalesce(pair.carried, '');
        END IF;
        IF cardinality(crm_ids) = 1000 THEN
            PERFORM crm_internal.link_part(m, shard_keys, record_keys, crm_ids, CASE WHEN writes_key THEN carried END, is_own);
            shard_keys := '{}'; record_keys := '{}'; crm_ids := '{}'; carried := '{}';
        END IF;
        status := pair.status;
        record_key := pair.record_key;
        shard_key := pair.shard_key;
        crm_id := pair.crm_id;
        natural_key := pair.named;
        RETURN NEXT;
    END LOOP;
    IF cardinality(crm_ids) > 0 THEN
        PERFORM crm_internal.link_part(m, shard_keys, record_keys, crm_ids, CASE WHEN writes_key THEN carried END, is_own);
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.do_match(bytea, int, jsonb, bool, bool) IS
    'crm.match() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm.match(map_id int, on_fields jsonb, dry_run bool DEFAULT true, write_key bool DEFAULT true)
RETURNS TABLE (status text, record_key text, shard_key text, crm_id text, natural_key jsonb)
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_match(crm_internal.caller(), map_id, on_fields, dry_run, write_key)
$$;
COMMENT ON FUNCTION crm.match(int, jsonb, bool, bool) IS
    'compares the rows of a map (those inside its filter) with the records of its CRM object by what they have in common, and reports each: status unique (one row and one '
    'record, neither of them linked), ambiguous (several rows or records, or the record carries another key), unmatched (a row or a record '
    'alone), linked (already). on_fields: mapped columns and the CRM fields that they must be equal to, all of them; canonical values are '
    'compared, text without regard to case and outer blanks, and what is empty matches nothing. dry_run => false links what is unique, like '
    'crm.link(), and never replaces a link: a thousand rows at a time, each in a transaction of its own, or all in the caller''s if that has changed '
    'something already; in the latter case the map is locked until its end. write_key: the keys of rows that are linked are queued to be written to external_id_field, if the '
    'map has one. All rows and all records are read; cancellable. Errors: 42704 no such map, 42703 column not mapped, 22023 invalid '
    'argument, 42501 not the owner of the table, 55P03 rows are locked (what was linked before stays linked), and those of crm.records()';
