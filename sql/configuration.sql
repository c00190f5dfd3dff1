-- Consequences of configuration changes: dependent rows are deleted, caches of sessions invalidated.
--
-- Tables that pg_dump dumps have no foreign keys to each other: CREATE EXTENSION would create these before the rows, which a
-- parallel restore loads in any order. The functions that insert rows lock the parent row; the triggers here delete dependents.

CREATE FUNCTION crm_internal.cascade_connection() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM crm.object_map m WHERE m.connection_id = OLD.connection_id) THEN
        RAISE foreign_key_violation USING
            MESSAGE = format('connection "%s" still has mapped tables', OLD.name),
            HINT = 'Call crm.unmap_object() for them first.';
    END IF;
    DELETE FROM crm.webhook_inbox i WHERE i.connection_id = OLD.connection_id;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION crm_internal.cascade_connection() IS
    'trigger: raises if the deleted connection has maps, otherwise deletes its webhook events';
CREATE TRIGGER cascade AFTER DELETE ON crm.connection FOR EACH ROW EXECUTE FUNCTION crm_internal.cascade_connection();

CREATE FUNCTION crm_internal.cascade_map() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM crm.field_map f WHERE f.map_id = OLD.map_id;
    DELETE FROM crm.ingest_state s WHERE s.map_id = OLD.map_id;
    DELETE FROM crm.scan_request r WHERE r.map_id = OLD.map_id;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION crm_internal.cascade_map() IS
    'trigger: deletes the fields, the ingestion state and the recapture requests of a deleted map';
CREATE TRIGGER cascade AFTER DELETE ON crm.object_map FOR EACH ROW EXECUTE FUNCTION crm_internal.cascade_map();

-- Sessions cache the configuration: changes reach them as relation cache invalidations.
CREATE FUNCTION crm_internal.invalidate_configuration() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM crm_internal.invalidate(TG_RELID);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION crm_internal.invalidate_configuration() IS 'trigger: invalidates the configuration that sessions have cached';
CREATE TRIGGER invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON crm.connection
    FOR EACH STATEMENT EXECUTE FUNCTION crm_internal.invalidate_configuration();
CREATE TRIGGER invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON crm.object_map
    FOR EACH STATEMENT EXECUTE FUNCTION crm_internal.invalidate_configuration();
CREATE TRIGGER invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON crm.field_map
    FOR EACH STATEMENT EXECUTE FUNCTION crm_internal.invalidate_configuration();
CREATE TRIGGER invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON crm.bound_column
    FOR EACH STATEMENT EXECUTE FUNCTION crm_internal.invalidate_configuration();
CREATE TRIGGER invalidate AFTER INSERT OR UPDATE OF state OR DELETE OR TRUNCATE ON crm.map_state
    FOR EACH STATEMENT EXECUTE FUNCTION crm_internal.invalidate_configuration();
