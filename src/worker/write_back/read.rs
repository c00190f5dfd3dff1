//! Reads the values of a claimed batch.
//!
//! Guarantees: a record that needs no sending, or cannot be sent, is settled and not sent; of two
//! records whose keys the CRM considers equal, only one is sent.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crm_domain::Op;
use crm_domain::key::is_blank_key;
use crm_domain::validation::utf16_length;
use crm_domain::{CellHashes, Cells, DataType, ErrorClass, Value};
use crm_provider::record::Field;
use crm_provider::{WriteKind, WriteRecord};

use super::fuse::{Hazard, Kind};
use super::in_flight::{InFlight, unsent};
use crate::settings::Settings;
use crate::store::StoreError;
use crate::store::config::{Map, MappedField};
use crate::store::outcome::Outcome;
use crate::store::record::key_rivals::{self, Rival};
use crate::store::table::read::{self, Bounds, RowValues, Wanted};
use crate::store::write_back::claims::Claimed;
use crate::store::write_back::outcome::Settled;
use crate::worker::retry_policy;
use crate::worker::sender::batches::Outgoing;

/// A batch as read: its records in flight, what is sent of them, and what needs no sending.
pub struct ClaimedBatch {
    pub records: Vec<InFlight>,
    pub outgoing: Vec<Outgoing>,
    pub settled: Vec<Settled>,
    /// What the fuse counts.
    pub hazards: Vec<Hazard>,
}

impl ClaimedBatch {
    /// Bytes of the values to send.
    pub fn size(&self) -> usize {
        let fields = self.outgoing.iter().flat_map(|o| &o.record.fields);
        fields.map(|(_, value)| value.size()).sum()
    }

    /// Adds what was read after it.
    pub fn append(&mut self, next: ClaimedBatch) {
        let before = self.records.len();
        self.records.extend(next.records);
        self.outgoing
            .extend(next.outgoing.into_iter().map(|o| Outgoing {
                index: before + o.index,
                ..o
            }));
        self.settled.extend(next.settled);
        self.hazards.extend(next.hazards);
    }
}

/// Reads a batch's values. What needs no sending, or cannot be sent, is settled at once.
pub fn read_batch(
    map: &Map,
    due: Vec<Claimed>,
    unsettled: &[(&str, &str)],
    settings: &Settings,
) -> Result<ClaimedBatch, StoreError> {
    let (mut due, refused) = with_keys_of_their_own(map, due, unsettled)?;
    let written = map.cells(|f| f.written);
    // A record that the CRM does not have yet takes every field, those that were mapped since it
    // was queued too, and those that are sent only now.
    let created = map.cells(|f| f.created);
    for record in due.iter_mut().filter(|record| record.op == Op::Create) {
        record.cells = record.cells.union(&created);
    }
    let mut rows = read_rows(map, &due, (&written, &created), settings)?;
    let mut batch = ClaimedBatch {
        records: Vec::with_capacity(due.len()),
        outgoing: Vec::with_capacity(due.len()),
        settled: refused,
        hazards: Vec::new(),
    };
    for (i, claimed) in due.into_iter().enumerate() {
        let mut defaulted = Cells::new();
        let row = match claimed.op {
            Op::Delete => RowValues::Found(Vec::new()),
            _ => match rows.remove(&i) {
                Some(row) => holdable(map, to_send(map, claimed.op, row, &mut defaulted)),
                // Not reached within the bound on bytes: it comes with the next batch.
                None => continue,
            },
        };
        match judge_row(map, claimed, row, settings) {
            Disposition::Settled(settled) => batch.settled.push(*settled),
            Disposition::Send(claimed, fields) => {
                batch.hazards.extend(hazard(&claimed, &fields));
                let mut record = InFlight::new(map, *claimed, &fields);
                record.note_defaulted(defaulted);
                if let Some(field) = key_field(map, record.claimed()) {
                    record.note_key(&field.name);
                }
                let index = batch.records.len();
                let outgoing = outgoing_record(map, index, record.claimed(), fields);
                batch.outgoing.push(outgoing);
                batch.records.push(record);
            }
        }
    }
    Ok(batch)
}

/// What the fuse counts of a record that was never sent.
fn hazard(claimed: &Claimed, fields: &[(u16, Arc<Field>, Value)]) -> Option<Hazard> {
    let known = CellHashes(&claimed.hashes);
    let clears = |(id, _, value): &(u16, Arc<Field>, Value)| {
        *value == Value::Null && known.may_have_value(*id)
    };
    let kind = match claimed.op {
        Op::Delete => Kind::Delete,
        Op::Create => Kind::Create,
        Op::Update | Op::UpdateAndKey => fields.iter().any(clears).then_some(Kind::Clear)?,
    };
    let revision = claimed.revision;
    claimed.is_fresh.then_some(Hazard { kind, revision })
}

