-- From an edit to the CRM and its audit, in real sessions: the stub, and crm.flush.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_crm;
\set SHOW_CONTEXT never
TRUNCATE crm_stub.records, crm_stub.injections, crm_stub.requests RESTART IDENTITY;
SELECT crm.create_connection('write-back', 'stub') AS connection \gset
SELECT * FROM crm.test_connection('write-back');

CREATE TABLE customers (code text PRIMARY KEY, name text NOT NULL, phone text, staff int, tags text[]);
SELECT crm.map_object('write-back', 'customers', 'account', external_id_field => 'external_key', on_insert => 'create', on_delete => 'delete') AS map \gset
CREATE FUNCTION plus(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT to_jsonb('+' || ($1 #>> '{}')) $$;
SELECT crm.map_field(:map, 'name', 'name', 'outbound'), crm.map_field(:map, 'phone', 'phone', 'outbound', transform_out => 'plus(jsonb)'),
       crm.map_field(:map, 'staff', 'employees', 'outbound', validation => '{"min": 0}'), crm.map_field(:map, 'tags', 'x_tags', 'outbound');
CREATE VIEW pg_temp.crm AS SELECT crm_id, fields, deleted FROM crm_stub.records WHERE connection = 'write-back' ORDER BY crm_id COLLATE "C";

-- New rows become records, once.
INSERT INTO customers VALUES ('ALFKI', 'Alfreds', '49 30', 12, '{b,a}'), ('BERGS', 'Berglunds', NULL, NULL, NULL);
SELECT crm.flush(:map);
SELECT * FROM pg_temp.crm;
SELECT l.record_key, l.crm_id, q.state AS waits FROM crm.ledger l LEFT JOIN crm.queue q USING (shard_key, map_id, record_key) WHERE map_id = :map ORDER BY 1;

-- Only what changed travels.
UPDATE customers SET phone = '46 921', staff = 3 WHERE code = 'BERGS';
UPDATE customers SET staff = -1 WHERE code = 'BERGS';
SELECT crm.flush(:map);
SELECT record_key, operation, fields - 'external_key' AS fields, result, provider, path FROM crm.audit_log
WHERE map_id = :map AND operation = 'update' ORDER BY at;
SELECT * FROM pg_temp.crm;
SELECT state, dirty_cells, queued, unlinked, dead FROM crm.status_wide WHERE map_id = :map;

-- flush sees committed changes only, and says so.
BEGIN;
UPDATE customers SET staff = 4 WHERE code = 'BERGS';
SET LOCAL client_min_messages = notice;
SELECT crm.flush(:map);
COMMIT;
SELECT crm.flush(:map);
SELECT fields -> 'employees' AS employees FROM pg_temp.crm WHERE fields ->> 'name' = 'Berglunds';

-- Paused, work waits.
SELECT crm.pause('write-back');
UPDATE customers SET staff = 5 WHERE code = 'BERGS';
SELECT crm.flush(:map, '200 ms');
SELECT state, reason, dirty_cells FROM crm.status WHERE map_id = :map;
SELECT crm.resume('write-back');
SELECT crm.flush(:map);

-- What the CRM refuses is a dead letter; its neighbour goes on, and a correction replays it.
UPDATE customers SET name = CASE code WHEN 'ALFKI' THEN repeat('x', 300) ELSE 'Berglunds snabbköp' END;
SELECT crm.flush(:map);
SELECT record_key, operation, error_class, attempts FROM crm.dead_letters WHERE map_id = :map;
SELECT fields ->> 'name' AS name FROM pg_temp.crm;
SELECT crm.replay(-1);
SELECT crm.replay_all('write-back');
SELECT crm.flush(:map);
SELECT record_key, error_class FROM crm.dead_letters WHERE map_id = :map;
UPDATE customers SET name = 'Alfreds Futterkiste' WHERE code = 'ALFKI';
SELECT crm.flush(:map);
SELECT fields ->> 'name' AS name FROM pg_temp.crm;
SELECT count(*) FROM crm.dead_letters WHERE map_id = :map;

-- A row that came before the fields it needs is replayed with them.
SELECT crm.unmap_field(:map, 'name');
INSERT INTO customers VALUES ('CHOPS', 'Chop-suey Chinese');
SELECT crm.flush(:map);
SELECT record_key, operation, error FROM crm.dead_letters WHERE map_id = :map;
SELECT crm.map_field(:map, 'name', 'name', 'outbound');
SELECT crm.replay_all('write-back');
SELECT crm.flush(:map);
SELECT fields ->> 'name' AS name FROM pg_temp.crm;
SELECT count(*) FROM crm.dead_letters WHERE map_id = :map;

-- Deleted rows go from the CRM.
TRUNCATE customers;
DELETE FROM customers WHERE code = 'ALFKI';
SELECT crm.flush(:map);
SELECT crm_id, deleted FROM pg_temp.crm;

SELECT crm.flush(:map, '-1 second');
SELECT * FROM crm.check();
SELECT crm.unmap_object(:map);
SELECT crm.drop_connection('write-back');
DROP TABLE customers;
DROP FUNCTION plus;
