//! Compares rows with the ledger, a part of the table at a time in the order of its key: which cells differ from what the CRM last
//! held, although nothing waits to be sent for them.
//!
//! Guarantees: no more than a part is in memory, and each row is read once or twice, so the cost is linear. A cell is reported as
//! different only if the ledger said the same of it before and after its row was read, and nothing waited for it at either time.

use std::collections::HashMap;

use crm_domain::cells::CellHashes;
use crm_domain::conflict::{self, ShortHash};
use crm_domain::{Cells, Failure, Value, hex};
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, quote_identifier};

use crate::store::config::Map;
use crate::store::error::StoreError;

pub use crate::store::record::links::Key;
use crate::store::statement::Cached;
use crate::store::table::pace::Pace;
use crate::store::table::read::{self, Bounds, RowValues, Wanted};

/// A part of a table, compared.
#[derive(Default)]
pub struct Part {
    /// Its last row; `None`: there was no row left.
    pub last: Option<Key>,
    pub rows: usize,
    pub differing: Vec<Differing>,
    /// Rows without a ledger entry.
    pub strangers: Vec<Key>,
}

/// The cells of one row that are not in step.
pub struct Differing {
    pub key: Key,
    pub cells: Cells,
    /// The row cannot be read, so it would not be sent either.
    pub failure: Option<Failure>,
}

/// The order in which a table is scanned: that of the unique index on its keys.
pub struct Order {
    /// The index's columns, and the types that key texts are cast to.
    columns: Vec<(String, String)>,
    /// The place of the shard column among them.
    shard: Option<usize>,
}

impl Order {
    pub fn of(client: &mut SpiClient, map: &Map) -> Result<Order, StoreError> {
        let shard = map.shard.as_ref().map(|shard| shard.name.as_str());
        let rows = client.update(
            Cached(
                "SELECT a.attname::text, coalesce(crm_internal.cast_type(a.atttypid), format_type(crm_internal.base_type(a.atttypid), NULL))
                 FROM (SELECT x.indrelid, x.indkey, x.indnkeyatts FROM pg_index x
                       WHERE x.indrelid = $1 AND x.indisunique AND x.indpred IS NULL AND x.indexprs IS NULL AND x.indisvalid
                         AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text)
                              FROM unnest(x.indkey[0:x.indnkeyatts - 1]) AS k (attnum)
                              JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.attnum)
                             IN (ARRAY[$2], (SELECT array_agg(n ORDER BY n) FROM unnest(ARRAY[$2, $3]) AS n))
                       ORDER BY x.indnkeyatts, x.indexrelid LIMIT 1) x,
                      unnest(x.indkey[0:x.indnkeyatts - 1]) WITH ORDINALITY AS k (attnum, place)
                 JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = k.attnum
                 ORDER BY k.place",
            ),
            None,
            &[map.names.table.into(), map.key.name.as_str().into(), shard.into()],
        )?;
        let mut order = Order {
            columns: Vec::new(),
            shard: None,
        };
        for row in rows {
            let name: String = row.get(1)?.unwrap_or_default();
            if Some(name.as_str()) == shard {
                order.shard = Some(order.columns.len());
            }
            order.columns.push((name, row.get(2)?.unwrap_or_default()));
        }
        if order.columns.is_empty() {
            return Err(StoreError::Postgres {
                code: PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                message: format!("{} has no unique index on its key", map.relation),
            });
        }
        Ok(order)
    }

    /// The keys of the next rows.
    fn keys(&self, map: &Map, after: Option<&Key>, rows: usize) -> Result<Vec<Key>, StoreError> {
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|(name, _)| format!("t.{}", quote_identifier(name)))
            .collect();
        let list = columns.join(", ");
        let beyond = after.map_or_else(String::new, |_| {
            let places = self.columns.iter().enumerate();
            let given: Vec<String> = places
                .map(|(place, (_, cast))| format!("${}::{cast}", place + 1))
                .collect();
            format!(
                "WHERE ROW({list}) OPERATOR(pg_catalog.>) ROW({})",
                given.join(", ")
            )
        });
        let statement = format!(
            "SELECT {}, {} FROM {} AS t {beyond} ORDER BY {list} LIMIT {rows}",
            map.shard_key("t"),
            map.record_key("t"),
            map.relation
        );
        let args: Vec<_> = after
            .into_iter()
            .flat_map(|key| {
                (0..self.columns.len()).map(|place| match self.shard == Some(place) {
                    true => key.shard_key.as_str().into(),
                    false => key.record_key.as_str().into(),
                })
            })
            .collect();
        Spi::connect_mut(|client| {
            let mut keys = Vec::with_capacity(rows);
            for row in client.update(Cached(&statement), None, &args)? {
                keys.push(Key {
                    shard_key: row.get(1)?.unwrap_or_default(),
                    record_key: row.get(2)?.unwrap_or_default(),
                });
            }
            Ok(keys)
        })
    }
}

