//! Fields that come, change or go, and values that no column can take.

use crm_suites::{Live, Vendor, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(
    a_field_mapped_later_is_read_of_every_record,
    an_inbound_field_is_the_crms,
    a_value_that_cannot_be_read_keeps_nobody_from_coming_in,
    what_a_trigger_makes_of_it_is_an_edit,
    values_of_every_type_come_in,
);

async fn a_field_mapped_later_is_read_of_every_record(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(2).await;
    live.edit_in_crm("p1", json!({"title": "Countess"})).await;
    live.ingest().await;
    live.db
        .execute(&format!(
            "SELECT crm.map_field({}, 'title', '{}', direction => 'inbound')",
            live.map,
            vendor.field("title")
        ))
        .await;
    live.ingest().await;
    assert_eq!(live.cell("p1", "title").await, "Countess");
    live.nothing_goes_out().await;
}

async fn an_inbound_field_is_the_crms(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.map_inbound("title").await;
    live.people(1).await;
    live.ingest().await;
    // An edit here stays here, until the CRM has something new to say.
    live.db.execute("UPDATE people SET title = 'mine'").await;
    live.nothing_goes_out().await;
    live.edit_in_crm("p1", json!({"title": "theirs"})).await;
    live.ingest().await;
    assert_eq!(live.cell("p1", "title").await, "theirs");
}

async fn a_value_that_cannot_be_read_keeps_nobody_from_coming_in(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    // Text in the CRM, a number here.
    live.db
        .execute(&format!(
            "SELECT crm.map_field({}, 'score', '{}', direction => 'inbound')",
            live.map,
            vendor.field("title")
        ))
        .await;
    live.people(2).await;
    live.edit_in_crm("p1", json!({"title": "many", "phone": "+5"}))
        .await;
    live.edit_in_crm("p2", json!({"title": "12", "phone": "+5"}))
        .await;
    live.ingest().await;
    assert_eq!(
        live.db
            .text("SELECT score::text FROM people WHERE id = 'p2'")
            .await,
        "12.00"
    );
    assert_eq!(live.cell("p2", "phone").await, "+5");
    assert_eq!(live.cell("p1", "phone").await, "+1");
    let dead = "SELECT record_key || ' ' || error_class || ' ' || error FROM crm.dead_letters";
    let dead = live.db.text(dead).await;
    assert!(dead.starts_with("p1 mapping "), "{dead}");
    // Pages overlap: it comes again, and is told once.
    live.ingest().await;
    live.ingest().await;
    let told = "SELECT count(*) FROM crm.audit_log WHERE path = 'ingest' AND result = 'dead'";
    assert_eq!(live.db.one::<i64>(told, &[]).await, 1);
    // Mended in the CRM, it comes in and leaves the quarantine.
    live.edit_in_crm("p1", json!({"title": "13"})).await;
    live.ingest().await;
    assert_eq!(
        live.db
            .text("SELECT score::text FROM people WHERE id = 'p1'")
            .await,
        "13.00"
    );
    assert_eq!(live.cell("p1", "phone").await, "+5");
    assert_eq!(live.db.count("crm.dead_letters").await, 0);
}

async fn what_a_trigger_makes_of_it_is_an_edit(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(1).await;
    live.db
        .execute(
            "CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN NEW.phone := replace(NEW.phone, '-', ''); RETURN NEW; END $$;
             CREATE TRIGGER tidy BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION tidy()",
        )
        .await;
    live.edit_in_crm("p1", json!({"phone": "+1-2-3"})).await;
    live.ingest().await;
    live.quiet().await;
    live.assert_both("p1", "phone", "+123").await;
    live.ingest().await;
    live.nothing_goes_out().await;
    live.agree().await;
}

async fn values_of_every_type_come_in(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    for column in ["score", "born", "seen", "opted_out", "interests", "source"] {
        live.map_inbound(column).await;
    }
    live.people(1).await;
    let source = match vendor {
        Vendor::HubSpot => "NEW",
        Vendor::Pipedrive => "1",
        _ => "Web",
    };
    live.edit_in_crm(
        "p1",
        json!({"score": 12.5, "born": "1815-12-10", "seen": "2026-01-02T03:04:05Z", "opted_out": true, "source": source}),
    )
    .await;
    live.ingest().await;
    let row: serde_json::Value = live
        .db
        .one("SELECT jsonb_build_object('s', score::text, 'b', born, 'n', seen AT TIME ZONE 'UTC', 'o', opted_out, 'c', source) FROM people", &[])
        .await;
    assert_eq!(
        row,
        json!({"s": "12.50", "b": "1815-12-10", "n": "2026-01-02T03:04:05", "o": true, "c": source})
    );
    live.nothing_goes_out().await;
}
