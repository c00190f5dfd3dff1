//! Which row a CRM record goes with: by the ledger, else by the key that the record carries.
//!
//! A CRM record goes with one row and a row with one CRM record. Where two claim one, neither is touched and a conflict
//! says so.

use std::collections::{HashMap, HashSet};

use crm_domain::key::is_blank_key;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::store::config::Map;
use crate::store::error::StoreError;
use crate::store::statement::Cached;
use crate::store::table::pace::{self, Pace};

/// A record's keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub shard_key: String,
    pub record_key: String,
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
            "SELECT k.ord - 1, l.shard_key, l.record_key, l.hashes
             FROM unnest($2::text[]) WITH ORDINALITY AS k (crm_id, ord)
             JOIN crm.ledger l ON l.map_id = $1 AND l.crm_id = k.crm_id",
        ),
        None,
        &[map.id.into(), crm_ids.to_vec().into()],
    )?;
    let mut known = HashMap::with_capacity(rows.len());
    for row in rows {
        let place = row.get::<i64>(1)?.unwrap_or_default() as usize;
        let key = Key {
            shard_key: row.get(2)?.unwrap_or_default(),
            record_key: row.get(3)?.unwrap_or_default(),
        };
        let hashes = row.get::<&[u8]>(4)?.unwrap_or_default().to_vec();
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
        found.extend(row.get::<String>(1)?);
    }
    Ok(found)
}

/// How a link ended that a CRM record once had.
pub struct Former {
    pub record_key: String,
    pub ended: Ended,
}

pub enum Ended {
    /// The CRM deleted the record.
    ByCrm,
    /// The row was deleted, or an operator has rejected it.
    ByUs,
    /// Both went, after the CRM was asked.
    JustNow,
}

pub fn former(
    client: &SpiClient,
    map: &Map,
    asked: &str,
    crm_ids: &[&str],
) -> Result<HashMap<String, Former>, StoreError> {
    let rows = client.select(
        Cached(
            "SELECT f.crm_id, f.record_key, f.ended_by
             FROM (SELECT f.crm_id, f.record_key, f.ended_by, age(f.xmin) AS age FROM crm.former_link f
                   WHERE f.map_id = $1 AND f.crm_id = ANY ($2)) f
             WHERE f.ended_by <> 'both_deleted'
                OR f.age >= 0 AND NOT pg_visible_in_snapshot((pg_current_xact_id()::text::bigint - f.age)::text::xid8, $3::pg_snapshot)",
        ),
        None,
        &[map.id.into(), crm_ids.to_vec().into(), asked.into()],
    )?;
    let mut former = HashMap::new();
    for row in rows {
        let ended = match row.get::<&str>(3)?.unwrap_or_default() {
            "crm_deleted" => Ended::ByCrm,
            "both_deleted" => Ended::JustNow,
            _ => Ended::ByUs,
        };
        let record_key = row.get(2)?.unwrap_or_default();
        former.insert(
            row.get(1)?.unwrap_or_default(),
            Former { record_key, ended },
        );
    }
    Ok(former)
}

/// How a statement ends that deletes rows of the ledger, `known`, whose records went too: what was read of these before
/// is on its way, perhaps.
pub const BOTH_WENT: &str = "INSERT INTO crm.former_link (shard_key, map_id, crm_id, record_key, ended_by)
    SELECT k.shard_key, k.map_id, k.crm_id, k.record_key, 'both_deleted' FROM known k JOIN crm.object_map m USING (map_id)
    WHERE k.crm_id IS NOT NULL AND m.on_crm_insert = 'insert'
    ON CONFLICT (shard_key, map_id, crm_id) DO UPDATE SET ended_by = excluded.ended_by, ended_at = now()";

/// Forgets what no answer that is on its way can speak of any more.
pub fn prune_former(client: &mut SpiClient) -> Result<(), StoreError> {
    client.update(
        Cached("DELETE FROM crm.former_link WHERE ended_by = 'both_deleted' AND ended_at < now() - interval '1 day'"),
        None,
        &[],
    )?;
    Ok(())
}

