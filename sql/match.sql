-- Linking rows and CRM records that are on both sides, by what they have in common.

-- Unlogged: its rows are gone with the call that made them.
CREATE UNLOGGED TABLE crm.match_side (
    match_id    xid8 NOT NULL,
    natural_key text COLLATE "C",
    shard_key   text COLLATE "C",
    record_key  text COLLATE "C",
    crm_id      text COLLATE "C",
    is_linked   bool NOT NULL
);
CREATE INDEX match_side_match_id ON crm.match_side (match_id);
COMMENT ON TABLE crm.match_side IS
    'rows (without crm_id) and CRM records (with it) that a call of crm.match() compares; deleted at its end';
COMMENT ON COLUMN crm.match_side.match_id IS 'transaction of the call';
COMMENT ON COLUMN crm.match_side.natural_key IS 'what is compared; NULL: one of the values is empty';
COMMENT ON COLUMN crm.match_side.record_key IS 'key of the row; of a CRM record: the key that it carries, NULL: none';
COMMENT ON COLUMN crm.match_side.is_linked IS 'the row or the CRM record is linked already';

CREATE FUNCTION crm_internal.gather_sides(m crm.object_map, names name[], crm_fields text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    id CONSTANT xid8 := pg_current_xact_id();
    others CONSTANT bool := EXISTS (SELECT FROM crm.object_map o WHERE o.connection_id = m.connection_id AND o.map_id <> m.map_id
                                                               AND lower(o.crm_object) = lower(m.crm_object));
    ids int[];
    types jsonb;
BEGIN
    SELECT array_agg(f.field_id::int ORDER BY p.n), jsonb_object_agg(p.crm_field, f.data_type) INTO ids, types
    FROM unnest(names, crm_fields) WITH ORDINALITY AS p (name, crm_field, n)
    JOIN crm.field_map f ON f.map_id = m.map_id AND f.column_name = p.name;
    -- Links are scalar subqueries: each is an index look-up, whatever the planner knows of the ledger.
    INSERT INTO crm.match_side (match_id, natural_key, shard_key, record_key, is_linked)
    SELECT id, crm_internal.natural_key(r.row_values), r.shard_key, r.record_key,
           (SELECT l.crm_id FROM crm.ledger l
            WHERE l.shard_key = r.shard_key AND l.map_id = m.map_id AND l.record_key = r.record_key) IS NOT NULL
    FROM crm_internal.row_values(m.map_id, ids) AS r;
    INSERT INTO crm.match_side (match_id, natural_key, record_key, crm_id, is_linked)
    SELECT id, crm_internal.natural_key((SELECT jsonb_agg(r.fields -> f.name ORDER BY f.n)
                                         FROM unnest(crm_fields) WITH ORDINALITY AS f (name, n) WHERE r.fields IS NOT NULL)),
           r.record_key, r.crm_id,
           (SELECT l.record_key FROM crm.ledger l WHERE l.map_id = m.map_id AND l.crm_id = r.crm_id LIMIT 1) IS NOT NULL
           OR others AND crm_internal.linked_elsewhere(m.map_id, r.crm_id) IS NOT NULL
    FROM crm_internal.crm_records(jsonb_build_object(
        'connection_id', m.connection_id, 'object', m.crm_object, 'fields', types, 'external_id_field', m.external_id_field)) AS r;
END $$;
COMMENT ON FUNCTION crm_internal.gather_sides(crm.object_map, name[], text[]) IS
    'reads all rows of a map and all records of its CRM object into crm.match_side';

CREATE FUNCTION crm_internal.matched(map_id int)
RETURNS TABLE (status text, shard_key text, record_key text, crm_id text, natural_key jsonb, carried text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH record AS (
        -- One that changed while the pages were read is listed twice.
        SELECT DISTINCT ON (s.crm_id, o.shard_key, o.record_key) s.*
        FROM crm.match_side s, LATERAL (SELECT CASE WHEN s.crm_id IS NULL THEN s.shard_key END, CASE WHEN s.crm_id IS NULL THEN s.record_key END)
             AS o (shard_key, record_key)
        WHERE s.match_id = pg_current_xact_id() ORDER BY s.crm_id, o.shard_key, o.record_key, s.ctid DESC
    ), counted AS (
        SELECT s.*, count(*) FILTER (WHERE s.crm_id IS NULL) OVER same AS rows, count(*) FILTER (WHERE s.crm_id IS NOT NULL) OVER same AS records,
               max(s.crm_id) OVER same AS other_id, max(s.record_key) FILTER (WHERE s.crm_id IS NOT NULL) OVER same AS other_key
        FROM record s WHERE NOT s.is_linked AND s.natural_key IS NOT NULL
        WINDOW same AS (PARTITION BY s.natural_key)
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
    FROM record s WHERE s.is_linked OR s.natural_key IS NULL
$$;
COMMENT ON FUNCTION crm_internal.matched(int) IS
    'what crm.match() found in crm.match_side; carried: the key that the CRM record has in external_id_field';

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
    free int[] := crm_internal.hold_rows(m.map_id, shard_keys, record_keys);
BEGIN
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
    'links rows that are there to CRM records, unless either is linked already; returns the places of those that were linked. To be called '
    'under crm_internal.lock_links()';

CREATE FUNCTION crm_internal.link_matched(m crm.object_map, write_key bool) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part record;
    linked int[];
BEGIN
    PERFORM crm_internal.lock_links(m);
    FOR part IN
        SELECT array_agg(u.shard_key) AS shard_keys, array_agg(u.record_key) AS record_keys, array_agg(u.crm_id) AS crm_ids,
               array_agg(coalesce(u.carried, '')) AS carried
        FROM (SELECT x.*, (row_number() OVER () - 1) / 1000 AS n FROM crm_internal.matched(m.map_id) AS x WHERE x.status = 'unique') AS u
        GROUP BY u.n
    LOOP
        -- Whatever was linked while the CRM was read is left alone.
        linked := crm_internal.link_free(m, part.shard_keys, part.record_keys, part.crm_ids);
        CONTINUE WHEN NOT write_key;
        SELECT array_agg(part.shard_keys[n]), array_agg(part.record_keys[n]) INTO part.shard_keys, part.record_keys
        FROM unnest(linked) AS n WHERE part.carried[n] <> part.record_keys[n];
        PERFORM crm_internal.queue_keys(m.map_id, part.shard_keys, part.record_keys);
    END LOOP;
    PERFORM crm_internal.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm_internal.link_matched(crm.object_map, bool) IS
    'links what crm.match() found to be unique, but for what was linked or deleted meanwhile, and queues the keys that records lack';

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
    DELETE FROM crm.match_side s WHERE s.match_id = pg_current_xact_id();
    PERFORM crm_internal.gather_sides(m, names, crm_fields);
    RETURN QUERY
        SELECT x.status, x.record_key, x.shard_key, x.crm_id,
               (SELECT jsonb_object_agg(n.name, x.natural_key -> (n.ord - 1)::int) FROM unnest(names) WITH ORDINALITY AS n (name, ord)
                WHERE x.natural_key IS NOT NULL)
        FROM crm_internal.matched(m.map_id) AS x
        ORDER BY array_position(ARRAY['unique', 'ambiguous', 'unmatched', 'linked'], x.status), x.record_key IS NULL, x.natural_key::text COLLATE "C",
                 x.record_key COLLATE "C", x.crm_id COLLATE "C";
    IF NOT coalesce(dry_run, true) THEN
        PERFORM crm_internal.link_matched(m, coalesce(write_key, true));
    END IF;
    DELETE FROM crm.match_side s WHERE s.match_id = pg_current_xact_id();
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
    'crm.link(), and never replaces a link. write_key: the keys of rows that are linked are queued to be written to external_id_field, if the '
    'map has one. All rows and all records are read; cancellable. Errors: 42704 no such map, 42703 column not mapped, 22023 invalid '
    'argument, 42501 not the owner of the table, and those of crm.records()';
