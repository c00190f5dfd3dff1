//! Records on their way to a CRM and back.

use std::sync::Arc;

use crm_domain::{DataType, Value};

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

#[derive(Clone, Debug)]
pub struct WriteRecord {
    /// Set for `Update` and `Delete`.
    pub crm_id: Option<String>,
    /// Set for `Upsert`.
    pub external_id: Option<String>,
    /// Only what changed; canonical values.
    pub fields: Vec<(Arc<Field>, Value)>,
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
    pub records: Vec<WriteRecord>,
}

#[derive(Clone, Debug)]
pub struct ReadBatch {
    pub object: String,
    pub ids: Vec<String>,
    pub fields: Vec<Arc<Field>>,
}

/// A CRM record as read: the asked fields in the vendor's own form.
#[derive(Clone, Debug, Default)]
pub struct CrmObject {
    pub crm_id: String,
    pub fields: serde_json::Map<String, serde_json::Value>,
    /// When the CRM says it was last modified, UTC milliseconds, if it says so.
    pub modified_at: Option<i64>,
    /// What a conditional write needs (ETag, modification time), if the vendor has one.
    pub version: Option<String>,
}

impl WriteBatch {
    /// The key of the record at `index`, which the plan of a write has made sure of.
    pub(crate) fn key(&self, index: usize) -> &str {
        self.records[index].key(self.kind).unwrap_or_default()
    }

    /// The CRM field that holds our key, for an upsert.
    pub(crate) fn key_field(&self) -> &str {
        self.external_id_field.as_deref().unwrap_or_default()
    }
}
