//! Code of a table's owner changes no setting of the worker, and none of whoever calls a function
//! of pg_crm.

use crm_suites::json;

use crate::possession::{PEOPLE, Possession};

/// What it sets, for good, wherever it runs.
const CODE: &str = "
    CREATE TABLE m.seen (place text, path text, pid int, role_refused bool);
    CREATE FUNCTION m.code(place text) RETURNS bool LANGUAGE plpgsql AS $$
    DECLARE
        refused bool := false;
    BEGIN
        PERFORM m.note(place);
        BEGIN
            PERFORM set_config('role', 'none', false);
        EXCEPTION WHEN insufficient_privilege THEN
            refused := true;
        END;
        INSERT INTO m.seen VALUES (place, current_setting('search_path'), pg_backend_pid(), refused);
        PERFORM set_config('search_path', 'm, pg_catalog', false), set_config('default_transaction_read_only', 'on', false),
                set_config('lock_timeout', '1ms', false), set_config('standard_conforming_strings', 'off', false),
                set_config('row_security', 'off', false), pg_advisory_lock(4711);
        RETURN true;
    END $$;
    CREATE FUNCTION m.trap(text, text) RETURNS bool LANGUAGE sql AS $$ SELECT m.note('text =') $$;
    CREATE FUNCTION m.trap(int, int) RETURNS bool LANGUAGE sql AS $$ SELECT m.note('int =') $$;
    CREATE FUNCTION m.trap(bytea, bytea) RETURNS bool LANGUAGE sql AS $$ SELECT m.note('bytea =') $$;
    CREATE FUNCTION m.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT m.note('now()'); SELECT pg_catalog.now() $$;
    CREATE FUNCTION m.cardinality(text[]) RETURNS int LANGUAGE sql AS $$ SELECT m.note('cardinality'); SELECT 1 $$;
    CREATE OPERATOR m.= (LEFTARG = text, RIGHTARG = text, FUNCTION = m.trap);
    CREATE OPERATOR m.= (LEFTARG = int, RIGHTARG = int, FUNCTION = m.trap);
    CREATE OPERATOR m.= (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = m.trap)";

const SETTINGS: &str = "SELECT current_setting('search_path') || current_setting('default_transaction_read_only')
    || current_setting('lock_timeout') || current_setting('standard_conforming_strings') || current_setting('row_security')";

async fn possession(more: &str) -> Possession {
    let possession = Possession::of(PEOPLE, "bidirectional", ", on_insert => 'create'").await;
    let owner = &possession.owner;
    owner.execute(CODE).await;
    owner
        .execute(
            "INSERT INTO m.people VALUES ('p1', 'Last', 'First', ''), ('p2', 'Last', 'First', '')",
        )
        .await;
    possession.db.drain().await;
    owner.execute(more).await;
    possession
}

impl Possession {
    /// Both ways, several times, so that what was left behind by one transaction would meet the
    /// next.
    async fn to_and_fro(&self) {
        let sql = "SELECT crm_id FROM crm.ledger WHERE record_key = 'p2'";
        let id: String = self.db.one(sql, &[]).await;
        for n in 0..3 {
            let sql = format!("UPDATE m.people SET email = 'Mine {n}' WHERE id = 'p1'");
            self.owner.execute(&sql).await;
            self.db.drain().await;
            let theirs = json!({"first_name": format!("Theirs {n}")});
            self.crm.edit(&self.db, "contact", &id, &theirs).await;
            assert!(self.db.one::<bool>("SELECT crm.ingest_now()", &[]).await);
        }
        let sql = "SELECT phone FROM m.people WHERE id = 'p2'";
        assert_eq!(self.db.one::<String>(sql, &[]).await, "Theirs 2");
    }

