//! Named points at which a test build ends itself, or the postmaster, or stands still, once per data directory.
//!
//! `pg_crm.failpoints` names points, separated by commas. `point` kills the process that gets there, as `kill -9` would;
//! `point:postmaster` kills the postmaster, and with it everything; `point:terminate` asks the process to end, `point:stop` has it stand still until SIGCONT.

/// Dies here if `pg_crm.failpoints` names this point. Compiles to nothing in a released build.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_point: &str) {}

/// The same for the worker's threads, which may not ask Postgres for the setting.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach_on_thread(_point: &str) {}

/// Lets the worker's threads know the setting.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn tell_threads() {}

#[cfg(feature = "failpoints")]
pub use armed::{reach, reach_on_thread, tell_threads};

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::Mutex;

    static KNOWN: Mutex<String> = Mutex::new(String::new());

    fn setting() -> String {
        let setting = crate::settings::FAILPOINTS.get();
        setting.map_or_else(String::new, |s| s.to_string_lossy().into_owned())
    }

    pub fn tell_threads() {
        *KNOWN.lock().expect("no panic under this lock") = setting();
    }

    pub fn reach(point: &str) {
        if let Some(victim) = victim(&setting(), point) {
            pgrx::log!("pg_crm reached fail point {point}{victim}");
            die(&victim);
        }
    }

    pub fn reach_on_thread(point: &str) {
        let setting = KNOWN.lock().expect("no panic under this lock").clone();
        if let Some(victim) = victim(&setting, point) {
            die(&victim);
        }
    }

    /// Who is to die here, and only once: a process would never get beyond the point otherwise.
    fn victim(setting: &str, point: &str) -> Option<String> {
        let victim = setting.split(',').map(str::trim).find_map(|wanted| {
            let rest = wanted.strip_prefix(point)?;
            (rest.is_empty() || rest.starts_with(':')).then(|| rest.to_owned())
        })?;
        let marker = format!("pg_crm.failpoint.{}", point.replace("::", "."));
        let mut options = std::fs::OpenOptions::new();
        let first = options.write(true).create_new(true).open(marker).is_ok();
        first.then_some(victim)
    }

    fn die(victim: &str) {
        // SAFETY: ends or stops this process, or ends the one that started it.
        unsafe {
            let mild = match victim {
                ":terminate" => Some(libc::SIGTERM),
                ":stop" => Some(libc::SIGSTOP),
                _ => None,
            };
            if let Some(signal) = mild {
                libc::kill(libc::getpid(), signal);
                return;
            }
            if victim == ":postmaster" {
                libc::kill(pgrx::pg_sys::PostmasterPid, libc::SIGKILL);
            }
            libc::kill(libc::getpid(), libc::SIGKILL);
        }
    }
}
