//! Records as they are written to a CRM and read from it.

use std::sync::Arc;

use crm_domain::{DataType, Failure, Value};

use crate::errors::unreadable_record;

/// What a batch does. A batch is of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WriteKind {
    /// Change fields of the record `crm_id`; never creates.
    Update,
    /// Create the record whose external id field holds `external_id`, or update it if it is there.
    Upsert,
    /// Delete (archive) the record `crm_id`.
    Delete,
}

impl WriteKind {
    pub fn name(self) -> &'static str {
        match self {
            WriteKind::Update => "update",
            WriteKind::Upsert => "upsert",
            WriteKind::Delete => "delete",
        }
    }
}

/// A mapped field as the provider needs to know it.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub data_type: DataType,
}

/// What keeps a write from overwriting a change that nobody read: the answer of
/// [`crate::Provider::guard`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The CRM itself compares [`WriteRecord::unless_changed`] as it writes. A record that was
    /// changed is not written and fails as [`crm_domain::Failure::is_stale`].
    Atomic,
    /// The CRM writes whatever it holds, but keeps a history: ask [`crate::Provider::overwritten`]
    /// after the write.
    Afterwards,
    /// Neither. To read shortly before writing is all that can be done.
    None,
}

#[derive(Clone, Debug, Default)]
pub struct WriteRecord {
    /// Set for `Update` and `Delete`.
    pub crm_id: Option<String>,
    /// Set for `Upsert`.
    pub external_id: Option<String>,
    /// Only what changed; canonical values.
    pub fields: Vec<(Arc<Field>, Value)>,
    /// The [`CrmObject::version`] of the read that this write is based on: write only if the record
    /// is still that. Honoured where [`crate::Provider::guard`] says [`Guard::Atomic`], elsewhere
    /// only sometimes; `None` writes whatever the CRM holds.
    pub unless_changed: Option<String>,
}

impl WriteRecord {
    /// What names the record in a batch of that kind; `None` if it lacks it.
    pub fn key(&self, kind: WriteKind) -> Option<&str> {
        let key = match kind {
            WriteKind::Update | WriteKind::Delete => &self.crm_id,
            WriteKind::Upsert => &self.external_id,
        };
        key.as_deref().filter(|key| !key.is_empty())
    }
}

#[derive(Clone, Debug)]
pub struct WriteBatch {
    pub object: String,
    pub kind: WriteKind,
    /// The CRM field that holds our key; set for `Upsert`.
    pub external_id_field: Option<String>,
    /// Of an `Upsert`: a record that is there already is not written. Its outcome names it, as one
    /// that was not created. Where the CRM knows no such condition, whoever makes the record while
    /// this looks for it has it written over all the same.
    pub creates_only: bool,
    pub records: Vec<WriteRecord>,
}

#[derive(Clone, Debug, Default)]
pub struct ReadBatch {
    pub object: String,
    pub ids: Vec<String>,
    pub fields: Vec<Arc<Field>>,
    /// Whether writes will be based on this read. It then takes as long as a version needs that
    /// protects: where the CRM tells times in seconds, a record that was changed in the very second
    /// of the read is read again in the next one.
    pub for_write: bool,
}

/// A CRM record as read: the asked fields in the vendor's own form.
#[derive(Clone, Debug, Default)]
pub struct CrmObject {
    pub crm_id: String,
    pub fields: serde_json::Map<String, serde_json::Value>,
    /// When the CRM says it was last modified, UTC milliseconds, if it says so.
    pub modified_at: Option<i64>,
    /// What [`WriteRecord::unless_changed`] takes; opaque. It is only ever given if it protects. So
    /// where the provider guards at all and the read was [`ReadBatch::for_write`], `None` means
    /// that the record kept changing while it was read: try later.
    pub version: Option<String>,
    /// Why nothing of its fields is known: the CRM's answer could not be read as far as it speaks
    /// of this record.
    pub damage: Option<Failure>,
}

/// Records that were read, in the order in which they were asked for. What nothing was found of is
/// gone; unless the answer held records of which cannot be read which they are: then it may be one
/// of these.
pub(crate) fn in_order(
    ids: &[String],
    unidentified: usize,
    found: impl Fn(&str) -> Option<CrmObject>,
) -> Vec<Option<CrmObject>> {
    let stray = |id: &String| CrmObject {
        crm_id: id.clone(),
        damage: Some(unreadable_record("the answer does not identify the record")),
        ..CrmObject::default()
    };
    let one = |id: &String| found(id).or_else(|| (unidentified > 0).then(|| stray(id)));
    ids.iter().map(one).collect()
}

/// Writes that were done without [`Guard::Atomic`], to be looked at afterwards.
#[derive(Clone, Debug)]
pub struct DoneBatch {
    pub object: String,
    pub records: Vec<DoneRecord>,
}

#[derive(Clone, Debug)]
pub struct DoneRecord {
    pub crm_id: String,
    /// [`CrmObject::modified_at`] of the read that the write was based on.
    pub modified_at: Option<i64>,
    pub fields: Vec<DoneField>,
}

#[derive(Clone, Debug)]
pub struct DoneField {
    pub field: Arc<Field>,
    /// What the CRM held when it was read.
    pub read: Value,
    pub written: Value,
}

/// A value that somebody else set between our read and our write, and that our write replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overwritten {
    pub field: Arc<Field>,
    /// In the vendor's own form, like [`CrmObject::fields`].
    pub value: serde_json::Value,
    /// When it was set by the CRM's clock, UTC milliseconds.
    pub modified_at: Option<i64>,
    /// Who or what set it, in the vendor's words (`CRM_UI userId:98`).
    pub source: Option<String>,
}

impl WriteBatch {
    /// A batch of the same kind without records.
    pub(crate) fn like(other: &WriteBatch) -> WriteBatch {
        WriteBatch {
            object: other.object.clone(),
            external_id_field: other.external_id_field.clone(),
            records: Vec::new(),
            ..*other
        }
    }

    /// The key of the record at `index`, which the plan of a write has made sure of.
    pub(crate) fn key(&self, index: usize) -> &str {
        self.records[index].key(self.kind).unwrap_or_default()
    }

    /// The CRM field that holds our key, for an upsert.
    pub(crate) fn key_field(&self) -> &str {
        self.external_id_field.as_deref().unwrap_or_default()
    }
}
