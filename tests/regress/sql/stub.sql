-- The stub CRM: a CRM user at its tables, pg_crm at crm_stub.handle, faults on request.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_crm;
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO';
TRUNCATE crm_stub.records, crm_stub.injections, crm_stub.requests RESTART IDENTITY;

CREATE TEMP VIEW shown AS
    SELECT crm_id, fields, version AS v, modified_at::time AS at, modified_by AS by, deleted
    FROM crm_stub.records ORDER BY crm_object, crm_id;
CREATE FUNCTION pg_temp.ask(connection text, path text, body text,
                            OUT status int, OUT n bigint, OUT result text) RETURNS SETOF record
    LANGUAGE sql AS $$
    SELECT h.status, r.ordinality,
           CASE WHEN r.value ? 'error' THEN format('%s %s: %s', r.value #>> '{error,class}', r.value #>> '{error,code}', r.value #>> '{error,message}')
                ELSE coalesce(r.value::text, 'no answer') END
    FROM crm_stub.handle(connection, CASE WHEN body IS NULL THEN 'GET' ELSE 'POST' END, path, body::jsonb) AS h
    LEFT JOIN LATERAL jsonb_array_elements(coalesce(h.body -> 'results', jsonb_build_array(h.body))) WITH ORDINALITY AS r
        ON h.body IS NOT NULL
$$;

-- Fixtures: the same ids and times everywhere, and only once.
SELECT crm_stub.load_fixtures('acme') AS loaded, crm_stub.load_fixtures('acme') AS again, crm_stub.load_fixtures('other') AS other;
SELECT crm_id, fields ->> 'name' AS name, fields ->> 'email' AS email, fields ->> 'account_id' AS account, version, modified_at, modified_by
FROM crm_stub.records WHERE connection = 'acme' ORDER BY modified_at;
DELETE FROM crm_stub.records WHERE connection = 'other';
SELECT count(*) FILTER (WHERE deleted) AS deleted, count(*) FROM crm_stub.records WHERE connection = 'other';
TRUNCATE crm_stub.records;
SELECT crm_stub.load_fixtures('acme');

-- A CRM user edits. Text is trimmed, what is empty or null is no value, custom fields take anything.
INSERT INTO crm_stub.records (connection, crm_object, fields)
VALUES ('acme', 'account', '{"name": "  Delta Tools ", "phone": "", "segment": null, "x_tags": ["a", null]}'),
       ('acme', 'account', '{"name": "Echo Travel", "employees": 7}');
UPDATE crm_stub.records SET fields = fields || '{"employees": 8, "x_tags": null}' WHERE crm_object = 'account' AND crm_id >= 'account-000004';
DELETE FROM crm_stub.records WHERE crm_id = 'account-000005';
SELECT * FROM shown WHERE crm_id >= 'account-000004' AND crm_id < 'contact';
-- Deleted twice is deleted once, and its id is not given again.
DELETE FROM crm_stub.records WHERE crm_id = 'account-000005';
INSERT INTO crm_stub.records (connection, crm_object, fields) VALUES ('acme', 'account', '{"name": "Foxtrot"}') RETURNING crm_id, modified_at;

-- A role that has the table and nothing else is a CRM user.
CREATE ROLE regress_crm_user;
GRANT USAGE ON SCHEMA crm_stub TO regress_crm_user;
GRANT SELECT, INSERT, UPDATE, DELETE ON crm_stub.records TO regress_crm_user;
SET ROLE regress_crm_user;
INSERT INTO crm_stub.records (connection, crm_object, crm_id, fields) VALUES ('acme', 'account', 'mine', '{"name": "Hotel"}');
INSERT INTO crm_stub.records (connection, crm_object, fields) VALUES ('acme', 'account', '{"name": "Hotel"}') RETURNING crm_id;
UPDATE crm_stub.records SET fields = fields || '{"phone": "1"}' WHERE crm_id = 'account-000007';
DELETE FROM crm_stub.records WHERE crm_id IN ('mine', 'account-000007');
SELECT * FROM crm_stub.handle('acme', 'GET', '/ping', NULL);
RESET ROLE;
REVOKE ALL ON crm_stub.records FROM regress_crm_user;
REVOKE ALL ON SCHEMA crm_stub FROM regress_crm_user;
DROP ROLE regress_crm_user;
SELECT * FROM shown WHERE crm_id IN ('mine', 'account-000007');

-- What a CRM user may not do.
INSERT INTO crm_stub.records (connection, crm_object) VALUES ('acme', 'lead');
INSERT INTO crm_stub.records (connection, crm_object, fields) VALUES ('acme', 'account', '{"name": "x", "colour": "red"}');
INSERT INTO crm_stub.records (connection, crm_object, fields) VALUES ('acme', 'account', '{"phone": "1"}');
INSERT INTO crm_stub.records (connection, crm_object, fields) VALUES ('acme', 'account', '"x"');
INSERT INTO crm_stub.records (connection, crm_object, fields) VALUES ('acme', 'account', '{"name": "x", "external_key": "A1"}');
UPDATE crm_stub.records SET fields = fields || '{"email": "nobody"}' WHERE crm_id = 'contact-000001';
UPDATE crm_stub.records SET fields = fields || '{"account_id": "account-000005"}' WHERE crm_id = 'contact-000001';
UPDATE crm_stub.records SET fields = fields || '{"amount": "12"}' WHERE crm_id = 'deal-000001';
UPDATE crm_stub.records SET fields = fields || '{"close_date": "2026-02-29"}' WHERE crm_id = 'deal-000001';
UPDATE crm_stub.records SET fields = fields || '{"stage": "maybe"}' WHERE crm_id = 'deal-000001';
UPDATE crm_stub.records SET fields = fields || '{"currency": "EURO"}' WHERE crm_id = 'deal-000001';
UPDATE crm_stub.records SET fields = fields - 'name' WHERE crm_id = 'deal-000001';
UPDATE crm_stub.records SET crm_id = 'deal-000009' WHERE crm_id = 'deal-000001';

-- Version, time and author cannot be set.
UPDATE crm_stub.records SET version = 99, modified_at = '2030-01-01', modified_by = 'me' WHERE crm_id = 'deal-000001';
SELECT * FROM shown WHERE crm_id = 'deal-000001';
-- A deal may outlive its account, but no other may come to it.
DELETE FROM crm_stub.records WHERE crm_id = 'account-000003';
UPDATE crm_stub.records SET fields = fields || '{"stage": "lost"}' WHERE crm_id = 'deal-000003';
UPDATE crm_stub.records SET fields = fields || '{"account_id": "account-000003"}' WHERE crm_id = 'deal-000002';

-- pg_crm asks.
SELECT * FROM crm_stub.handle('acme', 'GET', '/ping', NULL);
SELECT * FROM pg_temp.ask('acme', '/read',
    '{"object": "account", "ids": ["account-000002", "account-000005", "nobody", "account-000001"], "fields": ["name", "employees", "x_new"]}');
SELECT * FROM pg_temp.ask('acme', '/read', '{"object": "account", "ids": ["account-000001"], "fields": ["colour"]}');

-- Updates: each record on its own.
SELECT * FROM pg_temp.ask('acme', '/write', '{"object": "contact", "kind": "update", "records": [
    {"id": "contact-000001", "fields": {"phone": " +43 1 0 ", "first_name": null}},
    {"id": "contact-000002", "fields": {"email": "nobody"}},
    {"id": "contact-000010", "fields": {"colour": "red"}},
    {"id": "contact-000003", "fields": {"account_id": "account-000005"}},
    {"id": "contact-000009", "fields": {"phone": "1"}},
    {"id": "contact-000001", "fields": {"phone": "2"}},
    {"fields": {"phone": "3"}},
    {"id": "contact-000011", "fields": "x"},
    {"id": "contact-000004", "fields": {"last_name": "O''Hara", "x_score": 1.50}}]}');
