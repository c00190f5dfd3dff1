//! Batches in flight to a CRM, and what is remembered of each record until its result is settled.

use std::collections::BTreeMap;
use std::sync::Arc;

use crm_domain::Op;
use crm_domain::cells::{self, CellHashes, HASH_BYTES};
use crm_domain::conflict::{self, ShortHash};
use crm_domain::crm_form::Shown;
use crm_domain::{Cells, Value, canonical, excerpt, hex};
use crm_provider::record::Field;
use serde_json::{Map as JsonMap, Value as Json};

use crate::store::config::{Connection, Map};
use crate::store::outcome::Outcome;
use crate::store::record::unseen_writes;
use crate::store::write_back::claims::Claimed;
use crate::store::write_back::outcome::{Settled, sent_hashes};
use crm_domain::Operation;

/// A batch in flight.
pub struct Batch {
    /// Its records were claimed step by step.
    pub claims: Vec<i64>,
    pub map: Arc<Map>,
    pub connection: Arc<Connection>,
    pub records: Vec<InFlight>,
}

/// What a CRM said of a record.
pub struct Response {
    pub crm_id: Option<String>,
    pub created: bool,
    pub request_id: Option<String>,
    /// What its answer shows of the fields that were written.
    pub shown: Vec<(Arc<Field>, Shown)>,
}

/// A claimed record in flight: what is to be remembered of the values that were sent.
pub struct InFlight {
    claimed: Claimed,
    sent: Cells,
    /// 16 bytes per sent cell, in ordinal order.
    hashes: Vec<u8>,
    /// As the audit has it.
    fields: String,
    /// See [`Settled::defaulted`].
    defaulted: Cells,
    unseen: Option<String>,
}

impl InFlight {
    /// `fields` come in the order of their cells, as the packed hashes need it.
    pub fn new(map: &Map, claimed: Claimed, fields: &[(u16, Arc<Field>, Value)]) -> Self {
        let mut sent = Cells::new();
        let mut hashes = Vec::with_capacity(fields.len() * HASH_BYTES);
        let mut json = vec![b'{'];
        for (id, field, value) in fields {
            sent.insert(*id);
            if json.len() > 1 {
                json.push(b',');
            }
            canonical::append_text(&mut json, &field.name);
            json.extend_from_slice(b":{\"new\":");
            let start = json.len();
            hashes.extend(cells::short(&value.append_canonical(&mut json)));
            excerpt::shorten(&mut json, start, value);
            if let Some(old) = CellHashes(&claimed.hashes).get(*id) {
                json.extend_from_slice(b",\"old_hash\":\"");
                hex::append(&mut json, old);
                json.push(b'"');
            }
            json.push(b'}');
        }
        json.push(b'}');
        json.shrink_to_fit();
        InFlight {
            claimed: Claimed {
                hashes: Vec::new(),
                ..claimed
            },
            sent,
            hashes,
            fields: String::from_utf8(json).expect("JSON made of texts"),
            defaulted: Cells::new(),
            unseen: unseen_writes::cells(map, fields.iter().map(|(id, _, value)| (*id, value))),
        }
    }

    /// The row is to take what was sent in these cells.
    pub fn note_defaulted(&mut self, cells: Cells) {
        self.defaulted = cells;
    }

    /// The record's key travels too, in that field.
    pub fn note_key(&mut self, field: &str) {
        let mut json = std::mem::take(&mut self.fields).into_bytes();
        json.pop();
        if json.len() > 1 {
            json.push(b',');
        }
        canonical::append_text(&mut json, field);
        json.extend_from_slice(b":{\"new\":");
        canonical::append_text(&mut json, &self.claimed.record_key);
        json.extend_from_slice(b"}}");
        self.fields = String::from_utf8(json).expect("JSON made of texts");
    }

    /// What is to be recognised of a creation should its outcome never be heard, as JSON.
    pub fn sent_hashes(&self, map: &Map) -> String {
        let hashes = match self.claimed.op {
            Op::Create => sent_hashes(map, &self.sent, &self.hashes),
            _ => None,
        };
        hashes.unwrap_or_else(|| "{}".to_owned())
    }

