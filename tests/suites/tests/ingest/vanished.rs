//! A field that an admin of the CRM removes while it is mapped.

use crm_suites::{Live, Vendor, json};

use crate::CLUSTER;

crm_suites::with_remote_crms!(a_field_that_vanished_stops_the_map);

async fn a_field_that_vanished_stops_the_map(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    let field = "Soon_Gone__c";
    let field = if vendor == Vendor::HubSpot {
        "soon_gone"
    } else {
        field
    };
    let path = format!("schema/{}/{}", vendor.name(), vendor.people());
    let with = json!({"fields": [{"name": field, "type": "string"}]});
    live.crm.sim().post(&path, &with);
    live.db
        .execute(&format!(
            "SELECT crm.map_field({}, 'title', '{field}', direction => 'inbound')",
            live.map
        ))
        .await;
    live.people(6).await;
    live.ingest().await;
    live.crm.sim().post(&path, &json!({"remove": [field]}));
    for n in 1..=6 {
        live.edit_in_crm(&format!("p{n}"), json!({"phone": "+8"}))
            .await;
    }
    let _: bool = live
        .db
        .one("SELECT crm.ingest_now(timeout => '5 s')", &[])
        .await;
    assert_eq!(live.state().await, "error");
    let reason = live.db.text("SELECT reason FROM crm.status").await;
    assert!(reason.contains(field), "{reason}");
    // Nothing was taken for empty.
    assert_eq!(live.db.count("people WHERE phone = '+1'").await, 6);
    live.db
        .execute(&format!("SELECT crm.unmap_field({}, 'title')", live.map))
        .await;
    live.db.execute("SELECT crm.replay_all()").await;
    // At once, not when the map's interval has passed.
    let now = "SELECT crm.ingest_now(timeout => '30 s')";
    assert!(live.db.one::<bool>(now, &[]).await);
    assert_eq!(live.db.count("people WHERE phone = '+8'").await, 6);
    live.agree().await;
}
