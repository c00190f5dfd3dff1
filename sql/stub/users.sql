-- CRM users: plain SQL on crm_stub.records.

-- SECURITY DEFINER, so that users need privileges on the table only.
CREATE FUNCTION crm_stub.keep_record() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, crm_stub, pg_temp
AS $$
DECLARE
    known   text;
    changed jsonb;
    checked record;
    error   jsonb;
BEGIN
    IF TG_OP = 'DELETE' THEN
        UPDATE crm_stub.records r SET deleted = true
        WHERE (r.connection, r.crm_object, r.crm_id) = (OLD.connection, OLD.crm_object, OLD.crm_id) AND NOT r.deleted;
        RETURN NULL;
    END IF;

    known := crm_stub.field_names(NEW.crm_object);
    IF known IS NULL THEN
        RAISE EXCEPTION 'the stub CRM has no object "%"', NEW.crm_object
            USING ERRCODE = 'undefined_object', HINT = format('Its objects are %s.', crm_stub.object_names());
    END IF;
    IF jsonb_typeof(NEW.fields) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'fields of a record must be a JSON object'
            USING ERRCODE = 'check_violation', HINT = 'For example: {"name": "Alpine Outfitters"}';
    END IF;

    IF TG_OP = 'INSERT' THEN
        changed := NEW.fields;
    ELSIF (NEW.connection, NEW.crm_object, NEW.crm_id) IS DISTINCT FROM (OLD.connection, OLD.crm_object, OLD.crm_id) THEN
        RAISE EXCEPTION 'a record of the stub CRM keeps its connection, object and id'
            USING ERRCODE = 'check_violation', DETAIL = format('The record is %s at connection "%s".', OLD.crm_id, OLD.connection);
    ELSE
        -- Values that were accepted before are not checked again: a deal may outlive its account.
        SELECT coalesce(jsonb_object_agg(f.key, f.value), '{}') INTO changed
        FROM jsonb_each(NEW.fields) AS f WHERE f.value IS DISTINCT FROM OLD.fields -> f.key;
    END IF;
    SELECT * INTO checked FROM crm_stub.checked(NEW.connection, NEW.crm_object, changed);
    NEW.fields := (NEW.fields || checked.sent) - checked.cleared;
    error := coalesce(checked.error, crm_stub.missing(NEW.crm_object, NEW.fields));
    IF error IS NOT NULL THEN
        RAISE EXCEPTION USING
            MESSAGE = error ->> 'message',
            ERRCODE = CASE error ->> 'code'
                WHEN 'unknown_field' THEN 'undefined_column'
                WHEN 'wrong_type' THEN 'datatype_mismatch'
                WHEN 'required_field' THEN 'not_null_violation'
                WHEN 'too_long' THEN 'string_data_right_truncation'
                WHEN 'unknown_reference' THEN 'foreign_key_violation'
                ELSE 'check_violation' END,
            DETAIL = format('The record is %s at connection "%s".', coalesce(NEW.crm_id, 'a new ' || NEW.crm_object), NEW.connection),
            HINT = CASE error ->> 'code'
                WHEN 'unknown_field' THEN
                    format('Fields of %s: %s. A field whose name begins with x_ is custom.', NEW.crm_object, known)
                ELSE 'See the fields and their limits in crm_stub.fields.' END;
    END IF;

    IF TG_OP = 'INSERT' THEN
        IF NEW.crm_id IS NULL THEN
            PERFORM crm_stub.lock_numbers(NEW.connection, NEW.crm_object);
            NEW.crm_id := crm_stub.id_text(NEW.crm_object, crm_stub.last_number(NEW.connection, NEW.crm_object) + 1);
        END IF;
        NEW.version := 1;
        NEW.deleted := coalesce(NEW.deleted, false);
    ELSE
        NEW.version := OLD.version + 1;
    END IF;
    NEW.modified_at := crm_stub.clock(NEW.connection) + interval '1 second';
    NEW.modified_by := 'crm-user';
    NEW.changed_in := pg_current_xact_id();
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION crm_stub.keep_record() IS
    'Trigger of crm_stub.records: enforces the rules, sets id, version, time and author, turns DELETE into deleted';

-- crm_stub.handle checks what it writes and sets every column itself.
CREATE TRIGGER keep_record BEFORE INSERT OR UPDATE OR DELETE ON crm_stub.records
    FOR EACH ROW WHEN (current_setting('crm_stub.caller', true) IS DISTINCT FROM 'pg_crm')
    EXECUTE FUNCTION crm_stub.keep_record();

COMMENT ON TRIGGER keep_record ON crm_stub.records IS 'Enforces the rules on changes by CRM users, and stamps them';
