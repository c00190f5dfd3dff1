//! Side information in responses: outages, remaining request budgets, clock skew.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use crm_domain::Failure;
use crm_domain::budget::Source;
use crm_domain::failure::Scope;
use crm_provider::{Response, Usage, UsageReport};

#[derive(Default)]
pub struct LinkHealth {
    outage: Mutex<Option<Failure>>,
    report: Mutex<UsageReport>,
    /// How far the CRM's clock is ahead of ours, in ms, by its last response.
    clock_offset_ms: AtomicI64,
}

impl LinkHealth {
    /// Remembers a failure that concerns the whole connection, the first until it is taken.
    pub fn note(&self, failure: Failure) -> Failure {
        if failure.scope == Scope::Connection {
            self.outage
                .lock()
                .expect("no panic under this lock")
                .get_or_insert(failure.clone());
        }
        failure
    }

    pub fn outage(&self) -> Option<Failure> {
        self.outage
            .lock()
            .expect("no panic under this lock")
            .clone()
    }

    pub fn take_outage(&self) -> Option<Failure> {
        self.outage.lock().expect("no panic under this lock").take()
    }

    pub fn note_usage(&self, source: Source, usage: Usage) {
        if usage != Usage::default() {
            let mut report = self.report.lock().expect("no panic under this lock");
            match source {
                Source::Crm => report.crm = usage,
                Source::Broker => report.broker = usage,
            }
        }
    }

    pub fn take_usage_report(&self) -> UsageReport {
        std::mem::take(&mut *self.report.lock().expect("no panic under this lock"))
    }

    /// A response carries the CRM's time, in whole seconds.
    pub fn note_clock(&self, response: &Response) {
        if let Some(theirs) = response.date() {
            let offset = theirs + 500 - crate::shared::now_ms();
            // Less than the second that the header cuts off is no offset.
            let offset = if offset.abs() <= 1500 { 0 } else { offset };
            self.clock_offset_ms.store(offset, Ordering::Relaxed);
        }
    }

    pub fn clock_offset_ms(&self) -> i64 {
        self.clock_offset_ms.load(Ordering::Relaxed)
    }
}
