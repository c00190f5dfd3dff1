//! The role `crm_engine`: it owns everything and is the worker's, and there is no way into it or
//! out of it.

use crm_suites::{Cluster, Desk, Vendor, eventually};

use crate::{CLUSTER, role};

/// The transform writes down who it is to the session, and tries to become somebody else.
#[tokio::test]
async fn the_workers_session_is_no_superusers() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.link(1).await;
    let (owner, _) = role(&desk.db, "owner", None).await;
    desk.db
        .execute(&format!(
            "ALTER TABLE people OWNER TO {owner};
             CREATE TABLE probe (session_role text, acting text, is_superuser bool, attempt text, refusal text);
             CREATE FUNCTION probe(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
             DECLARE
                 attempt text;
                 refusal text;
             BEGIN
                 FOREACH attempt IN ARRAY '{{RESET SESSION AUTHORIZATION,SET SESSION AUTHORIZATION postgres,RESET ROLE,SET ROLE postgres,
                                            SET ROLE crm_engine,SET session_authorization = DEFAULT}}'::text[] LOOP
                     refusal := NULL;
                     BEGIN
                         EXECUTE attempt;
                     EXCEPTION WHEN OTHERS THEN
                         refusal := sqlerrm;
                     END;
                     INSERT INTO public.probe SELECT session_user, current_user, rolsuper, attempt, refusal
                     FROM pg_catalog.pg_roles WHERE rolname = session_user;
                 END LOOP;
                 RETURN $1;
             END $$;
             ALTER TABLE probe OWNER TO {owner};
             ALTER FUNCTION probe(jsonb) OWNER TO {owner}"
        ))
        .await;
    desk.db
        .execute(&format!(
            "SELECT crm.map_field({}, 'title', '{}', direction => 'outbound', transform_out => 'probe(jsonb)')",
            desk.map,
            Vendor::Stub.field("title")
        ))
        .await;
    desk.db.execute("UPDATE people SET title = 'Mx'").await;
    desk.db.drain().await;
    let seen = "SELECT count(*) FILTER (WHERE session_role = 'crm_engine' AND NOT is_superuser) || ' of ' || count(*) FROM probe";
    assert_eq!(
        desk.db.text(seen).await,
        desk.db
            .text("SELECT count(*) || ' of ' || count(*) FROM probe")
            .await
    );
    let owners = format!("SELECT bool_and(acting = '{owner}') AND count(*) >= 6 FROM probe");
    assert!(desk.db.one::<bool>(&owners, &[]).await);
    let ways_out = "SELECT string_agg(DISTINCT attempt, '; ') FROM probe WHERE refusal IS NULL";
    assert_eq!(desk.db.one::<Option<String>>(ways_out, &[]).await, None);
    let shown = "SELECT usename::text FROM pg_stat_activity WHERE backend_type = 'pg_crm worker' AND datname = current_database()";
    assert_eq!(desk.db.all::<String>(shown, &[]).await, ["crm_engine"]);
    desk.db.assert_checked().await;
}

/// A role that the database sets does not become the worker's.
#[tokio::test]
async fn a_role_that_the_database_sets_is_not_the_workers() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.link(1).await;
    let (other, _) = role(&desk.db, "other", None).await;
    desk.db
        .execute(&format!(
            "ALTER DATABASE {} SET role = '{other}'",
            desk.db.name
        ))
        .await;
    let old = desk.db.worker().await;
    desk.db
        .execute(&format!("SELECT pg_terminate_backend({old})"))
        .await;
    desk.db.worker_after(old).await;
    desk.db.execute("UPDATE people SET phone = 'still'").await;
    desk.settle().await;
    let name = &desk.db.name;
    desk.db
        .execute(&format!("ALTER DATABASE {name} RESET role"))
        .await;
}

#[tokio::test]
async fn everything_is_the_engines_and_pinned_and_not_everybodys() {
    let desk = Desk::open_with(&CLUSTER, Vendor::Stub, "on_delete => 'delete'").await;
    eventually("the audit has its months", async || {
        let months = "SELECT to_regclass('crm.audit_log_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')) IS NOT NULL";
        desk.db.one::<bool>(months, &[]).await.then_some(())
    })
    .await;
    let objects =
        "SELECT type || ' ' || identity FROM crm.objects WHERE owner <> 'crm_engine'::regrole";
    assert_eq!(desk.db.text(objects).await, "");
    let kinds = "SELECT string_agg(DISTINCT kind, ' ' ORDER BY kind) FROM crm.objects";
    assert_eq!(
        desk.db.text(kinds).await,
        "function relation schema sequence type"
    );
    let public = "SELECT type || ' ' || identity || ' ' || privilege_type FROM crm.objects, aclexplode(acl) WHERE grantee = 0";
    assert_eq!(desk.db.text(public).await, "");
    // Wherever they lie: a function that the extension left elsewhere would be somebody's too.
    let unpinned = "SELECT p.oid::regprocedure FROM pg_proc p
        WHERE p.prosecdef AND (p.pronamespace IN ('crm'::regnamespace, 'crm_internal'::regnamespace, 'crm_stub'::regnamespace)
                               OR EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                                          WHERE e.extname = 'pg_crm' AND d.objid = p.oid AND d.deptype IN ('e', 'x')))
          AND NOT coalesce(p.proconfig && ARRAY['search_path=pg_catalog, pg_temp', 'search_path=pg_catalog, crm_stub, pg_temp'], false)";
    assert_eq!(desk.db.text(unpinned).await, "");
    // What sets nothing itself runs with its caller's settings, and names everything in full.
    let loose = "SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
        WHERE p.pronamespace IN ('crm'::regnamespace, 'crm_internal'::regnamespace) AND l.lanname IN ('sql', 'plpgsql') AND p.proconfig IS NULL AND NOT p.prosecdef
          AND p.prosrc !~ '^\\s*SELECT (crm_internal\\.|''|250)' AND p.proname <> ALL ('{write,resolve_conflict,set_cell}')";
    assert_eq!(desk.db.text(loose).await, "");
    desk.db.assert_checked().await;
}

