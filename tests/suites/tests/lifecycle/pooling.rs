//! Applications that reach the server through PgBouncer in transaction mode, where any transaction
//! may come to any connection: docs/compatibility.md says what of pg_crm they can use.

use crm_suites::database::Session;
use crm_suites::eventually::{PATIENCE, spin};
use crm_suites::{Cluster, Crm, Desk, Vendor, process};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::CLUSTER;

/// A pooler with one connection to each database, which all clients share. It ends with its
/// directory's last user, or with the tests.
struct Pooler {
    directory: TempDir,
    process: std::process::Child,
}

impl Pooler {
    fn start(cluster: &Cluster) -> Pooler {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let file = path.join("pgbouncer.ini");
        let settings = format!(
            "[databases]\n* = host={} port=5432 user=postgres\n\
             [pgbouncer]\nunix_socket_dir = {}\nlisten_port = 5432\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = 1\n",
            cluster.path().display(),
            path.display(),
        );
        std::fs::write(&file, settings).expect("the configuration");
        if let Some(user) = process::server_user() {
            let owner = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
            std::os::unix::fs::chown(path, owner.0, owner.1).expect("chown");
        }
        let mut command = std::process::Command::new("/usr/sbin/pgbouncer");
        process::as_server_user(command.arg("-q").arg(&file));
        let process = process::spawn(command, Signal::SIGTERM);
        let socket = path.join(".s.PGSQL.5432");
        spin(PATIENCE, "the pooler listens", || {
            socket.exists().then_some(())
        });
        Pooler { directory, process }
    }

    async fn session(&self, database: &str) -> Session {
        Session::open(self.directory.path(), database).await
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        process::signal(self.process.id() as i32, Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn through_a_pooler_in_transaction_mode() {
    let db = CLUSTER.database().await;
    let crm = Crm::connect(&db, Vendor::Stub).await;
    let desk = Desk::furnish_as(db, crm, "bidirectional", "on_insert => 'ignore'", "").await;
    desk.link(2).await;
    let pooler = Pooler::start(&CLUSTER);
    let one = pooler.session(&desk.db.name).await;
    let other = pooler.session(&desk.db.name).await;
    let backend = "SELECT pg_backend_pid()";
    assert_eq!(
        one.text(backend).await,
        other.text(backend).await,
        "one connection for both"
    );

    one.execute("BEGIN; SET LOCAL pg_crm.actor = 'dana'; UPDATE people SET phone = 'dana''s' WHERE id = 'p1'; COMMIT")
        .await;
    other
        .execute("UPDATE people SET phone = 'nobody''s' WHERE id = 'p2'")
        .await;
    assert_eq!(one.text("SELECT crm.flush()").await, "t");
    let actors =
        "SELECT record_key, coalesce(nullif(substr(actor, strpos(actor, '/') + 1), actor), '')
                  FROM crm.audit_log WHERE operation = 'update' AND fields ? 'phone' ORDER BY 1";
    assert_eq!(desk.db.text(actors).await, "p1 | dana\np2 | ");

    let call = r#"SELECT outcome FROM crm.write('people', 'p1', '{"phone": "written"}')"#;
    assert_eq!(one.text(call).await, "committed");
    let undone =
        r#"BEGIN; SELECT outcome FROM crm.write('people', 'p2', '{"phone": "undone"}'); ROLLBACK"#;
    other.execute(undone).await;
    let read = "SELECT crm.read_live('people', 'p1') ->> 'phone'";
    assert_eq!(other.text(read).await, "written");

    // What the manual warns of: it is everybody's.
    one.execute("SET pg_crm.actor = 'erin'").await;
    assert_eq!(other.text("SHOW pg_crm.actor").await, "erin");
    other.execute("RESET pg_crm.actor").await;
    desk.settle().await;
}
