//! Types of associations: those that HubSpot defines, and the portal's own labels.
//!
//! Guarantees: a type belongs to one pair of objects in one direction and has an inverse; every
//! pair has one type without a label, made when it is first asked for.

use crate::store::Store;
use serde_json::{Value as Json, json};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    pub from: usize,
    pub to: usize,
    pub id: u32,
    pub inverse: u32,
    pub category: Category,
    pub label: Option<String>,
    /// The one without a label.
    pub plain: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    HubSpot,
    User,
}

impl Category {
    pub fn name(self) -> &'static str {
        match self {
            Self::HubSpot => "HUBSPOT_DEFINED",
            Self::User => "USER_DEFINED",
        }
    }
}

impl Kind {
    pub fn primary(&self) -> bool {
        self.label.as_deref() == Some("Primary") && matches!(self.id, 1 | 5)
    }

    pub fn shown(&self) -> Json {
        json!({"category": self.category.name(), "typeId": self.id, "label": self.label})
    }
}

/// From, to, type and inverse type without a label, and of the primary company.
type BuiltIn = (&'static str, &'static str, (u32, u32), Option<(u32, u32)>);

const BUILT_IN: [BuiltIn; 6] = [
    ("contacts", "companies", (279, 280), Some((1, 2))),
    ("deals", "companies", (341, 342), Some((5, 6))),
    ("deals", "contacts", (3, 4), None),
    ("contacts", "contacts", (449, 449), None),
    ("companies", "companies", (450, 450), None),
    ("deals", "deals", (451, 451), None),
];

#[derive(Debug)]
pub struct Kinds {
    all: Vec<Kind>,
    /// The last id that a type of the portal's own was given.
    last: u32,
}

impl Kinds {
    pub fn built_in(store: &Store) -> Self {
        let mut kinds = Self {
            all: Vec::new(),
            last: 999,
        };
        for (from, to, plain, primary) in BUILT_IN {
            let (Some(from), Some(to)) = (store.position(from), store.position(to)) else {
                continue;
            };
            kinds.pair((from, to), plain, Category::HubSpot, [None, None]);
            if let Some(primary) = primary {
                let labels = [Some("Primary".to_owned()), Some("Primary".to_owned())];
                kinds.pair((from, to), primary, Category::HubSpot, labels);
            }
        }
        kinds
    }

    fn pair(
        &mut self,
        (from, to): (usize, usize),
        (id, inverse): (u32, u32),
        category: Category,
        [label, back]: [Option<String>; 2],
    ) {
        let plain = label.is_none() && back.is_none();
        let kind = Kind {
            from,
            to,
            id,
            inverse,
            category,
            label,
            plain,
        };
        if id != inverse {
            self.all.push(Kind {
                from: to,
                to: from,
                id: inverse,
                inverse: id,
                label: back,
                ..kind.clone()
            });
        }
        self.all.push(kind);
    }

    /// A new label, in both directions.
    pub fn label(&mut self, from: usize, to: usize, labels: [Option<String>; 2]) -> u32 {
        let id = self.last + 1;
        let inverse = match from == to && labels[1].is_none() {
            true => id,
            false => id + 1,
        };
        self.last = inverse;
        self.pair((from, to), (id, inverse), Category::User, labels);
        id
    }

    /// The type without a label.
    pub fn plain(&mut self, from: usize, to: usize) -> Kind {
        let held = |kind: &&Kind| (kind.from, kind.to, kind.plain) == (from, to, true);
        if let Some(kind) = self.all.iter().find(held) {
            return kind.clone();
        }
        let (id, inverse) = (self.last + 1, self.last + 2 - u32::from(from == to));
        self.last = inverse;
        self.pair((from, to), (id, inverse), Category::User, [None, None]);
        self.plain(from, to)
    }

    pub fn get(&self, from: usize, id: u32) -> Option<&Kind> {
        let mut all = self.all.iter();
        all.find(|kind| kind.from == from && kind.id == id)
    }

    pub fn between(&self, from: usize, to: usize) -> impl Iterator<Item = &Kind> {
        let all = self.all.iter();
        all.filter(move |kind| (kind.from, kind.to) == (from, to))
    }

    pub fn relabel(&mut self, id: u32, inverse: u32, labels: [Option<String>; 2]) {
        let [label, back] = labels;
        for kind in &mut self.all {
            if kind.id == id {
                kind.label = label.clone().or(kind.label.take());
            } else if kind.id == inverse {
                kind.label = back.clone().or(kind.label.take());
            }
        }
    }

    pub fn remove(&mut self, id: u32, inverse: u32) {
        self.all.retain(|kind| kind.id != id && kind.id != inverse);
    }
}
