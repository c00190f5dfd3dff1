-- Connections. Every argument is checked when it is set, so that the worker
-- never has to guess.

-- The caller is the role in effect where a function is called, not the session's user. So a function that needs to know is split
-- in two: the public one runs with the caller's privileges and passes crm_internal.caller() to one that runs as crm_engine.

CREATE FUNCTION crm_internal.do_create_connection(caller bytea, name text, provider text, base_url text, options jsonb,
                        credentials jsonb) RETURNS int
-- Generic plans have parameters in place of values, which auto_explain would log.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    other text;
    id int;
BEGIN
    IF crm_internal.filled(name) IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a connection must have a name',
            HINT = 'For example: crm.create_connection(''acme'', ''hubspot'', …).';
    END IF;
    IF crm_internal.filled(name) <> name THEN
        RAISE invalid_parameter_value USING MESSAGE = 'the name of a connection cannot begin or end with white space',
            HINT = format('For example %L.', crm_internal.filled(name));
    END IF;
    IF EXISTS (SELECT FROM crm.connection k WHERE k.name = do_create_connection.name) THEN
        RAISE duplicate_object USING MESSAGE = format('connection "%s" already exists', name),
            HINT = 'crm.set_credentials() changes its credentials; crm.drop_connection() removes it.';
    END IF;
    SELECT k.name INTO other FROM crm.connection k WHERE lower(k.name) = lower(do_create_connection.name) LIMIT 1;
    IF FOUND THEN
        RAISE NOTICE 'connection "%" differs from "%" by case alone', name, other
            USING HINT = 'Names of connections are case-sensitive: these are two.';
    END IF;
    PERFORM crm_internal.check_connection(provider, base_url, coalesce(options, '{}'));
    PERFORM crm_internal.check_credentials(provider, coalesce(options, '{}'), coalesce(credentials, '{}'));
    PERFORM crm_internal.require_references(who, coalesce(credentials, '{}'));
    INSERT INTO crm.connection (name, provider, base_url, options, home)
    VALUES (name, provider, rtrim(base_url, '/'), coalesce(options, '{}'), crm.home()) RETURNING connection_id INTO id;
    INSERT INTO crm.credential (connection_id, secret) VALUES (id, coalesce(credentials, '{}'));
    INSERT INTO crm.connection_state (connection_id) VALUES (id);
    PERFORM crm_internal.notify_worker(false);
    RETURN id;
END $$;
COMMENT ON FUNCTION crm_internal.do_create_connection(bytea, text, text, text, jsonb, jsonb) IS
    'crm.create_connection() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm.create_connection(name text, provider text, base_url text DEFAULT NULL,
                                      options jsonb DEFAULT '{}', credentials jsonb DEFAULT '{}') RETURNS int
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_create_connection(crm_internal.caller(), name, provider, base_url, options, credentials)
$$;
COMMENT ON FUNCTION crm.create_connection(text, text, text, jsonb, jsonb) IS
    'creates a connection to a CRM org. provider: stub, salesforce, hubspot, pipedrive, zoho or dynamics365. options: max_in_flight '
    '(1..64), rate_limit, realtime_reserve, '
    'via ("composio") with connected_account_id and user_id, and the provider''s own. '
    'credentials: strings, or references that the worker resolves, {"file": "/run/secrets/x"} or {"env": "NAME"}. Returns connection_id';

CREATE FUNCTION crm_internal.do_set_credentials(caller bytea, connection text, credentials jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    c crm.connection := crm_internal.connection_named(connection);
BEGIN
    PERFORM crm_internal.check_credentials(c.provider, c.options, coalesce(credentials, '{}'));
    PERFORM crm_internal.require_references(who, coalesce(credentials, '{}'));
    -- Locks out the settlement of requests that used the old ones.
    PERFORM FROM crm.connection k WHERE k.connection_id = c.connection_id FOR NO KEY UPDATE;
    INSERT INTO crm.credential (connection_id, secret) VALUES (c.connection_id, coalesce(credentials, '{}'))
    ON CONFLICT (connection_id) DO UPDATE SET secret = excluded.secret, version = credential.version + 1, updated_at = now();
    INSERT INTO crm.connection_state (connection_id) VALUES (c.connection_id)
    ON CONFLICT (connection_id) DO UPDATE
    SET state = 'ok', failures = 0, blocked_until = '-infinity', error_class = NULL, last_error = NULL, changed_at = now();
    PERFORM crm_internal.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm_internal.do_set_credentials(bytea, text, jsonb) IS
    'crm.set_credentials() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm.set_credentials(connection text, credentials jsonb) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_set_credentials(crm_internal.caller(), connection, credentials)
$$;
COMMENT ON FUNCTION crm.set_credentials(text, jsonb) IS
    'replaces the credentials of a connection and ends its state error; queued work continues. Errors: 42704 no such connection';

CREATE FUNCTION crm.drop_connection(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c crm.connection := crm_internal.connection_named(name);
BEGIN
    PERFORM crm_internal.refuse_restricted();
    IF EXISTS (SELECT FROM crm.object_map o WHERE o.connection_id = c.connection_id) THEN
        RAISE dependent_objects_still_exist USING
            MESSAGE = format('connection "%s" still has mapped tables', name),
            DETAIL = (SELECT string_agg(format('map %s: %s', o.map_id, o.relation), E'\n' ORDER BY o.map_id)
                      FROM crm.object_map o WHERE o.connection_id = c.connection_id),
            HINT = 'Call crm.unmap_object() for them first.';
    END IF;
    DELETE FROM crm.connection k WHERE k.connection_id = c.connection_id;
    PERFORM crm_internal.notify_worker(false);
END $$;
COMMENT ON FUNCTION crm.drop_connection(text) IS
    'drops a connection and its credentials. Errors: 42704 no such connection, 2BP01 tables are mapped over it';

CREATE FUNCTION crm.test_connection(connection text) RETURNS TABLE (ok bool, detail text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c crm.connection := crm_internal.connection_named(connection);
    answer jsonb;
BEGIN
    answer := crm_internal.ask_worker(jsonb_build_object('op', 'test', 'connection_id', c.connection_id), 60000);
    ok := coalesce((answer ->> 'ok')::bool, false);
    detail := coalesce(answer ->> 'detail', 'no response within a minute');
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION crm.test_connection(text) IS
    'makes one request to the CRM with the credentials of the connection and reports the result; waits up to a minute';
