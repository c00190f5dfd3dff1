//! A link's request budget as its threads share it: each request waits for its turn and its share,
//! and keeps no permit from more urgent ones meanwhile.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crm_domain::budget::{self, Priority, Refusal, Reported, Source, Used};
use crm_domain::{ErrorClass, Failure};
use crm_provider::{Settings, Usage};
use tokio::sync::SemaphorePermit;

use super::fair_queue::FairQueue;
use super::permits::Permits;
use super::request_context::RequestContext;
use crate::shared::now_ms;

/// Delay before a request that lets more urgent ones go first tries again.
const YIELD: Duration = Duration::from_millis(20);

pub struct Budget {
    budget: Mutex<budget::Budget>,
    /// The count as it was made durable.
    noted: Mutex<Used>,
    /// Requests that wait, by priority.
    waiting: [AtomicUsize; Priority::COUNT],
    queue: FairQueue,
}

/// A request that waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Budget {
    pub fn new(settings: &Settings, used: Used) -> Self {
        Budget {
            budget: Mutex::new(budget::Budget::new(settings.limits(), used)),
            noted: Mutex::new(used),
            waiting: Default::default(),
            queue: FairQueue::default(),
        }
    }

    /// Waits until a request may go; it goes with a permit. That the day's are spent is not waited
    /// out.
    pub async fn admit<'p>(
        &self,
        permits: &'p Permits,
        context: &RequestContext,
    ) -> Result<SemaphorePermit<'p>, Failure> {
        let priority = context.priority;
        let _turn = self.queue.take(context).await;
        let mut place = None;
        loop {
            let permit = permits.get(priority).await;
            let wait = match self.take(priority) {
                Ok(()) => return Ok(permit),
                Err(Refusal::Wait(ms)) => Duration::from_millis(ms as u64),
                Err(Refusal::DayUsedUp(ms)) => return Err(spent(Duration::from_millis(ms as u64))),
            };
            drop(permit);
            place.get_or_insert_with(|| {
                let waiting = &self.waiting[priority as usize];
                waiting.fetch_add(1, SeqCst);
                Waiting(waiting)
            });
            tokio::time::sleep(wait.max(YIELD)).await;
        }
    }

    fn take(&self, priority: Priority) -> Result<(), Refusal> {
        if self.is_preceded(priority) {
            return Err(Refusal::Wait(0));
        }
        self.lock().acquire(now_ms(), priority)
    }

    fn lock(&self) -> MutexGuard<'_, budget::Budget> {
        self.budget.lock().expect("no panic under this lock")
    }

    /// What the admin leaves of the day.
    pub fn day(&self) -> Option<Reported> {
        self.lock().day(now_ms())
    }

    /// The day's count, if it is bounded and has changed since the last call.
    pub fn take_used(&self) -> Option<Used> {
        let budget = self.lock();
        budget.day(now_ms())?;
        let mut noted = self.noted.lock().expect("no panic under this lock");
        let used = budget.used();
        (std::mem::replace(&mut *noted, used) != used).then_some(used)
    }

    fn is_preceded(&self, priority: Priority) -> bool {
        let before = &self.waiting[..priority as usize];
        before.iter().any(|waiting| waiting.load(SeqCst) > 0)
    }

    /// What a response reported of a short window.
    pub fn note(&self, source: Source, usage: &Usage) {
        let Some((remaining, length)) = usage.window_remaining.zip(usage.window) else {
            return;
        };
        let reported = Reported {
            remaining,
            limit: usage.window_limit,
            at: now_ms(),
        };
        self.lock()
            .report_window(source, reported, length.as_millis() as i64);
    }
}

fn spent(wait: Duration) -> Failure {
    let why = "the day's requests, which daily_limit bounds, are spent until midnight UTC";
    Failure::connection(ErrorClass::RateLimited, "daily_limit", why).after(Some(wait))
}
