//! `crm_internal.compare_rows()`: what `crm.check(deep => true)` reports about the rows of a map.

use std::fmt::Write;

use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use super::or_raise;
use crate::store::capture::compare::{self, Differing};
use crate::store::capture::scan_order::Order;
use crate::store::config::{self, Map};
use crate::store::record::key::Key;
use crate::store::table::read::Bounds;
use crate::store::{StoreError, rights};
use crm_domain::mapping::{OnDelete, OnInsert};

const RULE: &str = "rows and records are in step";
/// Rows of one part.
const PART: usize = 1000;
/// Findings that are collected before changes that are not folded yet are looked up for them.
const TOGETHER: usize = 20_000;
/// How many findings of each kind are reported one by one.
const LISTED: usize = 100;
/// Rows between two NOTICEs.
const EVERY: usize = 100_000;

/// Findings of one kind: the first of them, and how many.
#[derive(Default)]
struct Findings {
    first: Vec<String>,
    count: usize,
}

impl Findings {
    fn add(&mut self, detail: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < LISTED {
            self.first.push(detail());
        }
    }

    fn report(self, map: &Map, what: &str, lines: &mut Vec<String>) {
        let more = self.count - self.first.len();
        lines.extend(self.first);
        if more > 0 {
            lines.push(format!("map {}: {more} more {what}", map.id));
        }
    }
}

struct Comparison<'a> {
    map: &'a Map,
    bounds: Bounds,
    differing: Vec<Differing>,
    strangers: Vec<Key>,
    apart: Findings,
    unknown: Findings,
    gone: Findings,
    /// Why the rows beyond some place cannot be read.
    unreadable: Option<String>,
}

/// Compares the rows of a map with the ledger, and the ledger with the rows. To be called as
/// `crm_engine` (by `crm_internal.check_rows()`).
#[pg_extern(volatile, parallel_unsafe, strict, schema = "crm_internal")]
fn compare_rows(
    map_id: i32,
) -> TableIterator<'static, (name!(rule, String), name!(detail, String))> {
    let details = or_raise(rights::pinned(|| {
        Spi::connect_mut(|client| match config::map(client, map_id)? {
            Some(map) if map.in_error => {
                notice!(
                    "pg_crm skips the rows of {}: map {map_id} is in state error, see crm.status",
                    map.relation
                );
                Ok(Vec::new())
            }
            Some(map) => Comparison::of(&map).run(client),
            None => Ok(Vec::new()),
        })
    }));
    TableIterator::new(details.into_iter().map(|detail| (RULE.to_owned(), detail)))
}

impl<'a> Comparison<'a> {
    fn of(map: &'a Map) -> Comparison<'a> {
        Comparison {
            map,
            bounds: Bounds::of_caller().lenient(),
            differing: Vec::new(),
            strangers: Vec::new(),
            apart: Findings::default(),
            unknown: Findings::default(),
            gone: Findings::default(),
            unreadable: None,
        }
    }

    fn run(mut self, client: &mut SpiClient) -> Result<Vec<String>, StoreError> {
        let map = self.map;
        let order = Order::of(client, map)?;
        let (mut after, mut rows) = (None, 0);
        loop {
            pgrx::check_for_interrupts!();
            let part = match compare::part(client, map, &order, after.as_ref(), PART, &self.bounds)
            {
                // A policy of the table, say: which row it is about is not known without it.
                Err(error) if error.is_the_tables() => {
                    self.unreadable = Some(unreadable(map, after.as_ref(), &error));
                    self.note(client)?;
                    break;
                }
                part => part?,
            };
            self.differing.extend(part.differing);
            if map.on_insert == OnInsert::Create {
                self.strangers.extend(part.strangers);
            }
            if (rows + part.rows) / EVERY > rows / EVERY {
                notice!(
                    "pg_crm compared {} rows of {}",
                    rows + part.rows,
                    map.relation
                );
            }
            rows += part.rows;
            after = part.last;
            if after.is_none() || self.differing.len() + self.strangers.len() >= TOGETHER {
                self.note(client)?;
            }
            if after.is_none() {
                break;
            }
        }
        // If row security hides rows from the owner, a row that is not seen need not be gone.
        if !map.hides_rows && self.unreadable.is_none() {
            self.look_for_rows(client)?;
        }
        let mut lines = Vec::from_iter(self.unreadable);
        self.apart
            .report(map, "rows differ from what the CRM last held", &mut lines);
        self.unknown
            .report(map, "rows have no CRM record", &mut lines);
        if map.on_delete != OnDelete::Ignore {
            self.gone
                .report(map, "records have lost their rows", &mut lines);
        } else if let Some(first) = self.gone.first.first() {
            // That is no breach, but an unintended TRUNCATE shows here.
            notice!(
                "{} records of map {} have no row, on_delete being 'ignore'; the first: {first}",
                self.gone.count,
                map.id
            );
        }
        Ok(lines)
    }

    /// Goes through the ledger, and looks for the rows of its records.
    fn look_for_rows(&mut self, client: &mut SpiClient) -> Result<(), StoreError> {
        let map = self.map;
        let (mut after, mut lost) = (None, Vec::new());
        loop {
            pgrx::check_for_interrupts!();
            let (gone, last) =
                compare::without_rows(client, map, after.as_ref(), PART, &self.bounds)?;
            lost.extend(gone);
            after = last;
            if after.is_none() || lost.len() >= TOGETHER {
                compare::leave_out_unfolded(client, map, &mut Vec::new(), &mut lost)?;
                for key in lost.drain(..) {
                    self.gone.add(|| {
                        format!(
                            "{} is linked to a CRM record, but its row is gone",
                            name(map, &key)
                        )
                    });
                }
            }
            if after.is_none() {
                return Ok(());
            }
        }
    }

    fn note(&mut self, client: &mut SpiClient) -> Result<(), StoreError> {
        let map = self.map;
        compare::leave_out_unfolded(client, map, &mut self.differing, &mut self.strangers)?;
        for d in self.differing.drain(..) {
            self.apart.add(|| difference(map, &d));
        }
        for key in self.strangers.drain(..) {
            self.unknown.add(|| {
                format!(
                    "{} has no CRM record, and nothing waits to create one",
                    name(map, &key)
                )
            });
        }
        Ok(())
    }
}

fn name(map: &Map, key: &Key) -> String {
    let mut name = format!("record {} of map {}", key.record_key, map.id);
    if !key.shard_key.is_empty() {
        let _ = write!(name, " (shard_key {})", key.shard_key);
    }
    name
}

fn unreadable(map: &Map, after: Option<&Key>, error: &StoreError) -> String {
    let beyond = after.map_or_else(String::new, |key| format!(" beyond {}", name(map, key)));
    format!(
        "the rows of map {}{beyond} cannot be read: {}",
        map.id,
        error.message()
    )
}

fn difference(map: &Map, d: &Differing) -> String {
    let name = name(map, &d.key);
    if let Some(failure) = &d.failure {
        return format!("{name} cannot be read: {}", failure.message);
    }
    let columns: Vec<String> = d
        .cells
        .iter()
        .filter_map(|id| Some(format!("\"{}\"", map.field(id)?.column)))
        .collect();
    format!(
        "{name} differs in {} from what the CRM last held, and nothing waits to be written",
        columns.join(", ")
    )
}

extension_sql!(
    r#"
COMMENT ON FUNCTION crm_internal.compare_rows(int) IS 'violations that crm.check(deep => true) reports for the rows of a map';
"#,
    name = "compare_comments",
    requires = [compare_rows]
);