SELECT * FROM shown WHERE crm_id ~ 'contact-00000[14]';
-- Versions: a record is only written if it is still what the write is based on.
SELECT * FROM pg_temp.ask('acme', '/write', format('{"object": "contact", "kind": "update", "records": [
    {"id": "contact-000001", "version": "%s", "fields": {"phone": "4"}},
    {"id": "contact-000002", "version": "99", "fields": {"phone": "5"}},
    {"id": "contact-000003", "version": %s, "fields": {"phone": "6"}},
    {"id": "contact-000004", "version": "x", "fields": {"phone": "7"}},
    {"id": "contact-000009", "version": "1", "fields": {"phone": "8"}}]}',
    (SELECT version FROM crm_stub.records WHERE crm_id = 'contact-000001'), (SELECT version FROM crm_stub.records WHERE crm_id = 'contact-000003')));
SELECT crm_id, fields ->> 'phone' AS phone FROM crm_stub.records WHERE crm_id ~ 'contact-00000[1234]' ORDER BY crm_id;
SELECT * FROM pg_temp.ask('acme', '/write', '{"object": "contact", "kind": "delete", "records": [{"id": "contact-000003", "version": "1"}]}');
SELECT * FROM pg_temp.ask('acme', '/write', '{"object": "account", "kind": "upsert", "external_id_field": "external_key", "records": [
    {"external_id": "A1", "version": "99", "fields": {"phone": "9"}}, {"external_id": "A99", "version": "1", "fields": {"name": "was there"}}]}');
