-- Last: nobody but those named by crm.grant_access() may use anything, and the worker is told to look here.

REVOKE ALL ON ALL TABLES IN SCHEMA crm, crm_stub FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA crm, crm_stub FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA crm, crm_stub FROM PUBLIC;
REVOKE ALL ON SCHEMA crm, crm_stub FROM PUBLIC;

CREATE EVENT TRIGGER pg_crm_bind_restored ON ddl_command_start WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION crm.bind_restored();
CREATE EVENT TRIGGER pg_crm_follow_ddl ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'CREATE FOREIGN TABLE', 'DROP INDEX',
                 'DROP FUNCTION', 'DROP ROUTINE', 'DROP TYPE', 'DROP DOMAIN', 'DROP SCHEMA', 'DROP EXTENSION', 'DROP OWNED')
    EXECUTE FUNCTION crm.follow_ddl();
CREATE EVENT TRIGGER pg_crm_follow_drop ON sql_drop
    WHEN TAG IN ('DROP TABLE', 'DROP SCHEMA', 'DROP OWNED')
    EXECUTE FUNCTION crm.follow_drop();

SELECT crm.start_worker();
