//! The values to send, read from the mapped table as its owner, bounded by bytes.
//!
//! Guarantees: a value larger than the limit is not loaded: the header of its stored form gives its
//! size. Only the cells to be sent are read, so a large column that did not change costs nothing. A
//! transform that fails, or takes too long, affects its record alone: if there are transforms, rows
//! are fetched one by one and in order, so that the position identifies the row at fault, and the
//! others are read again without it.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use crm_domain::bisect::Parts;
use crm_domain::{Cells, ErrorClass, Failure};

use crate::settings::Settings;
use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::table::fetch::Reading;
use crate::store::table::owner::as_owner_of;
use crate::store::table::pace::Pace;
use crate::store::table::time_limit::TimeLimit;
use crate::store::transaction::subtransaction;

pub use crate::store::table::fetch::{RowValues, TOO_LARGE, Wanted};

/// Rows read at a time after one of them failed.
const CAREFUL: usize = 128;
/// No slice is read for longer than that and what one row may take: other maps wait meanwhile.
pub const READ_TIME: Duration = Duration::from_secs(1);

/// The code of a row whose statement fails.
const UNREADABLE: &str = "unreadable_row";

/// How much is read.
pub struct Bounds {
    /// Of all values together: where it is reached, no further row is read.
    pub bytes: usize,
    /// Of one value. A larger one is not loaded.
    pub value: usize,
    /// How long the transforms of one row may take; `None`: as long as the caller's own
    /// `statement_timeout` allows.
    pub time: Option<Duration>,
    /// What no CRM can hold (`infinity`, `NaN`) is given as its text instead of being the whole
    /// row's fault.
    pub lenient: bool,
    /// Values as the row holds them, not in the CRM's form.
    pub raw: bool,
    /// A row outside the filter of the map counts as missing.
    pub filtered: bool,
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
            filtered: true,
        }
    }

    /// Those of a caller, whose own `statement_timeout` rules.
    pub fn of_caller() -> Bounds {
        Bounds {
            time: None,
            ..Bounds::of(&Settings::current())
        }
    }

    /// The same of the whole table.
    pub fn unfiltered(&self) -> Bounds {
        Bounds {
            filtered: false,
            ..*self
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
    let mut found = read_within(map, wanted, bounds)?;
    if bounds.filtered && map.filter.is_some() {
        for (&n, row) in &mut found {
            if let RowValues::Unreadable(failure) = row
                && failure.code == UNREADABLE
                && filter_fails(map, &wanted[n], bounds)?
            {
                let why = &failure.message;
                let message = format!("the filter of its map fails for this row: {why}");
                *failure = Failure::record(ErrorClass::Validation, "filter_failed", message);
            }
        }
    }
    Ok(found)
}

/// Whether a row cannot even be read where none of its values is wanted.
fn filter_fails(map: &Map, row: &Wanted, bounds: &Bounds) -> Result<bool, StoreError> {
    let none = Wanted {
        cells: &Cells::new(),
        ..*row
    };
    let found = read_within(map, &[none], &bounds.whole())?;
    Ok(matches!(found.get(&0), Some(RowValues::Unreadable(_))))
}

fn read_within(
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
        filtered: bounds.filtered,
    };
    if map.fields.iter().any(|f| f.transform_out.is_some()) {
        return reading.transformed(bounds);
    }
    let mut budget = bounds.bytes;
    // Row by row if the table's policies or casts are slow, and what time does not reach is read
    // later.
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

impl Reading<'_> {
    /// Reads a part, or adds the parts to try again to `parts`. Returns the error of a part that is
    /// split and may pass.
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
            // The table is locked, or was altered meanwhile; no record is at fault, the slice is
            // retried.
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
                // Nothing was fetched yet, so any of the rows may be at fault, a policy being asked
                // about all of them.
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
    RowValues::Unreadable(error.failure(UNREADABLE))
}