/// The values to send of the records that have any, by their places.
fn read_rows(
    map: &Map,
    due: &[Claimed],
    (written, created): (&Cells, &Cells),
    settings: &Settings,
) -> Result<HashMap<usize, RowValues>, StoreError> {
    let reads: Vec<usize> = (0..due.len())
        .filter(|&i| due[i].op != Op::Delete)
        .collect();
    // What waits of fields that are not written any more is not sent.
    let cells: Vec<Cells> = reads
        .iter()
        .map(|&i| match due[i].op {
            Op::Create => created.clone(),
            _ => due[i].cells.intersection(written),
        })
        .collect();
    let wanted: Vec<Wanted> = reads
        .iter()
        .zip(&cells)
        .map(|(&i, cells)| Wanted {
            shard_key: &due[i].shard_key,
            record_key: &due[i].record_key,
            cells,
        })
        .collect();
    let rows = read::read(map, &wanted, &Bounds::of(settings))?;
    Ok(rows.into_iter().map(|(n, row)| (reads[n], row)).collect())
}

/// What becomes of a claimed record.
enum Disposition {
    Send(Box<Claimed>, Vec<(u16, Arc<Field>, Value)>),
    /// It needs no sending, or cannot be sent.
    Settled(Box<Settled>),
}

fn judge_row(map: &Map, claimed: Claimed, row: RowValues, settings: &Settings) -> Disposition {
    let outcome = match row {
        // Failures end as dead letters before this: only claims left behind count beyond.
        _ if claimed.attempts >= settings.max_attempts => {
            let error = "the worker crashed every time it tried to send this record";
            dead(ErrorClass::Internal, "abandoned", error.to_owned())
        }
        RowValues::Found(fields) if fields.is_empty() && claimed.op == Op::Update => {
            Outcome::NothingToDo
        }
        RowValues::Found(fields) if claimed.op == Op::Create || claimed.crm_id.is_some() => {
            return Disposition::Send(Box::new(claimed), fields);
        }
        RowValues::Missing if map.hides_rows => {
            let error = "the table's owner does not see the row: it is gone, or forced row security hides it";
            dead(ErrorClass::Mapping, "row_not_visible", error.to_owned())
        }
        RowValues::Found(_) | RowValues::Missing => Outcome::NothingToDo,
        RowValues::Unreadable(failure) => {
            let (attempts, most) = (claimed.attempts, settings.max_attempts);
            let draw = fastrand::f64();
            retry_policy::classify(&failure, attempts, most, map.on_crm_delete, draw)
        }
    };
    Disposition::Settled(Box::new(unsent(map, claimed, outcome)))
}

/// What is sent of a row: a record that is created may get defaults, and an empty cell may be one
/// that is not sent. `defaulted`: cells whose defaults are to flow back into the row.
fn to_send(map: &Map, op: Op, row: RowValues, defaulted: &mut Cells) -> RowValues {
    let RowValues::Found(fields) = row else {
        return row;
    };
    let value = |(id, field, value): (u16, Arc<Field>, Value)| {
        let Some(mapped) = map.field(id) else {
            return Some((id, field, value));
        };
        let is_empty = value.is_null();
        let value = match op {
            Op::Create => mapped.created_with(value),
            _ => value,
        };
        if is_empty && !value.is_null() && mapped.direction.reads_crm() {
            defaulted.insert(id);
        }
        (!mapped.is_withheld(&value)).then_some((id, field, value))
    };
    RowValues::Found(fields.into_iter().filter_map(value).collect())
}

/// The row, unless the CRM has no form of one of its values.
fn holdable(map: &Map, row: RowValues) -> RowValues {
    let RowValues::Found(fields) = &row else {
        return row;
    };
    let fault =
        |(id, _, value): &(u16, Arc<Field>, Value)| map.field(*id)?.unstorable_reason(value);
    fields
        .iter()
        .find_map(fault)
        .map_or(row, RowValues::Unreadable)
}

