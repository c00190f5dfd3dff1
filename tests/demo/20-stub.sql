-- The embedded CRM, provider `stub`: no network, no account. It is a set of tables in schema crm_stub.
\ir parts/stage.sql
CREATE SCHEMA embedded;
SET search_path = embedded, public;

\echo '== 2.1 A CRM of tables. Its admin defines one custom field as a choice; other x_ fields take anything'
:show
INSERT INTO crm_stub.fields (crm_object, name, data_type, choices)
VALUES ('account', 'x_tier', 'choice', '{Standard,Gold}');
:hide

\echo
\echo '== 2.2 A connection to it, a table, and what goes where, by which rules'
:show
SELECT crm.create_connection(name => 'embedded', provider => 'stub') AS connection_id;
SELECT * FROM crm.test_connection('embedded');
\ir parts/table.sql
:show
SELECT crm.map_object(connection => 'embedded', relation => 'customers', crm_object => 'account',
                      external_id_field => 'external_key', on_insert => 'create') AS map_id;
:hide
SELECT map_id FROM crm.object_map WHERE relation = 'customers'::regclass \gset
:show
SELECT v.*, crm.map_field(:map_id, v.column_name, v.crm_field, direction => v.direction,
                          data_type => v.data_type, validation => v.rules) AS id
FROM (VALUES
    ('company_name',   'name',           'bidirectional', 'text',   jsonb '{"nullable": false, "max_length": 80}'),
    ('contact_name',   'x_contact',      'bidirectional', 'text',   '{}'),
    ('city',           'x_city',         'outbound',      'text',   '{}'),
    ('country',        'x_country',      'outbound',      'text',   '{"nullable": false}'),
    ('phone',          'phone',          'bidirectional', 'text',   '{"pattern": "^[0-9() .-]+$"}'),
    ('credit_limit',   'x_credit_limit', 'outbound',      'number', '{"min": 0, "max": 50000}'),
    ('customer_since', 'x_since',        'outbound',      'date',   '{"min": "1990-01-01"}'),
    ('tier',           'x_tier',         'outbound',      'choice', '{}')
) AS v (column_name, crm_field, direction, data_type, rules);
:hide
CREATE TEMP VIEW maps AS SELECT map_id, connection AS crm FROM crm.status WHERE connection = 'embedded';
CREATE TEMP VIEW held AS
SELECT m.crm, m.map_id, r.crm_id, r.version, x.external_key AS customer_id, x.name AS company_name, x.x_contact AS contact_name,
       x.x_city AS city, x.x_country AS country, x.phone, x.x_credit_limit AS credit_limit, x.x_since AS customer_since, x.x_tier AS tier
FROM maps m, crm_stub.records r,
     jsonb_to_record(r.fields) AS x (external_key text, name text, x_contact text, x_city text, x_country text, phone text,
                                     x_credit_limit numeric, x_since date, x_tier text)
WHERE r.connection = 'embedded' AND r.crm_object = 'account' AND NOT r.deleted;

\echo
\echo '== 2.3 Loading the customers. New rows are to be created in the CRM (on_insert => create)'
:show
INSERT INTO customers SELECT * FROM northwind;
SELECT crm.flush();
SELECT connection, provider, relation, state, dirty_cells, dead FROM crm.status WHERE map_id = :map_id;
SELECT crm_id, customer_id, left(company_name, 26) AS company_name, city, country FROM held ORDER BY crm_id LIMIT 4;
:hide

\echo
\echo '== 2.4 Editing cells by plain SQL'
:show
SET pg_crm.actor = 'dana@northwind';
UPDATE customers SET credit_limit = 500 * length(company_name) + 0.50, tier = 'Standard',
                     customer_since = date '1996-07-04' + 3 * length(contact_name);
UPDATE customers SET contact_name = 'Zoë Åström', phone = '030-0074 322' WHERE customer_id = 'ALFKI';
SELECT crm.flush();
SELECT column_name, crm_field, state, changed_at::time(0) AS changed, last_synced_at::time(0) AS synced
FROM crm.cell_status WHERE map_id = :map_id AND record_key = 'ALFKI' ORDER BY column_name;
:hide

