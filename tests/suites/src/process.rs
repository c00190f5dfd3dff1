//! Child processes that cannot outlive the tests.
//!
//! The kernel kills each of them when the thread that started it ends; hence one thread starts them
//! all and never ends. Directories are removed as the process exits, since what lives in a `static`
//! is never dropped.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

use crate::complaints::Provoked;

type Order = (Command, Signal, Sender<std::io::Result<Child>>);

static STARTER: LazyLock<Mutex<Sender<Order>>> = LazyLock::new(|| {
    let (orders, queue) = channel::<Order>();
    std::thread::spawn(move || {
        for (mut command, signal, answer) in queue {
            // SAFETY: prctl is async-signal-safe, and the closure does nothing else.
            unsafe {
                command.pre_exec(move || {
                    libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_int);
                    Ok(())
                });
            }
            let _ = answer.send(command.spawn());
        }
    });
    Mutex::new(orders)
});

/// Starts a child that gets `signal` should this process end.
pub fn spawn(command: Command, signal: Signal) -> Child {
    let what = format!("{command:?}");
    let (answer, child) = channel();
    let orders = STARTER
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    orders
        .send((command, signal, answer))
        .expect("the starter lives as long as the process");
    let started = child.recv().expect("the starter answers");
    started.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// PostgreSQL refuses to run as root: called by root, its programs run as the user postgres.
pub fn as_server_user(command: &mut Command) -> &mut Command {
    if let Some(user) = server_user() {
        command
            .uid(user.uid.as_raw())
            .gid(user.gid.as_raw())
            .current_dir("/");
    }
    command
}

/// Whom the server runs as, if that is somebody else.
pub fn server_user() -> Option<User> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let user = User::from_name("postgres").ok().flatten();
    Some(user.expect("there is a user postgres"))
}

/// Runs to the end and panics with the output unless it succeeds.
pub fn run(command: &mut Command) -> Output {
    let what = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

pub fn signal(pid: i32, signal: Signal) {
    // It may have ended by itself.
    let _ = kill(Pid::from_raw(pid), signal);
}

pub fn is_running(pid: i32) -> bool {
    // A zombie has no command line.
    std::fs::File::open(format!("/proc/{pid}/cmdline"))
        .and_then(|mut file| file.read(&mut [0; 1]))
        .is_ok_and(|read| read > 0)
}

/// The processes whose parent that is.
pub fn children(parent: i32) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The name in parentheses may hold anything; after it come the state and the parent.
            let parent_of = stat
                .rsplit(')')
                .next()
                .and_then(|rest| rest.split_whitespace().nth(1));
            parent_of.and_then(|pid| pid.parse().ok()) == Some(parent)
        })
        .collect()
}

/// The processes whose working directory that is.
pub fn working_in(directory: &Path) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| {
            std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == directory)
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

type Server = (u32, Provoked);

static AT_EXIT: Mutex<Vec<(Option<Server>, PathBuf)>> = Mutex::new(Vec::new());

/// Remembers a server that a `static` holds: as the process exits it is stopped, if it runs, and
/// its directory removed. The process fails if pg_crm complained there of what nobody provoked.
pub fn clean_up_at_exit(server: Option<Server>, directory: PathBuf) {
    let mut list = AT_EXIT
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    if list.is_empty() {
        // SAFETY: the handler is a plain function that lives as long as the process.
        unsafe { libc::atexit(clean_up) };
    }
    list.retain(|(_, known)| *known != directory);
    list.push((server, directory));
}

extern "C" fn clean_up() {
    let mut list = AT_EXIT
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut all_complaints = String::new();
    for (server, directory) in list.drain(..) {
        if let Some((pid, provoked)) = server {
            let pid = Pid::from_raw(pid as i32);
            if kill(pid, Signal::SIGQUIT).is_ok() {
                let _ = nix::sys::wait::waitpid(pid, None);
            }
            let log = std::fs::read(directory.join("log")).unwrap_or_default();
            all_complaints += &provoked.leaves(&String::from_utf8_lossy(&log));
        }
        let _ = std::fs::remove_dir_all(directory);
    }
    if !all_complaints.is_empty() {
        eprintln!("pg_crm complains:\n{all_complaints}");
        // SAFETY: nothing is left to be done.
        unsafe { libc::_exit(101) };
    }
}
