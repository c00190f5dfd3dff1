//! Cells that change without a trigger having fired: what is edited afterwards is judged by what
//! the CRM holds, and the change itself is found.

use crm_suites::{Cluster, Database, Desk, Json, Live, SqlState, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(the_next_edit_reaches_the_crm, rows_in_step_are_no_breach);
crm_suites::with_more_crms!(the_next_edit_reaches_the_crm, rows_in_step_are_no_breach);

const BOTH_WAYS: [&str; 2] = ["first_name", "phone"];

/// A person who is on both sides, with cells that were changed behind capture.
async fn disturbed(vendor: Vendor) -> Live {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(1).await;
    live.db
        .execute(
            "ALTER TABLE people DISABLE TRIGGER USER;
             UPDATE people SET first_name = 'Behind', phone = 'behind';
             ALTER TABLE people ENABLE TRIGGER USER",
        )
        .await;
    live
}

async fn the_next_edit_reaches_the_crm(vendor: Vendor) {
    let live = disturbed(vendor).await;
    live.db
        .execute("UPDATE people SET first_name = 'Augusta', phone = '+2'")
        .await;
    live.agree().await;
    live.assert_both("p1", "first_name", "Augusta").await;
    live.assert_both("p1", "phone", "+2").await;
    assert_eq!(live.db.count("crm.conflicts").await, 0);
}

#[tokio::test]
async fn the_next_call_reaches_the_crm_also_behind_others() {
    let live = disturbed(Vendor::Stub).await;
    live.pause().await;
    live.db
        .execute("UPDATE people SET last_name = 'King'")
        .await;
    live.write("p1", json!({"first_name": "Augusta"}))
        .await
        .expect("pending");
    live.write("p1", json!({"phone": "+2"}))
        .await
        .expect("pending");
    live.write("p1", json!({"phone": "+3"}))
        .await
        .expect("pending");
    live.resume().await;
    live.agree().await;
    live.assert_both("p1", "first_name", "Augusta").await;
    live.assert_both("p1", "phone", "+3").await;
}

/// Only what nobody in the CRM has touched since: that is judged as ever.
#[tokio::test]
async fn a_strangers_change_stands_also_where_the_row_changed_behind_capture() {
    let live = disturbed(Vendor::Stub).await;
    live.pause().await;
    for column in BOTH_WAYS {
        live.edit_in_crm("p1", json!({column: "theirs"})).await;
    }
    live.db
        .execute("UPDATE people SET first_name = 'Augusta', phone = '+2'")
        .await;
    live.resume().await;
    live.agree().await;
    for column in BOTH_WAYS {
        live.assert_both("p1", column, "theirs").await;
    }
}

/// What DDL makes of mapped columns goes to the CRM, and nobody's edit is lost by it.
#[tokio::test]
async fn what_ddl_makes_of_cells_reaches_the_crm() {
    let db = CLUSTER.database().await;
    db.execute(
        "SELECT crm.create_connection('s', 'stub');
         CREATE TYPE mood AS ENUM ('happy', 'sad');
         CREATE TABLE t (id int PRIMARY KEY, name varchar(80), mood mood, moods mood[], price int, title text);
         SELECT crm.map_object('s', 't', 'contact', external_id_field => 'external_key', on_insert => 'create');
         SELECT crm.map_field(1, 'name', 'last_name'), crm.map_field(1, 'mood', 'x_mood'), crm.map_field(1, 'price', 'x_price'),
                crm.map_field(1, 'moods', 'x_moods', direction => 'outbound'),
                crm.map_field(1, 'title', 'x_title', direction => 'outbound');
         INSERT INTO t VALUES (1, 'Lovelace', 'happy', '{happy,sad}', 1250, 'Countess'), (2, 'Hopper', 'sad', '{}', 3, 'Admiral')",
    )
    .await;
    db.drain().await;
    db.execute(
        "ALTER TABLE t ALTER COLUMN name TYPE varchar(60) USING upper(name), ALTER COLUMN title TYPE text USING left(title, 5);
         ALTER TYPE mood RENAME VALUE 'happy' TO 'glad';
         ALTER TABLE t ALTER COLUMN price TYPE numeric(10,2) USING price / 100.0;
         SELECT crm.alter_field(1, 'price')",
    )
    .await;
    db.drain().await;
    let record = "SELECT fields - 'external_key' FROM crm_stub.records WHERE fields ->> 'external_key' = '1'";
    assert_eq!(
        db.one::<Json>(record, &[]).await,
        json!({"last_name": "LOVELACE", "x_mood": "glad", "x_moods": ["glad", "sad"], "x_price": 12.5, "x_title": "Count"})
    );
    // Each record once, with what changed of it alone.
    let wrote = "SELECT record_key || ' ' || string_agg(x.f, ' ' ORDER BY x.f) FROM crm.audit_log a, LATERAL (SELECT jsonb_object_keys(a.fields) AS f) x
                 WHERE operation = 'update' AND result = 'applied' AND x.f <> 'x_price' GROUP BY record_key ORDER BY record_key";
    let wrote: Vec<String> = db.all(wrote, &[]).await;
    assert_eq!(
        wrote,
        ["1 last_name x_mood x_moods x_title", "2 last_name x_title"]
    );
    db.execute("UPDATE t SET name = 'Byron', mood = 'sad', price = 13 WHERE id = 1")
        .await;
    db.drain().await;
    assert_eq!(
        db.one::<Json>(record, &[]).await,
        json!({"last_name": "Byron", "x_mood": "sad", "x_moods": ["glad", "sad"], "x_price": 13, "x_title": "Count"})
    );
    assert_eq!(db.count("crm.conflicts").await, 0);
    db.assert_checked().await;
}

/// The rows of many are compared a part at a time, in the order of whatever makes their keys
/// unique.
#[tokio::test]
async fn many_rows_are_compared_in_parts_and_by_any_key() {
    let db = CLUSTER.database().await;
    db.execute(
        "SELECT crm.create_connection('s', 'stub');
         CREATE TYPE region AS ENUM ('north', 'south');
         CREATE TABLE plain (id text PRIMARY KEY, name text);
         CREATE TABLE parted (region region NOT NULL, id uuid DEFAULT gen_random_uuid(), name text, PRIMARY KEY (region, id))
             PARTITION BY LIST (region);
         CREATE TABLE parted_north PARTITION OF parted FOR VALUES IN ('north');
         CREATE TABLE parted_south PARTITION OF parted FOR VALUES IN ('south');
         SELECT crm.map_object('s', 'plain', 'account', external_id_field => 'external_key', on_insert => 'create'),
                crm.map_object('s', 'parted', 'contact', key_column => 'id', shard_column => 'region',
                               external_id_field => 'external_key', on_insert => 'create');
         SELECT crm.map_field(1, 'name', 'name', direction => 'outbound'), crm.map_field(2, 'name', 'last_name', direction => 'outbound');
         INSERT INTO plain SELECT CASE WHEN n % 2 = 0 THEN 'é' ELSE 'z-' END || n, 'name ' || n FROM generate_series(1, 2500) n;
         INSERT INTO parted (region, name) SELECT CASE WHEN n % 3 = 0 THEN 'north' ELSE 'south' END::region, 'name ' || n
         FROM generate_series(1, 2500) n",
    )
    .await;
    db.drain().await;
    db.execute(
        "ALTER TABLE plain ALTER name TYPE text USING CASE WHEN name LIKE '%7' THEN upper(name) ELSE name END;
         ALTER TABLE parted ALTER name TYPE text USING CASE WHEN name LIKE '%7' THEN upper(name) ELSE name END",
    )
    .await;
    db.drain().await;
    for (object, field) in [("account", "name"), ("contact", "last_name")] {
        let changed = format!(
            "crm_stub.records WHERE crm_object = '{object}' AND fields ->> '{field}' LIKE 'NAME %7'"
        );
        assert_eq!(db.count(&changed).await, 250, "{object}");
    }
    assert_eq!(
        db.count("crm.audit_log WHERE operation = 'update'").await,
        500
    );
    assert_eq!(db.count("crm.scan_request").await, 0);
    db.assert_checked().await;
}

/// Rows that were changed, and inserted, while triggers did not fire.
#[tokio::test]
async fn what_an_operator_asks_for_is_captured_after_the_fact() {
    let live = Live::with(&CLUSTER, Vendor::Stub, "on_insert => 'create'", "").await;
    live.people(2).await;
    live.db
        .execute(
            "BEGIN;
             SET LOCAL session_replication_role = replica;
             UPDATE people SET first_name = 'Behind' WHERE id = 'p1';
             INSERT INTO people (id, last_name) VALUES ('p3', 'New');
             COMMIT",
        )
        .await;
    let recapture = format!("SELECT crm.recapture({})", live.map);
    live.db.execute(&recapture).await;
    assert!(live.db.flush().await);
    live.quiet().await;
    live.assert_both("p1", "first_name", "Behind").await;
    assert_eq!(live.crm_id("p3").await, None);
    live.db
        .execute(&format!(
            "SELECT crm.recapture({}, new_rows => true)",
            live.map
        ))
        .await;
    live.db.drain().await;
    live.agree().await;
    // What is in step stays as it is.
    live.crm.forget(&live.db).await;
    live.db.execute(&recapture).await;
    assert!(live.db.flush().await);
    live.quiet().await;
    assert_eq!(live.crm.asked(&live.db).await, Vec::<String>::new());
    live.db.assert_checked().await;
}

/// A partition's rows are not captured while it is detached.
#[tokio::test]
async fn what_changed_in_a_detached_partition_is_found() {
    let db = CLUSTER.database().await;
    db.execute(
        "SELECT crm.create_connection('s', 'stub');
         CREATE TABLE t (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF t FOR VALUES FROM (1) TO (100);
         CREATE TABLE high PARTITION OF t FOR VALUES FROM (100) TO (200);
         SELECT crm.map_object('s', 't', 'account', external_id_field => 'external_key', on_insert => 'create');
         SELECT crm.map_field(1, 'name', 'name', direction => 'outbound');
         INSERT INTO t VALUES (1, 'low'), (100, 'high')",
    )
    .await;
    db.drain().await;
    db.execute("ALTER TABLE t DETACH PARTITION high").await;
    db.execute("UPDATE high SET name = 'higher'; ALTER TABLE t ATTACH PARTITION high FOR VALUES FROM (100) TO (200)")
        .await;
    db.drain().await;
    let names: Vec<String> = db
        .all(
            "SELECT fields ->> 'name' FROM crm_stub.records ORDER BY 1",
            &[],
        )
        .await;
    assert_eq!(names, ["higher", "low"]);
    // A new one is empty, and nothing is compared for its sake.
    db.execute("CREATE TABLE top PARTITION OF t FOR VALUES FROM (200) TO (300)")
        .await;
    assert_eq!(db.count("crm.scan_request").await, 0);
    db.assert_checked().await;
}

async fn deep(db: &Database) -> Vec<String> {
    db.all("SELECT detail FROM crm.check(deep => true) ORDER BY 1", &[])
        .await
}

/// A table that the ledger knows, of so many rows; nothing of it was ever sent.
async fn known_rows(db: &Database, rows: u32) {
    db.execute(&format!(
        "SELECT crm.create_connection('s', 'stub');
         SELECT crm.pause('s');
         CREATE TABLE t (id int PRIMARY KEY, name text, title text);
         SELECT crm.map_object('s', 't', 'contact', external_id_field => 'external_key', on_insert => 'create', on_delete => 'delete');
         SELECT crm.map_field(1, 'name', 'last_name'), crm.map_field(1, 'title', 'x_title', direction => 'outbound');
         BEGIN;
         SET LOCAL session_replication_role = replica;
         INSERT INTO t SELECT n, 'name ' || n, 'title ' || n FROM generate_series(1, {rows}) n;
         INSERT INTO crm.ledger (map_id, record_key, crm_id, synced_at, hashes)
         SELECT 1, t.id::text, 'r' || t.id, ARRAY[now(), now()],
                substr(crm.hash(to_jsonb(t.name)), 1, 16) || substr(crm.hash(to_jsonb(t.title)), 1, 16) FROM t;
         COMMIT"
    ))
    .await;
}

#[tokio::test]
async fn a_deep_check_holds_every_row_against_the_ledger() {
    let db = CLUSTER.database().await;
    known_rows(&db, 20_000).await;
    assert_eq!(deep(&db).await, Vec::<String>::new());
    db.execute(
        "BEGIN;
         SET LOCAL session_replication_role = replica;
         UPDATE t SET name = 'behind' WHERE id IN (7, 19999);
         UPDATE t SET title = 'behind', name = 'behind' WHERE id = 12345;
         DELETE FROM t WHERE id = 8;
         INSERT INTO t VALUES (20001, 'new');
         COMMIT;
         -- What is captured waits, and is no breach, folded or not.
         UPDATE t SET title = 'captured', name = 'captured' WHERE id = 10;
         UPDATE t SET title = 'captured' WHERE id BETWEEN 11 AND 600;
         DELETE FROM t WHERE id = 9;
         INSERT INTO t SELECT n, 'captured' FROM generate_series(20002, 20010) n",
    )
    .await;
    let and_nothing = "from what the CRM last held, and nothing waits to be written";
    let expected = [
        format!("record 12345 of map 1 differs in \"name\", \"title\" {and_nothing}"),
        format!("record 19999 of map 1 differs in \"name\" {and_nothing}"),
        "record 20001 of map 1 has no CRM record, and nothing waits to create one".to_owned(),
        format!("record 7 of map 1 differs in \"name\" {and_nothing}"),
        "record 8 of map 1 is linked to a CRM record, but its row is gone".to_owned(),
    ];
    assert_eq!(deep(&db).await, expected);
    assert_eq!(db.count("crm.check()").await, 0);
    // If all rows differ, the report stays short.
    db.execute("BEGIN; SET LOCAL session_replication_role = replica; UPDATE t SET title = 'behind'; COMMIT")
        .await;
    let found = deep(&db).await;
    let more = "more rows differ from what the CRM last held";
    assert!(found.len() < 120, "{}", found.len());
    assert!(found.iter().any(|line| line.ends_with(more)), "{found:?}");
    // Whose rows they are is not for everybody to read.
    db.execute("DROP ROLE IF EXISTS shallow; CREATE ROLE shallow; SELECT crm.grant_access('shallow', 'reader'); SET ROLE shallow")
        .await;
    assert_eq!(db.count("crm.check()").await, 0);
    let refused = db.error("SELECT * FROM crm.check(deep => true)").await;
    assert_eq!(*refused.code(), SqlState::INSUFFICIENT_PRIVILEGE);
    db.execute("RESET ROLE; DROP OWNED BY shallow; DROP ROLE shallow")
        .await;
    // It ends when its caller has had enough.
    db.execute("SET statement_timeout = '50ms'").await;
    let cancelled = db.error("SELECT * FROM crm.check(deep => true)").await;
    assert_eq!(*cancelled.code(), SqlState::QUERY_CANCELED);
}

/// Whatever CRMs make of values, a check finds both sides in step after a scenario.
async fn rows_in_step_are_no_breach(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(2).await;
    live.edit_in_crm("p1", json!({"first_name": "Augusta", "phone": "+3"}))
        .await;
    live.ingest().await;
    live.agree().await;
    assert_eq!(deep(&live.db).await, Vec::<String>::new());
    live.db
        .execute(
            "ALTER TABLE people DISABLE TRIGGER USER; UPDATE people SET phone = 'behind' WHERE id = 'p2';
             ALTER TABLE people ENABLE TRIGGER USER",
        )
        .await;
    let found = deep(&live.db).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("record p2 ") && found[0].contains("\"phone\""));
    live.db
        .execute(&format!("SELECT crm.recapture({})", live.map))
        .await;
    live.db.drain().await;
    live.agree().await;
    assert_eq!(deep(&live.db).await, Vec::<String>::new());
}

/// What was read of a row before it was rewritten, and is on its way meanwhile, is not taken for
/// what the row holds.
async fn what_ddl_makes_of_a_row_on_its_way_reaches_the_crm(desk: &Desk) {
    let flush = desk
        .under_way("UPDATE people SET first_name = 'ada' WHERE id = 'p1'")
        .await;
    desk.db
        .execute("ALTER TABLE people ALTER first_name TYPE text USING upper(first_name)")
        .await;
    flush.await.expect("the flush's task");
    desk.settle().await;
    assert_eq!(desk.field("p1", "first_name").await, "ADA");
    assert_eq!(deep(&desk.db).await, Vec::<String>::new());
}

#[tokio::test]
async fn ddl_during_a_batch_is_not_lost() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    desk.link(2).await;
    desk.db
        .execute("UPDATE people SET first_name = 'Known'")
        .await;
    desk.settle().await;
    what_ddl_makes_of_a_row_on_its_way_reaches_the_crm(&desk).await;
}

