//! `crm.read_live()` and `crm.write()` show columns that their caller may SELECT, and change those
//! that the caller may UPDATE.

use crm_suites::live::write;
use crm_suites::{Live, Vendor, json};

use crate::{CLUSTER, refused, role};

#[tokio::test]
async fn what_may_not_be_selected_is_not_shown() {
    let live = Live::open(&CLUSTER, Vendor::Stub).await;
    live.people(1).await;
    let (writer, session) = role(&live.db, "writer", Some("writer")).await;
    live.db
        .execute(&format!(
            "GRANT SELECT (id, phone), UPDATE (phone, email) ON people TO {writer}"
        ))
        .await;
    let read = "SELECT string_agg(k, ' ' ORDER BY k) FROM jsonb_object_keys(crm.read_live('people', 'p1')) AS k";
    assert_eq!(session.text(read).await, "phone");
    assert_eq!(live.db.text(read).await, "email first_name last_name phone");
    // A hash of few possible values is as good as the value.
    let written = write(&session, "p1", json!({"phone": "+5"}), "")
        .await
        .expect("committed");
    let keys = |values: &crm_suites::Json| {
        let keys = values
            .as_object()
            .map(|o| o.keys().cloned().collect::<Vec<_>>());
        keys.unwrap_or_default().join(" ")
    };
    assert_eq!(keys(&written.values), "phone");
    assert_eq!(written.hash, None);
    let all = write(&live.db, "p1", json!({"phone": "+6"}), "")
        .await
        .expect("committed");
    assert_eq!(keys(&all.values), "email first_name last_name phone");
    assert!(all.hash.is_some());
    // A conflict tells as little.
    let stale = write(
        &session,
        "p1",
        json!({"phone": "+7"}),
        "base => '{\"phone\": \"stale\"}'",
    )
    .await
    .expect("conflict");
    assert_eq!(keys(&stale.values), "phone");
    // To compare is to ask.
    refused(
        &session,
        "SELECT crm.write('people', 'p1', '{\"phone\": \"+8\"}', base => '{\"email\": \"is it this?\"}')",
    )
    .await;
    live.db
        .execute(&format!("REVOKE SELECT (phone) ON people FROM {writer}"))
        .await;
    refused(&session, "SELECT crm.read_live('people', 'p1')").await;
    live.agree().await;
}

/// The CRM is not asked for anything on behalf of somebody who may not change the column.
#[tokio::test]
async fn what_may_not_be_updated_is_not_written() {
    let live = Live::open(&CLUSTER, Vendor::Salesforce).await;
    live.people(1).await;
    let (writer, session) = role(&live.db, "writer", Some("writer")).await;
    live.db
        .execute(&format!(
            "GRANT SELECT, UPDATE (phone) ON people TO {writer}"
        ))
        .await;
    live.crm.forget(&live.db).await;
    for sql in [
        "SELECT crm.write('people', 'p1', '{\"email\": \"x@y.example\"}')",
        "SELECT crm.write('people', 'p1', '{\"email\": \"x@y.example\"}', force => true)",
        "SELECT crm.write('people', 'p1', '{\"email\": \"x@y.example\", \"phone\": \"1\"}', base => '{\"email\": \"other\"}')",
    ] {
        let error = session.error(sql).await;
        assert_eq!(error.code().code(), "42501", "{error:?}");
        assert!(error.message().contains("email"), "{error:?}");
    }
    live.nothing_goes_out().await;
    write(&session, "p1", json!({"phone": "+5"}), "")
        .await
        .expect("committed");
    live.agree().await;
}
