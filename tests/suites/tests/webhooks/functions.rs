//! `crm.receive_webhook()`: what it takes, what it refuses, in whose transaction and by whom.

use crm_suites::post::{Post, event, now_ms, updates};
use crm_suites::{Desk, SqlState, Vendor, json};

use crate::{CLUSTER, SECRET, desk, inbox};

async fn stub() -> Desk {
    desk(CLUSTER.database().await, Vendor::Stub, "{}").await
}

#[tokio::test]
async fn new_events_are_counted_and_kept_once() {
    let desk = stub().await;
    let post = Post::relayed(SECRET, &updates(1..=3));
    assert_eq!(post.give(&desk.db, "stub").await, 3);
    assert_eq!(post.give(&desk.db, "stub").await, 0);
    // Signed anew, as a relay that tries again does, with one more, which comes twice.
    let mut more = updates(2..=4);
    let again = more[2].clone();
    more.as_array_mut().expect("a list").push(again);
    assert_eq!(Post::relayed(SECRET, &more).give(&desk.db, "stub").await, 1);
    let mixed = json!([
        event("d", "Contact", "c7", "DELETE"),
        event("m", "contact", "c8", "MERGE"),
        event("u", "contact", "c9", "UNDELETE"),
        event("n", "deal", "d1", "UPDATE"),
    ]);
    // Nobody maps deals.
    assert_eq!(
        Post::relayed(SECRET, &mixed).give(&desk.db, "stub").await,
        3
    );
    assert_eq!(
        inbox(&desk.db).await,
        [
            "contact c1 changed",
            "contact c2 changed",
            "contact c3 changed",
            "contact c4 changed",
            "Contact c7 deleted",
            "contact c8 merged",
            "contact c9 restored",
        ]
    );
    assert_eq!(
        Post::relayed(SECRET, &json!([]))
            .give(&desk.db, "stub")
            .await,
        0
    );
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn it_belongs_to_its_callers_transaction() {
    let desk = stub().await;
    let call = Post::relayed(SECRET, &updates(1..=2)).sql("stub");
    desk.db
        .execute(&format!(
            "BEGIN; {call}; ROLLBACK; BEGIN; SAVEPOINT s; {call}; ROLLBACK TO s; COMMIT"
        ))
        .await;
    assert!(inbox(&desk.db).await.is_empty());
    let error = desk.db.error(&format!("BEGIN READ ONLY; {call}")).await;
    assert_eq!(error.code(), &SqlState::READ_ONLY_SQL_TRANSACTION);
    desk.db.execute("ROLLBACK").await;
    // A second caller waits for the first, and then brings nothing new.
    let other = desk.db.session().await;
    desk.db.execute(&format!("BEGIN; {call}")).await;
    let second = Post::relayed(SECRET, &updates(1..=3));
    let (count, ()) = tokio::join!(second.give(&other, "stub"), desk.db.execute("COMMIT"));
    assert_eq!(count, 1);
    assert_eq!(inbox(&desk.db).await.len(), 3);
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn what_is_not_to_be_believed_is_refused() {
    let desk = stub().await;
    let body = updates(1..=1).to_string();
    let signed = |ms: i64| Post::relayed_at(now_ms() + ms, SECRET, &body);
    let mut changed = signed(0);
    changed.body = changed.body.replace("c1", "c2");
    let mut bare = signed(0);
    bare.headers.clear();
    let unsigned = "28000";
    let large = format!("[{}]", " ".repeat(1024 * 1024));
    let word = "x".repeat(10_000);
    let told = |event| Post::relayed(SECRET, &json!([event]));
    for (what, post, code) in [
        ("another body", changed, unsigned),
        ("no headers", bare, unsigned),
        (
            "another secret",
            Post::relayed("guess", &updates(1..=1)),
            unsigned,
        ),
        ("from yesterday", signed(-86_400_000), unsigned),
        ("from tomorrow", signed(86_400_000), unsigned),
        ("no list", Post::relayed(SECRET, &json!({"a": 1})), "22023"),
        (
            "no JSON",
            Post::relayed_at(now_ms(), SECRET, "hello"),
            "22023",
        ),
        (
            "no such change",
            told(event("e", "contact", "c1", "DANCE")),
            "22023",
        ),
        (
            "a long id",
            told(event(&word, "contact", "c1", "UPDATE")),
            "22023",
        ),
        (
            "a NUL",
            told(event("e\0", "contact", "c1", "UPDATE")),
            "22023",
        ),
        (
            "no time of this world",
            told(
                json!({"eventId": "e", "object": "contact", "id": "c1", "changeType": "UPDATE", "occurredAt": -5}),
            ),
            "22023",
        ),
        (
            "a large one",
            Post::relayed_at(now_ms(), SECRET, &large),
            "54000",
        ),
    ] {
        let error = desk.db.error(&post.sql("stub")).await;
        assert_eq!(error.code().code(), code, "{what}: {error:?}");
        assert!(error.message().contains("\"stub\""), "{what}: {error:?}");
        assert!(error.hint().is_some() && error.detail().is_some(), "{what}");
        let said = format!("{error:?}");
        assert!(
            !said.contains(SECRET) && !said.contains("sha256=\""),
            "{said}"
        );
    }
    let good = signed(0);
    let error = desk.db.error(&good.sql("nobody")).await;
    assert_eq!(error.code(), &SqlState::UNDEFINED_OBJECT);
    assert_eq!(error.detail(), Some("Connections: stub."));
    for headers in ["[]", "1", r#"{"a": {}}"#, r#"{"a": null}"#] {
        let call = format!("SELECT crm.receive_webhook('stub', '{headers}', '[]')");
        assert_eq!(desk.db.error(&call).await.code().code(), "22023");
    }
    for call in [
        "NULL, '{}', '[]'",
        "'stub', NULL, '[]'",
        "'stub', '{}', NULL",
    ] {
        let call = format!("SELECT crm.receive_webhook({call})");
        assert_eq!(desk.db.error(&call).await.code().code(), "22004");
    }
    for credentials in [
        "{}",
        r#"{"webhook_secret": ""}"#,
        r#"{"webhook_secret": {"file": "/no/such/file"}}"#,
    ] {
        desk.db
            .execute(&format!(
                "SELECT crm.set_credentials('stub', '{credentials}')"
            ))
            .await;
        let error = desk.db.error(&good.sql("stub")).await;
        assert_eq!(error.code().code(), "55000", "{error:?}");
    }
    assert!(inbox(&desk.db).await.is_empty());
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn hubspots_signature_covers_the_address() {
    let address = "https://acme.test/hooks?of=hubspot";
    let options = format!(r#"{{"webhook_url": "{address}"}}"#);
    let desk = desk(CLUSTER.database().await, Vendor::HubSpot, &options).await;
    let body = json!([{"eventId": 1, "subscriptionId": 2, "portalId": 3, "occurredAt": now_ms(), "objectId": 77,
                       "subscriptionType": "contact.propertyChange", "propertyName": "phone"}])
    .to_string();
    let post = Post::hubspot_at(now_ms(), SECRET, address, &body);
    assert_eq!(post.give(&desk.db, "hubspot").await, 1);
    assert_eq!(post.give(&desk.db, "hubspot").await, 0);
    let other = Post::hubspot_at(now_ms(), SECRET, "https://acme.test/hooks", &body);
    let error = desk.db.error(&other.sql("hubspot")).await;
    assert_eq!(error.code().code(), "28000");
    assert!(error.hint().expect("a hint").contains("webhook_url"));
    assert_eq!(inbox(&desk.db).await, ["contacts 77 changed"]);

    let bare = crate::desk(CLUSTER.database().await, Vendor::HubSpot, "{}").await;
    let error = bare.db.error(&post.sql("hubspot")).await;
    assert_eq!(error.code().code(), "55000");
    assert!(error.message().contains("webhook_url"), "{error:?}");
}

#[tokio::test]
async fn writers_may_and_need_no_right_on_the_tables() {
    let desk = stub().await;
    let (writer, reader) = (
        format!("writer_{}", desk.db.name),
        format!("reader_{}", desk.db.name),
    );
    desk.db
        .execute(&format!(
            "CREATE ROLE {writer}; CREATE ROLE {reader};
             SELECT crm.grant_access('{writer}', 'writer'); SELECT crm.grant_access('{reader}', 'reader');
             SELECT crm.pause('stub')"
        ))
        .await;
    let call = Post::relayed(SECRET, &updates(1..=1)).sql("stub");
    let session = desk.db.session().await;
    session.execute(&format!("SET ROLE {reader}")).await;
    let error = session.error(&call).await;
    assert_eq!(error.code(), &SqlState::INSUFFICIENT_PRIVILEGE);
    // Whatever the caller calls operators and tables, and also while the connection is paused.
    session
        .execute(&format!(
            "RESET ROLE; CREATE SCHEMA trap AUTHORIZATION {writer};
             SET ROLE {writer}; SET search_path = trap, pg_catalog;
             CREATE FUNCTION trap.to_timestamp(numeric) RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RAISE ''trapped''; END'"
        ))
        .await;
    session.execute(&call).await;
    let error = session
        .error("SET pg_crm.webhook_listen = '127.0.0.1:1'")
        .await;
    assert_eq!(error.code(), &SqlState::INSUFFICIENT_PRIVILEGE);
    for table in ["crm.webhook_inbox", "crm.credential"] {
        let error = session.error(&format!("SELECT FROM {table}")).await;
        assert_eq!(error.code(), &SqlState::INSUFFICIENT_PRIVILEGE);
    }
    let path: String = session.one("SHOW search_path", &[]).await;
    assert_eq!(path, "trap, pg_catalog");
    assert_eq!(inbox(&desk.db).await.len(), 1);
    desk.db
        .execute(&format!(
            "DROP SCHEMA trap CASCADE; DROP OWNED BY {writer}, {reader}; DROP ROLE {reader}"
        ))
        .await;
    desk.db.assert_checked().await;
}
