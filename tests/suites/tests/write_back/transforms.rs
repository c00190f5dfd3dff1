//! Values on their way out pass the admin's function; when that fails, only its record waits.

use crm_suites::{Desk, Vendor};

use crate::CLUSTER;

async fn desk(vendor: Vendor) -> Desk {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.db
        .execute(
            "CREATE FUNCTION outward(value jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
             BEGIN
                IF value = '\"bad\"' THEN RAISE EXCEPTION 'not this one'; END IF;
                RETURN to_jsonb('Dr. ' || (value #>> '{}'));
             END $$",
        )
        .await;
    desk.map_field("title", "transform_out => 'outward(jsonb)'")
        .await;
    desk.link(4).await;
    desk
}

crm_suites::with_every_crm!(a_transform_shapes_the_value);

async fn a_transform_shapes_the_value(vendor: Vendor) {
    let desk = desk(vendor).await;
    desk.db
        .execute("UPDATE people SET title = 'Who' WHERE id = 'p1'")
        .await;
    desk.settle().await;
    assert_eq!(desk.field("p1", "title").await, "Dr. Who");
}

#[tokio::test]
async fn a_failing_transform_does_not_hold_up_its_neighbours() {
    let desk = desk(Vendor::Stub).await;
    desk.db
        .execute(
            "UPDATE people SET title = CASE id WHEN 'p2' THEN 'bad' ELSE 'good' END, phone = '9'",
        )
        .await;
    desk.db.flush().await;
    for good in ["p1", "p3", "p4"] {
        assert_eq!(desk.field(good, "title").await, "Dr. good", "{good}");
    }
    let letters = desk
        .db
        .text("SELECT to_jsonb(d) FROM crm.dead_letters d")
        .await;
    assert_eq!(letters.lines().count(), 1, "{letters}");
    for word in ["p2", "mapping", "not this one"] {
        assert!(letters.contains(word), "{word} is not in {letters}");
    }
    desk.db.assert_checked().await;
    // Mended and replayed, it arrives.
    desk.db
        .execute("UPDATE people SET title = 'mended' WHERE id = 'p2'")
        .await;
    desk.db.execute("SELECT crm.replay_all()").await;
    desk.settle().await;
    assert_eq!(desk.field("p2", "title").await, "Dr. mended");
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
}

#[tokio::test]
async fn a_function_of_another_signature_is_refused() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    let sql = format!(
        "SELECT crm.map_field({}, 'title', 'x_title', transform_out => 'upper(text)')",
        desk.map
    );
    let error = desk.db.error(&sql).await;
    assert!(!error.code().code().starts_with("XX"), "{error:?}");
}
