//! What changed in a CRM, page by page.

use std::sync::Arc;

use crm_domain::{ErrorClass, Failure, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::errors::unreadable_record;
use crate::record::Field;
use crate::{CrmObject, Step, wire};

/// Asks for one page of what changed: the argument of [`crate::Provider::changes`].
#[derive(Clone, Debug, Default)]
pub struct ChangesQuery {
    pub object: String,
    pub fields: Vec<Arc<Field>>,
    /// The CRM field that holds our key, so that an unknown record can be told by it.
    pub external_id_field: Option<String>,
    /// [`ChangesPage::next`] of the page before; `None` begins with the first record there is.
    pub since: Option<Json>,
    /// Records to ask for at once. The provider lowers it to what the vendor takes.
    pub limit: usize,
}

/// A record that changed, as it is now, or what is left to say of one that is gone.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// With the asked fields, unless the record is gone: then with those that the CRM still tells.
    pub object: CrmObject,
    /// What [`ChangesQuery::external_id_field`] holds, as text.
    pub external_id: Option<String>,
    /// The record is in the CRM's recycle bin, archived, or was merged into another.
    pub deleted: bool,
    /// The record that took this one in when they were merged; set only if `deleted`.
    pub merged_into: Option<String>,
    /// Who made the last change, in the vendor's words. Evidence, no proof: not every vendor tells
    /// it.
    pub modified_by: Option<String>,
}

/// One page of changes, in the order in which they are to be applied.
#[derive(Clone, Debug, Default)]
pub struct ChangesPage {
    /// Mostly as many as were asked for. There can be fewer, even none while there are `more`, and
    /// a few more: merged records are told beside the one that took them in.
    pub changes: Vec<Change>,
    /// Where to go on, to be stored with what was made of the page. An object, a few hundred bytes.
    pub next: Json,
    /// Whether to ask on at once. `false`: this is all for now, and `next` lies so far back that
    /// what becomes visible late is still found; what comes again by that has not changed.
    pub more: bool,
    /// The CRM does not tell what was deleted before this page: whoever holds records that it does
    /// not show has to look for them one by one.
    pub deletions_unknown: bool,
    /// Records of the page of which cannot be read which they are: no more than that can be told of
    /// them.
    pub unidentified: usize,
}

/// A provider's own form of a cursor; the first one if there is none yet.
pub(crate) fn cursor<C: DeserializeOwned + Default>(since: Option<&Json>) -> Result<C, Failure> {
    let Some(since) = since else {
        return Ok(C::default());
    };
    C::deserialize(since).map_err(|_| {
        let message = "the cursor was not made by this provider; start without one";
        Failure::record(ErrorClass::Internal, "unreadable_cursor", message)
    })
}

pub(crate) fn cursor_json(cursor: &impl Serialize) -> Json {
    serde_json::to_value(cursor).expect("cursors are plain")
}

/// The end of an operation: what it found, and where it stands.
pub(crate) fn page(
    found: &mut Vec<Change>,
    cursor: &impl Serialize,
    more: bool,
) -> Step<ChangesPage> {
    Step::Done(Ok(page_of(
        std::mem::take(found),
        cursor_json(cursor),
        more,
        false,
    )))
}

/// A page of what was found. What has no id is counted, and told by its number alone.
pub(crate) fn page_of(
    found: Vec<Change>,
    next: Json,
    more: bool,
    deletions_unknown: bool,
) -> ChangesPage {
    let count = found.len();
    let mut changes = found;
    changes.retain(|change| !change.object.crm_id.is_empty());
    ChangesPage {
        unidentified: count - changes.len(),
        changes,
        next,
        more,
        deletions_unknown,
    }
}

/// The key that a record of a page holds, and what is the matter with the record: a key that was
/// damaged is none.
pub(crate) fn keyed(
    held: Option<&Json>,
    damage: Option<Failure>,
) -> (Option<String>, Option<Failure>) {
    let key = key(held);
    let is_whole = |key: &String| !key.contains(['\0', char::REPLACEMENT_CHARACTER]);
    match key {
        Some(key) if key.contains('\0') => (
            None,
            damage.or_else(|| Some(unreadable_record("its key contains a NUL character"))),
        ),
        Some(key) if damage.is_some() => (Some(key).filter(is_whole), damage),
        key => (key, damage),
    }
}

/// Who changed a record last, as far as it can be told.
pub(crate) fn modified_by(held: &Json) -> Option<String> {
    wire::scalar_text(held).map(|word| crate::errors::clean(&word))
}

/// A key as text, whatever the type of the field that holds it; an empty one is none.
pub fn key(value: Option<&Json>) -> Option<String> {
    let text = match value? {
        // A number's one spelling: `12`, where Salesforce says `12.0`.
        Json::Number(number) => {
            let number = Value::number(&number.to_string()).ok()?;
            number.to_text()?.into_owned()
        }
        value => wire::scalar_text(value)?,
    };
    Some(text).filter(|key| !key.is_empty())
}

/// Whether a text can stand in a statement as the name of something.
pub(crate) fn is_api_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    !text.is_empty() && text.chars().all(fits)
}
