//! A PostgreSQL cluster of its own: started, stopped, crashed, reloaded, cloned into a standby.
//!
//! It listens on a socket in its own directory only. `PG_CONFIG` names the installation;
//! `PG_CRM_LIBRARY_PATH`, if set, a directory where the server looks for pg_crm's library first.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tempfile::TempDir;

use crate::complaints::Provoked;
use crate::database::Database;
use crate::eventually::{PATIENCE, spin};
use crate::process;

static BIN: LazyLock<PathBuf> = LazyLock::new(|| {
    let config =
        std::env::var_os("PG_CONFIG").unwrap_or("/usr/lib/postgresql/15/bin/pg_config".into());
    let output = process::run(Command::new(config).arg("--bindir"));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
});

/// One of PostgreSQL's programs, run as the server's user.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(BIN.join(name));
    process::as_server_user(&mut command);
    command
}

/// Where the clusters' directories are made: in memory where there is room, since a third of the
/// suites' CPU time went to the file system that creates and removes their thousands of files.
/// `TMPDIR` chooses another place.
static PARENT: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let has_room = std::env::var_os("TMPDIR").is_none()
        && statfs(memory).is_ok_and(|fs| {
            let available = fs.blocks_available() * fs.block_size() as u64;
            fs.filesystem_type() == TMPFS_MAGIC && available >= ROOM_IN_MEMORY
        });
    match has_room {
        true => memory.to_owned(),
        false => std::env::temp_dir(),
    }
});

/// Twice what the largest suite was seen to take up.
const ROOM_IN_MEMORY: u64 = 4 << 30;

/// The database that new ones with the extension are copies of. No worker connects to a template.
const TEMPLATE: &str = "with_extension";

/// A cluster that does not run and whose data directory the others copy, with [`TEMPLATE`] in it:
/// initdb and CREATE EXTENSION take longer than all else that a scenario does.
static PRISTINE: LazyLock<Cluster> = LazyLock::new(|| {
    let cluster = Cluster::empty(true);
    let mut initdb = program("initdb");
    initdb
        .args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        ])
        .args(["--no-sync", "--no-instructions", "-D"])
        .arg(cluster.data());
    process::run(&mut initdb);
    cluster.configure(&[
        ("listen_addresses", ""),
        ("shared_preload_libraries", "pg_crm"),
        ("fsync", "off"),
        ("max_connections", "200"),
        ("max_worker_processes", "100"),
        ("max_prepared_transactions", "4"),
        ("log_line_prefix", "%m [%p] %b %d: "),
    ]);
    cluster.place();
    cluster.boot();
    let create = format!("CREATE DATABASE {TEMPLATE} IS_TEMPLATE true");
    cluster.psql("postgres", &create);
    cluster.psql(TEMPLATE, "CREATE EXTENSION pg_crm");
    cluster.stop(Signal::SIGINT);
    process::clean_up_at_exit(None, cluster.path().to_owned());
    cluster
});

/// Where extensions' scripts live in this installation.
pub fn extension_directory() -> PathBuf {
    let output = process::run(program("pg_config").arg("--sharedir"));
    Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("extension")
}

pub struct Cluster {
    directory: Option<TempDir>,
    postmaster: Mutex<Option<Child>>,
    databases: AtomicU32,
    /// Held by a `static`, which is never dropped.
    shared: bool,
    /// Environment variables of the server.
    environment: Vec<(String, String)>,
    provoked: Provoked,
}

impl Cluster {
    /// A running cluster.
    pub fn start() -> Cluster {
        Cluster::with(&[])
    }

    /// A running cluster for a `static` that several tests share.
    pub fn shared() -> Cluster {
        Cluster::made(&[], &[], true)
    }

    /// The same with these settings on top.
    pub fn shared_with(settings: &[(&str, &str)]) -> Cluster {
        Cluster::made(settings, &[], true)
    }

    /// A running cluster with these settings on top.
    pub fn with(settings: &[(&str, &str)]) -> Cluster {
        Cluster::made(settings, &[], false)
    }

    /// The same, with environment variables.
    pub fn with_environment(settings: &[(&str, &str)], variables: &[(&str, &str)]) -> Cluster {
        Cluster::made(settings, variables, false)
    }

