//! `crm.export_mapping()` and `crm.import_mapping()`: a mapping goes to another database as a
//! document.

use crm_suites::{Desk, Json, Vendor};

use crate::CLUSTER;

const EXPORT: &str = "SELECT crm.export_mapping()";
const IMPORT: &str =
    "SELECT action, count(*) FROM crm.import_mapping($1, $2) GROUP BY 1 ORDER BY 1";

/// What the import reports: how many objects by action.
async fn import(desk: &Desk, document: &Json, dry_run: bool) -> Vec<(String, i64)> {
    let rows = desk.db.rows(IMPORT, &[document, &dry_run]).await;
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn actions(of: &[(&str, i64)]) -> Vec<(String, i64)> {
    of.iter()
        .map(|(action, n)| ((*action).to_owned(), *n))
        .collect()
}

#[tokio::test]
async fn what_was_exported_and_imported_is_exported_again() {
    let staging = Desk::open_with(
        &CLUSTER,
        Vendor::Stub,
        "on_insert => 'create', on_delete => 'unlink', write_interval => '1 hour'",
    )
    .await;
    let shout = "CREATE FUNCTION shout(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1'";
    staging.db.execute(shout).await;
    staging
        .map_field(
            "title",
            r#"validation => '{"max_length": 5}', transform_out => 'shout(jsonb)', send_null => false, create_default => '"Dr."'"#,
        )
        .await;
    let document: Json = staging.db.one(EXPORT, &[]).await;
    assert!(!document.to_string().contains("secret"), "{document}");
    assert_eq!(
        import(&staging, &document, false).await,
        actions(&[("keep", 7)])
    );

    // A database with the same tables, in which nothing is mapped.
    let production = Desk::open(&CLUSTER, Vendor::Stub).await;
    production.db.execute(shout).await;
    production
        .db
        .execute("SELECT crm.unmap_object(1), crm.drop_connection('stub')")
        .await;
    assert_eq!(
        import(&production, &document, true).await,
        actions(&[("create", 7)])
    );
    assert_eq!(production.db.count("crm.connection").await, 0, "a dry run");
    assert_eq!(
        import(&production, &document, false).await,
        actions(&[("create", 7)])
    );
    assert_eq!(production.db.one::<Json>(EXPORT, &[]).await, document);
    production
        .db
        .execute("INSERT INTO people (id, last_name, title) VALUES ('p1', 'One', 'Dr.')")
        .await;
    assert!(production.db.flush().await);
    assert_eq!(
        production
            .crm
            .records(&production.db, "contact")
            .await
            .len(),
        1
    );

    // And one in which everything has been changed since; the links stay.
    production
        .db
        .execute(
            r#"SELECT crm.alter_map(map_id, on_insert => 'ignore', external_id_field => '', on_crm_insert => 'insert', ingest => 'on'),
                      crm.alter_field(map_id, 'title', validation => '{"max_length": null, "nullable": false}', direction => 'bidirectional',
                                      transform_out => '-', transform_in => 'shout(jsonb)'),
                      crm.alter_field(map_id, 'title', send_null => true, create_default => 'null'),
                      crm.alter_field(map_id, 'phone', materialize => false, create_only => true, create_default => '"+1"'),
                      crm.disable(map_id)
               FROM crm.object_map;
               SELECT crm.alter_connection('stub', options => '{"max_in_flight": 2}')"#,
        )
        .await;
    let before: Json = production.db.one(EXPORT, &[]).await;
    let told = import(&production, &document, true).await;
    assert_eq!(told, actions(&[("alter", 4), ("keep", 3)]));
    assert_eq!(
        production.db.one::<Json>(EXPORT, &[]).await,
        before,
        "a dry run"
    );
    assert_eq!(import(&production, &document, false).await, told);
    assert_eq!(production.db.one::<Json>(EXPORT, &[]).await, document);
    assert_eq!(
        production
            .db
            .count("crm.ledger WHERE crm_id IS NOT NULL")
            .await,
        1
    );
    production.db.drain().await;
    production.db.assert_checked().await;
}

/// Whatever is wrong with the form of a document is said, and where.
#[tokio::test]
async fn a_document_of_another_form_is_refused() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    let whole = |members: &str| format!(r#"{{"version": 1, {members}}}"#);
    let map = |more: &str| {
        whole(&format!(
            r#""maps": [{{"connection": "stub", "relation": "public.people", "crm_object": "contact", {more}}}]"#
        ))
    };
    for document in [
        "null".to_owned(),
        "[]".to_owned(),
        "\"text\"".to_owned(),
        "{}".to_owned(),
        r#"{"version": 2}"#.to_owned(),
        whole(r#""more": 1"#),
        whole(r#""connections": {}"#),
        whole(r#""connections": null"#),
        whole(r#""connections": [1]"#),
        whole(r#""connections": [[{"name": "new", "credentials": {"key": "s3cr3t"}}]]"#),
        whole(r#""connections": [{}]"#),
        whole(r#""connections": [{"name": 1}]"#),
        whole(r#""connections": [{"name": "new"}]"#),
        whole(r#""connections": [{"provider": "stub", "credentials": {"key": "s3cr3t"}}]"#),
        whole(r#""connections": [{"name": "new", "credentials": {"key": "s3cr3t"}}]"#),
        whole(r#""connections": [{"name": "stub", "credentials": {"key": "s3cr3t"}}]"#),
        whole(r#""connections": [{"name": "stub", "options": 1}]"#),
        whole(r#""connections": [{"name": "new", "provider": "stub", "options": []}]"#),
        whole(r#""maps": "all""#),
        whole(r#""maps": [null]"#),
        whole(r#""maps": [[]]"#),
        whole(r#""maps": [{"connection": "stub"}]"#),
        whole(r#""maps": [{"connection": "stub", "relation": 7, "crm_object": "contact"}]"#),
        map(r#""write_interval": "soon""#),
        map(r#""write_interval": {}"#),
        map(r#""enabled": "perhaps""#),
        map(r#""on_insert": ["create"]"#),
        map(r#""fields": {}"#),
        map(r#""fields": [0]"#),
        map(r#""fields": [{"column_name": "title"}]"#),
        map(r#""fields": [{"column_name": "title", "crm_field": null}]"#),
        map(r#""fields": [{"column_name": "title", "crm_field": "x_title", "materialize": 7.5}]"#),
        map(
            r#""fields": [{"column_name": "title", "crm_field": "x_title", "validation": "none"}]"#,
        ),
        map(r#""fields": [{"column_name": "phone", "crm_field": "phone", "validation": 1}]"#),
    ] {
        let error = desk
            .db
            .client()
            .query(
                "SELECT * FROM crm.import_mapping($1::text::jsonb, false)",
                &[&document],
            )
            .await
            .expect_err(&document);
        let error = error.as_db_error().expect("an error of the server");
        assert_eq!(error.code().code(), "22023", "{document}: {error:?}");
        assert!(error.hint().is_some(), "{document}: {error:?}");
        assert!(!format!("{error:?}").contains("s3cr3t"), "{error:?}");
    }
    desk.db.assert_checked().await;
}

/// The functions that the import calls make their checks, for the role that imports.
#[tokio::test]
async fn an_import_may_do_what_its_caller_may_do() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    let map = |more: &str| {
        format!(
            r#"SELECT * FROM crm.import_mapping('{{"version": 1, "maps": [{{"connection": "stub", "relation": "public.people", "crm_object": "contact"{more}}}]}}')"#
        )
    };
    for (more, code, word) in [
        (r#", "key_column": "last_name""#, "22023", "key_column"),
        (r#", "nonsense": 1"#, "22023", "nonsense"),
        (r#", "on_insert": "make""#, "22023", "make"),
        (
            r#", "fields": [{"column_name": "nowhere", "crm_field": "x_a"}]"#,
            "42703",
            "nowhere",
        ),
        (
            r#", "fields": [{"column_name": "notes", "crm_field": "phone"}]"#,
            "42710",
            "phone",
        ),
    ] {
        let error = desk.db.error(&map(more)).await;
        assert_eq!(error.code().code(), code, "{more}: {error:?}");
        assert!(error.message().contains(word), "{more}: {error:?}");
    }
    let error = desk
        .db
        .error("SELECT * FROM crm.import_mapping('{\"maps\": []}')")
        .await;
    assert_eq!(error.code().code(), "22023", "{error:?}");
    let admin = format!("{}_importer", desk.db.name);
    desk.db
        .execute(&format!(
            "CREATE ROLE {admin}; SELECT crm.grant_access('{admin}', 'admin'); SET ROLE {admin}"
        ))
        .await;
    let error = desk.db.error(&map(r#", "on_delete": "delete""#)).await;
    assert_eq!(error.code().code(), "42501", "{error:?}");
    desk.db
        .execute(&format!(
            "RESET ROLE; DROP OWNED BY {admin}; DROP ROLE {admin}"
        ))
        .await;
}
