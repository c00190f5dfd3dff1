//! Requests for changes: a page of them, or records that are read by themselves.

use std::sync::Arc;

use crm_domain::{DataType, Failure};
use crm_provider::record::Field;
use crm_provider::{ChangesQuery, ReadBatch};
use serde_json::Value as Json;

use super::canonical;
use crate::store::config::{Connection, Map};
use crate::store::ingest::Incoming;
use crate::store::ingest::refetch::Refetch;
use crate::worker::link::{Priority, RequestContext, SharedLink};

/// Records of a page, unless the vendor takes fewer: what one transaction applies.
pub const PAGE: usize = 2000;

/// A request in flight.
pub struct PollRequest {
    pub map: Arc<Map>,
    pub connection: Arc<Connection>,
    /// See [`crate::store::ingest::state::moment`].
    pub asked: String,
    pub target: Target,
}

pub enum Target {
    /// The changes after that cursor; `None`: every record.
    Page {
        since: Option<Json>,
    },
    Records(Vec<Refetch>),
}

impl PollRequest {
    pub fn is_page(&self) -> bool {
        matches!(self.target, Target::Page { .. })
    }

    /// Whether it reads records by themselves that failed before.
    pub fn reads_failed(&self) -> bool {
        match &self.target {
            Target::Records(records) => records.iter().any(|r| r.attempts > 0),
            Target::Page { .. } => false,
        }
    }

    /// The request to read a record by itself that brought it, if that was it.
    pub fn reread_of(&self, record: &Incoming) -> Refetch {
        let requested = match &self.target {
            Target::Records(records) => records.iter().find(|r| r.crm_id == record.crm_id),
            Target::Page { .. } => None,
        };
        requested.cloned().unwrap_or_else(|| Refetch {
            crm_id: record.crm_id.clone(),
            revision: 0,
            attempts: 0,
            merged_into: None,
        })
    }
}

/// A CRM's response.
pub struct PollResult {
    pub records: Vec<Incoming>,
    /// Of a page: where to go on, and whether at once.
    pub next: Option<(Json, bool)>,
    /// How many records the CRM has, if that was requested.
    pub total: Option<u64>,
    /// The CRM does not report which records were deleted before.
    pub blind: bool,
    /// Records that the response does not identify.
    pub strays: usize,
}

/// The map whose CRM is polled, and how to reach it.
#[derive(Clone)]
pub struct Source {
    pub map: Arc<Map>,
    pub connection: Arc<Connection>,
    pub link: SharedLink,
}

impl Source {
    pub fn page_query(&self, since: Option<Json>, limit: usize) -> ChangesQuery {
        ChangesQuery {
            object: self.map.crm_object.clone(),
            fields: self.map.fields.iter().map(|f| f.field.clone()).collect(),
            external_id_field: self.map.external_id_field.clone(),
            since,
            limit,
        }
    }

    pub async fn page(
        &self,
        priority: Priority,
        query: ChangesQuery,
    ) -> Result<PollResult, Failure> {
        let Source { map, link, .. } = self;
        let context = RequestContext::of_map(priority, map.id);
        let mut total = None;
        if query.since.is_none()
            && let Some(count) = link.provider.count(&link.settings, &map.crm_object)
        {
            // For those who watch; the page will show what is wrong, if something is.
            total = link.run(&context, count).await.ok();
        }
        let changes = link.provider.changes(&link.settings, Arc::new(query));
        let page = link.run(&context, changes).await?;
        let records = page.changes.into_iter();
        Ok(PollResult {
            records: records
                .map(|change| canonical::changed(link, map, change))
                .collect(),
            next: Some((page.next, page.more)),
            total,
            blind: page.deletions_unknown,
            strays: page.unidentified,
        })
    }

    pub async fn records(&self, due: &[Refetch]) -> Result<PollResult, Failure> {
        let Source { map, link, .. } = self;
        let mut fields: Vec<Arc<Field>> = map.fields.iter().map(|f| f.field.clone()).collect();
        if let Some(name) = &map.external_id_field
            && !fields.iter().any(|f| f.name == *name)
        {
            fields.push(Arc::new(Field {
                name: name.clone(),
                data_type: DataType::Text,
            }));
        }
        let batch = ReadBatch {
            object: map.crm_object.clone(),
            ids: due.iter().map(|r| r.crm_id.clone()).collect(),
            fields,
            for_write: false,
        };
        let read = link.provider.read(&link.settings, Arc::new(batch));
        let context = RequestContext::of_map(Priority::Ingest, map.id);
        let objects = link.run(&context, read).await?;
        let records = due.iter().zip(objects).map(|(r, object)| {
            let into = r.merged_into.as_deref();
            canonical::read(link, map, &r.crm_id, into, object)
        });
        Ok(PollResult {
            records: records.collect(),
            next: None,
            total: None,
            blind: false,
            strays: 0,
        })
    }
}
