//! A link's request budget as its threads share it: each request waits for its turn and its share, and keeps no permit from
//! more urgent ones meanwhile.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crm_domain::budget::{self, Lane, Teller, Told};
use crm_provider::{Settings, Usage};
use tokio::sync::SemaphorePermit;

use super::Errand;
use super::permits::Permits;
use super::turns::Turns;
use crate::shared::now_ms;

/// How soon a request looks again that lets more urgent ones go first.
const YIELD: Duration = Duration::from_millis(20);

pub struct Budget {
    budget: Mutex<budget::Budget>,
    /// Requests that wait, by their lane.
    waiting: [AtomicUsize; Lane::COUNT],
    turns: Turns,
}

/// A place in a lane.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Budget {
    pub fn new(settings: &Settings) -> Self {
        Budget {
            budget: Mutex::new(budget::Budget::new(settings.terms())),
            waiting: Default::default(),
            turns: Turns::default(),
        }
    }

    /// Waits until a request may go; it goes with a permit.
    pub async fn admit<'p>(&self, permits: &'p Permits, errand: &Errand) -> SemaphorePermit<'p> {
        let lane = errand.lane;
        let _turn = self.turns.take(errand).await;
        let mut place = None;
        loop {
            let permit = permits.get(lane).await;
            let Err(wait) = self.take(lane) else {
                return permit;
            };
            drop(permit);
            place.get_or_insert_with(|| {
                let waiting = &self.waiting[lane as usize];
                waiting.fetch_add(1, SeqCst);
                Waiting(waiting)
            });
            tokio::time::sleep(wait.max(YIELD)).await;
        }
    }

    fn take(&self, lane: Lane) -> Result<(), Duration> {
        if self.is_preceded(lane) {
            return Err(YIELD);
        }
        let mut budget = self.budget.lock().expect("no panic under this lock");
        let taken = budget.take(now_ms(), lane);
        taken.map_err(|ms| Duration::from_millis(ms as u64))
    }

    fn is_preceded(&self, lane: Lane) -> bool {
        let before = &self.waiting[..lane as usize];
        before.iter().any(|waiting| waiting.load(SeqCst) > 0)
    }

    /// What an answer told of a short window.
    pub fn note(&self, teller: Teller, usage: &Usage) {
        let Some((remaining, length)) = usage.window_remaining.zip(usage.window) else {
            return;
        };
        let told = Told {
            remaining,
            limit: usage.window_limit,
            at: now_ms(),
        };
        let mut budget = self.budget.lock().expect("no panic under this lock");
        budget.told_window(teller, told, length.as_millis() as i64);
    }
}
