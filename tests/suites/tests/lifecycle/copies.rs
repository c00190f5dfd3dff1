//! Copies of a database: two workers with the credentials of one CRM. The copy asks nothing of it
//! until it is told to.

use crm_suites::{Database, Desk, Json, Vendor, eventually, json, with_remote_crms};

use crate::CLUSTER;

/// A copy of the desk's database with everything in it, credentials included, and a worker at work
/// there. The original waits: it must not be its worker that sends what follows.
async fn copied(desk: &Desk) -> Database {
    desk.db
        .execute(&format!("SELECT crm.pause('{}')", desk.crm.vendor.name()))
        .await;
    let (name, copy) = (desk.db.name.clone(), format!("{}_copy", desk.db.name));
    let admin = Database::open(&CLUSTER, "postgres").await;
    eventually("CREATE DATABASE", async || {
        // As with any session: it has to go, and the worker may be back before the command.
        let others =
            "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE datname = $1";
        admin.rows(others, &[&name]).await;
        let sql = format!("CREATE DATABASE {copy} TEMPLATE {name}");
        admin.client().batch_execute(&sql).await.ok()
    })
    .await;
    let mut db = Database::open(&CLUSTER, &copy).await;
    db.drop_at_the_end();
    db.worker().await;
    db.execute(&format!("SELECT crm.resume('{}')", desk.crm.vendor.name()))
        .await;
    db
}

async fn a_copy_sends_nothing_until_it_is_told_to(vendor: Vendor) {
    let db = CLUSTER.database().await;
    let crm = crm_suites::Crm::connect(&db, vendor).await;
    let mut desk = Desk::furnish_as(db, crm, "bidirectional", "on_insert => 'create'", "").await;
    let ids = desk.link(2).await;
    desk.db.drain().await;
    desk.ingest().await;
    let copy = copied(&desk).await;
    let _original = std::mem::replace(&mut desk.db, copy);
    let edit = json!({"phone": "of the CRM"});
    desk.crm
        .edit(&desk.db, vendor.people(), &ids[1], &edit)
        .await;
    desk.crm.sim().forget_requests();

    desk.db
        .execute("UPDATE people SET phone = 'of the copy' WHERE id = 'p1'")
        .await;
    desk.db
        .execute("INSERT INTO people (id, last_name) VALUES ('n1', 'New')")
        .await;
    assert!(!desk.db.flush().await, "a copy has written back");
    assert!(!desk.db.one::<bool>("SELECT crm.ingest_now()", &[]).await);
    let row: Json = desk
        .db
        .one("SELECT to_jsonb(w) FROM crm.write('people', 'p1', '{\"email\": \"copy@example.com\"}') w", &[])
        .await;
    assert_eq!(row["outcome"], "pending", "{row}");
    assert!(row.to_string().contains("adopt_connections"), "{row}");
    let tested = desk
        .db
        .text(&format!(
            "SELECT * FROM crm.test_connection('{}')",
            vendor.name()
        ))
        .await;
    assert!(
        tested.starts_with("f | ") && tested.contains("adopt_connections"),
        "{tested}"
    );
    let said = desk.db.text("SELECT state, reason FROM crm.status").await;
    assert!(
        said.starts_with("error | ") && said.contains("crm.adopt_connections()"),
        "{said}"
    );
    assert_eq!(
        desk.crm.sim().requests("").len(),
        0,
        "the copy has asked the CRM"
    );
    desk.db.assert_checked().await;

    // Told to, it goes on with all of it.
    let adopted = desk
        .db
        .all::<String>("SELECT crm.adopt_connections()", &[])
        .await;
    assert_eq!(adopted, [vendor.name()]);
    desk.db.drain().await;
    desk.ingest().await;
    desk.settle().await;
    let phones = desk
        .db
        .text("SELECT id, phone FROM people WHERE phone LIKE 'of%' ORDER BY 1")
        .await;
    assert_eq!(phones, "p1 | of the copy\np2 | of the CRM");
    assert_eq!(desk.field("p1", "email").await, "copy@example.com");
    let told = "crm.audit_log WHERE operation = 'adopt' AND result = 'applied' AND fields -> 'home' ->> 'new' = crm.home()";
    assert_eq!(desk.db.count(told).await, 1);
    assert_eq!(
        desk.db.count("crm.adopt_connections()").await,
        0,
        "it is at home"
    );
    desk.settle().await;
}

with_remote_crms!(a_copy_sends_nothing_until_it_is_told_to);
