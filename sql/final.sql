-- Last: all objects get their owner crm_engine, all other grants are revoked, and the worker is started.

DO $$
BEGIN
    IF to_regrole('crm_engine') IS NULL THEN
        BEGIN
            CREATE ROLE crm_engine NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT;
            COMMENT ON ROLE crm_engine IS 'pg_crm: owns the objects of the extension; its worker runs as this role';
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- CREATE EXTENSION in another database was faster
        END;
    END IF;
    -- It may have been created beforehand, with a password or members.
    IF EXISTS (SELECT FROM crm_internal.engine_trouble()) OR EXISTS (SELECT FROM pg_authid WHERE rolname = 'crm_engine'
        AND rolpassword IS NOT NULL) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_role_specification',
            MESSAGE = 'role "crm_engine" exists but is not as pg_crm creates it',
            DETAIL = coalesce((SELECT string_agg(t.trouble, '; ' ORDER BY t.trouble) FROM crm_internal.engine_trouble() t),
                'it has a password') || '.',
            HINT = coalesce((SELECT string_agg(t.hint, '; ' ORDER BY t.trouble) FROM crm_internal.engine_trouble() t),
                'ALTER ROLE crm_engine PASSWORD NULL')
                   || '. Or drop it, if no other database has pg_crm.';
    END IF;
END $$;
SELECT crm_internal.settle_rights();

-- For all commands, so that no way to alter a table is missed.
CREATE EVENT TRIGGER pg_crm_bind_restored ON ddl_command_start EXECUTE FUNCTION crm_internal.bind_restored();
CREATE EVENT TRIGGER pg_crm_follow_ddl ON ddl_command_end EXECUTE FUNCTION crm_internal.follow_ddl();
CREATE EVENT TRIGGER pg_crm_follow_rewrite ON table_rewrite EXECUTE FUNCTION crm_internal.follow_rewrite();
CREATE EVENT TRIGGER pg_crm_follow_drop ON sql_drop EXECUTE FUNCTION crm_internal.follow_drop();

SELECT crm_internal.start_worker();
