-- The other direction: what people change in Salesforce comes into the table, and goes on to HubSpot.
\ir parts/stage.sql
SET search_path = remote, public;
SELECT max(map_id) FILTER (WHERE connection = 'sales') AS sales, max(map_id) FILTER (WHERE connection = 'marketing') AS marketing
FROM crm.status \gset
SELECT crm_id AS alfki FROM crm.cell_status WHERE map_id = :sales AND record_key = 'ALFKI' LIMIT 1 \gset
SELECT crm_id AS bonap FROM crm.cell_status WHERE map_id = :sales AND record_key = 'BONAP' LIMIT 1 \gset
SELECT crm_id AS bonap_there FROM crm.cell_status WHERE map_id = :marketing AND record_key = 'BONAP' LIMIT 1 \gset
\setenv ALFKI :alfki
\setenv BONAP :bonap
\setenv BONAP_THERE :bonap_there

\echo '== 5.1 Every record is read once. All of it is known: these are our own writes, coming back'
:show
SELECT crm.backfill(:sales) >= 91 AS salesforce, crm.backfill(:marketing) >= 91 AS hubspot;
SELECT connection, ingested, echoes >= 91 AS echoes, overwritten FROM crm.status_wide WHERE map_id IN (:sales, :marketing) ORDER BY 1;
:hide
SELECT demo.expect((SELECT bool_and(ingested = 0) FROM crm.status_wide WHERE map_id IN (:sales, :marketing)), 'our own writes change nothing')
\g /dev/null

\echo
\echo '== 5.2 A person edits a customer in Salesforce: the row takes the new values, and HubSpot gets them from the row'
\set edit `curl -fsS -X PATCH "$ADMIN_URL/objects/salesforce/Account/$BONAP" -d '{"fields": {"Phone": "91.24.45.99", "Contact_Name__c": "Laurence Lebihans"}}' >/dev/null && echo 'a CRM user sets Phone to 91.24.45.99 and Contact Name to Laurence Lebihans'`
\echo :edit
:show
SELECT crm.ingest_now();
SELECT customer_id, contact_name, phone FROM customers WHERE customer_id = 'BONAP';
SELECT path, operation, result, fields, actor FROM crm.audit_log WHERE map_id = :sales AND path = 'ingest' ORDER BY audit_id;
SELECT crm.flush();
:hide
\set there `curl -fsS "$ADMIN_URL/objects/hubspot/companies/$BONAP_THERE"`
SELECT demo.expect((SELECT (contact_name, phone) = ('Laurence Lebihans', '91.24.45.99') FROM customers WHERE customer_id = 'BONAP'), 'the row has the new values')
\g /dev/null
SELECT demo.expect(:'there'::jsonb -> 'fields' ->> 'phone' = '91.24.45.99', 'HubSpot has the new number')
\g /dev/null

\echo
\echo '== 5.3 A person edits a field of which the table is the source of truth: it is written over, and counted'
\set edit `curl -fsS -X PATCH "$ADMIN_URL/objects/salesforce/Account/$ALFKI" -d '{"fields": {"BillingCity": "Bonn"}}' >/dev/null && echo 'a CRM user sets Billing City to Bonn'`
\echo :edit
:show
SELECT crm.ingest_now();
SELECT crm.flush();
SELECT connection, ingested, overwritten FROM crm.status_wide WHERE map_id = :sales;
:hide
\set there `curl -fsS "$ADMIN_URL/objects/salesforce/Account/$ALFKI"`
SELECT demo.expect(:'there'::jsonb -> 'fields' ->> 'BillingCity' = 'Berlin', 'Salesforce holds the table''s city again')
\g /dev/null

\echo
\echo '== 5.4 Once more in both directions: nothing moves any more'
:show
SELECT crm.ingest_now(), crm.flush();
SELECT connection, state, queued, pending, conflicts, dead, ingested, overwritten FROM crm.status_wide WHERE map_id IN (:sales, :marketing) ORDER BY 1;
SELECT * FROM crm.check();
:hide
SELECT demo.expect((SELECT count(*) = 0 FROM crm.check()), 'crm.check() finds nothing')
\g /dev/null

\echo
\echo '== 5.5 What both CRMs hold is what the table holds'
\ir parts/held.sql
\ir parts/look.sql
\ir parts/compare.sql
