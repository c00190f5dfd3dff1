-- Fixtures.

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
    'Gives a connection''s CRM three accounts, four contacts and three deals, always the same, and returns how many it had to add. '
    'Records whose external_key is there already are left alone.';

-- No grants to PUBLIC.

REVOKE ALL ON ALL TABLES IN SCHEMA crm_stub FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA crm_stub FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA crm_stub FROM PUBLIC;
