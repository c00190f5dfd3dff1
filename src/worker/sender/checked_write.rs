//! Read, compare, write: edits are sent to a CRM, never over a value that their author could not have seen.
//!
//! The same steps serve one edit that a caller waits for and thousands that do not. Where the CRM can refuse a write
//! whose record moved since it was read, it is asked to, and the edit is resolved again by what the record contains then. Where
//! it cannot, its history is looked at afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;

use crm_domain::conflict::{self, Decision, ShortHash, Sides};
use crm_domain::mapping::ConflictPolicy;
use crm_domain::{ErrorClass, Failure, Value};
use crm_provider::record::{DoneBatch, DoneField, DoneRecord, Field, Guard};
use crm_provider::{CrmObject, ReadBatch, WriteKind, WriteRecord};
use futures_util::future::{BoxFuture, FutureExt, join_all};
use futures_util::stream::{self, StreamExt};
use tokio::sync::oneshot;

use super::batches::{self, Destination, Outgoing};
use crate::failpoint;
use crate::worker::link::{Link, RequestContext};
use crate::worker::tasks::catch_panic;

/// How often an edit is judged anew because its record moved while we looked.
const ATTEMPTS: usize = 4;
/// Up to so many records of one batch are written one by one where only that is guarded.
const ONE_BY_ONE: usize = 25;

/// An edit of one record.
pub struct Edit {
    pub crm_id: String,
    pub attempts: u32,
    pub fields: Vec<EditField>,
    /// A caller waits: any difference to the base is a conflict, and a failed read does not keep it from being written.
    pub strict: bool,
    /// When the row was changed, UTC milliseconds.
    pub changed_at: Option<i64>,
}

pub struct EditField {
    pub id: u16,
    pub field: Arc<Field>,
    /// What the CRM should hold; `None`: the edit does not change it.
    pub local: Option<Value>,
    pub base: Option<ShortHash>,
    /// What earlier attempts sent; whether it arrived is unknown.
    pub sent: Vec<ShortHash>,
    /// Whether a difference between base and CRM counts.
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

/// The same without a consent. A panic is the failure of one of the edits, which is looked for in halves.
pub fn run_caught<'a>(
    link: &'a Link,
    context: &'a RequestContext,
    id: String,
    object: &'a str,
    edits: &'a [Edit],
) -> BoxFuture<'a, Vec<Checked>> {
    async move {
        let checked = catch_panic(async {
            let ids = edits.iter().map(|e| e.crm_id.as_str());
            failpoint::reach_on_thread_with("reconcile::batch", ids);
            run(link, context, &id, object, edits, None).await
        });
        match checked.await {
            Ok(checked) => checked.unwrap_or_default(),
            Err(failure) if edits.len() <= 1 => edits
                .iter()
                .map(|_| Checked::failed(failure.clone()))
                .collect(),
            Err(_) => {
                let (left, right) = edits.split_at(edits.len() / 2);
                let mut checked = run_caught(link, context, format!("{id}a"), object, left).await;
                checked.extend(run_caught(link, context, format!("{id}b"), object, right).await);
                checked
            }
        }
    }
    .boxed()
}

