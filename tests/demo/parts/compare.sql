-- Compares the table `customers` with `held`, what a CRM holds: (crm, map_id, crm_id, and the table's columns in its types).
-- Every row and every mapped field, both ways; the ids that the CRM gave, too. Ends in an error unless all is equal.
:hide
CREATE OR REPLACE TEMP VIEW compared AS
WITH fields AS (
    SELECT h.map_id, h.crm, f.name
    FROM (SELECT DISTINCT map_id, crm FROM maps) h,
         LATERAL (SELECT 'crm_id' AS name UNION ALL
                  SELECT m.column_name FROM crm.field_map m WHERE m.map_id = h.map_id) f
), here AS (
    SELECT l.map_id, c.customer_id AS key,
           to_jsonb(c) || jsonb_build_object('crm_id', (SELECT max(s.crm_id) FROM crm.cell_status s
                                                        WHERE s.map_id = l.map_id AND s.record_key = c.customer_id)) AS row
    FROM maps l, customers c
), there AS (
    SELECT h.map_id, h.customer_id AS key, to_jsonb(h) AS row FROM held h
)
SELECT f.crm, coalesce(a.key, b.key, '(no key)') AS customer_id, f.name AS field,
       a.key IS NOT NULL AS in_table, b.key IS NOT NULL AS in_crm,
       a.row -> f.name AS table_value, b.row -> f.name AS crm_value,
       (a.row -> f.name) IS NOT DISTINCT FROM (b.row -> f.name) AND a.key IS NOT NULL AND b.key IS NOT NULL AS equal
FROM here a FULL JOIN there b ON a.map_id = b.map_id AND a.key = b.key
JOIN fields f ON f.map_id = coalesce(a.map_id, b.map_id);

:show
SELECT crm, count(DISTINCT customer_id) FILTER (WHERE in_table) AS rows_here,
       count(*) FILTER (WHERE in_crm AND field = 'crm_id') AS records_there, count(DISTINCT field) AS fields,
       count(*) AS values_compared, count(*) FILTER (WHERE NOT equal) AS differences
FROM compared GROUP BY crm ORDER BY crm;
:hide
DO $$
DECLARE
    difference text;
    odd text;
BEGIN
    SELECT string_agg(format('%s, customer %s, %s: %s in the table, %s in the CRM', crm, customer_id, field,
                             coalesce(table_value::text, 'nothing'), coalesce(crm_value::text, 'nothing')), E'\n')
    INTO difference FROM (SELECT * FROM compared WHERE NOT equal ORDER BY crm, customer_id, field LIMIT 10) d;
    IF difference IS NOT NULL THEN
        RAISE EXCEPTION 'what the CRM holds differs from the table' USING DETAIL = difference;
    END IF;
    -- A twin in the CRM would equal its row as well: so the numbers have to agree, too.
    SELECT string_agg(format('%s: %s', l.crm, n.records), E'\n') INTO odd
    FROM maps l, LATERAL (SELECT count(*) AS records FROM held h WHERE h.map_id = l.map_id) n WHERE n.records <> 91;
    IF odd IS NOT NULL OR (SELECT count(*) FROM customers) <> 91 OR (SELECT count(*) FROM maps) = 0 THEN
        RAISE EXCEPTION 'there should be 91 rows and 91 records, not %', (SELECT count(*) FROM customers) USING DETAIL = coalesce(odd, '');
    END IF;
END $$;
