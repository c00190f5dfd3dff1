//! Tables that were altered unnoticed are found in a turn, which a capture trigger that refuses to work brings about.
//! Looking costs the worker a hundredth of its time at most, however many maps there are.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pgrx::prelude::*;

use super::main_loop::Worker;
use crate::store::capture::follow;
use crate::store::rights;
use crate::store::{StoreError, transaction};

/// As often as that at most.
const OFTEN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(60);

pub struct Following {
    looked_at: Option<Instant>,
    every: Duration,
    /// Why a map could not be followed when that was last said.
    told: HashMap<i32, String>,
    /// Maps whose edits are not captured, and why, as last logged.
    uncaptured: HashMap<i32, String>,
}

impl Default for Following {
    fn default() -> Self {
        Following {
            looked_at: None,
            every: OFTEN,
            told: HashMap::new(),
            uncaptured: HashMap::new(),
        }
    }
}

impl Following {
    /// Logs maps whose edits are not captured: once when that begins, when its reason changes, and when it ends.
    fn tell_of(&mut self, uncaptured: Vec<(i32, String, String)>) {
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
}

impl Worker {
    /// Follows what is to be followed; returns when to look again although nobody asks.
    pub fn follow_tables(&mut self) -> Result<Duration, StoreError> {
        let following = &mut self.following;
        if let Some(before) = following.looked_at
            && before.elapsed() < following.every
        {
            // This turn may be about a change that was not looked at.
            return Ok(following.every - before.elapsed());
        }
        let start = Instant::now();
        let (due, uncaptured) = transaction(|client| {
            if rights::extension_exists() {
                Ok((follow::due(client)?, follow::uncaptured(client)?))
            } else {
                Ok((Vec::new(), Vec::new()))
            }
        })?;
        following.tell_of(uncaptured);
        following.every = (start.elapsed() * 100).clamp(OFTEN, SELDOM);
        following.looked_at = Some(Instant::now());
        following.told.retain(|map, _| due.contains(map));
        let mut again = Duration::MAX;
        for map in due {
            let Err(error) = follow::follow(map) else {
                continue;
            };
            again = following.every;
            let why = error.message();
            if following.told.get(&map) != Some(&why) {
                log!("pg_crm cannot follow the table of map {map} yet: {error}");
                // Whoever holds the table may hold what that needs, too.
                if follow::later(map, &why).is_ok() {
                    following.told.insert(map, why);
                }
            }
        }
        Ok(again)
    }
}
