//! What components are lent for a turn or an event.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::connections::Connections;
use super::schedule::Schedule;
use super::step_backoff::StepBackoff;
use super::steps::Steps;
use crate::settings::Settings;
use crate::store::config::Map;

/// Serves callers between two steps of bulk work; the main loop passes it to components.
pub type Between<'a> = &'a mut dyn FnMut(&mut Context);

pub struct Context {
    pub settings: Settings,
    /// The threads.
    pub runtime: Handle,
    /// As the last turn read them.
    pub maps: Arc<[Arc<Map>]>,
    pub connections: Connections,
    pub schedule: Schedule,
    pub backoff: StepBackoff,
    pub steps: Steps,
    /// When maintenance is due.
    pub maintenance_at: Instant,
}

impl Context {
    pub fn new(runtime: Handle, connections: Connections) -> Self {
        Context {
            settings: Settings::current(),
            runtime,
            maps: Arc::new([]),
            connections,
            schedule: Schedule::default(),
            backoff: StepBackoff::default(),
            steps: Steps::default(),
            maintenance_at: Instant::now(),
        }
    }

    /// Keeps one link per connection; returns when to try again.
    pub fn connect(&mut self) -> Duration {
        self.connections.connect(&self.settings, &mut self.backoff)
    }

    /// A claim could not be released: the next maintenance finds it, and comes soon.
    pub fn release_lost_claims_soon(&mut self) {
        let soon = Instant::now() + Duration::from_secs(1);
        self.maintenance_at = self.maintenance_at.min(soon);
    }
}