#[tokio::test]
async fn ddl_during_a_checked_write_is_not_lost() {
    let live = Live::open(&CLUSTER, Vendor::Salesforce).await;
    live.people(2).await;
    what_ddl_makes_of_a_row_on_its_way_reaches_the_crm(&live).await;
}

/// A change that is captured after the fact speaks of a row that is there: the deletion of one that
/// is in flight is not undone by it.
#[tokio::test]
async fn a_row_that_is_deleted_while_it_is_recaptured_stays_deleted() {
    for bidirectional in [false, true] {
        let desk = Desk::open_with(
            &CLUSTER,
            Vendor::Salesforce,
            "on_insert => 'create', on_delete => 'delete'",
        )
        .await;
        if bidirectional {
            desk.db
                .execute("SELECT crm.alter_field(1, 'first_name', direction => 'bidirectional')")
                .await;
        }
        desk.link(3).await;
        desk.db
            .execute("UPDATE people SET first_name = 'Known'")
            .await;
        desk.settle().await;
        let flush = desk
            .under_way("UPDATE people SET first_name = 'ada' WHERE id = 'p1'")
            .await;
        desk.db
            .execute("BEGIN; DELETE FROM people WHERE id = 'p1'; SELECT crm.recapture(1); COMMIT")
            .await;
        flush.await.expect("the flush's task");
        desk.settle().await;
        assert_eq!(desk.db.count("crm.ledger").await, 2);
        assert_eq!(deep(&desk.db).await, Vec::<String>::new());
    }
}

