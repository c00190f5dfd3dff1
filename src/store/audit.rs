//! The audit: one row per attempt on a record, in the transaction of its effect.

use pgrx::spi::SpiClient;

use super::StoreError;
use super::config::{Connection, Map};

pub struct Entry<'a> {
    pub shard_key: &'a str,
    pub record_key: &'a str,
    pub crm_id: Option<&'a str>,
    pub operation: &'a str,
    /// A JSON object.
    pub fields: &'a str,
    pub result: &'a str,
    pub attempt: u32,
    pub error_class: Option<&'a str>,
    pub vendor_code: Option<&'a str>,
    pub error: Option<&'a str>,
    pub request_id: Option<&'a str>,
    pub actor: Option<&'a str>,
}

pub fn write(
    client: &mut SpiClient,
    connection: &Connection,
    map: &Map,
    path: &str,
    entries: &[Entry],
) -> Result<(), StoreError> {
    // Most of what is said of a slice is the same for all of its records.
    let mut rest = entries;
    while let Some(first) = rest.first() {
        let n = rest.iter().take_while(|e| e.is_like(first)).count();
        let (alike, others) = rest.split_at(n);
        insert(client, connection, map, path, first, alike)?;
        rest = others;
    }
    Ok(())
}

impl Entry<'_> {
    /// Whether the two differ in what is their record's own alone.
    fn is_like(&self, other: &Entry) -> bool {
        let common = |e: &Self| (e.operation, e.result, e.attempt);
        common(self) == (other.operation, other.result, other.attempt)
            && self.shard_key == other.shard_key
            && self.actor == other.actor
            && (self.error_class, self.vendor_code, self.error)
                == (other.error_class, other.vendor_code, other.error)
    }
}

fn insert(
    client: &mut SpiClient,
    connection: &Connection,
    map: &Map,
    path: &str,
    common: &Entry,
    entries: &[Entry],
) -> Result<(), StoreError> {
    client.update(
        "INSERT INTO crm.audit_log (map_id, connection, provider, relation, path, shard_key, operation, result, attempt, error_class,
                                    vendor_code, error, actor, record_key, crm_id, fields, request_id)
         SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, e.record_key, e.crm_id, e.fields::jsonb, e.request_id
         FROM unnest($14::text[], $15::text[], $16::text[], $17::text[]) AS e (record_key, crm_id, fields, request_id)",
        None,
        &[
            map.id.into(),
            connection.name.as_str().into(),
            connection.provider.as_str().into(),
            map.relation.as_str().into(),
            path.into(),
            common.shard_key.into(),
            common.operation.into(),
            common.result.into(),
            (common.attempt as i32).into(),
            common.error_class.into(),
            common.vendor_code.into(),
            common.error.into(),
            common.actor.into(),
            entries.iter().map(|e| e.record_key).collect::<Vec<_>>().into(),
            entries.iter().map(|e| e.crm_id).collect::<Vec<_>>().into(),
            entries.iter().map(|e| e.fields).collect::<Vec<_>>().into(),
            entries.iter().map(|e| e.request_id).collect::<Vec<_>>().into(),
        ],
    )?;
    Ok(())
}

/// Makes partitions ahead once something is mapped (a database that is being restored brings its own), drops old ones.
pub fn maintain(client: &mut SpiClient, retention_minutes: i32) -> Result<(), StoreError> {
    client.update(
        "SELECT crm.maintain_audit($1 * interval '1 minute') WHERE EXISTS (SELECT FROM crm.object_map)",
        None,
        &[retention_minutes.into()],
    )?;
    Ok(())
}
