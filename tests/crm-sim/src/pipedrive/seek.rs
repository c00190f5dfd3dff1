//! The search of records by one of their fields, as an index has them that may be behind.
//!
//! Guarantees: case is told.

use super::account::{self, as_text, is_custom, word};
use super::error::PdError;
use super::lists::{Answer, Params, page};
use super::search::{SEARCHED, is_searchable, long_enough, start};
use crate::http::Request;
use crate::store::Store;
use serde_json::{Value as Json, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Exact,
    Beginning,
    Middle,
}

/// Records by one of their fields, as an index has them that may be behind.
pub fn by_field(store: &Store, request: &Request, indexed_until: i64) -> Answer {
    let params = Params::of(
        request,
        &["term", "entity_type", "field", "match", "limit", "cursor"],
    )?;
    let needed = |name: &str| {
        let missing = || PdError::schema(&[format!("{name}: {name} is required")]);
        params
            .text(name)
            .filter(|text| !text.is_empty())
            .ok_or_else(missing)
    };
    let (term, entity, name) = (needed("term")?, needed("entity_type")?, needed("field")?);
    let how = match params.text("match").as_deref() {
        None | Some("exact") => How::Exact,
        Some("beginning") => How::Beginning,
        Some("middle") => How::Middle,
        _ => return Err(PdError::schema(&["match: Invalid enum value".to_owned()])),
    };
    let exact = how == How::Exact;
    long_enough(&term, exact)?;
    let limit = params.limit()?;
    let start = start(&params)?;
    let object = store.objects.iter().find(|object| word(object) == entity);
    let object = object.filter(|_| SEARCHED.contains(&&*entity));
    let object =
        object.ok_or_else(|| PdError::schema(&["entity_type: Invalid enum value".to_owned()]))?;
    let (at, field) = object
        .def
        .field(&name)
        .filter(|(_, field)| !is_custom(field.name()) || is_searchable(field))
        .ok_or_else(|| PdError::new(400, "Field not found"))?;
    let candidates: Vec<u32> = match field.indexed() && exact {
        true => object.find(at, &term).to_vec(),
        false => (0..object.records.len() as u32).collect(),
    };
    let holds = |slot: &u32| {
        let record = object
            .live(*slot)
            .filter(|record| record.modified <= indexed_until);
        let text =
            record.and_then(|record| as_text(field, record.get(at)).as_str().map(str::to_owned));
        text.is_some_and(|text| match how {
            How::Exact => text == term,
            How::Beginning => text.starts_with(&term),
            How::Middle => text.contains(&term),
        })
    };
    let found: Vec<u32> = candidates.into_iter().filter(holds).collect();
    let next = (found.len() > start + limit).then(|| (start + limit).to_string());
    let found: Vec<Json> = found
        .into_iter()
        .skip(start)
        .take(limit)
        .map(|slot| {
            let shown = account::held(object, slot, at);
            let id = account::show(object, slot, &[])["id"].take();
            json!({"id": id, name.as_str(): shown})
        })
        .collect();
    Ok(page(&found, next))
}
