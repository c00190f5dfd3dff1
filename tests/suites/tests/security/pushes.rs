//! Conditions of pushes run with the rights of the table's owner, who asked for them, and with
//! those of nobody else; documents of mappings bring no secrets and send none elsewhere.

use crm_suites::{Desk, Vendor, eventually, json};

use crate::{CLUSTER, refused, role};

#[tokio::test]
async fn who_may_write_all_data_sets_no_condition() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    let (mallory, session) = role(&desk.db, "mallory", None).await;
    let grant = format!("GRANT pg_read_all_data, pg_write_all_data TO {mallory}");
    desk.db.execute(&grant).await;
    let push = "INSERT INTO crm.scan_request (map_id, task, condition, reason, actor) VALUES (1, 'push', 'true', 'x', 'x')";
    refused(&session, push).await;
    desk.link(1).await;
    // A disabled map keeps the request, so that there is one to change.
    let push = format!(
        "SELECT crm.disable({map}); SELECT crm.push({map}, condition => 'true')",
        map = desk.map
    );
    desk.db.execute(&push).await;
    refused(&session, "UPDATE crm.scan_request SET condition = 'false'").await;
}

#[tokio::test]
async fn a_push_ends_with_the_owner_who_asked_for_it() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.link(2).await;
    let (mallory, session) = role(&desk.db, "mallory", Some("admin")).await;
    let own = format!(
        "ALTER TABLE people OWNER TO {mallory}; GRANT CREATE, USAGE ON SCHEMA public TO {mallory}; CREATE TABLE witness (who name);
         GRANT ALL ON witness TO PUBLIC"
    );
    desk.db.execute(&own).await;
    // Of the catalog, since a condition names no other functions. It lies about what it does.
    desk.db
        .execute(
            "CREATE FUNCTION pg_catalog.note() RETURNS bool LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN INSERT INTO public.witness VALUES (current_user); RETURN true; END $$",
        )
        .await;
    session
        .execute(&format!("SELECT crm.disable({})", desk.map))
        .await;
    let condition = "note()";
    let sql = "SELECT crm.push($1, condition => $2)";
    session.rows(sql, &[&desk.map, &condition]).await;
    desk.db
        .execute(&format!(
            "ALTER TABLE people OWNER TO postgres; SELECT crm.enable({})",
            desk.map
        ))
        .await;
    eventually("the push ends", async || {
        let pushes = "crm.scan_request WHERE task = 'push'";
        (desk.db.count(pushes).await == 0).then_some(())
    })
    .await;
    assert_eq!(desk.db.count("witness").await, 0);
    let why = "SELECT last_error FROM crm.status_wide";
    let why: String = desk.db.one(why, &[]).await;
    assert!(why.contains("another owner"), "{why}");
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn a_document_brings_no_secrets_and_moves_no_connection() {
    let desk = Desk::open(&CLUSTER, Vendor::HubSpot).await;
    let sql = "SELECT * FROM crm.import_mapping($1, false)";
    for (connection, says) in [
        (
            json!({"name": "x", "provider": "hubspot", "credentials": {"access_token": "SECRET"}}),
            "credentials",
        ),
        (json!({"name": "hubspot", "relink": true}), "relink"),
        (
            json!({"name": "hubspot", "base_url": "https://evil.example"}),
            "base_url",
        ),
    ] {
        let document = json!({ "version": 1, "connections": [connection] });
        let error = desk.db.client().query(sql, &[&document]).await;
        let error = error.expect_err("refused");
        let error = error.as_db_error().expect("an error of the server");
        assert_eq!(error.code().code(), "22023", "{error:?}");
        assert!(error.message().contains(says), "{error:?}");
    }
    // What is not said is not done.
    let document = json!({"version": 1, "connections": [{"name": "another", "provider": "stub"}]});
    let sql = "SELECT * FROM crm.import_mapping($1, NULL)";
    desk.db.rows(sql, &[&document]).await;
    assert_eq!(desk.db.count("crm.connection").await, 1);
}

/// Operators that others have made are not those of pg_crm's statements.
#[tokio::test]
async fn a_value_of_ones_own_asks_no_operator_of_others() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    let db = &desk.db;
    db.execute(
        "CREATE TABLE t (id int PRIMARY KEY, tenant varchar(20) NOT NULL, name text, UNIQUE (id, tenant));
         INSERT INTO t VALUES (1, 't1', 'n')",
    )
    .await;
    let sql = "SELECT crm.map_object('stub', 't', 'account', key_column => 'id', shard_column => 'tenant', on_insert => 'create',
                                     external_id_field => 'external_key')";
    let map: i32 = db.one(sql, &[]).await;
    let sql = "SELECT crm.map_field($1, 'name', 'name', on_conflict => 'manual_review')";
    db.rows(sql, &[&map]).await;
    db.rows("SELECT crm.push($1)", &[&map]).await;
    db.drain().await;
    db.rows("SELECT crm.ingest_now($1)", &[&map]).await;
    db.execute(
        "SELECT crm.pause('stub');
         UPDATE t SET name = 'mine';
         UPDATE crm_stub.records SET fields = fields || '{\"name\": \"theirs\"}' WHERE crm_object = 'account'",
    )
    .await;
    db.execute("SELECT crm.resume('stub')").await;
    eventually("a person is asked", async || {
        (db.count("crm.conflicts").await == 1).then_some(())
    })
    .await;
    db.execute(
        "CREATE SEQUENCE witness;
         CREATE FUNCTION eqv(varchar, varchar) RETURNS bool LANGUAGE sql AS $$ SELECT nextval('public.witness') > 0 $$;
         CREATE OPERATOR = (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = eqv)",
    )
    .await;
    db.execute(
        "SELECT crm.resolve_conflict(conflict_id, 'value', '\"agreed\"') FROM crm.conflicts",
    )
    .await;
    let called: bool = db.one("SELECT is_called FROM witness", &[]).await;
    assert!(!called);
    db.drain().await;
    assert_eq!(db.text("SELECT name FROM t").await, "agreed");
    db.assert_checked().await;
}
