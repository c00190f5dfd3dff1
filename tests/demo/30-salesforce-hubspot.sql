-- The same over HTTP: one table goes to Salesforce and to HubSpot, both simulated, by the vendors' own protocols.
\ir parts/stage.sql
CREATE SCHEMA remote;
SET search_path = remote, public;

\echo '== 3.1 Each CRM''s admin defines custom fields (Tier is a choice of Standard and Gold)'
\set define `curl -fsS "$ADMIN_URL/schema/salesforce/Account" -d '{"fields": [{"name": "Contact_Name__c", "type": "string", "length": 120}, {"name": "Credit_Limit__c", "type": "currency", "precision": 12, "scale": 2}, {"name": "Since__c", "type": "date"}, {"name": "Tier__c", "type": "picklist", "values": ["Standard", "Gold"], "restricted": true}]}' >/dev/null && echo 'Salesforce Account:  Contact_Name__c, Credit_Limit__c, Since__c, Tier__c'`
\echo :define
\set define `curl -fsS "$ADMIN_URL/schema/hubspot/companies" -d '{"fields": [{"name": "contact_name", "type": "string", "widget": "text"}, {"name": "credit_limit", "type": "number", "widget": "number"}, {"name": "customer_since", "type": "date", "widget": "date"}, {"name": "tier", "type": "enumeration", "widget": "select", "values": ["Standard", "Gold"]}]}' >/dev/null && echo 'HubSpot companies:   contact_name, credit_limit, customer_since, tier'`
\echo :define

\echo
\echo '== 3.2 Two connections, one table, and what goes where, by which rules'
:show
SELECT crm.create_connection(name => 'sales', provider => 'salesforce', base_url => :'salesforce',
                             credentials => '{"access_token": "sf-token"}') AS connection_id;
SELECT crm.create_connection(name => 'marketing', provider => 'hubspot', base_url => :'hubspot',
                             credentials => '{"access_token": "hs-token"}') AS connection_id;
SELECT c.name, t.* FROM crm.connection c, crm.test_connection(c.name) t WHERE c.name IN ('sales', 'marketing') ORDER BY 1 DESC;
\ir parts/table.sql
:show
SELECT crm.map_object('sales', 'customers', 'Account', external_id_field => 'External_Key__c', on_insert => 'create') AS sales,
       crm.map_object('marketing', 'customers', 'companies', external_id_field => 'external_key', on_insert => 'create') AS marketing;
:hide
SELECT max(map_id) FILTER (WHERE connection = 'sales') AS sales, max(map_id) FILTER (WHERE connection = 'marketing') AS marketing
FROM crm.status \gset
:show
SELECT v.*, crm.map_field(:sales, column_name, salesforce, direction, data_type, rules) AS id_s,
            crm.map_field(:marketing, column_name, hubspot, direction, data_type, rules) AS id_m
FROM (VALUES
    ('company_name',   'Name',            'name',           'bidirectional', 'text',   jsonb '{"nullable": false, "max_length": 80}'),
    ('contact_name',   'Contact_Name__c', 'contact_name',   'bidirectional', 'text',   '{}'),
    ('city',           'BillingCity',     'city',           'outbound',      'text',   '{"max_length": 40}'),
    ('country',        'BillingCountry',  'country',        'outbound',      'text',   '{"nullable": false}'),
    ('phone',          'Phone',           'phone',          'bidirectional', 'text',   '{"pattern": "^[0-9() .-]+$"}'),
    ('credit_limit',   'Credit_Limit__c', 'credit_limit',   'outbound',      'number', '{"min": 0, "max": 50000}'),
    ('customer_since', 'Since__c',        'customer_since', 'outbound',      'date',   '{"min": "1990-01-01"}'),
    ('tier',           'Tier__c',         'tier',           'outbound',      'choice', '{}')
) AS v (column_name, salesforce, hubspot, direction, data_type, rules);
:hide
\ir parts/held.sql

