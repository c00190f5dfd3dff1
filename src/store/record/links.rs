//! Which row a CRM record goes with: by the ledger, else by the key that the record carries.
//!
//! A CRM record goes with one row and a row with one CRM record. Where two claim one, neither is
//! touched and a conflict says so.

use std::collections::{HashMap, HashSet};

use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::record::key::Key;
use crate::store::row::{self, Columns};
use crate::store::statement::Cached;

impl Key {
    /// The shard key and the record key.
    pub fn parts(&self) -> (&str, &str) {
        (&self.shard_key, &self.record_key)
    }
}

/// A record that the ledger knows.
#[derive(Clone, Debug)]
pub struct Known {
    pub key: Key,
    pub hashes: Vec<u8>,
}

/// The rows' records that these CRM records are linked to, by their place.
pub fn linked(
    client: &SpiClient,
    map: &Map,
    crm_ids: &[&str],
) -> Result<HashMap<usize, Known>, StoreError> {
    let rows = client.select(
        Cached(
            "SELECT k.ord - 1 AS ord, l.shard_key, l.record_key, l.hashes
             FROM unnest($2::text[]) WITH ORDINALITY AS k (crm_id, ord),
                  -- Looked up one by one, whatever is known of the table.
                  LATERAL (SELECT * FROM crm.ledger l WHERE l.map_id = $1 AND l.crm_id = k.crm_id OFFSET 0) l",
        ),
        None,
        &[map.id.into(), crm_ids.to_vec().into()],
    )?;
    let mut known = HashMap::with_capacity(rows.len());
    for row in rows {
        let place = row.number("ord")?;
        let key = Key {
            shard_key: row.required("shard_key")?,
            record_key: row.required("record_key")?,
        };
        let hashes = row
            .optional::<&[u8]>("hashes")?
            .unwrap_or_default()
            .to_vec();
        known.insert(place, Known { key, hashes });
    }
    Ok(known)
}

/// Of these CRM records, those that go with rows of other maps of the same CRM object.
pub fn elsewhere(
    client: &SpiClient,
    map: &Map,
    crm_ids: &[&str],
) -> Result<HashSet<String>, StoreError> {
    let rows = client.select(
        Cached(
            "SELECT l.crm_id
             FROM crm.object_map m
             JOIN crm.object_map o ON o.connection_id = m.connection_id AND lower(o.crm_object) = lower(m.crm_object) AND o.map_id <> m.map_id
             JOIN crm.ledger l ON l.map_id = o.map_id AND l.crm_id = ANY ($2)
             WHERE m.map_id = $1",
        ),
        None,
        &[map.id.into(), crm_ids.to_vec().into()],
    )?;
    let mut found = HashSet::new();
    for row in rows {
        found.insert(row.required("crm_id")?);
    }
    Ok(found)
}

/// What the ledger says of a record that may be linked.
pub enum Candidate {
    /// No CRM record goes with it yet.
    Free,
    /// Another one does.
    Taken(String),
    /// Another session has locked it.
    Locked,
}

/// Locks the ledger rows of records that are to be linked.
pub fn candidates(
    client: &mut SpiClient,
    map: &Map,
    keys: &[&Key],
) -> Result<Vec<Candidate>, StoreError> {
    let rows = client.update(
        Cached(
            "SELECT k.ord - 1 AS ord, l.crm_id, l.locked IS NULL AND EXISTS (
                        SELECT FROM crm.ledger x WHERE x.shard_key = k.shard_key AND x.map_id = $1 AND x.record_key = k.record_key) AS is_locked
             FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS k (shard_key, record_key, ord)
             LEFT JOIN LATERAL (
                 SELECT l.crm_id, true AS locked FROM crm.ledger l
                 WHERE l.shard_key = k.shard_key AND l.map_id = $1 AND l.record_key = k.record_key FOR UPDATE SKIP LOCKED) l ON true",
        ),
        None,
        &[
            map.id.into(),
            keys.iter().map(|k| k.shard_key.as_str()).collect::<Vec<_>>().into(),
            keys.iter().map(|k| k.record_key.as_str()).collect::<Vec<_>>().into(),
        ],
    )?;
    let mut candidates: Vec<Candidate> = keys.iter().map(|_| Candidate::Free).collect();
    for row in rows {
        let place = row.number("ord")?;
        candidates[place] = match (
            row.optional::<String>("crm_id")?,
            row.optional::<bool>("is_locked")?,
        ) {
            (_, Some(true)) => Candidate::Locked,
            (Some(crm_id), _) => Candidate::Taken(crm_id),
            (None, _) => Candidate::Free,
        };
    }
    Ok(candidates)
}

