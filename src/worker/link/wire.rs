//! What a link and its token source send over: the transport, the secrets that no text may show,
//! and the link's health.

use std::sync::{Mutex, MutexGuard};

use crm_domain::Failure;
use crm_provider::Secrets;

use super::health::LinkHealth;
use super::transport::Transport;

pub struct Wire {
    pub transport: Transport,
    pub health: LinkHealth,
    secrets: Mutex<Secrets>,
}

impl Wire {
    pub fn new(transport: Transport, secrets: Secrets) -> Self {
        Wire {
            transport,
            health: LinkHealth::default(),
            secrets: Mutex::new(secrets),
        }
    }

    pub fn secrets(&self) -> MutexGuard<'_, Secrets> {
        self.secrets.lock().expect("no panic under this lock")
    }

    /// Remembers a failure that concerns the whole connection. Returns it without secrets.
    pub fn note(&self, mut failure: Failure) -> Failure {
        self.secrets().mask_failure(&mut failure);
        self.health.note(failure)
    }
}
