//! Who may call, and what of the row is whose.

use crm_suites::live::write;
use crm_suites::{Live, Session, Vendor, json};

use crate::CLUSTER;

async fn role(live: &Live, level: Option<&str>) -> (String, Session) {
    let role = format!("{}_{}", live.db.name, level.unwrap_or("nobody"));
    live.db.execute(&format!("CREATE ROLE {role}")).await;
    if let Some(level) = level {
        live.db
            .execute(&format!("SELECT crm.grant_access('{role}', '{level}')"))
            .await;
    }
    let session = live.db.session().await;
    session.execute(&format!("SET ROLE {role}")).await;
    (role, session)
}

const CALL: &str = "SELECT crm.write('people', 'p1', '{\"phone\": \"+5\"}')";

#[tokio::test]
async fn the_level_writer_is_enough_and_reader_is_not() {
    let live = Live::open(&CLUSTER, Vendor::Stub).await;
    live.people(1).await;
    for level in [None, Some("reader")] {
        let (role, session) = role(&live, level).await;
        live.db
            .execute(&format!("GRANT ALL ON people TO {role}"))
            .await;
        for sql in [CALL, "SELECT crm.read_live('people', 'p1')"] {
            let error = session.error(sql).await;
            assert_eq!(error.code().code(), "42501", "{level:?}: {error:?}");
        }
    }
    let (role, session) = role(&live, Some("writer")).await;
    // The row is the caller's own affair.
    let error = session.error(CALL).await;
    assert_eq!(error.code().code(), "42501", "{error:?}");
    assert!(error.message().contains("people"), "{error:?}");
    assert_eq!(
        session
            .error("SELECT crm.read_live('people', 'p1')")
            .await
            .code()
            .code(),
        "42501"
    );
    live.db
        .execute(&format!("GRANT SELECT, UPDATE (phone) ON people TO {role}"))
        .await;
    let written = write(&session, "p1", json!({"phone": "+5"}), "")
        .await
        .expect("committed");
    let error = session
        .error("SELECT crm.write('people', 'p1', '{\"email\": \"x@y.example\"}')")
        .await;
    assert_eq!(
        error.code().code(),
        "42501",
        "a column that is not theirs: {error:?}"
    );
    session
        .execute("SELECT crm.read_live('people', 'p1')")
        .await;
    let state: String = session
        .one(
            "SELECT state FROM crm.write_status($1::text::uuid)",
            &[&written.write_id],
        )
        .await;
    assert_eq!(state, "committed");
    // A failed one is queued just the same.
    live.crm.fail(&live.db, "write", "transient", 1).await;
    write(&session, "p1", json!({"phone": "+6"}), "")
        .await
        .expect_pending("transient");
    live.agree().await;
    live.assert_both("p1", "phone", "+6").await;
    for sql in [
        "SELECT * FROM crm.pending_write",
        "INSERT INTO crm.change (map_id, record_keys, op, cells, actor) VALUES (1, '{p1}', 'u', '\\x01', 'me')",
        "UPDATE crm.ledger SET hashes = NULL",
        "DELETE FROM crm.conflict",
        "SELECT * FROM crm.credential",
        "SELECT crm_internal.ask_worker('{\"op\": \"write\"}', 1)",
        "SELECT crm.resolve_conflict(1, 'crm')",
        "SELECT crm.cancel_write(gen_random_uuid())",
    ] {
        let error = session.error(sql).await;
        assert_eq!(error.code().code(), "42501", "{sql}: {error:?}");
    }
    let actor = "SELECT DISTINCT actor FROM crm.audit_log WHERE path <> 'batch'";
    assert_eq!(
        live.db.all::<String>(actor, &[]).await,
        ["postgres"],
        "the session's user, whatever SET ROLE says"
    );
}

