//! pg_dump and a restore keep mappings, links and what waits; credentials stay behind, and nothing
//! is sent again.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crm_suites::{Cluster, Database, Desk, Vendor, cluster, eventually, process};

use crate::CLUSTER;

/// The ways of pg_dump and pg_restore.
#[derive(Clone, Copy)]
enum Way {
    Plain,
    Custom,
    /// Four at once.
    Parallel,
    /// One part after the other, the rows four at once.
    Sections,
    /// Over what is there already.
    Clean,
}

/// A copy of the database by way of pg_dump, in another database of the cluster, which it does not
/// adopt yet.
async fn restored(desk: &Desk, way: Way) -> Database {
    let copy = CLUSTER.bare_database().await;
    let dump = dumped(&CLUSTER, &desk.db, way);
    restore(&CLUSTER, &copy, &dump, way, "postgres");
    if matches!(way, Way::Clean) {
        restore(&CLUSTER, &copy, &dump, way, "postgres");
    }
    copy
}

fn dumped(cluster: &Cluster, db: &Database, way: Way) -> PathBuf {
    let file = cluster.path().join(format!("{}.dump", db.name));
    let mut dump = cluster::program("pg_dump");
    dump.arg("-h").arg(cluster.path()).args(["-U", "postgres"]);
    dump.arg(match way {
        Way::Plain => "-Fp",
        Way::Custom => "-Fc",
        Way::Parallel | Way::Sections | Way::Clean => "-Fd",
    });
    process::run(dump.arg("-f").arg(&file).arg(&db.name));
    file
}

fn restore(cluster: &Cluster, into: &Database, dump: &Path, way: Way, user: &str) {
    let run = |program: &str, arguments: &[&str]| {
        let mut command = cluster::program(program);
        command
            .arg("-h")
            .arg(cluster.path())
            .args(["-U", user, "-d", &into.name])
            .args(arguments);
        if program == "psql" {
            command.arg("-f");
        }
        process::run(command.arg(dump).stdout(Stdio::null()));
    };
    match way {
        Way::Plain => run("psql", &["-X", "-q", "-v", "ON_ERROR_STOP=1"]),
        Way::Custom => run("pg_restore", &["--exit-on-error"]),
        Way::Parallel => run("pg_restore", &["--exit-on-error", "-j", "4"]),
        Way::Sections => {
            run("pg_restore", &["--exit-on-error", "--section=pre-data"]);
            run(
                "pg_restore",
                &["--exit-on-error", "--section=data", "-j", "4"],
            );
            run(
                "pg_restore",
                &["--exit-on-error", "--section=post-data", "-j", "4"],
            );
        }
        Way::Clean => run(
            "pg_restore",
            &["--exit-on-error", "--clean", "--if-exists", "-j", "4"],
        ),
    }
}

/// The tables that a dump takes along, with all that they hold.
async fn contents(db: &Database) -> Vec<(String, i64, String)> {
    let mut contents = Vec::new();
    for table in [
        "connection",
        "object_map",
        "field_map",
        "change",
        "ledger",
        "queue",
        "pending_write",
        "conflict",
        "dead_letter",
        "audit_log",
        "ingest_state",
        "refetch",
        "former_link",
        "orphaned_create",
        "unseen_write",
        "webhook_inbox",
    ] {
        let sql = format!(
            "SELECT count(*), coalesce(md5(string_agg(t::text, E'\n' ORDER BY t::text)), '') FROM crm.{table} t"
        );
        let row = &db.rows(&sql, &[]).await[0];
        contents.push((table.to_owned(), row.get(0), row.get(1)));
    }
    contents
}