    fn made(settings: &[(&str, &str)], variables: &[(&str, &str)], shared: bool) -> Cluster {
        let mut cluster = Cluster::empty(shared);
        cluster.environment = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut copy = Command::new("cp");
        process::as_server_user(copy.args(["-a", "--reflink=auto"]))
            .arg(PRISTINE.data())
            .arg(cluster.data());
        process::run(&mut copy);
        cluster.place();
        cluster.configure(settings);
        cluster.boot();
        cluster
    }

    /// Says where the server listens, and where it finds the library if not where it is installed.
    fn place(&self) {
        let socket = self.path().display().to_string();
        self.configure(&[("unix_socket_directories", &socket)]);
        if let Ok(path) = std::env::var("PG_CRM_LIBRARY_PATH") {
            self.configure(&[("dynamic_library_path", &format!("{path}:$libdir"))]);
        }
    }

    /// Runs a statement before any test does.
    fn psql(&self, database: &str, statement: &str) {
        let mut psql = program("psql");
        psql.arg("-Xqh").arg(self.path());
        process::run(psql.args(["-U", "postgres", "-d", database, "-c", statement]));
    }

    fn empty(shared: bool) -> Cluster {
        let directory = tempfile::Builder::new()
            .prefix("pg_crm-")
            .tempdir_in(&*PARENT)
            .expect("a temporary directory");
        if let Some(user) = process::server_user() {
            let owner = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
            std::os::unix::fs::chown(directory.path(), owner.0, owner.1).expect("chown");
        }
        let (postmaster, databases) = (Mutex::new(None), AtomicU32::new(0));
        Cluster {
            directory: Some(directory),
            postmaster,
            databases,
            shared,
            environment: Vec::new(),
            provoked: Provoked::default(),
        }
    }

    /// A standby that follows this cluster.
    pub fn standby(&self) -> Cluster {
        let standby = Cluster::empty(false);
        let mut backup = program("pg_basebackup");
        backup.arg("-h").arg(self.path()).args([
            "-U",
            "postgres",
            "-c",
            "fast",
            "--no-sync",
            "-R",
            "-D",
        ]);
        process::run(backup.arg(standby.data()));
        let socket = standby.path().display().to_string();
        standby.configure(&[("unix_socket_directories", &socket)]);
        standby.boot();
        standby
    }

    /// Says of what the launcher or a worker will complain: these words are in the line of the log.
    pub fn provokes(&self, words: &str) {
        self.provoked.add(words);
    }

