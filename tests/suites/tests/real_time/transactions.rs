//! The call is part of its caller's transaction, the CRM is not: whatever becomes of the one, the
//! other follows.

use crm_suites::live::write;
use crm_suites::{Live, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(
    a_rollback_is_put_right,
    savepoints_and_exceptions_are_put_right,
    every_isolation_level_will_do,
);

async fn a_rollback_is_put_right(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(3).await;
    // Twice on one record and once on another.
    live.db.execute("BEGIN").await;
    live.write("p1", json!({"phone": "one"}))
        .await
        .expect("committed");
    let last = live
        .write("p1", json!({"phone": "two", "first_name": "Two"}))
        .await
        .expect("committed");
    live.write("p2", json!({"phone": "three"}))
        .await
        .expect("committed");
    live.db.execute("ROLLBACK").await;
    live.agree().await;
    live.assert_both("p1", "phone", "two").await;
    live.assert_both("p1", "first_name", "Two").await;
    live.assert_both("p2", "phone", "three").await;
    assert_eq!(live.state_of(&last.write_id).await, "committed");
    let audit = live.audit("p1").await;
    assert_eq!(
        audit[1..],
        [
            "realtime applied",
            "realtime applied",
            "compensate superseded"
        ]
    );
    let loser = format!(
        "SELECT fields -> '{}' ->> 'lost' FROM crm.audit_log WHERE path = 'compensate' AND record_key = 'p1'",
        vendor.field("phone")
    );
    assert_eq!(live.db.one::<String>(&loser, &[]).await, "+1");
    // The same, committed.
    live.db.execute("BEGIN").await;
    live.write("p1", json!({"phone": "four"}))
        .await
        .expect("committed");
    live.write("p1", json!({"phone": "five"}))
        .await
        .expect("committed");
    live.write("p2", json!({"phone": "six"}))
        .await
        .expect("committed");
    live.db.execute("COMMIT").await;
    live.agree().await;
    live.assert_both("p1", "phone", "five").await;
    // A failed write that is rolled back never was.
    live.crm.fail(&live.db, "write", "validation", 1).await;
    live.db.execute("BEGIN").await;
    live.write("p3", json!({"phone": "never"}))
        .await
        .expect_pending("validation");
    live.db.execute("ROLLBACK").await;
    live.agree().await;
    live.assert_both("p3", "phone", "+1").await;
    // A deferred rule of the table refuses at COMMIT what the CRM has.
    live.db
        .execute("ALTER TABLE people ADD UNIQUE (phone) DEFERRABLE INITIALLY DEFERRED")
        .await;
    let error = live
        .db
        .error("SELECT crm.write('people', 'p3', '{\"phone\": \"five\"}')")
        .await;
    assert_eq!(error.code().code(), "23505", "{error:?}");
    // The row cannot take it, so a person is asked.
    eventually("a conflict", async || {
        (live
            .db
            .count("crm.conflicts WHERE conflict_type = 'mapping_mismatch'")
            .await
            == 1)
            .then_some(())
    })
    .await;
    live.quiet().await;
    live.db.assert_checked().await;
}

async fn savepoints_and_exceptions_are_put_right(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(3).await;
    live.db.execute("BEGIN; SAVEPOINT s").await;
    live.write("p1", json!({"phone": "undone"}))
        .await
        .expect("committed");
    live.db.execute("ROLLBACK TO s; COMMIT").await;
    live.agree().await;
    live.assert_both("p1", "phone", "undone").await;
    // The transaction that goes on writes the record once more.
    live.db.execute("BEGIN; SAVEPOINT s").await;
    live.write("p1", json!({"phone": "undone again"}))
        .await
        .expect("committed");
    live.db.execute("ROLLBACK TO s").await;
    // What it was based on has changed, by our own hand: a conflict, unless the row is being made
    // to agree already, or has been.
    let based = live.write("p1", json!({"phone": "kept"})).await;
    let agreed = live.audit("p1").await;
    let agreed = agreed.iter().filter(|a| *a == "compensate superseded");
    assert!(
        based.outcome != "committed" || agreed.count() == 2,
        "{based:?}"
    );
    let forced = live.write_with("p1", json!({"phone": "kept"}), "force => true");
    assert!(forced.await.outcome != "conflict");
    live.db.execute("COMMIT").await;
    live.agree().await;
    live.assert_both("p1", "phone", "kept").await;
    live.db
        .execute(
            "DO $$ BEGIN
                 PERFORM crm.write('people', 'p2', '{\"phone\": \"raised\"}');
                 RAISE EXCEPTION 'no';
             EXCEPTION WHEN raise_exception THEN NULL;
             END $$",
        )
        .await;
    live.agree().await;
    live.assert_both("p2", "phone", "raised").await;
    // In a function, and kept.
    live.db
        .execute(
            "CREATE FUNCTION call_p3() RETURNS text LANGUAGE plpgsql AS $$
             DECLARE w crm.write_result;
             BEGIN
                 BEGIN
                     w := crm.write('people', 'p3', '{\"phone\": \"kept\"}');
                 EXCEPTION WHEN others THEN w.outcome := SQLERRM;
                 END;
                 RETURN w.outcome;
             END $$",
        )
        .await;
    assert_eq!(
        live.db.one::<String>("SELECT call_p3()", &[]).await,
        "committed"
    );
    live.agree().await;
    live.assert_both("p3", "phone", "kept").await;
}

async fn every_isolation_level_will_do(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(2).await;
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        for (end, word) in [("COMMIT", "kept"), ("ROLLBACK", "undone")] {
            live.db
                .execute(&format!(
                    "BEGIN ISOLATION LEVEL {level}; SELECT * FROM people"
                ))
                .await;
            let phone = format!("{word} {level}");
            live.write("p1", json!({"phone": phone}))
                .await
                .expect("committed");
            live.write("p1", json!({"phone": phone, "first_name": level}))
                .await
                .expect("committed");
            live.db.execute(end).await;
            live.agree().await;
            live.assert_both("p1", "phone", &phone).await;
        }
        // One that fails waits, and arrives once.
        live.crm.fail(&live.db, "write", "validation", 1).await;
        live.db
            .execute(&format!(
                "BEGIN ISOLATION LEVEL {level}; SELECT * FROM people"
            ))
            .await;
        let phone = format!("late {level}");
        live.write("p2", json!({"phone": phone}))
            .await
            .expect_pending("validation");
        live.db.execute("COMMIT").await;
        live.agree().await;
        live.assert_both("p2", "phone", &phone).await;
    }
    // Somebody else was faster: the error that such transactions know.
    let other = live.db.session().await;
    other
        .execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM people")
        .await;
    live.write("p1", json!({"phone": "faster"}))
        .await
        .expect("committed");
    let error = other
        .error("SELECT crm.write('people', 'p1', '{\"phone\": \"slower\"}')")
        .await;
    assert_eq!(error.code().code(), "40001", "{error:?}");
    other.execute("ROLLBACK").await;
    write(&other, "p1", json!({"phone": "at last"}), "")
        .await
        .expect("committed");
    live.agree().await;
}

/// One waits for the other, and both of them get what they should.
#[tokio::test]
async fn callers_of_one_record_take_turns() {
    let live = Live::open(&CLUSTER, Vendor::Salesforce).await;
    live.people(1).await;
    live.db.execute("BEGIN").await;
    live.write("p1", json!({"phone": "first"}))
        .await
        .expect("committed");
    let other = live.db.session().await;
    let second =
        tokio::spawn(async move { write(&other, "p1", json!({"first_name": "Second"}), "").await });
    eventually("the second waits for the first", async || {
        (live
            .db
            .count(
                "pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
            )
            .await
            == 1)
            .then_some(())
    })
    .await;
    // The worker waits for nobody.
    live.db.execute("COMMIT").await;
    second.await.unwrap().expect("committed");
    live.agree().await;
}
