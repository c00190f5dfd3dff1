-- The mapped fields of a CRM object as canonical values.

CREATE FUNCTION crm.snapshot(map_id int, crm_object jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m crm.object_map := crm_internal.map_of(map_id);
BEGIN
    RETURN crm_internal.canonical_object(crm_object,
        (SELECT k.provider FROM crm.connection k WHERE k.connection_id = m.connection_id),
        coalesce((SELECT array_agg(f.crm_field ORDER BY f.field_id) FROM crm.field_map f WHERE f.map_id = m.map_id), '{}'),
        coalesce((SELECT array_agg(f.data_type ORDER BY f.field_id) FROM crm.field_map f WHERE f.map_id = m.map_id), '{}'));
END $$;
COMMENT ON FUNCTION crm.snapshot(int, jsonb) IS
    'the mapped fields of a CRM object, given in the vendor''s form (a JSON object of field -> value), as canonical values';

CREATE FUNCTION crm.snapshot_hash(map_id int, crm_object jsonb) RETURNS bytea
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ SELECT crm.hash(crm.snapshot(map_id, crm_object)) $$;
COMMENT ON FUNCTION crm.snapshot_hash(int, jsonb) IS 'BLAKE3 of crm.snapshot(): 32 bytes';
