-- What a change of the configuration takes along: rows that belong to it, and what sessions remember.
--
-- The tables that pg_dump takes along have no foreign keys among themselves: those would be there before the rows, which a
-- parallel restore brings in any order. Rows are put in by functions that hold the row which theirs belongs to; what belongs to a
-- row goes with it here.

CREATE FUNCTION crm_internal.cascade_connection() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM crm.object_map m WHERE m.connection_id = OLD.connection_id) THEN
        RAISE foreign_key_violation USING
            MESSAGE = format('connection "%s" still has mapped tables', OLD.name),
            HINT = 'crm.unmap_object() them first.';
    END IF;
    DELETE FROM crm.webhook_inbox i WHERE i.connection_id = OLD.connection_id;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION crm_internal.cascade_connection() IS 'trigger: keeps a connection that has maps, else takes along what was posted to it';
CREATE TRIGGER cascade AFTER DELETE ON crm.connection FOR EACH ROW EXECUTE FUNCTION crm_internal.cascade_connection();

CREATE FUNCTION crm_internal.cascade_map() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM crm.field_map f WHERE f.map_id = OLD.map_id;
    DELETE FROM crm.ingest_state s WHERE s.map_id = OLD.map_id;
    DELETE FROM crm.recapture_request r WHERE r.map_id = OLD.map_id;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION crm_internal.cascade_map() IS 'trigger: deletes the fields, the ingestion state and the recapture requests of a map with it';
CREATE TRIGGER cascade AFTER DELETE ON crm.object_map FOR EACH ROW EXECUTE FUNCTION crm_internal.cascade_map();

-- Sessions keep what they read of the configuration: a change reaches them as one of a table does.
CREATE FUNCTION crm_internal.invalidate_configuration() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM crm_internal.invalidate(TG_RELID);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION crm_internal.invalidate_configuration() IS 'trigger: every session forgets what it keeps of the configuration';
CREATE TRIGGER invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON crm.connection FOR EACH STATEMENT EXECUTE FUNCTION crm_internal.invalidate_configuration();
CREATE TRIGGER invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON crm.object_map FOR EACH STATEMENT EXECUTE FUNCTION crm_internal.invalidate_configuration();
CREATE TRIGGER invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON crm.field_map FOR EACH STATEMENT EXECUTE FUNCTION crm_internal.invalidate_configuration();
CREATE TRIGGER invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON crm.bound_column FOR EACH STATEMENT EXECUTE FUNCTION crm_internal.invalidate_configuration();
CREATE TRIGGER invalidate AFTER INSERT OR UPDATE OF state OR DELETE OR TRUNCATE ON crm.map_state FOR EACH STATEMENT EXECUTE FUNCTION crm_internal.invalidate_configuration();
