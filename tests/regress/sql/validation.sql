-- Validation as an application meets it: every way to write, and errors that name what to mend.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_crm;
\set SHOW_CONTEXT never
SELECT crm.create_connection('validation', 'stub') > 0 AS created;
CREATE TABLE deals (id int PRIMARY KEY, name text, amount numeric, stage text, closes date);
SELECT crm.map_object('validation', 'deals', 'deal') AS map \gset
SELECT crm.map_field(:map, 'name', 'name', 'outbound', validation => '{"nullable": false, "max_length": 10}') AS name,
       crm.map_field(:map, 'amount', 'amount', validation => '{"min": 0, "max": 1000000}') AS amount,
       crm.map_field(:map, 'stage', 'stage', data_type => 'choice', validation => '{"choices": ["open", "won", "lost"]}') AS stage,
       crm.map_field(:map, 'closes', 'close_date', validation => '{"min": "2020-01-01"}') AS closes;

-- INSERT: every row is judged, and nothing of the statement stays.
INSERT INTO deals VALUES (1, 'Alpha', 10, 'open', '2026-01-01'), (2, NULL, -1, 'new', '2019-12-31');
INSERT INTO deals SELECT i, 'a name that is too long', i FROM generate_series(1, 7) i;
SELECT count(*) FROM deals;
INSERT INTO deals VALUES (1, 'Alpha', 10, 'open', '2026-01-01'), (2, 'Beta', NULL, NULL, NULL);

-- UPDATE: the cells that it changes.
UPDATE deals SET stage = 'closed', amount = 5;
UPDATE deals SET amount = amount - 11 WHERE id = 1;
UPDATE deals SET name = '' WHERE id = 1;
UPDATE deals SET stage = 'won', amount = 1000000.00 WHERE id = 1;

-- COPY.
COPY deals FROM stdin WITH (FORMAT csv);
3,Gamma,30,open,2026-01-01
4,Delta,-4,open,2026-01-01
\.
COPY deals FROM stdin WITH (FORMAT csv);
3,Gamma,30,open,2026-01-01
\.

-- ON CONFLICT and MERGE, in either branch.
INSERT INTO deals VALUES (1, 'Alpha', -5), (5, 'Epsilon', 1) ON CONFLICT (id) DO UPDATE SET amount = excluded.amount;
INSERT INTO deals VALUES (1, 'Alpha', 5), (5, 'Epsilon', -1) ON CONFLICT (id) DO UPDATE SET amount = excluded.amount;
INSERT INTO deals VALUES (1, 'Alpha', 5), (5, 'Epsilon', 1) ON CONFLICT (id) DO UPDATE SET amount = excluded.amount;
MERGE INTO deals d USING (VALUES (1, 'open'), (6, 'new')) v (id, stage) ON d.id = v.id
    WHEN MATCHED THEN UPDATE SET stage = v.stage
    WHEN NOT MATCHED THEN INSERT (id, name, stage) VALUES (v.id, 'Zeta', v.stage);
MERGE INTO deals d USING (VALUES (1, 'new'), (6, 'open')) v (id, stage) ON d.id = v.id
    WHEN MATCHED THEN UPDATE SET stage = v.stage
    WHEN NOT MATCHED THEN INSERT (id, name, stage) VALUES (v.id, 'Zeta', v.stage);
SELECT * FROM deals ORDER BY id;

-- The error is a check violation that programs can read.
CREATE FUNCTION pg_temp.diagnostics(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    code text; relation text; namespace text; detail text;
BEGIN
    EXECUTE statement;
    RETURN 'accepted';
EXCEPTION WHEN check_violation THEN
    GET STACKED DIAGNOSTICS code = returned_sqlstate, relation = table_name, namespace = schema_name, detail = pg_exception_detail;
    RETURN format('%s %s.%s %s', code, namespace, relation, detail);
END $$;
SELECT pg_temp.diagnostics('UPDATE deals SET amount = -1');

-- A table that breaks the rules already can be mapped; its bad cells stay until they are changed.
CREATE TABLE old_deals (id int PRIMARY KEY, name text, note text);
INSERT INTO old_deals VALUES (1, 'a name that is too long', 'x');
SELECT crm.map_object('validation', 'old_deals', 'deal') AS old \gset
SELECT crm.map_field(:old, 'name', 'name', validation => '{"max_length": 10}') AS name, crm.map_field(:old, 'note', 'x_note') AS note;
UPDATE old_deals SET note = 'y';
UPDATE old_deals SET name = name || '.';
UPDATE old_deals SET name = 'short';

-- Changed rules bind at once; unmapped, the table is free.
SELECT crm.alter_field(:map, 'amount', 'amount', validation => '{"max": 50}');
UPDATE deals SET amount = 51 WHERE id = 5;
SELECT crm.unmap_field(:map, 'amount');
UPDATE deals SET amount = -51 WHERE id = 5;
SELECT crm.unmap_object(:map), crm.unmap_object(:old);
UPDATE deals SET stage = 'whatever', name = NULL;
SELECT crm.drop_connection('validation');
DROP TABLE deals, old_deals;