/// A request that was made first, and committed while a later one was being worked off, is one of
/// its own.
#[tokio::test]
async fn what_is_committed_while_rows_are_compared_is_compared_too() {
    let db = CLUSTER.database().await;
    db.execute(
        "SELECT crm.create_connection('s', 'stub');
         SELECT crm.pause('s');
         CREATE TYPE mood AS ENUM ('happy', 'sad');
         CREATE TABLE t (id int PRIMARY KEY, mood mood);
         SELECT crm.map_object('s', 't', 'account', external_id_field => 'external_key', on_insert => 'create');
         SELECT crm.map_field(1, 'mood', 'name', direction => 'outbound');
         BEGIN;
         SET LOCAL session_replication_role = replica;
         INSERT INTO t SELECT n, CASE WHEN n = 1 THEN 'happy' ELSE 'sad' END::mood FROM generate_series(1, 20000) n;
         INSERT INTO crm.ledger (map_id, record_key, crm_id, synced_at, hashes)
         SELECT 1, t.id::text, 'r' || t.id, ARRAY[now()], substr(crm.hash(to_jsonb(t.mood)), 1, 16) FROM t;
         COMMIT",
    )
    .await;
    let other = db.session().await;
    other
        .execute("BEGIN; ALTER TYPE mood RENAME VALUE 'happy' TO 'glad'")
        .await;
    db.execute("SELECT crm.recapture(1)").await;
    eventually("the first rows are compared", async || {
        let far = "crm.scan_request WHERE after_key IS NOT NULL";
        (db.count(far).await > 0).then_some(())
    })
    .await;
    other.execute("COMMIT").await;
    eventually("all are compared", async || {
        (db.count("crm.scan_request").await == 0).then_some(())
    })
    .await;
    assert_eq!(deep(&db).await, Vec::<String>::new());
    let waits =
        "(SELECT record_key FROM crm.queue UNION SELECT unnest(record_keys) FROM crm.change) w";
    assert_eq!(db.count(waits).await, 1);
}

