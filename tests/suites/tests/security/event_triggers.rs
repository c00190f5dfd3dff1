//! Whatever alters a mapped table is followed, and nobody's DDL waits or fails for a map of
//! somebody else.

use std::time::Duration;

use crm_suites::eventually;
use crm_suites::eventually::promptly;

use crate::possession::{PEOPLE, Possession};

const PARTITIONED: &str =
    "CREATE TABLE m.people (id text PRIMARY KEY, email varchar, phone text) PARTITION BY HASH (id);
     CREATE TABLE m.sub PARTITION OF m.people FOR VALUES WITH (MODULUS 8, REMAINDER 0) PARTITION BY HASH (id)";

/// Ways to make a partition, and its name.
const WAYS: [(&str, &str); 8] = [
    (
        "CREATE SCHEMA made CREATE TABLE p1 PARTITION OF m.people FOR VALUES WITH (MODULUS 8, REMAINDER 1)",
        "made.p1",
    ),
    (
        "CREATE TABLE IF NOT EXISTS m.p2 PARTITION OF m.people FOR VALUES WITH (MODULUS 8, REMAINDER 2)",
        "m.p2",
    ),
    (
        "DO $$ BEGIN EXECUTE 'CREATE TABLE m.p3 PARTITION OF m.people FOR VALUES WITH (MODULUS 8, REMAINDER 3)'; END $$",
        "m.p3",
    ),
    (
        "CREATE TABLE m.p4 (LIKE m.people); ALTER TABLE m.people ATTACH PARTITION m.p4 FOR VALUES WITH (MODULUS 8, REMAINDER 4)",
        "m.p4",
    ),
    (
        "CREATE TABLE m.p5 PARTITION OF m.sub FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        "m.p5",
    ),
    (
        "CREATE SCHEMA made_too CREATE TABLE p6 PARTITION OF m.sub FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
        "made_too.p6",
    ),
    (
        "CREATE TABLE m.p7 (id text NOT NULL, email varchar, phone text) PARTITION BY LIST (id);
      CREATE TABLE m.leaf PARTITION OF m.p7 DEFAULT;
      ALTER TABLE m.people ATTACH PARTITION m.p7 FOR VALUES WITH (MODULUS 8, REMAINDER 5)",
        "m.leaf",
    ),
    ("CREATE EXTENSION crm_suite_partition SCHEMA m", "m.p8"),
];

#[tokio::test]
async fn every_way_to_make_a_partition_is_followed() {
    let files = crm_suites::cluster::extension_directory();
    let file = |name: &str, text: &str| std::fs::write(files.join(name), text).expect("a file");
    file(
        "crm_suite_partition.control",
        "default_version = '1'\ntrusted = true\nrelocatable = true\n",
    );
    file(
        "crm_suite_partition--1.sql",
        "CREATE TABLE m.p8 PARTITION OF m.people FOR VALUES WITH (MODULUS 8, REMAINDER 6);",
    );
    let possession = Possession::of(PARTITIONED, "outbound", ", on_insert => 'create'").await;
    let grant = format!(
        "GRANT CREATE ON DATABASE {} TO {}",
        possession.db.name, possession.role
    );
    possession.db.execute(&grant).await;
    for (way, partition) in WAYS {
        let session = if way.contains("EXTENSION") {
            &*possession.db
        } else {
            &possession.owner
        };
        session.execute(way).await;
        let error = session
            .error(&format!("INSERT INTO {partition} VALUES ('x')"))
            .await;
        assert_eq!(error.code().code(), "0A000", "{way}: {error:?}");
    }
    for (_, partition) in WAYS {
        let sql =
            format!("SELECT count(*) FROM pg_trigger WHERE tgrelid = '{partition}'::regclass");
        assert_eq!(possession.db.one::<i64>(&sql, &[]).await, 1, "{partition}");
    }
    possession
        .owner
        .execute("ALTER TABLE m.people DETACH PARTITION m.p2; INSERT INTO m.p2 VALUES ('x')")
        .await;
    assert_eq!(possession.state().await, "idle");
}

/// What others do goes on while the owner holds the table.
async fn others_go_on(possession: &Possession) {
    let other = possession.db.session().await;
    let role = format!("{}_other", possession.db.name);
    other
        .execute(&format!("CREATE ROLE {role}; CREATE SCHEMA o AUTHORIZATION {role}; SET SESSION AUTHORIZATION {role}"))
        .await;
    for sql in [
        "CREATE TABLE o.mine (id int PRIMARY KEY)",
        "ALTER TABLE o.mine ADD more text",
        "CREATE TEMP TABLE short_lived (id int)",
        "CREATE TYPE o.pair AS (a int, b int)",
        "DROP TABLE o.mine, short_lived",
    ] {
        promptly(Duration::from_secs(20), sql, other.execute(sql)).await;
    }
    other
        .execute(&format!(
            "RESET SESSION AUTHORIZATION; DROP SCHEMA o CASCADE; DROP ROLE {role}"
        ))
        .await;
}

#[tokio::test]
async fn nobody_waits_for_a_table_that_its_owner_holds() {
    let possession = Possession::of(PEOPLE, "outbound", "").await;
    let owner = &possession.owner;
    owner
        .execute("BEGIN; ALTER TABLE m.people RENAME phone TO telephone")
        .await;
    others_go_on(&possession).await;
    owner.execute("COMMIT").await;
    assert_eq!(possession.state().await, "idle");

    // Also when it is out of step with its map, which nobody noticed.
    possession
        .db
        .execute("ALTER EVENT TRIGGER pg_crm_follow_ddl DISABLE")
        .await;
    owner
        .execute("BEGIN; ALTER TABLE m.people ALTER email TYPE text")
        .await;
    // The next one to come finds it so.
    possession
        .db
        .execute("ALTER EVENT TRIGGER pg_crm_follow_ddl ENABLE")
        .await;
    owner.execute("COMMIT; BEGIN; LOCK TABLE m.people").await;
    others_go_on(&possession).await;
    owner.execute("COMMIT").await;
    // Until then it may say that it waits for the table.
    eventually("the map is followed", async || {
        let reason = possession.stopped().await;
        reason.contains("changed its type").then_some(())
    })
    .await;
}

/// The configuration is held by somebody else for as long as they like: the owner's DDL succeeds,
/// the map follows later.
#[tokio::test]
async fn the_map_follows_later_if_it_cannot_now() {
    let possession = Possession::of(PEOPLE, "outbound", "").await;
    let held = possession.db.session().await;
    held.execute("BEGIN; SELECT FROM crm.object_map FOR UPDATE")
        .await;
    promptly(
        Duration::from_secs(30),
        "the owner's DDL",
        possession
            .owner
            .execute("ALTER TABLE m.people RENAME phone TO telephone"),
    )
    .await;
    let reason = possession.stopped().await;
    assert!(reason.contains("not rebuilt the map yet"), "{reason}");
    held.execute("COMMIT").await;
    possession.idle().await;
    eventually("the column is followed", async || {
        let sql = "SELECT crm_field FROM crm.field_map WHERE column_name = 'telephone'";
        (possession.db.all::<String>(sql, &[]).await == ["first_name"]).then_some(())
    })
    .await;
    let done: bool = possession
        .owner
        .one("WITH w AS (INSERT INTO m.people VALUES ('p1', 'a', '1') RETURNING true) SELECT * FROM w", &[])
        .await;
    assert!(done);
}