    pub fn path(&self) -> &Path {
        self.directory.as_ref().expect("taken only by drop").path()
    }

    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// Settings for the next start or reload; later ones win.
    pub fn configure(&self, settings: &[(&str, &str)]) {
        let file = self.data().join("postgresql.conf");
        let mut text = std::fs::read_to_string(&file).expect("postgresql.conf");
        for (name, value) in settings {
            let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
        }
        std::fs::write(file, text).expect("postgresql.conf");
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.postmaster
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn postmaster(&self) -> i32 {
        self.lock().as_ref().expect("the server runs").id() as i32
    }

    /// Starts the server and waits until it takes connections.
    pub fn boot(&self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("the log");
        let mut command = program("postgres");
        command.arg("-D").arg(self.data()).stdin(Stdio::null());
        command.envs(self.environment.iter().cloned());
        command
            .stdout(log.try_clone().expect("the log"))
            .stderr(log);
        let mut child = process::spawn(command, Signal::SIGQUIT);
        if self.shared {
            let server = Some((child.id(), self.provoked.clone()));
            process::clean_up_at_exit(server, self.path().to_owned());
        }
        let pid = child.id().to_string();
        spin(
            Duration::from_secs(60),
            "the server takes connections",
            || {
                if let Ok(Some(status)) = child.try_wait() {
                    panic!("the server did not start: {status}\n{}", self.log_tail());
                }
                let state = std::fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
                let lines: Vec<&str> = state.lines().map(str::trim).collect();
                let ready = matches!(lines.get(7), Some(&("ready" | "standby")));
                (lines.first() == Some(&pid.as_str()) && ready).then_some(())
            },
        );
        *self.lock() = Some(child);
    }

    /// Stops the server and says how long that took. Fast is SIGINT, immediate SIGQUIT.
    pub fn stop(&self, how: Signal) -> Duration {
        let start = Instant::now();
        let Some(mut child) = self.lock().take() else {
            return Duration::ZERO;
        };
        process::signal(child.id() as i32, how);
        let ended = || child.try_wait().ok().flatten();
        let status = spin(Duration::from_secs(60), "the server stops", ended);
        // With SIGKILL nobody tells the others; they see it by themselves, and hold the data
        // directory until then.
        assert!(
            how == Signal::SIGKILL || status.code().is_some(),
            "the postmaster ended with {status}"
        );
        start.elapsed()
    }

    pub fn restart(&self) {
        self.stop(Signal::SIGINT);
        self.boot();
    }

    /// What a power cut leaves: every process killed at once. The server does not run afterwards.
    pub fn crash(&self) {
        let postmaster = self.postmaster();
        // Stopped first, it can neither react to the death of a child nor start another.
        process::signal(postmaster, Signal::SIGSTOP);
        process::children(postmaster)
            .iter()
            .for_each(|&pid| process::signal(pid, Signal::SIGKILL));
        self.stop(Signal::SIGKILL);
        self.abandoned();
    }

    /// Starts the server again after somebody killed the postmaster; the others see that by
    /// themselves.
    pub fn recover(&self) {
        self.stop(Signal::SIGKILL);
        self.abandoned();
        self.boot();
    }

    /// Waits until no process of a server without postmaster is left.
    fn abandoned(&self) {
        let data = self.data();
        spin(PATIENCE, "all processes are gone", || {
            process::working_in(&data).is_empty().then_some(())
        });
    }

    /// Has the server read its configuration again.
    pub fn reload(&self) {
        process::signal(self.postmaster(), Signal::SIGHUP);
    }

    /// Ends recovery of a standby.
    pub fn promote(&self) {
        process::run(
            program("pg_ctl")
                .args(["promote", "-w", "-D"])
                .arg(self.data()),
        );
    }

    /// A new database with the extension, and its worker at work.
    pub async fn database(&self) -> Database {
        // A third of what it takes to copy by way of the log.
        let options = format!("TEMPLATE {TEMPLATE} STRATEGY file_copy");
        let database = self.new_database(&options).await;
        database.execute("SELECT crm_internal.start_worker()").await;
        database.worker().await;
        database
    }

    /// Removes what databases with the extension are copies of: nothing but they needs its role
    /// then, and there are no new ones.
    pub async fn remove_template(&self) {
        let admin = Database::open(self, "postgres").await;
        admin
            .execute(&format!("ALTER DATABASE {TEMPLATE} IS_TEMPLATE false"))
            .await;
        admin.execute(&format!("DROP DATABASE {TEMPLATE}")).await;
    }

    /// A new database without the extension.
    pub async fn bare_database(&self) -> Database {
        self.new_database("").await
    }

    async fn new_database(&self, options: &str) -> Database {
        let name = format!("db{}", self.databases.fetch_add(1, Ordering::Relaxed) + 1);
        let admin = Database::open(self, "postgres").await;
        admin
            .execute(&format!("CREATE DATABASE {name} {options}"))
            .await;
        let mut database = Database::open(self, &name).await;
        database.temporary = self.shared;
        database
    }

    fn log_file(&self) -> PathBuf {
        self.path().join("log")
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// The last lines of the log, for whoever looks into a failure.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- the server's log, its end:\n{}", self.log_tail());
        }
        let complaints = self.provoked.leaves(&self.log());
        if let Some(mut child) = self.lock().take() {
            process::signal(child.id() as i32, Signal::SIGQUIT);
            let _ = child.wait();
        }
        if std::env::var_os("KEEP").is_some() {
            let kept = self.directory.take().map(TempDir::keep);
            eprintln!("kept: {}", kept.unwrap_or_default().display());
        }
        assert!(
            complaints.is_empty() || std::thread::panicking(),
            "pg_crm complains:\n{complaints}"
        );
    }
}