/// A type's label goes by another name while a call that wrote it is still to be committed: no lock
/// is in the way of that.
#[tokio::test]
async fn a_label_that_is_renamed_under_an_open_call_is_not_lost() {
    let db = CLUSTER.database().await;
    db.execute(
        "SELECT crm.create_connection('s', 'stub');
         CREATE TYPE mood AS ENUM ('happy', 'sad');
         CREATE TABLE t (id int PRIMARY KEY, name text, mood mood);
         SELECT crm.map_object('s', 't', 'account', external_id_field => 'external_key', on_insert => 'create');
         SELECT crm.map_field(1, 'name', 'name'), crm.map_field(1, 'mood', 'x_mood');
         INSERT INTO t VALUES (1, 'Engine', 'sad')",
    )
    .await;
    db.drain().await;
    let caller = db.session().await;
    caller.execute("BEGIN").await;
    let outcome = "SELECT (crm.write('t', '1', '{\"mood\": \"happy\"}')).outcome";
    assert_eq!(caller.one::<String>(outcome, &[]).await, "committed");
    db.execute("ALTER TYPE mood RENAME VALUE 'happy' TO 'glad'")
        .await;
    eventually("all rows are compared", async || {
        (db.count("crm.scan_request").await == 0).then_some(())
    })
    .await;
    caller.execute("COMMIT").await;
    db.drain().await;
    let mood: String = db
        .one("SELECT fields ->> 'x_mood' FROM crm_stub.records", &[])
        .await;
    assert_eq!(mood, "glad");
    assert_eq!(deep(&db).await, Vec::<String>::new());
}

