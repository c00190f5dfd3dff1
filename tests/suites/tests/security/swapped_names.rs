//! Names are looked up by each statement anew, and whoever owns a schema may rename it at any
//! moment: what is put in the place of a superuser's table, transform or type while pg_crm is at
//! work is not run as the superuser.

use crm_suites::desk::under_way;
use crm_suites::{Crm, Database, Desk, Session, Vendor, eventually, json};

use crate::{CLUSTER, role};

/// Schema `rs` is mallory's, and what is in it a superuser's. Beside it mallory has `m`, with code
/// that tells whether it runs as somebody else.
struct Tenancy {
    db: Database,
    mallory: Session,
}

impl Tenancy {
    async fn found(db: Database) -> Tenancy {
        let (mallory, session) = role(&db, "mallory", None).await;
        let sql = format!(
            "GRANT CREATE ON DATABASE {db} TO {mallory};
             CREATE SCHEMA rs AUTHORIZATION {mallory}; CREATE SCHEMA m AUTHORIZATION {mallory}",
            db = db.name
        );
        db.execute(&sql).await;
        session
            .execute(
                // A sequence remembers what is rolled back.
                "CREATE SEQUENCE m.witness;
                 CREATE FUNCTION m.evil() RETURNS bool LANGUAGE plpgsql AS $$
                 BEGIN
                    IF current_user NOT LIKE '%mallory' THEN PERFORM nextval('m.witness'); END IF;
                    RETURN true;
                 END $$",
            )
            .await;
        Tenancy {
            db,
            mallory: session,
        }
    }

    /// A table whose leaf can be locked apart: statements on it are analysed, and wait when they
    /// are planned.
    async fn partitioned(&self, schema: &str) {
        let sql = format!(
            "CREATE TABLE {schema}.p (id text PRIMARY KEY, email text, notes jsonb) PARTITION BY HASH (id);
             CREATE TABLE {schema}.leaf PARTITION OF {schema}.p FOR VALUES WITH (MODULUS 1, REMAINDER 0);
             SELECT crm.map_object('stub', '{schema}.p', 'contact', external_id_field => 'external_key', on_insert => 'create');
             SELECT crm.map_field(1, 'email', 'first_name')"
        );
        self.db.execute(&sql).await;
    }

    /// Has the worker write rows back, and mallory put something else in the place of schema `rs`
    /// while it waits for the leaf, between one of its statements and the next.
    async fn swap_in_between(&self, leaf: &str, other: &str) {
        let db = &self.db;
        let table = leaf.replace("leaf", "p");
        let insert = format!("INSERT INTO {table} VALUES ('p1', 'a', '\"x\"')");
        db.execute("SELECT crm.pause('stub')").await;
        db.execute(&insert).await;
        let holder = db.session().await;
        holder
            .execute(&format!(
                "BEGIN; LOCK TABLE {leaf} IN ACCESS EXCLUSIVE MODE"
            ))
            .await;
        let session = db.session().await;
        db.execute("SELECT crm.resume('stub')").await;
        let flush =
            tokio::spawn(async move { session.one::<bool>("SELECT crm.flush()", &[]).await });
        let sql = format!(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{leaf}'::regclass AND pid = {}",
            db.worker().await
        );
        eventually("the worker waits for the leaf", async || {
            (db.one::<i64>(&sql, &[]).await > 0).then_some(())
        })
        .await;
        let swap = format!("ALTER SCHEMA rs RENAME TO former; CREATE SCHEMA rs; {other}");
        self.mallory.execute(&swap).await;
        holder.execute("COMMIT").await;
        flush.await.expect("the flush");
    }

    /// Nothing ran.
    async fn assert_unharmed(&self) {
        let ran: bool = self.db.one("SELECT is_called FROM m.witness", &[]).await;
        assert!(!ran, "mallory's code ran as somebody else");
    }
}

async fn waits_for_a_lock(watch: &Session, pid: i32) {
    let sql = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = $1";
    eventually("it waits for a lock", async || {
        (watch.one::<i64>(sql, &[&pid]).await > 0).then_some(())
    })
    .await;
}

async fn tenancy() -> Tenancy {
    let db = CLUSTER.database().await;
    Crm::connect(&db, Vendor::Stub).await;
    Tenancy::found(db).await
}

#[tokio::test]
async fn another_relation_in_a_tables_place_is_not_read() {
    let tenancy = tenancy().await;
    tenancy.partitioned("rs").await;
    let db = &tenancy.db;
    // Looked at for its size first, in a statement of its own.
    db.execute("SELECT crm.map_field(1, 'notes', 'last_name')")
        .await;
    tenancy
        .swap_in_between(
            "rs.leaf",
            "CREATE VIEW rs.p AS SELECT 'p1'::text AS id, 'evil'::text AS email, '{}'::jsonb AS notes WHERE m.evil()",
        )
        .await;
    tenancy.assert_unharmed().await;
    // It was the same table all along, by another name.
    db.drain().await;
    let sql = "SELECT fields ->> 'first_name' FROM crm_stub.records";
    assert_eq!(db.all::<String>(sql, &[]).await, ["a"]);
    db.assert_checked().await;
}

