//! What pg_crm names means what it meant when pg_crm was written, whatever lies in schemas that
//! others may write to.

use crm_suites::{Crm, Vendor};

use crate::{CLUSTER, role};

/// Operators and functions that fit better than PostgreSQL's own wherever an expression mixes
/// types, in the schema in which the extension is made.
const TROJANS: &str = "
    CREATE TABLE public.witness (who name, place text);
    GRANT INSERT ON public.witness TO PUBLIC;
    DO $$
    DECLARE
        kinds CONSTANT text[] := '{int2,int4,int8,numeric,float4,float8,text,varchar,name,bytea,interval,timestamptz,oid,regclass,jsonb}';
        a text;
        b text;
        o text;
    BEGIN
        FOREACH a IN ARRAY kinds LOOP
            FOREACH b IN ARRAY kinds LOOP
                EXECUTE format('CREATE FUNCTION public.same(%1$s, %2$s) RETURNS bool LANGUAGE plpgsql AS '
                    '''BEGIN INSERT INTO public.witness VALUES (current_user, ''''%1$s, %2$s''''); RETURN true; END''', a, b);
                FOREACH o IN ARRAY '{=,<>,<,>,<=,>=,->>,~,!~}'::text[] LOOP
                    EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.same)', o, a, b);
                END LOOP;
            END LOOP;
        END LOOP;
    END $$;
    CREATE FUNCTION public.greatest_of(variadic anyarray) RETURNS bool LANGUAGE sql AS 'SELECT true';
    CREATE FUNCTION public.make_interval(secs float8) RETURNS interval LANGUAGE sql AS 'SELECT interval ''1 s''';
    CREATE FUNCTION public.round(int8, int4) RETURNS numeric LANGUAGE sql AS 'SELECT 1.0'";

#[tokio::test]
async fn the_extension_takes_no_operator_of_a_schema_that_others_write_to() {
    let db = CLUSTER.bare_database().await;
    let (mallory, session) = role(&db, "mallory", None).await;
    db.execute(&format!("GRANT CREATE ON SCHEMA public TO {mallory}"))
        .await;
    session.execute(TROJANS).await;
    db.execute("CREATE EXTENSION pg_crm").await;
    // Queries of this session would take them too.
    let session = db.session().await;
    session.execute("SET search_path = pg_catalog").await;
    let taken = format!(
        "SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid) || ': ' || pg_describe_object(d.refclassid, d.refobjid, 0)
         FROM pg_depend d, crm.objects o
         WHERE (d.classid = o.classid AND d.objid = o.objid
                OR d.classid = 'pg_rewrite'::regclass AND d.objid IN (SELECT r.oid FROM pg_rewrite r WHERE r.ev_class = o.objid))
           AND (d.refclassid = 'pg_operator'::regclass AND d.refobjid IN (SELECT oid FROM pg_operator WHERE oprowner = '{mallory}'::regrole)
                OR d.refclassid = 'pg_proc'::regclass AND d.refobjid IN (SELECT oid FROM pg_proc WHERE proowner = '{mallory}'::regrole))"
    );
    assert_eq!(session.text(&taken).await, "");
    session
        .execute("TRUNCATE public.witness; SELECT crm.create_connection('stub', 'stub')")
        .await;
    for view in ["status", "rate_budget", "progress", "cell_status"] {
        session.execute(&format!("SELECT * FROM crm.{view}")).await;
    }
    assert_eq!(session.text("SELECT * FROM public.witness").await, "");
}

/// A key of a domain, and one that PostgreSQL has no equality of its own for.
#[tokio::test]
async fn a_look_at_a_row_runs_no_code_of_others_as_the_caller() {
    let db = CLUSTER.database().await;
    Crm::connect(&db, Vendor::Stub).await;
    let (mallory, session) = role(&db, "mallory", Some("admin")).await;
    db.execute(&format!(
        "CREATE SCHEMA m AUTHORIZATION {mallory}; GRANT CREATE ON SCHEMA public TO {mallory}; GRANT USAGE ON SCHEMA m TO PUBLIC"
    ))
    .await;
    session
        .execute(
            "CREATE TABLE m.witness (who name, place text);
             GRANT INSERT ON m.witness TO PUBLIC;
             CREATE FUNCTION m.note(place text) RETURNS bool LANGUAGE sql AS $$
                INSERT INTO m.witness VALUES (current_user, place) RETURNING true $$;
             CREATE FUNCTION m.same(varchar, varchar) RETURNS bool LANGUAGE plpgsql AS $$
             BEGIN PERFORM m.note('operator'); RETURN $1::text OPERATOR(pg_catalog.=) $2::text; END $$;
             CREATE OPERATOR public.= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = m.same);
             CREATE DOMAIN m.checked AS varchar CHECK (m.note('domain'));
             CREATE TABLE m.people (id m.checked PRIMARY KEY, name text);
             CREATE TABLE m.others (id varchar PRIMARY KEY, name text);
             SELECT crm.map_object('stub', 'm.people', 'account', external_id_field => 'external_key', on_insert => 'create');
             SELECT crm.map_field(1, 'name', 'name');
             SELECT crm.map_object('stub', 'm.others', 'contact', external_id_field => 'external_key', on_insert => 'create');
             SELECT crm.map_field(2, 'name', 'last_name');
             INSERT INTO m.people VALUES ('p1', 'One');
             INSERT INTO m.others VALUES ('p2', 'Two')",
        )
        .await;
    db.drain().await;
    let (reader, caller) = role(&db, "reader", Some("writer")).await;
    db.execute(&format!(
        "GRANT SELECT, UPDATE ON m.people, m.others TO {reader}; TRUNCATE m.witness"
    ))
    .await;
    for session in [&*db, &caller] {
        for (table, key) in [("people", "p1"), ("others", "p2")] {
            session
                .execute(&format!("SELECT crm.read_live('m.{table}', '{key}')"))
                .await;
        }
        let sql =
            r#"SELECT outcome FROM crm.write('m.others', 'p2', '{"name": "New"}', force => true)"#;
        assert_eq!(session.one::<String>(sql, &[]).await, "committed");
    }
    let ran = format!("SELECT * FROM m.witness WHERE who <> '{mallory}'");
    assert_eq!(db.text(&ran).await, "");
}
