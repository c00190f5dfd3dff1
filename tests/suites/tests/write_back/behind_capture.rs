//! Cells that change without a trigger having fired: what is edited afterwards is judged by what the CRM holds, and the change
//! itself is found.

use crm_suites::{Live, Vendor, json};

use crate::CLUSTER;

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

crm_suites::with_every_crm!(the_next_edit_reaches_the_crm);

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
