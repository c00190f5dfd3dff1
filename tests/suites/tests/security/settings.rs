//! What capture stores and what the worker does depends on no setting of the database.

use crm_suites::{Live, Vendor, eventually, json};

use crate::CLUSTER;
use crate::possession::{PEOPLE, Possession};

const HOSTILE: [(&str, &str); 13] = [
    ("standard_conforming_strings", "off"),
    ("escape_string_warning", "off"),
    ("DateStyle", "'SQL, DMY'"),
    ("TimeZone", "'Asia/Tokyo'"),
    ("IntervalStyle", "iso_8601"),
    ("extra_float_digits", "-15"),
    ("bytea_output", "escape"),
    ("search_path", "m"),
    ("transform_null_equals", "on"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_deferrable", "on"),
    ("idle_in_transaction_session_timeout", "'20s'"),
];

/// Edits of an application that knows of the settings come through both ways, under rules whose
/// texts need care.
async fn works(possession: &mut Possession) {
    let db = &possession.db;
    let before = db.worker().await;
    db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_crm worker' AND datname = current_database()")
        .await;
    db.worker_after(before).await;
    let map = possession.map;
    // A session that has the settings, as whoever maps and whoever edits have.
    let admin = db.session().await;
    admin
        .execute("SET default_transaction_read_only = off; SET default_transaction_isolation = 'read committed'")
        .await;
    let rules = format!(
        r#"SELECT crm.alter_field({map}, 'phone', 'first_name', direction => 'bidirectional', validation => E'{{"pattern": "^[\\\\w ]+$", "max_length": 20}}')"#
    );
    admin.execute(&rules).await;
    let owner = db.session().await;
    let role = &possession.role;
    owner
        .execute(&format!(
            "RESET ROLE; SET SESSION AUTHORIZATION {role}; SET default_transaction_read_only = off"
        ))
        .await;
    for sql in [
        "INSERT INTO m.people VALUES ('p1', 'Last', 'First'), ('p2', 'Last', 'First'), ('p3', 'Last', 'First')",
        "UPDATE m.people SET email = 'Other' WHERE id = 'p1'",
        "UPDATE m.people SET phone = 'Two of them' WHERE id <> 'p1'",
    ] {
        owner.execute(sql).await;
    }
    let error = owner
        .error("UPDATE m.people SET phone = 'No!' WHERE id = 'p1'")
        .await;
    assert_eq!(error.code().code(), "23514", "{error:?}");
    db.drain().await;
    let sql = "SELECT crm_id FROM crm.ledger WHERE record_key = 'p2'";
    let id: String = db.one(sql, &[]).await;
    let record = possession
        .crm
        .record(db, "contact", &id)
        .await
        .expect("a record");
    assert_eq!(record["first_name"], "Two of them");
    db.execute("SET default_transaction_read_only = off").await;
    possession
        .crm
        .edit(db, "contact", &id, &json!({"first_name": "Theirs"}))
        .await;
    assert!(db.one::<bool>("SELECT crm.ingest_now()", &[]).await);
    let sql = "SELECT phone FROM m.people WHERE id = 'p2'";
    assert_eq!(db.one::<String>(sql, &[]).await, "Theirs");
    db.assert_checked().await;
}

#[tokio::test]
async fn settings_of_the_database_change_nothing() {
    let mut possession = Possession::of(PEOPLE, "bidirectional", ", on_insert => 'create'").await;
    for (name, value) in HOSTILE {
        let sql = format!("ALTER DATABASE {} SET {name} = {value}", possession.db.name);
        possession.db.execute(&sql).await;
    }
    works(&mut possession).await;
}

/// A role that the database sets is that of its applications, not the worker's.
#[tokio::test]
async fn a_role_of_the_database_is_not_the_workers() {
    let mut possession = Possession::of(PEOPLE, "bidirectional", ", on_insert => 'create'").await;
    let (name, role) = (&possession.db.name, &possession.role);
    let sql = format!(
        "SELECT crm.grant_access('{role}', 'admin'); ALTER DATABASE {name} SET role = {role}"
    );
    possession.db.execute(&sql).await;
    works(&mut possession).await;
}

/// A worker that runs and cannot work says so where people look.
#[tokio::test]
async fn the_status_says_what_keeps_the_worker_from_working() {
    CLUSTER.provokes("read_only_sql_transaction (SQLSTATE");
    let live = Live::open(&CLUSTER, Vendor::Stub).await;
    let db = &live.db;
    let whole: String = db
        .one(
            "SELECT pg_get_functiondef('crm_internal.maps_to_follow()'::regprocedure)",
            &[],
        )
        .await;
    db.execute(
        "CREATE OR REPLACE FUNCTION crm_internal.maps_to_follow() RETURNS SETOF int LANGUAGE plpgsql AS $$ BEGIN RAISE read_only_sql_transaction; END $$",
    )
    .await;
    let reason = format!(
        "SELECT coalesce(reason, '') FROM crm.status WHERE map_id = {}",
        live.map
    );
    let said = async |wanted: &str| {
        eventually(&format!("the status says: {wanted}"), async || {
            db.execute("SELECT crm.flush(timeout => '100 ms')").await;
            (db.text(&reason).await == wanted).then_some(())
        })
        .await;
    };
    said("worker failing (25006)").await;
    db.execute(&whole).await;
    said("").await;
    db.assert_checked().await;
}