    pub fn claimed(&self) -> &Claimed {
        &self.claimed
    }

    /// Takes what an answer shows as what the CRM holds; returns the cells in which that is another
    /// form of what was sent.
    fn take_shown(
        &mut self,
        map: &Map,
        shown: &[(Arc<Field>, Shown)],
    ) -> BTreeMap<u16, (ShortHash, ShortHash)> {
        let mut forms = BTreeMap::new();
        if shown.is_empty() {
            return forms;
        }
        let mut told = Cells::new();
        let mut audited: Option<Json> = None;
        let places: BTreeMap<u16, usize> = self.sent.iter().zip(0..).collect();
        for (field, shown) in shown {
            let id = map.fields.iter().find(|f| f.field.name == field.name);
            let Some((id, place)) = id.and_then(|f| Some((f.id, *places.get(&f.id)?))) else {
                continue;
            };
            let range = place * HASH_BYTES..(place + 1) * HASH_BYTES;
            let sent: ShortHash = self.hashes[range.clone()].try_into().expect("one hash");
            if shown.held(None).map(conflict::hash) == Some(sent) {
                told.insert(id);
                continue;
            }
            let audited = audited
                .get_or_insert_with(|| serde_json::from_str(&self.fields).unwrap_or_default());
            let before = audited[&field.name]["old_hash"].as_str();
            if let Some(held) = shown.held(before.and_then(hex::decode)) {
                told.insert(id);
                forms.insert(id, (sent, conflict::hash(held)));
                self.hashes[range].copy_from_slice(&conflict::hash(held));
                audited[&field.name]["held"] = excerpt::of(held);
            }
        }
        if let Some(audited) = audited.filter(|_| !forms.is_empty()) {
            self.fields = audited.to_string();
        }
        self.unseen = self.unseen.take().and_then(|unseen| {
            let mut cells: JsonMap<String, Json> = serde_json::from_str(&unseen).ok()?;
            cells.retain(|id, _| id.parse().is_ok_and(|id| !told.contains(id)));
            (!cells.is_empty()).then(|| Json::Object(cells).to_string())
        });
        forms
    }

    /// The record with its result.
    pub fn settled(mut self, map: &Map, outcome: Outcome, response: Response) -> Settled {
        let forms = self.take_shown(map, &response.shown);
        let InFlight {
            claimed,
            sent,
            hashes,
            fields,
            defaulted,
            unseen,
        } = self;
        let fields = match outcome {
            Outcome::Found => "{}".to_owned(),
            _ => fields,
        };
        Settled {
            operation: match (claimed.op, &outcome) {
                (Op::Delete, _) => Operation::Delete,
                (_, Outcome::Found) => Operation::Link,
                _ if response.created => Operation::Create,
                (Op::Create, Outcome::Retry { .. } | Outcome::Dead { .. }) => Operation::Create,
                // One that somebody made after it was looked for was written over.
                _ => Operation::Update,
            },
            crm_id: response.crm_id.or(claimed.crm_id),
            shard_key: claimed.shard_key,
            record_key: claimed.record_key,
            unsent: claimed.cells.difference(&sent),
            cells: sent,
            defaulted,
            row_gone: false,
            hashes,
            unseen,
            forms,
            revision: claimed.revision,
            attempt: claimed.attempts + 1,
            fields,
            actor: claimed.actor,
            correlation_id: claimed.correlation_id,
            operation_id: claimed.operation_id,
            place: claimed.place,
            request_id: response.request_id,
            outcome,
        }
    }
}

/// A claimed record that is not sent.
pub fn unsent(map: &Map, claimed: Claimed, outcome: Outcome) -> Settled {
    let response = Response {
        crm_id: None,
        created: false,
        request_id: None,
        shown: Vec::new(),
    };
    InFlight::new(map, claimed, &[]).settled(map, outcome, response)
}
