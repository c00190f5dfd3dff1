-- The extension's schemas, and what it needs of a database. The files of sql/ run in the order that src/sql.rs gives.

-- CREATE EXTENSION resolves names in whichever schema is current, where others may have put operators that fit better than
-- PostgreSQL's own, and a view would keep those. It ends with the script.
SET LOCAL search_path = pg_catalog, pg_temp;

-- What CRMs say is UTF-8, and so is what the worker hands to PostgreSQL: elsewhere it would be stored as other letters.
DO $$
BEGIN
    IF getdatabaseencoding() <> 'UTF8' THEN
        RAISE feature_not_supported USING
            MESSAGE = format('pg_crm needs a database whose encoding is UTF8, and that of "%s" is %s', current_database(), getdatabaseencoding()),
            DETAIL = 'CRMs hold text of every script, which only UTF8 keeps as it is.',
            HINT = 'CREATE DATABASE … ENCODING ''UTF8'' TEMPLATE template0, and move the tables there by pg_dump.';
    END IF;
END $$;

CREATE SCHEMA crm;
CREATE SCHEMA crm_internal;
CREATE SCHEMA crm_stub;

COMMENT ON SCHEMA crm IS 'pg_crm: keeps tables and CRMs in step';
COMMENT ON SCHEMA crm_internal IS 'pg_crm: functions that only pg_crm itself calls';
COMMENT ON SCHEMA crm_stub IS 'pg_crm: the embedded CRM behind provider ''stub''';