/// Those whose keys can be brought to the CRM, where no other record has them; and the others,
/// judged. While it is not known whether another has it, and of two in one batch that the CRM would
/// take for one, the later edit is put off.
fn with_keys_of_their_own(
    map: &Map,
    due: Vec<Claimed>,
    unsettled: &[(&str, &str)],
) -> Result<(Vec<Claimed>, Vec<Settled>), StoreError> {
    let places: Vec<usize> = (0..due.len())
        .filter(|&n| {
            map.key_equality.is_some() && matches!(due[n].op, Op::Create | Op::UpdateAndKey)
        })
        .collect();
    let keys: Vec<(&str, &str)> = places
        .iter()
        .map(|&n| (due[n].shard_key.as_str(), due[n].record_key.as_str()))
        .collect();
    let mut outcomes: HashMap<usize, Outcome> = HashMap::new();
    for (&n, (_, record_key)) in places.iter().zip(&keys) {
        if let Some(outcome) = unusable_key(map, record_key) {
            outcomes.insert(n, outcome);
        }
    }
    let mut later: HashSet<usize> = HashSet::new();
    let rivals = key_rivals::rivals(map, &keys, unsettled)?;
    for (&at, rivals) in &rivals {
        let n = places[at];
        if let Some(rival) = rivals.iter().find(|r| r.holds && !r.is_in_flight()) {
            outcomes.entry(n).or_insert_with(|| outdone_by(rival));
        } else if rivals.iter().any(Rival::is_in_flight) {
            later.insert(n);
        }
    }
    // Only those that go themselves have others wait for them.
    let going: HashMap<(&str, &str), i64> = keys
        .iter()
        .zip(&places)
        .filter(|(_, n)| !outcomes.contains_key(n) && !later.contains(n))
        .map(|(key, &n)| (*key, due[n].revision))
        .collect();
    for (&at, rivals) in &rivals {
        let is_older = |r: &Rival| {
            let revision = going.get(&(r.shard_key.as_str(), r.record_key.as_str()));
            revision.is_some_and(|revision| *revision < due[places[at]].revision)
        };
        if rivals.iter().any(is_older) {
            later.insert(places[at]);
        }
    }
    later.retain(|n| !outcomes.contains_key(n));
    let put_off: Vec<(&str, &str)> = later
        .iter()
        .map(|&n| (due[n].shard_key.as_str(), due[n].record_key.as_str()))
        .collect();
    key_rivals::put_off(map, &put_off)?;
    let (mut rest, mut refused) = (Vec::with_capacity(due.len()), Vec::new());
    for (n, claimed) in due.into_iter().enumerate() {
        match outcomes.remove(&n) {
            Some(outcome) => {
                refused.push(unsent(map, claimed, outcome));
            }
            None if later.contains(&n) => {}
            None => rest.push(claimed),
        }
    }
    Ok((rest, refused))
}

/// Why the CRM cannot hold the key, or not find its record by it.
fn unusable_key(map: &Map, record_key: &str) -> Option<Outcome> {
    if is_blank_key(record_key) {
        let error = "the row's key is blank, and the CRM could not find its record by it";
        return Some(dead(ErrorClass::Mapping, "blank_key", error.to_owned()));
    }
    let room = map.key_room?;
    (utf16_length(record_key) > room).then(|| {
        let error =
            format!("the row's key is longer than the {room} characters that the CRM has room for");
        dead(ErrorClass::Mapping, "key_too_long", error)
    })
}

fn outdone_by(rival: &Rival) -> Outcome {
    let record = match &rival.crm_id {
        Some(crm_id) => format!(", whose CRM record is {crm_id}"),
        None => ", whose creation was never confirmed".to_owned(),
    };
    let error = format!(
        "to the CRM this key is that of another row, record_key \"{}\"{record}: it would be overwritten",
        rival.record_key
    );
    dead(ErrorClass::Conflict, "duplicate_identity", error)
}

fn dead(class: ErrorClass, code: &str, error: String) -> Outcome {
    Outcome::Dead {
        class,
        code: code.to_owned(),
        error,
    }
}

/// The values move on to be sent; what is to be remembered of them was taken down.
fn outgoing_record(
    map: &Map,
    index: usize,
    claimed: &Claimed,
    fields: Vec<(u16, Arc<Field>, Value)>,
) -> Outgoing {
    let kind = match claimed.op {
        Op::Delete => WriteKind::Delete,
        Op::Create => WriteKind::Upsert,
        _ => WriteKind::Update,
    };
    let upsert = kind == WriteKind::Upsert;
    let key = key_field(map, claimed);
    let key = key.map(|field| (field, Value::text(&claimed.record_key)));
    Outgoing {
        index,
        kind,
        attempts: claimed.attempts,
        record: WriteRecord {
            crm_id: claimed.crm_id.clone().filter(|_| !upsert),
            external_id: upsert.then(|| claimed.record_key.clone()),
            fields: fields
                .into_iter()
                .map(|(_, field, value)| (field, value))
                .chain(key)
                .collect(),
            unless_changed: None,
        },
    }
}

/// The field that the record's key is to be brought to, where the CRM does not have it yet.
fn key_field(map: &Map, claimed: &Claimed) -> Option<Arc<Field>> {
    let name = map.external_id_field.as_ref()?;
    // Where the key column is mapped to it as well, it may be among the cells.
    let is_sent = |f: &MappedField| f.field.name == *name && claimed.cells.contains(f.id);
    (claimed.op == Op::UpdateAndKey && !map.fields.iter().any(is_sent)).then(|| {
        Arc::new(Field {
            name: name.clone(),
            data_type: DataType::Text,
        })
    })
}