/// Whoever may create roles could have made it, with a way in.
#[tokio::test]
async fn a_role_that_was_made_beforehand_must_be_as_pg_crm_makes_it() {
    let cluster = Cluster::start();
    cluster.remove_template().await;
    let db = cluster.bare_database().await;
    db.execute("DROP ROLE crm_engine").await;
    for (made, undone, says) in [
        (
            "CREATE ROLE crm_engine LOGIN NOINHERIT",
            "DROP ROLE crm_engine",
            "able to log in",
        ),
        (
            "CREATE ROLE crm_engine NOINHERIT PASSWORD 'x'",
            "DROP ROLE crm_engine",
            "password",
        ),
        ("CREATE ROLE crm_engine", "DROP ROLE crm_engine", "inherit"),
        (
            "CREATE ROLE crm_engine NOINHERIT SUPERUSER",
            "DROP ROLE crm_engine",
            "superuser",
        ),
        (
            "CREATE ROLE mallory; CREATE ROLE crm_engine NOINHERIT ROLE mallory",
            "DROP ROLE crm_engine; DROP ROLE mallory",
            "mallory is a member",
        ),
        (
            "CREATE ROLE crm_engine NOINHERIT IN ROLE pg_read_all_data",
            "DROP ROLE crm_engine",
            "member of role pg_read_all_data",
        ),
    ] {
        db.execute(made).await;
        let error = db.error("CREATE EXTENSION pg_crm").await;
        assert_eq!(error.code().code(), "0P000", "{error:?}");
        assert!(
            error.detail().unwrap_or_default().contains(says),
            "{error:?}"
        );
        assert!(error.hint().is_some(), "{error:?}");
        db.execute(undone).await;
    }
    db.execute("CREATE EXTENSION pg_crm").await;
    db.assert_checked().await;
}

/// It is the cluster's, so it outlives the extension in one database, and goes when nobody needs
/// it.
#[tokio::test]
async fn the_role_stays_while_a_database_needs_it() {
    let cluster = Cluster::start();
    let first = cluster.database().await;
    let second = cluster.database().await;
    cluster.remove_template().await;
    first.execute("DROP EXTENSION pg_crm").await;
    let error = first.error("DROP ROLE crm_engine").await;
    assert_eq!(error.code().code(), "2BP01", "{error:?}");
    second.assert_checked().await;
    second.execute("DROP EXTENSION pg_crm").await;
    second.execute("DROP ROLE crm_engine").await;
    second.execute("CREATE EXTENSION pg_crm").await;
    second.worker().await;
    second.assert_checked().await;
}

#[tokio::test]
async fn check_tells_when_there_is_a_way_in() {
    let cluster = Cluster::start();
    let db = cluster.database().await;
    db.execute(
        "CREATE ROLE mallory; GRANT crm_engine TO mallory; ALTER ROLE crm_engine LOGIN CREATEROLE",
    )
    .await;
    let found = db.text("SELECT detail FROM crm.check() ORDER BY 1").await;
    for says in [
        "mallory is a member",
        "able to log in",
        "able to create roles",
    ] {
        assert!(found.contains(says), "{says}: {found}");
    }
    db.execute("REVOKE crm_engine FROM mallory; ALTER ROLE crm_engine NOLOGIN NOCREATEROLE")
        .await;
    db.assert_checked().await;
    // A worker that would be a superuser does not run at all.
    cluster.provokes("role \"crm_engine\" is a superuser");
    db.execute("ALTER ROLE crm_engine SUPERUSER").await;
    let old = db.worker().await;
    db.execute(&format!("SELECT pg_terminate_backend({old})"))
        .await;
    eventually("the worker says why it does not run", async || {
        cluster
            .log()
            .contains("the pg_crm worker cannot run: role \"crm_engine\" is a superuser")
            .then_some(())
    })
    .await;
    db.execute("ALTER ROLE crm_engine NOSUPERUSER").await;
    db.worker().await;
}
