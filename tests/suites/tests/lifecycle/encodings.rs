//! Databases in other encodings than UTF-8, in which what CRMs say would become other letters.

use crm_suites::Database;

use crate::CLUSTER;

async fn is_refused_in(encoding: &str) {
    let admin = Database::open(&CLUSTER, "postgres").await;
    let name = format!("in_{}", encoding.to_lowercase());
    admin
        .execute(&format!(
            "CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        ))
        .await;
    let db = Database::open(&CLUSTER, &name).await;
    let error = db.error("CREATE EXTENSION pg_crm").await;
    assert_eq!(error.code().code(), "0A000", "{error:?}");
    assert!(error.message().contains(encoding), "{error:?}");
    assert!(
        error.hint().is_some_and(|hint| hint.contains("UTF8")),
        "{error:?}"
    );
    assert_eq!(db.count("pg_namespace WHERE nspname LIKE 'crm%'").await, 0);
    drop(db);
    admin
        .execute(&format!("DROP DATABASE {name} WITH (FORCE)"))
        .await;
}

#[tokio::test]
async fn latin1_is_refused() {
    is_refused_in("LATIN1").await;
}

#[tokio::test]
async fn sql_ascii_is_refused() {
    is_refused_in("SQL_ASCII").await;
}
