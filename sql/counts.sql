-- How many records there are of each map and connection, without reading them all: exact up to 1,000, an estimate beyond.

-- A few pages of a table, spread over it, show how many of the others are alike; all of them, if there are no more.
CREATE FUNCTION crm_internal.sampled_part(relation regclass) RETURNS float8
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT least(1, 100.0 * current_setting('block_size')::int / greatest(pg_relation_size(relation), 1))
$$;
COMMENT ON FUNCTION crm_internal.sampled_part(regclass) IS 'the part of a table''s pages that about a hundred pages are; 1: it has no more';

-- Index look-ups, whatever is known of the tables.
CREATE FUNCTION crm_internal.few_linked(map_id int) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off AS $$
    SELECT count(*) FROM (SELECT FROM crm.ledger l WHERE l.map_id = few_linked.map_id AND l.crm_id IS NOT NULL ORDER BY l.crm_id LIMIT 1001) x
$$;
COMMENT ON FUNCTION crm_internal.few_linked(int) IS 'how many records of a map are linked; 1001: more than 1,000';

CREATE VIEW crm_internal.many_linked AS
SELECT l.map_id, (count(*) / crm_internal.sampled_part('crm.ledger'))::bigint AS records
FROM crm.ledger l TABLESAMPLE SYSTEM ((SELECT 100 * crm_internal.sampled_part('crm.ledger'))) REPEATABLE (0)
WHERE l.crm_id IS NOT NULL GROUP BY l.map_id;
COMMENT ON VIEW crm_internal.many_linked IS 'an estimate of the linked records of each map that has many';
COMMENT ON COLUMN crm_internal.many_linked.map_id IS 'the map';
COMMENT ON COLUMN crm_internal.many_linked.records IS 'their number';

CREATE VIEW crm_internal.linked AS
WITH sample AS MATERIALIZED (SELECT * FROM crm_internal.many_linked)
SELECT m.map_id, few.records > 1000 AS is_estimate,
       CASE WHEN few.records <= 1000 THEN few.records
            ELSE greatest(few.records, (SELECT x.records FROM sample x WHERE x.map_id = m.map_id)) END AS records
FROM crm.object_map m CROSS JOIN LATERAL (SELECT crm_internal.few_linked(m.map_id) AS records OFFSET 0) few;
COMMENT ON VIEW crm_internal.linked IS 'how many records of each map are linked, without counting more than 1,000 of each';
COMMENT ON COLUMN crm_internal.linked.map_id IS 'the map';
COMMENT ON COLUMN crm_internal.linked.is_estimate IS 'true: records is an estimate';
COMMENT ON COLUMN crm_internal.linked.records IS 'their number';

CREATE VIEW crm_internal.many_queued AS
SELECT q.map_id, (count(*) / crm_internal.sampled_part('crm.queue'))::bigint AS records
FROM crm.queue q TABLESAMPLE SYSTEM ((SELECT 100 * crm_internal.sampled_part('crm.queue'))) REPEATABLE (0)
WHERE q.state = 'queued' GROUP BY q.map_id;
COMMENT ON VIEW crm_internal.many_queued IS 'an estimate of the queued records of each map that has many';
COMMENT ON COLUMN crm_internal.many_queued.map_id IS 'the map';
COMMENT ON COLUMN crm_internal.many_queued.records IS 'their number';

CREATE FUNCTION crm_internal.waiting_records(connection_id int) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
    SELECT sum(CASE WHEN q.records > 1000 THEN greatest(q.records, (SELECT x.records FROM crm_internal.many_queued x WHERE x.map_id = m.map_id))
                    ELSE q.records END
               + (SELECT count(*) FROM (SELECT FROM crm.pending_write p WHERE p.map_id = m.map_id AND p.state = 'queued'
                                        ORDER BY p.next_attempt_at LIMIT 1001) y)
               + (SELECT count(*) FROM (SELECT FROM crm.refetch r WHERE r.map_id = m.map_id AND r.due_at < 'infinity' ORDER BY r.due_at LIMIT 1001) y))
    FROM crm.object_map m
    CROSS JOIN LATERAL (SELECT count(*) AS records
                        FROM (SELECT FROM crm.queue x WHERE x.map_id = m.map_id AND x.state = 'queued' ORDER BY x.next_attempt_at LIMIT 1001) y) q
    WHERE m.connection_id = waiting_records.connection_id
$$;
COMMENT ON FUNCTION crm_internal.waiting_records(int) IS
    'how many records are queued to be written or read over a connection; of a map with more than 1,000 an estimate';
