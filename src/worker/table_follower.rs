//! Follows tables that were altered without an event trigger noticing: a capture trigger that
//! refuses to work wakes the worker for it. Looking for them costs the worker a hundredth of its
//! time at most, however many maps there are.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pgrx::prelude::*;

use super::context::Context;
use super::step_backoff::{Owner, Step};
use crate::store::capture::follow;
use crate::store::rights;
use crate::store::{StoreError, transaction};

/// As often as that at most.
const OFTEN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(60);

pub struct TableFollower {
    looked_at: Option<Instant>,
    every: Duration,
    /// Why a map could not be followed, as last logged.
    reported: HashMap<i32, String>,
    /// Maps whose edits are not captured, and why, as last logged.
    uncaptured: HashMap<i32, String>,
}

impl Default for TableFollower {
    fn default() -> Self {
        TableFollower {
            looked_at: None,
            every: OFTEN,
            reported: HashMap::new(),
            uncaptured: HashMap::new(),
        }
    }
}

impl TableFollower {
    /// Logs maps whose edits are not captured: once when that begins, when its reason changes, and
    /// when it ends.
    fn log_uncaptured(&mut self, uncaptured: Vec<(i32, String, String)>) {
        for map in self.uncaptured.keys() {
            if !uncaptured.iter().any(|(id, _, _)| id == map) {
                log!("pg_crm: edits of the table of map {map} are captured again");
            }
        }
        for (map, table, why) in &uncaptured {
            if self.uncaptured.get(map) != Some(why) {
                warning!("pg_crm: edits of {table} are not captured: {why}");
            }
        }
        let known = uncaptured.into_iter().map(|(map, _, why)| (map, why));
        self.uncaptured = known.collect();
    }

    /// Follows altered tables; returns when to look again although nobody asks.
    pub fn turn(&mut self, cx: &mut Context) -> Duration {
        cx.backoff
            .attempt(Owner::Worker, Step::Follow, || self.follow())
    }

    fn follow(&mut self) -> Result<Duration, StoreError> {
        if let Some(before) = self.looked_at
            && before.elapsed() < self.every
        {
            // This turn may be about a change that has not been looked at.
            return Ok(self.every - before.elapsed());
        }
        let start = Instant::now();
        let (due, uncaptured) = transaction(|client| {
            if rights::extension_exists() {
                Ok((follow::due(client)?, follow::uncaptured(client)?))
            } else {
                Ok((Vec::new(), Vec::new()))
            }
        })?;
        self.log_uncaptured(uncaptured);
        self.every = (start.elapsed() * 100).clamp(OFTEN, SELDOM);
        self.looked_at = Some(Instant::now());
        self.reported.retain(|map, _| due.contains(map));
        let mut again = Duration::MAX;
        for map in due {
            let Err(error) = follow::follow(map) else {
                continue;
            };
            again = self.every;
            let why = error.message();
            if self.reported.get(&map) != Some(&why) {
                log!("pg_crm cannot follow the table of map {map} yet: {error}");
                // A session that has locked the table may have locked what that needs, too.
                if follow::later(map, &why).is_ok() {
                    self.reported.insert(map, why);
                }
            }
        }
        Ok(again)
    }
}
