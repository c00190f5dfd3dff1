//! Records of one map whose keys the CRM would take for one.
//!
//! Only one of them can have the CRM's record, and it is found out before anything is sent. Every
//! record that is linked or queued has its row in the ledger, so that is where rivals are looked
//! for: an index has the keys that are not their own folded form ([`crm_domain::key::folded`]), and
//! the folded form itself is a key like any other. What a CRM record was read to carry that is not
//! its row's key is in `crm.mismatched_key`.

use std::collections::HashMap;

use crm_domain::key::{folded, is_blank_key};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::row::Columns;
use crate::store::statement::{Cached, CachedIfFew};

/// Another record that has a key's CRM record, or may have it.
pub struct Rival {
    pub shard_key: String,
    pub record_key: String,
    pub crm_id: Option<String>,
    /// It is linked or in flight, or it was sent and its outcome is unknown.
    pub holds: bool,
    /// Something is still to be sent of it.
    pub is_queued: bool,
}

impl Rival {
    /// What comes of it is soon known.
    pub fn is_in_flight(&self) -> bool {
        self.holds && self.crm_id.is_none() && self.is_queued
    }
}

/// The condition of the index, word for word.
const IN_INDEX: &str = "(crm_internal.folded_key(l.record_key) IS NOT NULL OR l.shard_key <> '')";

/// Whether a creation may have reached the CRM without an answer.
fn was_sent(alias: &str) -> String {
    format!(
        "EXISTS (SELECT FROM crm.audit_log a
                 WHERE a.map_id = $1 AND a.record_key = {alias}.record_key AND a.operation = 'create' AND a.result IN ('retry', 'dead')
                   AND a.error_class NOT IN ('validation', 'mapping', 'conflict', 'rate_limited', 'auth'))"
    )
}

/// Rows of the ledger with such a key. Of numbers and uuids no two are one.
fn of_keys() -> String {
    format!(
        "SELECT l.shard_key, l.record_key, l.crm_id, l.record_key AS carried FROM crm.ledger l
         WHERE l.map_id = $1 AND {IN_INDEX}
           AND hashtextextended(coalesce(crm_internal.folded_key(l.record_key), l.record_key), 0) = hashtextextended(k.folded, 0)
         UNION ALL
         SELECT l.shard_key, l.record_key, l.crm_id, l.record_key FROM crm.ledger l
         WHERE k.folded <> k.record_key AND l.shard_key = '' AND l.map_id = $1 AND l.record_key = k.folded
         UNION ALL"
    )
}

/// The rivals of these records, by place. `unsettled`: records whose last results wait to be
/// written down.
pub fn rivals(
    map: &Map,
    records: &[(&str, &str)],
    unsettled: &[(&str, &str)],
) -> Result<HashMap<usize, Vec<Rival>>, StoreError> {
    let mut rivals: HashMap<usize, Vec<Rival>> = HashMap::new();
    let Some(equality) = map.key_equality.filter(|_| !records.is_empty()) else {
        return Ok(rivals);
    };
    let of_keys = match map.key.holds_text {
        true => of_keys(),
        false => String::new(),
    };
    let (was_sent, rival_was_sent) = (was_sent("k"), was_sent("l"));
    let statement = format!(
        "SELECT k.ord - 1 AS ord, l.shard_key, l.record_key, l.crm_id, l.carried,
                l.crm_id IS NOT NULL
                OR (l.shard_key, l.record_key) IN (SELECT * FROM unnest($5::text[], $6::text[]))
                OR EXISTS (SELECT FROM crm.claim c WHERE c.map_id = $1 AND c.path = 'batch' AND l.record_key = ANY (c.record_keys))
                OR EXISTS (SELECT FROM crm.queue q
                           WHERE q.shard_key = l.shard_key AND q.map_id = $1 AND q.record_key = l.record_key AND q.op = 'c')
                   AND {rival_was_sent}
                   -- Of two that were, one goes first.
                   AND ((l.shard_key, l.record_key) < (k.shard_key, k.record_key) OR NOT {was_sent}) AS holds,
                EXISTS (SELECT FROM crm.queue q
                        WHERE q.shard_key = l.shard_key AND q.map_id = $1 AND q.record_key = l.record_key AND q.state = 'queued') AS is_queued
         FROM unnest($2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS k (shard_key, record_key, folded, ord)
         CROSS JOIN LATERAL (
             {of_keys}
             SELECT l.shard_key, l.record_key, l.crm_id, c.external_id AS carried FROM crm.mismatched_key c
             JOIN crm.ledger l ON l.map_id = c.map_id AND l.crm_id = c.crm_id
             WHERE c.map_id = $1
               AND hashtextextended(coalesce(crm_internal.folded_key(c.external_id), c.external_id), 0) = hashtextextended(k.folded, 0)) l
         WHERE l.shard_key <> k.shard_key OR l.record_key <> k.record_key"
    );
    Spi::connect_mut(|client| {
        let list = |of: fn(&(&str, &str)) -> String, from: &[(&str, &str)]| -> Vec<String> {
            from.iter().map(of).collect()
        };
        let (shard, key) = (
            |r: &(&str, &str)| r.0.to_owned(),
            |r: &(&str, &str)| r.1.to_owned(),
        );
        let rows = client.update(
            CachedIfFew(&statement, records.len()),
            None,
            &[
                map.id.into(),
                list(shard, records).into(),
                list(key, records).into(),
                list(|r| folded(r.1).into_owned(), records).into(),
                list(shard, unsettled).into(),
                list(key, unsettled).into(),
            ],
        )?;
        for row in rows {
            let place = row.number("ord")?;
            let rival = Rival {
                shard_key: row.required("shard_key")?,
                record_key: row.required("record_key")?,
                crm_id: row.optional("crm_id")?,
                holds: row.required("holds")?,
                is_queued: row.required("is_queued")?,
            };
            let carried = row.required::<&str>("carried")?;
            if equality.are_one(carried, records[place].1) {
                rivals.entry(place).or_default().push(rival);
            }
        }
        Ok(rivals)
    })
}

/// Leaves records for a moment, until it is known what comes of their rivals.
pub fn put_off(map: &Map, records: &[(&str, &str)]) -> Result<(), StoreError> {
    if records.is_empty() {
        return Ok(());
    }
    Spi::connect_mut(|client| {
        client.update(
            Cached(
                "UPDATE crm.queue q SET next_attempt_at = now() + interval '500 ms'
                 FROM unnest($2::text[], $3::text[]) AS k (shard_key, record_key)
                 WHERE q.shard_key = k.shard_key AND q.map_id = $1 AND q.record_key = k.record_key AND q.state = 'queued'",
            ),
            None,
            &[
                map.id.into(),
                records.iter().map(|r| r.0).collect::<Vec<_>>().into(),
                records.iter().map(|r| r.1).collect::<Vec<_>>().into(),
            ],
        )?;
        Ok(())
    })
}

/// Remembers which of these CRM records carry another key than their row's, and which one. Most
/// carry none, or the row's.
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
            Cached("DELETE FROM crm.mismatched_key WHERE map_id = $1 AND crm_id = ANY ($2)"),
            None,
            &[map.id.into(), own.into()],
        )?;
    }
    if !others.is_empty() {
        client.update(
            Cached(
                "INSERT INTO crm.mismatched_key AS c (map_id, crm_id, external_id)
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