-- Keys: one that is taken, one that two want, one that its own record has.
SELECT * FROM pg_temp.ask('acme', '/write', '{"object": "deal", "kind": "update", "records": [
    {"id": "deal-000001", "fields": {"external_key": "D2"}},
    {"id": "deal-000002", "fields": {"external_key": "D7", "amount": "much"}},
    {"id": "deal-000003", "fields": {"external_key": "D7"}}]}');
SELECT * FROM pg_temp.ask('acme', '/write', '{"object": "deal", "kind": "update", "records": [
    {"id": "deal-000001", "fields": {"external_key": "D8"}},
    {"id": "deal-000002", "fields": {"external_key": "D8"}},
    {"id": "deal-000003", "fields": {"external_key": "D7"}}]}');

-- Upserts: one object per key, however often.
SELECT * FROM pg_temp.ask('acme', '/write', '{"object": "account", "kind": "upsert", "external_id_field": "external_key", "records": [
    {"external_id": "A1", "fields": {"segment": "outdoor", "external_key": "A1"}},
    {"external_id": "A7", "fields": {"name": "Golf & Sons"}},
    {"external_id": "A8", "fields": {"phone": "1"}},
    {"external_id": "A9", "fields": {"name": "x", "external_key": "A10"}},
    {"external_id": " A7", "fields": {"name": "twin"}},
    {"external_id": "A3", "fields": {"name": "Cobalt again"}}]}');
SELECT * FROM pg_temp.ask('acme', '/write',
    '{"object": "account", "kind": "upsert", "external_id_field": "external_key", "records": [{"external_id": "A7", "fields": {"name": "Golf"}}]}');
SELECT * FROM pg_temp.ask('acme', '/write', '{"object": "deal", "kind": "create", "records": [
    {"fields": {"name": "New", "external_key": "D9"}}, {"fields": {"name": "Twin", "external_key": "D9"}}, {"fields": {"stage": "open"}}]}');
SELECT * FROM pg_temp.ask('acme', '/write', '{"object": "deal", "kind": "delete", "records": [{"id": "deal-000003"}, {"id": "deal-000003"}, {"id": "deal-000042"}]}');
SELECT * FROM pg_temp.ask('acme', '/write', '{"object": "deal", "kind": "delete", "records": [{"id": "deal-000003"}]}');
SELECT * FROM shown WHERE by = 'pg_crm';

-- Requests that cannot be taken at all.
SELECT * FROM pg_temp.ask('acme', '/write', '{"object": "lead", "kind": "update", "records": []}');
SELECT * FROM pg_temp.ask('acme', '/write', '{"object": "deal", "kind": "merge", "records": []}');
SELECT * FROM pg_temp.ask('acme', '/write', '{"object": "deal", "kind": "update"}');
SELECT * FROM pg_temp.ask('acme', '/write', '{"object": "contact", "kind": "upsert", "external_id_field": "email", "records": []}');
SELECT * FROM pg_temp.ask('acme', '/write', format('{"object": "deal", "kind": "update", "records": [%s]}', rtrim(repeat('{},', 201), ',')));
SELECT * FROM pg_temp.ask('acme', '/elsewhere', NULL);

-- Faults of whole requests, by class.
TRUNCATE crm_stub.requests RESTART IDENTITY;
SELECT crm_stub.inject('acme', c) FROM unnest('{transient,rate_limited,auth,validation,mapping,conflict,not_found,internal,timeout}'::text[]) AS c;
SELECT class, status, headers ->> 'retry-after' AS retry_after, body #>> '{error,class}' AS error_class, body IS NULL AS no_answer
FROM (SELECT i.class, h.* FROM crm_stub.injections i,
      LATERAL crm_stub.handle(i.connection, 'POST', '/read', '{"object": "deal", "ids": ["deal-000001"]}') h ORDER BY i.injection_id) AS asked;
