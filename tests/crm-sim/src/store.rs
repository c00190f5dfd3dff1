//! The records of one CRM.
//!
//! Guarantees: a slot once given to a record is never given to another; unique fields hold each
//! value once among live records; every change raises the version and moves the modified time;
//! indexes agree with the records after every call, failed ones included.

pub use crate::record::{Actor, Change, Event, Life, Note, Past, Record, Stamp};
use crate::schema::{ObjectDef, ObjectSpec, SchemaError, Source};
use crate::value::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A value that another live record holds already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub field: u16,
    pub by: u32,
}

/// Slots by the text of a field.
type Index = HashMap<Box<str>, Vec<u32>>;

#[derive(Debug, Clone)]
pub struct Object {
    pub def: ObjectDef,
    pub records: Vec<Record>,
    indexes: Vec<(u16, Index)>,
    /// Records by modified time, for polling in order: the live ones, and the deleted ones.
    live_times: BTreeSet<(i64, u32)>,
    deleted_times: BTreeSet<(i64, u32)>,
    history: bool,
    /// Counts changes.
    turn: u64,
    /// Changes that nobody has been told of yet; `None` if nobody wants to know.
    pub notes: Option<Vec<Note>>,
}

impl Object {
    pub fn new(def: ObjectDef, history: bool) -> Self {
        let mut object = Self {
            def,
            records: Vec::new(),
            indexes: Vec::new(),
            live_times: BTreeSet::new(),
            deleted_times: BTreeSet::new(),
            history,
            turn: 0,
            notes: None,
        };
        object.reindex();
        object
    }

    /// Brings the indexes in line with a changed definition.
    pub fn reindex(&mut self) {
        let wanted = self.def.visible().filter(|(_, field)| field.indexed());
        self.indexes = wanted.map(|(at, _)| (at, HashMap::new())).collect();
        for slot in 0..self.records.len() as u32 {
            self.enter(slot);
        }
    }

    pub fn record(&self, slot: u32) -> Option<&Record> {
        let record = self.records.get(slot as usize)?;
        (record.life != Life::Gone).then_some(record)
    }

    pub fn live(&self, slot: u32) -> Option<&Record> {
        self.record(slot).filter(|record| record.live())
    }

    /// The number of the last change.
    pub fn turn(&self) -> u64 {
        self.turn
    }

    /// What a record holds in fields by which it can be found, and what a change sets there.
    pub fn keys<'a>(&'a self, slot: Option<u32>, change: &'a Change) -> Vec<&'a str> {
        let indexed = self.def.visible().filter(|(_, field)| field.indexed());
        let held = indexed.filter_map(|(at, _)| self.record(slot?)?.get(at)?.as_text());
        let sent = change
            .iter()
            .filter(|(at, _)| self.def.fields[*at as usize].indexed())
            .filter_map(|(_, value)| value.as_ref()?.as_text());
        held.chain(sent).collect()
    }

    /// Live records whose indexed `field` holds `text`.
    pub fn find(&self, field: u16, text: &str) -> &[u32] {
        let key = self.key(field, text);
        self.indexes
            .iter()
            .find(|(at, _)| *at == field)
            .and_then(|(_, slots)| slots.get(&*key))
            .map_or(&[], Vec::as_slice)
    }

    pub fn insert(&mut self, change: Change, stamp: Stamp) -> Result<u32, Taken> {
        let slot = self.records.len() as u32;
        self.check_unique(&change, slot)?;
        self.turn += 1;
        let mut record = Record {
            values: Vec::with_capacity(change.len()),
            created: stamp.at,
            modified: stamp.at,
            created_by: stamp.by,
            modified_by: stamp.by,
            version: 1,
            turn: self.turn,
            life: Life::Live,
            history: Vec::new(),
            master: None,
            merged: Vec::new(),
        };
        for (at, field) in self.def.fields.iter().enumerate() {
            if let (Some(default), Source::Stored, false) =
                (&field.default, field.source, field.removed)
            {
                record.set(at as u16, Some(default.clone()));
            }
        }
        self.apply(&mut record, change, stamp);
        self.records.push(record);
        self.enter(slot);
        self.note(slot, stamp, Event::Created);
        Ok(slot)
    }

