-- Faults on request.

CREATE TABLE crm_stub.injections (
    injection_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    connection   text COLLATE "C" NOT NULL,
    class        text NOT NULL REFERENCES crm_stub.classes,
    times        int NOT NULL CHECK (times > 0),
    crm_id       text,
    operation    text CHECK (operation IN ('read', 'write', 'changes', 'describe'))
);

CREATE INDEX injections_connection ON crm_stub.injections (connection);

COMMENT ON TABLE crm_stub.injections IS 'Pending faults, created by crm_stub.inject. The oldest that matches a request applies first.';
COMMENT ON COLUMN crm_stub.injections.times IS 'Requests that are still to fail';
COMMENT ON COLUMN crm_stub.injections.crm_id IS 'The record that fails; NULL: whole requests';
COMMENT ON COLUMN crm_stub.injections.operation IS 'read, write, changes or describe; NULL: any request but describe';

CREATE FUNCTION crm_stub.inject(connection text, class text, times int DEFAULT 1, crm_id text DEFAULT NULL,
                                operation text DEFAULT NULL)
    RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, crm_stub, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF inject.connection IS NULL THEN
        RAISE EXCEPTION 'connection must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF inject.times IS NULL OR inject.times < 0 THEN
        RAISE EXCEPTION 'times must be 0 or more' USING ERRCODE = 'invalid_parameter_value',
            HINT = '0 clears what is still to come.';
    END IF;
    IF inject.class IS NULL AND inject.times > 0
       OR NOT EXISTS (SELECT FROM crm_stub.classes c WHERE c.class = coalesce(inject.class, 'timeout')) THEN
        RAISE EXCEPTION 'unknown class %', coalesce('"' || inject.class || '"', 'null')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('Known classes: %s.', (SELECT string_agg(c.class, ', ' ORDER BY c.class) FROM crm_stub.classes c));
    END IF;
    IF inject.operation NOT IN ('read', 'write', 'changes', 'describe') THEN
        RAISE EXCEPTION 'unknown operation "%"', inject.operation
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Known operations: changes, describe, read, write.';
    END IF;

    IF inject.times = 0 THEN
        DELETE FROM crm_stub.injections i
        WHERE i.connection = inject.connection
          AND i.class = coalesce(inject.class, i.class)
          AND (inject.crm_id IS NULL OR i.crm_id = inject.crm_id)
          AND (inject.operation IS NULL OR i.operation = inject.operation);
        RETURN;
    END IF;
    DELETE FROM crm_stub.injections i
    WHERE (i.connection, i.class, i.crm_id, i.operation)
        IS NOT DISTINCT FROM (inject.connection, inject.class, inject.crm_id, inject.operation);
    INSERT INTO crm_stub.injections (connection, class, times, crm_id, operation)
    VALUES (inject.connection, inject.class, inject.times, inject.crm_id, inject.operation);
END
$$;

COMMENT ON FUNCTION crm_stub.inject(text, text, int, text, text) IS
    'Makes the next times requests (of that operation) fail with a class of errors, with timeout (not applied, no answer) or '
    'drop_after_apply (applied, no answer). '
    'With crm_id only that record fails (its id, or its external id if it is sent by that), in the next times requests that include it. '
    'Calling it again replaces the number of times; 0 clears matching faults (class NULL: all classes).';

CREATE FUNCTION crm_stub.take_faults(connection text, operation text, keys text[], OUT whole text, OUT refused jsonb)
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, crm_stub, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    fault record;
BEGIN
    refused := '{}';
    FOR fault IN
        SELECT i.injection_id, i.class, i.crm_id, c.status, c.message
        FROM crm_stub.injections i JOIN crm_stub.classes c ON c.class = i.class
        WHERE i.connection = take_faults.connection
          -- Mapping a column must not consume a fault that is meant for other requests.
          AND (i.operation IS NULL AND take_faults.operation <> 'describe' OR i.operation = take_faults.operation)
          AND (i.crm_id IS NULL OR i.crm_id = ANY (take_faults.keys))
        ORDER BY i.crm_id IS NOT NULL, i.injection_id
        FOR UPDATE OF i
    LOOP
        -- A response is lost as a whole, and reading a record has no error of its own: it exists or not.
        IF fault.crm_id IS NULL OR fault.status = 0 OR take_faults.operation <> 'write' AND fault.class <> 'not_found' THEN
            whole := fault.class;
        ELSIF refused ? fault.crm_id THEN
            CONTINUE;
        ELSE
            refused := refused || jsonb_build_object(fault.crm_id, crm_stub.error(fault.class, 'injected', fault.message));
        END IF;
        DELETE FROM crm_stub.injections i WHERE i.injection_id = fault.injection_id AND i.times = 1;
        UPDATE crm_stub.injections i SET times = i.times - 1 WHERE i.injection_id = fault.injection_id;
        EXIT WHEN whole IS NOT NULL;
    END LOOP;
END
$$;

COMMENT ON FUNCTION crm_stub.take_faults(text, text, text[]) IS
    'Returns the faults that apply to a request, and counts them down: one for the whole request, or errors by record key';
