//! One database of a cluster, and sessions in it.

use std::future::poll_fn;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_postgres::error::DbError;
use tokio_postgres::types::{FromSqlOwned, ToSql};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Row, SimpleQueryMessage};

use crate::cluster::{self, Cluster};
use crate::eventually::{PATIENCE, eventually, within};
use crate::process;
use crate::vitals::Vitals;

pub type Args<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A session as superuser. Its methods panic with the statement when it fails.
pub struct Session {
    client: Client,
    connection: JoinHandle<()>,
    notices: Notices,
}

/// What a session was told beside results.
type Notices = Arc<Mutex<Vec<DbError>>>;

impl Session {
    /// Connects; waits while the server is coming up, as it is after a crash.
    pub async fn open(socket: &Path, database: &str) -> Session {
        let mut last = String::new();
        let client = within(PATIENCE, "a connection", async || match Session::try_open(
            socket, database,
        )
        .await
        {
            Ok(client) => Some(client),
            Err(error) => {
                last = format!("{error:?}");
                None
            }
        });
        let (client, connection, notices) = client.await;
        Session {
            client,
            connection,
            notices,
        }
    }

    fn config(socket: &Path, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host_path(socket)
            .port(5432)
            .user("postgres")
            .dbname(database)
            .application_name("suite");
        config
    }

    async fn try_open(
        socket: &Path,
        database: &str,
    ) -> Result<(Client, JoinHandle<()>, Notices), tokio_postgres::Error> {
        let config = Session::config(socket, database);
        let (client, mut connection) = config.connect(NoTls).await?;
        let notices = Notices::default();
        let told = notices.clone();
        let connection = tokio::spawn(async move {
            // Ends with the session, or with the server, which some tests kill.
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await
            {
                if let AsyncMessage::Notice(notice) = message {
                    told.lock().expect("no panic under this lock").push(notice);
                }
            }
        });
        Ok((client, connection, notices))
    }

