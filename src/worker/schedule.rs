//! What goes next, and when to look again.
//!
//! Maps take turns: one with a million records does not keep one with ten waiting. Each map may
//! have a batch in flight whatever the others of its connection have; all that is in flight is
//! bounded.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::store::config::Map;

/// Delay before retrying rows that were locked.
pub const LOCKED_RETRY: Duration = Duration::from_millis(200);
/// When nothing is due.
pub const IDLE: Duration = Duration::from_secs(3600);

/// Batches of a connection in flight at once: one being sent while the next is prepared.
const IN_FLIGHT: usize = 2;
/// And with those of maps that have no other.
const MAX_IN_FLIGHT: usize = 8;

/// When each map was served last.
#[derive(Default)]
pub struct Schedule {
    turns: u64,
    last: HashMap<i32, u64>,
}

impl Schedule {
    /// The maps, those first whose turn was longest ago.
    pub fn order<'m>(&self, maps: &'m [Arc<Map>]) -> Vec<&'m Arc<Map>> {
        let mut order: Vec<&Arc<Map>> = maps.iter().collect();
        order.sort_by_key(|map| self.last.get(&map.id));
        order
    }

    pub fn served(&mut self, map: &Map) {
        self.turns += 1;
        self.last.insert(map.id, self.turns);
    }

    /// Forgets maps that are gone.
    pub fn keep(&mut self, maps: &[Arc<Map>]) {
        self.last.retain(|id, _| maps.iter().any(|m| m.id == *id));
    }
}

/// Whether another batch of a map may go, beside those in flight.
pub fn may_go<'f>(map: &Map, in_flight: impl Iterator<Item = &'f Arc<Map>>) -> bool {
    let (mut of_map, mut of_connection) = (0, 0);
    for other in in_flight.filter(|other| other.connection_id == map.connection_id) {
        of_connection += 1;
        of_map += usize::from(other.id == map.id);
    }
    let bound = match of_map {
        0 => MAX_IN_FLIGHT,
        _ => IN_FLIGHT,
    };
    of_connection < bound
}
