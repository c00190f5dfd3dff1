//! Rounds: a map's changes are sent together, a `write_interval` apart, or as soon as a backend
//! waits for them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crm_domain::Path;
use serde_json::json;

use crate::failpoint;
use crate::store::config::{Connection, Map};
use crate::store::fuse::{self, Direction};
use crate::store::map_state::{self, Round};
use crate::store::{StoreError, notify, transaction};
use crate::worker::context::Context;
use crate::worker::notification;
use crate::worker::schedule::IDLE;
use crate::worker::step_backoff::{Owner, Step};
use crate::worker::waiters::Flushes;

/// How long a round waits, with what a fuse counts, for many changes to be folded.
const YOUNG: Duration = Duration::from_secs(60);

pub struct Rounds {
    /// Maps with an open round.
    open: HashMap<i32, Instant>,
    /// Maps whose edits are to go at once, but could not yet.
    due_at_once: HashSet<i32>,
    /// Edits of bidirectional cells were committed.
    urgent: bool,
}

impl Rounds {
    pub fn new() -> Self {
        Rounds {
            open: HashMap::new(),
            due_at_once: HashSet::new(),
            // What was committed while there was no worker wakes nobody again.
            urgent: true,
        }
    }

    /// The maps with bidirectional cells are due at once.
    pub fn hurry(&mut self) {
        self.urgent = true;
    }

    pub fn is_open(&self, map: &Map) -> bool {
        self.open.contains_key(&map.id)
    }

    /// Whether the round began a short while ago.
    pub fn is_young(&self, map: &Map) -> bool {
        let begun = self.open.get(&map.id);
        begun.is_some_and(|begun| begun.elapsed() < YOUNG)
    }

    pub fn any(&self) -> bool {
        !self.open.is_empty()
    }

    /// Opens the rounds that are due; returns when to try again.
    pub fn begin_due(&mut self, cx: &mut Context, flushes: &Flushes) -> Duration {
        let maps = cx.maps.clone();
        if std::mem::take(&mut self.urgent) {
            let realtime = maps.iter().filter(|m| m.realtime);
            self.due_at_once.extend(realtime.map(|m| m.id));
        }
        let is_known = |id: &i32| maps.iter().any(|m| m.id == *id);
        self.open.retain(|id, _| is_known(id));
        self.due_at_once.retain(is_known);
        let mut next = IDLE;
        for map in maps.iter() {
            let due = map.next_write_ms <= 0
                || self.due_at_once.contains(&map.id)
                || flushes.cover(map.id);
            if !due || cx.connections.is_stopped(map) {
                continue;
            }
            if self.is_open(map) {
                self.due_at_once.remove(&map.id);
                continue;
            }
            let owner = Owner::Map(map.id);
            next = next.min(
                cx.backoff
                    .attempt(owner, Step::Round, || self.begin(map).map(|()| IDLE)),
            );
        }
        next
    }

    fn begin(&mut self, map: &Map) -> Result<(), StoreError> {
        transaction(|client| {
            failpoint::reach("round::begin");
            map_state::begin(client, map.id)
        })?;
        self.due_at_once.remove(&map.id);
        self.open.insert(map.id, Instant::now());
        Ok(())
    }

    pub fn end(&mut self, connection: &Connection, map: &Map) -> Result<(), StoreError> {
        transaction(|client| {
            failpoint::reach("round::end");
            let ended = map_state::end(client, map.id)?;
            fuse::end(client, map.id, Direction::Outbound)?;
            let event = ended.map(|round| ended_event(connection, map, &round));
            notify::notify(client, event.into_iter().collect())
        })?;
        self.open.remove(&map.id);
        Ok(())
    }

    /// The map was stopped: its round goes on when it works again.
    pub fn suspend(&mut self, map: &Arc<Map>) {
        if self.open.remove(&map.id).is_some() && map.realtime {
            self.due_at_once.insert(map.id);
        }
    }
}

/// All of the round has gone: what comes now is counted anew.
pub fn forget_counts(map: &Map) -> Result<(), StoreError> {
    transaction(|client| fuse::end(client, map.id, Direction::Outbound))
}

/// The event of a round whose first records are claimed.
pub fn started(connection: &Connection, map: &Map, id: Option<&str>) -> String {
    notification::summary(
        "sync_started",
        connection,
        map,
        (Path::Batch, id),
        json!({}),
    )
}

/// The event of a round that ended: it failed if the CRM accepted none of its records.
fn ended_event(connection: &Connection, map: &Map, round: &Round) -> String {
    let name = match round.written == 0 && round.failed > 0 {
        true => "sync_failed",
        false => "sync_completed",
    };
    let counts = json!({
        "records": round.records,
        "written": round.written,
        "failed": round.failed,
    });
    let path = (Path::Batch, round.id.as_deref());
    notification::summary(name, connection, map, path, counts)
}
