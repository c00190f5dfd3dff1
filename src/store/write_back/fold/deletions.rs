//! Rows that are gone, or have left the filter of their map.
//!
//! Guarantees: their edits are given up, with an audit row for each call that made one. What was
//! known of their records is forgotten, but for what keeps a record from coming back: a link that
//! it had, a creation that may be in flight. Where the CRM record is to be deleted too, everything
//! else stays until it is.

use pgrx::datum::DatumWithOid;
use pgrx::spi::SpiClient;

use crate::store::error::StoreError;
use crate::store::statement::Cached;
use crate::store::write_back::fold::take::{Record, column};

pub fn fold(client: &mut SpiClient, records: &[Record]) -> Result<(), StoreError> {
    if records.is_empty() {
        return Ok(());
    }
    let all: Vec<&Record> = records.iter().collect();
    let kept: Vec<&Record> = records.iter().filter(|r| r.keeps_record).collect();
    let forgotten: Vec<&Record> = records
        .iter()
        .filter(|r| !r.deletes_record && !r.keeps_record)
        .collect();
    let noted = [
        column(&all, |r| r.shard_key.as_str()),
        column(&all, |r| r.map_id),
        column(&all, |r| r.record_key.as_str()),
        column(&all, |r| r.notes.as_deref()),
    ];
    client.update(Cached(GIVE_UP_EDITS), None, &noted)?;
    for statement in [VOID_CONFLICTS, VOID_DEAD_LETTERS] {
        client.update(Cached(statement), None, &noted[..3])?;
    }
    if !kept.is_empty() {
        client.update(Cached(FORGET_QUEUED), None, &keys(&kept))?;
    }
    if forgotten.is_empty() {
        return Ok(());
    }
    // The queue shows creations in flight, and the ledger links: they are deleted last.
    let given_up: Vec<&Record> = forgotten
        .iter()
        .copied()
        .filter(|r| r.is_given_up)
        .collect();
    client.update(Cached(REMEMBER_CREATIONS), None, &keys(&given_up))?;
    for statement in [REMEMBER_LINKS, FORGET_QUEUED, FORGET_RECORDS] {
        client.update(Cached(statement), None, &keys(&forgotten))?;
    }
    Ok(())
}

/// Makes dead letters of deletions of which nobody can tell whether they are the map's: the record
/// stays in the CRM until somebody decides.
pub fn leave_unjudged(client: &mut SpiClient, records: &[Record]) -> Result<(), StoreError> {
    let unjudged = records.iter().filter(|r| r.is_unjudged && r.deletes_record);
    let unjudged: Vec<&Record> = unjudged.collect();
    if unjudged.is_empty() {
        return Ok(());
    }
    client.update(Cached(LEAVE_UNJUDGED), None, &keys(&unjudged))?;
    Ok(())
}

fn keys<'r>(records: &[&'r Record]) -> [DatumWithOid<'r>; 3] {
    [
        column(records, |r| r.shard_key.as_str()),
        column(records, |r| r.map_id),
        column(records, |r| r.record_key.as_str()),
    ]
}

/// Gives up pending edits, with an audit row for their calls and for those in the changes.
const GIVE_UP_EDITS: &str = "WITH record AS MATERIALIZED (
        SELECT r.shard_key, r.map_id, r.record_key, r.notes::jsonb AS notes
        FROM unnest($1::text[], $2::int[], $3::text[], $4::text[]) AS r (shard_key, map_id, record_key, notes)
    ), given_up AS (
        DELETE FROM crm.pending_write p USING record r
        WHERE p.state IN ('queued', 'dead') AND p.shard_key = r.shard_key AND p.map_id = r.map_id AND p.record_key = r.record_key
        RETURNING p.shard_key, p.map_id, p.record_key, p.folded || p.undone AS calls
    )
    INSERT INTO crm.audit_log (shard_key, map_id, connection, provider, relation, record_key, path, operation, result, error, folded)
    SELECT g.shard_key, g.map_id, c.name, c.provider, m.relation::text, g.record_key, 'reconcile', 'update', 'superseded', 'the row is gone, or outside the filter of its map', g.calls
    FROM (SELECT * FROM given_up
          UNION ALL
          SELECT r.shard_key, r.map_id, r.record_key,
                 (SELECT array_agg((n.note ->> 3)::uuid ORDER BY (n.note ->> 0)::bigint)
                  FROM jsonb_array_elements(r.notes) AS n (note) WHERE n.note ->> 3 IS NOT NULL)
          FROM record r WHERE r.notes IS NOT NULL) g
    JOIN crm.object_map m USING (map_id) JOIN crm.connection c USING (connection_id)
    WHERE g.calls IS NOT NULL";

