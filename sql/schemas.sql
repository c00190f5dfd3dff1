-- The extension's schemas, and what it needs of a database. The files of sql/ run in the order that src/sql.rs gives.

-- CREATE EXTENSION resolves names in the current schema, where operators may have been created that match better than built-in
-- ones, and a view would keep these. The setting ends with the script.
SET LOCAL search_path = pg_catalog, pg_temp;

-- CRMs use UTF-8, and the worker passes it to PostgreSQL: in another encoding it would be stored as other characters.
CREATE SCHEMA crm_internal;
CREATE FUNCTION crm_internal.require_utf8() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF getdatabaseencoding() <> 'UTF8' THEN
        RAISE feature_not_supported USING
            MESSAGE = format('pg_crm requires a database with encoding UTF8, but the encoding of "%s" is %s', current_database(),
                getdatabaseencoding()),
            DETAIL = 'CRMs hold text in every script, which only UTF8 can store.',
            HINT = 'CREATE DATABASE … ENCODING ''UTF8'' TEMPLATE template0, and move the tables there with pg_dump.';
    END IF;
END $$;
SELECT crm_internal.require_utf8();
DROP FUNCTION crm_internal.require_utf8();

CREATE SCHEMA crm;
CREATE SCHEMA crm_stub;

COMMENT ON SCHEMA crm IS 'pg_crm: synchronises tables with CRMs';
COMMENT ON SCHEMA crm_internal IS 'pg_crm: functions that only pg_crm itself calls';
COMMENT ON SCHEMA crm_stub IS 'pg_crm: the embedded CRM behind provider ''stub''';
