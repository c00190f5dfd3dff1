//! Sends batches: grouped by kind, cut to the CRM's sizes, and split where a whole request was
//! refused. Every record gets its own result.

use std::sync::{Arc, Mutex};

use crm_domain::bisect::{BisectBudget, quarters};
use crm_domain::crm_form::Shown;
use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};
use crm_provider::record::Field;
use crm_provider::{WriteBatch, WriteKind, WriteRecord, Written};
use futures_util::future::{BoxFuture, FutureExt, join_all};

use crate::failpoint;
use crate::worker::link::{Link, RequestContext};
use crate::worker::tasks::catch_panic;

/// A record to send; `index` is its place in the batch.
pub struct Outgoing {
    pub index: usize,
    pub kind: WriteKind,
    pub attempts: u32,
    pub record: WriteRecord,
}

/// Its result.
#[derive(Debug)]
pub struct Sent {
    pub index: usize,
    pub request_id: String,
    pub result: Result<Written, Failure>,
    /// What the answer shows of the fields that were written.
    pub shown: Vec<(Arc<Field>, Shown)>,
}

/// What the records of a batch have in common.
pub struct Destination {
    /// What the audit calls the requests: this, and a number.
    pub request_id: String,
    pub object: String,
    pub external_id_field: Option<String>,
    /// See [`WriteBatch::creates_only`].
    pub creates_only: bool,
    pub context: RequestContext,
    /// At most so many records in one request.
    pub at_once: usize,
}

/// Failures after which a record that keeps failing with its neighbours is sent by itself.
const ALONE_AFTER: u32 = 3;

/// Sends a batch. Deletes go before updates before upserts, so that a key that moves between
/// records is free.
pub async fn send(link: &Link, destination: &Destination, records: Vec<Outgoing>) -> Vec<Sent> {
    let mut sent = Vec::with_capacity(records.len());
    let mut batch_no = 0;
    let mut rest = records;
    for kind in [WriteKind::Delete, WriteKind::Update, WriteKind::Upsert] {
        let (mut records, others): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|r| r.kind == kind);
        rest = others;
        if records.is_empty() {
            continue;
        }
        let size = link
            .provider
            .write_size(&link.settings, kind, records.len())
            .min(destination.at_once)
            .max(1);
        if kind == WriteKind::Upsert {
            // The key of an upsert travels by itself.
            for r in &mut records {
                r.record.fields.retain(|(field, _)| {
                    destination.external_id_field.as_ref() != Some(&field.name)
                });
            }
        }
        let mut batches = Vec::new();
        let mut records = records.into_iter();
        loop {
            // Collected, so that a batch holds no more room than it needs: there may be as many
            // batches as records.
            let batch: Vec<Outgoing> = records.by_ref().take(size).collect();
            if batch.is_empty() {
                break;
            }
            batch_no += 1;
            let request_id = format!("{}.{batch_no}", destination.request_id);
            batches.push((batch, request_id));
        }
        let budget: Vec<Mutex<BisectBudget>> = batches
            .iter()
            .map(|(batch, _)| Mutex::new(BisectBudget::new(batch.len())))
            .collect();
        let batches = batches.into_iter().zip(&budget);
        let batches = batches.map(|((batch, request_id), budget)| {
            send_batch(link, destination, kind, batch, request_id, budget)
        });
        for outcome in join_all(batches).await {
            sent.extend(outcome);
        }
    }
    sent
}

