//! Nothing is granted to everybody; each level adds what its name says.

use crm_suites::{Desk, Vendor};

use crate::CLUSTER;

/// Statements, and the first level that may run them.
const ALLOWED: [(&str, usize); 8] = [
    ("SELECT * FROM crm.status", 1),
    ("SELECT * FROM crm.cell_status", 1),
    ("SELECT * FROM crm.audit_log", 1),
    ("SELECT crm.hash('1')", 1),
    ("SELECT crm.flush(timeout => '10 s')", 2),
    ("SELECT crm.pause('stub'); SELECT crm.resume('stub')", 3),
    ("SELECT crm.replay_all()", 3),
    (
        "SELECT crm.create_connection('other', 'stub'); SELECT crm.drop_connection('other')",
        4,
    ),
];

#[tokio::test]
async fn each_level_may_what_it_says() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.link(1).await;
    desk.settle().await;
    for (level, name) in ["nobody", "reader", "writer", "operator", "admin"]
        .into_iter()
        .enumerate()
    {
        let role = format!("{}_{name}", desk.db.name);
        desk.db.execute(&format!("CREATE ROLE {role}")).await;
        if level > 0 {
            desk.db
                .execute(&format!("SELECT crm.grant_access('{role}', '{name}')"))
                .await;
        }
        let session = desk.db.session().await;
        session.execute(&format!("SET ROLE {role}")).await;
        for (sql, needed) in ALLOWED {
            if level >= needed {
                session.execute(sql).await;
            } else {
                let error = session.error(sql).await;
                assert_eq!(error.code().code(), "42501", "{name}: {sql}: {error:?}");
            }
        }
        for sql in [
            "SELECT * FROM crm.credential",
            "UPDATE crm.ledger SET crm_id = NULL",
            "DELETE FROM crm.audit_log",
        ] {
            let error = session.error(sql).await;
            assert_eq!(error.code().code(), "42501", "{name}: {sql}: {error:?}");
        }
    }
    let error = desk
        .db
        .error("SELECT crm.grant_access('postgres', 'king')")
        .await;
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains("operator"), "the known levels: {error:?}");
}
