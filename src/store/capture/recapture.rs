//! Cells that changed without a trigger having fired, captured after the fact.

use std::time::Duration;

use crm_domain::Cells;
use crm_domain::mapping::{OnFilterOut, OnInsert};
use pgrx::spi::SpiClient;
use serde_json::{Value as Json, json};

use crate::store::capture::compare::{self, Differing, Part};
use crate::store::capture::scan_request::{self, Request, Task};
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::record::key::Key;
use crate::store::row::Columns;
use crate::store::statement::Cached;
use crate::store::table::read::{self, Bounds, RowValues, Wanted};
use crate::store::table::row_locks::{self, lock_present};

/// Before the first row is compared, in a transaction of its own: what is read from now on is no
/// older than the requests that go with this one. Their ids do not tell that: one may be from
/// before, and its change committed while rows were being compared.
///
/// Cells in flight are captured whatever they hold: they may have been read before they changed,
/// and would be taken for settled once the CRM has taken them. `unsettled`: records whose last
/// results wait to be written down.
pub fn begin(
    client: &mut SpiClient,
    map: &Map,
    request: &mut Request,
    unsettled: &[(&str, &str)],
    limit: Option<Duration>,
) -> Result<(), StoreError> {
    let Task::Recapture {
        new_rows,
        new_since,
        lost_rows,
        ..
    } = &mut request.task
    else {
        return Ok(());
    };
    let joined = client.update(
        Cached("DELETE FROM crm.scan_request WHERE map_id = $1 AND task = 'recapture' AND request_id < $2 RETURNING new_rows, new_since::text AS new_since, lost_rows"),
        None,
        &[request.map_id.into(), request.id.into()],
    )?;
    for row in joined {
        *lost_rows |= row.required::<bool>("lost_rows")?;
        if row.required("new_rows")? {
            // The earlier snapshot shows less. Without one, every row counts.
            let since: Option<String> = row.optional("new_since")?;
            *new_since = since.filter(|_| !*new_rows || new_since.is_some());
            *new_rows = true;
        }
    }
    client.update(
        Cached(
            "UPDATE crm.scan_request SET new_rows = $2, new_since = $3::pg_snapshot, lost_rows = $4
             WHERE request_id = $1 AND (new_rows, new_since::text, lost_rows) IS DISTINCT FROM ($2, $3, $4)",
        ),
        None,
        &[
            request.id.into(),
            (*new_rows).into(),
            new_since.clone().into(),
            (*lost_rows).into(),
        ],
    )?;
    let written: Cells = map
        .fields
        .iter()
        .filter(|f| f.written)
        .map(|f| f.id)
        .collect();
    let rows = client.update(
        Cached(
            "WITH record AS MATERIALIZED (
                 SELECT k.s, k.r FROM crm.claim c, unnest(c.shard_keys, c.record_keys) AS k (s, r) WHERE c.map_id = $1
                 UNION SELECT * FROM unnest($2::text[], $3::text[])
             )
             SELECT x.s, x.r, crm_internal.cells_union(x.cells) AS cells
             FROM (SELECT r.s, r.r, q.cells FROM record r, LATERAL (
                       SELECT q.cells FROM crm.queue q WHERE q.shard_key = r.s AND q.map_id = $1 AND q.record_key = r.r) q
                   UNION ALL
                   SELECT r.s, r.r, p.cells FROM record r, LATERAL (
                       SELECT p.cells FROM crm.pending_write p
                       WHERE p.shard_key = r.s AND p.map_id = $1 AND p.record_key = r.r AND p.state = 'queued') p
                   UNION ALL
                   -- A type may change its labels under the feet of a call, whose transaction is still open.
                   SELECT p.shard_key, p.record_key, p.cells FROM crm.pending_write p
                   WHERE p.map_id = $1 AND p.state IN ('sending', 'landed')) x (s, r, cells)
             WHERE x.cells IS NOT NULL GROUP BY x.s, x.r",
        ),
        None,
        &[
            map.id.into(),
            unsettled.iter().map(|(s, _)| *s).collect::<Vec<_>>().into(),
            unsettled.iter().map(|(_, r)| *r).collect::<Vec<_>>().into(),
        ],
    )?;
    let mut under_way = Vec::new();
    for row in rows {
        let cells = Cells::from_bytes(row.required("cells")?);
        under_way.push(Differing {
            key: Key {
                shard_key: row.required("s")?,
                record_key: row.required("r")?,
            },
            cells: cells.intersection(&written),
            failure: None,
        });
    }
    capture(client, map, &request.actor, &under_way, limit)
}

