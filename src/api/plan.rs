//! `crm.plan()`: what the rows of a table would do to the CRM's records, and how many requests that
//! takes.

use std::time::{Duration, Instant};

use crm_provider::{Settings as Options, WriteKind};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::Value as Json;

use super::document::Document;
use super::or_raise;
use crate::settings::BULK_THRESHOLD;
use crate::store::capture::plan::{self, Fate, Planned};
use crate::store::capture::scan_order::Order;
use crate::store::config::{self, Map};
use crate::store::table::read::Bounds;
use crate::store::{StoreError, rights};

/// Rows of one part, and rows and time that are looked at in all.
const PART: usize = 1000;
const MOST: usize = 100_000;
const TIME: Duration = Duration::from_secs(10);
/// Queued records that are looked at.
const QUEUED: usize = 2000;
/// Keys that are shown of each kind.
const SAMPLES: usize = 5;

/// Records of one kind: how many, and the first of them.
#[derive(Default)]
struct Kind {
    count: i64,
    samples: Vec<String>,
}

impl Kind {
    fn add(&mut self, sample: impl FnOnce() -> String) {
        self.count += 1;
        if self.samples.len() < SAMPLES {
            self.samples.push(sample());
        }
    }
}

/// What was found, in the order in which it is shown.
#[derive(Default)]
struct Findings {
    rows: i64,
    is_whole: bool,
    creates: Kind,
    updates: Kind,
    clears: Kind,
    skipped: Kind,
    unreadable: Kind,
}

impl Findings {
    fn add(&mut self, planned: Planned) {
        self.rows += 1;
        let key = || match planned.key.shard_key.as_str() {
            "" => planned.key.record_key.clone(),
            shard => format!("{shard}/{}", planned.key.record_key),
        };
        if let Some(failure) = &planned.failure {
            return self
                .unreadable
                .add(|| format!("{}: {}", key(), failure.message));
        }
        match planned.fate {
            Some(Fate::Created) => self.creates.add(key),
            Some(Fate::Updated) => self.updates.add(key),
            Some(Fate::Skipped) => self.skipped.add(key),
            None => {}
        }
        if planned.is_cleared {
            self.clears.add(key);
        }
    }
}

type Line = (
    name!(item, String),
    name!(records, i64),
    name!(rows, i64),
    name!(is_whole, bool),
    name!(samples, Vec<String>),
);

/// See its comment below. To be called as `crm_engine`.
#[pg_extern(volatile, parallel_unsafe, strict, schema = "crm_internal")]
#[allow(clippy::type_complexity)] // as pgrx wants it
fn plan_rows(
    map_id: i32,
    is_queued: bool,
) -> TableIterator<
    'static,
    (
        name!(item, String),
        name!(records, i64),
        name!(rows, i64),
        name!(is_whole, bool),
        name!(samples, Vec<String>),
    ),
> {
    let found = or_raise(rights::pinned(|| {
        Spi::connect_mut(|client| match config::map(client, map_id)? {
            Some(map) if is_queued => queued(client, &map),
            Some(map) => pushed(client, &map),
            None => Ok(Findings::default()),
        })
    }));
    let (rows, is_whole) = (found.rows, found.is_whole);
    let kinds = [
        ("create", found.creates),
        ("update", found.updates),
        ("clear", found.clears),
        ("skip", found.skipped),
        ("unreadable", found.unreadable),
    ];
    let line = move |(item, kind): (&str, Kind)| -> Line {
        (item.to_owned(), kind.count, rows, is_whole, kind.samples)
    };
    TableIterator::new(kinds.into_iter().map(line))
}

fn pushed(client: &mut SpiClient, map: &Map) -> Result<Findings, StoreError> {
    let (order, bounds) = (Order::of(client, map)?, Bounds::of_caller());
    let (start, mut found, mut after) = (Instant::now(), Findings::default(), None);
    while (found.rows as usize) < MOST && start.elapsed() < TIME {
        pgrx::check_for_interrupts!();
        let part = plan::rows(client, map, &order, after.as_ref(), PART, &bounds)?;
        let Some(last) = part.last() else {
            found.is_whole = true;
            break;
        };
        after = Some(last.key.clone());
        part.into_iter().for_each(|planned| found.add(planned));
    }
    Ok(found)
}

fn queued(client: &mut SpiClient, map: &Map) -> Result<Findings, StoreError> {
    let planned = plan::queued(client, map, QUEUED, &Bounds::of_caller())?;
    let mut found = Findings {
        is_whole: planned.len() < QUEUED,
        ..Findings::default()
    };
    planned.into_iter().for_each(|planned| found.add(planned));
    Ok(found)
}

/// How many requests writes take, and reads of changes, as the provider sizes them.
#[pg_extern(stable, parallel_safe, strict, schema = "crm_internal")]
fn plan_requests(
    provider: &str,
    options: Document,
    crm_object: &str,
    creates: i64,
    updates: i64,
    deletes: i64,
    reads: i64,
) -> i64 {
    let Some(provider) = crm_provider::provider(provider) else {
        return 0;
    };
    let options = match options.0 {
        Json::Object(options) => options,
        _ => serde_json::Map::new(),
    };
    let options = Options::new(options, BULK_THRESHOLD.get() as usize);
    let batch = |count: i64| (count as usize).min(crate::settings::BATCH_ROWS.get() as usize);
    let writes = [
        (WriteKind::Upsert, creates),
        (WriteKind::Update, updates),
        (WriteKind::Delete, deletes),
    ];
    let of = |count: i64, size: usize| (count.max(0) as usize).div_ceil(size.max(1)) as i64;
    let writes = writes
        .into_iter()
        .map(|(kind, count)| of(count, provider.write_size(&options, kind, batch(count))));
    writes.sum::<i64>() + of(reads, provider.read_size(crm_object))
}

extension_sql!(
    r#"
COMMENT ON FUNCTION crm_internal.plan_rows(int, bool) IS 'what a push of a map''s rows, or of the updates that are queued, would do to CRM records, from the first 100,000 of them at most (rows; is_whole: there are no more)';
COMMENT ON FUNCTION crm_internal.plan_requests(text, jsonb, text, bigint, bigint, bigint, bigint) IS 'how many requests a provider needs to create, update, delete and read so many records, if nothing has to be repeated';
"#,
    name = "plan_comments",
    requires = [plan_rows, plan_requests]
);
