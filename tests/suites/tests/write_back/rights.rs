//! Nothing is granted to everybody; each level adds what its name says.

use crm_suites::{Desk, Vendor};

use crate::CLUSTER;

/// Statements, and the first level that may run them.
const ALLOWED: [(&str, usize); 9] = [
    ("SELECT * FROM crm.status", 1),
    ("SELECT * FROM crm.status_wide", 1),
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
        desk.db
            .execute(&format!("GRANT UPDATE ON people TO {role}"))
            .await;
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

/// Two tables; the writer may update one column of the first, and owns neither.
#[tokio::test]
async fn a_writer_flushes_the_maps_of_tables_it_may_update() {
    let desk = Desk::open_with(&CLUSTER, Vendor::Stub, "on_insert => 'create'").await;
    let (writer, owner, operator) = (
        format!("{}_writer", desk.db.name),
        format!("{}_owner", desk.db.name),
        format!("{}_operator", desk.db.name),
    );
    desk.db
        .execute(&format!(
            "CREATE ROLE {writer}; CREATE ROLE {owner}; CREATE ROLE {operator};
             SELECT crm.grant_access('{writer}', 'writer'), crm.grant_access('{owner}', 'writer'),
                    crm.grant_access('{operator}', 'operator');
             CREATE TABLE firms (id text PRIMARY KEY, name text); ALTER TABLE firms OWNER TO {owner};
             REVOKE ALL ON firms FROM {owner}"
        ))
        .await;
    let firms: i32 = desk
        .db
        .one(
            "SELECT crm.map_object('stub', 'firms', 'account', external_id_field => 'external_key', on_insert => 'create')",
            &[],
        )
        .await;
    desk.db
        .execute(&format!(
            "GRANT ALL ON firms TO {owner};
             SELECT crm.map_field({firms}, 'name', 'name', direction => 'outbound')"
        ))
        .await;
    desk.settle().await;
    desk.db.at_rest().await;
    desk.db
        .execute("INSERT INTO people (id, last_name) VALUES ('p1', 'One'); INSERT INTO firms VALUES ('f1', 'Firm')")
        .await;
    let people = desk.map;
    let flush = |map: Option<i32>| {
        let map = map.map_or("NULL".to_owned(), |map| map.to_string());
        format!("SELECT crm.flush({map}, '20 s')")
    };
    let session = desk.db.session().await;
    session.execute(&format!("SET ROLE {writer}")).await;
    for sql in [flush(None), flush(Some(people)), flush(Some(firms))] {
        let error = session.error(&sql).await;
        assert_eq!(error.code().code(), "42501", "{sql}: {error:?}");
        assert!(
            error.message().contains("permission denied to flush"),
            "{error:?}"
        );
        assert!(
            error.detail().is_some() && error.hint().is_some(),
            "{error:?}"
        );
    }
    desk.db
        .execute(&format!("GRANT UPDATE (phone) ON people TO {writer}"))
        .await;
    let error = session.error(&flush(Some(firms))).await;
    assert!(
        error
            .detail()
            .is_some_and(|detail| detail.contains("firms")),
        "{error:?}"
    );
    // Its own map alone; the other waits for its round.
    assert!(session.one::<bool>(&flush(None), &[]).await);
    assert_eq!(desk.crm.records(&desk.db, "contact").await.len(), 1);
    assert_eq!(desk.crm.records(&desk.db, "account").await.len(), 0);
    desk.db
        .execute("INSERT INTO people (id, last_name) VALUES ('p2', 'Two')")
        .await;
    assert!(session.one::<bool>(&flush(Some(people)), &[]).await);
    assert_eq!(desk.crm.records(&desk.db, "contact").await.len(), 2);
    desk.db.at_rest().await;
    // The owner flushes the other, whatever rights it left itself.
    desk.db
        .execute("INSERT INTO people (id, last_name) VALUES ('p3', 'Three')")
        .await;
    session.execute(&format!("SET ROLE {owner}")).await;
    assert!(session.one::<bool>(&flush(None), &[]).await);
    assert_eq!(desk.crm.records(&desk.db, "account").await.len(), 1);
    assert_eq!(desk.crm.records(&desk.db, "contact").await.len(), 2);
    // An operator flushes all, without a right to any table.
    session.execute(&format!("SET ROLE {operator}")).await;
    assert!(session.one::<bool>(&flush(None), &[]).await);
    assert!(session.one::<bool>(&flush(Some(firms)), &[]).await);
    assert_eq!(desk.crm.records(&desk.db, "contact").await.len(), 3);
    let unknown = session.error(&flush(Some(999))).await;
    assert_eq!(unknown.code().code(), "42704", "{unknown:?}");
    desk.settle().await;
}
