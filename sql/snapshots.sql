-- The mapped fields of a CRM record as canonical values.

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
    'canonical values of the mapped fields of a CRM record, given in the vendor''s form (JSON object of field -> value). Errors: 42704 '
    'no such map';

CREATE FUNCTION crm.snapshot_hash(map_id int, crm_object jsonb) RETURNS bytea
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ SELECT crm.hash(crm.snapshot(map_id, crm_object)) $$;
COMMENT ON FUNCTION crm.snapshot_hash(int, jsonb) IS 'BLAKE3 hash of crm.snapshot(), 32 bytes. Errors: 42704 no such map';
