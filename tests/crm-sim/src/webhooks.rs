//! Webhooks: posts signed events to an address when records change.
//!
//! Guarantees: every change that is not undone is told, once or (on request) twice, in any order; a
//! post that is not answered with 2xx within 5 s is tried again, ten times in all. Times and
//! signatures are by the CRMs' clock. Requests never wait for posts.

use crate::store::Note;
use crate::vendor::{Sim, Vendor};
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sha2::Sha256;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Events in one post.
const BATCH: usize = 100;
const ATTEMPTS: u32 = 10;
const TIMEOUT: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(10);

/// Where to post, as `POST /webhooks/{vendor}` takes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscription {
    pub url: String,
    pub secret: String,
    /// The address as the vendor knows and signs it, if a proxy stands between.
    #[serde(default)]
    pub signed_url: Option<String>,
    /// Whether to post everything twice.
    #[serde(default)]
    pub duplicate: bool,
}

/// What became of the events so far.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Tally {
    /// Events whose post was answered with 2xx; repeated ones count again.
    pub delivered: u64,
    /// Events given up after the last attempt.
    pub failed: u64,
    /// Events under way.
    pub pending: u64,
    pub posts: u64,
}

#[derive(Debug, Default)]
struct Desk {
    subscription: Option<Subscription>,
    /// Counts subscriptions, so that a task notices that another took its place.
    turn: u64,
    tally: Tally,
}

#[derive(Debug, Default)]
pub struct Hooks {
    desks: Mutex<HashMap<&'static str, Desk>>,
    events: AtomicU64,
}

impl Hooks {
    pub fn show(&self, vendor: &'static str) -> Json {
        let mut desks = self.desks.lock();
        let desk = desks.entry(vendor).or_default();
        let url = desk.subscription.as_ref().map(|s| s.url.clone());
        serde_json::json!({"url": url, "tally": desk.tally})
    }

    pub fn clear(&self, vendor: Option<&str>) {
        for (name, desk) in self.desks.lock().iter_mut() {
            if vendor.is_none_or(|vendor| vendor == *name) {
                desk.subscription = None;
                desk.turn += 1;
                desk.tally = Tally::default();
            }
        }
    }

    fn count(&self, vendor: &'static str, turn: u64, change: impl FnOnce(&mut Tally)) {
        let mut desks = self.desks.lock();
        if let Some(desk) = desks.get_mut(vendor).filter(|desk| desk.turn == turn) {
            change(&mut desk.tally);
        }
    }

    fn current(&self, vendor: &str, turn: u64) -> Option<Subscription> {
        let desks = self.desks.lock();
        let desk = desks.get(vendor).filter(|desk| desk.turn == turn)?;
        desk.subscription.clone()
    }
}

/// Takes the place of an earlier subscription. Changes count from now on.
pub fn subscribe(sim: &Sim, vendor: &Arc<dyn Vendor>, subscription: Subscription) {
    let turn = {
        let mut desks = sim.hooks.desks.lock();
        let desk = desks.entry(vendor.name()).or_default();
        desk.turn += 1;
        desk.tally = Tally::default();
        desk.subscription = Some(subscription);
        desk.turn
    };
    for object in &mut vendor.store().lock().objects {
        object.notes = Some(Vec::new());
    }
    let (hooks, vendor) = (sim.hooks.clone(), vendor.clone());
    tokio::spawn(async move {
        while let Some(subscription) = hooks.current(vendor.name(), turn) {
            for batch in batches(&hooks, vendor.as_ref()) {
                for _ in 0..=u8::from(subscription.duplicate) {
                    let (hooks, vendor) = (hooks.clone(), vendor.clone());
                    let (subscription, batch) = (subscription.clone(), batch.clone());
                    let size = batch.len() as u64;
                    hooks.count(vendor.name(), turn, |tally| tally.pending += size);
                    tokio::task::spawn_blocking(move || {
                        deliver(&hooks, vendor.as_ref(), turn, &subscription, batch);
                    });
                }
            }
            tokio::time::sleep(TICK).await;
        }
    });
}

/// What has changed since the last time, shuffled.
fn batches(hooks: &Hooks, vendor: &dyn Vendor) -> Vec<Vec<Json>> {
    let mut events = Vec::new();
    let mut store = vendor.store().lock();
    for object in &mut store.objects {
        let notes: Vec<Note> = std::mem::take(object.notes.get_or_insert_default());
        for note in &notes {
            let number = || hooks.events.fetch_add(1, Ordering::Relaxed) + 1;
            events.extend(vendor.events(object, note, &number));
        }
    }
    drop(store);
    fastrand::shuffle(&mut events);
    let size = if vendor.one_event_a_post() { 1 } else { BATCH };
    events.chunks(size).map(<[Json]>::to_vec).collect()
}

fn deliver(
    hooks: &Hooks,
    vendor: &dyn Vendor,
    turn: u64,
    subscription: &Subscription,
    mut batch: Vec<Json>,
) {
    let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT));
    let agent = config.build().new_agent();
    let signed_url = subscription.signed_url.as_ref();
    let signed_url = signed_url.unwrap_or(&subscription.url);
    let mut done = false;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(Duration::from_millis((50 << attempt).min(3000)));
            if hooks.current(vendor.name(), turn).is_none() {
                return;
            }
        }
        for event in &mut batch {
            if let Some(number) = event.get_mut("attemptNumber") {
                *number = attempt.into();
            }
            vendor.seal(&subscription.secret, event);
        }
        let body = match (vendor.one_event_a_post(), &batch[..]) {
            (true, [event]) => event.to_string(),
            _ => Json::from(batch.clone()).to_string(),
        };
        let now = vendor.services().clock.now();
        let mut request = agent
            .post(&subscription.url)
            .header("Content-Type", "application/json");
        for (name, value) in vendor.signature(&subscription.secret, signed_url, &body, now) {
            request = request.header(name, value);
        }
        hooks.count(vendor.name(), turn, |tally| tally.posts += 1);
        done = request.send(&body).is_ok();
        if done {
            break;
        }
    }
    let size = batch.len() as u64;
    hooks.count(vendor.name(), turn, |tally| {
        tally.pending -= size;
        match done {
            true => tally.delivered += size,
            false => tally.failed += size,
        }
    });
}

pub fn hmac_sha256(secret: &str, text: &str) -> Vec<u8> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}