#[tokio::test]
async fn row_security_decides_about_the_row() {
    let live = Live::open(&CLUSTER, Vendor::Salesforce).await;
    live.people(2).await;
    let (role, session) = role(&live, Some("writer")).await;
    live.db
        .execute(&format!(
            "GRANT SELECT, UPDATE ON people TO {role};
             ALTER TABLE people ENABLE ROW LEVEL SECURITY;
             CREATE POLICY own ON people TO {role} USING (id = 'p1') WITH CHECK (phone <> 'secret')"
        ))
        .await;
    live.crm.forget(&live.db).await;
    for sql in [
        "SELECT crm.write('people', 'p2', '{\"phone\": \"1\"}')",
        "SELECT crm.read_live('people', 'p2')",
    ] {
        let error = session.error(sql).await;
        assert_eq!(error.code().code(), "P0002", "{error:?}");
        assert!(
            error.hint().is_some_and(|h| h.contains("row security")),
            "{error:?}"
        );
    }
    let error = session
        .error("SELECT crm.write('people', 'p1', '{\"phone\": \"secret\"}')")
        .await;
    assert_eq!(error.code().code(), "42501", "{error:?}");
    assert_eq!(live.crm.asked(&live.db).await, Vec::<String>::new());
    write(&session, "p1", json!({"phone": "open"}), "")
        .await
        .expect("committed");
    live.agree().await;
}

/// A function of the caller's runs as the caller, in the caller's search_path, and cannot borrow
/// our rights.
#[tokio::test]
async fn nobody_borrows_a_right() {
    let live = Live::open(&CLUSTER, Vendor::Stub).await;
    live.people(1).await;
    let (role, session) = role(&live, Some("writer")).await;
    live.db
        .execute(&format!(
            "CREATE SCHEMA mine AUTHORIZATION {role}; GRANT SELECT, UPDATE ON people TO {role};
             CREATE TABLE seen (who text, path text); GRANT INSERT ON seen TO PUBLIC;
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO public.seen VALUES (current_user, current_setting('search_path')); RETURN NEW; END $$;
             CREATE TRIGGER note BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION note()"
        ))
        .await;
    session
        .execute(
            "SET search_path = mine, public;
             CREATE FUNCTION mine.eq(text, text) RETURNS bool LANGUAGE plpgsql AS $$
             BEGIN
                 IF current_user = 'postgres' THEN RAISE EXCEPTION 'borrowed'; END IF;
                 RETURN $1 OPERATOR(pg_catalog.=) $2;
             END $$;
             CREATE OPERATOR mine.= (LEFTARG = text, RIGHTARG = text, FUNCTION = mine.eq);
             CREATE FUNCTION mine.unnest(text[]) RETURNS SETOF text LANGUAGE sql AS $$ SELECT 'borrowed' $$",
        )
        .await;
    write(&session, "p1", json!({"phone": "+7"}), "")
        .await
        .expect("committed");
    assert_eq!(
        live.db.text("SELECT DISTINCT * FROM seen").await,
        format!("{role} | mine, public")
    );
    assert_eq!(
        session.one::<String>("SHOW search_path", &[]).await,
        "mine, public"
    );
    assert_eq!(
        session
            .one::<String>("SELECT current_user::text", &[])
            .await,
        role
    );
    // Also after an error, and after one that was caught.
    session
        .error("SELECT crm.write('people', 'p1', '{\"last_name\": null}')")
        .await;
    session
        .execute("DO $$ BEGIN PERFORM crm.write('people', 'p1', '{\"last_name\": null}'); EXCEPTION WHEN others THEN NULL; END $$")
        .await;
    assert_eq!(
        session.one::<String>("SHOW search_path", &[]).await,
        "mine, public"
    );
    assert_eq!(
        session
            .one::<String>("SELECT current_user::text", &[])
            .await,
        role
    );
    live.agree().await;
}

#[tokio::test]
async fn no_secret_shows_anywhere() {
    for vendor in Vendor::REMOTE {
        let live = Live::open(&CLUSTER, vendor).await;
        live.people(1).await;
        live.crm.fail(&live.db, "read", "auth", 4).await;
        live.crm.fail(&live.db, "write", "auth", 4).await;
        let written = live
            .write("p1", json!({"phone": "+8"}))
            .await
            .expect_pending("auth");
        let mut shown = format!("{written:?}");
        for view in [
            "crm.audit_log",
            "crm.pending_writes",
            "crm.status",
            "crm.conflicts",
            "crm.connection",
            "crm.change",
            "pg_stat_activity",
        ] {
            shown += &live.db.text(&format!("SELECT to_jsonb(v) FROM {view} v WHERE NOT to_jsonb(v)::text ~ 'credentials =>'")).await;
        }
        shown += &CLUSTER.log();
        for secret in ["sf-token", "hs-token", "Bearer"] {
            let lines: Vec<&str> = shown
                .lines()
                .filter(|l| l.contains(secret) && !l.contains("STATEMENT"))
                .collect();
            assert!(lines.is_empty(), "{secret}: {lines:?}");
        }
        live.mend().await;
        live.agree().await;
    }
}
