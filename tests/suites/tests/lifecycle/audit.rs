//! The audit grows month by month, is not rewritten, and loses nothing but old months.

use crm_suites::{Cluster, Desk, Vendor, eventually};

/// The months of the audit, as far from this one as they are.
const MONTHS: &str = "SELECT string_agg(((extract(year FROM m) - extract(year FROM n)) * 12
                                          + extract(month FROM m) - extract(month FROM n))::text, ' ' ORDER BY m)
    FROM (SELECT to_date(substr(relname, 11), 'YYYY_MM') AS m, (now() AT TIME ZONE 'UTC')::date AS n
          FROM pg_inherits JOIN pg_class ON oid = inhrelid
          WHERE inhparent = 'crm.audit_log'::regclass AND relname <> 'audit_log_default') x";

/// Makes the partition of that month, counted from this one, with one row; as the worker made it
/// when it was current.
async fn past(db: &crm_suites::Database, month: i32) {
    db.execute(&format!(
        "SET timezone = 'UTC';
         SET ROLE crm_engine;
         DO $$
         DECLARE m timestamptz := date_trunc('month', now()) + interval '{month} months';
                 name text := 'audit_log_' || to_char(m, 'YYYY_MM');
         BEGIN
             EXECUTE format('CREATE TABLE crm.%I (LIKE crm.audit_log_default INCLUDING ALL EXCLUDING IDENTITY)', name);
             EXECUTE format('ALTER TABLE crm.audit_log ATTACH PARTITION crm.%I FOR VALUES FROM (%L) TO (%L)',
                            name, m, m + interval '1 month');
             INSERT INTO crm.audit_log (at, connection, provider, path, operation, result)
             VALUES (m + interval '3 days', '{month}', 'stub', 'batch', 'update', 'applied');
         END $$;
         RESET ROLE;
         RESET timezone"
    ))
    .await;
}

/// The first row of a month may be on its way into the default partition when that month's is made.
#[tokio::test]
async fn a_row_that_comes_meanwhile_stays_where_it_is() {
    let cluster = Cluster::with(&[]);
    let db = cluster.database().await;
    let writer = db.session().await;
    writer
        .execute(
            "BEGIN; INSERT INTO crm.audit_log (connection, provider, path, operation, result)
                    VALUES ('s', 'stub', 'batch', 'update', 'applied')",
        )
        .await;
    let maintainer = db.session().await;
    let maintained = tokio::spawn(async move {
        let sql = "SET ROLE crm_engine; SELECT crm_internal.maintain_audit('0')";
        maintainer.client().batch_execute(sql).await
    });
    eventually("it waits for the row", async || {
        (db.count("pg_stat_activity WHERE wait_event_type = 'Lock'")
            .await
            == 1)
            .then_some(())
    })
    .await;
    writer.execute("COMMIT").await;
    maintained.await.expect("no panic").expect("no error");
    assert_eq!(db.text(MONTHS).await, "1 2");
    assert_eq!(db.count("crm.audit_log_default").await, 1);
}

#[tokio::test]
async fn months_come_ahead_and_go_when_they_are_old() {
    let cluster = Cluster::with(&[
        ("pg_crm.audit_retention", "45d"),
        ("timezone", "Pacific/Kiritimati"),
    ]);
    let db = cluster.database().await;
    for month in [-30, -3, -1] {
        past(&db, month).await;
    }
    assert_eq!(
        db.text(MONTHS).await,
        "-30 -3 -1",
        "no map, no partition yet"
    );
    let crm = crm_suites::Crm::connect(&db, Vendor::Stub).await;
    let desk = Desk::furnish(db, crm, "on_insert => 'create'").await;
    eventually(
        "this month and the next two are there, the old ones are gone",
        async || (desk.db.text(MONTHS).await == "-1 0 1 2").then_some(()),
    )
    .await;
    let left = "SELECT string_agg(connection, ' ') FROM crm.audit_log";
    assert_eq!(desk.db.text(left).await, "-1");
    desk.link(3).await;
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.settle().await;
    let here = "SELECT DISTINCT tableoid::regclass = ('crm.audit_log_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM'))::regclass
                FROM crm.audit_log WHERE connection = 'stub'";
    assert_eq!(desk.db.all::<bool>(here, &[]).await, [true]);
    // As if a year had passed: the month in which these were synced is gone, and nobody misses it.
    desk.db
        .execute(
            "BEGIN; SET LOCAL session_replication_role = replica; DELETE FROM crm.audit_log WHERE connection = 'stub';
             INSERT INTO crm.audit_log_retired VALUES (now() + interval '1 day'); COMMIT",
        )
        .await;
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn it_is_not_rewritten() {
    let desk = Desk::open(&crate::CLUSTER, Vendor::Stub).await;
    desk.link(3).await;
    desk.db.execute("UPDATE people SET phone = 'new'").await;
    desk.settle().await;
    let rows = desk.audit_rows().await;
    let month: String = desk
        .db
        .one(
            "SELECT tableoid::regclass::text FROM crm.audit_log LIMIT 1",
            &[],
        )
        .await;
    for sql in [
        "UPDATE crm.audit_log SET error = 'rewritten'".to_owned(),
        "UPDATE crm.audit_log SET at = at - interval '2 years'".to_owned(),
        "DELETE FROM crm.audit_log".to_owned(),
        "TRUNCATE crm.audit_log".to_owned(),
        format!("UPDATE {month} SET error = 'rewritten'"),
        format!("DELETE FROM {month}"),
        format!("TRUNCATE {month}"),
        "TRUNCATE crm.audit_log_default".to_owned(),
    ] {
        let error = desk.db.error(&sql).await;
        assert_eq!(error.code().code(), "42501", "{sql}: {error:?}");
        assert!(error.message().contains("append-only"), "{sql}: {error:?}");
    }
    assert_eq!(desk.audit_rows().await, rows);
    desk.settle().await;
}