const VOID_CONFLICTS: &str = "
    DELETE FROM crm.conflict c USING unnest($1::text[], $2::int[], $3::text[]) AS r (shard_key, map_id, record_key)
    WHERE c.shard_key = r.shard_key AND c.map_id = r.map_id AND c.record_key = r.record_key";

const VOID_DEAD_LETTERS: &str = "
    DELETE FROM crm.dead_letter d USING unnest($1::text[], $2::int[], $3::text[]) AS r (shard_key, map_id, record_key)
    WHERE d.path IN ('batch', 'reconcile') AND d.shard_key = r.shard_key AND d.map_id = r.map_id AND d.record_key = r.record_key";

/// The CRM may have created the record, or be about to: it is not to become a row again, or is to
/// be deleted.
const REMEMBER_CREATIONS: &str = "
    INSERT INTO crm.orphaned_create (shard_key, map_id, record_key)
    SELECT r.shard_key, r.map_id, r.record_key
    FROM unnest($1::text[], $2::int[], $3::text[]) AS r (shard_key, map_id, record_key)
    JOIN crm.object_map m USING (map_id) JOIN crm.ledger l USING (shard_key, map_id, record_key)
    WHERE l.crm_id IS NULL AND (m.on_delete = 'delete' OR m.on_filter_out = 'delete' OR m.on_crm_insert = 'insert') AND EXISTS (
        SELECT FROM crm.queue q
        WHERE q.shard_key = r.shard_key AND q.map_id = r.map_id AND q.record_key = r.record_key AND q.op = 'c' AND q.state <> 'unlinked')
    ON CONFLICT DO NOTHING";

/// Where CRM records get rows, one whose row was deleted does not get it again.
const REMEMBER_LINKS: &str = "
    INSERT INTO crm.former_link (shard_key, map_id, crm_id, record_key, ended_by)
    SELECT r.shard_key, r.map_id, l.crm_id, r.record_key, 'row_deleted'
    FROM unnest($1::text[], $2::int[], $3::text[]) AS r (shard_key, map_id, record_key)
    JOIN crm.object_map m USING (map_id) JOIN crm.ledger l USING (shard_key, map_id, record_key)
    WHERE m.on_crm_insert = 'insert' AND l.crm_id IS NOT NULL
    ON CONFLICT (shard_key, map_id, crm_id) DO UPDATE SET ended_by = excluded.ended_by, ended_at = now()";

const FORGET_QUEUED: &str = "
    DELETE FROM crm.queue q USING unnest($1::text[], $2::int[], $3::text[]) AS r (shard_key, map_id, record_key)
    WHERE q.shard_key = r.shard_key AND q.map_id = r.map_id AND q.record_key = r.record_key";

const FORGET_RECORDS: &str = "
    DELETE FROM crm.ledger l USING unnest($1::text[], $2::int[], $3::text[]) AS r (shard_key, map_id, record_key)
    WHERE l.shard_key = r.shard_key AND l.map_id = r.map_id AND l.record_key = r.record_key";

const LEAVE_UNJUDGED: &str = "
    WITH dead AS (
        UPDATE crm.queue q
        SET state = 'dead', error_class = 'validation', last_error = 'the row was deleted while the filter of its map failed for it'
        FROM unnest($1::text[], $2::int[], $3::text[]) AS r (shard_key, map_id, record_key)
        WHERE q.shard_key = r.shard_key AND q.map_id = r.map_id AND q.record_key = r.record_key AND q.op = 'd'
        RETURNING q.*
    ), letter AS (
        INSERT INTO crm.dead_letter (shard_key, map_id, record_key, crm_id, operation, error_class, vendor_code, error, attempts, actor, correlation_id)
        SELECT d.shard_key, d.map_id, d.record_key,
               (SELECT l.crm_id FROM crm.ledger l WHERE l.shard_key = d.shard_key AND l.map_id = d.map_id AND l.record_key = d.record_key),
               'delete', d.error_class, 'filter_failed', d.last_error, 0, d.actor, d.correlation_id
        FROM dead d RETURNING *
    )
    INSERT INTO crm.audit_log (shard_key, map_id, connection, provider, relation, record_key, crm_id, path, operation, result, error_class,
                               vendor_code, error, actor, correlation_id)
    SELECT l.shard_key, l.map_id, c.name, c.provider, m.relation::text, l.record_key, l.crm_id, l.path, l.operation, 'dead', l.error_class,
           l.vendor_code, l.error, l.actor, l.correlation_id
    FROM letter l JOIN crm.object_map m USING (map_id) JOIN crm.connection c USING (connection_id)";
