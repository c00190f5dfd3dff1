-- Listing the records of a CRM.

CREATE FUNCTION crm_internal.do_records(connection text, crm_object text, names text[], condition jsonb)
RETURNS TABLE (crm_id text, fields jsonb, modified_at timestamptz)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    c crm.connection := crm_internal.connection_named(connection);
BEGIN
    IF coalesce(crm_object, '') = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'crm_object must name the CRM''s object',
            HINT = 'For example Contact (Salesforce) or contacts (HubSpot).';
    ELSIF array_position(names, NULL) IS NOT NULL OR '' = ANY (names) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'fields must name fields of the CRM',
            HINT = 'crm.describe() lists them; without any, only the ids of records are shown.';
    ELSIF jsonb_typeof(condition) <> 'object' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'condition must be a JSON object',
            HINT = 'It says what fields must hold: {"Country": "NO"} or {"Country": ["NO", "SE"]}.';
    END IF;
    RETURN QUERY
        SELECT r.crm_id, r.fields, to_timestamp(r.modified_at_ms / 1000.0)
        FROM crm_internal.crm_records(jsonb_build_object(
            'connection_id', c.connection_id, 'object', crm_object,
            'fields', (SELECT coalesce(jsonb_object_agg(f.name, ''), '{}') FROM unnest(names) AS f (name)),
            'condition', coalesce(condition, '{}'))) AS r;
END $$;
COMMENT ON FUNCTION crm_internal.do_records(text, text, text[], jsonb) IS 'crm.records(), whose arguments and results share a name';

CREATE FUNCTION crm.records(connection text, crm_object text, fields text[] DEFAULT '{}', condition jsonb DEFAULT NULL)
RETURNS TABLE (crm_id text, fields jsonb, modified_at timestamptz)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.* FROM crm_internal.refuse_restricted(), crm_internal.do_records($1, $2, $3, $4) AS r
$$;
COMMENT ON FUNCTION crm.records(text, text, text[], jsonb) IS
    'lists the records of an object of a CRM: id, the fields that are named, as canonical values, and when the record was last modified. '
    'fields: NULL in the result if the CRM''s response about the record cannot be read. condition: what fields must hold, a value or a list '
    'of values, compared by pg_crm: every record is read. Pages are requested one after the other, after all other work of the '
    'connection; what changes meanwhile may be listed twice. Errors: 42704 no such connection, object or field, 22023 invalid argument, '
    '08006 the CRM did not respond, or returned an error, 55000 no worker';