    /// The code ran there, as the owner, and left nothing behind in the worker.
    async fn assert_ran(&self, place: &str) {
        assert!(self.noted(place).await > 0, "{place}");
        self.assert_own_rights().await;
        for trap in ["text =", "int =", "bytea =", "now()", "cardinality"] {
            assert_eq!(self.noted(trap).await, 0, "{trap}");
        }
        let worker = self.db.worker().await;
        // Each time anew: within one statement the owner finds what the owner set.
        let seen = "SELECT count(*) FILTER (WHERE path = 'pg_catalog, pg_temp') > 1, bool_and(role_refused)
                    FROM m.seen WHERE place = $1 AND pid = $2";
        let row = self.db.rows(seen, &[&place, &worker]).await.remove(0);
        assert!(row.get::<_, bool>(0), "{place}: a search_path survived");
        assert!(row.get::<_, bool>(1), "{place}: SET ROLE was not refused");
        let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = $1";
        assert_eq!(
            self.db.one::<i64>(held, &[&worker]).await,
            0,
            "advisory locks of the worker"
        );
        self.db.assert_checked().await;
    }
}

#[tokio::test]
async fn a_transform_leaves_the_worker_as_it_was() {
    let possession = possession(
        "CREATE FUNCTION m.shape(value jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
         BEGIN PERFORM m.code('transform'); RETURN value; END $$",
    )
    .await;
    let map = possession.map;
    for (column, field) in [("email", "last_name"), ("phone", "first_name")] {
        let sql = format!(
            "SELECT crm.alter_field({map}, '{column}', '{field}', direction => 'bidirectional',
                                    transform_out => 'm.shape(jsonb)', transform_in => 'm.shape(jsonb)')"
        );
        possession.db.execute(&sql).await;
    }
    possession.to_and_fro().await;
    possession.assert_ran("transform").await;
}

#[tokio::test]
async fn a_trigger_leaves_the_worker_as_it_was() {
    let possession = possession(
        "CREATE FUNCTION m.fired() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM m.code('trigger'); RETURN NEW; END $$;
         CREATE TRIGGER fired BEFORE UPDATE ON m.people FOR EACH ROW EXECUTE FUNCTION m.fired()",
    )
    .await;
    // Of its own session it is the owner's to spoil.
    let owner = "ALTER ROLE CURRENT_USER SET default_transaction_read_only = off";
    possession.owner.execute(owner).await;
    let sql = "SELECT crm_id FROM crm.ledger WHERE record_key = 'p2'";
    let id: String = possession.db.one(sql, &[]).await;
    for n in 0..3 {
        let theirs = json!({"first_name": format!("Theirs {n}")});
        possession
            .crm
            .edit(&possession.db, "contact", &id, &theirs)
            .await;
        assert!(
            possession
                .db
                .one::<bool>("SELECT crm.ingest_now()", &[])
                .await
        );
    }
    possession.assert_ran("trigger").await;
}

const POLICY: &str = "
    ALTER TABLE m.people ENABLE ROW LEVEL SECURITY;
    ALTER TABLE m.people FORCE ROW LEVEL SECURITY;
    CREATE POLICY watched ON m.people USING (m.code('policy'))";

#[tokio::test]
async fn a_policy_leaves_the_worker_as_it_was() {
    let possession = possession(POLICY).await;
    let sql = "UPDATE m.people SET email = 'Mine' WHERE id = 'p1'";
    for _ in 0..3 {
        // As a superuser, whom no policy binds.
        possession.db.execute(sql).await;
        possession.db.drain().await;
    }
    let sql = "SELECT crm_id FROM crm.ledger WHERE record_key = 'p2'";
    let id: String = possession.db.one(sql, &[]).await;
    let theirs = json!({"first_name": "Theirs"});
    possession
        .crm
        .edit(&possession.db, "contact", &id, &theirs)
        .await;
    assert!(
        possession
            .db
            .one::<bool>("SELECT crm.ingest_now()", &[])
            .await
    );
    possession.assert_ran("policy").await;
}