/// Captures these cells of rows that are there. Edits of checked cells are based on what the ledger
/// knows.
///
/// A change is captured under a lock of its row, as a trigger would: after the change that deletes
/// a row comes none that speaks of it, or its record would count as not deleted.
pub(super) fn capture(
    client: &mut SpiClient,
    map: &Map,
    actor: &str,
    differing: &[Differing],
    limit: Option<Duration>,
) -> Result<(), StoreError> {
    let keys: Vec<(&str, &str)> = differing.iter().map(|d| d.key.parts()).collect();
    let there = lock_present(map, &keys, limit)?;
    let differing: Vec<&Differing> = (differing.iter().enumerate())
        .filter_map(|(n, d)| there.contains(&n).then_some(d))
        .collect();
    let checked: Cells = map
        .fields
        .iter()
        .filter(|f| f.is_checked())
        .map(|f| f.id)
        .collect();
    let written = |d: &Differing| d.cells.difference(&checked);
    let plain: Vec<&Differing> = differing
        .iter()
        .copied()
        .filter(|d| !written(d).is_empty())
        .collect();
    let edits: Vec<(&Differing, Cells)> = differing
        .iter()
        .map(|d| (*d, d.cells.intersection(&checked)))
        .filter(|(_, cells)| !cells.is_empty())
        .collect();
    if !plain.is_empty() {
        client.update(
            Cached(
                "INSERT INTO crm.change (shard_key, map_id, op, cells, record_keys, actor)
                 SELECT r.shard_key, $1, 'u', r.cells, array_agg(r.record_key), $5
                 FROM unnest($2::text[], $3::text[], $4::bytea[]) WITH ORDINALITY AS r (shard_key, record_key, cells, ord)
                 GROUP BY r.shard_key, r.cells, (r.ord - 1) / crm_internal.change_part()",
            ),
            None,
            &[
                map.id.into(),
                plain.iter().map(|d| d.key.shard_key.as_str()).collect::<Vec<_>>().into(),
                plain.iter().map(|d| d.key.record_key.as_str()).collect::<Vec<_>>().into(),
                plain.iter().map(|d| written(d).to_bytes()).collect::<Vec<_>>().into(),
                actor.into(),
            ],
        )?;
    }
    if !edits.is_empty() {
        let bases: Vec<String> = edits.iter().map(|(_, cells)| base(cells)).collect();
        client.update(
            Cached(
                "INSERT INTO crm.change (shard_key, map_id, op, cells, record_keys, base, actor)
                 SELECT r.shard_key, $1, 'u', r.cells, ARRAY[r.record_key], r.base::jsonb, $6
                 FROM unnest($2::text[], $3::text[], $4::bytea[], $5::text[]) AS r (shard_key, record_key, cells, base)",
            ),
            None,
            &[
                map.id.into(),
                edits.iter().map(|(d, _)| d.key.shard_key.as_str()).collect::<Vec<_>>().into(),
                edits.iter().map(|(d, _)| d.key.record_key.as_str()).collect::<Vec<_>>().into(),
                edits.iter().map(|(_, cells)| cells.to_bytes()).collect::<Vec<_>>().into(),
                bases.into(),
                actor.into(),
            ],
        )?;
        client.update(Cached("SELECT crm_internal.note_change(true)"), None, &[])?;
    }
    Ok(())
}

/// Captures that linked rows have left the filter of the map, where that is to have consequences.
/// Under their locks, as a trigger would: one that enters it afterwards is captured later.
pub(super) fn leave(
    client: &mut SpiClient,
    map: &Map,
    actor: &str,
    outside: Vec<Key>,
    bounds: &Bounds,
) -> Result<(), StoreError> {
    if outside.is_empty() || map.on_filter_out == OnFilterOut::Ignore {
        return Ok(());
    }
    let keys: Vec<(&str, &str)> = outside.iter().map(Key::parts).collect();
    let there = lock_present(map, &keys, bounds.time)?;
    let none = Cells::new();
    let wanted: Vec<Wanted> = keys
        .iter()
        .map(|(shard_key, record_key)| Wanted {
            shard_key,
            record_key,
            cells: &none,
        })
        .collect();
    let rows = read::read(map, &wanted, &bounds.whole())?;
    let is_outside = |n: &usize| matches!(rows.get(n), Some(RowValues::Missing));
    let left: Vec<(&str, &str)> = (0..keys.len())
        .filter(|n| there.contains(n) && is_outside(n))
        .map(|n| keys[n])
        .collect();
    client.update(
        Cached(
            "INSERT INTO crm.change (shard_key, map_id, op, cells, record_keys, actor)
             SELECT r.shard_key, $1, 'l', '\\x0000000000000000', array_agg(r.record_key), $4
             FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS r (shard_key, record_key, ord)
             -- Looked up one by one, whatever is known of the table.
             WHERE (SELECT l.crm_id FROM crm.ledger l
                    WHERE l.shard_key = r.shard_key AND l.map_id = $1 AND l.record_key = r.record_key) IS NOT NULL
             GROUP BY r.shard_key, (r.ord - 1) / crm_internal.change_part()",
        ),
        None,
        &[
            map.id.into(),
            left.iter().map(|k| k.0).collect::<Vec<_>>().into(),
            left.iter().map(|k| k.1).collect::<Vec<_>>().into(),
            actor.into(),
        ],
    )?;
    Ok(())
}

