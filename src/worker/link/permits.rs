//! How many requests of a link are in flight at once.

use crm_domain::budget::Priority;
use crm_provider::Settings;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::http::IN_FLIGHT;

/// Requests that a person waits for are not queued behind those of a batch.
pub struct Permits {
    batch: Semaphore,
    real_time: Semaphore,
}

impl Permits {
    pub fn new(settings: &Settings) -> Self {
        Permits {
            batch: Semaphore::new(settings.in_flight()),
            // Vendors bound rates and long requests, not short ones at once.
            real_time: Semaphore::new(IN_FLIGHT),
        }
    }

    pub async fn get(&self, priority: Priority) -> SemaphorePermit<'_> {
        let permits = match priority {
            Priority::RealTime => &self.real_time,
            _ => &self.batch,
        };
        permits
            .acquire()
            .await
            .expect("the semaphore is never closed")
    }
}