/// What the ledger says of a record.
struct Known {
    hashes: Vec<u8>,
    /// Cells that should equal the CRM's, since nothing waits for them.
    at_rest: Cells,
    /// Hashes of values that the CRM keeps in a form of its own.
    forms: HashMap<u16, ShortHash>,
}

impl Known {
    fn hash(&self, id: u16) -> Option<&[u8]> {
        CellHashes(&self.hashes).get(id)
    }

    fn is_in_step(&self, id: u16, hash: &ShortHash) -> bool {
        self.hash(id) == Some(&hash[..]) || self.forms.get(&id) == Some(hash)
    }
}

/// Compares the next rows of a map's table, as its owner.
pub fn part(
    client: &mut SpiClient,
    map: &Map,
    order: &Order,
    after: Option<&Key>,
    rows: usize,
    bounds: &Bounds,
) -> Result<Part, StoreError> {
    let mut pace = Pace::new(map, bounds.time);
    let rows = rows.min(pace.room());
    let mut keys = pace.run(rows, || order.keys(map, after, rows))?;
    let known = known(client, map, &keys)?;
    let places: Vec<usize> = (0..keys.len())
        .filter(|n| known[*n].as_ref().is_some_and(|k| !k.at_rest.is_empty()))
        .collect();
    let wanted: Vec<Wanted> = places
        .iter()
        .filter_map(|&n| Some(wanted(&keys[n], &known[n].as_ref()?.at_rest)))
        .collect();
    let mut read = read::read(map, &wanted, bounds)?;
    // Rows that there was no time or room for belong to the next part.
    if let Some(unread) = (0..places.len()).find(|n| !read.contains_key(n)) {
        drop(wanted);
        keys.truncate(places[unread]);
        if keys.is_empty() {
            return Err(StoreError::PutOff);
        }
    }
    let mut suspects = Vec::new();
    for (place, &n) in places.iter().enumerate().filter(|(_, n)| **n < keys.len()) {
        let Some(known) = &known[n] else { continue };
        let (cells, failure) = match read.remove(&place) {
            Some(RowValues::Found(fields)) => {
                let differs = |(id, value): (u16, Value)| {
                    (!known.is_in_step(id, &conflict::hash(&value))).then_some(id)
                };
                let fields = fields.into_iter().map(|(id, _, value)| (id, value));
                (fields.filter_map(differs).collect(), None)
            }
            Some(RowValues::Unreadable(failure)) => (known.at_rest.clone(), Some(failure)),
            Some(RowValues::Missing) | None => continue,
        };
        if !Cells::is_empty(&cells) {
            suspects.push((n, cells, failure));
        }
    }
    let mut part = Part {
        last: keys.last().cloned(),
        rows: keys.len(),
        ..Part::default()
    };
    let whole = bounds.whole();
    leave_out_the_crms_own(map, &keys, &known, &mut suspects, &whole)?;
    if !suspects.is_empty() {
        let at: Vec<Key> = suspects.iter().map(|(n, _, _)| keys[*n].clone()).collect();
        let now = self::known(client, map, &at)?;
        for ((n, cells, failure), now) in suspects.into_iter().zip(now) {
            let (Some(then), Some(now)) = (&known[n], now) else {
                continue;
            };
            let same = |id: &u16| now.at_rest.contains(*id) && now.hash(*id) == then.hash(*id);
            let cells: Cells = cells.iter().filter(same).collect();
            if !cells.is_empty() {
                part.differing.push(Differing {
                    key: keys[n].clone(),
                    cells,
                    failure,
                });
            }
        }
    }
    let strangers = keys.iter().zip(&known).filter(|(_, known)| known.is_none());
    part.strangers = strangers.map(|(key, _)| key.clone()).collect();
    Ok(part)
}

fn wanted<'a>(key: &'a Key, cells: &'a Cells) -> Wanted<'a> {
    Wanted {
        shard_key: &key.shard_key,
        record_key: &key.record_key,
        cells,
    }
}

