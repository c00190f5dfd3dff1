//! The write of what was judged: in batches, or one by one where only that is guarded.

use std::collections::BTreeMap;

use crm_domain::{Failure, Value, conflict};
use crm_provider::record::Guard;
use crm_provider::{WriteKind, WriteRecord};

use super::judgement::Judged;
use super::overwritten::overwritten;
use super::{Checked, CheckedWrite, Edit, Outcome};
use crate::worker::sender::batches::{self, Destination, Outgoing, Sent};

/// Up to so many records of one batch are written one by one where only that is guarded.
const ONE_BY_ONE: usize = 25;

pub async fn write(
    of: CheckedWrite<'_>,
    request_id: &str,
    judged: Vec<Judged>,
    parts: usize,
) -> Vec<(usize, Checked)> {
    let guard = |count| of.link.provider.guard(WriteKind::Update, count);
    let count = judged.len() * parts;
    let alone = guard(count) != Guard::Atomic && guard(1) == Guard::Atomic && count <= ONE_BY_ONE;
    let outgoing = judged.iter().enumerate();
    let outgoing = outgoing.map(|(place, j)| outgoing_record(&of.edits[j.index], place, j));
    let destination = Destination {
        request_id: request_id.to_owned(),
        object: of.object.to_owned(),
        external_id_field: None,
        creates_only: false,
        context: of.context.clone(),
        at_once: if alone { 1 } else { usize::MAX },
    };
    let mut results: Vec<Option<Sent>> = judged.iter().map(|_| None).collect();
    for sent in batches::send(of.link, &destination, outgoing.collect()).await {
        let place = sent.index;
        results[place] = Some(sent);
    }
    let mut raced = match guard(if alone { 1 } else { count }) {
        Guard::Afterwards => overwritten(of, &judged, &results).await,
        Guard::Atomic | Guard::None => BTreeMap::new(),
    };
    let came = judged.into_iter().zip(results).enumerate();
    came.map(|(place, (j, sent))| {
        let mut held = BTreeMap::new();
        let (request_id, outcome) = match sent {
            Some(sent) => {
                held = told(&of.edits[j.index], &j, &sent);
                let done = |_| Outcome::Done(j.decisions);
                (
                    sent.request_id,
                    sent.result.map_or_else(Outcome::Failed, done),
                )
            }
            None => (
                request_id.to_owned(),
                Outcome::Failed(Failure::missing_result()),
            ),
        };
        let checked = Checked {
            request_id,
            read: j.read,
            outcome,
            changed: j.changed,
            held,
            raced: raced.remove(&place).unwrap_or_default(),
        };
        (j.index, checked)
    })
    .collect()
}

/// What the answer tells of the fields that were written.
fn told(edit: &Edit, judged: &Judged, sent: &Sent) -> BTreeMap<u16, Value> {
    let told = sent.shown.iter().filter_map(|(field, shown)| {
        let f = edit.fields.iter().find(|f| f.field.name == field.name)?;
        let before = judged.read.as_ref().and_then(|read| read.get(&f.id));
        let before = before.map(conflict::hash);
        Some((f.id, shown.held(before.or(f.base))?.clone()))
    });
    told.collect()
}

fn outgoing_record(edit: &Edit, place: usize, judged: &Judged) -> Outgoing {
    let written = edit.fields.iter().filter(|f| judged.writes(f.id));
    Outgoing {
        index: place,
        kind: WriteKind::Update,
        attempts: edit.attempts,
        record: WriteRecord {
            crm_id: Some(edit.crm_id.clone()),
            external_id: None,
            fields: written
                .filter_map(|f| Some((f.field.clone(), f.local.clone()?)))
                .collect(),
            unless_changed: judged.version.clone(),
        },
    }
}
