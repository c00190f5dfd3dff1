-- The records.

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
-- functions, because inserting into the table requires EXECUTE on the functions of its indexes.
CREATE INDEX records_number ON crm_stub.records (connection, crm_object, length(crm_id), crm_id)
    WHERE crm_id ~ ('^' || crm_object || '-([0-9]{6}|[1-9][0-9]{6,17})$');

COMMENT ON TABLE crm_stub.records IS
    'The records of the stub CRM. Read it, or INSERT, UPDATE and DELETE as a user of the CRM would: version, time and author keep '
    'themselves.';
COMMENT ON COLUMN crm_stub.records.connection IS 'Name of the connection whose CRM holds the record';
COMMENT ON COLUMN crm_stub.records.crm_object IS 'account, contact or deal';
COMMENT ON COLUMN crm_stub.records.crm_id IS 'Id of the record; assigned if an INSERT gives none';
COMMENT ON COLUMN crm_stub.records.fields IS
    'Values of the fields that have one: an absent field, null and (for text) the empty text are one';
COMMENT ON COLUMN crm_stub.records.version IS '1 at first, one more with each modification';
COMMENT ON COLUMN crm_stub.records.modified_at IS 'Time of the last modification by the clock of the connection';
COMMENT ON COLUMN crm_stub.records.modified_by IS 'pg_crm, or crm-user for what was changed in this table directly';
COMMENT ON COLUMN crm_stub.records.changed_in IS 'Transaction of the last modification: the order in which POST /changes returns them';
COMMENT ON COLUMN crm_stub.records.deleted IS 'Whether the record is deleted; DELETE sets it and keeps the row (so psql says DELETE 0)';

-- Settings of these two functions: a plan made while the table is small must still be good when it is large.
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

-- A function of its own, because only statements after the wait see what the other transaction committed.
CREATE FUNCTION crm_stub.lock_numbers(connection text, crm_object text) RETURNS void
    LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT pg_advisory_xact_lock(hashtextextended('crm_stub.records', 0) # hashtextextended(connection, 1)
                                 # hashtextextended(crm_object, 2));
END;

COMMENT ON FUNCTION crm_stub.lock_numbers(text, text) IS
    'Serialises transactions that create records of one object on one connection';
