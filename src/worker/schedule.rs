//! Whose slice goes next: a map with a million records does not keep one with ten waiting. Maps take turns, and each may have
//! a slice on its way whatever the others of its connection have. What is on its way is bounded all the same.

use std::collections::HashMap;
use std::sync::Arc;

use crate::store::config::Map;

/// Slices of a connection on their way at once: one being sent while the next is prepared.
const ENOUGH: usize = 2;
/// And with those of maps that have no other.
const MOST: usize = 8;

/// When each map was served last.
#[derive(Default)]
pub struct Rota {
    turns: u64,
    last: HashMap<i32, u64>,
}

impl Rota {
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

/// Whether another slice of a map may go, beside those that are on their way.
pub fn may_go<'f>(map: &Map, on_their_way: impl Iterator<Item = &'f Arc<Map>>) -> bool {
    let (mut of_map, mut of_connection) = (0, 0);
    for other in on_their_way.filter(|other| other.connection_id == map.connection_id) {
        of_connection += 1;
        of_map += usize::from(other.id == map.id);
    }
    of_connection < if of_map == 0 { MOST } else { ENOUGH }
}
