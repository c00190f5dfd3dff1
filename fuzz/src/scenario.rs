//! A conversation with a CRM as text: what is asked, line by line, and what is answered.
//!
//! ```text
//! update Contact
//! key 003xx
//! field Title text
//! bulk 1
//! HTTP 200
//! date: Fri, 02 Jan 2026 03:04:05 GMT
//!
//! {"success": true}
//! HTTP 0
//! ```
//!
//! `HTTP 0` is an answer that gets lost. Everything has a default, so any text is a scenario.

use std::sync::Arc;

use crm_domain::{DataType, Value};
use crm_provider::record::Field;
use crm_provider::{
    ChangesQuery, DoneBatch, DoneField, DoneRecord, Provider, ReadBatch, Response, Settings,
    WriteBatch, WriteKind, WriteRecord,
};

/// More than this takes time and shows nothing new.
const MOST_KEYS: usize = 12;
const MOST_ANSWERS: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Write(WriteKind),
    Read { for_write: bool },
    Changes,
    Overwritten,
    Count,
    Describe,
    Ping,
    Authorise,
}

/// The first letter of a scenario says which.
const WORDS: [(u8, Asked); 11] = [
    (b'u', Asked::Write(WriteKind::Update)),
    (b'i', Asked::Write(WriteKind::Upsert)),
    (b'd', Asked::Write(WriteKind::Delete)),
    (b'r', Asked::Read { for_write: false }),
    (b'e', Asked::Read { for_write: true }),
    (b'c', Asked::Changes),
    (b'o', Asked::Overwritten),
    (b'n', Asked::Count),
    (b'f', Asked::Describe),
    (b'p', Asked::Ping),
    (b'a', Asked::Authorise),
];

pub struct Scenario {
    pub asked: Asked,
    pub object: String,
    pub keys: Vec<String>,
    pub fields: Vec<Arc<Field>>,
    pub settings: Settings,
    pub answers: Vec<Response>,
}

impl Scenario {
    pub fn read(data: &[u8]) -> Scenario {
        let text = String::from_utf8_lossy(data);
        let (head, answers) = match text.split_once("\nHTTP ") {
            Some((head, answers)) => (head, Some(answers)),
            None => (&*text, None),
        };
        let mut lines = head.lines();
        let (word, object) = split(lines.next().unwrap_or_default());
        let mut scenario = Scenario {
            asked: asked(word.bytes().next().unwrap_or_default()),
            object: object.to_owned(),
            keys: Vec::new(),
            fields: Vec::new(),
            settings: Settings {
                bulk_threshold: usize::MAX,
                ..Settings::default()
            },
            answers: answers
                .into_iter()
                .flat_map(|answers| answers.split("\nHTTP "))
                .take(MOST_ANSWERS)
                .map(answer)
                .collect(),
        };
        for line in lines {
            scenario.take(line);
        }
        scenario
    }

    fn take(&mut self, line: &str) {
        let (word, rest) = split(line);
        match word {
            "key" if self.keys.len() < MOST_KEYS => self.keys.push(rest.to_owned()),
            "field" => {
                let (name, data_type) = split(rest);
                self.fields.push(Arc::new(Field {
                    name: name.to_owned(),
                    data_type: data_type.parse().unwrap_or(DataType::Text),
                }));
            }
            "option" => {
                let (name, value) = split(rest);
                let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
                self.settings.options.insert(name.to_owned(), value);
            }
            "bulk" => self.settings.bulk_threshold = rest.parse().unwrap_or(1),
            _ => {}
        }
    }

    /// Without the options that no connection to this provider can have.
    pub fn keep_options(&mut self, provider: &dyn Provider) {
        if provider.check_options(&self.settings.options).is_err() {
            self.settings.options.clear();
        }
    }

    pub fn write(&self, kind: WriteKind) -> WriteBatch {
        let is_upsert = kind == WriteKind::Upsert;
        let records = self.keys.iter().enumerate().map(|(n, key)| WriteRecord {
            crm_id: (!is_upsert).then(|| key.clone()),
            external_id: is_upsert.then(|| key.clone()),
            fields: match kind {
                WriteKind::Delete => Vec::new(),
                _ => self.values(n),
            },
            // Every other one, so that both kinds are in one batch.
            unless_changed: (n % 2 == 1).then(|| VERSION.to_owned()),
        });
        WriteBatch {
            object: self.object.clone(),
            kind,
            external_id_field: is_upsert.then(|| EXTERNAL_ID.to_owned()),
            creates_only: false,
            records: records.collect(),
        }
    }

    fn values(&self, n: usize) -> Vec<(Arc<Field>, Value)> {
        let fields = self.fields.iter();
        fields
            .map(|field| (field.clone(), value(field.data_type, n)))
            .collect()
    }

    pub fn reading(&self, for_write: bool) -> ReadBatch {
        ReadBatch {
            object: self.object.clone(),
            ids: self.keys.clone(),
            fields: self.fields.clone(),
            for_write,
        }
    }

    pub fn changes(&self, since: Option<serde_json::Value>) -> ChangesQuery {
        ChangesQuery {
            object: self.object.clone(),
            fields: self.fields.clone(),
            external_id_field: Some(EXTERNAL_ID.to_owned()),
            since,
            limit: self.keys.len().max(1),
        }
    }

    pub fn done(&self) -> DoneBatch {
        let fields = |n| {
            let fields = self.fields.iter();
            let done = fields.map(|field| DoneField {
                field: field.clone(),
                read: value(field.data_type, n),
                written: value(field.data_type, n + 1),
            });
            done.collect()
        };
        let records = self.keys.iter().enumerate().map(|(n, key)| DoneRecord {
            crm_id: key.clone(),
            modified_at: n.is_multiple_of(2).then_some(NOW),
            fields: fields(n),
        });
        DoneBatch {
            object: self.object.clone(),
            records: records.collect(),
        }
    }
}

const EXTERNAL_ID: &str = "Ext__c";
const VERSION: &str = "2026-01-02T03:04:05Z";
pub const NOW: i64 = 1_767_323_045_678;

/// Some value of a type: the same for the same number.
fn value(data_type: DataType, n: usize) -> Value {
    let text = match data_type {
        DataType::Number => format!("{n}.5"),
        DataType::Boolean => n.is_multiple_of(2).to_string(),
        DataType::Date => format!("2026-01-{:02}", n + 1),
        DataType::Timestamp => format!("2026-01-02T03:04:{n:02}Z"),
        DataType::Json => format!("{{\"n\": {n}}}"),
        _ => format!("value {n}"),
    };
    Value::from_postgres(data_type, Some(&text)).expect("it is one of that type")
}

fn asked(letter: u8) -> Asked {
    let known = WORDS.iter().find(|(known, _)| *known == letter);
    known.map_or(WORDS[usize::from(letter) % WORDS.len()].1, |known| known.1)
}

/// A line's first word and the rest.
fn split(line: &str) -> (&str, &str) {
    line.split_once(' ').unwrap_or((line, ""))
}

/// `200`, headers, an empty line, the body.
fn answer(text: &str) -> Response {
    let (status, rest) = text.split_once('\n').unwrap_or((text, ""));
    let mut response = Response {
        status: status.trim().parse().unwrap_or_default(),
        ..Response::default()
    };
    let mut rest = rest;
    while let Some((line, after)) = rest.split_once('\n') {
        rest = after;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        let header = (name.to_ascii_lowercase(), value.to_owned());
        response.headers.push(header);
    }
    response.body = rest.as_bytes().to_vec();
    response
}
