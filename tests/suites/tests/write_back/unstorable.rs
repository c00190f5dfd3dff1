//! Values that a CRM takes and `jsonb` does not: they are sent once, and what is kept of them is a
//! note.

use crm_suites::{Cluster, Desk, Vendor, eventually, json, with_every_crm};

use crate::CLUSTER;

/// JSON that PostgreSQL has in a column of type json and nowhere else.
const REFUSED: [&str; 3] = [
    r#"{"a":"x\u0000y"}"#,
    r#"{"n":1e200000}"#,
    r#"[[{"\u0000":-1e-20000}]]"#,
];

/// People with a column of type json that is mapped where `extra` usually is.
async fn desk(cluster: &Cluster, vendor: Vendor, direction: &str) -> Desk {
    let desk = Desk::open(cluster, vendor).await;
    desk.db.execute("ALTER TABLE people ADD j json").await;
    let (map, field) = (desk.map, vendor.field("extra"));
    desk.db
        .execute(&format!(
            "SELECT crm.map_field({map}, 'j', '{field}', direction => '{direction}')"
        ))
        .await;
    desk
}

with_every_crm!(
    what_jsonb_refuses_is_sent_once_or_put_aside,
    a_bidirectional_value_that_jsonb_refuses_can_be_mended,
);

async fn what_jsonb_refuses_is_sent_once_or_put_aside(vendor: Vendor) {
    let desk = desk(&CLUSTER, vendor, "outbound").await;
    desk.link(6).await;
    desk.db.drain().await;
    desk.crm.forget(&desk.db).await;
    for (n, bad) in REFUSED.iter().enumerate() {
        let sql = format!("UPDATE people SET j = '{bad}' WHERE id = 'p{}'", n + 2);
        desk.db.execute(&sql).await;
    }
    let sql = "UPDATE people SET j = '{\"a\": \"fine\"}', phone = 'new' WHERE id IN ('p1', 'p6')";
    desk.db.execute(sql).await;
    assert!(desk.db.flush().await, "nothing waits any more");
    for key in ["p1", "p6"] {
        assert_eq!(desk.field(key, "phone").await, "new");
    }
    let dead = desk.db.count("crm.dead_letters").await;
    let noted = desk
        .db
        .count(
            "crm.audit_log, jsonb_each(fields) f
             WHERE result = 'applied' AND f.value -> 'new' ->> 'unstorable' = 'true' AND length(f.value -> 'new' ->> 'hash') = 64",
        )
        .await;
    assert_eq!(dead + noted, 3, "each is sent or put aside");
    if vendor == Vendor::Stub {
        assert_eq!(dead, 3, "the stub's tables are PostgreSQL's");
    }
    // It rests: nothing is sent again.
    let asked = desk.crm.asked(&desk.db).await.len();
    assert!(asked < 30, "{asked} requests for five records");
    assert!(desk.db.flush().await);
    assert_eq!(desk.crm.asked(&desk.db).await.len(), asked);
    desk.db.assert_checked().await;
    // Mended, they go.
    desk.db.execute("UPDATE people SET j = '{\"a\": 1}'").await;
    assert!(desk.db.flush().await);
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
    desk.settle().await;
}

async fn a_bidirectional_value_that_jsonb_refuses_can_be_mended(vendor: Vendor) {
    let desk = desk(&CLUSTER, vendor, "bidirectional").await;
    desk.link(3).await;
    desk.db.drain().await;
    desk.crm.forget(&desk.db).await;
    for bad in REFUSED {
        let sql = format!(
            "UPDATE people SET j = '{bad}' WHERE id = 'p2'; UPDATE people SET j = '{{\"k\": 2}}' WHERE id <> 'p2'"
        );
        desk.db.execute(&sql).await;
        eventually("the edits are settled", async || {
            let waiting = "crm.pending_write WHERE state <> 'dead'";
            let waits = desk.db.count(waiting).await + desk.db.count("crm.change").await;
            (waits == 0).then_some(())
        })
        .await;
        desk.db.assert_checked().await;
    }
    let asked = desk.crm.asked(&desk.db).await.len();
    assert!(asked < 60, "{asked} requests for nine edits");
    desk.db
        .execute("UPDATE people SET j = '{\"a\": \"mended\"}' WHERE id = 'p2'")
        .await;
    assert!(desk.db.flush().await);
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
    assert_eq!(desk.db.count("crm.conflicts").await, 0);
    let held = desk.field("p2", "extra").await;
    let held = match held.as_str() {
        Some(text) => text.parse().expect("JSON"),
        None => held,
    };
    assert_eq!(held, json!({"a": "mended"}));
    desk.db.assert_checked().await;
}
