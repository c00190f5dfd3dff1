//! How fast a table's own code goes (triggers, policies, defaults, casts, transforms), so that no
//! statement of the worker on it takes long: rows go together as long as that is quick, one by one
//! where it is not.
//!
//! No row may take longer than `pg_crm.transform_timeout`. One that does fails with
//! [`StoreError::RowTimeout`]; once a table was slow, what is left of its rows after a while is put
//! off ([`StoreError::Postponed`]), because other maps and callers wait.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crm_domain::bisect::Parts;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::table::owner::as_owner_of;
use crate::store::table::time_limit::TimeLimit;
use crate::store::transaction::{check_constraints_at_once, subtransaction};

/// Rows of one statement at most.
const TOGETHER: usize = 1000;
/// A statement for several rows is cut off after that, and its rows go one by one.
const QUICK: Duration = Duration::from_secs(1);
/// A slow table's rows have so much of the worker's time at once.
const SHARE: Duration = Duration::from_secs(1);

thread_local! {
    /// How many rows may go together, of tables that were slow.
    static SLOW: RefCell<HashMap<i32, usize>> = RefCell::default();
}

/// Statements about some rows of a map's table.
pub struct Pace<'a> {
    map: &'a Map,
    /// For one row; `None`: the caller's own statement_timeout rules.
    limit: Option<Duration>,
    /// Until then, if the table is slow and may be put off.
    until: Option<Instant>,
    puts_off: bool,
    has_begun: bool,
    /// The row that is to blame for a cut is still among those that are left: they stay few.
    was_cut: bool,
}

impl<'a> Pace<'a> {
    pub fn new(map: &'a Map, limit: Option<Duration>) -> Pace<'a> {
        Pace {
            map,
            limit,
            until: None,
            puts_off: false,
            has_begun: false,
            was_cut: false,
        }
    }

    /// For rows that may come again later.
    pub fn putting_off(map: &'a Map, limit: Duration) -> Pace<'a> {
        let mut pace = Pace::new(map, Some(limit));
        pace.puts_off = true;
        if SLOW.with_borrow(|slow| slow.contains_key(&map.id)) {
            pace.until = Some(Instant::now() + SHARE);
        }
        pace
    }

    /// How many rows may be in the next statement.
    pub fn room(&self) -> usize {
        if self.limit.is_none() {
            return TOGETHER;
        }
        SLOW.with_borrow(|slow| slow.get(&self.map.id).copied().unwrap_or(TOGETHER))
    }

    /// What is left is to be put off; never before something was tried.
    pub fn is_over(&self) -> bool {
        self.puts_off && self.has_begun && self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Runs a statement about so many rows as the table's owner, in a subtransaction.
    pub fn run<T>(
        &mut self,
        rows: usize,
        work: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let map = self.map;
        self.run_nested(rows, || as_owner_of(map, work))
    }

    /// The same for work that becomes the owner by itself.
    pub fn run_nested<T>(
        &mut self,
        rows: usize,
        work: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let Some(limit) = self.limit else {
            let _cancels = TimeLimit::new(None);
            return subtransaction(work);
        };
        let start = Instant::now();
        let allowed = if rows > 1 { limit.min(QUICK) } else { limit };
        let timer = TimeLimit::new(Some(allowed));
        let result = subtransaction(|| {
            // Each time: a trigger may defer them again.
            check_constraints_at_once();
            let done = work()?;
            timer.check()?;
            Ok(done)
        });
        let is_late = result.as_ref().is_err_and(|error| timer.caused(error));
        drop(timer);
        self.note(rows, start.elapsed(), is_late);
        // A statement of many rows that was cut off has tried none of them.
        self.has_begun |= rows == 1 || !is_late;
        if is_late {
            return Err(StoreError::RowTimeout(limit));
        }
        result
    }

    fn note(&mut self, rows: usize, time: Duration, is_late: bool) {
        let is_slow = is_late || time > QUICK / 2;
        let id = self.map.id;
        SLOW.with_borrow_mut(|slow| {
            if is_slow {
                slow.insert(id, if is_late { 1 } else { (rows / 2).max(1) });
            } else if let Some(together) = slow.get_mut(&id)
                && !self.was_cut
                && time < QUICK / 4
                && rows >= *together
            {
                *together *= 4;
                if *together >= TOGETHER {
                    slow.remove(&id);
                }
            }
        });
        self.was_cut |= is_late;
        // The time of rows that were cut off together is nobody's: they have it again, one by one,
        // until one is to blame.
        if is_slow && (self.until.is_none() || is_late && rows > 1) {
            self.until = Some(Instant::now() + SHARE);
        }
    }
}

/// Runs `statement` for all of these rows, as many at a time as the pace allows, and in halves if
/// it fails, until it is known which rows fail. The answer names them.
pub fn each(
    pace: &mut Pace,
    places: &[usize],
    mut statement: impl FnMut(&mut Pace, &[usize]) -> Result<(), StoreError>,
) -> Vec<(usize, StoreError)> {
    let mut failed = Vec::new();
    let mut parts = Parts::new(places.to_vec());
    while let Some(part) = parts.pop() {
        if pace.is_over() {
            failed.extend(part.iter().map(|&n| (n, StoreError::Postponed)));
            continue;
        }
        let room = pace.room();
        if part.len() > room {
            parts.split(part, room);
            continue;
        }
        match statement(pace, &part) {
            Ok(()) => {}
            // No row is at fault, and the others would fail the same way.
            Err(error @ StoreError::BeforeOwnersCode { .. }) => {
                let others = part[1..].iter().copied().chain(parts.drain());
                failed.extend(others.map(|n| (n, StoreError::Postponed)));
                failed.push((part[0], error));
            }
            Err(error) if part.len() == 1 => failed.push((part[0], error)),
            // The pace is another now.
            Err(StoreError::RowTimeout(_)) => parts.push(part),
            Err(_) => parts.halve(part),
        }
    }
    failed
}

/// Tries all of these rows, and those that fail for the sake of other rows again after these, as
/// long as that gets any further: rows may need each other in an order that nobody knows. `attempt`
/// names those that fail, and so does the answer.
pub fn in_any_order(
    places: Vec<usize>,
    mut attempt: impl FnMut(&[usize]) -> Vec<(usize, StoreError)>,
) -> Vec<(usize, StoreError)> {
    let (mut left, mut for_good) = (places, Vec::new());
    loop {
        let (waiting, failed): (Vec<_>, Vec<_>) = attempt(&left)
            .into_iter()
            .partition(|(_, error)| error.is_about_other_rows());
        for_good.extend(failed);
        if waiting.is_empty() || waiting.len() == left.len() {
            for_good.extend(waiting);
            return for_good;
        }
        left = waiting.into_iter().map(|(n, _)| n).collect();
    }
}