    /// Ends the session and waits until it has ended.
    pub async fn close(self) {
        drop(self.client);
        let _ = self.connection.await;
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// One or several statements.
    pub async fn execute(&self, sql: &str) {
        if let Err(error) = self.client.batch_execute(sql).await {
            panic!("{sql}\n{}", told(&error));
        }
    }

    /// What these statements say beside their results: message, detail and hint of each NOTICE or
    /// WARNING, a line each.
    pub async fn notices(&self, sql: &str) -> String {
        self.taken_notices();
        self.execute(sql).await;
        self.taken_notices()
    }

    fn taken_notices(&self) -> String {
        let mut told = self.notices.lock().expect("no panic under this lock");
        let lines = told.drain(..).map(|notice| {
            let parts = [Some(notice.message()), notice.detail(), notice.hint()];
            parts.into_iter().flatten().collect::<Vec<_>>().join(" | ")
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The error that these statements must end in.
    pub async fn error(&self, sql: &str) -> DbError {
        match self.client.batch_execute(sql).await {
            Ok(()) => panic!("no error: {sql}"),
            Err(error) => error
                .as_db_error()
                .unwrap_or_else(|| panic!("{sql}\n{error:?}"))
                .clone(),
        }
    }

    pub async fn rows(&self, sql: &str, args: Args<'_>) -> Vec<Row> {
        self.client
            .query(sql, args)
            .await
            .unwrap_or_else(|error| panic!("{sql}\n{}", told(&error)))
    }

    /// The one value of the one row.
    pub async fn one<T: FromSqlOwned>(&self, sql: &str, args: Args<'_>) -> T {
        let rows = self.rows(sql, args).await;
        assert_eq!(rows.len(), 1, "rows of {sql}");
        rows[0]
            .try_get(0)
            .unwrap_or_else(|error| panic!("{sql}\n{error}"))
    }

    /// The values of the first column.
    pub async fn all<T: FromSqlOwned>(&self, sql: &str, args: Args<'_>) -> Vec<T> {
        let rows = self.rows(sql, args).await;
        rows.iter()
            .map(|row| {
                row.try_get(0)
                    .unwrap_or_else(|error| panic!("{sql}\n{error}"))
            })
            .collect()
    }

    pub async fn count(&self, sql: &str) -> i64 {
        self.one(&format!("SELECT count(*) FROM {sql}"), &[]).await
    }

    /// A result as text, a line per row, for messages and comparisons.
    pub async fn text(&self, sql: &str) -> String {
        let messages = self.client.simple_query(sql).await;
        let messages = messages.unwrap_or_else(|error| panic!("{sql}\n{}", told(&error)));
        let mut lines = Vec::new();
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message {
                let cells = (0..row.len()).map(|i| row.get(i).unwrap_or("(null)"));
                lines.push(cells.collect::<Vec<_>>().join(" | "));
            }
        }
        lines.join("\n")
    }
}

/// All that the server said, not only its first line.
fn told(error: &tokio_postgres::Error) -> String {
    let Some(error) = error.as_db_error() else {
        return format!("{error:?}");
    };
    let more = [error.detail(), error.hint(), error.where_()];
    let more: Vec<&str> = more.into_iter().flatten().collect();
    format!(
        "{}: {}\n{}",
        error.code().code(),
        error.message(),
        more.join("\n")
    )
}

/// A database and a session in it.
pub struct Database {
    pub name: String,
    socket: PathBuf,
    log: PathBuf,
    session: Session,
    /// Dropped with this value, so that a server that many tests share does not fill with workers.
    pub(crate) temporary: bool,
}

impl Deref for Database {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Database {
    pub async fn open(cluster: &Cluster, name: &str) -> Database {
        let session = Session::open(cluster.path(), name).await;
        let (socket, log) = (cluster.path().to_owned(), cluster.path().join("log"));
        Database {
            name: name.to_owned(),
            socket,
            log,
            session,
            temporary: false,
        }
    }

    /// Another session in the same database.
    pub async fn session(&self) -> Session {
        Session::open(&self.socket, &self.name).await
    }

    /// Leaves the database where it is at the end.
    pub fn keep(&mut self) {
        self.temporary = false;
    }

    /// Drops the database with this value.
    pub fn drop_at_the_end(&mut self) {
        self.temporary = true;
    }

    /// A new session in place of one that a crash cuts off, once it has.
    pub async fn reconnect(&mut self) {
        let cut_off = async || self.client().is_closed().then_some(());
        eventually("the crash cuts the session off", cut_off).await;
        self.session = self.session().await;
    }

    /// A session that listens to a channel; what it hears, which must be JSON, is added to `heard`
    /// until it ends.
    pub async fn listen(&self, channel: &str, heard: Arc<Mutex<Vec<Value>>>) -> Session {
        let config = Session::config(&self.socket, &self.name);
        let (client, mut connection) = config.connect(NoTls).await.expect("a connection");
        let connection = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await
            {
                if let AsyncMessage::Notification(told) = message {
                    let told = told.payload().parse().expect("JSON");
                    heard.lock().expect("no panic under this lock").push(told);
                }
            }
        });
        let session = Session {
            client,
            connection,
            notices: Notices::default(),
        };
        session.execute(&format!("LISTEN {channel}")).await;
        session
    }

    /// The process id of this database's worker, if it has one.
    pub async fn worker_now(&self) -> Option<i32> {
        let sql = "SELECT pid FROM pg_stat_activity
                   WHERE backend_type = 'pg_crm worker' AND datname = current_database()";
        self.all(sql, &[]).await.pop()
    }

    /// The process id of this database's worker, once it has one.
    pub async fn worker(&self) -> i32 {
        eventually("the database has a worker", async || {
            self.worker_now().await
        })
        .await
    }

    /// The process id of a worker that is not `old`.
    pub async fn worker_after(&self, old: i32) -> i32 {
        let another = async || self.worker_now().await.filter(|&pid| pid != old);
        eventually("the database has a new worker", another).await
    }

    pub async fn vitals(&self) -> Vitals {
        Vitals::of(self.worker().await)
    }

    pub async fn kill_worker(&self) -> i32 {
        let pid = self.worker().await;
        process::signal(pid, Signal::SIGKILL);
        pid
    }

    /// Writes back what is due; whether all of it went.
    pub async fn flush(&self) -> bool {
        let done: bool = self.one("SELECT crm.flush(timeout => '30 s')", &[]).await;
        if !done {
            let status = self.text("SELECT to_jsonb(s) FROM crm.status_wide s").await;
            eprintln!("-- a flush came to nothing:\n{status}");
        }
        done
    }

    /// Flushes until nothing waits any more: through whatever the CRM does in the meantime.
    pub async fn drain(&self) {
        // A flush of a second does not wait longer than that for a worker that is just starting.
        self.worker().await;
        let limit = PATIENCE;
        let drained = tokio::time::timeout(limit, async {
            loop {
                let _: Option<bool> = self.one("SELECT crm.flush(timeout => '1 s')", &[]).await;
                let waiting = "SELECT (SELECT coalesce(sum(queued), 0)::bigint FROM crm.status_wide)
                                    + (SELECT count(*) FROM crm.scan_request JOIN crm.map_state s USING (map_id) WHERE s.state <> 'error')";
                if self.one::<i64>(waiting, &[]).await == 0 && self.dirty().await == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        if drained.await.is_err() {
            let status = self.text("SELECT to_jsonb(s) FROM crm.status_wide s").await;
            let cells = self
                .text("SELECT to_jsonb(c) FROM crm.cell_status c WHERE state <> 'synced' LIMIT 5")
                .await;
            panic!("cells still wait after {limit:?}\n{status}\n{cells}");
        }
    }

    /// Flushes until nothing but dead letters waits.
    pub async fn drain_but_for_the_dead(&self) {
        eventually("nothing is due any more", async || {
            self.one::<bool>("SELECT crm.flush(timeout => '5 s')", &[])
                .await
                .then_some(())
        })
        .await;
    }

    /// Waits until every record that was asked for by itself is read.
    pub async fn no_record_is_to_be_read(&self) {
        eventually("the records are read", async || {
            (self.count("crm.refetch").await == 0).then_some(())
        })
        .await;
    }

    /// Waits until no round is on: one that is takes up what comes, whoever began it.
    pub async fn at_rest(&self) {
        eventually("the rounds are over", async || {
            (self.count("crm.progress").await == 0).then_some(())
        })
        .await;
    }

    /// How many cells the CRM does not have yet, and may get.
    pub async fn dirty(&self) -> i64 {
        self.count("crm.cell_status WHERE state NOT IN ('synced', 'never synced')")
            .await
    }

    /// `crm.check()` finds nothing.
    pub async fn assert_checked(&self) {
        let breaches = self.text("SELECT * FROM crm.check(deep => true)").await;
        assert!(breaches.is_empty(), "crm.check():\n{breaches}");
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log =
                String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned();
            let ours = |line: &&str| {
                line.contains(&format!(" {}: ", self.name)) || line.contains("postmaster")
            };
            let lines: Vec<&str> = log.lines().filter(ours).collect();
            let end = lines[lines.len().saturating_sub(40)..].join("\n");
            eprintln!("-- the server's log about {}, its end:\n{end}", self.name);
        }
        if self.temporary {
            let mut psql = cluster::program("psql");
            psql.arg("-h")
                .arg(&self.socket)
                .args(["-X", "-q", "-U", "postgres", "-c"]);
            psql.arg(format!("DROP DATABASE {} WITH (FORCE)", self.name));
            psql.env(
                "PGOPTIONS",
                "-c statement_timeout=10s -c client_min_messages=error",
            );
            // Tests of their own see to it that this works.
            let _ = psql.stderr(Stdio::null()).status();
        }
    }
}
