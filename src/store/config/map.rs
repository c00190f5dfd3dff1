//! An object map with what its table is like.

use std::sync::Arc;

use crm_domain::Cells;
use crm_domain::key::KeyEquality;
use crm_domain::mapping::{
    ConflictScope, OnCrmDelete, OnCrmInsert, OnDelete, OnFilterOut, OnInsert,
};
use pgrx::spi::quote_identifier;

use crate::store::config::MappedField;
use crate::store::config::filter::Filter;
use crate::store::config::key_column::KeyColumn;
use crate::store::statement::names::Names;

/// An object map with what its table is like.
pub struct Map {
    pub id: i32,
    pub connection_id: i32,
    /// Schema-qualified and quoted.
    pub relation: String,
    /// What names mean in statements that run as the table's owner.
    pub names: Arc<Names>,
    pub crm_object: String,
    pub key: KeyColumn,
    pub shard: Option<KeyColumn>,
    pub external_id_field: Option<String>,
    /// When the CRM takes two keys for one; `None`: it does not get them.
    pub key_equality: Option<KeyEquality>,
    /// Characters that the CRM has room for in a key, as far as that is known.
    pub key_room: Option<usize>,
    pub on_crm_delete: OnCrmDelete,
    pub on_crm_insert: OnCrmInsert,
    pub on_insert: OnInsert,
    pub on_delete: OnDelete,
    /// The map is about the rows for which it holds.
    pub filter: Option<Filter>,
    pub on_filter_out: OnFilterOut,
    pub in_error: bool,
    /// Otherwise nothing of it is captured, sent or read.
    pub enabled: bool,
    /// The CRM is polled for its changes, and what webhooks name is read.
    pub ingests: bool,
    /// Somebody has called `crm.pause()`.
    pub paused: bool,
    /// Rows are being loaded: what is created and cleared does not count for the fuse.
    pub is_loading: bool,
    /// The fuse holds back what would be written, or taken in.
    pub is_held: bool,
    pub is_inbound_held: bool,
    /// Row security binds even the owner, so a row that is not seen need not be gone.
    pub hides_rows: bool,
    /// It has bidirectional cells, whose edits are sent at once.
    pub realtime: bool,
    pub conflict_scope: ConflictScope,
    /// Milliseconds from now until the next round; not positive: it is due.
    pub next_write_ms: i64,
    /// The CRM has accepted records of its write-back.
    pub has_succeeded: bool,
    pub fields: Vec<MappedField>,
}

impl Map {
    /// Whether its work may go on, as far as that depends on the map alone.
    pub fn works(&self) -> bool {
        self.enabled && !self.paused && !self.in_error
    }

    /// Whether a creation may not write over a record that is there: fields in which people's
    /// values count are compared first, and others are for new records alone.
    pub fn spares_records(&self) -> bool {
        let is_for_new = |f: &MappedField| f.created && (!f.written || f.create_default.is_some());
        self.fields.iter().any(|f| f.is_checked() || is_for_new(f))
    }

    /// Whether what is sent of a record, and what is made of its result, is the same by both: one
    /// of them may have been read after the mapping was changed.
    pub fn maps_alike(&self, other: &Map) -> bool {
        let mut fields = self.fields.iter().zip(&other.fields);
        self.crm_object == other.crm_object
            && self.relation == other.relation
            && self.external_id_field == other.external_id_field
            && self.on_crm_delete == other.on_crm_delete
            && self.spares_records() == other.spares_records()
            && self.fields.len() == other.fields.len()
            && fields.all(|(ours, theirs)| ours.is_mapped_like(theirs))
    }

    /// The condition of the filter.
    pub fn condition(&self) -> Option<&str> {
        self.filter.as_ref().map(|filter| filter.condition.as_str())
    }

    pub fn field(&self, id: u16) -> Option<&MappedField> {
        self.fields.iter().find(|f| f.id == id)
    }

    /// The cells of some of its fields.
    pub fn cells(&self, which: impl Fn(&MappedField) -> bool) -> Cells {
        let fields = self.fields.iter().filter(|field| which(field));
        fields.map(|field| field.id).collect()
    }

    /// What `jsonb_to_record` is to make of an object of these columns: each in its own type. The
    /// table's row type would do as well, but it has the other columns too, and some types refuse
    /// to be empty.
    pub fn record_type<'a>(&self, columns: impl IntoIterator<Item = &'a str>) -> String {
        let definition = |column: &str| {
            let field = self.fields.iter().find(|f| f.column == column);
            let data_type = field.map_or(self.key.type_name(), |f| f.column_type.as_str());
            format!("{} {data_type}", quote_identifier(column))
        };
        let columns: Vec<String> = columns.into_iter().map(definition).collect();
        columns.join(", ")
    }
}