SELECT count(*) AS left FROM crm_stub.injections;
-- An answer that is lost: the one before anything is applied, the other after.
SELECT crm_stub.inject('acme', 'timeout', operation => 'write'), crm_stub.inject('acme', 'drop_after_apply', operation => 'write');
SELECT status, n FROM pg_temp.ask('acme', '/read', '{"object": "deal", "ids": ["deal-000001"]}');
SELECT * FROM pg_temp.ask('acme', '/write', '{"object": "deal", "kind": "update", "records": [{"id": "deal-000001", "fields": {"amount": 1}}]}');
SELECT fields -> 'amount' AS amount FROM crm_stub.records WHERE crm_id = 'deal-000001';
SELECT * FROM pg_temp.ask('acme', '/write', '{"object": "deal", "kind": "update", "records": [{"id": "deal-000001", "fields": {"amount": 2}}]}');
SELECT fields -> 'amount' AS amount FROM crm_stub.records WHERE crm_id = 'deal-000001';
-- Faults of one record, by its id or its external id; its neighbour is fine.
SELECT crm_stub.inject('acme', 'conflict', crm_id => 'deal-000001'), crm_stub.inject('acme', 'transient', crm_id => 'A7', operation => 'write', times => 2),
       crm_stub.inject('acme', 'not_found', crm_id => 'account-000001', operation => 'read');
SELECT * FROM pg_temp.ask('acme', '/write', '{"object": "deal", "kind": "update", "records": [{"id": "deal-000001", "fields": {"amount": 3}}, {"id": "deal-000002", "fields": {"amount": 3}}]}');
SELECT * FROM pg_temp.ask('acme', '/write', '{"object": "account", "kind": "upsert", "external_id_field": "external_key", "records": [{"external_id": "A7", "fields": {"phone": "1"}}, {"external_id": "A1", "fields": {"phone": "1"}}]}');
SELECT * FROM pg_temp.ask('acme', '/read', '{"object": "account", "ids": ["account-000001", "account-000002"], "fields": []}');
SELECT * FROM pg_temp.ask('other', '/ping', NULL);
SELECT connection, class, times, crm_id, operation FROM crm_stub.injections;
SELECT crm_stub.inject('acme', NULL, 0);
SELECT count(*) AS left FROM crm_stub.injections;
SELECT crm_stub.inject('acme', 'sometimes');
SELECT crm_stub.inject('acme', 'timeout', operation => 'dance');
SELECT crm_stub.inject('acme', 'timeout', -1);

-- What was asked, in order.
SELECT request_id, at, connection, method, path, records, status, body ->> 'object' AS object FROM crm_stub.requests ORDER BY request_id;

