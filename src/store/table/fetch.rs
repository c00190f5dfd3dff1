//! Fetches rows through a cursor, bounded by bytes, without loading a value that is larger than one
//! may be.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crm_domain::{Cells, ErrorClass, Failure, Value};
use crm_provider::record::Field;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiHeapTupleData, quote_identifier};

use crate::store::config::field::MappedField;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::record::key::Key;
use crate::store::row::Columns;
use crate::store::statement::names::Running;
use crate::store::statement::{Cached, Uncached};
use crate::store::table::cell_value::{raw_value_of, value_of};
use crate::store::table::raw_size::RawSize;
use crate::store::table::read_statement::{KEYS, join, sql_bit, statement, transforming_statement};
use crate::store::table::time_limit::TimeLimit;

/// What became of one record's row.
pub enum RowValues {
    Found(Vec<(u16, Arc<Field>, Value)>),
    /// Its row is gone, or outside the filter of the map.
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

impl<'a> Wanted<'a> {
    pub fn of(key: &'a Key, cells: &'a Cells) -> Wanted<'a> {
        Wanted {
            shard_key: &key.shard_key,
            record_key: &key.record_key,
            cells,
        }
    }
}

/// Rows being read.
pub struct Reading<'a> {
    pub map: &'a Map,
    pub wanted: &'a [Wanted<'a>],
    /// Bytes of one value.
    pub most: usize,
    /// See [`Bounds`].
    pub lenient: bool,
    pub raw: bool,
    pub filtered: bool,
}

/// Values that are large by what is stored of them.
#[derive(Default)]
pub struct Large {
    /// Cells that are larger than one may be, and how large, by the record's place.
    pub cells: HashMap<usize, Vec<(u16, usize)>>,
    /// There are values that may be large once they are unpacked.
    pub is_suspected: bool,
}

/// A text of that many bytes is read, however little room its field has: the CRM's own refusal says
/// more.
pub const SPARE: usize = 32 * 1024;

/// What a compressed value may grow by as it is unpacked: 255 is the most that LZ4 does, and pglz
/// does less.
pub const UNPACKS: usize = 256;

/// A column that is not read as it is stored: made text, or handed to a transform, it would be
/// loaded before its size is known.
pub fn is_converted(f: &MappedField) -> bool {
    f.is_long && (f.transform_out.is_some() || !f.is_text)
}

/// The arguments of the statements for some of the records. Cells that are too large are not asked
/// for.
pub fn arguments<'a>(
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

/// Rows fetched at a time: few at first, then as many as the rows seen so far allow, so that
/// neither the bound on bytes is overrun by much nor small rows are fetched one by one.
pub const FIRST_FETCH: usize = 16;

pub const FETCH: usize = 1000;

/// The code of a value that is larger than one may be.
pub const TOO_LARGE: &str = "value_too_large";

impl Reading<'_> {
    pub fn too_large(&self, field: &MappedField, bytes: usize) -> Failure {
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

    /// Bytes of one value of this field: as many as what its CRM has room for can take, with some
    /// to spare for what it trims. What only is to be compared with the CRM's value may be longer.
    pub fn most_of(&self, field: &MappedField) -> usize {
        match field.room() {
            // A unit of UTF-16 has three bytes at most.
            Some(characters) if !self.lenient => {
                self.most.min((characters as usize * 3).max(SPARE))
            }
            _ => self.most,
        }
    }

    /// Looks for large values in columns that are converted as they are read. Nothing is loaded.
    pub fn large(&self, part: &[usize]) -> Result<Large, StoreError> {
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
    pub fn values_of(
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

    pub fn fetch(
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
            let statement = statement(self.map, self.filtered);
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
                    if !row.required::<bool>("inside")? {
                        found.insert(ord, RowValues::Missing);
                        continue;
                    }
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

    /// Fetches row by row until the part is read, or `budget` bytes, or until that time. `next`:
    /// the place of the row that is being fetched, for the caller to ask after an error.
    pub fn fetch_transformed(
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
            let statement = transforming_statement(self.map, self.filtered);
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