#[tokio::test]
async fn whoever_calls_keeps_their_settings() {
    let possession = possession(POLICY).await;
    let db = &possession.db;
    let reader = format!("{}_reader", db.name);
    let sql = format!(
        "CREATE ROLE {reader}; SELECT crm.grant_access('{reader}', 'operator'); GRANT USAGE ON SCHEMA m TO {reader};
         GRANT SELECT, UPDATE ON m.people TO {reader}; GRANT INSERT, SELECT ON m.seen, m.witness TO {reader};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA m TO {reader}"
    );
    db.execute(&sql).await;
    for (role, sql) in [
        (
            "postgres",
            format!("SELECT * FROM crm.check_mapping({})", possession.map),
        ),
        (
            "postgres",
            "SELECT crm_internal.longest_text('m.people'::regclass, 'notes')".to_owned(),
        ),
        (
            &reader,
            format!("SELECT * FROM crm.check_mapping({})", possession.map),
        ),
        (&reader, "SELECT crm.read_live('m.people', 'p1')".to_owned()),
    ] {
        let session = db.session().await;
        session
            .execute(&format!(
                "SET SESSION AUTHORIZATION {role}; SET lock_timeout = '7s'"
            ))
            .await;
        let before: String = session.one(SETTINGS, &[]).await;
        session.execute(&sql).await;
        assert_eq!(
            session.one::<String>(SETTINGS, &[]).await,
            before,
            "{role}: {sql}"
        );
        // What the transaction has set itself stays.
        session
            .execute(&format!(
                "BEGIN; SET LOCAL lock_timeout = '9s'; {sql}; SET LOCAL search_path = public"
            ))
            .await;
        let now: String = session.one(SETTINGS, &[]).await;
        assert!(
            now.contains("9s") && now.starts_with("public"),
            "{role}: {sql}: {now}"
        );
        session.execute("COMMIT").await;
        assert_eq!(
            session.one::<String>(SETTINGS, &[]).await,
            before,
            "{role}: {sql}"
        );
    }
    assert!(possession.noted("policy").await > 0);
    // After an error as well.
    possession
        .owner
        .execute(
            "CREATE OR REPLACE FUNCTION m.note(place text) RETURNS bool LANGUAGE plpgsql AS $$
             BEGIN
                PERFORM set_config('search_path', 'm', false);
                RAISE EXCEPTION 'refused';
             END $$",
        )
        .await;
    let session = db.session().await;
    let before: String = session.one(SETTINGS, &[]).await;
    session.execute("BEGIN; SAVEPOINT before").await;
    let error = session
        .error("SELECT crm_internal.longest_text('m.people'::regclass, 'notes')")
        .await;
    assert!(error.message().contains("refused"), "{error:?}");
    session.execute("ROLLBACK TO before").await;
    assert_eq!(session.one::<String>(SETTINGS, &[]).await, before);
    session.execute("COMMIT").await;
    assert_eq!(session.one::<String>(SETTINGS, &[]).await, before);
}

/// PostgreSQL ends a process with `exit_on_error` at its next error, also at one that is caught.
#[tokio::test]
async fn a_transform_ends_neither_the_worker_nor_its_callers_session() {
    let possession = possession(
        "CREATE FUNCTION m.last(value jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM set_config('exit_on_error', 'on', false);
             RAISE EXCEPTION 'the end';
         END $$",
    )
    .await;
    let (db, map) = (&possession.db, possession.map);
    let worker = db.worker().await;
    let sql = format!(
        "SELECT crm.alter_field({map}, 'email', 'last_name', transform_out => 'm.last(jsonb)')"
    );
    db.execute(&sql).await;
    let session = db.session().await;
    let error = session
        .error(r#"SELECT crm.write('m.people', 'p2', '{"email": "x"}')"#)
        .await;
    let detail = error.detail().unwrap_or_default().to_owned();
    assert!(detail.contains("exit_on_error"), "{error:?}");
    possession
        .owner
        .execute("UPDATE m.people SET email = 'Mine' WHERE id = 'p1'")
        .await;
    db.drain_but_for_the_dead().await;
    let why: String = db
        .one(
            "SELECT error FROM crm.dead_letters WHERE record_key = 'p1'",
            &[],
        )
        .await;
    assert!(why.contains("exit_on_error"), "{why}");
    assert_eq!(db.worker().await, worker, "the worker ended");
}
