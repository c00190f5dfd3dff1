//! What is in the inbox stays as long as it is needed, in a dump too, and the secret is seen
//! nowhere.

use crm_suites::post::{Post, updates};
use crm_suites::{Cluster, Vendor, cluster, eventually, process};

use crate::{CLUSTER, SECRET, desk, inbox, listening};

#[tokio::test]
async fn it_is_pruned_a_week_after_it_was_done() {
    let desk = desk(CLUSTER.database().await, Vendor::Stub, "{}").await;
    let post = Post::relayed(SECRET, &updates(1..=4));
    assert_eq!(post.give(&desk.db, "stub").await, 4);
    desk.db
        .execute(
            "UPDATE crm.webhook_inbox
             SET done_at = now() - CASE crm_id WHEN 'c1' THEN interval '8 days' ELSE interval '6 days' END
             WHERE crm_id IN ('c1', 'c2');
             UPDATE crm.webhook_inbox SET received_at = now() - interval '1 year' WHERE crm_id = 'c3';
             INSERT INTO crm.webhook_inbox (connection_id, event_id, crm_object, crm_id, kind, occurred_at, done_at)
             SELECT connection_id, 'old ' || n, 'contact', 'x', 'changed', now(), now() - interval '8 days'
             FROM crm.connection, generate_series(1, 25000) n",
        )
        .await;
    let old = desk.db.worker().await;
    desk.db
        .execute(&format!("SELECT pg_terminate_backend({old})"))
        .await;
    eventually("a worker has pruned it", async || {
        (desk.db.count("crm.webhook_inbox").await == 3).then_some(())
    })
    .await;
    // What is known is not new; what is forgotten is.
    assert_eq!(post.give(&desk.db, "stub").await, 1);
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn it_goes_with_its_connection() {
    let desk = desk(CLUSTER.database().await, Vendor::Stub, "{}").await;
    let post = Post::relayed(SECRET, &updates(1..=2));
    assert_eq!(post.give(&desk.db, "stub").await, 2);
    desk.db
        .execute(&format!(
            "SELECT crm.unmap_object({}); SELECT crm.drop_connection('stub')",
            desk.map
        ))
        .await;
    assert_eq!(desk.db.count("crm.webhook_inbox").await, 0);
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn a_dump_has_it() {
    let desk = desk(CLUSTER.database().await, Vendor::Stub, "{}").await;
    let post = Post::relayed(SECRET, &updates(1..=3));
    assert_eq!(post.give(&desk.db, "stub").await, 3);
    desk.db
        .execute("UPDATE crm.webhook_inbox SET done_at = now() WHERE crm_id = 'c2'")
        .await;
    let socket = CLUSTER.path();
    let mut dump = cluster::program("pg_dump");
    dump.arg("-h")
        .arg(socket)
        .args(["-U", "postgres", &desk.db.name]);
    let script = process::run(&mut dump).stdout;
    assert!(!String::from_utf8_lossy(&script).contains(SECRET));
    let copy = CLUSTER.bare_database().await;
    let file = socket.join(format!("{}.sql", copy.name));
    std::fs::write(&file, &script).expect("the dump");
    let mut psql = cluster::program("psql");
    psql.arg("-h").arg(socket);
    psql.args(["-X", "-q", "-U", "postgres", "-v", "ON_ERROR_STOP=1"]);
    process::run(psql.args(["-d", &copy.name, "-f"]).arg(file));
    // Both workers go on taking what waits, each in its own time.
    let whole = "SELECT to_jsonb(i) - 'done_at' FROM crm.webhook_inbox i ORDER BY inbox_id";
    assert_eq!(copy.text(whole).await, desk.db.text(whole).await);
    copy.worker().await;
    let secret =
        format!(r#"SELECT crm.set_credentials('stub', '{{"webhook_secret": "{SECRET}"}}')"#);
    copy.execute(&secret).await;
    assert_eq!(post.give(&copy, "stub").await, 0);
    let more = Post::relayed(SECRET, &updates(1..=4));
    assert_eq!(more.give(&copy, "stub").await, 1);
    copy.assert_checked().await;
}

/// Whatever is logged, neither the secret nor a signature is seen anywhere that the server itself
/// writes to.
#[tokio::test]
async fn the_secret_is_seen_nowhere() {
    let cluster = Cluster::with_environment(
        &[("log_min_messages", "debug1"), ("log_statement", "all")],
        &[("CRM_TEST_HOOKS", SECRET)],
    );
    let (desk, url) = listening(&cluster, Vendor::Stub, "{}").await;
    desk.db
        .execute(r#"SELECT crm.set_credentials('stub', '{"webhook_secret": {"env": "CRM_TEST_HOOKS"}}')"#)
        .await;
    // Of the statements that the set-up gave the secret in, the log is full.
    let before = cluster.log().len();
    let post = Post::relayed(SECRET, &updates(1..=2));
    let signature = post.headers["x-pgcrm-signature"].clone();
    let signature = signature.as_str().expect("a text").to_owned();
    assert_eq!(post.send(&url).await.status, 200);
    let forged = Post::relayed("guess", &updates(3..=3));
    let guessed = forged.headers["x-pgcrm-signature"].clone();
    let guessed = guessed.as_str().expect("a text").to_owned();
    assert_eq!(forged.send(&url).await.status, 401);
    assert_eq!(
        Post::relayed(SECRET, &updates(5..=5))
            .give(&desk.db, "stub")
            .await,
        1
    );
    let file = cluster.path().join("hooks");
    let reference = format!(r#"{{"webhook_secret": {{"file": "{}"}}}}"#, file.display());
    desk.db
        .execute(&format!(
            "SELECT crm.set_credentials('stub', '{reference}')"
        ))
        .await;
    std::fs::write(&file, format!("{SECRET}\n")).expect("a file");
    let post = Post::relayed(SECRET, &updates(7..=8));
    assert_eq!(post.send(&url).await.status, 200);
    let mut seen = cluster.log()[before..].to_owned();
    assert!(seen.contains("set_credentials"), "statements are logged");
    for view in [
        "status",
        "audit_log",
        "connection",
        "connection_state",
        "webhook_inbox",
    ] {
        let all = format!("SELECT to_jsonb(v) FROM crm.{view} v");
        seen += &desk.db.text(&all).await;
    }
    seen += &desk
        .db
        .text("SELECT to_jsonb(a) FROM pg_stat_activity a")
        .await;
    for word in [SECRET, &signature, &guessed] {
        assert!(!seen.contains(word), "{word} can be seen");
    }
    assert_eq!(inbox(&desk.db).await.len(), 5);
    desk.db.assert_checked().await;
}
