//! Settings are taken over when postgresql.conf is read again.

use crm_suites::{Cluster, Desk, Vendor, eventually, json};

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
    // The worker may hear of it later than the backend did.
    let mut round = 1;
    eventually("the worker knows the new threshold", async || {
        round += 1;
        desk.db.execute(&add(round)).await;
        desk.settle().await;
        (!desk.crm.sim().requests("/jobs/ingest").is_empty()).then_some(())
    })
    .await;
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

/// The links are made anew by a reload, also the one that is just being given another refresh
/// token.
#[tokio::test]
async fn a_reload_while_a_refresh_token_is_rotated_costs_no_credentials() {
    let cluster = Cluster::start();
    let desk = Desk::open(&cluster, Vendor::Salesforce).await;
    desk.link(3).await;
    let sim = desk.crm.sim();
    sim.post(
        "tokens",
        &json!({"vendor": "salesforce", "rotate_refresh": true}),
    );
    let url = desk.crm.url().expect("a URL");
    desk.db
        .execute(&format!(
            r#"SELECT crm.set_credentials('salesforce', '{{"client_id": "sf-client", "client_secret": "sf-secret",
                                          "refresh_token": "sf-refresh", "login_url": "{url}"}}')"#
        ))
        .await;
    desk.db.execute("UPDATE people SET phone = '1'").await;
    desk.settle().await;
    sim.post("tokens", &json!({"vendor": "salesforce", "expire": "all"}));
    // The old token is void already, the new one is not known yet.
    desk.crm
        .fault(json!({"path": "/oauth2/token", "delay_after_ms": 1500, "times": 1}));
    desk.db
        .execute("UPDATE people SET phone = '2' WHERE id = 'p1'")
        .await;
    let session = desk.db.session().await;
    let flush = tokio::spawn(async move { session.one::<bool>("SELECT crm.flush()", &[]).await });
    eventually("the token is being renewed", async || {
        (sim.faults_left() == 0).then_some(())
    })
    .await;
    cluster.reload();
    desk.db
        .execute("UPDATE people SET phone = '2' WHERE id = 'p2'")
        .await;
    eventually("another slice is on its way", async || {
        let sending = "crm.cell_status WHERE state = 'sending' AND record_key = 'p2'";
        (desk.db.count(sending).await > 0).then_some(())
    })
    .await;
    assert!(flush.await.expect("the flush"), "{}", desk.state().await);
    desk.settle().await;
    assert_eq!(desk.state().await, "idle");
}
