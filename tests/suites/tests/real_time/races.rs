//! What comes in between: somebody else's edit of an account, our own that is on its way.

use crm_suites::{Live, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_remote_crms!(a_call_follows_the_edit_that_is_on_its_way);

/// An Account has no If-Unmodified-Since of its own use: it is guarded by its ETag.
#[tokio::test]
async fn an_account_is_guarded_by_its_etag() {
    let live = Live::open(&CLUSTER, Vendor::Salesforce).await;
    live.db
        .execute("CREATE TABLE firms (id text PRIMARY KEY, name text, phone text)")
        .await;
    let map: i32 = live
        .db
        .one(
            "SELECT crm.map_object('salesforce', 'firms', 'Account')",
            &[],
        )
        .await;
    live.db
        .execute(&format!("SELECT crm.map_field({map}, 'name', 'Name'); SELECT crm.map_field({map}, 'phone', 'Phone')"))
        .await;
    let firm = json!({"Name": "Acme", "Phone": "+1"});
    let ids = live.crm.sim().create(
        "salesforce",
        "Account",
        &[firm.as_object().unwrap().clone()],
    );
    live.db
        .execute("INSERT INTO firms VALUES ('a', 'Acme', '+1')")
        .await;
    live.db
        .rows("SELECT crm.link($1, 'a', $2)", &[&map, &ids[0]])
        .await;
    let call = |phone: &str| {
        format!("SELECT outcome FROM crm.write('firms', 'a', '{{\"phone\": \"{phone}\"}}')")
    };
    assert_eq!(live.db.one::<String>(&call("+2"), &[]).await, "committed");
    live.crm.fault(json!({"method": "PATCH", "path": "/Account/", "edit": {"object": "Account", "id": ids[0], "fields": {"Phone": "theirs"}, "when": "before"}}));
    assert_eq!(live.db.one::<String>(&call("+3"), &[]).await, "conflict");
    let guarded = live
        .crm
        .sim()
        .requests("/Account/")
        .into_iter()
        .filter(|r| r["method"] == "PATCH" && !r["headers"]["if-match"].is_null());
    assert!(guarded.count() >= 1);
    let record = &live.crm.sim().records("salesforce", "Account")[0];
    assert_eq!(record["fields"]["Phone"], "theirs");
    live.db.execute("UPDATE firms SET phone = 'plain'").await;
    live.quiet().await;
    assert_eq!(live.db.text("SELECT phone FROM firms").await, "theirs");
    live.db.assert_checked().await;
}

/// The call holds the record while the answer to an earlier UPDATE arrives: what that one wrote is
/// nobody else's change.
async fn a_call_follows_the_edit_that_is_on_its_way(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(1).await;
    live.crm.forget(&live.db).await;
    let mut late = live.crm.matching("write");
    late["delay_after_ms"] = 1000.into();
    live.crm.fault(late);
    live.db.execute("UPDATE people SET phone = 'first'").await;
    eventually("the CRM has the first edit", async || {
        (live.field("p1", "phone").await == "first").then_some(())
    })
    .await;
    live.db.execute("BEGIN").await;
    live.write("p1", json!({"phone": "second"}))
        .await
        .expect_pending("transient");
    let writing = "SELECT count(*) FROM crm.claim WHERE path = 'reconcile'";
    eventually("the first edit is answered", async || {
        let watch = live.db.session().await;
        (watch.one::<i64>(writing, &[]).await == 0).then_some(())
    })
    .await;
    live.db.execute("COMMIT").await;
    live.agree().await;
    live.assert_both("p1", "phone", "second").await;
}

/// Where the CRM guards nothing, what was read is old by no more than the time of as many writes as
/// one read is for.
#[tokio::test]
async fn what_is_read_is_written_before_more_is_read() {
    let live = Live::open(&CLUSTER, Vendor::Pipedrive).await;
    live.people(250).await;
    live.db.execute("UPDATE people SET phone = 'ours'").await;
    live.quiet().await;
    let requests = live.crm.sim().requests("persons");
    let (mut reads, mut written) = (0, 0);
    for request in &requests {
        let is_read = request["query"]
            .as_str()
            .is_some_and(|query| query.contains("ids="));
        if request["method"] == "PATCH" {
            written += 1;
        } else if is_read {
            assert_eq!(written, reads * 100, "before read {}", reads + 1);
            reads += 1;
        }
    }
    assert_eq!((reads, written), (3, 250));
    live.agree().await;
}