/// Of these keys, which no row has, those that a row had: it was deleted before it was heard whether the CRM made its record.
pub fn unborn(
    client: &SpiClient,
    map: &Map,
    keys: &[&str],
) -> Result<HashMap<String, Key>, StoreError> {
    let rows = client.select(
        Cached(
            "SELECT u.shard_key, u.record_key FROM crm.unborn u WHERE u.map_id = $1 AND u.record_key = ANY ($2)
             UNION ALL
             SELECT c.shard_key, k FROM crm.change c, unnest(c.record_keys) AS k
             WHERE c.map_id = $1 AND c.op = 'd' AND c.record_keys && $2 AND k = ANY ($2)
             UNION ALL
             SELECT l.shard_key, l.record_key FROM crm.ledger l
             WHERE l.shard_key = '' AND l.map_id = $1 AND l.record_key = ANY ($2)",
        ),
        None,
        &[map.id.into(), keys.to_vec().into()],
    )?;
    let mut unborn = HashMap::new();
    for row in rows {
        let key = Key {
            shard_key: row.get(1)?.unwrap_or_default(),
            record_key: row.get(2)?.unwrap_or_default(),
        };
        unborn.insert(key.record_key.clone(), key);
    }
    Ok(unborn)
}

/// The record of a row that is gone is deleted too, or stays and is not inserted; `false`: the ledger still has the row, and
/// sees to its record once they are linked.
pub fn bury(
    client: &mut SpiClient,
    map: &Map,
    key: &Key,
    crm_id: &str,
) -> Result<bool, StoreError> {
    let rows = client.update(
        Cached(
            "WITH map AS (
                 SELECT m.map_id, m.on_delete = 'delete' AS deletes FROM crm.object_map m
                 WHERE m.map_id = $2 AND NOT EXISTS (SELECT FROM crm.ledger l
                                                     WHERE l.shard_key = $1 AND l.map_id = $2 AND l.record_key = $3)
             ), linked AS (
                 INSERT INTO crm.ledger (shard_key, map_id, record_key, crm_id) SELECT $1, map_id, $3, $4 FROM map WHERE deletes
             ), queued AS (
                 INSERT INTO crm.queue (shard_key, map_id, record_key, op) SELECT $1, map_id, $3, 'd' FROM map WHERE deletes
             ), kept AS (
                 INSERT INTO crm.former_link (shard_key, map_id, crm_id, record_key, ended_by)
                 SELECT $1, map_id, $4, $3, 'row_deleted' FROM map WHERE NOT deletes
                 ON CONFLICT (shard_key, map_id, crm_id) DO UPDATE SET ended_by = excluded.ended_by, ended_at = now()
             ), known AS (
                 DELETE FROM crm.unborn u USING map WHERE u.shard_key = $1 AND u.map_id = $2 AND u.record_key = $3
             )
             SELECT FROM map",
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

/// Remembers which of these CRM records carry another key than their row's, and which one. Most carry none, or the row's.
pub fn carry(
    client: &mut SpiClient,
    map: &Map,
    linked: &[(&str, Option<&str>, &str)],
) -> Result<(), StoreError> {
    let Some(equality) = map.key_equality.filter(|_| !linked.is_empty()) else {
        return Ok(());
    };
    let (mut others, mut own) = (Vec::new(), Vec::new());
    for (crm_id, external_id, record_key) in linked {
        match external_id {
            Some(key) if !is_blank_key(key) && !equality.are_one(key, record_key) => {
                others.push((*crm_id, *key));
            }
            _ => own.push(*crm_id),
        }
    }
    if !own.is_empty() {
        client.update(
            Cached("DELETE FROM crm.carried_key WHERE map_id = $1 AND crm_id = ANY ($2)"),
            None,
            &[map.id.into(), own.into()],
        )?;
    }
    if !others.is_empty() {
        client.update(
            Cached(
                "INSERT INTO crm.carried_key AS c (map_id, crm_id, external_id)
                 SELECT $1, k.crm_id, k.external_id FROM unnest($2::text[], $3::text[]) AS k (crm_id, external_id)
                 ON CONFLICT (map_id, crm_id) DO UPDATE SET external_id = excluded.external_id
                 WHERE c.external_id <> excluded.external_id",
            ),
            None,
            &[
                map.id.into(),
                others.iter().map(|(id, _)| *id).collect::<Vec<_>>().into(),
                others.iter().map(|(_, key)| *key).collect::<Vec<_>>().into(),
            ],
        )?;
    }
    Ok(())
}

/// What a text is as a key of a table.
pub struct Sought {
    /// As capture spells it.
    pub record_key: String,
    /// Of the row that has it.
    pub row: Option<Key>,
}

/// What a look for rows by their keys has found, by the place of the key.
pub struct Looked {
    /// Without those that cannot be a key of the table.
    pub found: HashMap<usize, Sought>,
    /// Keys for which the look failed, so that it is not known whether there is a row.
    pub unknown: HashMap<usize, StoreError>,
}

/// Looks for the rows of a map's table that have these keys.
pub fn rows_of(map: &Map, keys: &[&str]) -> Result<Looked, StoreError> {
    let all: Vec<usize> = (0..keys.len()).collect();
    let (mut found, mut unknown) = (HashMap::new(), HashMap::new());
    let mut pace = Pace::putting_off(map, pace::limit());
    let failed = pace::each(&mut pace, &all, |pace, part| {
        let some: Vec<&str> = part.iter().map(|&n| keys[n]).collect();
        let rows = pace.run(part.len(), || read_rows(map, &some))?;
        found.extend(rows.into_iter().map(|(n, key)| (part[n], key)));
        Ok(())
    });
    for (n, error) in failed {
        if matches!(error, StoreError::Before { .. }) {
            return Err(error);
        }
        // Otherwise the text is not a value of the key's type.
        if !error.is_about_values() {
            unknown.insert(n, error);
        }
    }
    Ok(Looked { found, unknown })
}

fn read_rows(map: &Map, keys: &[&str]) -> Result<HashMap<usize, Sought>, StoreError> {
    let statement = format!(
        "SELECT k.ord - 1, {}, {}, {}
         FROM pg_catalog.unnest($1::pg_catalog.text[]) WITH ORDINALITY AS k (key, ord)
         LEFT JOIN {} AS t ON {}",
        map.record_key_of("k.key"),
        map.shard_key("t"),
        map.record_key("t"),
        map.relation,
        map.has_key("k.key"),
    );
    Spi::connect_mut(|client| {
        let mut found = HashMap::new();
        for row in client.update(Cached(&statement), None, &[keys.to_vec().into()])? {
            let (shard_key, record_key) = (row.get(3)?.unwrap_or_default(), row.get(4)?);
            let sought = Sought {
                record_key: row.get(2)?.unwrap_or_default(),
                row: record_key.map(|record_key| Key {
                    shard_key,
                    record_key,
                }),
            };
            found.insert(row.get::<i64>(1)?.unwrap_or_default() as usize, sought);
        }
        Ok(found)
    })
}

/// What the ledger says of a record that may be linked.
pub enum Candidate {
    /// No CRM record goes with it yet.
    Free,
    /// Another one does.
    Taken(String),
    /// Somebody holds it.
    Held,
}

/// Locks the ledger rows of records that are to be linked.
pub fn candidates(
    client: &mut SpiClient,
    map: &Map,
    keys: &[&Key],
) -> Result<Vec<Candidate>, StoreError> {
    let rows = client.update(
        Cached(
            "SELECT k.ord - 1, l.crm_id, l.locked IS NULL AND EXISTS (
                        SELECT FROM crm.ledger x WHERE x.shard_key = k.shard_key AND x.map_id = $1 AND x.record_key = k.record_key)
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
        let place = row.get::<i64>(1)?.unwrap_or_default() as usize;
        candidates[place] = match (row.get::<String>(2)?, row.get::<bool>(3)?) {
            (_, Some(true)) => Candidate::Held,
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

/// A record whose CRM record was merged into another goes with that one from now on; `false`: another row does already.
pub fn relink(
    client: &mut SpiClient,
    map: &Map,
    key: &Key,
    crm_id: &str,
) -> Result<bool, StoreError> {
    let rows = client.update(
        Cached(
            "UPDATE crm.ledger l SET crm_id = $4, hashes = NULL
             WHERE l.shard_key = $1 AND l.map_id = $2 AND l.record_key = $3
               AND NOT EXISTS (SELECT FROM crm.ledger x WHERE x.map_id = $2 AND x.crm_id = $4) RETURNING l.record_key",
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

/// Dissolves the link of a record whose CRM record is gone. One that claimed the row too is looked at again.
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

/// Two CRM records claim one row; `true`: that is news.
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
             RETURNING c.crm_value IS DISTINCT FROM (SELECT crm_value FROM before)",
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
    let news = rows.first().get_one::<bool>()?;
    Ok(news.unwrap_or_default())
}

/// Places of texts that were seen before in the list.
pub fn repeated(keys: &[&str]) -> HashSet<usize> {
    let mut seen = HashSet::new();
    let repeats = keys
        .iter()
        .enumerate()
        .filter(|(_, key)| !seen.insert(**key));
    repeats.map(|(n, _)| n).collect()
}