\echo
\echo '== 3.3 Loading the customers by COPY. Each is to be created in both CRMs'
:show
\copy customers (customer_id, company_name, contact_name, contact_title, address, city, region, postal_code, country, phone, fax) FROM 'customers.csv' (FORMAT csv, HEADER)
SELECT crm.flush();
SELECT map_id, connection, provider, relation, state, dirty_cells, dead FROM crm.status WHERE map_id IN (:sales, :marketing);
\ir parts/look.sql
SELECT crm, crm_id, left(company_name, 26) AS company_name, city, country, phone FROM held WHERE customer_id LIKE 'AN%' ORDER BY 1, 2;
:hide

\echo
\echo '== 3.4 Editing cells by plain SQL'
:show
SET pg_crm.actor = 'dana@northwind';
UPDATE customers SET credit_limit = 500 * length(company_name) + 0.50, tier = 'Standard',
                     customer_since = date '1996-07-04' + 3 * length(contact_name);
UPDATE customers SET contact_name = 'Zoë Åström', phone = '030-0074 322' WHERE customer_id = 'ALFKI';
SELECT crm.flush();
SELECT map_id, column_name, crm_field, state, changed_at::time(0) AS changed, last_synced_at::time(0) AS synced
FROM crm.cell_status WHERE record_key = 'ALFKI' AND column_name IN ('city', 'phone', 'tier') AND map_id IN (:sales, :marketing)
ORDER BY 1, 2;
:hide

\echo
\echo '== 3.5 An edit that breaks a rule fails as a whole, whoever makes it; the script goes on'
\set ON_ERROR_STOP off
:show
UPDATE customers SET credit_limit = -1, phone = 'ask Dana' WHERE country = 'Austria';
:hide
\set updated :SQLSTATE
:show
INSERT INTO customers (customer_id, company_name, country, phone) VALUES ('NEWCO', 'Newcomer', 'Norway', 'n/a');
:hide
\set inserted :SQLSTATE
\set ON_ERROR_STOP on
SELECT demo.expect(:'updated' = '23514' AND :'inserted' = '23514', 'the broken rule is refused')
\g /dev/null

\echo
\echo '== 3.6 Salesforce is paused: its edits wait, those for HubSpot go'
:show
SELECT crm.pause('sales');
UPDATE customers SET city = upper(city) WHERE country IN ('Norway', 'Sweden');
SELECT crm.flush(:sales, '5 seconds') AS sales, crm.flush(:marketing) AS marketing;
SELECT connection, state, reason, dirty_cells, queued FROM crm.status_wide WHERE map_id IN (:sales, :marketing);
\ir parts/look.sql
SELECT customer_id, crm, city, version FROM held WHERE country IN ('Norway', 'Sweden') ORDER BY 1, 2;
:hide
SELECT demo.expect((SELECT bool_and((city = upper(city)) = (crm = 'hubspot')) FROM held WHERE country IN ('Norway', 'Sweden')),
                   'only the paused CRM waits')
\g /dev/null
:show
SELECT crm.resume('sales');
SELECT crm.flush();
:hide

\echo
\echo '== 3.7 Salesforce is unavailable for a moment, HubSpot says 429: the worker mends it by itself'
\set fault `curl -fsS "$ADMIN_URL/faults" -d '{"vendor": "salesforce", "method": "PATCH", "status": 503}' | cut -c 1-60`
\set fault `curl -fsS "$ADMIN_URL/faults" -d '{"vendor": "hubspot", "status": 429, "headers": {"Retry-After": "1"}}' | cut -c 1-60`
:show
UPDATE customers SET phone = replace(phone, '.', ' ') WHERE country = 'France';
SELECT crm.flush();
SELECT connection, operation, result, attempt, error_class, left(error, 50) AS error, count(*) AS records
FROM crm.audit_log WHERE map_id IN (:sales, :marketing) AND fields ?| '{phone,Phone}' AND operation = 'update' AND record_key <> 'ALFKI'
GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, min(audit_id);
:hide
SELECT demo.expect((SELECT count(DISTINCT map_id) = 2 FROM crm.audit_log WHERE result = 'retry'), 'the worker tries again')
\g /dev/null