\echo
\echo '== 2.5 An edit that breaks a rule fails as a whole, whoever makes it; the script goes on'
\set ON_ERROR_STOP off
:show
UPDATE customers SET credit_limit = credit_limit * 100, phone = 'ask Dana' WHERE country = 'Norway' OR customer_id = 'ERNSH';
:hide
\set state :SQLSTATE
\set ON_ERROR_STOP on
SELECT demo.expect(:'state' = '23514', 'the broken rule is refused')
\g /dev/null

\echo
\echo '== 2.6 A paused connection: edits wait, none is lost'
:show
SELECT crm.pause('embedded');
UPDATE customers SET city = upper(city) WHERE country = 'Norway' OR country = 'Sweden';
SELECT crm.flush(timeout => '5 seconds');
SELECT connection, state, reason, dirty_cells, queued FROM crm.status_wide WHERE map_id = :map_id;
:hide
SELECT demo.expect((SELECT count(*) = 0 FROM held WHERE city = upper(city)), 'nothing is written over a paused connection')
\g /dev/null
:show
SELECT crm.resume('embedded');
SELECT crm.flush();
SELECT customer_id, city, country, version FROM held WHERE country IN ('Norway', 'Sweden') ORDER BY 1;
:hide

\echo
\echo '== 2.7 A value that the CRM refuses: its neighbours arrive, the record becomes a dead letter'
:show
UPDATE customers SET tier = CASE customer_id WHEN 'ERNSH' THEN 'Platinum' ELSE 'Gold' END
WHERE country IN ('Austria', 'Switzerland');
SELECT crm.flush();
SELECT dead_letter_id, record_key, crm_id, error_class, error, attempts FROM crm.dead_letters WHERE map_id = :map_id;
SELECT customer_id, tier AS tier_there FROM held WHERE country IN ('Austria', 'Switzerland') ORDER BY 1;
:hide
SELECT demo.expect((SELECT count(*) = 1 FROM crm.dead_letters WHERE map_id = :map_id), 'one record, and only one, is a dead letter')
\g /dev/null
SELECT dead_letter_id FROM crm.dead_letters WHERE map_id = :map_id \gset
\echo
\echo '== 2.8 The CRM''s admin allows the value, and the dead letter is replayed'
:show
UPDATE crm_stub.fields SET choices = choices || 'Platinum'::text WHERE crm_object = 'account' AND name = 'x_tier';
SELECT crm.replay(:dead_letter_id);
SELECT crm.flush();
SELECT customer_id, tier AS tier_there FROM held WHERE country IN ('Austria', 'Switzerland') ORDER BY 1;
:hide
SELECT demo.expect((SELECT count(*) = 0 FROM crm.dead_letters), 'no dead letter is left')
\g /dev/null

\echo
\echo '== 2.9 The audit: who changed what, and what came of it'
:show
SELECT operation, result, vendor_code, count(*) AS records, count(DISTINCT request_id) AS requests
FROM crm.audit_log WHERE connection = 'embedded' GROUP BY 1, 2, 3 ORDER BY min(audit_id);
SELECT a.audit_id, a.actor, a.operation, f.key AS field, f.value ->> 'new' AS new_value, a.result
FROM crm.audit_log a, jsonb_each(a.fields) f
WHERE a.connection = 'embedded' AND a.record_key = 'ERNSH' ORDER BY a.audit_id, f.key;
:hide

\echo
\echo '== 2.10 The end: nothing waits, every invariant holds, and what the CRM holds equals the table'
:show
SELECT connection, provider, state, dirty_cells, queued, dead, last_success IS NOT NULL AS succeeded FROM crm.status_wide;
SELECT * FROM crm.check();
:hide
SELECT demo.expect((SELECT count(*) = 0 FROM crm.check()), 'crm.check() finds nothing')
\g /dev/null
\ir parts/compare.sql
