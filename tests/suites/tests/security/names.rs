//! What pg_crm names means what it meant when pg_crm was written, whatever lies in schemas that others may write to.

use crm_suites::{Crm, Vendor};

use crate::{CLUSTER, role};

/// Operators and functions that fit better than PostgreSQL's own wherever an expression mixes types, in the schema in which
/// the extension is made.
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
