//! Settings are taken over when postgresql.conf is read again.

use crm_suites::{Cluster, Desk, Vendor, eventually};

#[tokio::test]
async fn a_reload_reaches_the_worker() {
    let cluster = Cluster::start();
    let desk = Desk::open_with(&cluster, Vendor::Salesforce, "on_insert => 'create'").await;
    let worker = desk.db.worker().await;
    let add = |round: usize| {
        format!(
            "INSERT INTO people (id, last_name) SELECT '{round}-' || n, 'New' FROM generate_series(1, 50) n"
        )
    };
    desk.db.execute(&add(1)).await;
    desk.settle().await;
    assert!(desk.crm.sim().requests("/jobs/ingest").is_empty());
    cluster.configure(&[("pg_crm.bulk_threshold", "10")]);
    cluster.reload();
    eventually("the setting is in force", async || {
        (desk
            .db
            .one::<String>("SHOW pg_crm.bulk_threshold", &[])
            .await
            == "10")
            .then_some(())
    })
    .await;
    desk.db.execute(&add(2)).await;
    desk.settle().await;
    assert!(
        !desk.crm.sim().requests("/jobs/ingest").is_empty(),
        "the worker knows the new threshold"
    );
    assert_eq!(desk.db.worker().await, worker, "without a restart");
}

#[tokio::test]
async fn without_preloading_the_functions_say_what_is_missing() {
    let cluster = Cluster::with(&[("shared_preload_libraries", "")]);
    let db = cluster.bare_database().await;
    let error = match db
        .client()
        .batch_execute("CREATE EXTENSION pg_crm; SELECT crm.flush()")
        .await
    {
        Ok(()) => panic!("pg_crm works without being preloaded"),
        Err(error) => error,
    };
    let error = error.as_db_error().expect("the server's error");
    let said = format!("{} {}", error.message(), error.hint().unwrap_or_default());
    assert!(said.contains("shared_preload_libraries"), "{said}");
}
