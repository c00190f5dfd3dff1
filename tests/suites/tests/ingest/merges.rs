//! CRM records that people merge.

use crm_suites::{Live, Vendor};

use crate::CLUSTER;
use crate::identity::{made_in_crm, person};

crm_suites::with_remote_crms!(
    a_merged_record_takes_its_row_along,
    two_rows_whose_records_become_one,
    outbound_columns_go_to_the_record_that_took_theirs_in
);

async fn a_merged_record_takes_its_row_along(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    let ids = live.people(1).await;
    live.ingest().await;
    let into = made_in_crm(&live, person("Master")).await;
    let kept = live
        .crm
        .sim()
        .merge(vendor.name(), vendor.people(), &into, &[&ids[0]]);
    live.ingest().await;
    assert_eq!(live.crm_id("p1").await, Some(kept));
    let state = "SELECT count(*) FROM crm.conflicts";
    assert_eq!(live.db.one::<i64>(state, &[]).await, 0);
    live.agree().await;
}

async fn two_rows_whose_records_become_one(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    let ids = live.people(2).await;
    live.ingest().await;
    let kept = live
        .crm
        .sim()
        .merge(vendor.name(), vendor.people(), &ids[1], &[&ids[0]]);
    live.ingest().await;
    let linked: Vec<String> = live
        .db
        .all(
            "SELECT record_key FROM crm.ledger WHERE crm_id = $1",
            &[&kept],
        )
        .await;
    assert_eq!(linked.len(), 1);
    let conflicts: Vec<String> = live
        .db
        .all("SELECT conflict_type FROM crm.conflicts", &[])
        .await;
    assert_eq!(conflicts, ["duplicate_identity"]);
    assert_eq!(live.db.count("people").await, 2);
    live.db.assert_checked().await;
}

async fn outbound_columns_go_to_the_record_that_took_theirs_in(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    let field = vendor.field("title");
    let sql = format!(
        "SELECT crm.map_field({}, 'title', '{field}', direction => 'outbound')",
        live.map
    );
    live.db.execute(&sql).await;
    let ids = live.people(1).await;
    live.db.execute("UPDATE people SET title = 'ours'").await;
    live.settle().await;
    let mut master = person("Master");
    master.insert("title".into(), "theirs".into());
    let into = made_in_crm(&live, master).await;
    live.crm
        .sim()
        .merge(vendor.name(), vendor.people(), &into, &[&ids[0]]);
    live.ingest().await;
    live.settle().await;
    assert_eq!(live.field("p1", "title").await, "ours");
}
