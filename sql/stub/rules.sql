-- The rules.

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

-- Written so that PostgreSQL inlines it: one plan checks a whole request.
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
        -- Text is stored trimmed and with LF line ends; an empty text is no value. OFFSET 0: computed once.
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
    'Values of a record as they will be stored, the fields to be cleared, and the first error';

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

COMMENT ON FUNCTION crm_stub.missing(text, jsonb) IS 'The error for a record that lacks a required field; NULL: it lacks none';

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

COMMENT ON FUNCTION crm_stub.field_names(text) IS 'The fields of an object, for messages; NULL: there is no such object';
