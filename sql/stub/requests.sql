-- POST /write, /read, /changes and /describe.

CREATE FUNCTION crm_stub.list(body jsonb, key text) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN jsonb_typeof(body -> key) = 'array' THEN body -> key END;

COMMENT ON FUNCTION crm_stub.list(jsonb, text) IS 'The list of that name in a request; NULL: there is none';

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

COMMENT ON FUNCTION crm_stub.refusal(jsonb, text) IS 'The error of a request that cannot be processed at all; NULL: it can';

CREATE FUNCTION crm_stub.write(connection text, body jsonb, refused jsonb) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, crm_stub, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    object  text := body ->> 'object';
    kind    text := body ->> 'kind';
    -- Records that are there are not written.
    spares  bool := coalesce(kind = 'upsert' AND body -> 'creates_only' = 'true', false);
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

    -- Look-ups are scalar subqueries, not EXISTS, for which PostgreSQL might hash the whole table.
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
                   WHEN kind = 'upsert' AND m.fields ? 'external_key' AND btrim(m.fields ->> 'external_key', E' \t\n\r\x0B\f') IS DISTINCT
                       FROM m.key THEN
                       crm_stub.error('mapping', 'two_keys', 'fields and external_id name different keys')
                   WHEN m.error IS NOT NULL THEN m.error
                   WHEN NOT m.is_new AND m.old IS NULL AND (
                       SELECT r.crm_id FROM crm_stub.records r
                       WHERE r.connection = write.connection AND r.crm_object = object AND r.crm_id = m.target
                         AND NOT r.deleted) IS NOT NULL THEN
                       crm_stub.error('transient', 'record_locked', 'another transaction is changing this record')
                   WHEN NOT m.is_new AND m.old IS NULL THEN
                       crm_stub.error('not_found', 'not_found', format('there is no %s with this id', object))
                   -- Compared under the record's lock, so that nothing can come between this and the write. A new record has
                   -- no version.
                   WHEN m.based_on IS NOT NULL AND m.based_on IS DISTINCT FROM m.version::text THEN
                       crm_stub.error('conflict', 'stale', format('the %s is not at version %s', object, m.based_on))
                   WHEN kind <> 'delete' AND NOT m.new ?& needed THEN crm_stub.missing(object, m.new)
               END AS error
        FROM merged m
    ), settled AS MATERIALIZED (
        SELECT j.ord, j.target, j.is_new, j.new,
               CASE
                   WHEN j.error IS NOT NULL THEN j.error
                   -- The first valid one gets the key.
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
        FROM results s WHERE s.error IS NULL AND NOT (spares AND NOT s.is_new) ORDER BY s.ord
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
    'Answers POST /write: {object, kind: create | update | upsert | delete, external_id_field, creates_only, records: [{id | '
    'external_id, version, fields}]}; a record that names a version is written only if it is still that; with creates_only, an upsert '
    'writes no record that is there; refused holds injected errors by key';

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

-- A cursor is a snapshot: what it sees has been returned. So nothing is returned twice, and nothing is missed, even if
-- transactions end in another order than they began. A pass of several pages returns what a second snapshot sees,
-- taken by its first page: {"seen": SNAPSHOT, "until": SNAPSHOT, "after": [TRANSACTION, ID]}.
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
    -- A snapshot from a cluster that was ahead of this one has seen nothing here.
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
    'Answers POST /changes: {object, fields, external_id_field, since, limit}; a page of what changed since the cursor, deleted '
    'records too, in the order of transactions, and the next cursor. Without since, every record.';

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

COMMENT ON FUNCTION crm_stub.describe(text) IS
    'Answers POST /describe: {object}; its fields, but for the custom ones, which are whatever one writes';