/// A row may hold more of a value that came from the CRM than would be sent back (decimals, for instance): nothing has changed then.
fn leave_out_the_crms_own(
    map: &Map,
    keys: &[Key],
    known: &[Option<Known>],
    suspects: &mut Vec<(usize, Cells, Option<Failure>)>,
    bounds: &Bounds,
) -> Result<(), StoreError> {
    let raw = Bounds {
        raw: true,
        ..*bounds
    };
    let mut own: Vec<Cells> = Vec::with_capacity(suspects.len());
    while own.len() < suspects.len() {
        let left = &suspects[own.len()..];
        let wanted: Vec<Wanted> = left
            .iter()
            .map(|(n, cells, _)| wanted(&keys[*n], cells))
            .collect();
        let mut rows = read::read(map, &wanted, &raw)?;
        if !rows.contains_key(&0) {
            return Err(StoreError::PutOff);
        }
        for (place, (n, _, _)) in left.iter().enumerate() {
            let Some(row) = rows.remove(&place) else {
                break;
            };
            own.push(match (row, &known[*n]) {
                (RowValues::Found(fields), Some(known)) => fields
                    .iter()
                    .filter(|(id, _, value)| known.is_in_step(*id, &conflict::hash(value)))
                    .map(|(id, _, _)| *id)
                    .collect(),
                _ => Cells::new(),
            });
        }
    }
    for ((_, cells, _), own) in suspects.iter_mut().zip(own) {
        *cells = cells.difference(&own);
    }
    suspects.retain(|(_, cells, _)| !cells.is_empty());
    Ok(())
}

/// What the ledger says of these records; `None`: nothing.
fn known(
    client: &mut SpiClient,
    map: &Map,
    keys: &[Key],
) -> Result<Vec<Option<Known>>, StoreError> {
    let written = map.cells(|f| f.written);
    let rows = client.update(
        Cached(
            "SELECT l.record_key IS NOT NULL, l.crm_id IS NOT NULL AND NOT l.detached, l.hashes,
                    ARRAY(SELECT (s.ord - 1)::smallint FROM unnest(l.synced_at) WITH ORDINALITY AS s (at, ord) WHERE s.at IS NOT NULL),
                    (SELECT crm_internal.cells_union(x.cells)
                     FROM (SELECT CASE WHEN q.cells IS NULL THEN crm_internal.map_cells($1) ELSE q.cells END AS cells FROM crm.queue q
                           WHERE q.shard_key = k.shard_key AND q.map_id = $1 AND q.record_key = k.record_key
                           UNION ALL
                           SELECT crm_internal.cells_or(p.cells, coalesce(p.take, p.cells)) FROM crm.pending_write p
                           WHERE p.shard_key = k.shard_key AND p.map_id = $1 AND p.record_key = k.record_key
                           UNION ALL
                           SELECT c.cells FROM crm.change c
                           WHERE c.shard_key = k.shard_key AND c.map_id = $1 AND c.record_keys[1] = k.record_key
                             AND (c.base IS NOT NULL OR c.write_id IS NOT NULL)
                           UNION ALL
                           SELECT crm_internal.cell_mask(c.field_id) FROM crm.conflict c
                           WHERE c.shard_key = k.shard_key AND c.map_id = $1 AND c.record_key = k.record_key AND c.field_id >= 0) x),
                    f.fields, f.sent
             FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS k (shard_key, record_key, ord)
             LEFT JOIN crm.ledger l ON l.shard_key = k.shard_key AND l.map_id = $1 AND l.record_key = k.record_key
             LEFT JOIN LATERAL (SELECT array_agg(o.field_id) AS fields, array_agg(encode(o.sent, 'hex')) AS sent FROM crm.written_over o
                                WHERE o.map_id = $1 AND o.crm_id = l.crm_id AND o.is_form
                                  AND o.held = substr(l.hashes, 16 * o.field_id + 1, 16)) f ON true
             ORDER BY k.ord",
        ),
        None,
        &[
            map.id.into(),
            keys.iter().map(|k| k.shard_key.as_str()).collect::<Vec<_>>().into(),
            keys.iter().map(|k| k.record_key.as_str()).collect::<Vec<_>>().into(),
        ],
    )?;
    let mut known = Vec::with_capacity(keys.len());
    for row in rows {
        if !row.get::<bool>(1)?.unwrap_or_default() {
            known.push(None);
            continue;
        }
        let hashes = row.get::<&[u8]>(3)?.unwrap_or_default().to_vec();
        let synced: Vec<i16> = row.get(4)?.unwrap_or_default();
        let waits = Cells::from_bytes(row.get::<&[u8]>(5)?.unwrap_or_default());
        let is_linked = row.get::<bool>(2)?.unwrap_or_default();
        let at_rest = |id: &u16| {
            is_linked
                && written.contains(*id)
                && !waits.contains(*id)
                && CellHashes(&hashes).get(*id).is_some()
        };
        let at_rest = synced.iter().map(|id| *id as u16).filter(at_rest).collect();
        let fields: Vec<i16> = row.get(6)?.unwrap_or_default();
        let sent: Vec<String> = row.get(7)?.unwrap_or_default();
        let forms = fields
            .iter()
            .zip(sent)
            .filter_map(|(id, sent)| Some((*id as u16, hex::decode(&sent)?)));
        known.push(Some(Known {
            forms: forms.collect(),
            at_rest,
            hashes,
        }));
    }
    Ok(known)
}