    pub fn update(&mut self, slot: u32, change: Change, stamp: Stamp) -> Result<(), Taken> {
        self.check_unique(&change, slot)?;
        let keyed = change
            .iter()
            .any(|(field, _)| self.indexes.iter().any(|(at, _)| at == field));
        if keyed {
            self.leave(slot);
        }
        let fields = change.iter().map(|(field, _)| *field).collect();
        self.note(slot, stamp, Event::Updated(fields));
        let mut record = self.take(slot);
        let before = record.modified;
        self.apply(&mut record, change, stamp);
        self.records[slot as usize] = record;
        self.touch(slot, stamp);
        let timeline = self.timeline(slot);
        timeline.remove(&(before, slot));
        timeline.insert((stamp.at, slot));
        if keyed {
            self.enter(slot);
        }
        Ok(())
    }

    /// Soft delete, or restore.
    pub fn set_life(&mut self, slot: u32, life: Life, stamp: Stamp) -> Result<(), Taken> {
        if life == Life::Live {
            let record = &self.records[slot as usize];
            let held: Change = record
                .values
                .iter()
                .map(|(at, value)| (*at, Some(value.clone())))
                .collect();
            self.check_unique(&held, slot)?;
        }
        self.leave(slot);
        let record = &mut self.records[slot as usize];
        record.life = life;
        let master = record.master.take();
        self.touch(slot, stamp);
        self.enter(slot);
        if let Some(master) = master {
            let merged = &mut self.records[master as usize].merged;
            merged.retain(|(held, _)| *held != slot);
        }
        let event = match life {
            Life::Live => Event::Restored,
            _ => Event::Deleted,
        };
        self.note(slot, stamp, event);
        Ok(())
    }

    /// Merges live records into another one, whose values stay as they are.
    pub fn merge(&mut self, into: u32, from: &[u32], stamp: Stamp) {
        for slot in from {
            self.leave(*slot);
            let record = &mut self.records[*slot as usize];
            record.life = Life::Deleted;
            record.master = Some(into);
            let inherited = std::mem::take(&mut record.merged);
            self.touch(*slot, stamp);
            self.enter(*slot);
            for (held, _) in &inherited {
                self.records[*held as usize].master = Some(into);
            }
            let merged = &mut self.records[into as usize].merged;
            merged.extend(inherited);
            merged.push((*slot, stamp.at));
        }
        self.leave(into);
        self.touch(into, stamp);
        self.enter(into);
        self.note(into, stamp, Event::Merged(from.to_vec()));
    }

    /// Marks a record, which is in no index meanwhile, as changed.
    fn touch(&mut self, slot: u32, stamp: Stamp) {
        self.turn += 1;
        let record = &mut self.records[slot as usize];
        record.version += 1;
        record.turn = self.turn;
        record.modified = stamp.at;
        record.modified_by = stamp.by;
    }

    fn note(&mut self, slot: u32, stamp: Stamp, event: Event) {
        if let Some(notes) = &mut self.notes {
            notes.push(Note {
                slot,
                at: stamp.at,
                by: stamp.by,
                event,
            });
        }
    }

    /// Puts an earlier state back (`None`: the record never was), for all-or-none requests.
    pub fn restore(&mut self, slot: u32, before: Option<Record>) {
        self.leave(slot);
        match before {
            Some(record) => self.records[slot as usize] = record,
            None => self.records[slot as usize].life = Life::Gone,
        }
        self.enter(slot);
        // What is undone is not told.
        if let Some(notes) = &mut self.notes {
            let last = notes.iter().rposition(|note| note.slot == slot);
            last.map(|at| notes.remove(at));
        }
    }

    /// Takes a record away for good, and what it held.
    pub fn purge(&mut self, slot: u32, stamp: Stamp) {
        self.leave(slot);
        self.touch(slot, stamp);
        let record = &mut self.records[slot as usize];
        record.life = Life::Gone;
        record.values = Vec::new();
        record.history = Vec::new();
        self.note(slot, stamp, Event::Deleted);
    }

    pub fn purge_all(&mut self) {
        for slot in 0..self.records.len() as u32 {
            self.restore(slot, None);
            self.records[slot as usize].values = Vec::new();
        }
    }

    /// Live records modified at `since` or later, as (time, slot), in that order.
    pub fn live_since(&self, since: i64) -> impl Iterator<Item = (i64, u32)> {
        self.live_times.range((since, 0)..).copied()
    }

    pub fn deleted_since(&self, since: i64) -> impl Iterator<Item = (i64, u32)> {
        self.deleted_times.range((since, 0)..).copied()
    }

    fn timeline(&mut self, slot: u32) -> &mut BTreeSet<(i64, u32)> {
        match self.records[slot as usize].live() {
            true => &mut self.live_times,
            false => &mut self.deleted_times,
        }
    }

