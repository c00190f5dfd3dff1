//! `crm.read_live()`: a record is read while a caller waits.
//!
//! Guarantee: what the read showed of what had been written is recorded before it is answered, or
//! left to the caller's transaction, which may be the one that holds the record.

use std::collections::BTreeMap;
use std::sync::Arc;

use crm_domain::Path;
use crm_domain::crm_form::Sighting;
use crm_provider::ReadBatch;
use crm_provider::record::Field;
use pgrx::prelude::*;

use super::call::{Reply, by_id, field_of, left, send_answer, sightings};
use crate::store::record::locks;
use crate::store::record::sightings::{self, Sighted};
use crate::store::transaction;
use crate::worker::connections::readiness::AWAY;
use crate::worker::context::Context;
use crate::worker::link::{Priority, RequestContext, SharedLink};
use crate::worker::mailbox::Sender;
use crate::worker::sender::checked_write;
use crate::worker::socket::protocol::{Answer, AnswerOutcome, ReadRequest};

/// What is to be answered once it is recorded what the read showed.
pub struct SeenRead {
    request: ReadRequest,
    seen: BTreeMap<u16, Sighting>,
    answer: Answer,
    reply: Reply,
}

/// Reads the record. What shows nothing that had not been seen is answered at once.
pub fn start(cx: &Context, mailbox: Sender<SeenRead>, request: ReadRequest, reply: Reply) {
    let Some(link) = cx.connections.link(request.connection_id).cloned() else {
        let why = match cx.connections.get(request.connection_id) {
            Some(connection) if connection.is_away => AWAY,
            _ => "the connection's credentials are refused; see crm.status",
        };
        send_answer(reply, &Answer::failed(AnswerOutcome::Read, "auth", why));
        return;
    };
    cx.runtime.spawn(async move {
        let (answer, seen) = read(&link, &request).await;
        match seen.is_empty() {
            true => send_answer(reply, &answer),
            false => mailbox.send(SeenRead {
                request,
                seen,
                answer,
                reply,
            }),
        }
    });
}

/// Records what a read showed, and answers it.
pub fn record(cx: &Context, read: SeenRead) {
    let SeenRead {
        request,
        seen,
        mut answer,
        reply,
    } = read;
    let map = cx.maps.iter().find(|m| m.id == request.map_id);
    if let Some((map, connection)) = map.zip(cx.connections.get(request.connection_id)) {
        let record = Sighted {
            key: (&request.shard_key, &request.record_key),
            crm_id: &request.crm_id,
            cells: &seen,
        };
        let recorded = transaction(|client| {
            let is_free = locks::lock_records(client, map, &[record.key])?.is_empty();
            if is_free {
                sightings::record(client, (connection, map), Path::RealTime, &[record])?;
            }
            Ok(is_free)
        });
        match recorded {
            Ok(true) => {}
            Ok(false) => answer.seen = left(&seen),
            Err(error) => log!("pg_crm cannot record what a read showed: {error}"),
        }
    }
    send_answer(reply, &answer);
}

/// The answer, and what the read showed of what was written before.
async fn read(link: &SharedLink, request: &ReadRequest) -> (Answer, BTreeMap<u16, Sighting>) {
    let fields: Vec<(u16, Arc<Field>)> = request
        .fields
        .iter()
        .map(|f| (f.id, field_of(f).0))
        .collect();
    let batch = ReadBatch {
        object: request.object.clone(),
        ids: vec![request.crm_id.clone()],
        fields: fields.iter().map(|(_, field)| field.clone()).collect(),
        for_write: false,
    };
    let read = link.provider.read(&link.settings, Arc::new(batch));
    let object = link
        .run(&RequestContext::new(Priority::RealTime), read)
        .await
        .map(|mut objects| objects.pop().flatten());
    link.take_outage();
    let values = match object {
        Ok(Some(object)) => checked_write::values(link, fields.into_iter(), &object),
        Ok(None) => {
            let why = "the CRM has no such record any more";
            let gone = Answer::failed(AnswerOutcome::Read, "not_found", why);
            return (gone, BTreeMap::new());
        }
        Err(failure) => Err(failure),
    };
    match values {
        Ok(values) => {
            let answer = Answer {
                outcome: AnswerOutcome::Read,
                values: Some(by_id(values.iter())),
                ..Answer::default()
            };
            (answer, sightings(&request.fields, &values))
        }
        Err(failure) => {
            let (class, why) = (failure.class.name(), failure.to_string());
            let answer = Answer::failed(AnswerOutcome::Read, class, why);
            (answer, BTreeMap::new())
        }
    }
}
