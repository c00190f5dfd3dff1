//! Which records are associated, and as what.
//!
//! Guarantees: an association stands in both directions; one with a label has the type without one
//! too; an object has one primary company at most. Records that are archived, purged or merged are
//! sorted out on reading, so nobody needs to tell when they are.

use super::kinds::{Kind, Kinds};
use crate::store::{Object, Store};
use std::collections::{BTreeMap, BTreeSet};

/// A record: the position of its object, and its slot.
pub type End = (usize, u32);

#[derive(Debug)]
pub struct Links {
    pub kinds: Kinds,
    /// Types by record, the other object and the other record.
    held: BTreeMap<(usize, u32, usize), BTreeMap<u32, BTreeSet<u32>>>,
}

impl Links {
    pub fn new(store: &Store) -> Self {
        Self {
            kinds: Kinds::built_in(store),
            held: BTreeMap::new(),
        }
    }

    /// Adds the types of `kinds`, all of them from the first record's object to the other's.
    pub fn put(&mut self, from: End, to: End, kinds: &[Kind]) {
        let plain = self.kinds.plain(from.0, to.0);
        for kind in kinds.iter().chain([&plain]) {
            if kind.primary() {
                self.only(from, to.0, kind);
            }
            self.entry(from, to).insert(kind.id);
            self.entry(to, from).insert(kind.inverse);
        }
    }

    /// Takes a type away from whatever has it.
    fn only(&mut self, from: End, object: usize, kind: &Kind) {
        let Some(others) = self.held.get_mut(&(from.0, from.1, object)) else {
            return;
        };
        let mut freed = Vec::new();
        for (slot, types) in others {
            if types.remove(&kind.id) {
                freed.push(*slot);
            }
        }
        for slot in freed {
            self.entry((object, slot), from).remove(&kind.inverse);
        }
    }

    fn entry(&mut self, from: End, to: End) -> &mut BTreeSet<u32> {
        let others = self.held.entry((from.0, from.1, to.0)).or_default();
        others.entry(to.1).or_default()
    }

    pub fn remove(&mut self, from: End, to: End) {
        for (from, to) in [(from, to), (to, from)] {
            if let Some(others) = self.held.get_mut(&(from.0, from.1, to.0)) {
                others.remove(&to.1);
            }
        }
    }

    /// Takes types away; without the plain one the records are associated no more.
    pub fn remove_kinds(&mut self, from: End, to: End, kinds: &[Kind]) {
        if kinds.iter().any(|kind| kind.plain) {
            return self.remove(from, to);
        }
        for kind in kinds {
            self.entry(from, to).remove(&kind.id);
            self.entry(to, from).remove(&kind.inverse);
        }
    }

    /// No association has this type any more.
    pub fn forget(&mut self, kind: &Kind) {
        for types in self.held.values_mut().flat_map(BTreeMap::values_mut) {
            types.remove(&kind.id);
            types.remove(&kind.inverse);
        }
    }

    /// Live records of `object` that a record is associated with, and the types, by slot.
    pub fn of(&self, store: &Store, from: End, object: usize) -> BTreeMap<u32, BTreeSet<u32>> {
        let record = &store.objects[from.0].records[from.1 as usize];
        let own = std::iter::once(from.1).chain(record.merged.iter().map(|(slot, _)| *slot));
        let mut found: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for slot in own {
            for (to, types) in self.held.get(&(from.0, slot, object)).into_iter().flatten() {
                let to = survivor(&store.objects[object], *to);
                if let Some(to) = to.filter(|to| (object, *to) != from && !types.is_empty()) {
                    found.entry(to).or_default().extend(types);
                }
            }
        }
        found
    }
}

/// The live record that a slot means by now.
fn survivor(object: &Object, slot: u32) -> Option<u32> {
    let slot = object.record(slot)?.master.unwrap_or(slot);
    object.live(slot).map(|_| slot)
}
