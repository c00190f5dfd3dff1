//! The steps of bulk work: how many records each takes. Between two of them, callers are served.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crm_domain::step_size::{BUSY, CALM, StepSize};

use super::step_backoff::{Owner, Step};

/// How long after a call the next one is expected.
const ABOUT: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Steps {
    sizes: HashMap<(Owner, Step), StepSize>,
    /// When a call was last seen.
    called_at: Option<Instant>,
}

impl Steps {
    /// A call came, or is in flight.
    pub fn note_call(&mut self) {
        self.called_at = Some(Instant::now());
    }

    /// How many of `most` records the next step of this kind takes.
    pub fn room(&self, owner: Owner, step: Step, most: usize) -> usize {
        let is_busy = self.called_at.is_some_and(|at| at.elapsed() < ABOUT);
        let target = if is_busy { BUSY } else { CALM };
        let size = self.sizes.get(&(owner, step)).copied().unwrap_or_default();
        size.records(target, most)
    }

    /// Notes a step that began then.
    pub fn note(&mut self, owner: Owner, step: Step, records: usize, began: Instant) {
        let size = self.sizes.entry((owner, step)).or_default();
        size.note(records, began.elapsed());
    }

    /// Forgets what is gone.
    pub fn keep(&mut self, known: impl Fn(Owner) -> bool) {
        self.sizes.retain(|(owner, _), _| known(*owner));
    }
}