/// DDL may give rows other keys, which no UPDATE does. A row is not taken for another's record
/// then.
#[tokio::test]
async fn ddl_that_changes_keys_stops_the_map() {
    let db = CLUSTER.database().await;
    db.execute(
        "SELECT crm.create_connection('s', 'stub');
         CREATE TYPE region AS ENUM ('north', 'south');
         CREATE TABLE t (id int PRIMARY KEY, region region NOT NULL, name text);
         CREATE TABLE u (id varchar(20) PRIMARY KEY, name text);
         SELECT crm.map_object('s', 't', 'account', shard_column => 'region', external_id_field => 'external_key', on_insert => 'create'),
                crm.map_object('s', 'u', 'contact', external_id_field => 'external_key', on_insert => 'create');
         SELECT crm.map_field(1, 'name', 'name', direction => 'outbound'), crm.map_field(2, 'name', 'last_name', direction => 'outbound');
         INSERT INTO t VALUES (1, 'north', 'one'), (2, 'south', 'two');
         INSERT INTO u VALUES ('1', 'one'), ('2', 'two')",
    )
    .await;
    db.drain().await;
    let before: Vec<Json> = db
        .all("SELECT fields FROM crm_stub.records ORDER BY crm_id", &[])
        .await;
    let trouble =
        "SELECT coalesce(split_part(reason, ':', 1), state) FROM crm.map_state ORDER BY map_id";
    let restored = "SELECT crm.alter_map(1), crm.alter_map(2)";
    let rewrote = "ALTER TABLE rewrote column \"id\", and keys of rows may have changed";
    let label = "a label of type public.region was renamed, and keys of rows may have changed";
    // What each does, what undoes it, and what is said of either map.
    for (ddl, undo, said) in [
        (
            "ALTER TABLE t ALTER id TYPE int USING id + 1, ALTER name TYPE text",
            "ALTER TABLE t ALTER id TYPE int USING id - 1",
            [rewrote, "idle"],
        ),
        (
            "ALTER TABLE u ALTER id TYPE varchar(20) USING 'x' || id",
            "ALTER TABLE u ALTER id TYPE varchar(20) USING substr(id, 2)",
            ["idle", rewrote],
        ),
        (
            "ALTER TYPE region RENAME VALUE 'north' TO 'nord'",
            "ALTER TYPE region RENAME VALUE 'nord' TO 'north'",
            [label, "idle"],
        ),
        // A migration as frameworks write it, and what leaves keys alone.
        (
            "ALTER TABLE u ALTER id TYPE varchar(30) USING id::varchar(30), ALTER id SET STATISTICS 50;
             ALTER TYPE region ADD VALUE 'east'; ALTER TABLE t ALTER name TYPE text USING name || ''",
            "SELECT 1",
            ["idle", "idle"],
        ),
    ] {
        db.execute(ddl).await;
        assert_eq!(db.all::<String>(trouble, &[]).await, said, "{ddl}");
        db.flush().await;
        db.execute(undo).await;
        db.execute(restored).await;
        db.drain().await;
        assert_eq!(db.all::<String>(trouble, &[]).await, ["idle", "idle"]);
        let now: Vec<Json> = db.all("SELECT fields FROM crm_stub.records ORDER BY crm_id", &[]).await;
        assert_eq!(now, before, "{ddl}");
        assert_eq!(deep(&db).await, Vec::<String>::new());
    }
    // One that becomes another type on the way says both.
    db.execute("ALTER TABLE t ALTER id TYPE bigint USING id + 1")
        .await;
    let reason: String = db
        .one("SELECT reason FROM crm.map_state WHERE map_id = 1", &[])
        .await;
    assert!(
        reason.starts_with("column \"id\" changed its type to bigint"),
        "{reason}"
    );
    assert!(reason.contains(rewrote), "{reason}");
}

