//! The batches in flight to CRMs, by their first claims, and how they are sent.
//!
//! Guarantees: a batch is noted before it is sent, and its results, or the panic of its task,
//! arrive as a message with its first claim.

use std::collections::HashMap;
use std::sync::Arc;

use super::in_flight::Batch;
use super::message::Message;
use crate::failpoint;
use crate::worker::context::Context;
use crate::worker::in_flight::RecordsInFlight;
use crate::worker::link::{Priority, RequestContext, SharedLink};
use crate::worker::mailbox::Sender;
use crate::worker::sender::batches::{self, Destination, Outgoing};
use crate::worker::tasks;

pub struct Batches {
    mailbox: Sender<Message>,
    in_flight: HashMap<i64, Batch>,
}

impl Batches {
    pub fn new(mailbox: Sender<Message>) -> Self {
        Batches {
            mailbox,
            in_flight: HashMap::new(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Batch> {
        self.in_flight.values()
    }

    /// The claims of the batches.
    pub fn claims(&self) -> impl Iterator<Item = i64> {
        self.iter().flat_map(|batch| batch.claims.iter().copied())
    }

    /// Adds the records of a map.
    pub fn add_to(&self, map_id: i32, found: &mut RecordsInFlight) {
        for batch in self.iter().filter(|batch| batch.map.id == map_id) {
            for record in batch.records.iter().map(|r| r.claimed()) {
                found.add(&record.shard_key, &record.record_key);
                found.crm_ids.extend(record.crm_id.clone());
            }
        }
    }

    /// The batch whose results have arrived.
    pub fn take(&mut self, claim_id: i64) -> Option<Batch> {
        self.in_flight.remove(&claim_id)
    }

    pub fn send(&mut self, cx: &Context, batch: Batch, link: &SharedLink, outgoing: Vec<Outgoing>) {
        let claim_id = batch.claims[0];
        let destination = Destination {
            request_id: claim_id.to_string(),
            object: batch.map.crm_object.clone(),
            external_id_field: batch.map.external_id_field.clone(),
            creates_only: batch.map.spares_records(),
            context: context(&batch),
            at_once: usize::MAX,
        };
        self.in_flight.insert(claim_id, batch);
        failpoint::reach("send::before");
        let link = link.clone();
        tasks::spawn(
            &cx.runtime,
            &self.mailbox,
            async move {
                failpoint::reach_on_thread("send::task");
                let sent = batches::send(&link, &destination, outgoing).await;
                Message::Sent {
                    claim_id,
                    sent: Ok(sent),
                    outage: link.take_outage(),
                }
            },
            move |failure| Message::Sent {
                claim_id,
                sent: Err(failure),
                outage: None,
            },
        );
    }
}

/// What the requests of a batch are for. They have the correlation id that all of its edits share.
fn context(batch: &Batch) -> RequestContext {
    let mut records = batch.records.iter().map(|record| record.claimed());
    let first = records.next();
    let shared = first.and_then(|first| first.correlation_id.as_deref());
    let is_shared = records.all(|record| record.correlation_id.as_deref() == shared);
    RequestContext {
        correlation_id: shared.filter(|_| is_shared).map(Arc::from),
        operation_id: first.and_then(|first| first.operation_id.clone()),
        ..RequestContext::of_map(Priority::Batch, batch.map.id)
    }
}
