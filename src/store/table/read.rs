//! The values to send, read from the mapped table as its owner, bounded by bytes.
//!
//! No value is loaded that is larger than one may be: where it is stored, its header tells. Only the cells that wait are
//! read, so a heavy column that did not change costs nothing. A transform that fails, or takes too long, concerns its
//! record alone: where there are transforms, rows are fetched one by one and in order, so that the place tells whose it
//! was, and the others are read again without it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crm_domain::bisect::Parts;
use crm_domain::{Cells, DataType, ErrorClass, Failure, Value};
use crm_provider::record::Field;
use pgrx::PgSqlErrorCode;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiHeapTupleData, quote_identifier};
use serde_json::Value as Json;

use crate::settings::Settings;
use crate::store::config::field::MappedField;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::row::Columns;
use crate::store::statement::names::Running;
use crate::store::statement::{Cached, Uncached};
use crate::store::table::owner::as_owner_of;
use crate::store::table::pace::Pace;
use crate::store::table::raw_size::RawSize;
use crate::store::table::read_statement::{
    KEYS, column_text, join, sql_bit, statement, transforming_statement,
};
use crate::store::table::time_limit::TimeLimit;
use crate::store::transaction::subtransaction;

/// What became of one record's row.
pub enum RowValues {
    Found(Vec<(u16, Arc<Field>, Value)>),
    /// Its row is gone.
    Missing,
    /// A value or a transform is at fault.
    Unreadable(Failure),
}

/// A record to read: keys and the cells that are wanted.
pub struct Wanted<'a> {
    pub shard_key: &'a str,
    pub record_key: &'a str,
    pub cells: &'a Cells,
}

/// Rows fetched at a time: few at first, then as many as the rows seen so far allow, so that neither the bound on bytes
/// is overrun by much nor small rows are fetched one by one.
const FIRST_FETCH: usize = 16;
const FETCH: usize = 1000;
/// Rows read at a time after one of them failed.
const CAREFUL: usize = 128;
/// The code of a value that is larger than one may be.
pub const TOO_LARGE: &str = "value_too_large";
/// No slice is read for longer than that and what one row may take: other maps wait meanwhile.
pub const READ_TIME: Duration = Duration::from_secs(1);

/// How much is read.
pub struct Bounds {
    /// Of all values together: where it is reached, no further row is read.
    pub bytes: usize,
    /// Of one value. A larger one is not loaded.
    pub value: usize,
    /// How long the transforms of one row may take; `None`: as long as the caller's own `statement_timeout` allows.
    pub time: Option<Duration>,
    /// What no CRM can hold (`infinity`, `NaN`) is given as its text instead of being the whole row's fault.
    pub lenient: bool,
    /// Values as the row holds them, not in the CRM's form.
    pub raw: bool,
}

impl Bounds {
    /// Those of the worker.
    pub fn of(settings: &Settings) -> Bounds {
        Bounds {
            bytes: settings.batch_bytes,
            value: settings.max_value,
            time: Some(settings.transform_timeout),
            lenient: false,
            raw: false,
        }
    }

    /// The same where nothing that is read goes to a CRM.
    pub fn lenient(&self) -> Bounds {
        Bounds {
            lenient: true,
            ..*self
        }
    }

    /// The same without leaving out any row.
    pub fn whole(&self) -> Bounds {
        Bounds {
            bytes: usize::MAX,
            ..*self
        }
    }
}

