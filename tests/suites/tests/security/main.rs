//! What nobody may do to pg_crm, or learn from it, whoever they are: the owner of a mapped table, a
//! role, a CRM, a proxy, a sender of webhooks.

mod callers;
mod columns;
mod deep_json;
mod echoed_secrets;
mod event_triggers;
mod grants;
mod handed_over;
mod key_spaces;
mod large_values;
mod names;
mod nested_logs;
mod own_errors;
mod owners;
mod possession;
mod pushes;
mod raw;
mod response_limits;
mod roles;
mod search_paths;
mod secrets_at_rest;
mod settings;
mod slow_senders;
mod swapped_names;
mod time_limits;

use std::sync::LazyLock;

use crm_suites::{Cluster, Database, Session};

/// One server for most of these; each scenario has a database, and so a worker, of its own.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::shared);

/// A role of that level, or of none, named after the database; and a session in which it is in
/// force.
async fn role(db: &Database, name: &str, level: Option<&str>) -> (String, Session) {
    let role = format!("{}_{name}", db.name);
    db.execute(&format!("CREATE ROLE {role}")).await;
    if let Some(level) = level {
        db.execute(&format!("SELECT crm.grant_access('{role}', '{level}')"))
            .await;
    }
    let session = db.session().await;
    session.execute(&format!("SET ROLE {role}")).await;
    (role, session)
}

/// Asserts that these statements are refused for want of rights.
async fn refused(session: &Session, sql: &str) {
    let error = session.error(sql).await;
    assert_eq!(error.code().code(), "42501", "{sql}: {error:?}");
}
