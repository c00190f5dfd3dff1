//! A link's request budget as its threads share it: each request waits for its turn and its share, and keeps no permit from
//! more urgent ones meanwhile.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crm_domain::budget::{self, Lane, Refusal, Spent, Teller, Told};
use crm_domain::{ErrorClass, Failure};
use crm_provider::{Settings, Usage};
use tokio::sync::SemaphorePermit;

use super::fair_queue::FairQueue;
use super::permits::Permits;
use super::request_context::RequestContext;
use crate::shared::now_ms;

/// How soon a request looks again that lets more urgent ones go first.
const YIELD: Duration = Duration::from_millis(20);

pub struct Budget {
    budget: Mutex<budget::Budget>,
    /// The count as it was made durable.
    noted: Mutex<Spent>,
    /// Requests that wait, by their lane.
    waiting: [AtomicUsize; Lane::COUNT],
    queue: FairQueue,
}

/// A place in a lane.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Budget {
    pub fn new(settings: &Settings, spent: Spent) -> Self {
        Budget {
            budget: Mutex::new(budget::Budget::new(settings.terms(), spent)),
            noted: Mutex::new(spent),
            waiting: Default::default(),
            queue: FairQueue::default(),
        }
    }

    /// Waits until a request may go; it goes with a permit. That the day's are spent is not waited out.
    pub async fn admit<'p>(
        &self,
        permits: &'p Permits,
        context: &RequestContext,
    ) -> Result<SemaphorePermit<'p>, Failure> {
        let lane = context.lane;
        let _turn = self.queue.take(context).await;
        let mut place = None;
        loop {
            let permit = permits.get(lane).await;
            let wait = match self.take(lane) {
                Ok(()) => return Ok(permit),
                Err(Refusal::Wait(ms)) => Duration::from_millis(ms as u64),
                Err(Refusal::DaySpent(ms)) => return Err(spent(Duration::from_millis(ms as u64))),
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

    fn take(&self, lane: Lane) -> Result<(), Refusal> {
        if self.is_preceded(lane) {
            return Err(Refusal::Wait(0));
        }
        self.lock().take(now_ms(), lane)
    }

    fn lock(&self) -> MutexGuard<'_, budget::Budget> {
        self.budget.lock().expect("no panic under this lock")
    }

    /// What the admin leaves of the day.
    pub fn day(&self) -> Option<Told> {
        self.lock().day(now_ms())
    }

    /// The day's count, if it is bounded and has changed since the last call.
    pub fn take_spent(&self) -> Option<Spent> {
        let budget = self.lock();
        budget.day(now_ms())?;
        let mut noted = self.noted.lock().expect("no panic under this lock");
        let spent = budget.spent();
        (std::mem::replace(&mut *noted, spent) != spent).then_some(spent)
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
        self.lock()
            .told_window(teller, told, length.as_millis() as i64);
    }
}

fn spent(wait: Duration) -> Failure {
    let why = "the day's requests, which daily_limit bounds, are spent until midnight UTC";
    Failure::connection(ErrorClass::RateLimited, "daily_limit", why).after(Some(wait))
}
