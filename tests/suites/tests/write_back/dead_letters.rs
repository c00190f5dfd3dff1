//! What cannot be written is kept, with its reason, until somebody mends it.

use crm_suites::{Desk, Vendor, eventually};

use crate::CLUSTER;

/// People of whom the CRM refuses p2 for good.
async fn desk() -> Desk {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    let ids = desk.link(3).await;
    desk.db
        .rows(
            "SELECT crm_stub.inject('stub', 'validation', 1, $1)",
            &[&ids[1]],
        )
        .await;
    desk.db
        .execute(
            "SET pg_crm.actor = 'dana@acme'; UPDATE people SET phone = 'new'; RESET pg_crm.actor",
        )
        .await;
    desk.db.flush().await;
    eventually("a dead letter", async || {
        (desk.db.count("crm.dead_letters").await == 1).then_some(())
    })
    .await;
    desk
}

#[tokio::test]
async fn failed_rows_show_their_reason_and_are_not_skipped_for_ever() {
    let desk = desk().await;
    let letter = desk
        .db
        .text("SELECT to_jsonb(d) FROM crm.dead_letters d")
        .await;
    for word in ["p2", "validation", "dana@acme", "people", "phone"] {
        assert!(letter.contains(word), "{word} is not in {letter}");
    }
    let state =
        "SELECT state FROM crm.cell_status WHERE record_key = 'p2' AND column_name = 'phone'";
    assert_eq!(desk.db.one::<String>(state, &[]).await, "dead");
    desk.db.assert_checked().await;
    // It is tried again only when asked.
    let before = desk.audit_rows().await;
    assert!(desk.db.flush().await);
    assert_eq!(desk.audit_rows().await, before);
    desk.db
        .execute("SELECT crm.replay(dead_letter_id) FROM crm.dead_letters")
        .await;
    desk.settle().await;
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
    let error = desk.db.error("SELECT crm.replay(999999)").await;
    assert!(error.hint().is_some(), "{error:?}");
}

#[tokio::test]
async fn an_edit_revives_a_dead_record() {
    let desk = desk().await;
    desk.db
        .execute("UPDATE people SET first_name = 'Mended' WHERE id = 'p2'")
        .await;
    desk.settle().await;
    assert_eq!(
        desk.field("p2", "phone").await,
        "new",
        "the cell that died goes along"
    );
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
}

#[tokio::test]
async fn deleting_the_row_ends_its_dead_letter() {
    let desk = desk().await;
    desk.db.execute("DELETE FROM people WHERE id = 'p2'").await;
    desk.db.execute("SELECT crm.replay_all()").await;
    desk.db.flush().await;
    desk.db.assert_checked().await;
    assert_eq!(
        desk.db.dirty().await,
        0,
        "{}",
        desk.db
            .text("SELECT to_jsonb(c) FROM crm.cell_status c")
            .await
    );
}

#[tokio::test]
async fn the_audit_is_append_only_and_names_the_actor() {
    let desk = desk().await;
    let actor: String = desk
        .db
        .one(
            "SELECT actor FROM crm.audit_log WHERE record_key = 'p1'",
            &[],
        )
        .await;
    assert_eq!(actor, "postgres/dana@acme");
    for sql in [
        "UPDATE crm.audit_log SET actor = 'nobody'",
        "DELETE FROM crm.audit_log",
    ] {
        let error = desk.db.error(sql).await;
        assert_eq!(error.code().code(), "42501", "{error:?}");
    }
}

/// A row is inserted before any field is mapped: its record has its key alone, which the CRM does
/// not take.
#[tokio::test]
async fn a_record_without_fields_dies_like_any_other() {
    let db = CLUSTER.database().await;
    db.execute(
        "SELECT crm.create_connection('s', 'stub');
         CREATE TABLE t (id int PRIMARY KEY, name text);
         SELECT crm.map_object('s', 't', 'account', external_id_field => 'external_key', on_insert => 'create');
         INSERT INTO t VALUES (1, 'Engine')",
    )
    .await;
    db.flush().await;
    eventually("a dead letter", async || {
        (db.count("crm.dead_letters").await == 1).then_some(())
    })
    .await;
    db.assert_checked().await;
    db.execute(
        "SELECT crm.map_field(1, 'name', 'name', direction => 'outbound'), crm.replay_all()",
    )
    .await;
    db.execute("UPDATE t SET name = 'Analytical Engine'").await;
    db.drain().await;
    assert_eq!(
        db.one::<String>("SELECT fields ->> 'name' FROM crm_stub.records", &[])
            .await,
        "Analytical Engine"
    );
    db.assert_checked().await;
}

/// The CRM refuses whatever is sent: the map stops after a trial instead of making a dead letter of
/// each record, and all are sent once the CRM takes them.
#[tokio::test]
async fn a_map_whose_every_record_is_refused_stops_after_a_trial() {
    let desk = Desk::open_with(&CLUSTER, Vendor::Stub, "on_insert => 'create'").await;
    desk.db
        .execute("SELECT crm_stub.inject('stub', 'validation', 1000, NULL, 'write')")
        .await;
    desk.db
        .execute("INSERT INTO people (id, last_name) SELECT 'p' || n, 'n' || n FROM generate_series(1, 250) n")
        .await;
    desk.db.execute("SELECT crm.flush(timeout => '5 s')").await;
    eventually("the map stops", async || {
        (desk.state().await == "error").then_some(())
    })
    .await;
    assert_eq!(desk.db.count("crm.dead_letters").await, 100);
    desk.db.assert_checked().await;
    desk.crm.relent(&desk.db).await;
    desk.db.execute("SELECT crm.replay_all()").await;
    desk.settle().await;
    // It has worked by now: records that are invalid together do not stop it.
    desk.db
        .execute("SELECT crm_stub.inject('stub', 'validation', 1000, NULL, 'write')")
        .await;
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    eventually("all are dead", async || {
        desk.db.execute("SELECT crm.flush(timeout => '1 s')").await;
        (desk.db.count("crm.dead_letters").await == 250).then_some(())
    })
    .await;
    assert_eq!(desk.state().await, "idle");
    desk.crm.relent(&desk.db).await;
    desk.db.execute("SELECT crm.replay_all()").await;
    desk.settle().await;
}
