//! A table that becomes somebody else's while pg_crm is at work on it: what the new owner attaches
//! to it has the new owner's rights, though pg_crm read the mapping before.

use crm_suites::{Crm, Desk, Vendor, eventually, json};

use crate::{CLUSTER, role};

#[tokio::test]
async fn code_of_the_new_owner_does_not_run_as_the_old_one() {
    let db = CLUSTER.database().await;
    let crm = Crm::connect(&db, Vendor::HubSpot).await;
    let desk = Desk::furnish_as(db, crm, "bidirectional", "on_insert => 'ignore'", "").await;
    let ids = desk.link(1).await;
    desk.db
        .execute("UPDATE people SET phone = '1', email = 'a@x.test'")
        .await;
    desk.db.drain().await;
    let (mallory, session) = role(&desk.db, "mallory", None).await;
    desk.db
        .execute(&format!("GRANT CREATE ON SCHEMA public TO {mallory}"))
        .await;
    session
        .execute(
            "CREATE TABLE witness (who name, is_super bool);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                INSERT INTO public.witness SELECT r.rolname, r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user;
                RETURN NEW;
             END $$",
        )
        .await;
    // The CRM holds something else by now, which wins: the row takes it once the CRM has answered.
    let people = desk.crm.vendor.people();
    let theirs = json!({desk.crm.vendor.field("phone"): "theirs"});
    desk.crm.edit(&desk.db, people, &ids[0], &theirs).await;
    let flush = desk.under_way("UPDATE people SET phone = 'ours'").await;
    desk.db
        .execute(&format!("ALTER TABLE people OWNER TO {mallory}"))
        .await;
    session
        .execute("CREATE TRIGGER note BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION note()")
        .await;
    flush.await.expect("the flush");
    eventually("the row takes what the CRM holds", async || {
        let sql = "SELECT phone FROM people";
        (desk.db.one::<String>(sql, &[]).await == "theirs").then_some(())
    })
    .await;
    let ran = "SELECT DISTINCT who::text FROM witness";
    assert_eq!(desk.db.all::<String>(ran, &[]).await, [mallory]);
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn a_transform_of_the_old_owner_does_not_run_as_the_new_one() {
    let db = CLUSTER.database().await;
    let crm = Crm::connect(&db, Vendor::HubSpot).await;
    let desk = Desk::furnish_as(db, crm, "bidirectional", "on_insert => 'ignore'", "").await;
    let ids = desk.link(1).await;
    let db = &desk.db;
    let (mallory, session) = role(db, "mallory", None).await;
    let sql = format!(
        "GRANT CREATE ON SCHEMA public TO {mallory}; ALTER TABLE people OWNER TO {mallory}"
    );
    db.execute(&sql).await;
    session
        .execute(
            // A sequence remembers what is rolled back.
            "CREATE SEQUENCE witness;
             CREATE FUNCTION shape(value jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
             BEGIN
                IF current_user NOT LIKE '%mallory' THEN PERFORM nextval('public.witness'); END IF;
                RETURN value;
             END $$",
        )
        .await;
    desk.map_field("phone", "transform_in => 'shape(jsonb)'")
        .await;
    db.execute("UPDATE people SET phone = '1', email = 'a@x.test'")
        .await;
    db.drain().await;
    let people = desk.crm.vendor.people();
    let theirs = json!({desk.crm.vendor.field("phone"): "theirs"});
    desk.crm.edit(db, people, &ids[0], &theirs).await;
    let flush = desk.under_way("UPDATE people SET phone = 'ours'").await;
    db.execute("ALTER TABLE people OWNER TO postgres").await;
    flush.await.expect("the flush");
    eventually("the map stops", async || {
        let sql = "SELECT reason FROM crm.status WHERE state = 'error'";
        db.all::<String>(sql, &[]).await.pop()
    })
    .await;
    eventually("the CRM has answered", async || {
        (db.count("crm.claim").await == 0).then_some(())
    })
    .await;
    let ran: bool = db.one("SELECT is_called FROM witness", &[]).await;
    assert!(!ran, "the former owner's transform ran as the new one");
    // Once it is the new owner's own, the row takes what the CRM holds.
    db.execute("ALTER FUNCTION shape(jsonb) OWNER TO postgres")
        .await;
    desk.map_field("phone", "transform_in => 'shape(jsonb)'")
        .await;
    eventually("the row takes what the CRM holds", async || {
        let sql = "SELECT phone FROM people";
        (db.one::<String>(sql, &[]).await == "theirs").then_some(())
    })
    .await;
    db.assert_checked().await;
}
