//! The audit: one row per attempt on a record, in the transaction of its effect. A value that it
//! cannot hold is replaced by a note, so that what a CRM took can be written down whatever it was.

use crm_domain::storable::{storable, storable_text};
use crm_domain::{AuditResult, Failure, Operation, Path};
use pgrx::spi::SpiClient;

use crate::counters::{self, Counter};
use crate::store::config::connection::Connection;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::statement::Cached;

/// One attempt on a record.
#[derive(Clone)]
pub struct Entry<'a> {
    pub shard_key: &'a str,
    pub record_key: &'a str,
    pub operation: Operation,
    pub result: AuditResult,
    pub crm_id: Option<&'a str>,
    /// A JSON object.
    pub fields: &'a str,
    pub attempt: u32,
    pub error_class: Option<&'a str>,
    pub vendor_code: Option<&'a str>,
    pub error: Option<&'a str>,
    pub request_id: Option<&'a str>,
    pub actor: Option<&'a str>,
    pub correlation_id: Option<&'a str>,
    /// Of the round or pass.
    pub operation_id: Option<&'a str>,
    pub write_id: Option<&'a str>,
    /// Further calls of `crm.write()` of which this is true.
    pub folded: &'a [String],
}

impl<'a> Entry<'a> {
    /// A first attempt without an error. `key`: the record's shard_key and record_key.
    pub fn new(key: (&'a str, &'a str), operation: Operation, result: AuditResult) -> Entry<'a> {
        Entry {
            shard_key: key.0,
            record_key: key.1,
            operation,
            result,
            crm_id: None,
            fields: "{}",
            attempt: 1,
            error_class: None,
            vendor_code: None,
            error: None,
            request_id: None,
            actor: None,
            correlation_id: None,
            operation_id: None,
            write_id: None,
            folded: &[],
        }
    }

    /// The same with a failure, if there was one.
    pub fn with_failure(self, failure: Option<&'a Failure>) -> Entry<'a> {
        Entry {
            error_class: failure.map(|f| f.class.name()),
            vendor_code: failure.map(|f| f.code.as_str()),
            error: failure.map(|f| f.message.as_str()),
            ..self
        }
    }

    /// What most entries of a batch have in common.
    fn common(
        &self,
    ) -> (
        &'static str,
        &'static str,
        u32,
        &'a [String],
        Option<&'a str>,
    ) {
        (
            self.operation.name(),
            self.result.name(),
            self.attempt,
            self.folded,
            self.operation_id,
        )
    }
}

/// What entries have in common.
pub struct About<'a> {
    pub map_id: i32,
    pub connection: &'a str,
    pub provider: &'a str,
    pub relation: &'a str,
}

pub fn write(
    client: &mut SpiClient,
    connection: &Connection,
    map: &Map,
    path: Path,
    entries: &[Entry],
) -> Result<(), StoreError> {
    let about = About {
        map_id: map.id,
        connection: &connection.name,
        provider: &connection.provider,
        relation: &map.relation,
    };
    write_about(client, &about, path, entries)
}

pub fn write_about(
    client: &mut SpiClient,
    about: &About,
    path: Path,
    entries: &[Entry],
) -> Result<(), StoreError> {
    // Most records of a batch went the same way: one statement for all of those.
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by_key(|e| e.common());
    for alike in sorted.chunk_by(|a, b| a.common() == b.common()) {
        insert(client, about, path, alike)?;
    }
    for entry in entries {
        let counter = Counter::Records {
            map_id: about.map_id,
            path,
            result: entry.result,
            class: entry.error_class.and_then(|name| name.parse().ok()),
        };
        counters::add_at_commit(counter, 1);
    }
    Ok(())
}

fn insert(
    client: &mut SpiClient,
    about: &About,
    path: Path,
    alike: &[&Entry],
) -> Result<(), StoreError> {
    let common = alike[0];
    let fields: Vec<_> = alike.iter().map(|e| storable(e.fields)).collect();
    let errors: Vec<_> = alike.iter().map(|e| e.error.map(storable_text)).collect();
    let folded = (!common.folded.is_empty()).then(|| common.folded.to_vec());
    client.update(
        Cached("INSERT INTO crm.audit_log (map_id, connection, provider, relation, path, operation, result, attempt, folded, shard_key, record_key, crm_id,
                                    fields, error_class, vendor_code, error, request_id, actor, correlation_id, write_id, operation_id)
         SELECT $1, $2, $3, $4, $5, $6, $7, $8, $20::text[]::uuid[], e.shard_key, e.record_key, e.crm_id,
                e.fields::jsonb, e.error_class, e.vendor_code, e.error, e.request_id, e.actor, e.correlation_id, e.write_id::uuid, $21::uuid
         FROM unnest($9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[],
                     $18::text[], $19::text[])
              AS e (shard_key, record_key, crm_id, fields, error_class, vendor_code, error, request_id, actor, correlation_id, write_id)"),
        None,
        &[
            about.map_id.into(),
            about.connection.into(),
            about.provider.into(),
            about.relation.into(),
            path.name().into(),
            common.operation.name().into(),
            common.result.name().into(),
            (common.attempt as i32).into(),
            alike.iter().map(|e| e.shard_key).collect::<Vec<_>>().into(),
            alike.iter().map(|e| e.record_key).collect::<Vec<_>>().into(),
            alike.iter().map(|e| e.crm_id).collect::<Vec<_>>().into(),
            fields.iter().map(|f| f.as_ref()).collect::<Vec<&str>>().into(),
            alike.iter().map(|e| e.error_class).collect::<Vec<_>>().into(),
            alike.iter().map(|e| e.vendor_code).collect::<Vec<_>>().into(),
            errors.iter().map(|e| e.as_deref()).collect::<Vec<Option<&str>>>().into(),
            alike.iter().map(|e| e.request_id).collect::<Vec<_>>().into(),
            alike.iter().map(|e| e.actor).collect::<Vec<_>>().into(),
            alike.iter().map(|e| e.correlation_id).collect::<Vec<_>>().into(),
            alike.iter().map(|e| e.write_id).collect::<Vec<_>>().into(),
            folded.into(),
            common.operation_id.into(),
        ],
    )?;
    Ok(())
}

/// Makes partitions ahead once something is mapped (a database that is being restored brings its
/// own), drops old ones.
pub fn maintain(client: &mut SpiClient, retention_minutes: i32) -> Result<(), StoreError> {
    client.update(
        Cached("SELECT crm_internal.maintain_audit($1 * interval '1 minute') WHERE EXISTS (SELECT FROM crm.object_map)"),
        None,
        &[retention_minutes.into()],
    )?;
    Ok(())
}