#[tokio::test]
async fn capture_that_is_off_is_seen() {
    let cluster = Cluster::with(&[]);
    let desk = Desk::open(&cluster, Vendor::Stub).await;
    let status = "SELECT capture || coalesce(': ' || capture_trouble, '') FROM crm.status_wide";
    let breaches = "SELECT detail FROM crm.check() WHERE rule = 'edits are captured'";
    let told = || {
        let log = cluster.log();
        log.matches("WARNING:  pg_crm: edits of public.people are not captured")
            .count()
    };
    assert_eq!(desk.db.one::<String>(status, &[]).await, "on");
    let name = desk
        .db
        .one::<String>("SELECT current_database()::text", &[])
        .await;
    for (n, (off, on, why)) in [
        (
            "ALTER TABLE people DISABLE TRIGGER pg_crm_1_update".to_owned(),
            "ALTER TABLE people ENABLE TRIGGER pg_crm_1_update".to_owned(),
            "\"pg_crm_1_update\" is disabled",
        ),
        (
            "ALTER TABLE people ENABLE REPLICA TRIGGER pg_crm_1_insert".to_owned(),
            "ALTER TABLE people ENABLE TRIGGER pg_crm_1_insert".to_owned(),
            "\"pg_crm_1_insert\" fires for replicated rows only",
        ),
        (
            format!("ALTER DATABASE \"{name}\" SET session_replication_role = replica"),
            format!("ALTER DATABASE \"{name}\" RESET session_replication_role"),
            "set to replica for database",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        desk.db.execute(&off).await;
        let now: String = desk.db.one(status, &[]).await;
        assert!(now.starts_with("off: ") && now.contains(why), "{now}");
        let found: Vec<String> = desk.db.all(breaches, &[]).await;
        assert!(found.len() == 1 && found[0].contains(why), "{found:?}");
        // A flush is a turn of the worker's.
        eventually("the log tells of it", async || {
            desk.db.flush().await;
            (told() == n + 1).then_some(())
        })
        .await;
        desk.db.execute(&on).await;
        assert_eq!(desk.db.one::<String>(status, &[]).await, "on");
        eventually("the log tells of its end", async || {
            desk.db.flush().await;
            let log = cluster.log();
            (log.matches("are captured again").count() == n + 1).then_some(())
        })
        .await;
        assert_eq!(told(), n + 1);
        desk.db.assert_checked().await;
    }
}

/// Rows that a subscription brings, first as a copy of the whole and then one by one.
#[tokio::test]
async fn what_replication_brings_is_captured_where_that_is_asked_for() {
    let publisher = Cluster::with(&[("wal_level", "logical")]);
    let there = publisher.bare_database().await;
    // Columns by the names of what the capture function knows.
    let table =
        "CREATE TABLE t (id int PRIMARY KEY, name text, title text, actor text, is_same bool)";
    there
        .execute(&format!(
            "{table}; INSERT INTO t VALUES (1, 'Lovelace', 'Countess'); CREATE PUBLICATION people FOR TABLE t"
        ))
        .await;
    let name: String = there.one("SELECT current_database()::text", &[]).await;
    let db = CLUSTER.database().await;
    db.execute(&format!(
        "{table};
         SELECT crm.create_connection('s', 'stub');
         SELECT crm.map_object('s', 't', 'contact', external_id_field => 'external_key', on_insert => 'create', on_delete => 'delete',
                               capture => 'always');
         SELECT crm.map_field(1, 'name', 'last_name', direction => 'outbound'),
                crm.map_field(1, 'title', 'x_title', validation => '{{\"max_length\": 10}}')"
    ))
    .await;
    let source = publisher.path().display().to_string();
    db.execute(&format!(
        "CREATE SUBSCRIPTION people CONNECTION 'host={source} dbname={name} user=postgres' PUBLICATION people"
    ))
    .await;
    let records = "SELECT coalesce(string_agg(concat_ws(' ', fields ->> 'external_key', fields ->> 'last_name', fields ->> 'x_title'), ', '
                                              ORDER BY fields ->> 'external_key'), '')
                   FROM crm_stub.records WHERE NOT deleted";
    let holds = async |expected: &str| {
        eventually(&format!("the CRM holds {expected}"), async || {
            let _: Option<bool> = db.one("SELECT crm.flush(timeout => '1 s')", &[]).await;
            (db.one::<String>(records, &[]).await == expected).then_some(())
        })
        .await;
    };
    holds("1 Lovelace Countess").await;
    there
        .execute("INSERT INTO t VALUES (2, 'Hopper', 'Admiral'), (3, 'Bartik', NULL); UPDATE t SET title = 'Lady' WHERE id = 1")
        .await;
    holds("1 Lovelace Lady, 2 Hopper Admiral, 3 Bartik").await;
    there
        .execute("UPDATE t SET name = 'Byron', title = 'Countess' WHERE id = 1; DELETE FROM t WHERE id = 2; UPDATE t SET id = 4 WHERE id = 3")
        .await;
    holds("1 Byron Countess, 4 Bartik").await;
    // Nothing there is refused here, or replication would stop.
    there
        .execute("UPDATE t SET title = 'longer than ten letters' WHERE id = 1")
        .await;
    holds("1 Byron longer than ten letters, 4 Bartik").await;
    assert_eq!(
        db.one::<String>("SELECT capture FROM crm.status_wide", &[])
            .await,
        "on"
    );
    // Sessions that play the replica are captured, too, and each change once.
    db.execute("BEGIN; SET LOCAL session_replication_role = replica; UPDATE t SET name = 'King' WHERE id = 1")
        .await;
    assert_eq!(db.count("crm.change").await, 1);
    db.execute("COMMIT").await;
    holds("1 King longer than ten letters, 4 Bartik").await;
    db.assert_checked().await;
    // As before, once it is asked for no more.
    db.execute("SELECT crm.alter_map(1, capture => 'origin')")
        .await;
    there
        .execute("UPDATE t SET name = 'missed' WHERE id = 4")
        .await;
    eventually("it is replicated", async || {
        (db.count("t WHERE name = 'missed'").await == 1).then_some(())
    })
    .await;
    assert!(db.flush().await);
    holds("1 King longer than ten letters, 4 Bartik").await;
    db.execute("SELECT crm.recapture(1)").await;
    holds("1 King longer than ten letters, 4 missed").await;
    db.execute("DROP SUBSCRIPTION people").await;
    db.assert_checked().await;
    // Clones of such a trigger would be made by whoever attaches a partition.
    db.execute("CREATE TABLE parts (id int PRIMARY KEY, name text) PARTITION BY RANGE (id)")
        .await;
    let refused = db
        .error("SELECT crm.map_object('s', 'parts', 'account', capture => 'always')")
        .await;
    assert_eq!(*refused.code(), SqlState::FEATURE_NOT_SUPPORTED);
}

