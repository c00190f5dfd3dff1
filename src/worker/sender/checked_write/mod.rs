//! Read, compare, write: edits are sent to a CRM, never over a value that their author could not
//! have seen.
//!
//! The same steps serve one edit that a caller waits for and thousands that do not. Where the CRM
//! can refuse a write whose record moved since it was read, it is asked to, and the edit is
//! resolved again by what the record contains then. Where it cannot, its history is looked at
//! afterwards.

mod judgement;
mod overwritten;
mod writing;

use std::collections::BTreeMap;
use std::sync::Arc;

use crm_domain::conflict::{Decision, ShortHash};
use crm_domain::crm_form::Ours;
use crm_domain::mapping::{ConflictPolicy, ConflictScope};
use crm_domain::{Failure, Value};
use crm_provider::record::Field;
use crm_provider::{CrmObject, ReadBatch, WriteKind};
use futures_util::future::{BoxFuture, FutureExt, join_all};
use futures_util::stream::{self, StreamExt};
use tokio::sync::oneshot;

use crate::failpoint;
use crate::worker::link::{Link, RequestContext};
use crate::worker::tasks::catch_panic;

/// How often an edit is judged anew because its record moved while we looked.
const ATTEMPTS: usize = 4;

/// An edit of one record.
pub struct Edit {
    pub crm_id: String,
    pub attempts: u32,
    pub fields: Vec<EditField>,
    /// A caller waits: any difference to the base is a conflict, and a failed read does not keep it
    /// from being written.
    pub strict: bool,
    /// Which fields count as changed in the CRM, where nobody waits.
    pub scope: ConflictScope,
    /// When the row was changed, UTC milliseconds.
    pub changed_at: Option<i64>,
}

pub struct EditField {
    pub id: u16,
    pub field: Arc<Field>,
    /// What the CRM should hold; `None`: the edit does not change it.
    pub local: Option<Value>,
    pub base: Option<ShortHash>,
    /// The base is what the row held before: nobody knows what the CRM did.
    pub base_is_guessed: bool,
    /// What the CRM held when the edit was made, if that is known.
    pub snapshot: Option<ShortHash>,
    /// Changes of other fields are no reason not to write it.
    pub is_alone: bool,
    /// What earlier attempts sent; whether it arrived is unknown.
    pub sent: Vec<ShortHash>,
    /// What earlier writes left there.
    pub ours: Ours,
    /// Whether a difference between base and CRM counts for a caller who waits.
    pub compared: bool,
    pub policy: ConflictPolicy,
    /// The row accepts the CRM's value (if that is still the base, where one is given).
    pub take: bool,
}

/// The result of an edit.
#[derive(Debug)]
pub struct Checked {
    pub request_id: String,
    /// What the CRM held when it was read; `None`: it could not be read.
    pub read: Option<BTreeMap<u16, Value>>,
    pub outcome: Outcome,
    /// Fields that somebody else changed since the edit was made.
    pub changed: Vec<u16>,
    /// What the CRM's answer shows that it holds of what was written; where a field is missing,
    /// nobody knows yet.
    pub held: BTreeMap<u16, Value>,
    /// Values of other writers that the write replaced unknowingly.
    pub raced: Vec<(u16, Value)>,
}

#[derive(Debug)]
pub enum Outcome {
    /// Every cell of the edit is decided, and what was to be written is.
    Done(Vec<(u16, Decision)>),
    /// A strict edit met a difference: nothing was written.
    Conflict,
    Failed(Failure),
}

impl Checked {
    pub fn failed(failure: Failure) -> Checked {
        Checked {
            request_id: String::new(),
            read: None,
            outcome: Outcome::Failed(failure),
            changed: Vec::new(),
            held: BTreeMap::new(),
            raced: Vec::new(),
        }
    }
}

/// Sent once the intent is on disk: the edit may be written. Until then the CRM is only read.
pub type Consent = Option<oneshot::Receiver<()>>;

/// Waits for the consent if there is one to wait for; `None`: it is refused.
async fn consented(consent: &mut Consent) -> Option<()> {
    match consent.take() {
        Some(consent) => consent.await.ok(),
        None => Some(()),
    }
}

/// Edits, each of another record, and the way to the CRM that they go.
#[derive(Clone, Copy)]
pub struct CheckedWrite<'a> {
    pub link: &'a Link,
    pub context: &'a RequestContext,
    pub object: &'a str,
    pub edits: &'a [Edit],
}

/// The results of edits, by their places. `None`: there is no consent, and nothing was written.
type Results = Option<Vec<(usize, Checked)>>;

/// A record as the CRM had it. `None`: there is none.
type Read = Result<Option<CrmObject>, Failure>;