    fn take(&mut self, slot: u32) -> Record {
        let empty = Record {
            values: Vec::new(),
            history: Vec::new(),
            merged: Vec::new(),
            ..self.records[slot as usize]
        };
        std::mem::replace(&mut self.records[slot as usize], empty)
    }

    fn apply(&self, record: &mut Record, change: Change, stamp: Stamp) {
        for (field, value) in change {
            if self.history && record.get(field) != value.as_ref() {
                record.history.push(Past {
                    field,
                    value: value.clone(),
                    at: stamp.at,
                    by: stamp.by,
                });
            }
            record.set(field, value);
        }
        // Enough for any test to look back on, and bounded under a benchmark that rewrites for
        // ever.
        if record.history.len() > 200 {
            record.history.drain(..100);
        }
    }

    fn check_unique(&self, change: &Change, slot: u32) -> Result<(), Taken> {
        for (field, value) in change {
            let unique = self.def.fields[*field as usize].spec.unique;
            let Some(text) = value.as_ref().filter(|_| unique).and_then(Value::key) else {
                continue;
            };
            let holder = self.find(*field, &text).iter().find(|held| **held != slot);
            if let Some(by) = holder {
                return Err(Taken {
                    field: *field,
                    by: *by,
                });
            }
        }
        Ok(())
    }

    fn key<'a>(&self, field: u16, text: &'a str) -> std::borrow::Cow<'a, str> {
        let exact = self.def.fields[field as usize].spec.case_sensitive;
        let plain = exact || !text.bytes().any(|b| b.is_ascii_uppercase() || b >= 128);
        match plain {
            true => text.into(),
            false => text.to_lowercase().into(),
        }
    }

    fn enter(&mut self, slot: u32) {
        let record = &self.records[slot as usize];
        if record.life == Life::Gone {
            return;
        }
        let modified = record.modified;
        self.timeline(slot).insert((modified, slot));
        if !self.records[slot as usize].live() {
            return;
        }
        for at in 0..self.indexes.len() {
            let field = self.indexes[at].0;
            if let Some(text) = self.records[slot as usize].get(field).and_then(Value::key) {
                let key = self.key(field, &text).into_owned().into_boxed_str();
                self.indexes[at].1.entry(key).or_default().push(slot);
            }
        }
    }

    fn leave(&mut self, slot: u32) {
        let modified = self.records[slot as usize].modified;
        self.timeline(slot).remove(&(modified, slot));
        for at in 0..self.indexes.len() {
            let field = self.indexes[at].0;
            let Some(text) = self.records[slot as usize].get(field).and_then(Value::key) else {
                continue;
            };
            let key = self.key(field, &text).into_owned();
            if let Some(slots) = self.indexes[at].1.get_mut(key.as_str()) {
                slots.retain(|held| *held != slot);
                if slots.is_empty() {
                    self.indexes[at].1.remove(key.as_str());
                }
            }
        }
    }
}

/// All objects of one CRM.
#[derive(Debug, Default, Clone)]
pub struct Store {
    pub objects: Vec<Object>,
    names: HashMap<String, usize>,
}

impl Store {
    /// The objects that a schema in JSON names, as a CRM makes and defines them.
    pub fn built_in(
        schema: &str,
        history: bool,
        blank: impl Fn(&str) -> ObjectDef,
        define: impl Fn(&mut ObjectDef, &ObjectSpec) -> Result<(), SchemaError>,
    ) -> Store {
        let specs: BTreeMap<String, ObjectSpec> =
            serde_json::from_str(schema).expect("the built-in schema is valid");
        let mut store = Store::default();
        for (name, spec) in specs {
            let mut def = blank(&name);
            define(&mut def, &spec).expect("the built-in schema is sound");
            store.add(Object::new(def, history));
        }
        store
    }

    pub fn add(&mut self, object: Object) -> usize {
        let at = self.objects.len();
        self.names.insert(object.def.name.to_ascii_lowercase(), at);
        self.objects.push(object);
        at
    }

    /// A second name for an object (HubSpot's `0-1` for contacts).
    pub fn alias(&mut self, name: &str, object: usize) {
        self.names.insert(name.to_ascii_lowercase(), object);
    }

    pub fn position(&self, name: &str) -> Option<usize> {
        self.names.get(&name.to_ascii_lowercase()).copied()
    }

    pub fn object(&self, name: &str) -> Option<&Object> {
        self.position(name).map(|at| &self.objects[at])
    }

    pub fn object_mut(&mut self, name: &str) -> Option<&mut Object> {
        self.position(name).map(|at| &mut self.objects[at])
    }
}