/// Where deletes are not followed, records without rows are what was asked for; they are counted.
#[tokio::test]
async fn records_without_rows_are_no_breach_where_deletes_are_not_followed() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.link(3).await;
    desk.db.execute("UPDATE people SET phone = '1'").await;
    desk.db.drain().await;
    desk.db
        .execute("TRUNCATE people; SET log_min_messages = notice")
        .await;
    desk.db.assert_checked().await;
    let told = CLUSTER.log();
    let told = told
        .lines()
        .find(|line| line.contains("3 records of map 1 have no row"));
    assert!(told.is_some_and(|line| line.contains("NOTICE")), "{told:?}");
}

/// A worker that comes after another goes on where that one was.
#[tokio::test]
async fn a_comparison_goes_on_where_it_was() {
    let cluster = Cluster::with(&[("pg_crm.failpoints", "recapture::part:terminate")]);
    let db = cluster.database().await;
    known_rows(&db, 2500).await;
    let first = db.worker().await;
    db.execute("ALTER TABLE t ALTER title TYPE text USING upper(title)")
        .await;
    db.worker_after(first).await;
    eventually("all rows are compared", async || {
        (db.count("crm.scan_request").await == 0).then_some(())
    })
    .await;
    assert!(
        cluster.log().contains(
            "pg_crm compared 2500 rows of public.t with the ledger: 2500 records had changes that were not captured"
        ),
        "{}",
        cluster.log_tail()
    );
    // Each row was captured once.
    let captured = "SELECT (SELECT count(*) FROM crm.queue)
                         + coalesce((SELECT sum(cardinality(record_keys)) FROM crm.change), 0)::bigint";
    assert_eq!(db.one::<i64>(captured, &[]).await, 2500);
    assert_eq!(deep(&db).await, Vec::<String>::new());
}
