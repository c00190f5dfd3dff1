-- Real time: a user's edit goes to Salesforce while they wait, and is never written over a newer value there.
\ir parts/stage.sql
SET search_path = remote, public;
SELECT map_id AS sales FROM crm.status WHERE connection = 'sales' \gset
SELECT crm_id AS alfki FROM crm.cell_status WHERE map_id = :sales AND record_key = 'ALFKI' LIMIT 1 \gset
\setenv ALFKI :alfki

\echo '== 4.1 A committed write: read, compared, written; both sides hold it when the call returns'
:show
SELECT outcome, crm_values -> 'phone' AS phone_there, error
FROM crm.write('customers', 'ALFKI', '{"phone": "030-0074 400"}', connection => 'sales');
SELECT customer_id, phone FROM customers WHERE customer_id = 'ALFKI';
:hide
\set there `curl -fsS "$ADMIN_URL/objects/salesforce/Account/$ALFKI"`
SELECT demo.expect(:'there'::jsonb -> 'fields' ->> 'Phone' = '030-0074 400', 'Salesforce holds the new number')
\g /dev/null

\echo
\echo '== 4.2 Somebody edits the record in Salesforce. Our user does not know: a conflict, with the fresh values, and nothing is changed'
\set edit `curl -fsS -X PATCH "$ADMIN_URL/objects/salesforce/Account/$ALFKI" -d '{"fields": {"Phone": "030-555 000"}}' >/dev/null && echo 'a CRM user sets Phone to 030-555 000'`
\echo :edit
:show
SELECT outcome, crm_values -> 'phone' AS phone_there, error
FROM crm.write('customers', 'ALFKI', '{"phone": "030-0074 500"}', connection => 'sales') \gset w_
:hide
\echo outcome: :w_outcome, phone there: :w_phone_there
SELECT demo.expect(:'w_outcome' = 'conflict' AND (SELECT phone = '030-0074 400' FROM customers WHERE customer_id = 'ALFKI'),
                   'a conflict changes nothing')
\g /dev/null

\echo
\echo '== 4.3 The user has seen it, and insists: force'
:show
SELECT outcome, crm_values -> 'phone' AS phone_there
FROM crm.write('customers', 'ALFKI', '{"phone": "030-0074 500"}', connection => 'sales', force => true);
:hide
\set there `curl -fsS "$ADMIN_URL/objects/salesforce/Account/$ALFKI"`
SELECT demo.expect(:'there'::jsonb -> 'fields' ->> 'Phone' = '030-0074 500', 'the forced write is there')
\g /dev/null

\echo
\echo '== 4.4 Salesforce fails: the edit is pending; the reconciler finds the record as it was, and writes'
\set fault `curl -fsS "$ADMIN_URL/faults" -d '{"vendor": "salesforce", "method": "PATCH", "status": 503}' >/dev/null && echo 'the next PATCH is answered 503'`
\echo :fault
:show
SELECT write_id, outcome, error_class, error
FROM crm.write('customers', 'ALFKI', '{"phone": "030-0074 600"}', connection => 'sales') \gset p_
:hide
\echo outcome: :p_outcome, class: :p_error_class, :p_error
:show
SELECT state, origin, columns, actor FROM crm.pending_writes WHERE record_key = 'ALFKI';
SELECT crm.resume('sales');
SELECT crm.flush();
SELECT state FROM crm.write_status(:'p_write_id');
:hide
\set there `curl -fsS "$ADMIN_URL/objects/salesforce/Account/$ALFKI"`
SELECT demo.expect(:'p_outcome' = 'pending' AND :'there'::jsonb -> 'fields' ->> 'Phone' = '030-0074 600', 'the pending write arrived')
\g /dev/null

\echo
\echo '== 4.5 An edit by plain SQL waits, and meanwhile somebody edits the record there: the CRM wins, the audit has the loser'
:show
SELECT crm.pause('sales');
UPDATE customers SET phone = '030-0074 700' WHERE customer_id = 'ALFKI';
:hide
\set edit `curl -fsS -X PATCH "$ADMIN_URL/objects/salesforce/Account/$ALFKI" -d '{"fields": {"Phone": "030-555 111"}}' >/dev/null && echo 'a CRM user sets Phone to 030-555 111'`
\echo :edit
:show
SELECT crm.resume('sales');
SELECT crm.flush();
SELECT customer_id, phone FROM customers WHERE customer_id = 'ALFKI';
SELECT path, operation, result, fields FROM crm.audit_log
WHERE map_id = :sales AND record_key = 'ALFKI' AND path <> 'batch' ORDER BY audit_id;
:hide
SELECT demo.expect((SELECT phone = '030-555 111' FROM customers WHERE customer_id = 'ALFKI'), 'the row takes the newer value')
\g /dev/null

\echo
\echo '== 4.6 The end: nothing waits, and every invariant holds'
:show
SELECT connection, state, pending, conflicts, dead FROM crm.status WHERE map_id = :sales;
SELECT * FROM crm.check();
:hide
SELECT demo.expect((SELECT count(*) = 0 FROM crm.check()), 'crm.check() finds nothing')
\g /dev/null
SELECT demo.expect((SELECT count(*) = 0 FROM crm.pending_writes), 'nothing is pending')
\g /dev/null
