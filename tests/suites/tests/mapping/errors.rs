//! What users see of an error: message, DETAIL and HINT, and of the way to it what is their own.

use crm_suites::{Cluster, Database, Desk, Vendor};
use tokio_postgres::error::DbError;

fn has_no_insides(error: &DbError) {
    for text in [error.where_(), error.detail(), error.hint()] {
        let text = text.unwrap_or_default();
        for word in [
            "PL/pgSQL function crm",
            "SQL function \"",
            "backtrace",
            "   0: ",
            ".rs",
        ] {
            assert!(!text.contains(word), "{word} is to be seen:\n{error:?}");
        }
    }
    let hint = error.hint().unwrap_or_default();
    assert!(!hint.trim().is_empty(), "no HINT: {error:?}");
}

/// Errors of functions and of triggers of pg_crm, raised by its SQL and by its library.
const STATEMENTS: [&str; 11] = [
    "SELECT crm.map_field(1, 'no_such_column', 'phone')",
    "SELECT crm.map_object('stub', 'people', 'contact')",
    "SELECT crm.create_connection('x', 'salesforce', base_url => 'http://example.com')",
    "SELECT crm.create_connection('x', 'no_such_crm')",
    "SELECT crm.flush(99)",
    "SELECT crm.write('people', 'no such row', '{\"phone\": \"1\"}')",
    "SELECT crm.write('people', 'p1', '{\"phone\": \"1\"}', base => '{\"born\": \"infinity\"}')",
    "SELECT crm.write('people', 'p1', '{\"phone\": \"swallow\"}')",
    "UPDATE people SET phone = 'much too long'",
    "INSERT INTO crm_stub.records (connection, crm_object, fields) VALUES ('stub', 'contact', '{\"external_key\": 5}')",
    "SELECT crm.drop_connection('stub')",
];

async fn furnished(db: Database) -> Desk {
    let crm = crm_suites::Crm::connect(&db, Vendor::Stub).await;
    let rules = r#"validation => '{"max_length": 8}'"#;
    let desk = Desk::furnish_as(db, crm, "bidirectional", "on_insert => 'ignore'", rules).await;
    desk.map_field("born", "").await;
    desk.db
        .execute(
            "INSERT INTO people (id, last_name) VALUES ('p1', 'One');
             CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RETURN CASE WHEN NEW.phone = 'swallow' THEN NULL ELSE NEW END; END $$;
             CREATE TRIGGER swallow BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION swallow()",
        )
        .await;
    desk
}

#[tokio::test]
async fn errors_show_nothing_of_the_inside() {
    let cluster = Cluster::with_environment(&[], &[("RUST_BACKTRACE", "1")]);
    let desk = furnished(cluster.database().await).await;
    for statement in STATEMENTS {
        let error = desk.db.error(statement).await;
        has_no_insides(&error);
        assert_eq!(error.where_(), None, "{statement}: {error:?}");
    }
    assert!(!cluster.log().contains("stack backtrace"));
    let swallowed = "SELECT crm.write('people', 'p1', '{\"phone\": \"swallow\"}')";
    let message = desk.db.error(swallowed).await.message().to_owned();
    assert!(message.contains("a trigger"), "{message}");
}

#[tokio::test]
async fn the_way_through_users_own_code_is_shown() {
    let cluster = Cluster::start();
    let desk = furnished(cluster.database().await).await;
    desk.db
        .execute(
            "CREATE FUNCTION mine() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
                 UPDATE people SET phone = 'much too long';
             END $$;
             CREATE FUNCTION mine_too() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM crm.map_field(1, 'no_such_column', 'phone');
             END $$",
        )
        .await;
    let error = desk.db.error("SELECT mine()").await;
    has_no_insides(&error);
    assert_eq!(
        error.where_(),
        Some(
            "SQL statement \"UPDATE people SET phone = 'much too long'\"\nPL/pgSQL function mine() line 2 at SQL statement"
        )
    );
    let error = desk.db.error("SELECT mine_too()").await;
    has_no_insides(&error);
    let way = error.where_().unwrap_or_default();
    assert!(
        way.ends_with("PL/pgSQL function mine_too() line 2 at PERFORM"),
        "{error:?}"
    );
    // Caught, it is as good as any other.
    desk.db
        .execute(
            "DO $$ BEGIN
                 FOR i IN 1..100 LOOP
                     BEGIN PERFORM mine(); EXCEPTION WHEN check_violation THEN NULL; END;
                 END LOOP;
                 BEGIN PERFORM crm.flush(99); RAISE 'no error'; EXCEPTION WHEN undefined_object THEN
                     IF sqlerrm NOT LIKE 'map 99 %' THEN RAISE 'another error: %', sqlerrm; END IF;
                 END;
             END $$",
        )
        .await;
    desk.db.assert_checked().await;
}
