//! A person of the CRM edits the very field at each gap of an edit's way: before it is read,
//! between the read and the write, and after the write.

use crm_suites::crm::facts::Guarded;
use crm_suites::{Desk, Vendor, json};

use super::{desk, quiet};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Gap {
    BeforeRead,
    AfterRead,
    BeforeWrite,
    AfterWrite,
}

const GAPS: [Gap; 4] = [
    Gap::BeforeRead,
    Gap::AfterRead,
    Gap::BeforeWrite,
    Gap::AfterWrite,
];

/// Has a person set the phone to "theirs" at the next time the gap is passed.
async fn intrude(desk: &Desk, id: &str, gap: Gap) {
    let vendor = desk.crm.vendor;
    let when = match gap {
        Gap::BeforeRead | Gap::BeforeWrite => "before",
        Gap::AfterRead | Gap::AfterWrite => "after",
    };
    let reads = matches!(gap, Gap::BeforeRead | Gap::AfterRead);
    let mut fault = match (vendor, reads) {
        (Vendor::HubSpot, true) => json!({"path": "/batch/read"}),
        (_, true) => json!({"method": "GET"}),
        (_, false) => json!({"method": "PATCH"}),
    };
    let fields = json!({vendor.field("phone"): "theirs"});
    fault["edit"] = json!({"object": vendor.people(), "id": id, "fields": fields, "when": when});
    desk.crm.fault(fault);
}

async fn sides(desk: &Desk, key: &str) -> (String, String) {
    let row: String = desk
        .db
        .one("SELECT phone FROM people WHERE id = $1", &[&key])
        .await;
    let crm = desk.field(key, "phone").await;
    (row, crm.as_str().unwrap_or_default().to_owned())
}

async fn results(desk: &Desk, key: &str) -> String {
    let sql = "SELECT coalesce(string_agg(result, ',' ORDER BY audit_id), '') FROM crm.audit_log WHERE record_key = $1";
    desk.db.one(sql, &[&key]).await
}

async fn a_call_meets_a_person_at_every_gap(vendor: Vendor) {
    let desk = desk(vendor, &["phone"]).await;
    let ids = desk.link(GAPS.len()).await;
    // Hot records are read again until a second has passed.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    for (n, gap) in GAPS.into_iter().enumerate() {
        let key = format!("p{}", n + 1);
        intrude(&desk, &ids[n], gap).await;
        let sql = "SELECT (crm.write('people', $1, '{\"phone\": \"ours\"}')).outcome";
        let outcome: String = desk.db.one(sql, &[&key]).await;
        let old = format!("+47 {}", n + 1);
        let (row, crm) = sides(&desk, &key).await;
        let results = results(&desk, &key).await;
        let seen = (
            outcome.as_str(),
            row.as_str(),
            crm.as_str(),
            results.as_str(),
        );
        let expected = match gap {
            Gap::BeforeRead => ("conflict", old.as_str(), "theirs", "conflict"),
            // HubSpot and Pipedrive cannot refuse it, but tell afterwards what was lost.
            Gap::AfterRead | Gap::BeforeWrite if vendor.guards_one() == Guarded::Reported => {
                ("committed", "ours", "ours", "raced")
            }
            Gap::AfterRead | Gap::BeforeWrite => ("conflict", old.as_str(), "theirs", "conflict"),
            Gap::AfterWrite => ("committed", "ours", "theirs", "applied"),
        };
        assert_eq!(seen, expected, "{gap:?}");
    }
    quiet(&desk).await;
    desk.db.assert_checked().await;
}

async fn an_update_meets_a_person_at_every_gap(vendor: Vendor) {
    let desk = desk(vendor, &["phone"]).await;
    let ids = desk.link(GAPS.len()).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    for (n, gap) in GAPS.into_iter().enumerate() {
        let key = format!("p{}", n + 1);
        intrude(&desk, &ids[n], gap).await;
        desk.db
            .execute(&format!(
                "UPDATE people SET phone = 'ours' WHERE id = '{key}'"
            ))
            .await;
        quiet(&desk).await;
        let (row, crm) = sides(&desk, &key).await;
        let results = results(&desk, &key).await;
        let seen = (row.as_str(), crm.as_str(), results.as_str());
        let expected = match gap {
            Gap::BeforeRead => ("theirs", "theirs", "superseded"),
            Gap::AfterRead | Gap::BeforeWrite if vendor.guards_one() == Guarded::Reported => {
                ("ours", "ours", "raced")
            }
            Gap::AfterRead | Gap::BeforeWrite => ("theirs", "theirs", "superseded"),
            Gap::AfterWrite => ("ours", "theirs", "applied"),
        };
        assert_eq!(seen, expected, "{gap:?}");
    }
    desk.db.assert_checked().await;
}

crm_suites::with_remote_crms!(
    a_call_meets_a_person_at_every_gap,
    an_update_meets_a_person_at_every_gap
);