/// Reads rows within bounds. Records that are not in the answer were not reached.
pub fn read(
    map: &Map,
    wanted: &[Wanted],
    bounds: &Bounds,
) -> Result<HashMap<usize, RowValues>, StoreError> {
    let all: Vec<usize> = (0..wanted.len()).collect();
    let mut found = HashMap::with_capacity(wanted.len());
    let reading = Reading {
        map,
        wanted,
        most: bounds.value,
        lenient: bounds.lenient,
        raw: bounds.raw,
    };
    if map.fields.iter().any(|f| f.transform_out.is_some()) {
        return reading.transformed(bounds);
    }
    let mut budget = bounds.bytes;
    // Row by row if the table's policies or casts are slow, and what time does not reach is read later.
    let mut pace = match bounds.time {
        Some(limit) => Pace::putting_off(map, limit),
        None => Pace::new(map, None),
    };
    let mut parts = Parts::new(all);
    let mut passing = None;
    while let Some(part) = parts.pop() {
        if pace.is_over() {
            break;
        }
        let room = pace.room();
        if part.len() > room && bounds.time.is_some() {
            parts.split(part, room);
            continue;
        }
        if let Some(error) = reading.part(&mut pace, part, &mut budget, &mut found, &mut parts)? {
            passing.get_or_insert(error);
        }
    }
    match passing {
        // The search for the row at fault got nowhere.
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

/// Rows being read.
struct Reading<'a> {
    map: &'a Map,
    wanted: &'a [Wanted<'a>],
    /// Bytes of one value.
    most: usize,
    /// See [`Bounds`].
    lenient: bool,
    raw: bool,
}

impl Reading<'_> {
    /// Reads a part, or adds the parts to try again to `parts`. Returns the error of a part that is split and may pass.
    fn part(
        &self,
        pace: &mut Pace,
        part: Vec<usize>,
        budget: &mut usize,
        found: &mut HashMap<usize, RowValues>,
        parts: &mut Parts<usize>,
    ) -> Result<Option<StoreError>, StoreError> {
        if *budget == 0 {
            return Ok(None);
        }
        let fetch = || {
            let large = self.large(&part)?;
            self.fetch(&part, &large, *budget)
        };
        match pace.run(part.len(), fetch) {
            Ok((rows, used)) => {
                found.extend(rows);
                *budget = budget.saturating_sub(used);
            }
            // The table is locked, or was altered meanwhile; no record is at fault, the slice is retried.
            Err(error @ StoreError::BeforeOwnersCode { .. }) => return Err(error),
            Err(error) if part.len() == 1 => {
                found.insert(part[0], unreadable(&error));
            }
            // The pace is another now.
            Err(StoreError::RowTimeout(_)) => parts.push(part),
            Err(error) => {
                parts.halve(part);
                return Ok(Some(error).filter(StoreError::blames_no_row));
            }
        }
        Ok(None)
    }

    /// The same where transforms are code of others, under a limit of time for each row.
    fn transformed(&self, bounds: &Bounds) -> Result<HashMap<usize, RowValues>, StoreError> {
        let (map, wanted, limit) = (self.map, self.wanted, bounds.time);
        let start = Instant::now();
        let mut found = HashMap::with_capacity(wanted.len());
        let mut budget = bounds.bytes;
        // Parts still to be read, the first one last.
        let mut parts: Vec<Range<usize>> = std::iter::once(0..wanted.len()).collect();
        while let Some(part) = parts.pop() {
            let is_late = !found.is_empty() && start.elapsed() >= READ_TIME;
            if part.is_empty() || budget == 0 || is_late {
                continue;
            }
            let mut next = part.start;
            let mut timer = TimeLimit::new(limit);
            let result = subtransaction(|| {
                as_owner_of(map, || {
                    let until = start + READ_TIME;
                    let large = self.large(&part.clone().collect::<Vec<_>>())?;
                    self.fetch_transformed(
                        part.clone(),
                        &large,
                        budget,
                        until,
                        &mut timer,
                        &mut next,
                    )
                })
            });
            let late = result.as_ref().is_err_and(|error| timer.caused(error));
            drop(timer);
            match result {
                Ok((rows, used)) => {
                    found.extend(rows);
                    budget = budget.saturating_sub(used);
                }
                Err(error @ StoreError::BeforeOwnersCode { .. }) => return Err(error),
                // Nothing was fetched yet, so any of the rows may be at fault, a policy being asked about all of them.
                Err(_) if !late && next == part.start && part.len() > 1 => {
                    let middle = part.start + part.len() / 2;
                    parts.extend([middle..part.end, part.start..middle]);
                }
                Err(error) => {
                    let row = if late {
                        let limit = limit.unwrap_or_default();
                        let message = format!(
                            "the transforms of this row took longer than pg_crm.transform_timeout ({limit:?})"
                        );
                        let failure =
                            Failure::record(ErrorClass::Mapping, "transform_timeout", message);
                        RowValues::Unreadable(failure)
                    } else {
                        unreadable(&error)
                    };
                    found.insert(next, row);
                    // What was read before it went with the subtransaction.
                    let rest = next + 1..part.end;
                    let starts = rest.clone().step_by(CAREFUL).rev();
                    parts.extend(starts.map(|from| from..rest.end.min(from + CAREFUL)));
                    parts.push(part.start..next);
                }
            }
        }
        Ok(found)
    }
}

