//! Rows and CRM records that are on both sides, while the server is killed: whether records are
//! looked up before they would be created, or found by `crm.match()`, each row is linked to its own
//! record, and none is made twice.

use crm_suites::{Cluster, Database, Desk, Vendor, eventually, json};

/// From the claim of rows that are to be created to the links of those whose records are there.
const LOOK_UP: [&str; 5] = [
    "claim::after_commit",
    "operation::response",
    "send::after",
    "settle::before_commit",
    "settle::after_commit",
];

crm_suites::with_every_crm!(records_that_are_found);

async fn records_that_are_found(vendor: Vendor) {
    let cluster = Cluster::start();
    let arguments = "on_insert => 'create', ingest => 'off'";
    let mut desk = Desk::open_with(&cluster, vendor, arguments).await;
    let (map, field) = (desk.map, vendor.field("phone"));
    let both_ways =
        format!("SELECT crm.alter_field({map}, 'phone', '{field}', direction => 'bidirectional')");
    desk.db.execute(&both_ways).await;
    let mut theirs = Vec::new();
    for (n, point) in LOOK_UP.into_iter().enumerate() {
        let person = json!({"id": format!("k{n}"), "last_name": "Theirs", "phone": "theirs"});
        let person = person.as_object().cloned().unwrap_or_default();
        let ids = desk.crm.create(&desk.db, vendor.people(), &[person]).await;
        theirs.extend(ids);
        let insert = format!(
            "INSERT INTO people (id, last_name, phone) VALUES ('k{n}', 'Ours', 'ours'), ('new{n}', 'New', 'new')"
        );
        arm(&desk.db, point).await;
        desk.db.execute(&insert).await;
        killed(&cluster, &mut desk.db, point, "SELECT crm.flush()").await;
        eventually("both sides agree", async || {
            desk.db.flush().await;
            let taken = format!("people WHERE id = 'k{n}' AND phone = 'theirs'");
            (desk.db.count(&taken).await == 1).then_some(())
        })
        .await;
        desk.settle().await;
    }
    for (n, id) in theirs.iter().enumerate() {
        assert_eq!(desk.crm_id(&format!("k{n}")).await.as_ref(), Some(id));
        assert_eq!(desk.field(&format!("k{n}"), "phone").await, "theirs");
        assert_eq!(desk.field(&format!("new{n}"), "phone").await, "new");
    }
    let records = desk.crm.records(&desk.db, vendor.people()).await;
    assert_eq!(records.len(), 2 * LOOK_UP.len());
}

/// A thousand links at a time are made, or none of them.
#[tokio::test]
async fn records_that_are_matched() {
    const ROWS: i64 = 2500;
    let cluster = Cluster::start();
    let mut db = cluster.database().await;
    db.execute(&format!(
        "SELECT crm.create_connection('s', 'stub');
         CREATE TABLE t (id int PRIMARY KEY, name text);
         SELECT crm.map_object('s', 't', 'contact', external_id_field => 'external_key', enabled => false);
         SELECT crm.map_field(1, 'name', 'last_name', direction => 'outbound');
         INSERT INTO t SELECT n, 'name ' || n FROM generate_series(1, {ROWS}) n;
         INSERT INTO crm_stub.records (connection, crm_object, fields)
         SELECT 's', 'contact', jsonb_build_object('last_name', name) FROM t"
    ))
    .await;
    let find = "SELECT count(*) FROM crm.match(1, '{\"name\": \"last_name\"}', dry_run => false)";
    for (point, linked) in [("link::before_commit", 0), ("link::after_commit", 1000)] {
        arm(&db, point).await;
        killed(&cluster, &mut db, point, find).await;
        let left = ["ledger", "queue"].map(|table| format!("crm.{table}"));
        for table in left {
            assert_eq!(db.count(&table).await, linked, "{table} after {point}");
        }
        db.assert_checked().await;
    }
    let _: i64 = db.one(find, &[]).await;
    let right = "crm.ledger l JOIN t ON t.id::text = l.record_key
                 JOIN crm_stub.records r USING (crm_id) WHERE r.fields ->> 'last_name' = t.name";
    assert_eq!(db.count(right).await, ROWS);
    assert_eq!(db.count("crm.ledger").await, ROWS);
    db.execute("SELECT crm.enable(1)").await;
    db.drain().await;
    let keyed =
        "crm_stub.records WHERE 'name ' || (fields ->> 'external_key') = fields ->> 'last_name'";
    assert_eq!(db.count(keyed).await, ROWS);
    db.assert_checked().await;
}

async fn arm(db: &Database, point: &str) {
    db.execute(&format!("ALTER SYSTEM SET pg_crm.failpoints = '{point}'"))
        .await;
    db.execute("SELECT pg_reload_conf()").await;
    eventually("the setting is in force", async || {
        let seen: String = db.one("SHOW pg_crm.failpoints", &[]).await;
        (seen == point).then_some(())
    })
    .await;
}

/// Runs a statement until the worker has killed itself there; the server restarts.
async fn killed(cluster: &Cluster, db: &mut Database, point: &str, statement: &str) {
    let name = format!("pg_crm.failpoint.{}", point.replace("::", "."));
    let marker = cluster.data().join(name);
    let _ = db.client().batch_execute(statement).await;
    eventually(point, async || marker.exists().then_some(())).await;
    db.reconnect().await;
    db.worker().await;
}
