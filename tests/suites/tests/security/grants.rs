//! What each level may is what `crm.access` says, and what the manual says; everything else is
//! refused.

use std::collections::BTreeSet;

use crm_suites::{Desk, Vendor, eventually};

use crate::{CLUSTER, role};

const LEVELS: [&str; 4] = ["reader", "writer", "operator", "admin"];

/// For each object of pg_crm and each privilege that there is, whether a role has it.
const HELD: &str = "
    SELECT o.kind || ' ' || o.identity || ' ' || p.privilege
    FROM crm.objects o
    JOIN (VALUES ('schema', 'USAGE'), ('schema', 'CREATE'), ('function', 'EXECUTE'), ('type', 'USAGE'),
                 ('sequence', 'SELECT'), ('sequence', 'UPDATE'), ('sequence', 'USAGE'),
                 ('relation', 'SELECT'), ('relation', 'INSERT'), ('relation', 'UPDATE'), ('relation', 'DELETE'), ('relation', 'TRUNCATE'),
                 ('relation', 'REFERENCES'), ('relation', 'TRIGGER')) AS p (kind, privilege) USING (kind)
    WHERE CASE o.kind
          WHEN 'schema' THEN has_schema_privilege($1, o.objid, p.privilege)
          WHEN 'function' THEN has_function_privilege($1, o.objid, p.privilege)
          WHEN 'type' THEN has_type_privilege($1, o.objid, p.privilege)
          WHEN 'sequence' THEN has_sequence_privilege($1, o.objid, p.privilege)
          ELSE has_table_privilege($1, o.objid, p.privilege)
               OR p.privilege IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES') AND has_any_column_privilege($1, o.objid, p.privilege) END";

/// What a level is to have, by the table.
const DUE: &str = "
    SELECT o.kind || ' ' || o.identity || ' ' || CASE o.kind WHEN 'schema' THEN 'USAGE' WHEN 'relation' THEN 'SELECT' ELSE 'EXECUTE' END
    FROM crm.access a JOIN crm.objects o USING (kind, schema, name)
    WHERE array_position($1, a.level) <= $2";

#[tokio::test]
async fn each_level_has_what_the_table_says_and_nothing_else() {
    let desk = Desk::open_with(&CLUSTER, Vendor::Stub, "on_delete => 'delete'").await;
    months(&desk).await;
    let nameless = "SELECT kind || ' ' || name FROM crm.access a WHERE NOT EXISTS (SELECT FROM crm.objects o WHERE (o.kind, o.schema, o.name) = (a.kind, a.schema, a.name))";
    assert_eq!(
        desk.db.text(nameless).await,
        "",
        "the table speaks of what is there"
    );
    for rank in 0..=4usize {
        let level = rank.checked_sub(1).map(|n| LEVELS[n]);
        let (role, session) = role(&desk.db, level.unwrap_or("nobody"), level).await;
        let held: BTreeSet<String> = desk.db.all(HELD, &[&role]).await.into_iter().collect();
        let levels: Vec<&str> = LEVELS.to_vec();
        let due: BTreeSet<String> = desk
            .db
            .all(DUE, &[&levels, &(rank as i32)])
            .await
            .into_iter()
            .collect();
        assert_eq!(held, due, "{level:?}");
        assert_eq!(rank == 0, due.is_empty());
        // Not by word alone.
        let tables: Vec<String> = desk
            .db
            .all(
                "SELECT identity FROM crm.objects WHERE kind = 'relation'",
                &[],
            )
            .await;
        for table in tables {
            let sql = format!("SELECT FROM {table} LIMIT 0");
            if due.contains(&format!("relation {table} SELECT")) {
                session.execute(&sql).await;
            } else {
                crate::refused(&session, &sql).await;
            }
        }
    }
    desk.db.assert_checked().await;
}

