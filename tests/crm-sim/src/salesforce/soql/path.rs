//! A field of a record or of one that it refers to: `Name`, `Account.Name`, `Account.Parent.Name`.
//!
//! Guarantees: what a path leads to is known before any record is looked at; a reference that is
//! empty, or whose record is gone, makes everything behind it empty.

use super::super::error::SfError;
use super::super::{org, reference};
use super::unknown;
use crate::schema::Field;
use crate::store::Store;
use crate::value::{Kind, Value};
use std::borrow::Cow;

/// How many references a path may follow.
const MAX_HOPS: usize = 5;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// References to follow, with the name of each and the object that it leads to.
    pub via: Vec<Hop>,
    /// The object at the end.
    pub object: usize,
    pub at: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    pub name: String,
    pub at: u16,
    pub object: usize,
}

impl Path {
    pub fn resolve(store: &Store, object: usize, name: &str) -> Result<Self, SfError> {
        let mut parts: Vec<&str> = name.split('.').collect();
        let last = parts.pop().unwrap_or_default();
        // The object itself may stand in front.
        let own = &store.objects[object].def.name;
        if parts
            .first()
            .is_some_and(|first| first.eq_ignore_ascii_case(own))
            && relation(store, object, parts[0]).is_none()
        {
            parts.remove(0);
        }
        let mut via = Vec::new();
        let mut here = object;
        for part in parts {
            let hop = relation(store, here, part).filter(|_| via.len() < MAX_HOPS);
            let hop = hop.ok_or_else(|| unknown(&store.objects[here], name))?;
            here = hop.object;
            via.push(hop);
        }
        let found = store.objects[here].def.field(last);
        let (at, _) = found.ok_or_else(|| unknown(&store.objects[here], last))?;
        Ok(Self {
            via,
            object: here,
            at,
        })
    }

    pub fn field<'a>(&self, store: &'a Store) -> &'a Field {
        &store.objects[self.object].def.fields[self.at as usize]
    }

    pub fn own(&self) -> bool {
        self.via.is_empty()
    }

    pub fn read<'a>(&self, store: &'a Store, object: usize, slot: u32) -> Option<Cow<'a, Value>> {
        let (mut object, mut slot) = (object, slot);
        for hop in &self.via {
            slot = hop.follow(store, object, slot)?;
            object = hop.object;
        }
        org::read(&store.objects[object], slot, self.at)
    }
}

impl Hop {
    /// The live record that a record refers to.
    pub fn follow(&self, store: &Store, object: usize, slot: u32) -> Option<u32> {
        let id = org::read(&store.objects[object], slot, self.at)?;
        org::live_slot(&store.objects[self.object], id.as_text()?)
    }
}

fn relation(store: &Store, object: usize, name: &str) -> Option<Hop> {
    let def = &store.objects[object].def;
    let (at, field) = def.field(&reference::column(name))?;
    if field.kind != Kind::Reference {
        return None;
    }
    let mut targets = field.spec.references.iter();
    let object = targets.find_map(|to| store.position(to))?;
    let name = reference::relation(field.name())?;
    Some(Hop { name, at, object })
}