/// Links records, whose ledger rows nobody holds, and queues what waited for a link.
pub fn link(client: &mut SpiClient, map: &Map, links: &[(&Key, &str)]) -> Result<(), StoreError> {
    if links.is_empty() {
        return Ok(());
    }
    client.update(
        Cached("SELECT crm_internal.link_records($1, $2, $3, $4)"),
        None,
        &[
            map.id.into(),
            links
                .iter()
                .map(|(k, _)| k.shard_key.as_str())
                .collect::<Vec<_>>()
                .into(),
            links
                .iter()
                .map(|(k, _)| k.record_key.as_str())
                .collect::<Vec<_>>()
                .into(),
            links.iter().map(|(_, id)| *id).collect::<Vec<_>>().into(),
        ],
    )?;
    Ok(())
}

/// Rows and CRM records that belong together.
pub struct Matched<'a> {
    pub shard_keys: &'a [String],
    pub record_keys: &'a [String],
    pub crm_ids: &'a [String],
    /// The keys that the records carry; `None`: those that they lack are not written.
    pub carried: Option<&'a [String]>,
    pub actor: &'a str,
}

/// Links those that are still free, and queues the keys that their records lack.
pub fn link_matched(
    client: &mut SpiClient,
    map_id: i32,
    matched: &Matched,
) -> Result<(), StoreError> {
    client.update(
        Cached("SELECT crm_internal.link_matched(m, $2, $3, $4, $5, $6) FROM crm.object_map m WHERE m.map_id = $1"),
        None,
        &[
            map_id.into(),
            matched.shard_keys.to_vec().into(),
            matched.record_keys.to_vec().into(),
            matched.crm_ids.to_vec().into(),
            matched.carried.map(<[String]>::to_vec).into(),
            matched.actor.into(),
        ],
    )?;
    Ok(())
}

/// A record whose CRM record was merged into another goes with that one from now on; `false`:
/// another row does already.
pub fn relink(
    client: &mut SpiClient,
    map: &Map,
    key: &Key,
    crm_id: &str,
) -> Result<bool, StoreError> {
    let rows = client.update(
        Cached(
            "WITH relinked AS (
                 UPDATE crm.ledger l SET crm_id = $4, hashes = NULL
                 WHERE l.shard_key = $1 AND l.map_id = $2 AND l.record_key = $3
                   AND NOT EXISTS (SELECT FROM crm.ledger x WHERE x.map_id = $2 AND x.crm_id = $4) RETURNING l.record_key
             ), forgotten AS (
                 UPDATE crm.pending_write p SET snapshot = NULL, snapshot_hashes = NULL FROM relinked
                 WHERE p.shard_key = $1 AND p.map_id = $2 AND p.record_key = $3 AND p.state IN ('queued', 'dead')
             )
             SELECT record_key FROM relinked",
        ),
        None,
        &[
            key.shard_key.as_str().into(),
            map.id.into(),
            key.record_key.as_str().into(),
            crm_id.into(),
        ],
    )?;
    Ok(!rows.is_empty())
}

/// Dissolves the link of a record whose CRM record is gone. One that claimed the row too is looked
/// at again.
pub fn unlink(client: &mut SpiClient, map: &Map, key: &Key) -> Result<(), StoreError> {
    client.update(
        Cached("SELECT crm_internal.unlink_record($1, $2, $3)"),
        None,
        &[
            key.shard_key.as_str().into(),
            map.id.into(),
            key.record_key.as_str().into(),
        ],
    )?;
    Ok(())
}

/// Two CRM records claim one row; `true`: this was not known yet.
pub fn dispute(
    client: &mut SpiClient,
    map: &Map,
    key: &Key,
    linked: &str,
    claims: &str,
) -> Result<bool, StoreError> {
    let rows = client.update(
        Cached(
            "WITH before AS (SELECT crm_value FROM crm.conflict WHERE shard_key = $1 AND map_id = $2 AND record_key = $3 AND field_id = -1)
             INSERT INTO crm.conflict AS c (shard_key, map_id, record_key, field_id, crm_id, conflict_type, local_value, crm_value, policy)
             VALUES ($1, $2, $3, -1, $4, 'duplicate_identity', to_jsonb($4), to_jsonb($5), 'manual_review')
             ON CONFLICT (shard_key, map_id, record_key, field_id) DO UPDATE
             SET crm_id = excluded.crm_id, local_value = excluded.local_value, crm_value = excluded.crm_value, last_attempt = now()
             RETURNING c.crm_value IS DISTINCT FROM (SELECT crm_value FROM before) AS is_news",
        ),
        None,
        &[
            key.shard_key.as_str().into(),
            map.id.into(),
            key.record_key.as_str().into(),
            linked.into(),
            claims.into(),
        ],
    )?;
    row::only(rows)?.required("is_news")
}
