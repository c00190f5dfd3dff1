-- Access control: the role that owns all objects, what each level is granted, and checks that nothing else is granted.

CREATE TABLE crm.access (
    level  text NOT NULL CHECK (level IN ('reader', 'writer', 'operator', 'admin')),
    kind   text NOT NULL CHECK (kind IN ('schema', 'relation', 'function')),
    schema name NOT NULL,
    name   name NOT NULL,
    PRIMARY KEY (kind, schema, name)
);
COMMENT ON TABLE crm.access IS 'what crm.grant_access() grants: USAGE on schemas, SELECT on relations, EXECUTE on functions';
COMMENT ON COLUMN crm.access.level IS 'the lowest level that has it; higher levels have it too';
INSERT INTO crm.access (level, kind, schema, name)
SELECT g.level, g.kind, g.schema, unnest(g.names::name[])
FROM (VALUES
    ('reader', 'schema', 'crm', '{crm}'),
    ('reader', 'relation', 'crm',
     '{status,status_wide,connections,rate_budget,cell_status,dead_letters,pending_writes,conflicts,progress,audit_log,connection,object_map,field_map,ingest_state}'),
    ('reader', 'function', 'crm', '{hash,snapshot,snapshot_hash,check,diagnose,metrics,worker_state,home,export_mapping}'),
    ('writer', 'function', 'crm', '{write,read_live,write_status,flush,ingest_now,receive_webhook}'),
    ('operator', 'function', 'crm',
        '{resolve_conflict,resolve_conflicts,cancel_write,pause,resume,approve,discard,replay,replay_all,recapture,test_connection,describe,records,check_mapping}'),
    ('admin', 'function', 'crm',
     '{plan,create_connection,set_credentials,drop_connection,adopt_connections,map_object,enable,disable,map_field,unmap_field,unmap_object,push,cancel_push,link,match,backfill,alter_connection,'
     'alter_map,alter_field,import_mapping,import_heroku_connect}'),
    -- A function or view that runs with its caller's rights comes with the functions that it calls.
    ('reader', 'schema', 'crm_internal', '{crm_internal}'),
    ('reader', 'function', 'crm_internal', '{check_tables,diagnose_server,diagnose_connections,diagnose_maps,metric_families,samples,capture_trouble,ingests,held_reason,worker_busy,few_linked,sampled_part,waiting_records,waiting_work,cells_has,cells_count,cells_union}'),
    ('writer', 'function', 'crm_internal', '{caller,perform_write,perform_read,do_flush,do_ingest_now}'),
    ('operator', 'function', 'crm_internal', '{check_rows,check_choice,check_value,do_resolve_conflict,set_cell}'),
    ('admin', 'function', 'crm_internal',
     '{do_plan,do_create_connection,do_set_credentials,do_map_object,do_enable,do_disable,do_map_field,do_unmap_field,do_unmap_object,do_push,do_cancel_push,do_link,do_match,do_backfill,'
     'do_alter_connection,do_alter_map,do_alter_field,do_import_mapping,do_import_heroku_connect,import_heroku_object,check_heroku_document,do_link_by_column,members,require_names,arguments,differences,exported_connection,exported_map,exported_field}')
    ) AS g (level, kind, schema, names);

-- Every object in pg_crm's schemas: those of the extension, and those that pg_crm has created since.
CREATE VIEW crm.objects AS
SELECT o.kind, o.schema, o.name, i.identity, i.type, o.classid, o.objid, o.owner, coalesce(o.acl, acldefault(o.acl_kind, o.owner)) AS acl
FROM (SELECT 'schema' AS kind, n.nspname AS name, n.nspname AS schema, 'pg_namespace'::regclass::oid AS classid, n.oid AS objid,
             n.nspowner AS owner, n.nspacl AS acl, 'n'::"char" AS acl_kind
      FROM pg_namespace n
      UNION ALL
      SELECT CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'relation' END, c.relname, n.nspname, 'pg_class'::regclass, c.oid,
             c.relowner, c.relacl, CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char"
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
      UNION ALL
      SELECT 'function', p.proname, n.nspname, 'pg_proc'::regclass, p.oid, p.proowner, p.proacl, 'f'
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
      UNION ALL
      -- Except array types and the row types of tables, which belong to their element type or table.
      SELECT 'type', t.typname, n.nspname, 'pg_type'::regclass, t.oid, t.typowner, t.typacl, 'T'
      FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
      WHERE t.typelem = 0 AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
     ) o
CROSS JOIN LATERAL pg_identify_object(o.classid, o.objid, 0) i
WHERE o.schema IN ('crm', 'crm_internal', 'crm_stub');
COMMENT ON VIEW crm.objects IS 'every object in the schemas of pg_crm, with its owner and grants';
COMMENT ON COLUMN crm.objects.kind IS 'schema, relation, sequence, function or type';
COMMENT ON COLUMN crm.objects.schema IS 'name of the schema';
COMMENT ON COLUMN crm.objects.name IS 'name of the object; overloaded functions share one';
COMMENT ON COLUMN crm.objects.identity IS 'qualified name, with argument types for functions';
COMMENT ON COLUMN crm.objects.type IS 'kind as the catalog words it: table, view, function …';
COMMENT ON COLUMN crm.objects.classid IS 'oid of the catalog that lists it';
COMMENT ON COLUMN crm.objects.objid IS 'oid of the object';
COMMENT ON COLUMN crm.objects.owner IS 'oid of its owner';
COMMENT ON COLUMN crm.objects.acl IS 'its grants, the defaults included';

