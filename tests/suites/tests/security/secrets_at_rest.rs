//! What pg_read_all_data and pg_write_all_data do not reach; and what a map row says is checked
//! again where it is used.

use crm_suites::{Desk, Live, Vendor, eventually};

use crate::{CLUSTER, refused, role};

#[tokio::test]
async fn who_reads_and_writes_all_data_sees_no_secret_and_sets_nothing_up() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.db
        .execute("SELECT crm.create_connection('hub', 'hubspot', credentials => '{\"access_token\": \"the-secret-of-hub\"}')")
        .await;
    let (backup, session) = role(&desk.db, "backup", None).await;
    desk.db
        .execute(&format!(
            "GRANT pg_read_all_data, pg_write_all_data TO {backup}"
        ))
        .await;
    assert_eq!(session.count("crm.credential").await, 0);
    assert_eq!(desk.db.count("crm.credential").await, 2);
    for sql in [
        "UPDATE crm.credential SET secret = '{}'",
        "DELETE FROM crm.credential",
        "INSERT INTO crm.credential VALUES (1000, '{}')",
        "UPDATE crm.connection SET base_url = 'http://evil.example'",
        "UPDATE crm.object_map SET relation = 'pg_authid'::regclass",
        "UPDATE crm.field_map SET transform_out = 'jsonb_strip_nulls'::regproc",
        "INSERT INTO crm.field_map (map_id, field_id, column_name, crm_field, data_type) VALUES (1, 9, 'notes', 'notes', 'text')",
        "DELETE FROM crm.bound_column",
        "UPDATE crm.access SET level = 'reader'",
    ] {
        refused(&session, sql).await;
    }
    let error = session
        .error("UPDATE crm.field_map SET crm_field = 'x'")
        .await;
    assert!(
        error
            .hint()
            .unwrap_or_default()
            .contains("crm.alter_field()"),
        "{error:?}"
    );
    // What is dumped is theirs to read, so that a backup is whole.
    assert_eq!(session.count("crm.object_map").await, 1);
    desk.db.assert_checked().await;
}

/// A function that mallory may change would run with the rights of whom the table belongs to.
#[tokio::test]
async fn a_transform_runs_only_for_whom_its_owner_could_act_anyway() {
    let live = Live::open(&CLUSTER, Vendor::Stub).await;
    live.people(1).await;
    let (owner, _) = role(&live.db, "owner", Some("admin")).await;
    let (mallory, _) = role(&live.db, "mallory", None).await;
    live.db
        .execute(&format!(
            "ALTER TABLE people OWNER TO {owner};
             CREATE TABLE ran (by name);
             GRANT INSERT ON ran TO PUBLIC;
             CREATE FUNCTION mine(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.ran VALUES (current_user); RETURN $1; END $$;
             ALTER FUNCTION mine(jsonb) OWNER TO {mallory}"
        ))
        .await;
    let map = |argument: &str| {
        format!(
            "SELECT crm.map_field({}, 'title', '{}', direction => 'outbound'{argument})",
            live.map,
            Vendor::Stub.field("title")
        )
    };
    for argument in [
        ", transform_out => 'mine(jsonb)'",
        ", transform_in => 'mine(jsonb)'",
    ] {
        let error = live.db.error(&map(argument)).await;
        assert_eq!(error.code().code(), "42501", "{error:?}");
        assert!(
            error.detail().unwrap_or_default().contains(&mallory),
            "{error:?}"
        );
        assert!(
            error.hint().unwrap_or_default().contains("OWNER TO"),
            "{error:?}"
        );
    }
    // One that became mallory's later does not run any more.
    live.db
        .execute(&format!("ALTER FUNCTION mine(jsonb) OWNER TO {owner}"))
        .await;
    live.db
        .execute(&map(", transform_out => 'mine(jsonb)'"))
        .await;
    live.db.execute("UPDATE people SET title = 'Dr'").await;
    live.db.drain().await;
    let ran = live.db.count("ran").await;
    assert!(ran > 0, "the owner's own runs");
    live.db
        .execute(&format!("ALTER FUNCTION mine(jsonb) OWNER TO {mallory}"))
        .await;
    live.db
        .execute("UPDATE people SET title = 'Prof'; SELECT crm.flush(timeout => '1 s')")
        .await;
    let status = format!(
        "SELECT state || ': ' || reason FROM crm.status WHERE map_id = {}",
        live.map
    );
    let told = eventually("the map stops", async || {
        let told = live.db.text(&status).await;
        told.starts_with("error").then_some(told)
    })
    .await;
    assert!(
        told.contains(&mallory) && told.contains("crm.alter_field()"),
        "{told}"
    );
    let error = live
        .db
        .error("SELECT crm.write('people', 'p1', '{\"phone\": \"1\"}')")
        .await;
    assert_eq!(error.code().code(), "55000", "{error:?}");
    assert_eq!(live.db.count("ran").await, ran);
    // Whoever may act as the owner may write it.
    live.db
        .execute(&format!(
            "GRANT {owner} TO {mallory}; {}",
            map(", transform_out => 'mine(jsonb)'").replace("map_field", "alter_field")
        ))
        .await;
    live.db.drain().await;
    assert!(live.db.count("ran").await > ran);
    // And not any more when the membership goes.
    let ran = live.db.count("ran").await;
    live.db.execute(&format!("REVOKE {owner} FROM {mallory}; UPDATE people SET title = 'Dame'; SELECT crm.flush(timeout => '1 s')")).await;
    let error = live
        .db
        .error("SELECT crm.write('people', 'p1', '{\"phone\": \"2\"}')")
        .await;
    assert_eq!(error.code().code(), "55000", "{error:?}");
    assert_eq!(live.db.count("ran").await, ran);
}
