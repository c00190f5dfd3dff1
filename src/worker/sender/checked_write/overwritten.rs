//! What our writes replaced without our knowing, by the history that the CRM keeps.

use std::collections::BTreeMap;
use std::sync::Arc;

use crm_domain::Value;
use crm_provider::record::{DoneBatch, DoneField, DoneRecord};
use futures_util::future::join_all;

use super::judgement::Judged;
use super::{CheckedWrite, Edit};
use crate::worker::sender::batches::Sent;

/// The values of others that are gone, by place among the written. A look that fails is no reason
/// to doubt the writes.
pub async fn overwritten(
    of: CheckedWrite<'_>,
    judged: &[Judged],
    results: &[Option<Sent>],
) -> BTreeMap<usize, Vec<(u16, Value)>> {
    let (link, provider) = (of.link, of.link.provider);
    let mut places = Vec::new();
    let mut records = Vec::new();
    for (place, (j, sent)) in judged.iter().zip(results).enumerate() {
        let landed = sent.as_ref().is_some_and(|sent| sent.result.is_ok());
        if let (true, Some(read)) = (landed, &j.read) {
            places.push(place);
            records.push(done_record(&of.edits[j.index], j, read));
        }
    }
    let looks = records.chunks(provider.history_size().max(1));
    let looks = looks.map(|records| async move {
        let batch = DoneBatch {
            object: of.object.to_owned(),
            records: records.to_vec(),
        };
        let unknown = vec![Vec::new(); records.len()];
        match provider.overwritten(&link.settings, Arc::new(batch)) {
            Some(look) => link.run(of.context, look).await.unwrap_or(unknown),
            None => unknown,
        }
    });
    let found = join_all(looks).await.into_iter().flatten();
    let mut raced = BTreeMap::new();
    for (place, values) in places.into_iter().zip(found) {
        let fields = &of.edits[judged[place].index].fields;
        let values = values.into_iter().filter_map(|gone| {
            let f = fields.iter().find(|f| f.field.name == gone.field.name)?;
            Some((f.id, link.value(&f.field, &gone.value).ok()?))
        });
        let values: Vec<(u16, Value)> = values.collect();
        if !values.is_empty() {
            raced.insert(place, values);
        }
    }
    raced
}

/// What a write took the place of, and what it wrote.
fn done_record(edit: &Edit, judged: &Judged, read: &BTreeMap<u16, Value>) -> DoneRecord {
    let written = edit.fields.iter().filter(|f| judged.writes(f.id));
    let fields = written.filter_map(|f| {
        Some(DoneField {
            field: f.field.clone(),
            read: read.get(&f.id)?.clone(),
            written: f.local.clone()?,
        })
    });
    DoneRecord {
        crm_id: edit.crm_id.clone(),
        modified_at: judged.modified_at,
        fields: fields.collect(),
    }
}
