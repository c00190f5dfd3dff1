//! Values on their way through functions of the user's.

use crm_suites::{Json, Live, Vendor, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(values_go_through_their_transforms);
crm_suites::with_more_crms!(values_go_through_their_transforms);

async fn values_go_through_their_transforms(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.db
        .execute(
            "CREATE FUNCTION shout(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT to_jsonb(upper($1 #>> '{}')) $$;
             CREATE FUNCTION calm(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT to_jsonb(lower($1 #>> '{}')) $$",
        )
        .await;
    live.map_field(
        "title",
        "transform_out => 'shout(jsonb)', transform_in => 'calm(jsonb)'",
    )
    .await;
    live.people(1).await;
    let written = live
        .write("p1", json!({"title": "boss"}))
        .await
        .expect("committed");
    assert_eq!(
        written.values["title"], "boss",
        "by column, in the table's terms"
    );
    assert_eq!(
        (
            live.cell("p1", "title").await,
            live.field("p1", "title").await
        ),
        (json!("boss"), json!("BOSS"))
    );
    let written = live
        .write_with(
            "p1",
            json!({"title": "chief"}),
            r#"base => '{"title": "boss"}'"#,
        )
        .await
        .expect("committed");
    assert_eq!(written.values["title"], "chief");
    live.edit_in_crm("p1", json!({"title": "CZAR"})).await;
    let written = live
        .write("p1", json!({"title": "tsar"}))
        .await
        .expect("conflict");
    assert_eq!(written.values["title"], "czar");
    let read: Json = live
        .db
        .one("SELECT crm.read_live('people', 'p1')", &[])
        .await;
    assert_eq!(read["title"], "czar");
    // A plain UPDATE that loses: the row takes what the CRM holds, through the transform.
    live.db.execute("UPDATE people SET title = 'mine'").await;
    live.agree().await;
    assert_eq!(
        (
            live.cell("p1", "title").await,
            live.field("p1", "title").await
        ),
        (json!("czar"), json!("CZAR"))
    );
    // And one that was based on what is there.
    live.db.execute("UPDATE people SET title = 'mine'").await;
    live.agree().await;
    assert_eq!(
        (
            live.cell("p1", "title").await,
            live.field("p1", "title").await
        ),
        (json!("mine"), json!("MINE"))
    );
}