/// Removes cells and rows that have changes which are not folded yet. No index finds a change that names several records, so this
/// reads all changes of the map: call it for many keys at once.
pub fn leave_out_unfolded(
    client: &mut SpiClient,
    map: &Map,
    differing: &mut Vec<Differing>,
    strangers: &mut Vec<Key>,
) -> Result<(), StoreError> {
    let keys: Vec<&Key> = differing
        .iter()
        .map(|d| &d.key)
        .chain(strangers.iter())
        .collect();
    if keys.is_empty() {
        return Ok(());
    }
    let rows = client.update(
        "SELECT k.shard_key, k.record_key, crm_internal.cells_union(c.cells), bool_or(c.op = 'd')
         FROM crm.change c CROSS JOIN unnest(c.record_keys) AS r (record_key)
         JOIN unnest($2::text[], $3::text[]) AS k (shard_key, record_key) ON k.shard_key = c.shard_key AND k.record_key = r.record_key
         WHERE c.map_id = $1 GROUP BY k.shard_key, k.record_key",
        None,
        &[
            map.id.into(),
            keys.iter().map(|k| k.shard_key.as_str()).collect::<Vec<_>>().into(),
            keys.iter().map(|k| k.record_key.as_str()).collect::<Vec<_>>().into(),
        ],
    )?;
    let mut unfolded: HashMap<Key, (Cells, bool)> = HashMap::new();
    for row in rows {
        let key = Key {
            shard_key: row.get(1)?.unwrap_or_default(),
            record_key: row.get(2)?.unwrap_or_default(),
        };
        let cells = Cells::from_bytes(row.get::<&[u8]>(3)?.unwrap_or_default());
        unfolded.insert(key, (cells, row.get(4)?.unwrap_or_default()));
    }
    strangers.retain(|key| !unfolded.contains_key(key));
    for d in differing.iter_mut() {
        match unfolded.get(&d.key) {
            Some((_, true)) => d.cells = Cells::new(),
            Some((cells, false)) => d.cells = d.cells.difference(cells),
            None => {}
        }
    }
    differing.retain(|d| !d.cells.is_empty());
    Ok(())
}

/// Records of the next part of the ledger whose rows are gone, though nothing waits for them; and the last record of the part.
pub fn without_rows(
    client: &mut SpiClient,
    map: &Map,
    after: Option<&Key>,
    rows: usize,
    bounds: &Bounds,
) -> Result<(Vec<Key>, Option<Key>), StoreError> {
    let found = client.update(
        Cached(
            "SELECT l.shard_key, l.record_key,
                    l.crm_id IS NOT NULL AND NOT EXISTS (
                        SELECT FROM crm.queue q WHERE q.shard_key = l.shard_key AND q.map_id = l.map_id AND q.record_key = l.record_key)
             FROM crm.ledger l
             WHERE l.map_id = $1 AND (l.shard_key, l.map_id, l.record_key) > ($2, CASE WHEN $5 THEN $1 ELSE -1 END, $3)
             ORDER BY l.shard_key, l.map_id, l.record_key LIMIT $4",
        ),
        None,
        &[
            map.id.into(),
            after.map_or("", |key| key.shard_key.as_str()).into(),
            after.map_or("", |key| key.record_key.as_str()).into(),
            (rows as i64).into(),
            after.is_some().into(),
        ],
    )?;
    let mut keys = Vec::with_capacity(rows);
    let mut last = None;
    for row in found {
        let key = Key {
            shard_key: row.get(1)?.unwrap_or_default(),
            record_key: row.get(2)?.unwrap_or_default(),
        };
        if row.get(3)?.unwrap_or_default() {
            keys.push(key.clone());
        }
        last = Some(key);
    }
    let none = Cells::new();
    let wanted: Vec<Wanted> = keys.iter().map(|key| wanted(key, &none)).collect();
    let read = read::read(map, &wanted, &bounds.whole())?;
    drop(wanted);
    let is_gone = |(n, key)| matches!(read.get(&n), Some(RowValues::Missing)).then_some(key);
    Ok((
        keys.into_iter().enumerate().filter_map(is_gone).collect(),
        last,
    ))
}
