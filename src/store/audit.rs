//! The audit: one row per attempt on a record, in the transaction of its effect.

use pgrx::spi::SpiClient;
use serde_json::{Map as JsonMap, Value as Json};

use super::config::{Connection, Map};
use super::{Kept, StoreError};

pub struct Entry<'a> {
    pub shard_key: &'a str,
    pub record_key: &'a str,
    pub crm_id: Option<&'a str>,
    pub operation: &'a str,
    pub fields: &'a JsonMap<String, Json>,
    pub result: &'a str,
    pub attempt: u32,
    pub error_class: Option<&'a str>,
    pub vendor_code: Option<&'a str>,
    pub error: Option<&'a str>,
    pub request_id: Option<&'a str>,
    pub actor: Option<&'a str>,
    pub correlation_id: Option<&'a str>,
    pub write_id: Option<&'a str>,
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
    path: &str,
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
    path: &str,
    entries: &[Entry],
) -> Result<(), StoreError> {
    if entries.is_empty() {
        return Ok(());
    }
    let column = |f: fn(&Entry) -> Option<String>| entries.iter().map(f).collect::<Vec<_>>();
    let fields: Vec<String> = entries
        .iter()
        .map(|e| serde_json::to_string(e.fields).unwrap_or_else(|_| "{}".to_owned()))
        .collect();
    client.update(
        Kept("INSERT INTO crm.audit_log (shard_key, map_id, connection, provider, relation, record_key, crm_id, path, operation, fields,
                                    result, attempt, error_class, vendor_code, error, request_id, actor, correlation_id, write_id)
         SELECT e.shard_key, $1, $2, $3, $4, e.record_key, e.crm_id, $5, e.operation, e.fields::jsonb,
                e.result, e.attempt, e.error_class, e.vendor_code, e.error, e.request_id, e.actor, e.correlation_id, e.write_id::uuid
         FROM unnest($6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::int[], $13::text[], $14::text[],
                     $15::text[], $16::text[], $17::text[], $18::text[], $19::text[])
              AS e (shard_key, record_key, crm_id, operation, fields, result, attempt, error_class, vendor_code, error, request_id, actor,
                    correlation_id, write_id)"),
        None,
        &[
            about.map_id.into(),
            about.connection.into(),
            about.provider.into(),
            about.relation.into(),
            path.into(),
            entries.iter().map(|e| e.shard_key).collect::<Vec<_>>().into(),
            entries.iter().map(|e| e.record_key).collect::<Vec<_>>().into(),
            entries.iter().map(|e| e.crm_id).collect::<Vec<_>>().into(),
            entries.iter().map(|e| e.operation).collect::<Vec<_>>().into(),
            fields.into(),
            entries.iter().map(|e| e.result).collect::<Vec<_>>().into(),
            entries.iter().map(|e| e.attempt as i32).collect::<Vec<_>>().into(),
            entries.iter().map(|e| e.error_class).collect::<Vec<_>>().into(),
            column(|e| e.vendor_code.map(str::to_owned)).into(),
            column(|e| e.error.map(str::to_owned)).into(),
            entries.iter().map(|e| e.request_id).collect::<Vec<_>>().into(),
            entries.iter().map(|e| e.actor).collect::<Vec<_>>().into(),
            entries.iter().map(|e| e.correlation_id).collect::<Vec<_>>().into(),
            entries.iter().map(|e| e.write_id).collect::<Vec<_>>().into(),
        ],
    )?;
    Ok(())
}

/// Makes partitions ahead once something is mapped (a database that is being restored brings its own), drops old ones.
pub fn maintain(client: &mut SpiClient, retention_minutes: i32) -> Result<(), StoreError> {
    client.update(
        Kept("SELECT crm.maintain_audit($1 * interval '1 minute') WHERE EXISTS (SELECT FROM crm.object_map)"),
        None,
        &[retention_minutes.into()],
    )?;
    Ok(())
}
