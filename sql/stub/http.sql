-- pg_crm: requests and answers.

CREATE TABLE crm_stub.requests (
    request_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL,
    connection text NOT NULL,
    method     text NOT NULL,
    path       text NOT NULL,
    records    int NOT NULL,
    status     int NOT NULL,
    body       jsonb
);

COMMENT ON TABLE crm_stub.requests IS 'Requests to the stub CRM, in the order of request_id. TRUNCATE it at will.';
COMMENT ON COLUMN crm_stub.requests.at IS 'Time by the clock of the connection, after the request was processed';
COMMENT ON COLUMN crm_stub.requests.records IS 'Number of records that the request names';
COMMENT ON COLUMN crm_stub.requests.status IS 'Status of the response; 0: there was none';
COMMENT ON COLUMN crm_stub.requests.body IS 'Body of the request';

CREATE FUNCTION crm_stub.answer(connection text, method text, path text, request jsonb,
                                OUT status int, OUT headers jsonb, OUT answer jsonb)
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, crm_stub, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    operation text := substr(path, 2);
    named     jsonb := coalesce(crm_stub.list(request, 'records'), crm_stub.list(request, 'ids'), '[]');
    keys      text[];
    whole     text;
    refused   jsonb;
    moment    timestamptz;
    number    bigint;
BEGIN
    BEGIN
        IF EXISTS (SELECT FROM crm_stub.injections i WHERE i.connection = answer.connection AND i.crm_id IS NOT NULL) THEN
            SELECT array_agg(CASE WHEN jsonb_typeof(n.item) <> 'object' THEN n.item #>> '{}'
                                  WHEN request ->> 'kind' = 'upsert' THEN n.item ->> 'external_id'
                                  ELSE n.item ->> 'id' END)
            INTO keys FROM jsonb_array_elements(named) AS n (item);
        END IF;
        SELECT f.whole, f.refused INTO whole, refused FROM crm_stub.take_faults(connection, operation, keys) AS f;

        answer := CASE
            WHEN whole IS NOT NULL AND whole <> 'drop_after_apply' THEN
                (SELECT jsonb_build_object('error', crm_stub.error(c.class, 'injected', c.message))
                 FROM crm_stub.classes c WHERE c.class = whole)
            WHEN (method, path) = ('POST', '/write') THEN crm_stub.write(connection, request, refused)
            WHEN (method, path) = ('POST', '/read') THEN crm_stub.read(connection, request, refused)
            WHEN (method, path) = ('POST', '/changes') THEN crm_stub.changes(connection, request)
            WHEN (method, path) = ('POST', '/count') THEN jsonb_build_object('count',
                (SELECT count(*) FROM crm_stub.records r
                 WHERE r.connection = answer.connection AND r.crm_object = request ->> 'object' AND NOT r.deleted))
            WHEN (method, path) = ('POST', '/describe') THEN crm_stub.describe(request ->> 'object')
            WHEN (method, path) = ('GET', '/ping') THEN
                jsonb_build_object('detail', format('the stub answers for connection "%s"', connection))
            ELSE jsonb_build_object('error', crm_stub.error('mapping', 'unknown_path',
                format('the stub does not know %s %s; it knows POST /write, POST /read, POST /changes, POST /count, POST /describe and GET /ping', method, path)))
        END;
    EXCEPTION
        -- Another transaction is open, or was faster: nothing of this request is applied.
        WHEN lock_not_available OR deadlock_detected OR serialization_failure OR unique_violation THEN
            whole := NULL;
            answer := jsonb_build_object('error', crm_stub.error('transient', 'record_locked',
                'another transaction is changing what this request needs'));
    END;

    status := CASE WHEN whole = 'drop_after_apply' THEN 0
                   WHEN answer ? 'error' THEN (SELECT c.status FROM crm_stub.classes c WHERE c.class = answer.answer #>> '{error,class}')
                   ELSE 200 END;
    moment := crm_stub.clock(connection);
    INSERT INTO crm_stub.requests (at, connection, method, path, records, status, body)
    VALUES (moment, answer.connection, answer.method, answer.path, jsonb_array_length(named), answer.status, request)
    RETURNING request_id INTO number;

    IF status = 0 THEN
        headers := '{}';
        answer := NULL;
        RETURN;
    END IF;
    headers := jsonb_build_object(
        'content-type', 'application/json',
        'date', to_char(moment AT TIME ZONE 'UTC', 'Dy, DD Mon YYYY HH24:MI:SS "GMT"'),
        'x-request-id', number::text);
    IF status = 429 THEN
        headers := headers || '{"retry-after": "1"}';
    END IF;
END
$$;

COMMENT ON FUNCTION crm_stub.answer(text, text, text, jsonb) IS 'What crm_stub.handle does, beneath its settings';

-- Settings: the caller, for the trigger; how long it waits for locks; and plans that remain good while the tables grow,
-- since they are made once per session and use indexes only.
CREATE FUNCTION crm_stub.handle(connection text, method text, path text, body jsonb,
                                OUT status int, OUT headers jsonb, OUT body jsonb)
    LANGUAGE sql VOLATILE
    SET search_path = pg_catalog, crm_stub, pg_temp
    SET crm_stub.caller = 'pg_crm'
    SET lock_timeout = '250ms'
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET jit = off
BEGIN ATOMIC
    SELECT a.status, a.headers, a.answer FROM crm_stub.answer($1, $2, $3, $4) AS a;
END;

COMMENT ON FUNCTION crm_stub.handle(text, text, text, jsonb) IS
    'Answers one request of pg_crm to the stub CRM of a connection: POST /write, POST /read, POST /changes, POST /count, POST '
    '/describe, GET /ping. Status 0 means that no answer came; whether the request was applied is then not known.';
