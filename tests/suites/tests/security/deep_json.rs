//! JSON that is nested deeper than anybody needs, or holds numbers that nobody can count: ordinary
//! errors, whoever is asked.

use std::sync::LazyLock;

use crm_suites::{Cluster, Database, SqlState};

static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::shared);

const ODD: [(&str, &str); 5] = [
    (
        "10,000 lists",
        "(repeat('[', 10000) || repeat(']', 10000))::jsonb",
    ),
    (
        "1,000 objects",
        r#"(repeat('{"a":', 1000) || '1' || repeat('}', 1000))::jsonb"#,
    ),
    (
        "a deep value of a field",
        r#"('{"a":' || repeat('[', 5000) || repeat(']', 5000) || '}')::jsonb"#,
    ),
    ("a huge number", "'{\"a\": 1e120000}'::jsonb"),
    ("a tiny number", "'[1e-16000]'::jsonb"),
];

/// Calls of a function with that value in place of each jsonb, and something of its type in place
/// of each other argument.
async fn calls(db: &Database, value: &str) -> Vec<String> {
    let sql = "SELECT format('SELECT %s(%s)', p.oid::regproc,
                   string_agg(CASE WHEN t.typname = 'jsonb' THEN $1
                                   WHEN t.typcategory = 'A' THEN format('ARRAY[]::%s', a.type::regtype)
                                   WHEN t.typcategory = 'S' THEN format('''stub''::%s', a.type::regtype)
                                   WHEN t.typcategory = 'N' THEN format('1::%s', a.type::regtype)
                                   WHEN t.typcategory = 'B' THEN 'false'
                                   ELSE format('NULL::%s', a.type::regtype) END, ', ' ORDER BY a.n))
               FROM pg_proc p, unnest(p.proargtypes) WITH ORDINALITY AS a (type, n) JOIN pg_type t ON t.oid = a.type
               WHERE p.pronamespace IN ('crm'::regnamespace, 'crm_internal'::regnamespace) AND p.prokind = 'f'
               GROUP BY p.oid HAVING bool_or(t.typname = 'jsonb')";
    db.all(sql, &[&value]).await
}

#[tokio::test]
async fn every_function_that_takes_json_takes_it_or_says_why_not() {
    let db = CLUSTER.database().await;
    db.execute("SELECT crm.create_connection('stub', 'stub')")
        .await;
    let mut failed = Vec::new();
    for (what, value) in ODD {
        let calls = calls(&db, value).await;
        assert!(calls.len() > 10, "{calls:?}");
        for call in calls {
            // What changes something is not to change it for the next.
            let session = format!("BEGIN; {call}; ROLLBACK");
            if let Err(error) = db.client().batch_execute(&session).await {
                let error = error
                    .as_db_error()
                    .unwrap_or_else(|| panic!("{call} ends the session"));
                if error.code().code().starts_with("XX") {
                    failed.push(format!("{what}: {call}: {error:?}"));
                }
                db.execute("ROLLBACK").await;
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    let deep = format!("SELECT crm.hash({})", ODD[0].1);
    let error = db.error(&deep).await;
    assert_eq!(error.code(), &SqlState::STATEMENT_TOO_COMPLEX, "{error:?}");
    let shallow = "SELECT crm.hash((repeat('[', 120) || repeat(']', 120))::jsonb)";
    db.execute(shallow).await;
}