/// Sends edits, each of another record; one result for each, in order. `None`: there is no consent, and nothing was written.
pub async fn run(
    link: &Link,
    context: &RequestContext,
    claim_id: &str,
    object: &str,
    edits: &[Edit],
    mut consent: Consent,
) -> Option<Vec<Checked>> {
    let mut results: Vec<Option<Checked>> = edits.iter().map(|_| None).collect();
    let mut open: Vec<usize> = (0..edits.len()).collect();
    for attempt in 1..=ATTEMPTS {
        let request_id = match attempt {
            1 => claim_id.to_owned(),
            n => format!("{claim_id}~{n}"),
        };
        let round = round(
            link,
            context,
            &request_id,
            object,
            edits,
            &open,
            &mut consent,
        )
        .await?;
        let mut again = Vec::new();
        for (index, checked) in round {
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
    Some(
        results
            .into_iter()
            .map(|result| result.unwrap_or_else(lost))
            .collect(),
    )
}

/// A record as read, before it is written.
struct Judged {
    index: usize,
    read: Option<BTreeMap<u16, Value>>,
    version: Option<String>,
    modified_at: Option<i64>,
    decisions: Vec<(u16, Decision)>,
}

/// What came of edits, by their places. `None`: there is no consent, and nothing was written.
type Came = Option<Vec<(usize, Checked)>>;

/// Reads, compares and writes once. Many edits go in parts, so that little time passes between reading and writing: a part has as
/// many records as one request reads, and only as many parts run at once as it takes to use all requests that may be in flight.
async fn round(
    link: &Link,
    context: &RequestContext,
    request_id: &str,
    object: &str,
    edits: &[Edit],
    open: &[usize],
    consent: &mut Consent,
) -> Came {
    let size = link.provider.read_size(object).max(1);
    let write_size = |count| {
        let settings = &link.settings;
        link.provider.write_size(settings, WriteKind::Update, count)
    };
    // A bulk job writes more records than one request reads.
    if open.len() <= size || write_size(open.len()) > size {
        return part(link, context, request_id, object, edits, open, 1, consent).await;
    }
    consented(consent).await?;
    let count = open.len().div_ceil(size);
    let at_once = (link.settings.in_flight() * write_size(size)).div_ceil(size);
    let mut parts: Vec<BoxFuture<Came>> = Vec::with_capacity(count);
    for (n, open) in open.chunks(size).enumerate() {
        let id = format!("{request_id}.{}", n + 1);
        let part =
            async move { part(link, context, &id, object, edits, open, count, &mut None).await };
        parts.push(part.boxed());
    }
    let done: Vec<Came> = stream::iter(parts)
        .buffer_unordered(at_once.max(1))
        .collect()
        .await;
    Some(done.into_iter().flatten().flatten().collect())
}

/// One of `parts` parts. Whether there are few enough edits to be written one by one, or looked up afterwards, is decided for all parts
/// together.
#[expect(
    clippy::too_many_arguments,
    reason = "what a round has, and which part of it this is"
)]
async fn part(
    link: &Link,
    context: &RequestContext,
    request_id: &str,
    object: &str,
    edits: &[Edit],
    open: &[usize],
    parts: usize,
    consent: &mut Consent,
) -> Came {
    let mut done = Vec::with_capacity(open.len());
    let mut to_write = Vec::new();
    for (index, read) in read(link, context, object, edits, open).await {
        match judge(link, &edits[index], index, read) {
            Ok(judged) if judged.decisions.iter().any(|(_, d)| *d == Decision::Write) => {
                to_write.push(judged);
            }
            Ok(judged) => done.push((
                index,
                Checked {
                    request_id: request_id.to_owned(),
                    read: judged.read,
                    outcome: Outcome::Done(judged.decisions),
                    raced: Vec::new(),
                },
            )),
            Err(checked) => done.push((index, *checked)),
        }
    }
    if !to_write.is_empty() {
        consented(consent).await?;
        failpoint::reach_on_thread("request::between");
        done.extend(write(link, context, request_id, object, edits, to_write, parts).await);
    }
    Some(done)
}

type Read = Result<Option<CrmObject>, Failure>;