\echo
\echo '== 3.8 A value that both CRMs refuse: its neighbours arrive, the record becomes a dead letter in each'
:show
UPDATE customers SET tier = CASE customer_id WHEN 'ERNSH' THEN 'Platinum' ELSE 'Gold' END
WHERE country IN ('Austria', 'Switzerland');
SELECT crm.flush();
:hide
\x on
:show
SELECT dead_letter_id, connection, record_key, operation, error_class, vendor_code, error FROM crm.dead_letters ORDER BY 1;
:hide
\x off
:show
\ir parts/look.sql
SELECT customer_id, max(tier) FILTER (WHERE crm = 'salesforce') AS salesforce, max(tier) FILTER (WHERE crm = 'hubspot') AS hubspot
FROM held WHERE country IN ('Austria', 'Switzerland') GROUP BY 1 ORDER BY 1;
:hide
SELECT demo.expect((SELECT count(*) = 2 AND count(DISTINCT map_id) = 2 FROM crm.dead_letters), 'one record, and only one, is a dead letter in each CRM')
\g /dev/null
SELECT dead_letter_id FROM crm.dead_letters WHERE map_id = :sales \gset

\echo
\echo '== 3.9 Each CRM''s admin allows the value, and the dead letters are replayed'
\set define `curl -fsS "$ADMIN_URL/schema/salesforce/Account" -d '{"fields": [{"name": "Tier__c", "type": "picklist", "values": ["Standard", "Gold", "Platinum"], "restricted": true}]}' >/dev/null && echo 'Salesforce Account:  Tier__c takes Platinum, too'`
\echo :define
\set define `curl -fsS "$ADMIN_URL/schema/hubspot/companies" -d '{"fields": [{"name": "tier", "type": "enumeration", "widget": "select", "values": ["Standard", "Gold", "Platinum"]}]}' >/dev/null && echo 'HubSpot companies:   tier takes Platinum, too'`
\echo :define
:show
SELECT crm.replay(:dead_letter_id), crm.replay_all('marketing');
SELECT crm.flush();
\ir parts/look.sql
SELECT customer_id, max(tier) FILTER (WHERE crm = 'salesforce') AS salesforce, max(tier) FILTER (WHERE crm = 'hubspot') AS hubspot
FROM held WHERE country IN ('Austria', 'Switzerland') GROUP BY 1 ORDER BY 1;
:hide
SELECT demo.expect((SELECT count(*) = 0 FROM crm.dead_letters), 'no dead letter is left')
\g /dev/null

\echo
\echo '== 3.10 The audit: who changed what, and what came of it; and what travelled'
:show
SELECT connection, operation, result, vendor_code, count(*) AS records, count(DISTINCT request_id) AS requests
FROM crm.audit_log WHERE map_id IN (:sales, :marketing) GROUP BY 1, 2, 3, 4 ORDER BY 1, min(audit_id);
SELECT a.connection, a.actor, a.operation, f.key AS field, f.value ->> 'new' AS new_value, a.result
FROM crm.audit_log a, jsonb_each(a.fields) f
WHERE a.map_id IN (:sales, :marketing) AND a.record_key = 'ERNSH' AND a.operation <> 'create' ORDER BY 1, a.audit_id, f.key;
:hide
\set stats `curl -fsS "$ADMIN_URL/requests/stats"`
SELECT v.key AS vendor, r.key AS request, r.value AS times
FROM jsonb_each(:'stats'::jsonb) v, jsonb_each(v.value -> 'routes') r ORDER BY 1, 2;

\echo
\echo '== 3.11 The end: nothing waits, every invariant holds, and what both CRMs hold equals the table'
:show
SELECT connection, provider, state, dirty_cells, queued, dead, last_success IS NOT NULL AS succeeded FROM crm.status_wide ORDER BY map_id;
SELECT * FROM crm.check();
:hide
SELECT demo.expect((SELECT count(*) = 0 FROM crm.check()), 'crm.check() finds nothing')
\g /dev/null
\ir parts/look.sql
\ir parts/compare.sql
