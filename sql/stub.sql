-- The provider `stub`: a CRM made of tables, for trying pg_crm out and for its tests, without any account.
--
-- What it guarantees:
--   * It answers as strictly as a vendor does: unknown fields, wrong types, missing required fields, texts that
--     are too long, references to nothing and keys that are taken are refused, with the classes that pg_crm has
--     for errors. A record that is refused does not touch its neighbours in the request.
--   * Everything repeats. Ids count up per connection and object (account-000001). The clock of a connection is
--     the time of its last modification, 2026-01-01 00:00:00 UTC while there is none: each write request that
--     changes anything, and each row that a CRM user changes, is one second later than what came before. Reading
--     moves no clock, so a poll in the background shifts no time.
--   * Its state is crm_stub.records and nothing else; TRUNCATE of that table is a new CRM.
--   * It never waits long for a lock: a record that somebody else is changing is refused as `transient`, and a
--     request that has to wait (for a key or for the next id, taken by a transaction that is still open) is refused
--     as a whole after 250 ms. So an open transaction of a CRM user cannot hold up pg_crm.
--
-- A CRM user is whoever runs INSERT, UPDATE or DELETE on crm_stub.records. pg_crm goes through crm_stub.handle.
-- What is in these tables is never dumped.

------------------------------------------------------------------------------------------------------------------
-- The schema of the CRM
------------------------------------------------------------------------------------------------------------------

CREATE TABLE crm_stub.fields (
    crm_object text COLLATE "C" NOT NULL,
    name       text COLLATE "C" NOT NULL,
    data_type  text NOT NULL CHECK (data_type IN ('text', 'number', 'date', 'choice', 'reference')),
    max_length int,
    required   bool NOT NULL DEFAULT false,
    choices    text[] CHECK (choices IS NOT NULL OR data_type <> 'choice'),
    pattern    text,
    refers_to  text COLLATE "C" CHECK (refers_to IS NOT NULL OR data_type <> 'reference'),
    PRIMARY KEY (crm_object, name)
);

COMMENT ON TABLE crm_stub.fields IS
    'The objects of the stub CRM and their fields. A field whose name begins with x_ is custom: it needs no row here and takes any JSON.';
COMMENT ON COLUMN crm_stub.fields.data_type IS 'text, number, date (YYYY-MM-DD), choice or reference';
COMMENT ON COLUMN crm_stub.fields.max_length IS 'Longest text accepted, in characters';
COMMENT ON COLUMN crm_stub.fields.required IS 'Whether a record must have a value';
COMMENT ON COLUMN crm_stub.fields.choices IS 'The values that a choice takes';
COMMENT ON COLUMN crm_stub.fields.pattern IS 'Regular expression that a text must match';
COMMENT ON COLUMN crm_stub.fields.refers_to IS 'Object whose ids a reference takes';

INSERT INTO crm_stub.fields (crm_object, name, data_type, max_length, required, choices, pattern, refers_to) VALUES
    ('account', 'external_key', 'text',      255,  false, NULL, NULL, NULL),
    ('account', 'name',         'text',      255,  true,  NULL, NULL, NULL),
    ('account', 'domain',       'text',      255,  false, NULL, NULL, NULL),
    ('account', 'segment',      'text',      255,  false, NULL, NULL, NULL),
    ('account', 'phone',        'text',      255,  false, NULL, NULL, NULL),
    ('account', 'employees',    'number',    NULL, false, NULL, NULL, NULL),
    ('contact', 'external_key', 'text',      255,  false, NULL, NULL, NULL),
    ('contact', 'first_name',   'text',      255,  false, NULL, NULL, NULL),
    ('contact', 'last_name',    'text',      255,  false, NULL, NULL, NULL),
    ('contact', 'email',        'text',      255,  false, NULL, '^[^@[:space:]]+@[^@[:space:].]+([.][^@[:space:].]+)+$', NULL),
    ('contact', 'phone',        'text',      255,  false, NULL, NULL, NULL),
    ('contact', 'account_id',   'reference', 255,  false, NULL, NULL, 'account'),
    ('deal',    'external_key', 'text',      255,  false, NULL, NULL, NULL),
    ('deal',    'name',         'text',      255,  true,  NULL, NULL, NULL),
    ('deal',    'account_id',   'reference', 255,  false, NULL, NULL, 'account'),
    ('deal',    'stage',        'choice',    255,  false, '{open,qualified,proposal,negotiation,won,lost}', NULL, NULL),
    ('deal',    'amount',       'number',    NULL, false, NULL, NULL, NULL),
    ('deal',    'currency',     'text',      3,    false, NULL, NULL, NULL),
    ('deal',    'close_date',   'date',      NULL, false, NULL, NULL, NULL);

CREATE TABLE crm_stub.classes (
    class   text PRIMARY KEY,
    status  int NOT NULL,
    message text NOT NULL
);

COMMENT ON TABLE crm_stub.classes IS
    'What a request can fail with and the status that tells so; status 0 is no answer at all. crm_stub.inject takes these classes.';