CREATE FUNCTION crm_internal.revoke_grants(classid oid, objid oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    g record;
BEGIN
    FOR g IN
        SELECT DISTINCT o.kind, o.identity, a.grantee FROM crm.objects o, aclexplode(o.acl) a
        WHERE o.classid = revoke_grants.classid AND o.objid = revoke_grants.objid AND a.grantee <> o.owner
    LOOP
        EXECUTE format('REVOKE ALL ON %s %s FROM %s CASCADE',
                       CASE g.kind WHEN 'relation' THEN 'TABLE' WHEN 'function' THEN 'ROUTINE' ELSE upper(g.kind) END,
                       g.identity, CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END);
    END LOOP;
END $$;
COMMENT ON FUNCTION crm_internal.revoke_grants(oid, oid) IS
    'revokes all grants on a new object, except its owner''s: those to PUBLIC, and those of default privileges';

-- The install script calls it last, and so do upgrade scripts: new objects belong to the superuser until then, and existing
-- objects keep their grants.
CREATE FUNCTION crm_internal.settle_rights() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fresh CONSTANT oid[] := ARRAY(SELECT o.objid FROM crm.objects o WHERE o.owner <> 'crm_engine'::regrole);
    o record;
BEGIN
    FOR o IN
        SELECT x.type, x.identity FROM crm.objects x
        WHERE x.objid = ANY (fresh)
          -- The sequence of a column follows its table.
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = x.classid AND d.objid = x.objid AND x.kind = 'sequence'
                          AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i'))
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO crm_engine', o.type, o.identity);
    END LOOP;
    PERFORM crm_internal.revoke_grants(x.classid, x.objid) FROM crm.objects x WHERE x.objid = ANY (fresh);
END $$;
COMMENT ON FUNCTION crm_internal.settle_rights() IS
    'makes crm_engine the owner of new objects of pg_crm, and revokes all other grants on them';

CREATE FUNCTION crm_internal.engine_trouble() RETURNS TABLE (trouble text, hint text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('it is %s', x.what), format('ALTER ROLE crm_engine %s', x.remedy)
    FROM pg_roles r, LATERAL (VALUES
        (r.rolsuper, 'a superuser', 'NOSUPERUSER'), (r.rolcanlogin, 'able to log in', 'NOLOGIN'),
        (r.rolcreaterole, 'able to create roles', 'NOCREATEROLE'), (r.rolcreatedb, 'able to create databases', 'NOCREATEDB'),
        (r.rolreplication, 'able to replicate', 'NOREPLICATION'), (r.rolbypassrls, 'exempt from row security', 'NOBYPASSRLS'),
        (r.rolinherit, 'inheriting privileges of other roles', 'NOINHERIT')) AS x (is_so, what, remedy)
    WHERE r.rolname = 'crm_engine' AND x.is_so
    UNION ALL
    SELECT format('role %s is a member of it', m.member::regrole), format('REVOKE crm_engine FROM %s', m.member::regrole)
    FROM pg_auth_members m WHERE m.roleid = to_regrole('crm_engine')
    UNION ALL
    SELECT format('it is a member of role %s', m.roleid::regrole), format('REVOKE %s FROM crm_engine', m.roleid::regrole)
    FROM pg_auth_members m WHERE m.member = to_regrole('crm_engine')
$$;
COMMENT ON FUNCTION crm_internal.engine_trouble() IS
    'attributes and memberships that role crm_engine must not have, each with the statement that removes it';

CREATE FUNCTION crm_internal.unexpected_grants() RETURNS TABLE (trouble text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('%s %s belongs to role %s', o.type, o.identity, o.owner::regrole)
    FROM crm.objects o WHERE o.owner <> 'crm_engine'::regrole
    UNION ALL
    SELECT format('%s has %s%s on %s %s', CASE g.grantee WHEN 0 THEN 'everybody' ELSE 'role ' || g.grantee::regrole END,
                  g.privilege_type, CASE WHEN g.is_grantable THEN ' with grant option' END, o.type, o.identity)
    FROM crm.objects o, aclexplode(o.acl) g
    WHERE g.grantee <> o.owner
      AND (g.grantee = 0 OR g.is_grantable OR NOT EXISTS (
          SELECT FROM crm.access a WHERE (a.kind, a.schema, a.name) = (o.kind, o.schema, o.name)
            AND g.privilege_type = CASE a.kind WHEN 'schema' THEN 'USAGE' WHEN 'relation' THEN 'SELECT' ELSE 'EXECUTE' END))
    UNION ALL
    SELECT format('%s has %s on column %s of %s %s', CASE g.grantee WHEN 0 THEN 'everybody' ELSE 'role ' || g.grantee::regrole END,
                  g.privilege_type, t.attname, o.type, o.identity)
    FROM crm.objects o JOIN pg_attribute t ON t.attrelid = o.objid AND o.kind = 'relation', aclexplode(t.attacl) g
    WHERE g.grantee <> o.owner
$$;
COMMENT ON FUNCTION crm_internal.unexpected_grants() IS 'objects not owned by crm_engine, and grants that are not in crm.access';

CREATE FUNCTION crm_internal.do_grant_access(caller bytea, role regrole, level text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who CONSTANT oid := crm_internal.verified(caller);
    levels CONSTANT text[] := '{reader,writer,operator,admin}';
    x record;
BEGIN
    PERFORM crm_internal.check_choice('level', level, levels);
    IF NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.oid = who) THEN
        RAISE insufficient_privilege USING MESSAGE = 'only a superuser can grant access to pg_crm',
            HINT = 'Ask one to call crm.grant_access().';
    END IF;
    FOR x IN
        SELECT o.kind, o.identity FROM crm.access a JOIN crm.objects o USING (kind, schema, name)
        WHERE array_position(levels, a.level) <= array_position(levels, do_grant_access.level)
    LOOP
        EXECUTE format('GRANT %s %s TO %s',
                       CASE x.kind WHEN 'schema' THEN 'USAGE ON SCHEMA' WHEN 'relation' THEN 'SELECT ON TABLE'
                           ELSE 'EXECUTE ON ROUTINE' END,
                       x.identity, role);
    END LOOP;
END $$;
COMMENT ON FUNCTION crm_internal.do_grant_access(bytea, regrole, text) IS
    'crm.grant_access() for the role that the token of crm_internal.caller() names';

CREATE FUNCTION crm.grant_access(role regrole, level text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT crm_internal.do_grant_access(crm_internal.caller(), role, level)
$$;
COMMENT ON FUNCTION crm.grant_access(regrole, text) IS
    'grants a role access to pg_crm. reader: views, audit, hashes; writer: + write, read_live, flush, ingest_now, receive_webhook; '
    'operator: + pause, resume, approve, discard, replay, recapture, check(deep), resolve_conflict, cancel_write, test_connection, describe, records, check_mapping; '
    'admin: + mapping. '
    'Superusers only; crm.access has the list. Errors: 22023 no such level, 42501 not a superuser';

-- Members of pg_read_all_data and pg_write_all_data need no grants: row security hides the secrets from them, and the triggers
-- below keep the configuration as its functions have checked it.
ALTER TABLE crm.credential ENABLE ROW LEVEL SECURITY;

CREATE FUNCTION crm_internal.refuse_direct_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Dumps and scripts of extensions run with check_function_bodies off.
    IF current_user <> 'crm_engine' AND NOT (current_setting('check_function_bodies') = 'off'
                                             AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user)) THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('table "crm.%s" must not be changed directly', TG_TABLE_NAME),
            DETAIL = 'Its contents decide with whose privileges code runs, and were checked when they were set.',
            HINT = CASE TG_TABLE_NAME
                WHEN 'connection' THEN 'Use crm.create_connection(), crm.alter_connection(), crm.pause(), crm.resume() and '
                                       'crm.drop_connection().'
                WHEN 'credential' THEN 'Use crm.set_credentials().'
                WHEN 'object_map' THEN 'Use crm.map_object(), crm.alter_map(), crm.pause(), crm.resume() and crm.unmap_object().'
                WHEN 'scan_request' THEN 'Use crm.push().'
                WHEN 'access' THEN 'A superuser calls crm.grant_access().'
                ELSE 'Use crm.map_field(), crm.alter_field() and crm.unmap_field().' END;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION crm_internal.refuse_direct_change() IS
    'trigger: only functions of pg_crm, restores of dumps and upgrade scripts change the configuration';
CREATE TRIGGER guarded BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON crm.connection
    FOR EACH STATEMENT EXECUTE FUNCTION crm_internal.refuse_direct_change();
CREATE TRIGGER guarded BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON crm.credential
    FOR EACH STATEMENT EXECUTE FUNCTION crm_internal.refuse_direct_change();
CREATE TRIGGER guarded BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON crm.object_map
    FOR EACH STATEMENT EXECUTE FUNCTION crm_internal.refuse_direct_change();
CREATE TRIGGER guarded BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON crm.field_map
    FOR EACH STATEMENT EXECUTE FUNCTION crm_internal.refuse_direct_change();
CREATE TRIGGER guarded BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON crm.bound_column
    FOR EACH STATEMENT EXECUTE FUNCTION crm_internal.refuse_direct_change();
CREATE TRIGGER guarded BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON crm.access
    FOR EACH STATEMENT EXECUTE FUNCTION crm_internal.refuse_direct_change();
-- A condition runs with the rights of the table's owner.
CREATE TRIGGER guarded AFTER INSERT OR UPDATE ON crm.scan_request
    FOR EACH ROW WHEN (NEW.condition IS NOT NULL) EXECUTE FUNCTION crm_internal.refuse_direct_change();
