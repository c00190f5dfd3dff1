-- Looks into both simulated CRMs from outside, as their users would, into the table `seen`.
:hide
\set salesforce_records `curl -fsS "$ADMIN_URL/objects/salesforce/Account"`
\set hubspot_records `curl -fsS "$ADMIN_URL/objects/hubspot/companies"`
TRUNCATE seen;
INSERT INTO seen
SELECT a.crm, r.value ->> 'id', (r.value ->> 'version')::int, r.value -> 'fields'
FROM (VALUES ('salesforce', :'salesforce_records'::jsonb), ('hubspot', :'hubspot_records'::jsonb)) AS a (crm, answer),
     jsonb_array_elements(a.answer -> 'records') r;
SELECT demo.expect((SELECT count(*) > 0 FROM seen), 'the simulator answers')
\g /dev/null
:show