#[tokio::test]
async fn another_function_in_a_transforms_place_is_not_run() {
    let tenancy = tenancy().await;
    let db = &tenancy.db;
    db.execute(
        "CREATE SCHEMA own;
         CREATE FUNCTION rs.shape(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1'",
    )
    .await;
    tenancy.partitioned("own").await;
    db.execute("SELECT crm.map_field(1, 'notes', 'last_name', transform_out => 'rs.shape(jsonb)')")
        .await;
    tenancy
        .swap_in_between(
            "own.leaf",
            "CREATE FUNCTION rs.shape(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM m.evil(); RETURN $1; END $$",
        )
        .await;
    tenancy.assert_unharmed().await;
    db.drain().await;
    db.assert_checked().await;
}

/// Puts another type in the place of that of [`with_typed_phone`].
const ANOTHER_TYPE: &str = "ALTER SCHEMA rs RENAME TO former; CREATE SCHEMA rs;
     CREATE DOMAIN rs.tel AS text CHECK (m.evil())";

/// A linked person whose phone is of a type in schema `rs`, and the id of the record.
async fn with_typed_phone() -> (Tenancy, Crm, String) {
    let db = CLUSTER.database().await;
    let crm = Crm::connect(&db, Vendor::HubSpot).await;
    let desk = Desk::furnish_as(db, crm, "bidirectional", "on_insert => 'ignore'", "").await;
    let mut ids = desk.link(1).await;
    let Desk { db, crm, map, .. } = desk;
    let tenancy = Tenancy::found(db).await;
    let retype = "CREATE DOMAIN rs.tel AS text; ALTER TABLE people ALTER phone TYPE rs.tel";
    tenancy.db.execute(retype).await;
    let field = crm.vendor.field("phone");
    let sql =
        format!("SELECT crm.alter_field({map}, 'phone', '{field}', direction => 'bidirectional')");
    tenancy.db.execute(&sql).await;
    (tenancy, crm, ids.remove(0))
}

/// A value from the CRM is made one of the column's type by its name.
#[tokio::test]
async fn another_type_in_a_column_types_place_is_not_used() {
    let (tenancy, crm, id) = with_typed_phone().await;
    let (db, field) = (&tenancy.db, crm.vendor.field("phone"));
    db.execute("UPDATE people SET phone = '1', email = 'a@x.test'")
        .await;
    db.drain().await;
    // The CRM holds something else by now, which wins: the row takes it once the CRM has answered.
    let people = crm.vendor.people();
    crm.edit(db, people, &id, &json!({field: "theirs"})).await;
    let flush = under_way(db, &crm, "UPDATE people SET phone = 'ours'").await;
    tenancy.mallory.execute(ANOTHER_TYPE).await;
    flush.await.expect("the flush");
    tenancy.assert_unharmed().await;
    eventually("the row takes what the CRM holds", async || {
        let sql = "SELECT phone::text FROM people";
        (db.one::<String>(sql, &[]).await == "theirs").then_some(())
    })
    .await;
    db.assert_checked().await;
}

/// `crm.write()` changes the row as its caller, once nobody else holds it.
#[tokio::test]
async fn another_type_is_not_used_as_the_caller_of_a_write() {
    let (tenancy, crm, _) = with_typed_phone().await;
    let (db, field) = (&tenancy.db, crm.vendor.field("phone"));
    db.drain().await;
    let holder = db.session().await;
    holder
        .execute("BEGIN; SELECT FROM people WHERE id = 'p1' FOR UPDATE")
        .await;
    let session = db.session().await;
    let pid: i32 = session.one("SELECT pg_backend_pid()", &[]).await;
    let call = r#"SELECT crm.write('people', 'p1', '{"phone": "ours"}')::text"#;
    let call = tokio::spawn(async move { session.client().query_one(call, &[]).await });
    waits_for_a_lock(db, pid).await;
    tenancy.mallory.execute(ANOTHER_TYPE).await;
    holder.execute("COMMIT").await;
    let error = call.await.expect("the call").expect_err("a refusal");
    tenancy.assert_unharmed().await;
    let error = error.as_db_error().expect("an error of the server");
    assert_eq!(error.code().code(), "42704", "{error:?}");
    // By the mapping as it is now.
    let call = r#"SELECT crm.write('people', 'p1', '{"phone": "ours"}')::text"#;
    db.execute(call).await;
    db.drain().await;
    let people = crm.records(db, crm.vendor.people()).await;
    let person = people.into_values().next().expect("a record");
    assert_eq!(person[field], "ours");
    db.assert_checked().await;
}

/// `crm.check_mapping()` reads the table, as its owner.
#[tokio::test]
async fn another_relation_is_not_looked_at_for_its_lengths() {
    let tenancy = tenancy().await;
    let db = &tenancy.db;
    db.execute("CREATE TABLE rs.p (id text PRIMARY KEY, email text); INSERT INTO rs.p VALUES ('p1', 'long')")
        .await;
    let holder = db.session().await;
    holder
        .execute("BEGIN; LOCK TABLE rs.p IN ACCESS EXCLUSIVE MODE")
        .await;
    let (session, watch) = (db.session().await, db.session().await);
    let pid: i32 = session.one("SELECT pg_backend_pid()", &[]).await;
    // By its number: its name waits for the lock, too.
    let table: u32 = watch
        .one("SELECT oid FROM pg_class WHERE relname = 'p'", &[])
        .await;
    let sql = format!("SELECT crm_internal.longest_text({table}::oid::regclass, 'email')");
    let looking = tokio::spawn(async move { session.client().query_one(&sql, &[]).await });
    waits_for_a_lock(&watch, pid).await;
    tenancy
        .mallory
        .execute(
            "ALTER SCHEMA rs RENAME TO former; CREATE SCHEMA rs;
             CREATE VIEW rs.p AS SELECT 'p1'::text AS id, 'evil'::text AS email WHERE m.evil()",
        )
        .await;
    holder.execute("COMMIT").await;
    let error = looking.await.expect("the look").expect_err("a refusal");
    let error = error.as_db_error().expect("an error of the server");
    assert_eq!(error.code().code(), "42P01", "{error:?}");
    tenancy.assert_unharmed().await;
}