/// Everything is there as it was, nothing was queued anew, and the triggers capture.
async fn comes_back_whole(way: Way) {
    let mut desk = Desk::open_with(
        &CLUSTER,
        Vendor::Salesforce,
        "on_insert => 'create', on_delete => 'delete'",
    )
    .await;
    desk.map_field("title", r#"validation => '{"max_length": 9}'"#)
        .await;
    desk.link(20).await;
    desk.db.execute("UPDATE people SET phone = 'before'").await;
    desk.settle().await;
    desk.ingest().await;
    desk.db.execute("SELECT crm.pause('salesforce')").await;
    desk.db
        .execute("UPDATE people SET phone = 'left over' WHERE id IN ('p7', 'p8')")
        .await;
    desk.db.at_rest().await;
    let before = contents(&desk.db).await;
    let copy = restored(&desk, way).await;
    desk.crm.sim().forget_requests();
    let _original = std::mem::replace(&mut desk.db, copy);
    desk.db.worker().await;
    assert!(!desk.db.flush().await, "it waits to be adopted");
    desk.db.assert_checked().await;
    assert_eq!(contents(&desk.db).await, before);
    assert_eq!(desk.crm.sim().requests("").len(), 0);
    let bound =
        "SELECT array_agg(b.column_name::text ORDER BY b.column_name) FROM crm.bound_column b";
    let mapped = "SELECT array_agg(x.c::text ORDER BY x.c) FROM (SELECT column_name AS c FROM crm.field_map UNION SELECT 'id') x";
    assert_eq!(
        desk.db.one::<Vec<String>>(bound, &[]).await,
        desk.db.one::<Vec<String>>(mapped, &[]).await
    );
    let triggers = "pg_trigger WHERE tgrelid = 'people'::regclass AND tgname LIKE 'pg_crm%'";
    assert_eq!(desk.db.count(triggers).await, 4);

    desk.db
        .execute(
            "SELECT crm.adopt_connections(); SELECT crm.resume('salesforce');
             SELECT crm.set_credentials('salesforce', '{\"access_token\": \"sf-token\"}')",
        )
        .await;
    desk.settle().await;
    let writes = desk.crm.sim().requests("");
    let writes = writes.iter().filter(|request| request["method"] != "GET");
    assert_eq!(writes.count(), 1, "only what was left over");
    // Captured, checked and followed.
    desk.db
        .execute("UPDATE people SET phone = 'after'; DELETE FROM people WHERE id = 'p3'")
        .await;
    desk.settle().await;
    let error = desk
        .db
        .error("UPDATE people SET title = 'more than nine'")
        .await;
    assert_eq!(error.code().code(), "23514", "{error:?}");
    desk.db
        .execute("ALTER TABLE people RENAME COLUMN title TO headline; UPDATE people SET headline = 'head'")
        .await;
    desk.settle().await;
}

#[tokio::test]
async fn a_plain_dump_comes_back_whole() {
    comes_back_whole(Way::Plain).await;
}

#[tokio::test]
async fn a_custom_dump_comes_back_whole() {
    comes_back_whole(Way::Custom).await;
}

#[tokio::test]
async fn a_parallel_restore_comes_back_whole() {
    comes_back_whole(Way::Parallel).await;
}

#[tokio::test]
async fn a_restore_by_sections_comes_back_whole() {
    comes_back_whole(Way::Sections).await;
}

#[tokio::test]
async fn a_restore_over_what_is_there_comes_back_whole() {
    comes_back_whole(Way::Clean).await;
}

/// Another server knows neither the role of pg_crm nor the superuser who made all this.
#[tokio::test]
async fn another_server_and_superuser_take_a_dump() {
    let mut desk = Desk::open_with(&CLUSTER, Vendor::Salesforce, "on_insert => 'create'").await;
    desk.link(5).await;
    desk.db.execute("UPDATE people SET phone = 'before'").await;
    desk.settle().await;
    desk.db
        .execute("SELECT crm.pause('salesforce'); UPDATE people SET phone = 'left over'")
        .await;
    let dump = dumped(&CLUSTER, &desk.db, Way::Parallel);
    let other = Cluster::start();
    let copy = other.bare_database().await;
    copy.execute("CREATE ROLE restorer SUPERUSER LOGIN").await;
    restore(&other, &copy, &dump, Way::Parallel, "restorer");
    desk.crm.sim().forget_requests();
    let _original = std::mem::replace(&mut desk.db, copy);
    desk.db.worker().await;
    desk.db
        .execute(
            "SELECT crm.resume('salesforce');
             SELECT crm.set_credentials('salesforce', '{\"access_token\": \"sf-token\"}')",
        )
        .await;
    assert!(
        !desk.db.flush().await,
        "credentials alone are no permission to send"
    );
    assert_eq!(desk.crm.sim().requests("").len(), 0);
    desk.db.assert_checked().await;
    desk.db.execute("SELECT crm.adopt_connections()").await;
    desk.settle().await;
    assert_eq!(desk.field("p1", "phone").await, "left over");
}

#[tokio::test]
async fn a_restore_sends_nothing_again() {
    let mut desk = Desk::open_with(
        &CLUSTER,
        Vendor::Salesforce,
        "on_insert => 'create', on_delete => 'delete'",
    )
    .await;
    desk.link(20).await;
    desk.db.execute("UPDATE people SET phone = 'before'").await;
    desk.settle().await;
    // The original waits: it must not be its worker that sends what follows.
    desk.db.execute("SELECT crm.pause('salesforce')").await;
    desk.db
        .execute("UPDATE people SET phone = 'left over' WHERE id = 'p7'")
        .await;
    let copy = restored(&desk, Way::Plain).await;
    let dump = std::fs::read_to_string(dumped(&CLUSTER, &desk.db, Way::Plain)).expect("the dump");
    for secret in ["sf-token", "hs-token"] {
        assert!(!dump.contains(secret), "{secret} is in the dump");
    }
    copy.execute("SELECT crm.adopt_connections()").await;
    desk.crm.sim().forget_requests();
    desk.db = copy;
    desk.db.worker().await;
    desk.db.assert_checked().await;
    assert_eq!(
        desk.db.count("crm.credential WHERE secret <> '{}'").await,
        0
    );
    assert_eq!(
        desk.db.count("crm.ledger WHERE crm_id IS NOT NULL").await,
        20
    );
    desk.db.execute("SELECT crm.resume('salesforce')").await;
    assert!(!desk.db.flush().await, "without credentials nothing can go");
    assert_eq!(
        desk.crm.sim().requests("/composite").len() + desk.crm.sim().requests("/sobjects").len(),
        0
    );
    let said = desk.db.text("SELECT state, reason FROM crm.status").await;
    assert!(
        said.contains("error") && said.contains("credential"),
        "{said}"
    );

    desk.db
        .execute(r#"SELECT crm.set_credentials('salesforce', '{"access_token": "sf-token"}')"#)
        .await;
    desk.settle().await;
    let writes = desk
        .crm
        .sim()
        .requests("/sobjects")
        .into_iter()
        .filter(|request| request["method"] != "GET");
    assert_eq!(writes.count(), 1, "only what was left over");
    // Captured by the restored triggers.
    desk.db
        .execute("UPDATE people SET phone = 'after'; DELETE FROM people WHERE id = 'p3'")
        .await;
    desk.db
        .execute("INSERT INTO people (id, last_name) VALUES ('n1', 'New')")
        .await;
    desk.settle().await;
}

#[tokio::test]
async fn rules_and_renames_hold_after_a_restore() {
    let mut desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.map_field("title", r#"validation => '{"max_length": 3}'"#)
        .await;
    desk.db = restored(&desk, Way::Plain).await;
    let error = desk
        .db
        .error("INSERT INTO people (id, last_name, title) VALUES ('p1', 'x', 'long')")
        .await;
    assert_eq!(error.code().code(), "23514", "{error:?}");
    desk.db
        .execute("ALTER TABLE people RENAME COLUMN title TO headline")
        .await;
    let mapped = "SELECT column_name::text FROM crm.field_map WHERE crm_field = 'x_title'";
    assert_eq!(desk.db.one::<String>(mapped, &[]).await, "headline");
    eventually("the worker is there", async || desk.db.worker_now().await).await;
    desk.db.assert_checked().await;
}

/// A map whose keys DDL has changed is stopped in the copy too, and whatever DDL comes after, until
/// somebody says that none has.
#[tokio::test]
async fn changed_keys_are_not_forgotten() {
    let mut desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.map_field("title", "").await;
    let ddl =
        "ALTER TABLE people ALTER id TYPE text USING 'x' || id; ALTER TABLE people ADD note text";
    desk.db.execute(ddl).await;
    let reason = "SELECT coalesce(reason, state) FROM crm.status";
    let said = "ALTER TABLE rewrote column \"id\", and keys of rows may have changed: call crm.alter_map(1) if none did, otherwise crm.unmap_object(), and map the table again";
    assert_eq!(desk.db.one::<String>(reason, &[]).await, said);
    desk.db = restored(&desk, Way::Custom).await;
    desk.db
        .execute(
            "SELECT crm.adopt_connections(); ALTER TABLE people RENAME COLUMN title TO headline",
        )
        .await;
    desk.db.worker().await;
    assert_eq!(desk.db.one::<String>(reason, &[]).await, said);
    desk.db
        .execute("ALTER TABLE people DROP COLUMN headline; SELECT crm.unmap_field(1, 'headline')")
        .await;
    assert_eq!(desk.db.one::<String>(reason, &[]).await, said);
    desk.db
        .execute("SELECT crm.alter_field(1, 'phone', direction => 'bidirectional')")
        .await;
    assert_eq!(desk.db.one::<String>(reason, &[]).await, said);
    desk.db.execute("SELECT crm.alter_map(1)").await;
    assert_eq!(desk.db.one::<String>(reason, &[]).await, "idle");
    desk.db.assert_checked().await;
}
