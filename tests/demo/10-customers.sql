-- The customers of Northwind, a sample database that many know: 91 companies, with names in a dozen languages.
\ir parts/stage.sql

\echo '== 1.1 The extension, and the facts: 91 customers'
:show
CREATE EXTENSION pg_crm;
CREATE TABLE northwind (
    customer_id   text PRIMARY KEY,
    company_name  text NOT NULL,
    contact_name  text,
    contact_title text,
    address       text,
    city          text,
    region        text,
    postal_code   text,
    country       text,
    phone         text,
    fax           text
);
\copy northwind FROM 'customers.csv' (FORMAT csv, HEADER)
SELECT customer_id, company_name, city, country, phone FROM northwind ORDER BY customer_id LIMIT 5;
:hide

-- What the other scripts demand of themselves.
CREATE SCHEMA demo;
CREATE FUNCTION demo.expect(holds bool, what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF holds IS NOT TRUE THEN
        RAISE EXCEPTION 'the demo expected that %', what;
    END IF;
END $$;
SELECT demo.expect((SELECT count(*) FROM northwind) = 91, 'Northwind has 91 customers')
\g /dev/null
