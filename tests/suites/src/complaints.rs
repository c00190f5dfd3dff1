//! What the launcher and the workers complain of in the server's log. Often nothing else shows
//! it: a step that fails is tried again later.
//!
//! So what no scenario says that it provokes fails the test whose cluster it is, or the process at
//! its end, where a `static` holds the cluster. A worker's lines do not tell its database: what one
//! scenario of such a cluster provokes is forgiven to all of them.

use std::sync::{Arc, Mutex, PoisonError};

/// The severities that somebody should look at.
const SEVERITIES: [&str; 4] = ["WARNING:", "ERROR:", "FATAL:", "PANIC:"];

/// What scenarios of all kinds provoke: errors that they inject at fail points, and tables without
/// triggers, which they disable, or find in a half restored dump, while the worker may look.
const EVERYWHERE: [&str; 2] = [": injected at ", " are not captured: "];

/// Words of the complaints that the scenarios of one cluster provoke.
#[derive(Clone, Default)]
pub struct Provoked(Arc<Mutex<Vec<String>>>);

impl Provoked {
    pub fn add(&self, words: &str) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.push(words.to_owned());
    }

    /// The complaints of a log that nobody provoked.
    pub fn leaves(&self, log: &str) -> String {
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let named = list.iter().map(String::as_str);
        let provoked: Vec<&str> = named.chain(EVERYWHERE).collect();
        let is_provoked = |line: &&str| provoked.iter().any(|words| line.contains(words));
        let complaints = log.lines().filter(|line| is_complaint(line));
        complaints
            .filter(|line| !is_provoked(line))
            .map(|line| format!("{line}\n"))
            .collect()
    }
}

/// Of a line that begins as `log_line_prefix` has it: the time, `[PID]`, who, and a database or
/// none.
fn is_complaint(line: &str) -> bool {
    let Some((_, rest)) = line.split_once("] ") else {
        return false;
    };
    if rest.starts_with("postmaster") {
        // Scenarios kill by SIGKILL.
        return rest.contains("was terminated by signal") && !rest.contains("signal 9:");
    }
    let said = rest
        .strip_prefix("pg_crm ")
        .and_then(|r| r.split_once(": "));
    said.is_some_and(|(_, said)| {
        let is_severe = SEVERITIES.iter().any(|s| said.starts_with(s));
        is_severe && !is_ordinary_end(said)
    })
}

/// A worker was told to end, or its database was dropped before it was there.
fn is_ordinary_end(said: &str) -> bool {
    let Some(said) = said.strip_prefix("FATAL:  ") else {
        return false;
    };
    said.contains("due to administrator command")
        || said.starts_with("database ") && said.ends_with("does not exist")
}