/// Captures what a part was found to hold, and notes how far that came.
pub fn mark(
    client: &mut SpiClient,
    map: &Map,
    request: &mut Request,
    part: Part,
    bounds: &Bounds,
) -> Result<(), StoreError> {
    let limit = bounds.time;
    capture(client, map, &request.actor, &part.differing, limit)?;
    leave(client, map, &request.actor, part.outside, bounds)?;
    let (is_wanted, since) = match &request.task {
        Task::Recapture {
            new_rows,
            new_since,
            ..
        } => (
            *new_rows && map.on_insert == OnInsert::Create,
            new_since.as_deref(),
        ),
        Task::Push { .. } => (false, None),
    };
    let strangers: Vec<(&str, &str)> = match is_wanted {
        true => part.strangers.iter().map(Key::parts).collect(),
        false => Vec::new(),
    };
    let mut there = lock_present(map, &strangers, limit)?;
    if let (Some(since), false) = (since, there.is_empty()) {
        let newer = row_locks::newer_than(map, &strangers, since, limit)?;
        there.retain(|n| newer.contains(n));
    }
    let strangers: Vec<(&str, &str)> = (strangers.into_iter().enumerate())
        .filter_map(|(n, key)| there.contains(&n).then_some(key))
        .collect();
    if !strangers.is_empty() {
        client.update(
            Cached(
                "INSERT INTO crm.change (shard_key, map_id, op, cells, record_keys, actor)
                 SELECT r.shard_key, $1, 'i', crm_internal.map_cells($1), array_agg(r.record_key), $4
                 FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS r (shard_key, record_key, ord)
                 WHERE crm_internal.map_cells($1) IS NOT NULL
                 GROUP BY r.shard_key, (r.ord - 1) / crm_internal.change_part()",
            ),
            None,
            &[
                map.id.into(),
                strangers.iter().map(|k| k.0).collect::<Vec<_>>().into(),
                strangers.iter().map(|k| k.1).collect::<Vec<_>>().into(),
                request.actor.as_str().into(),
            ],
        )?;
    }
    request.compared += part.rows as i64;
    request.marked += (part.differing.len() + strangers.len()) as i64;
    scan_request::advance(client, request, part.last)
}

/// Captures the deletion of rows whose records are left in a part of the ledger.
///
/// The ids of the changes are taken before the rows are looked for: a row that is inserted
/// afterwards is captured with a later id, and so counts as there.
pub fn mark_lost(
    client: &mut SpiClient,
    map: &Map,
    request: &mut Request,
    records: usize,
    bounds: &Bounds,
) -> Result<(), StoreError> {
    let ids = client.update(
        Cached("SELECT nextval(pg_get_serial_sequence('crm.change', 'change_id')) AS id FROM generate_series(1, $1)"),
        None,
        &[(records as i64).into()],
    )?;
    let ids: Vec<i64> = ids
        .map(|row| row.required("id"))
        .collect::<Result<_, _>>()?;
    let after = request.after.clone();
    let (lost, last) = compare::without_rows(client, map, after.as_ref(), records, bounds)?;
    if !lost.is_empty() {
        client.update(
            Cached(
                "INSERT INTO crm.change (shard_key, change_id, map_id, op, cells, record_keys, actor)
                 OVERRIDING SYSTEM VALUE
                 SELECT r.shard_key, r.id, $1, 'd', '\\x0000000000000000', ARRAY[r.record_key], $5
                 FROM unnest($2::text[], $3::text[], $4::bigint[]) AS r (shard_key, record_key, id)",
            ),
            None,
            &[
                map.id.into(),
                lost.iter().map(|k| k.shard_key.as_str()).collect::<Vec<_>>().into(),
                lost.iter().map(|k| k.record_key.as_str()).collect::<Vec<_>>().into(),
                ids[..lost.len()].to_vec().into(),
                request.actor.as_str().into(),
            ],
        )?;
    }
    request.marked += lost.len() as i64;
    scan_request::advance(client, request, last)
}

/// Of each cell: what the ledger knows once its turn comes.
fn base(cells: &Cells) -> String {
    let known = cells.iter().map(|id| (id.to_string(), json!({"l": true})));
    Json::Object(known.collect()).to_string()
}