fn unreadable(error: &StoreError) -> RowValues {
    RowValues::Unreadable(error.failure("unreadable_row"))
}

fn value_of(f: &MappedField, text: Option<&str>) -> Result<Value, String> {
    raw_value_of(f, text).map(|value| f.stored(value))
}

fn raw_value_of(f: &MappedField, text: Option<&str>) -> Result<Value, String> {
    match (&f.transform_out, text) {
        (Some(_), Some(json)) => from_json_text(f.field.data_type, json),
        _ => Value::from_postgres(f.field.data_type, text).map_err(|e| e.to_string()),
    }
}

/// What columns would be sent as if the row held what a JSON object says, in the table's own types.
pub fn of_object(
    map: &Map,
    fields: &[&MappedField],
    object: &Json,
) -> Result<Vec<(u16, Value)>, StoreError> {
    if fields.is_empty() {
        return Ok(Vec::new());
    }
    let columns: Vec<String> = fields
        .iter()
        .map(|f| column_text(f, &format!("t.{}", quote_identifier(&f.column))))
        .collect();
    let statement = format!(
        "SELECT {} FROM pg_catalog.jsonb_to_record($1::pg_catalog.jsonb) AS t ({})",
        columns.join(", "),
        map.record_type(fields.iter().map(|f| f.column.as_str()))
    );
    as_owner_of(map, || {
        Spi::connect_mut(|client| {
            let mut values = Vec::with_capacity(fields.len());
            for row in client.update(Cached(&statement), None, &[object.to_string().into()])? {
                for (i, field) in fields.iter().enumerate() {
                    let value = value_of(field, row.get::<&str>(i + 1)?).map_err(|message| {
                        StoreError::Postgres {
                            code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                            message: format!("column \"{}\": {message}", field.column),
                        }
                    })?;
                    values.push((field.id, value));
                }
            }
            Ok(values)
        })
    })
}

/// The arguments of the statements for some of the records. Cells that are too large are not asked for.
fn arguments<'a>(
    map: &Map,
    wanted: &[Wanted<'a>],
    part: impl Iterator<Item = usize> + Clone,
    large: &Large,
) -> [DatumWithOid<'a>; 4] {
    // Every mask as long as the map is wide, for get_bit() to find its place.
    let width = map
        .fields
        .iter()
        .map(|f| f.id as usize / 64 + 1)
        .max()
        .unwrap_or(1)
        * 8;
    let masks = part.clone().map(|i| {
        let mut mask = match large.cells.get(&i) {
            Some(cells) => {
                let cells: Cells = cells.iter().map(|(id, _)| *id).collect();
                wanted[i].cells.difference(&cells).to_bytes()
            }
            None => wanted[i].cells.to_bytes(),
        };
        mask.resize(width.max(mask.len()), 0);
        mask
    });
    let shard_keys = part.clone().map(|i| wanted[i].shard_key);
    let record_keys = part.clone().map(|i| wanted[i].record_key);
    let ords = part.clone().map(|i| i as i32);
    [
        shard_keys.collect::<Vec<&str>>().into(),
        record_keys.collect::<Vec<&str>>().into(),
        masks.collect::<Vec<Vec<u8>>>().into(),
        ords.collect::<Vec<i32>>().into(),
    ]
}

/// Values that are large by what is stored of them.
#[derive(Default)]
struct Large {
    /// Cells that are larger than one may be, and how large, by the record's place.
    cells: HashMap<usize, Vec<(u16, usize)>>,
    /// There are values that may be large once they are unpacked.
    is_suspected: bool,
}

/// A text of that many bytes is read, however little room its field has: the CRM's own refusal says more.
const SPARE: usize = 32 * 1024;

/// What a compressed value may grow by as it is unpacked: 255 is the most that LZ4 does, and pglz does less.
const UNPACKS: usize = 256;