-- Changes: a cursor knows what it has told. Pages of one pass, then what came after it.
CREATE TEMP TABLE told (pass int, page int, answer jsonb);
CREATE FUNCTION pg_temp.follow(object text, page_size int, since jsonb DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    answer jsonb;
    number int := (SELECT coalesce(max(pass), 0) + 1 FROM told);
BEGIN
    FOR page IN 1 .. 100 LOOP
        answer := (SELECT h.body FROM crm_stub.handle('acme', 'POST', '/changes', jsonb_build_object('object', object,
            'fields', '["name"]'::jsonb, 'external_id_field', 'external_key', 'since', since, 'limit', page_size)) AS h);
        INSERT INTO told VALUES (number, page, answer);
        since := answer -> 'next';
        EXIT WHEN NOT (answer ->> 'more')::bool;
    END LOOP;
    RETURN since;
END
$$;
CREATE TEMP VIEW changes AS
    SELECT pass, page, c ->> 'id' AS id, c ->> 'external_id' AS key, c -> 'fields' AS fields, (c ->> 'version')::int AS v,
           c ->> 'modified_by' AS by, (c ->> 'deleted')::bool AS deleted, (answer ->> 'more')::bool AS more
    FROM told LEFT JOIN LATERAL jsonb_array_elements(answer -> 'changes') AS c ON true;
SELECT pg_temp.follow('deal', 2) AS cursor \gset
SELECT page, id, key, fields, by, deleted, more FROM changes ORDER BY pass, page, id;
TRUNCATE told;
-- Nothing, and again nothing; then each record once, however often it changed.
SELECT pg_temp.follow('deal', 2, :'cursor') AS cursor \gset
SELECT count(id), bool_or(more) AS more FROM changes;
UPDATE crm_stub.records SET fields = fields || '{"name": "Twice"}' WHERE crm_id = 'deal-000001';
UPDATE crm_stub.records SET fields = fields || '{"name": "Twice changed"}' WHERE crm_id = 'deal-000001';
SELECT status FROM pg_temp.ask('acme', '/write', '{"object": "deal", "kind": "update", "records": [{"id": "deal-000002", "fields": {"name": "By us"}}]}');
INSERT INTO crm_stub.records (connection, crm_object, crm_id, fields) VALUES ('acme', 'deal', 'deal-gone', '{"name": "Short"}');
DELETE FROM crm_stub.records WHERE crm_id = 'deal-gone';
TRUNCATE told;
SELECT pg_temp.follow('deal', 1, :'cursor') AS cursor \gset
SELECT page, id, fields, v, by, deleted, more FROM changes ORDER BY page;
-- What changes while a pass goes on is told by the next one, if it was not told yet.
TRUNCATE told;
UPDATE crm_stub.records SET fields = fields || '{"stage": "won"}' WHERE crm_object = 'deal' AND connection = 'acme' AND NOT deleted;
SELECT body -> 'next' AS page, body #>> '{changes,0,id}' AS id FROM crm_stub.handle('acme', 'POST', '/changes', jsonb_build_object('object', 'deal', 'since', :'cursor'::jsonb, 'limit', 1)) \gset
SELECT :'id' AS first;
UPDATE crm_stub.records SET fields = fields || '{"stage": "lost"}' WHERE crm_id = 'deal-000002';
SELECT pg_temp.follow('deal', 200, :'page') AS cursor \gset
SELECT string_agg(id, ', ' ORDER BY id) AS rest FROM changes;
TRUNCATE told;
SELECT pg_temp.follow('deal', 200, :'cursor') AS cursor \gset
SELECT string_agg(id, ', ' ORDER BY id) AS after FROM changes;
-- A cursor of a cluster that was ahead begins anew; what is no cursor, or no question, is refused.
TRUNCATE told;
SELECT pg_temp.follow('deal', 200, '{"seen": "9000000000000:9000000000000:"}') AS cursor \gset
SELECT count(DISTINCT id) = (SELECT count(*) FROM crm_stub.records WHERE crm_object = 'deal' AND connection = 'acme') AS all FROM changes;
SELECT * FROM pg_temp.ask('acme', '/changes', '{"object": "deal", "limit": 10, "since": {"seen": "soon"}}');
SELECT * FROM pg_temp.ask('acme', '/changes', '{"object": "deal", "limit": 10, "since": 5}');
SELECT * FROM pg_temp.ask('acme', '/changes', '{"object": "deal", "limit": 10, "since": {"until": "5:5:"}}');
SELECT * FROM pg_temp.ask('acme', '/changes', '{"object": "deal", "limit": 201}');
SELECT * FROM pg_temp.ask('acme', '/changes', '{"object": "deal"}');
SELECT * FROM pg_temp.ask('acme', '/changes', '{"object": "lead", "limit": 10}');
SELECT * FROM pg_temp.ask('acme', '/changes', '{"object": "deal", "limit": 10, "fields": ["colour"]}');
SELECT * FROM pg_temp.ask('acme', '/changes', '{"object": "deal", "limit": 10, "external_id_field": "name"}');
SELECT crm_stub.inject('acme', 'rate_limited', operation => 'changes');
SELECT * FROM pg_temp.ask('acme', '/changes', '{"object": "deal", "limit": 10}');
SELECT status FROM pg_temp.ask('acme', '/changes', '{"object": "contact", "limit": 1}');

-- Everything is commented on, and nothing is everybody's.
SELECT relname FROM pg_class WHERE relnamespace = 'crm_stub'::regnamespace AND relkind IN ('r', 'v') AND obj_description(oid, 'pg_class') IS NULL;
SELECT proname FROM pg_proc WHERE pronamespace = 'crm_stub'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL;
SELECT relname FROM pg_class WHERE relnamespace = 'crm_stub'::regnamespace AND relacl::text ~ '[{,]=';
SELECT proname FROM pg_proc WHERE pronamespace = 'crm_stub'::regnamespace AND has_function_privilege('pg_monitor', oid, 'EXECUTE');

TRUNCATE crm_stub.records, crm_stub.injections, crm_stub.requests RESTART IDENTITY;
