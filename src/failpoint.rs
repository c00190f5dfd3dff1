//! Named points at which a test build kills its process or the postmaster, or stops, once per data
//! directory.
//!
//! `pg_crm.failpoints` names points, separated by commas. `point` kills the process that gets
//! there, as `kill -9` would; `point:postmaster` kills the postmaster, and with it everything;
//! `point:terminate` asks the process to end, `point:stop` stops it until SIGCONT.
//!
//! `point:error:3` raises an error there, inside the transaction, the first three times;
//! `point:error@p2` each time that record p2 is among those at hand. `panic` for `error` is a panic
//! instead, on a thread too. The file of the point has a byte for each time.
//!
//! Each transaction of the worker has a point of its own before its commit, named by its place in
//! the source: `commit@worker/calls/mod.rs:324`. `commits` has the file of that name list those
//! that were reached.

/// Dies here if `pg_crm.failpoints` names this point. Compiles to nothing in a released build.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_point: &str) {}

/// The same where records are at hand, inside a transaction.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach_with<'k>(_point: &str, _keys: impl Iterator<Item = &'k str>) {}

/// The same for the worker's threads, which may not ask Postgres for the setting.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach_on_thread(_point: &str) {}

/// The same where records are at hand.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach_on_thread_with<'k>(_point: &str, _keys: impl Iterator<Item = &'k str>) {}

/// The same before the commit of the transaction that begins there in the source.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach_commit(_place: &std::panic::Location) {}

/// Lets the worker's threads know the setting.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn tell_threads() {}

#[cfg(feature = "failpoints")]
pub use armed::{
    reach, reach_commit, reach_on_thread, reach_on_thread_with, reach_with, tell_threads,
};

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
        reach_with(point, std::iter::empty());
    }

    pub fn reach_with<'k>(point: &str, keys: impl Iterator<Item = &'k str>) {
        let setting = setting();
        if setting.is_empty() {
            return;
        }
        match fault(&setting, point, keys) {
            Some("error") => pgrx::error!("injected at {point}"),
            Some(_) => panic!("injected at {point}"),
            None => {}
        }
        if let Some(victim) = victim(&setting, point) {
            pgrx::log!("pg_crm reached fail point {point}{victim}");
            die(&victim);
        }
    }

    pub fn reach_commit(place: &std::panic::Location) {
        let setting = setting();
        if setting.is_empty() {
            return;
        }
        let file = place.file().trim_start_matches("src/");
        let point = format!("commit@{file}:{}", place.line());
        if setting.split(',').any(|wanted| wanted == "commits") {
            list(&point);
        }
        reach(&point);
    }

    /// Adds a point to those that were reached.
    fn list(point: &str) {
        use std::io::Write;
        let path = "pg_crm.failpoint.commits";
        let known = std::fs::read_to_string(path).unwrap_or_default();
        if !known.lines().any(|line| line == point)
            && let Ok(mut file) = std::fs::File::options()
                .append(true)
                .create(true)
                .open(path)
        {
            let _ = writeln!(file, "{point}");
        }
    }

    /// The file that has a byte for each time that a point had its effect.
    fn marker(point: &str) -> String {
        let name = point.replace("::", ".").replace(['/', '@', ':'], ".");
        format!("pg_crm.failpoint.{name}")
    }

    pub fn reach_on_thread(point: &str) {
        reach_on_thread_with(point, std::iter::empty());
    }

    pub fn reach_on_thread_with<'k>(point: &str, keys: impl Iterator<Item = &'k str>) {
        let setting = KNOWN.lock().expect("no panic under this lock").clone();
        if fault(&setting, point, keys).is_some() {
            panic!("injected at {point}");
        }
        if let Some(victim) = victim(&setting, point) {
            die(&victim);
        }
    }

    /// What is to go wrong here: `error` or `panic`.
    fn fault<'s, 'k>(
        setting: &'s str,
        point: &str,
        mut keys: impl Iterator<Item = &'k str>,
    ) -> Option<&'s str> {
        let what = setting.split(',').map(str::trim).find_map(|wanted| {
            let rest = wanted.strip_prefix(point)?.strip_prefix(':')?;
            (rest.starts_with("error") || rest.starts_with("panic")).then_some(rest)
        })?;
        let (kind, more) = what.split_at(5);
        let marker = marker(point);
        let happens = match more.split_at_checked(1) {
            Some(("@", key)) => keys.any(|k| k == key),
            Some((_, times)) => {
                let so_far = std::fs::metadata(&marker).map_or(0, |m| m.len());
                times.parse().is_ok_and(|times: u64| so_far < times)
            }
            None => true,
        };
        if happens {
            use std::io::Write;
            let mut options = std::fs::OpenOptions::new();
            if let Ok(mut file) = options.append(true).create(true).open(marker) {
                let _ = file.write_all(b".");
            }
        }
        happens.then_some(kind)
    }

    /// Who is to die here, and only once: a process would never get beyond the point otherwise.
    fn victim(setting: &str, point: &str) -> Option<String> {
        let victim = setting.split(',').map(str::trim).find_map(|wanted| {
            let rest = wanted.strip_prefix(point)?;
            let faults = rest.starts_with(":error") || rest.starts_with(":panic");
            (rest.is_empty() || rest.starts_with(':') && !faults).then(|| rest.to_owned())
        })?;
        let marker = marker(point);
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