/// A column that is not read as it is stored: made text, or handed to a transform, it would be loaded before anybody could
/// tell how large it is.
fn is_converted(f: &MappedField) -> bool {
    f.is_long && (f.transform_out.is_some() || !f.is_text)
}

impl Reading<'_> {
    fn too_large(&self, field: &MappedField, bytes: usize) -> Failure {
        let room = match field.room() {
            Some(characters) if self.most_of(field) < self.most => {
                format!(", and the CRM's field has room for {characters} characters")
            }
            _ => String::new(),
        };
        let message = format!(
            "column \"{}\" holds {bytes} bytes; pg_crm.max_value_bytes allows {}{room}",
            field.column, self.most
        );
        Failure::record(ErrorClass::Validation, TOO_LARGE, message)
    }

    /// Bytes of one value of this field: as many as what its CRM has room for can take, with some to spare for what it trims.
    /// What only is to be compared with the CRM's value may be longer.
    fn most_of(&self, field: &MappedField) -> usize {
        match field.room() {
            // A unit of UTF-16 has three bytes at most.
            Some(characters) if !self.lenient => {
                self.most.min((characters as usize * 3).max(SPARE))
            }
            _ => self.most,
        }
    }

    /// Looks for large values in columns that are converted as they are read. Nothing is loaded.
    fn large(&self, part: &[usize]) -> Result<Large, StoreError> {
        let map = self.map;
        let converted: Vec<&MappedField> = map.fields.iter().filter(|f| is_converted(f)).collect();
        let mut large = Large::default();
        if converted.is_empty() {
            return Ok(large);
        }
        let least = self.most / UNPACKS;
        let suspect = |f: &MappedField| {
            format!(
                "(pg_catalog.get_bit(k.cells, {}) = 1 AND pg_catalog.pg_column_size(t.{}) > {least})",
                sql_bit(f.id),
                quote_identifier(&f.column)
            )
        };
        let suspects: Vec<String> = converted.iter().map(|f| suspect(f)).collect();
        let columns: String = converted
            .iter()
            .zip(&suspects)
            .map(|(f, suspect)| {
                let column = quote_identifier(&f.column);
                format!(", CASE WHEN {suspect} THEN t.{column} END")
            })
            .collect();
        let statement = format!(
            "SELECT k.ord{columns} FROM {KEYS} JOIN {} t ON {} WHERE {}",
            map.relation,
            join(map),
            suspects.join(" OR ")
        );
        let args = arguments(map, self.wanted, part.iter().copied(), &large);
        Spi::connect_mut(|client| -> Result<(), StoreError> {
            for row in client.update(Cached(&statement), None, &args)? {
                large.is_suspected = true;
                let ord = row.required::<i32>("ord")? as usize;
                for (i, field) in converted.iter().enumerate() {
                    if let Some(RawSize(bytes)) = row.get::<RawSize>(i + 2)?
                        && bytes > self.most_of(field)
                    {
                        large.cells.entry(ord).or_default().push((field.id, bytes));
                    }
                }
            }
            Ok(())
        })?;
        Ok(large)
    }

    /// The wanted values of a row whose columns begin at `first`, and how many bytes they are.
    fn values_of(
        &self,
        ord: usize,
        large: &Large,
        row: &SpiHeapTupleData,
        first: usize,
    ) -> Result<(RowValues, usize), StoreError> {
        let (map, cells) = (self.map, self.wanted[ord].cells);
        if let Some(&(id, bytes)) = large.cells.get(&ord).and_then(|cells| cells.first())
            && let Some(field) = map.field(id)
        {
            return Ok((RowValues::Unreadable(self.too_large(field, bytes)), 0));
        }
        let mut values = Vec::with_capacity(map.fields.len());
        let (mut fault, mut used) = (None, 0);
        for (i, field) in map
            .fields
            .iter()
            .enumerate()
            .filter(|(_, f)| cells.contains(f.id))
        {
            // Still where it is stored, unless it had to be made.
            if let Some(RawSize(bytes)) = row.get::<RawSize>(i + first)?
                && bytes > self.most_of(field)
            {
                fault.get_or_insert(self.too_large(field, bytes));
                continue;
            }
            let text = row.get::<&str>(i + first)?;
            used += text.map_or(0, str::len) + 16;
            let value = match self.raw {
                true => raw_value_of(field, text),
                false => value_of(field, text),
            };
            match value {
                Ok(value) => values.push((field.id, field.field.clone(), value)),
                Err(_) if self.lenient => {
                    let value = Value::text(text.unwrap_or_default());
                    values.push((field.id, field.field.clone(), value));
                }
                Err(error) => {
                    let message = format!("column \"{}\": {error}", field.column);
                    fault.get_or_insert(Failure::record(
                        ErrorClass::Mapping,
                        "unreadable_value",
                        message,
                    ));
                }
            }
        }
        let values = fault.map_or(RowValues::Found(values), RowValues::Unreadable);
        Ok((values, used))
    }

    fn fetch(
        &self,
        part: &[usize],
        large: &Large,
        budget: usize,
    ) -> Result<(HashMap<usize, RowValues>, usize), StoreError> {
        let args = arguments(self.map, self.wanted, part.iter().copied(), large);
        let mut found = HashMap::with_capacity(part.len());
        let mut used = 0;
        let exhausted = Spi::connect_mut(|client: &mut SpiClient| -> Result<bool, StoreError> {
            // Not read-only, so that it sees what this transaction has just changed.
            let statement = statement(self.map);
            let _running = Running::begin(&statement);
            let mut cursor = client.try_open_cursor_mut(Cached(&statement), &args)?;
            // What is converted is in memory as soon as it is fetched.
            let most = if large.is_suspected { 1 } else { FETCH };
            let mut fetch = FIRST_FETCH.min(most);
            loop {
                let rows = cursor.fetch(fetch as _)?;
                if rows.is_empty() {
                    return Ok(true);
                }
                for row in rows {
                    if used >= budget {
                        return Ok(false);
                    }
                    let ord = row.required::<i32>("ord")? as usize;
                    let (values, bytes) = self.values_of(ord, large, &row, 2)?;
                    used += bytes;
                    found.insert(ord, values);
                }
                if used >= budget {
                    return Ok(false);
                }
                fetch = ((budget - used) / (used / found.len().max(1)).max(1)).clamp(1, most);
            }
        })?;
        if exhausted {
            for &i in part {
                found.entry(i).or_insert(RowValues::Missing);
            }
        }
        Ok((found, used))
    }

    /// Fetches row by row until the part is read, or `budget` bytes, or until that time. `next`: the place of the row that is
    /// being fetched, for the caller to ask after an error.
    fn fetch_transformed(
        &self,
        part: Range<usize>,
        large: &Large,
        budget: usize,
        until: Instant,
        timer: &mut TimeLimit,
        next: &mut usize,
    ) -> Result<(HashMap<usize, RowValues>, usize), StoreError> {
        let args = arguments(self.map, self.wanted, part.clone(), large);
        let mut found = HashMap::with_capacity(part.len());
        let mut used = 0;
        Spi::connect_mut(|client: &mut SpiClient| -> Result<(), StoreError> {
            let statement = transforming_statement(self.map);
            let _running = Running::begin(&statement);
            let mut cursor = client.try_open_cursor_mut(Uncached(&statement), &args)?;
            while *next < part.end && used < budget && (found.is_empty() || Instant::now() < until)
            {
                timer.restart();
                for row in cursor.fetch(1)? {
                    let ord = row.required::<i32>("ord")? as usize;
                    let (values, bytes) = match row.required::<bool>("there")? {
                        true => self.values_of(ord, large, &row, 3)?,
                        false => (RowValues::Missing, 0),
                    };
                    used += bytes;
                    found.insert(ord, values);
                }
                timer.check()?;
                *next += 1;
            }
            Ok(())
        })?;
        Ok((found, used))
    }
}

fn from_json_text(data_type: DataType, text: &str) -> Result<Value, String> {
    let json = serde_json::from_str(text).map_err(|e| e.to_string())?;
    Value::from_json(data_type, &json).map_err(|e| e.to_string())
}

/// What may be read of rows that take what the CRM holds.
pub fn bounds() -> Bounds {
    Bounds::of(&Settings::current())
}