INSERT INTO crm_stub.classes (class, status, message) VALUES
    ('transient',        503, 'the stub is unavailable, as injected'),
    ('rate_limited',     429, 'too many requests, as injected'),
    ('auth',             401, 'the session is not valid, as injected'),
    ('validation',       422, 'a rule of the CRM refuses this, as injected'),
    ('mapping',          400, 'the CRM does not know this field, as injected'),
    ('conflict',         412, 'the record was changed by somebody else, as injected'),
    ('not_found',        404, 'there is no such record, as injected'),
    ('internal',         500, 'something is broken, as injected'),
    ('timeout',            0, 'no answer, nothing applied'),
    ('drop_after_apply',   0, 'applied, but the answer is lost');

------------------------------------------------------------------------------------------------------------------
-- The records
------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION crm_stub.id_text(crm_object text, number bigint) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN crm_object || '-' || lpad(number::text, greatest(6, length(number::text)), '0');

COMMENT ON FUNCTION crm_stub.id_text(text, bigint) IS 'The id that the stub gives for a number: account-000001';

CREATE TABLE crm_stub.records (
    connection  text COLLATE "C" NOT NULL,
    crm_object  text COLLATE "C" NOT NULL,
    crm_id      text COLLATE "C" NOT NULL CHECK (crm_id <> ''),
    fields      jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(fields) = 'object'),
    version     bigint NOT NULL,
    modified_at timestamptz NOT NULL,
    modified_by text NOT NULL,
    deleted     bool NOT NULL DEFAULT false,
    changed_in  xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (connection, crm_object, crm_id)
);

CREATE UNIQUE INDEX records_external_key ON crm_stub.records (connection, crm_object, (fields ->> 'external_key'))
    WHERE NOT deleted AND fields ->> 'external_key' IS NOT NULL;
CREATE INDEX records_changed ON crm_stub.records (connection, crm_object, changed_in, crm_id);
CREATE INDEX records_modified ON crm_stub.records (connection, modified_at, crm_object, crm_id);
-- The ids of the form that crm_stub.id_text gives, in the order of their numbers. Built of nothing but PostgreSQL's own
-- functions, because whoever writes to the table needs the right to call what its indexes call.
CREATE INDEX records_number ON crm_stub.records (connection, crm_object, length(crm_id), crm_id)
    WHERE crm_id ~ ('^' || crm_object || '-([0-9]{6}|[1-9][0-9]{6,17})$');

COMMENT ON TABLE crm_stub.records IS
    'The records of the stub CRM. Read it, or INSERT, UPDATE and DELETE as a user of the CRM would: version, time and author keep themselves.';
COMMENT ON COLUMN crm_stub.records.connection IS 'Name of the connection whose CRM holds the record';
COMMENT ON COLUMN crm_stub.records.crm_object IS 'account, contact or deal';
COMMENT ON COLUMN crm_stub.records.crm_id IS 'Id of the record; assigned if an INSERT gives none';
COMMENT ON COLUMN crm_stub.records.fields IS 'Values of the fields that have one: an absent field, null and (for text) the empty text are one';
COMMENT ON COLUMN crm_stub.records.version IS '1 at first, one more with each modification';
COMMENT ON COLUMN crm_stub.records.modified_at IS 'Time of the last modification by the clock of the connection';
COMMENT ON COLUMN crm_stub.records.modified_by IS 'pg_crm, or crm-user for what was changed in this table directly';
COMMENT ON COLUMN crm_stub.records.changed_in IS 'Transaction of the last modification: the order in which POST /changes tells of them';
COMMENT ON COLUMN crm_stub.records.deleted IS 'Whether the record is deleted; DELETE sets it and keeps the row (so psql says DELETE 0)';

-- The settings of these two: a plan made while the table is small must still be right when it is large.
CREATE FUNCTION crm_stub.clock(connection text) RETURNS timestamptz
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, crm_stub, pg_temp
    SET enable_seqscan = off
    SET enable_sort = off
    SET enable_incremental_sort = off
AS $$
BEGIN
    RETURN coalesce(
        (SELECT r.modified_at FROM crm_stub.records r WHERE r.connection = clock.connection
         ORDER BY r.modified_at DESC LIMIT 1),
        timestamptz '2026-01-01 00:00:00+00');
END
$$;

COMMENT ON FUNCTION crm_stub.clock(text) IS
    'The time at a connection''s CRM: that of its last modification. The next one is a second later.';

CREATE FUNCTION crm_stub.last_number(connection text, crm_object text) RETURNS bigint
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, crm_stub, pg_temp
    SET enable_seqscan = off
    SET enable_sort = off
    SET enable_incremental_sort = off
AS $$
BEGIN
    RETURN coalesce(
        (SELECT substr(r.crm_id, length(r.crm_object) + 2)::bigint FROM crm_stub.records r
         WHERE r.connection = last_number.connection AND r.crm_object = last_number.crm_object
           AND r.crm_id ~ ('^' || r.crm_object || '-([0-9]{6}|[1-9][0-9]{6,17})$')
         ORDER BY length(r.crm_id) DESC, r.crm_id DESC LIMIT 1),
        0);
END
$$;

COMMENT ON FUNCTION crm_stub.last_number(text, text) IS
    'The number of the last id that was assigned. Call crm_stub.lock_numbers before using the next one.';

