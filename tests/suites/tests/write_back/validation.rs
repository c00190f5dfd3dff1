//! A statement that breaks a rule fails as a whole, and says whose cell breaks which rule.

use crm_suites::{Desk, Vendor};

use crate::CLUSTER;

async fn desk() -> Desk {
    let desk = Desk::open_with(&CLUSTER, Vendor::Stub, "on_insert => 'create'").await;
    let rules = [
        ("score", r#"{"min": 0, "max": 100, "nullable": false}"#),
        ("title", r#"{"max_length": 5, "pattern": "^[A-Z]"}"#),
        ("source", r#"{"choices": ["Web", "Phone"]}"#),
    ];
    for (column, rules) in rules {
        desk.map_field(column, &format!("validation => '{rules}'"))
            .await;
    }
    desk.db
        .execute(
            "INSERT INTO people (id, last_name, score) VALUES ('p1', 'One', 1), ('p2', 'Two', 2)",
        )
        .await;
    desk.settle().await;
    desk
}

/// What the CRM would be sent as no value is none for the rule, whatever the column calls it.
#[tokio::test]
async fn no_value_is_refused_in_every_form() {
    let desk = Desk::open_with(&CLUSTER, Vendor::Stub, "on_insert => 'create'").await;
    let map = desk.map;
    let rule = r#"validation => '{"nullable": false}'"#;
    desk.db
        .execute(&format!(
            "ALTER TABLE people ADD js json, ADD words text;
             SELECT crm.map_field({map}, c::name, 'x_' || c, {rule}) FROM unnest(ARRAY['extra', 'js', 'interests']) AS c;
             SELECT crm.map_field({map}, 'words', 'x_words', data_type => 'multi_choice', {rule});
             INSERT INTO people (id, last_name, extra, js, interests, words) VALUES ('p1', 'One', '{{}}', '[null]', '{{a}}', 'a')"
        ))
        .await;
    desk.settle().await;
    for none in [
        "extra = NULL",
        "extra = 'null'",
        "js = E'\\n null\\t'",
        "interests = '{}'",
        "interests = '{NULL}'",
        "words = ' ; ;'",
    ] {
        let error = desk.db.error(&format!("UPDATE people SET {none}")).await;
        assert_eq!(error.code().code(), "23514", "{none}: {error:?}");
    }
    desk.db
        .execute("UPDATE people SET extra = '\"null\"', js = '[]'")
        .await;
    desk.settle().await;
}

#[tokio::test]
async fn the_error_names_relation_column_rule_and_record() {
    let desk = desk().await;
    let broken = [
        (
            "UPDATE people SET score = -1 WHERE id = 'p2'",
            "score",
            "min",
        ),
        (
            "UPDATE people SET score = 100.01 WHERE id = 'p2'",
            "score",
            "max",
        ),
        (
            "UPDATE people SET score = NULL WHERE id = 'p2'",
            "score",
            "nullable",
        ),
        (
            "UPDATE people SET title = 'Sixsix' WHERE id = 'p2'",
            "title",
            "max_length",
        ),
        (
            "UPDATE people SET title = 'small' WHERE id = 'p2'",
            "title",
            "pattern",
        ),
        (
            "UPDATE people SET source = 'Fax' WHERE id = 'p2'",
            "source",
            "choices",
        ),
    ];
    for (sql, column, rule) in broken {
        let error = desk.db.error(sql).await;
        assert_eq!(error.code().code(), "23514", "{sql}: {error:?}");
        assert!(error.message().contains("people"), "{sql}: {error:?}");
        assert_eq!(error.table(), Some("people"), "{sql}: {error:?}");
        let detail = error.detail().unwrap_or_default();
        for word in [column, rule, "p2"] {
            assert!(
                detail.contains(word),
                "{sql}: DETAIL lacks {word}: {detail}"
            );
        }
    }
    desk.settle().await;
}

#[tokio::test]
async fn one_bad_row_fails_the_statement_and_nothing_is_queued() {
    let desk = desk().await;
    let before = desk.audit_rows().await;
    for sql in [
        "UPDATE people SET score = CASE id WHEN 'p1' THEN 50 ELSE 101 END",
        "INSERT INTO people (id, last_name, score) VALUES ('p3', 'Three', 3), ('p4', 'Four', 400)",
        "INSERT INTO people (id, last_name, score) VALUES ('p1', 'One', 1)
         ON CONFLICT (id) DO UPDATE SET score = 101",
        r"COPY people (id, last_name, score) FROM PROGRAM 'printf ''p5\tFive\t5\np6\tSix\t600\n'''",
    ] {
        let error = desk.db.error(sql).await;
        assert_eq!(error.code().code(), "23514", "{sql}: {error:?}");
    }
    assert!(desk.db.flush().await);
    assert_eq!(desk.audit_rows().await, before);
    assert_eq!(desk.db.count("people").await, 2);
    desk.settle().await;
}

#[tokio::test]
async fn only_rows_and_cells_that_the_statement_writes_are_judged() {
    let desk = desk().await;
    // A row from before the rule, which breaks it.
    desk.db
        .execute("ALTER TABLE people DISABLE TRIGGER USER")
        .await;
    desk.db
        .execute("UPDATE people SET score = 200 WHERE id = 'p1'")
        .await;
    desk.db
        .execute("ALTER TABLE people ENABLE TRIGGER USER")
        .await;
    desk.db.execute("UPDATE people SET phone = '1'").await;
    // What no trigger saw is not in step, as a deep check would say.
    desk.db.drain().await;
    desk.assert_same().await;
}

#[tokio::test]
async fn lengths_count_as_the_crm_counts() {
    let desk = desk().await;
    desk.db
        .execute("UPDATE people SET title = 'Größe' WHERE id = 'p1'")
        .await;
    let error = desk
        .db
        .error("UPDATE people SET title = 'A🦀🦀b' WHERE id = 'p1'")
        .await;
    assert_eq!(error.code().code(), "23514", "{error:?}");
    desk.settle().await;
}

#[tokio::test]
async fn a_mapping_is_checked_when_it_is_made() {
    let desk = desk().await;
    let map = desk.map;
    for sql in [
        format!("SELECT crm.map_field({map}, 'nowhere', 'x_nowhere')"),
        format!("SELECT crm.map_field({map}, 'notes', 'last_name')"),
        format!("SELECT crm.map_field({map}, 'notes', 'x_notes', direction => 'sideways')"),
        format!(
            "SELECT crm.map_field({map}, 'notes', 'x_notes', validation => '{{\"maximum\": 3}}')"
        ),
        format!("SELECT crm.map_field({map}, 'notes', 'x_notes', data_type => 'colour')"),
        "SELECT crm.map_object('nobody', 'people', 'contact')".to_owned(),
        "SELECT crm.map_object('stub', 'people', 'contact', on_insert => 'perhaps')".to_owned(),
        "SELECT crm.create_connection('x', 'oracle')".to_owned(),
        "SELECT crm.create_connection('x', 'salesforce', options => '{\"speed\": 9}')".to_owned(),
        "SELECT crm.create_connection('x', 'salesforce', base_url => 'http://example.com')"
            .to_owned(),
    ] {
        let error = desk.db.error(&sql).await;
        let class = error.code().code();
        assert!(
            !class.starts_with("XX") && class != "P0001",
            "{sql}: {error:?}"
        );
    }
}