/// Reads records in as few requests as it takes.
async fn read(
    link: &Link,
    context: &RequestContext,
    object: &str,
    edits: &[Edit],
    open: &[usize],
) -> Vec<(usize, Read)> {
    let chunks = open.chunks(link.provider.read_size(object).max(1));
    let requests = chunks.map(|chunk| async move {
        let batch = ReadBatch {
            object: object.to_owned(),
            ids: chunk.iter().map(|&i| edits[i].crm_id.clone()).collect(),
            fields: edits[chunk[0]]
                .fields
                .iter()
                .map(|f| f.field.clone())
                .collect(),
            for_write: true,
        };
        let read = link
            .run(context, link.provider.read(&link.settings, Arc::new(batch)))
            .await;
        match read {
            Ok(objects) => {
                let mut objects = objects.into_iter();
                chunk
                    .iter()
                    .map(|&i| (i, Ok(objects.next().flatten())))
                    .collect::<Vec<_>>()
            }
            Err(failure) => chunk.iter().map(|&i| (i, Err(failure.clone()))).collect(),
        }
    });
    join_all(requests).await.into_iter().flatten().collect()
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

/// Decides on each cell of an edit. `Err`: nothing is to be written.
fn judge(link: &Link, edit: &Edit, index: usize, read: Read) -> Result<Judged, Box<Checked>> {
    let object = match read {
        Ok(Some(object)) => object,
        Ok(None) => {
            return Err(Box::new(Checked::failed(Failure::record(
                ErrorClass::NotFound,
                "not_found",
                "the CRM has no such record any more",
            ))));
        }
        // A caller waits: what cannot be compared is written all the same, based on the ledger.
        Err(failure) if edit.strict && failure.class != ErrorClass::NotFound => {
            link.take_outage();
            let cells = edit.fields.iter().filter(|f| f.local.is_some());
            return Ok(Judged {
                index,
                read: None,
                version: None,
                modified_at: None,
                decisions: cells.map(|f| (f.id, Decision::Write)).collect(),
            });
        }
        Err(failure) => return Err(Box::new(Checked::failed(failure))),
    };
    let fields = edit.fields.iter().map(|f| (f.id, f.field.clone()));
    let read = values(link, fields, &object).map_err(|f| Box::new(Checked::failed(f)))?;
    let mut decisions = Vec::new();
    let mut differs = false;
    for f in &edit.fields {
        let crm = &read[&f.id];
        let moved = f.base.is_some_and(|base| base != conflict::hash(crm));
        differs |= edit.strict && f.compared && moved;
        let sides = |local| Sides {
            base: f.base,
            sent: &f.sent,
            local,
            crm,
            local_changed_at: edit.changed_at,
            crm_changed_at: object.modified_at.map(|at| at - link.clock_offset_ms()),
        };
        match &f.local {
            _ if f.take && moved => decisions.push((f.id, Decision::ManualReview)),
            _ if f.take => decisions.push((f.id, Decision::AcceptCrm)),
            None => {}
            Some(local) if local == crm => decisions.push((f.id, Decision::AlreadyApplied)),
            Some(_) if edit.strict => decisions.push((f.id, Decision::Write)),
            Some(local) => decisions.push((f.id, conflict::resolve(f.policy, &sides(local)))),
        }
    }
    if differs {
        // What is there already needs no second writer.
        return Err(Box::new(Checked {
            request_id: String::new(),
            read: Some(read),
            outcome: Outcome::Conflict,
            raced: Vec::new(),
        }));
    }
    Ok(Judged {
        index,
        read: Some(read),
        version: object.version,
        modified_at: object.modified_at,
        decisions,
    })
}

async fn write(
    link: &Link,
    context: &RequestContext,
    request_id: &str,
    object: &str,
    edits: &[Edit],
    judged: Vec<Judged>,
    parts: usize,
) -> Vec<(usize, Checked)> {
    let guard = |count| link.provider.guard(WriteKind::Update, count);
    let count = judged.len() * parts;
    let alone = guard(count) != Guard::Atomic && guard(1) == Guard::Atomic && count <= ONE_BY_ONE;
    let outgoing: Vec<Outgoing> = judged
        .iter()
        .enumerate()
        .map(|(place, j)| {
            let edit = &edits[j.index];
            let written = |f: &&EditField| j.decisions.contains(&(f.id, Decision::Write));
            Outgoing {
                index: place,
                kind: WriteKind::Update,
                attempts: edit.attempts,
                record: WriteRecord {
                    crm_id: Some(edit.crm_id.clone()),
                    external_id: None,
                    fields: edit
                        .fields
                        .iter()
                        .filter(written)
                        .filter_map(|f| Some((f.field.clone(), f.local.clone()?)))
                        .collect(),
                    unless_changed: j.version.clone(),
                },
            }
        })
        .collect();
    let destination = Destination {
        request_id: request_id.to_owned(),
        object: object.to_owned(),
        external_id_field: None,
        context: context.clone(),
        at_once: if alone { 1 } else { usize::MAX },
    };
    let sent = batches::send(link, &destination, outgoing).await;
    let mut results: Vec<Option<batches::Sent>> = judged.iter().map(|_| None).collect();
    for one in sent {
        let place = one.index;
        results[place] = Some(one);
    }
    let afterwards = guard(if alone { 1 } else { count }) == Guard::Afterwards;
    let raced = if afterwards {
        overwritten(link, context, object, edits, &judged, &results).await
    } else {
        BTreeMap::new()
    };
    judged
        .into_iter()
        .zip(results)
        .enumerate()
        .map(|(place, (j, sent))| {
            let (request_id, outcome) = match sent {
                Some(batches::Sent {
                    request_id,
                    result: Ok(_),
                    ..
                }) => (request_id, Outcome::Done(j.decisions)),
                Some(batches::Sent {
                    request_id,
                    result: Err(failure),
                    ..
                }) => (request_id, Outcome::Failed(failure)),
                None => (
                    request_id.to_owned(),
                    Outcome::Failed(Failure::missing_result()),
                ),
            };
            let checked = Checked {
                request_id,
                read: j.read,
                outcome,
                raced: raced.get(&place).cloned().unwrap_or_default(),
            };
            (j.index, checked)
        })
        .collect()
}

/// What our writes replaced without our knowing, by place among the written. A look that fails is no reason to doubt
/// the writes.
async fn overwritten(
    link: &Link,
    context: &RequestContext,
    object: &str,
    edits: &[Edit],
    judged: &[Judged],
    results: &[Option<batches::Sent>],
) -> BTreeMap<usize, Vec<(u16, Value)>> {
    let mut places = Vec::new();
    let mut records = Vec::new();
    for (place, j) in judged.iter().enumerate() {
        let landed = results[place]
            .as_ref()
            .is_some_and(|sent| sent.result.is_ok());
        let (Some(read), true) = (&j.read, landed) else {
            continue;
        };
        let fields = edits[j.index].fields.iter().filter_map(|f| {
            j.decisions
                .contains(&(f.id, Decision::Write))
                .then_some(())?;
            Some(DoneField {
                field: f.field.clone(),
                read: read.get(&f.id)?.clone(),
                written: f.local.clone()?,
            })
        });
        places.push(place);
        records.push(DoneRecord {
            crm_id: edits[j.index].crm_id.clone(),
            modified_at: j.modified_at,
            fields: fields.collect(),
        });
    }
    let size = link.provider.history_size().max(1);
    let looks = records.chunks(size).map(|records| async move {
        let batch = DoneBatch {
            object: object.to_owned(),
            records: records.to_vec(),
        };
        let unknown = vec![Vec::new(); records.len()];
        match link.provider.overwritten(&link.settings, Arc::new(batch)) {
            Some(look) => link.run(context, look).await.unwrap_or(unknown),
            None => unknown,
        }
    });
    let found = join_all(looks).await.into_iter().flatten();
    let mut raced = BTreeMap::new();
    for (place, values) in places.into_iter().zip(found) {
        let fields = &edits[judged[place].index].fields;
        let values: Vec<(u16, Value)> = values
            .into_iter()
            .filter_map(|o| {
                let f = fields.iter().find(|f| f.field.name == o.field.name)?;
                let value = link.value(&f.field, &o.value).ok()?;
                Some((f.id, value))
            })
            .collect();
        if !values.is_empty() {
            raced.insert(place, values);
        }
    }
    raced
}