fn send_batch<'a>(
    link: &'a Link,
    destination: &'a Destination,
    kind: WriteKind,
    records: Vec<Outgoing>,
    request_id: String,
    budget: &'a Mutex<BisectBudget>,
) -> BoxFuture<'a, Vec<Sent>> {
    async move {
        let counts = || budget.lock().expect("no panic under this lock");
        counts().count_request();
        let poison = records.iter().any(|r| r.attempts >= ALONE_AFTER);
        let (places, records): (Vec<(usize, u32)>, Vec<WriteRecord>) = records
            .into_iter()
            .map(|r| ((r.index, r.attempts), r.record))
            .unzip();
        let batch = Arc::new(WriteBatch {
            object: destination.object.clone(),
            kind,
            external_id_field: destination
                .external_id_field
                .clone()
                .filter(|_| kind == WriteKind::Upsert),
            creates_only: destination.creates_only && kind == WriteKind::Upsert,
            records,
        });
        // A panic is the failure of one of these records, and is looked for like others.
        let written = catch_panic(async {
            let ids = batch.records.iter().filter_map(|r| r.crm_id.as_deref());
            failpoint::reach_on_thread_with("send::batch", ids);
            let operation = link.provider.write(&link.settings, batch.clone());
            link.run(&destination.context, operation).await
        });
        let result = written.await.and_then(|result| result);
        let is_split =
            matches!(&result, Err(failure) if places.len() > 1 && splits(failure, poison));
        if !is_split {
            counts().count_decided(places.len());
        }
        match result {
            Ok(results) => {
                let mut results = results.into_iter();
                let result = || {
                    let next = results.next();
                    next.unwrap_or_else(|| Err(Failure::missing_result()))
                };
                let mut sent = with_results(&places, &request_id, result);
                for (sent, record) in sent.iter_mut().zip(&batch.records) {
                    sent.shown = shown(link, record, &sent.result);
                }
                sent
            }
            Err(_) if is_split => {
                // The operation is over, so that the values are ours again.
                let records = Arc::unwrap_or_clone(batch).records;
                let left = places.into_iter().zip(records);
                let left = left.map(|((index, attempts), record)| Outgoing {
                    index,
                    kind,
                    attempts,
                    record,
                });
                let left = left.collect();
                send_quarters(link, destination, kind, left, request_id, budget).await
            }
            Err(failure) => with_results(&places, &request_id, || Err(failure.clone())),
        }
    }
    .boxed()
}

/// Sends the records of a refused batch in quarters, or one by one once the budget for batches is
/// spent. One quarter after the other: the outcome of each decides whether the next is sent as one
/// request.
async fn send_quarters(
    link: &Link,
    destination: &Destination,
    kind: WriteKind,
    left: Vec<Outgoing>,
    request_id: String,
    budget: &Mutex<BisectBudget>,
) -> Vec<Sent> {
    let mut sent = Vec::with_capacity(left.len());
    for (part, name) in quarters(left).into_iter().zip('a'..) {
        let id = format!("{request_id}{name}");
        let allows_batch = budget
            .lock()
            .expect("no panic under this lock")
            .allows_batch();
        if allows_batch {
            sent.extend(send_batch(link, destination, kind, part, id, budget).await);
            continue;
        }
        let one = |(n, record)| {
            let id = format!("{id}-{}", n + 1);
            send_batch(link, destination, kind, vec![record], id, budget)
        };
        let alone = join_all(part.into_iter().enumerate().map(one)).await;
        sent.extend(alone.into_iter().flatten());
    }
    sent
}

fn with_results(
    places: &[(usize, u32)],
    request_id: &str,
    mut result: impl FnMut() -> Result<Written, Failure>,
) -> Vec<Sent> {
    let places = places.iter();
    places
        .map(|&(index, _)| Sent {
            index,
            request_id: request_id.to_owned(),
            result: result(),
            shown: Vec::new(),
        })
        .collect()
}

fn shown(
    link: &Link,
    record: &WriteRecord,
    result: &Result<Written, Failure>,
) -> Vec<(Arc<Field>, Shown)> {
    let Ok(written) = result else {
        return Vec::new();
    };
    if written.shown.is_empty() {
        return Vec::new();
    }
    let fields = record.fields.iter().filter_map(|(field, sent)| {
        let held = link.value(field, written.shown.get(&field.name)?).ok()?;
        Some((field.clone(), Shown::of(sent, held)?))
    });
    fields.collect()
}

/// Whether a refused batch is worth sending in parts: when one record may be at fault for all.
fn splits(failure: &Failure, poison: bool) -> bool {
    let passes = matches!(failure.class, ErrorClass::Transient | ErrorClass::Internal);
    failure.scope == Scope::Records && (!passes || poison)
}