impl<'a> CheckedWrite<'a> {
    /// Runs without a consent. A panic is the failure of one of the edits, which is looked for in
    /// halves.
    pub fn run_caught(self, id: String) -> BoxFuture<'a, Vec<Checked>> {
        async move {
            let checked = catch_panic(async {
                let ids = self.edits.iter().map(|e| e.crm_id.as_str());
                failpoint::reach_on_thread_with("reconcile::batch", ids);
                self.run(&id, None).await
            });
            match checked.await {
                Ok(checked) => checked.unwrap_or_default(),
                Err(failure) if self.edits.len() <= 1 => {
                    let failed = self.edits.iter().map(|_| Checked::failed(failure.clone()));
                    failed.collect()
                }
                Err(_) => {
                    let (left, right) = self.edits.split_at(self.edits.len() / 2);
                    let half = |edits| CheckedWrite { edits, ..self };
                    let mut checked = half(left).run_caught(format!("{id}a")).await;
                    checked.extend(half(right).run_caught(format!("{id}b")).await);
                    checked
                }
            }
        }
        .boxed()
    }

    /// One result for each edit, in order. `None`: there is no consent, and nothing was written.
    pub async fn run(self, claim_id: &str, mut consent: Consent) -> Option<Vec<Checked>> {
        let mut results: Vec<Option<Checked>> = self.edits.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..self.edits.len()).collect();
        for attempt in 1..=ATTEMPTS {
            let request_id = match attempt {
                1 => claim_id.to_owned(),
                n => format!("{claim_id}~{n}"),
            };
            let mut again = Vec::new();
            for (index, checked) in self.round(&request_id, &open, &mut consent).await? {
                let stale = matches!(&checked.outcome, Outcome::Failed(f) if f.is_stale());
                if stale && attempt < ATTEMPTS {
                    again.push(index);
                } else {
                    results[index] = Some(checked);
                }
            }
            open = again;
            if open.is_empty() {
                break;
            }
        }
        // The result of an edit that needs no write is reported no earlier either.
        consented(&mut consent).await?;
        let lost = || Checked::failed(Failure::missing_result());
        let results = results.into_iter();
        Some(results.map(|result| result.unwrap_or_else(lost)).collect())
    }

    /// Reads, compares and writes once. Many edits go in parts, so that little time passes between
    /// reading and writing: a part has as many records as one request reads, and only as many parts
    /// run at once as it takes to use all requests that may be in flight.
    async fn round(self, request_id: &str, open: &[usize], consent: &mut Consent) -> Results {
        let (provider, settings) = (self.link.provider, &self.link.settings);
        let size = provider.read_size(self.object).max(1);
        let write_size = |count| provider.write_size(settings, WriteKind::Update, count);
        // A bulk job writes more records than one request reads.
        if open.len() <= size || write_size(open.len()) > size {
            return self.part(request_id, open, 1, consent).await;
        }
        consented(consent).await?;
        let count = open.len().div_ceil(size);
        let at_once = (settings.in_flight() * write_size(size)).div_ceil(size);
        let mut parts: Vec<BoxFuture<Results>> = Vec::with_capacity(count);
        for (n, open) in open.chunks(size).enumerate() {
            let id = format!("{request_id}.{}", n + 1);
            parts.push(async move { self.part(&id, open, count, &mut None).await }.boxed());
        }
        let done: Vec<Results> = stream::iter(parts)
            .buffer_unordered(at_once.max(1))
            .collect()
            .await;
        Some(done.into_iter().flatten().flatten().collect())
    }

    /// One of `parts` parts. Whether there are few enough edits to be written one by one, or looked
    /// up afterwards, is decided for all parts together.
    async fn part(
        self,
        request_id: &str,
        open: &[usize],
        parts: usize,
        consent: &mut Consent,
    ) -> Results {
        let mut done = Vec::with_capacity(open.len());
        let mut to_write = Vec::new();
        for (index, read) in self.read(open).await {
            match judgement::judge(self.link, &self.edits[index], index, read) {
                Ok(judged) if judged.decisions.iter().any(|(_, d)| *d == Decision::Write) => {
                    to_write.push(judged);
                }
                Ok(judged) => done.push((
                    index,
                    Checked {
                        request_id: request_id.to_owned(),
                        read: judged.read,
                        outcome: Outcome::Done(judged.decisions),
                        changed: judged.changed,
                        held: BTreeMap::new(),
                        raced: Vec::new(),
                    },
                )),
                Err(checked) => done.push((index, *checked)),
            }
        }
        if !to_write.is_empty() {
            consented(consent).await?;
            failpoint::reach_on_thread("request::between");
            done.extend(writing::write(self, request_id, to_write, parts).await);
        }
        Some(done)
    }

    /// Reads records in as few requests as it takes.
    async fn read(self, open: &[usize]) -> Vec<(usize, Read)> {
        let (link, provider) = (self.link, self.link.provider);
        let chunks = open.chunks(provider.read_size(self.object).max(1));
        let requests = chunks.map(|chunk| async move {
            let fields = self.edits[chunk[0]].fields.iter();
            let ids = chunk.iter().map(|&i| self.edits[i].crm_id.clone());
            let batch = ReadBatch {
                object: self.object.to_owned(),
                ids: ids.collect(),
                fields: fields.map(|f| f.field.clone()).collect(),
                for_write: true,
            };
            let read = provider.read(&link.settings, Arc::new(batch));
            let reads: Vec<(usize, Read)> = match link.run(self.context, read).await {
                Ok(objects) => {
                    let mut objects = objects.into_iter();
                    let reads = chunk.iter().map(|&i| (i, Ok(objects.next().flatten())));
                    reads.collect()
                }
                Err(failure) => chunk.iter().map(|&i| (i, Err(failure.clone()))).collect(),
            };
            reads
        });
        join_all(requests).await.into_iter().flatten().collect()
    }
}

/// What an object holds, as canonical values by field_id.
pub fn values(
    link: &Link,
    fields: impl Iterator<Item = (u16, Arc<Field>)>,
    object: &CrmObject,
) -> Result<BTreeMap<u16, Value>, Failure> {
    if let Some(damage) = &object.damage {
        return Err(damage.clone());
    }
    fields
        .map(|(id, field)| {
            let wire = object
                .fields
                .get(&field.name)
                .unwrap_or(&serde_json::Value::Null);
            Ok((id, link.value(&field, wire)?))
        })
        .collect()
}