-- Its own function, because only what is executed after the wait sees what the other transaction committed.
CREATE FUNCTION crm_stub.lock_numbers(connection text, crm_object text) RETURNS void
    LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT pg_advisory_xact_lock(hashtextextended('crm_stub.records', 0) # hashtextextended(connection, 1)
                                 # hashtextextended(crm_object, 2));
END;

COMMENT ON FUNCTION crm_stub.lock_numbers(text, text) IS
    'Makes transactions that create records of one object on one connection come one after another';

------------------------------------------------------------------------------------------------------------------
-- The rules
------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION crm_stub.error(class text, code text, message text) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN jsonb_build_object('class', class, 'code', code, 'message', message);

COMMENT ON FUNCTION crm_stub.error(text, text, text) IS 'An error as the stub''s answers state it';

CREATE FUNCTION crm_stub.is_date(value text) RETURNS bool
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN value !~ '^(?!0000)[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$' THEN false
        ELSE substr(value, 9)::int <= extract(day FROM
            make_date(substr(value, 1, 4)::int, substr(value, 6, 2)::int, 1)::timestamp + interval '1 month - 1 day')
    END;

COMMENT ON FUNCTION crm_stub.is_date(text) IS 'Whether a text is a day of the calendar, YYYY-MM-DD';

-- Written so that PostgreSQL inlines it: a whole request is checked by one plan.
CREATE FUNCTION crm_stub.checked(connection text, crm_object text, fields jsonb)
    RETURNS TABLE (sent jsonb, cleared text[], error jsonb)
    LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT coalesce(jsonb_object_agg(f.name, f.value) FILTER (WHERE f.value IS NOT NULL), '{}'),
           coalesce(array_agg(f.name) FILTER (WHERE f.value IS NULL), '{}'),
           (array_agg(f.error) FILTER (WHERE f.error IS NOT NULL))[1]
    FROM (
        SELECT given.key AS name, stored.value,
               CASE
                   WHEN d.name IS NULL AND given.key NOT LIKE E'x\\__%' THEN
                       crm_stub.error('mapping', 'unknown_field',
                           format('%s has no field "%s"', checked.crm_object, given.key))
                   WHEN d.name IS NULL OR stored.value IS NULL THEN NULL
                   WHEN jsonb_typeof(stored.value) <> CASE d.data_type WHEN 'number' THEN 'number' ELSE 'string' END
                     OR d.data_type = 'date' AND NOT crm_stub.is_date(stored.value #>> '{}') THEN
                       crm_stub.error('mapping', 'wrong_type',
                           format('%s.%s takes a %s', d.crm_object, d.name,
                               CASE d.data_type WHEN 'date' THEN 'date (YYYY-MM-DD)'
                                                WHEN 'number' THEN 'number' ELSE 'text' END))
                   WHEN char_length(stored.value #>> '{}') > d.max_length THEN
                       crm_stub.error('validation', 'too_long',
                           format('%s.%s takes at most %s characters', d.crm_object, d.name, d.max_length))
                   WHEN stored.value #>> '{}' <> ALL (d.choices) THEN
                       crm_stub.error('validation', 'not_a_choice',
                           format('%s.%s takes one of %s', d.crm_object, d.name, array_to_string(d.choices, ', ')))
                   WHEN stored.value #>> '{}' !~ d.pattern THEN
                       crm_stub.error('validation', 'bad_format',
                           format('%s.%s is not a valid %s', d.crm_object, d.name, d.name))
                   WHEN d.refers_to IS NOT NULL AND (
                       SELECT r.crm_id FROM crm_stub.records r
                       WHERE r.connection = checked.connection AND r.crm_object = d.refers_to
                         AND r.crm_id = stored.value #>> '{}' AND NOT r.deleted) IS NULL THEN
                       crm_stub.error('validation', 'unknown_reference',
                           format('%s.%s names no %s', d.crm_object, d.name, d.refers_to))
               END AS error
        FROM jsonb_each(checked.fields) AS given
        LEFT JOIN crm_stub.fields d ON d.crm_object = checked.crm_object AND d.name = given.key
        -- Text is stored without blanks around it and with LF line ends; an empty one is no value. OFFSET 0 has it
        -- computed once.
        CROSS JOIN LATERAL (
            SELECT CASE
                WHEN given.value = 'null' THEN NULL
                WHEN d.name IS NOT NULL AND jsonb_typeof(given.value) = 'string' THEN
                    to_jsonb(nullif(btrim(replace(replace(given.value #>> '{}', E'\r\n', E'\n'), E'\r', E'\n'),
                                          E' \t\n\r\x0B\f'), ''))
                ELSE given.value
            END AS value
            OFFSET 0
        ) AS stored
    ) AS f;
END;

COMMENT ON FUNCTION crm_stub.checked(text, text, jsonb) IS
    'Given values of a record as they will be stored, the fields that are to have none, and the first error among them';

CREATE FUNCTION crm_stub.missing(crm_object text, fields jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, crm_stub, pg_temp
AS $$
BEGIN
    RETURN (SELECT crm_stub.error('mapping', 'required_field', format('%s.%s needs a value', d.crm_object, d.name))
            FROM crm_stub.fields d
            WHERE d.crm_object = missing.crm_object AND d.required AND NOT missing.fields ? d.name
            ORDER BY d.name LIMIT 1);
END
$$;

COMMENT ON FUNCTION crm_stub.missing(text, jsonb) IS 'The error for a record that lacks a required field, null if it lacks none';

CREATE FUNCTION crm_stub.object_names() RETURNS text
    LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT string_agg(DISTINCT d.crm_object, ', ') FROM crm_stub.fields d;
END;

COMMENT ON FUNCTION crm_stub.object_names() IS 'The objects of the stub CRM, for messages';

CREATE FUNCTION crm_stub.field_names(crm_object text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, crm_stub, pg_temp
AS $$
BEGIN
    RETURN (SELECT string_agg(d.name, ', ' ORDER BY d.name) FROM crm_stub.fields d
            WHERE d.crm_object = field_names.crm_object);
END
$$;

COMMENT ON FUNCTION crm_stub.field_names(text) IS 'The fields of an object, for messages; null if there is no such object';

------------------------------------------------------------------------------------------------------------------
-- CRM users: plain SQL on crm_stub.records
------------------------------------------------------------------------------------------------------------------

-- As its owner, so that a user needs privileges on the table only.
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
        -- What was accepted once is not looked at again: a deal may outlive its account.
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
    'Trigger of crm_stub.records: holds a CRM user to the rules, keeps id, version, time and author, turns DELETE into deleted';

-- crm_stub.handle has checked what it writes and sets every column itself.
CREATE TRIGGER keep_record BEFORE INSERT OR UPDATE OR DELETE ON crm_stub.records
    FOR EACH ROW WHEN (current_setting('crm_stub.caller', true) IS DISTINCT FROM 'pg_crm')
    EXECUTE FUNCTION crm_stub.keep_record();

COMMENT ON TRIGGER keep_record ON crm_stub.records IS 'What a CRM user changes obeys the rules and is stamped';

------------------------------------------------------------------------------------------------------------------
-- Faults on request
------------------------------------------------------------------------------------------------------------------

CREATE TABLE crm_stub.injections (
    injection_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    connection   text COLLATE "C" NOT NULL,
    class        text NOT NULL REFERENCES crm_stub.classes,
    times        int NOT NULL CHECK (times > 0),
    crm_id       text,
    operation    text CHECK (operation IN ('read', 'write', 'changes', 'describe'))
);

CREATE INDEX injections_connection ON crm_stub.injections (connection);

COMMENT ON TABLE crm_stub.injections IS 'Faults that are still to come, made by crm_stub.inject. The oldest that matches a request goes first.';
COMMENT ON COLUMN crm_stub.injections.times IS 'Requests that it will still fail';
COMMENT ON COLUMN crm_stub.injections.crm_id IS 'The record that fails, null for whole requests';
COMMENT ON COLUMN crm_stub.injections.operation IS 'read, write, changes or describe; null for any request but describe';

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
    'Makes the next times requests (of that operation) fail with a class of errors, with timeout (not applied, no answer) or drop_after_apply (applied, no answer). '
    'With crm_id only that record fails (named by its id, or by its external id where that is how it is sent), in the next times requests that hold it. '
    'Said again, it replaces the number of times; 0 clears those that match (a null class: of every class).';

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
          -- Who maps a column takes no fault away from the work that it is meant for.
          AND (i.operation IS NULL AND take_faults.operation <> 'describe' OR i.operation = take_faults.operation)
          AND (i.crm_id IS NULL OR i.crm_id = ANY (take_faults.keys))
        ORDER BY i.crm_id IS NOT NULL, i.injection_id
        FOR UPDATE OF i
    LOOP
        -- An answer can only be lost whole, and what is read has no errors of its own: it is there or not.
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
    'Counts down and returns the faults that a request meets: one for the whole request, or errors by the key of a record';

------------------------------------------------------------------------------------------------------------------
-- pg_crm: requests and answers
------------------------------------------------------------------------------------------------------------------

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

COMMENT ON TABLE crm_stub.requests IS 'What was asked of the stub CRM, in the order of request_id. TRUNCATE it at will.';
COMMENT ON COLUMN crm_stub.requests.at IS 'Time by the clock of the connection, after the request was dealt with';
COMMENT ON COLUMN crm_stub.requests.records IS 'Number of records that the request names';
COMMENT ON COLUMN crm_stub.requests.status IS 'Status of the answer; 0 if there was none';
COMMENT ON COLUMN crm_stub.requests.body IS 'Body of the request';

CREATE FUNCTION crm_stub.list(body jsonb, key text) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN jsonb_typeof(body -> key) = 'array' THEN body -> key END;

COMMENT ON FUNCTION crm_stub.list(jsonb, text) IS 'The list of that name in a request, null if there is none';

CREATE FUNCTION crm_stub.refusal(body jsonb, list text) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, crm_stub, pg_temp
AS $$
BEGIN
    IF jsonb_typeof(body -> list) IS DISTINCT FROM 'array' THEN
        RETURN crm_stub.error('mapping', 'malformed_request', format('the request needs a list "%s"', list));
    ELSIF jsonb_array_length(body -> list) > 200 THEN
        RETURN crm_stub.error('validation', 'too_many_records', 'a request takes at most 200 records');
    ELSIF crm_stub.field_names(body ->> 'object') IS NULL THEN
        RETURN crm_stub.error('mapping', 'unknown_object',
            format('there is no object "%s"; the objects are %s', body ->> 'object', crm_stub.object_names()));
    END IF;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION crm_stub.refusal(jsonb, text) IS 'The error for a request that cannot be taken at all, null if it can';

CREATE FUNCTION crm_stub.write(connection text, body jsonb, refused jsonb) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, crm_stub, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    object  text := body ->> 'object';
    kind    text := body ->> 'kind';
    error   jsonb := crm_stub.refusal(body, 'records');
    numbers bigint;
    needed  text[];
    moment  timestamptz;
    answer  jsonb;
BEGIN
    IF error IS NULL AND (kind IN ('create', 'update', 'upsert', 'delete')) IS NOT TRUE THEN
        error := crm_stub.error('mapping', 'unknown_kind',
            format('there is no kind of write "%s"; there are create, update, upsert and delete', kind));
    ELSIF error IS NULL AND kind = 'upsert' AND body ->> 'external_id_field' IS DISTINCT FROM 'external_key' THEN
        error := crm_stub.error('mapping', 'unknown_external_id_field',
            format('%s is not unique by "%s"; it is by external_key', object, body ->> 'external_id_field'));
    END IF;
    IF error IS NOT NULL THEN
        RETURN jsonb_build_object('error', error);
    END IF;

    IF kind IN ('create', 'upsert') THEN
        PERFORM crm_stub.lock_numbers(connection, object);
        numbers := crm_stub.last_number(connection, object);
    END IF;
    needed := ARRAY(SELECT d.name FROM crm_stub.fields d WHERE d.crm_object = object AND d.required);
    moment := crm_stub.clock(connection) + interval '1 second';

    -- Look-ups are scalar subqueries, not EXISTS: PostgreSQL might answer that by hashing the whole table.
    WITH input AS MATERIALIZED (
        SELECT i.ord,
               CASE kind WHEN 'upsert' THEN nullif(btrim(i.record ->> 'external_id', E' \t\n\r\x0B\f'), '')
                         WHEN 'create' THEN NULL
                         ELSE nullif(i.record ->> 'id', '') END AS key,
               CASE WHEN kind = 'delete' THEN '{}' ELSE i.record -> 'fields' END AS fields,
               i.record ->> 'version' AS based_on
        FROM jsonb_array_elements(body -> 'records') WITH ORDINALITY AS i (record, ord)
    ), checked AS MATERIALIZED (
        SELECT i.ord, i.key, i.fields, i.based_on, c.sent, c.cleared, c.error,
               row_number() OVER (PARTITION BY CASE kind WHEN 'upsert' THEN c.sent ->> 'external_key' ELSE i.key END
                                  ORDER BY i.ord) AS occurrence,
               CASE kind
                   WHEN 'create' THEN NULL
                   WHEN 'upsert' THEN (
                       SELECT r.crm_id FROM crm_stub.records r
                       WHERE r.connection = write.connection AND r.crm_object = object AND NOT r.deleted
                         AND r.fields ->> 'external_key' = c.sent ->> 'external_key')
                   ELSE i.key
               END AS target
        FROM input i
        CROSS JOIN LATERAL crm_stub.checked(connection, object,
            CASE WHEN jsonb_typeof(i.fields) IS DISTINCT FROM 'object' THEN '{}'
                 WHEN kind = 'upsert' THEN i.fields || jsonb_build_object('external_key', i.key)
                 ELSE i.fields END) AS c
    ), merged AS MATERIALIZED (
        SELECT c.*,
               kind = 'create' OR kind = 'upsert' AND c.target IS NULL AS is_new,
               now.fields AS old, now.version,
               (coalesce(now.fields, '{}') || c.sent) - c.cleared AS new
        FROM checked c
        LEFT JOIN LATERAL (
            SELECT r.fields, r.version FROM crm_stub.records r
            WHERE r.connection = write.connection AND r.crm_object = object AND r.crm_id = c.target AND NOT r.deleted
            FOR UPDATE SKIP LOCKED) AS now ON true
    ), judged AS MATERIALIZED (
        SELECT m.ord, m.target, m.is_new, m.new,
               CASE WHEN kind <> 'delete' AND m.new ->> 'external_key' IS DISTINCT FROM m.old ->> 'external_key'
                    THEN m.new ->> 'external_key' END AS new_key,
               CASE
                   WHEN refused ? m.key THEN refused -> m.key
                   WHEN m.key IS NULL AND kind <> 'create' THEN
                       crm_stub.error('mapping', 'missing_key', format('the %s names no record', kind))
                   WHEN m.key IS NOT NULL AND m.occurrence > 1 THEN
                       crm_stub.error('validation', 'duplicate_record', 'the request names this record before')
                   WHEN jsonb_typeof(m.fields) IS DISTINCT FROM 'object' THEN
                       crm_stub.error('mapping', 'malformed_record', 'the record needs an object "fields"')
                   WHEN kind = 'upsert' AND m.fields ? 'external_key' AND btrim(m.fields ->> 'external_key', E' \t\n\r\x0B\f') IS DISTINCT FROM m.key THEN
                       crm_stub.error('mapping', 'two_keys', 'fields and external_id name different keys')
                   WHEN m.error IS NOT NULL THEN m.error
                   WHEN NOT m.is_new AND m.old IS NULL AND (
                       SELECT r.crm_id FROM crm_stub.records r
                       WHERE r.connection = write.connection AND r.crm_object = object AND r.crm_id = m.target
                         AND NOT r.deleted) IS NOT NULL THEN
                       crm_stub.error('transient', 'record_locked', 'somebody is changing this record')
                   WHEN NOT m.is_new AND m.old IS NULL THEN
                       crm_stub.error('not_found', 'not_found', format('there is no %s with this id', object))
                   -- Compared under the record's lock, so that nothing comes between this and the write. What is to
                   -- be new is no version of anything.
                   WHEN m.based_on IS NOT NULL AND m.based_on IS DISTINCT FROM m.version::text THEN
                       crm_stub.error('conflict', 'stale', format('the %s is not at version %s', object, m.based_on))
                   WHEN kind <> 'delete' AND NOT m.new ?& needed THEN crm_stub.missing(object, m.new)
               END AS error
        FROM merged m
    ), settled AS MATERIALIZED (
        SELECT j.ord, j.target, j.is_new, j.new,
               CASE
                   WHEN j.error IS NOT NULL THEN j.error
                   -- The first of those that are fine gets the key.
                   WHEN j.new_key IS NOT NULL AND (
                       row_number() OVER (PARTITION BY j.new_key, j.error IS NULL ORDER BY j.ord) > 1
                       OR (
                           SELECT r.crm_id FROM crm_stub.records r
                           WHERE r.connection = write.connection AND r.crm_object = object AND NOT r.deleted
                             AND r.fields ->> 'external_key' = j.new_key) IS NOT NULL) THEN
                       crm_stub.error('conflict', 'duplicate_value', format('another %s has this external_key', object))
               END AS error
        FROM judged j
    ), results AS MATERIALIZED (
        SELECT s.ord, s.is_new, s.new, s.error,
               CASE WHEN s.is_new
                    THEN crm_stub.id_text(object, numbers + count(*) FILTER (WHERE s.is_new AND s.error IS NULL) OVER (ORDER BY s.ord))
                    ELSE s.target END AS crm_id
        FROM settled s
    ), applied AS (
        INSERT INTO crm_stub.records AS r (connection, crm_object, crm_id, fields, version, modified_at, modified_by, deleted)
        SELECT write.connection, object, s.crm_id, s.new, 1, moment, 'pg_crm', kind = 'delete'
        FROM results s WHERE s.error IS NULL ORDER BY s.ord
        ON CONFLICT (connection, crm_object, crm_id) DO UPDATE
        SET fields = excluded.fields, version = r.version + 1, modified_at = excluded.modified_at,
            modified_by = excluded.modified_by, deleted = excluded.deleted, changed_in = excluded.changed_in
    )
    SELECT jsonb_build_object('results', coalesce(jsonb_agg(
               CASE WHEN s.error IS NULL THEN jsonb_build_object('id', s.crm_id, 'created', s.is_new)
                    ELSE jsonb_build_object('id', NULL, 'created', false, 'error', s.error) END
               ORDER BY s.ord), '[]'))
    INTO answer FROM results s;
    RETURN answer;
END
$$;

COMMENT ON FUNCTION crm_stub.write(text, jsonb, jsonb) IS
    'Answers POST /write: {object, kind: create | update | upsert | delete, external_id_field, records: [{id | external_id, version, fields}]}; a record that names a version is written only if it is still that; refused holds injected errors by key';

CREATE FUNCTION crm_stub.read(connection text, body jsonb, refused jsonb) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, crm_stub, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    object  text := body ->> 'object';
    asked   jsonb := crm_stub.list(body, 'fields');
    error   jsonb := crm_stub.refusal(body, 'ids');
    answer  jsonb;
BEGIN
    IF error IS NULL AND asked IS NOT NULL THEN
        SELECT c.error INTO error FROM crm_stub.checked(connection, object,
            (SELECT coalesce(jsonb_object_agg(f.name, NULL), '{}') FROM jsonb_array_elements_text(asked) AS f (name)
             WHERE f.name IS NOT NULL)) AS c;
    END IF;
    IF error IS NOT NULL THEN
        RETURN jsonb_build_object('error', error);
    END IF;

    SELECT jsonb_build_object('results', coalesce(jsonb_agg(found.record ORDER BY i.ord), '[]')) INTO answer
    FROM jsonb_array_elements_text(body -> 'ids') WITH ORDINALITY AS i (crm_id, ord)
    LEFT JOIN LATERAL (
        SELECT jsonb_build_object(
                   'id', r.crm_id,
                   'fields', CASE WHEN asked IS NULL THEN r.fields ELSE (
                       SELECT coalesce(jsonb_object_agg(f.name, r.fields -> f.name), '{}')
                       FROM jsonb_array_elements_text(asked) AS f (name) WHERE f.name IS NOT NULL) END,
                   'modified_at', to_char(r.modified_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                   'version', r.version) AS record
        FROM crm_stub.records r
        WHERE r.connection = read.connection AND r.crm_object = object AND r.crm_id = i.crm_id AND NOT r.deleted
          AND NOT refused ? r.crm_id
        OFFSET 0) AS found ON true;
    RETURN answer;
END
$$;

COMMENT ON FUNCTION crm_stub.read(text, jsonb, jsonb) IS
    'Answers POST /read: {object, ids, fields}; one result per id, null where there is no such record. Without fields, all of them.';

-- A cursor is a snapshot: what it sees has been told. So nothing is told twice, and nothing is missed, even of
-- transactions that end in another order than they began. A pass that takes several pages tells what a second
-- snapshot sees, taken by its first page: {"seen": SNAPSHOT, "until": SNAPSHOT, "after": [TRANSACTION, ID]}.
CREATE FUNCTION crm_stub.changes(connection text, body jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, crm_stub, pg_temp
    SET enable_sort = off
    SET enable_incremental_sort = off
    SET enable_bitmapscan = off
AS $$
#variable_conflict use_column
DECLARE
    object    text := body ->> 'object';
    asked     jsonb := crm_stub.list(body, 'fields');
    key_field text := body ->> 'external_id_field';
    since     jsonb := body -> 'since';
    page      int;
    seen      pg_snapshot;
    until     pg_snapshot;
    after_in  xid8;
    after_id  text;
    error     jsonb;
    found     jsonb;
    last      jsonb;
    total     int;
BEGIN
    IF crm_stub.field_names(object) IS NULL THEN
        error := crm_stub.error('mapping', 'unknown_object',
            format('there is no object "%s"; the objects are %s', object, crm_stub.object_names()));
    ELSIF key_field <> 'external_key' THEN
        error := crm_stub.error('mapping', 'unknown_external_id_field',
            format('%s is not unique by "%s"; it is by external_key', object, key_field));
    ELSIF asked IS NOT NULL THEN
        SELECT c.error INTO error FROM crm_stub.checked(connection, object,
            (SELECT coalesce(jsonb_object_agg(f.name, NULL), '{}') FROM jsonb_array_elements_text(asked) AS f (name)
             WHERE f.name IS NOT NULL)) AS c;
    END IF;
    IF error IS NULL THEN
        BEGIN
            page := body ->> 'limit';
            seen := since ->> 'seen';
            until := since ->> 'until';
            after_in := since #>> '{after,0}';
            after_id := since #>> '{after,1}';
            IF page IS NULL OR page NOT BETWEEN 1 AND 200 THEN
                error := crm_stub.error('validation', 'bad_limit', 'limit is a number from 1 to 200');
            ELSIF jsonb_typeof(since) NOT IN ('object', 'null') OR (until IS NULL) <> (after_id IS NULL) THEN
                error := crm_stub.error('internal', 'unreadable_cursor', 'since is no cursor of the stub');
            END IF;
        EXCEPTION WHEN data_exception THEN
            error := crm_stub.error('internal', 'unreadable_cursor', 'limit or since cannot be read');
        END;
    END IF;
    IF error IS NOT NULL THEN
        RETURN jsonb_build_object('error', error);
    END IF;
    -- A snapshot of a cluster that was ahead of this one has seen nothing here.
    IF pg_snapshot_xmax(coalesce(until, seen)) > pg_snapshot_xmax(pg_current_snapshot()) THEN
        seen := NULL;
        until := NULL;
        after_in := NULL;
        after_id := NULL;
    END IF;
    until := coalesce(until, pg_current_snapshot());

    SELECT coalesce(jsonb_agg(r.record ORDER BY r.ord) FILTER (WHERE r.ord <= page), '[]'),
           (array_agg(r.place ORDER BY r.ord) FILTER (WHERE r.ord = page))[1], count(*)
    INTO found, last, total
    FROM (
        SELECT jsonb_build_object(
                   'id', r.crm_id,
                   'external_id', r.fields -> 'external_key',
                   'fields', CASE WHEN asked IS NULL THEN r.fields ELSE (
                       SELECT coalesce(jsonb_object_agg(f.name, r.fields -> f.name), '{}')
                       FROM jsonb_array_elements_text(asked) AS f (name) WHERE f.name IS NOT NULL) END,
                   'modified_at', to_char(r.modified_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                   'modified_by', r.modified_by,
                   'version', r.version,
                   'deleted', r.deleted) AS record,
               jsonb_build_array(r.changed_in::text, r.crm_id) AS place,
               row_number() OVER (ORDER BY r.changed_in, r.crm_id) AS ord
        FROM (
            SELECT * FROM crm_stub.records r
            WHERE r.connection = changes.connection AND r.crm_object = object
              AND (r.changed_in, r.crm_id) > (coalesce(after_in, pg_snapshot_xmin(seen), '0'), coalesce(after_id, ''))
              AND pg_visible_in_snapshot(r.changed_in, until)
              AND (seen IS NULL OR NOT pg_visible_in_snapshot(r.changed_in, seen))
            ORDER BY r.changed_in, r.crm_id LIMIT page + 1) AS r
    ) AS r;
    RETURN jsonb_build_object(
        'changes', found,
        'more', total > page,
        'next', CASE WHEN total > page
            THEN jsonb_strip_nulls(jsonb_build_object('seen', seen::text, 'until', until::text, 'after', last))
            ELSE jsonb_build_object('seen', until::text) END);
END
$$;

COMMENT ON FUNCTION crm_stub.changes(text, jsonb) IS
    'Answers POST /changes: {object, fields, external_id_field, since, limit}; a page of what changed since the cursor, deleted records too, in the order of transactions, and the next cursor. Without since, every record.';

CREATE FUNCTION crm_stub.describe(object text) RETURNS jsonb
    LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT CASE WHEN count(*) = 0 THEN
            jsonb_build_object('error', crm_stub.error('mapping', 'unknown_object',
                format('there is no object "%s"; the objects are %s', describe.object, crm_stub.object_names())))
        ELSE jsonb_build_object('free_prefix', 'x_', 'fields', jsonb_agg(jsonb_build_object(
            'name', d.name, 'label', initcap(replace(d.name, '_', ' ')), 'data_types', jsonb_build_array(d.data_type),
            'crm_type', d.data_type, 'max_length', d.max_length, 'required', d.required, 'createable', true, 'updateable', true,
            'is_key', d.name = 'external_key', 'is_closed', d.choices IS NOT NULL,
            'choices', (SELECT coalesce(jsonb_agg(jsonb_build_object('value', w, 'label', w)), '[]') FROM unnest(d.choices) AS w))
            ORDER BY d.name))
        END
    FROM crm_stub.fields d WHERE d.crm_object = describe.object;
END;

COMMENT ON FUNCTION crm_stub.describe(text) IS 'Answers POST /describe: {object}; its fields, but for the custom ones, which are whatever one writes';

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
                (SELECT count(*) FROM crm_stub.records r WHERE r.connection = answer.connection AND r.crm_object = request ->> 'object'))
            WHEN (method, path) = ('POST', '/describe') THEN crm_stub.describe(request ->> 'object')
            WHEN (method, path) = ('GET', '/ping') THEN
                jsonb_build_object('detail', format('the stub answers for connection "%s"', connection))
            ELSE jsonb_build_object('error', crm_stub.error('mapping', 'unknown_path',
                format('the stub does not know %s %s; it knows POST /write, POST /read, POST /changes, POST /count, POST /describe and GET /ping', method, path)))
        END;
    EXCEPTION
        -- Somebody else's open transaction, or one that was faster: nothing of this request is applied.
        WHEN lock_not_available OR deadlock_detected OR serialization_failure OR unique_violation THEN
            whole := NULL;
            answer := jsonb_build_object('error', crm_stub.error('transient', 'record_locked',
                'somebody is changing what this request needs'));
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

-- The settings: who is at work; how long it waits for others; and plans that stay right while the tables grow,
-- since they are made once per session and look everything up by index.
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
    'Answers one request of pg_crm to the stub CRM of a connection: POST /write, POST /read, POST /changes, POST /count, POST /describe, GET /ping. Status 0 means that no answer came; whether the request was applied is then not known.';

------------------------------------------------------------------------------------------------------------------
-- Fixtures
------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION crm_stub.load_fixtures(connection text) RETURNS int
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, crm_stub, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    fixture record;
    fields  jsonb;
    loaded  int := 0;
BEGIN
    FOR fixture IN
        SELECT * FROM (VALUES
            ('account', 'A1', NULL, jsonb '{"name": "Alpine Outfitters", "domain": "alpine.example", "segment": "retail", "phone": "+43 1 5550101", "employees": 120}'),
            ('account', 'A2', NULL, jsonb '{"name": "Baltic Shipping", "domain": "baltic.example", "segment": "logistics", "phone": "+371 6555 0102", "employees": 2400}'),
            ('account', 'A3', NULL, jsonb '{"name": "Cobalt Foods", "domain": "cobalt.example", "segment": "food", "employees": 35}'),
            ('contact', 'C1', 'A1', jsonb '{"first_name": "Anna", "last_name": "Berger", "email": "anna.berger@alpine.example", "phone": "+43 1 5550111"}'),
            ('contact', 'C2', 'A1', jsonb '{"first_name": "Lukas", "last_name": "Hofer", "email": "lukas.hofer@alpine.example"}'),
            ('contact', 'C3', 'A2', jsonb '{"first_name": "Jānis", "last_name": "Ozols", "email": "janis.ozols@baltic.example"}'),
            ('contact', 'C4', 'A3', jsonb '{"first_name": "Maeve", "last_name": "O''Neill", "email": "maeve@cobalt.example"}'),
            ('deal', 'D1', 'A1', jsonb '{"name": "Winter season", "stage": "open", "amount": 48000, "currency": "EUR", "close_date": "2026-03-31"}'),
            ('deal', 'D2', 'A2', jsonb '{"name": "Fleet renewal", "stage": "negotiation", "amount": 1250000.50, "currency": "EUR", "close_date": "2026-06-30"}'),
            ('deal', 'D3', 'A3', jsonb '{"name": "Pilot", "stage": "won", "amount": 900, "currency": "USD", "close_date": "2025-12-15"}')
        ) AS f (crm_object, external_key, account_key, fields)
    LOOP
        CONTINUE WHEN EXISTS (
            SELECT FROM crm_stub.records r
            WHERE r.connection = load_fixtures.connection AND r.crm_object = fixture.crm_object AND NOT r.deleted
              AND r.fields ->> 'external_key' = fixture.external_key);
        fields := fixture.fields || jsonb_build_object('external_key', fixture.external_key);
        IF fixture.account_key IS NOT NULL THEN
            fields := fields || (
                SELECT jsonb_build_object('account_id', max(r.crm_id)) FROM crm_stub.records r
                WHERE r.connection = load_fixtures.connection AND r.crm_object = 'account' AND NOT r.deleted
                  AND r.fields ->> 'external_key' = fixture.account_key);
        END IF;
        INSERT INTO crm_stub.records (connection, crm_object, fields)
        VALUES (load_fixtures.connection, fixture.crm_object, fields);
        loaded := loaded + 1;
    END LOOP;
    RETURN loaded;
END
$$;

COMMENT ON FUNCTION crm_stub.load_fixtures(text) IS
    'Gives a connection''s CRM three accounts, four contacts and three deals, always the same, and returns how many it had to add. Records whose external_key is there already are left alone.';

------------------------------------------------------------------------------------------------------------------
-- Nothing for everybody
------------------------------------------------------------------------------------------------------------------

REVOKE ALL ON ALL TABLES IN SCHEMA crm_stub FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA crm_stub FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA crm_stub FROM PUBLIC;
