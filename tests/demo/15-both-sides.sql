-- Most tables that are to be kept in step with a CRM are not empty, and neither is the CRM. The embedded CRM has some of the
-- customers, as people typed them, and no key says which is which.
\ir parts/stage.sql
CREATE SCHEMA both_sides;
SET search_path = both_sides, public;

\echo '== 1.2 People have typed 22 of the customers into a CRM, in their own ways; one of them twice, and one whom we do not know'
:show
SELECT crm.create_connection(name => 'typed', provider => 'stub') AS connection_id;
INSERT INTO crm_stub.records (connection, crm_object, fields)
SELECT 'typed', 'account', jsonb_build_object('name', upper(company_name), 'phone', '+' || phone)
FROM northwind WHERE country IN ('Germany', 'France') AND customer_id <> 'ALFKI'
UNION ALL SELECT 'typed', 'account', '{"name": "Alfreds Futterkiste "}' FROM generate_series(1, 2)
UNION ALL SELECT 'typed', 'account', '{"name": "Nobody''s Shop"}';
CREATE TABLE customers AS SELECT customer_id, company_name, phone, city FROM northwind;
ALTER TABLE customers ADD PRIMARY KEY (customer_id);
:hide

\echo
\echo '== 1.3 A map is laid while nothing moves'
:show
SELECT crm.map_object('typed', 'customers', 'account', external_id_field => 'external_key', on_insert => 'create', enabled => false) AS map_id;
:hide
SELECT map_id FROM crm.object_map WHERE relation = 'customers'::regclass \gset
:show
SELECT crm.map_field(:map_id, 'company_name', 'name');
SELECT crm.map_field(:map_id, 'phone', 'phone');
SELECT crm.map_field(:map_id, 'city', 'x_city', direction => 'outbound');
SELECT * FROM crm.records('typed', 'account', '{name,phone}', '{"name": ["BLONDESDDSL PÈRE ET FILS", "BLAUER SEE DELIKATESSEN"]}');
:hide

\echo
\echo '== 1.4 Which rows and which records are one? At first, crm.match() only tells'
:show
SELECT status, count(record_key) AS rows, count(crm_id) AS records, min(natural_key ->> 'company_name') AS for_example
FROM crm.match(:map_id, '{"company_name": "name"}') GROUP BY 1 ORDER BY 1;
:hide
SELECT demo.expect((SELECT count(*) = 0 FROM crm.ledger WHERE map_id = :map_id), 'a dry run links nothing')
\g /dev/null

\echo
\echo '== 1.5 What is unique is linked; of the twins a person knows which one it is'
:show
SELECT count(*) AS linked FROM crm.match(:map_id, '{"company_name": "name"}', dry_run => false) WHERE status = 'unique';
SELECT crm.link(:map_id, 'ALFKI', (SELECT min(crm_id) FROM crm_stub.records WHERE fields ->> 'name' ILIKE 'alfreds%'));
:hide

\echo
\echo '== 1.6 The map goes on, and the rows are pushed: keys and cities arrive, what people typed stands, the others are created'
:show
SELECT crm.enable(:map_id);
SELECT crm.push(:map_id) AS push_id;
SELECT crm.flush(:map_id);
SELECT operation, result, count(DISTINCT record_key) AS records FROM crm.audit_log WHERE map_id = :map_id GROUP BY 1, 2 ORDER BY 1, 2;
SELECT c.customer_id, c.company_name, c.phone, r.fields
FROM customers c JOIN crm_stub.records r ON r.connection = 'typed' AND r.fields ->> 'external_key' = c.customer_id
WHERE c.customer_id IN ('ALFKI', 'BLONP', 'FOLKO');
:hide
SELECT demo.expect((SELECT count(*) = 91 AND bool_and(r.fields ->> 'name' = c.company_name AND r.fields ->> 'x_city' = c.city
                                                      AND r.fields ->> 'phone' IS NOT DISTINCT FROM c.phone)
                    FROM customers c JOIN crm_stub.records r ON r.connection = 'typed' AND r.fields ->> 'external_key' = c.customer_id),
                   'each customer has one record, and they agree')
\g /dev/null
SELECT demo.expect((SELECT count(*) = 93 FROM crm_stub.records WHERE connection = 'typed'), 'there is no twin but the one that people made')
\g /dev/null
SELECT demo.expect((SELECT count(*) = 0 FROM crm.check()), 'crm.check() finds nothing')
\g /dev/null
SELECT crm.unmap_object(:map_id), crm.drop_connection('typed')
\g /dev/null