/// A function that is new is granted to a level by the table, or named as one that nobody calls
/// from outside.
#[tokio::test]
async fn of_each_function_somebody_has_decided() {
    let db = CLUSTER.database().await;
    let sql = "SELECT DISTINCT p.pronamespace::regnamespace || '.' || p.proname FROM pg_proc p
        WHERE p.pronamespace IN ('crm'::regnamespace, 'crm_internal'::regnamespace, 'crm_stub'::regnamespace) AND p.proname !~ '^capture_[0-9]+$'
          AND NOT EXISTS (SELECT FROM crm.access a
                          WHERE a.kind = 'function' AND a.name = p.proname AND a.schema::regnamespace = p.pronamespace)";
    let internal: BTreeSet<String> = db.all(sql, &[]).await.into_iter().collect();
    let named: BTreeSet<String> = include_str!("internal_functions.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    assert_eq!(internal, named);
}

/// Usual on shared servers: what anybody creates is the application's to use.
#[tokio::test]
async fn default_privileges_reach_nothing_of_pg_crm() {
    let db = CLUSTER.bare_database().await;
    let app = format!("{}_app", db.name);
    let all = ["TABLES", "SEQUENCES", "FUNCTIONS", "TYPES", "SCHEMAS"];
    db.execute(&format!("CREATE ROLE {app}")).await;
    for kind in all {
        db.execute(&format!(
            "ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO {app} WITH GRANT OPTION"
        ))
        .await;
    }
    db.execute("CREATE EXTENSION pg_crm").await;
    // Those of its own role too, for what it makes later.
    for kind in all {
        db.execute(&format!(
            "ALTER DEFAULT PRIVILEGES FOR ROLE crm_engine GRANT ALL ON {kind} TO {app}, PUBLIC"
        ))
        .await;
    }
    let crm = crm_suites::Crm::connect(&db, Vendor::Stub).await;
    let desk = Desk::furnish(db, crm, "on_delete => 'delete'").await;
    months(&desk).await;
    assert_eq!(desk.db.all::<String>(HELD, &[&app]).await, [""; 0]);
    desk.db.assert_checked().await;
    // A level is granted all the same, and no more than that.
    desk.db
        .execute(&format!("SELECT crm.grant_access('{app}', 'reader')"))
        .await;
    desk.db.assert_checked().await;
    for kind in all {
        desk.db
            .execute(&format!(
                "ALTER DEFAULT PRIVILEGES FOR ROLE crm_engine REVOKE ALL ON {kind} FROM {app}, PUBLIC;
                 ALTER DEFAULT PRIVILEGES REVOKE ALL ON {kind} FROM {app}"
            ))
            .await;
    }
}

#[tokio::test]
async fn check_tells_of_any_other_grant() {
    let db = CLUSTER.database().await;
    let (role, _) = role(&db, "somebody", Some("admin")).await;
    db.assert_checked().await;
    for (grant, says) in [
        ("SELECT ON crm.credential", "SELECT on table crm.credential"),
        (
            "SELECT (secret) ON crm.credential",
            "SELECT on column secret of table crm.credential",
        ),
        ("UPDATE ON crm.field_map", "UPDATE on table crm.field_map"),
        ("CREATE ON SCHEMA crm", "CREATE on schema crm"),
        ("USAGE ON SCHEMA crm_stub", "USAGE on schema crm_stub"),
        (
            "EXECUTE ON FUNCTION crm_internal.ask_worker(jsonb, bigint)",
            "EXECUTE on function crm_internal.ask_worker",
        ),
        (
            "USAGE ON SEQUENCE crm.queue_revision_seq",
            "USAGE on sequence crm.queue_revision_seq",
        ),
    ] {
        db.execute(&format!("GRANT {grant} TO {role}")).await;
        let found = db.text("SELECT detail FROM crm.check()").await;
        assert!(
            found.contains(&role) && found.contains(says),
            "{grant}: {found}"
        );
        db.execute(&format!("REVOKE {grant} FROM {role}")).await;
    }
    db.assert_checked().await;
    db.execute(&format!("GRANT SELECT ON crm.status TO {role} WITH GRANT OPTION; GRANT EXECUTE ON FUNCTION crm.flush TO PUBLIC"))
        .await;
    let found = db.text("SELECT detail FROM crm.check()").await;
    assert!(
        found.contains("with grant option on view crm.status"),
        "{found}"
    );
    assert!(
        found.contains("everybody has EXECUTE on function crm.flush"),
        "{found}"
    );
}

/// The table in docs/security.md is what is granted.
#[tokio::test]
async fn the_manual_says_what_is_granted() {
    let db = CLUSTER.database().await;
    let manual = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/security.md"
    ))
    .expect("the manual");
    for level in LEVELS {
        let granted: String = db
            .one(
                "SELECT string_agg('`' || name || '`', ', ' ORDER BY kind DESC, name) FROM crm.access
                 WHERE level = $1 AND kind <> 'schema' AND schema = 'crm'",
                &[&level],
            )
            .await;
        let line = format!("| `{level}` | {granted} |");
        assert!(
            manual.contains(&line),
            "docs/security.md lacks this line:\n{line}"
        );
    }
}

async fn months(desk: &Desk) {
    eventually("the audit has its months", async || {
        let months = "SELECT to_regclass('crm.audit_log_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')) IS NOT NULL";
        desk.db.one::<bool>(months, &[]).await.then_some(())
    })
    .await;
}
