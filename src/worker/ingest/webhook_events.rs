//! Events of webhooks: each names a record, which is read by itself soon.

use std::sync::Arc;

use crate::failpoint;
use crate::store::config::{Connection, Map};
use crate::store::ingest::refetch;
use crate::store::webhook_inbox::{self, InboxEvent};
use crate::store::{StoreError, transaction};

/// Has the records read that webhooks named, each once; whether there are more.
pub fn queue_reads(connection: &Connection, maps: &[Arc<Map>]) -> Result<bool, StoreError> {
    let Some(provider) = crm_provider::provider(&connection.provider) else {
        return Ok(false);
    };
    transaction(|client| {
        let events = webhook_inbox::waiting(client, connection.id)?;
        if events.is_empty() {
            return Ok(false);
        }
        let reads = |m: &&Arc<Map>| m.connection_id == connection.id && m.ingests;
        for map in maps.iter().filter(reads) {
            let concerns_map =
                |e: &&InboxEvent| provider.same_object(&e.crm_object, &map.crm_object);
            let events = events.iter().filter(concerns_map);
            let ids: Vec<String> = events.map(|e| provider.record_id(&e.crm_id)).collect();
            let ids: Vec<(&str, Option<&str>)> = ids.iter().map(|id| (id.as_str(), None)).collect();
            refetch::ask(client, map.id, &ids, 0)?;
        }
        webhook_inbox::done(client, connection.id, &events)?;
        failpoint::reach("webhooks::before_commit");
        Ok(events.len() == webhook_inbox::TAKEN_AT_ONCE)
    })
}
