-- Masks of cells.

CREATE FUNCTION crm_internal.base_sent(base jsonb, sent jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT base || coalesce(
        (SELECT jsonb_object_agg(s.key, coalesce(base -> s.key, '{}') || jsonb_build_object('s',
                    (coalesce(base #> ARRAY[s.key, 's'], '[]') - (s.value #>> '{}')) || jsonb_build_array(s.value)))
         FROM jsonb_each(sent) s), '{}')
$$;
COMMENT ON FUNCTION crm_internal.base_sent(jsonb, jsonb) IS
    'the base of a pending write, with hashes of values added that were sent since and may have arrived: field_id -> hash';

CREATE FUNCTION crm_internal.snapshot_hashes(known bytea, snapshot jsonb) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT crm_internal.cells_hash(known, crm_internal.cells_union(crm_internal.cell_mask(s.key::int)),
                                   string_agg(substr(crm.hash(s.value), 1, 16), '' ORDER BY s.key::int))
    FROM jsonb_each(snapshot) s
$$;
COMMENT ON FUNCTION crm_internal.snapshot_hashes(bytea, jsonb) IS
    'hashes by field_id, with those of a snapshot''s values (field_id -> canonical value) in their place';

CREATE FUNCTION crm_internal.cell_mask(field_id int) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN field_id < 64 THEN int8send(1::bigint << field_id)
                ELSE decode(repeat('00', 8 * (field_id / 64)), 'hex') || int8send(1::bigint << (field_id % 64)) END
$$;
COMMENT ON FUNCTION crm_internal.cell_mask(int) IS 'the mask of one cell';

CREATE FUNCTION crm_internal.map_cells(map_id int) RETURNS bytea
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT crm_internal.cells_union(crm_internal.cell_mask(f.field_id))
    FROM crm.field_map f WHERE f.map_id = map_cells.map_id AND f.direction <> 'inbound' AND f.materialize AND NOT f.create_only
$$;
COMMENT ON FUNCTION crm_internal.map_cells(int) IS 'the mask of every cell whose edits a map writes';

CREATE FUNCTION crm_internal.checked_cells(map_id int) RETURNS bytea
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT crm_internal.cells_union(crm_internal.cell_mask(f.field_id))
    FROM crm.field_map f WHERE f.map_id = checked_cells.map_id AND f.direction = 'bidirectional' AND f.materialize AND NOT f.create_only
$$;
COMMENT ON FUNCTION crm_internal.checked_cells(int) IS
    'the mask of the cells whose edits are checked against the CRM before they are written; NULL: none';
