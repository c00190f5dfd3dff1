//! Counters of the workers, in shared memory: how many records went which way, how many requests
//! were made, and how long they took. They outlive a worker, not the server.
//!
//! Guarantees: atomics only, like [`crate::shared`], so any thread may count and nothing can be
//! left locked; an attempt on a record is counted once its transaction is committed, and not if it
//! is undone. A series takes a place with its first count and keeps it; when all are taken, further
//! series are not counted.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crm_domain::budget::Priority;
use crm_domain::{AuditResult, ErrorClass, Path};
use pgrx::prelude::*;
use pgrx::{PGRXSharedMemory, PgAtomic, pg_shmem_init};

use crate::shared;

/// Series of all databases together: some hundred maps that meet with every error.
const SERIES: usize = 1 << 14;
/// How far from its own place a series is looked for.
const REACH: usize = 64;

/// Bounds of the histogram of requests, in ms; the last one is unbounded.
pub const BUCKETS: [u64; 10] = [10, 25, 50, 100, 250, 500, 1000, 2500, 10_000, 30_000];

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Attempts on records.
    Records {
        map_id: i32,
        path: Path,
        result: AuditResult,
        class: Option<ErrorClass>,
    },
    /// Requests, by how they ended.
    Requests {
        connection_id: i32,
        priority: Priority,
        class: Option<ErrorClass>,
    },
    /// Requests that took longer than the bound before this one, and no longer than this one.
    Duration {
        connection_id: i32,
        bucket: usize,
    },
    /// Their time together.
    Microseconds {
        connection_id: i32,
    },
    /// Bytes of bodies.
    Sent {
        connection_id: i32,
    },
    Received {
        connection_id: i32,
    },
}

impl Counter {
    /// In 56 bits: kind, id, two labels. Never zero.
    fn key(self) -> u64 {
        let class = |class: Option<ErrorClass>| class.map_or(0, |class| class as u64 + 1);
        let (kind, id, label, other) = match self {
            Counter::Records {
                map_id,
                path,
                result,
                class: c,
            } => (1, map_id, path as u64, (result as u64) << 4 | class(c)),
            Counter::Requests {
                connection_id,
                priority,
                class: c,
            } => (2, connection_id, priority as u64, class(c)),
            Counter::Duration {
                connection_id,
                bucket,
            } => (3, connection_id, bucket as u64, 0),
            Counter::Microseconds { connection_id } => (4, connection_id, 0, 0),
            Counter::Sent { connection_id } => (5, connection_id, 0, 0),
            Counter::Received { connection_id } => (6, connection_id, 0, 0),
        };
        kind << 48 | u64::from(id as u32) << 16 | label << 8 | other
    }

    fn of_key(key: u64) -> Option<Counter> {
        let class = |n: u64| n.checked_sub(1).map(|n| ErrorClass::ALL[n as usize]);
        let (id, label, other) = ((key >> 16) as u32 as i32, key >> 8 & 0xFF, key & 0xFF);
        Some(match key >> 48 & 0xFF {
            1 => Counter::Records {
                map_id: id,
                path: Path::ALL[label as usize],
                result: AuditResult::ALL[(other >> 4) as usize],
                class: class(other & 0xF),
            },
            2 => Counter::Requests {
                connection_id: id,
                priority: Priority::ALL[label as usize],
                class: class(other),
            },
            3 => Counter::Duration {
                connection_id: id,
                bucket: label as usize,
            },
            4 => Counter::Microseconds { connection_id: id },
            5 => Counter::Sent { connection_id: id },
            6 => Counter::Received { connection_id: id },
            _ => return None,
        })
    }
}

/// The bucket of the histogram that a request belongs to.
pub fn bucket(took: Duration) -> usize {
    let ms = took.as_millis() as u64;
    BUCKETS.partition_point(|bound| *bound < ms)
}

#[derive(Default)]
struct Series {
    /// The place of the database among the workers' slots, and the counter; 0: free.
    key: AtomicU64,
    count: AtomicU64,
}

pub struct Counters {
    /// Of which database the counts of each slot are.
    databases: [AtomicU32; shared::SLOTS],
    series: [Series; SERIES],
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            databases: std::array::from_fn(|_| AtomicU32::new(0)),
            series: std::array::from_fn(|_| Series::default()),
        }
    }
}

// SAFETY: made of atomics alone; no pointer, nothing to drop.
unsafe impl PGRXSharedMemory for Counters {}

// SAFETY: the name is unique to this extension.
static COUNTERS: PgAtomic<Counters> = unsafe { PgAtomic::new(c"pg_crm counters") };

/// The slot that this process counts for; `NOBODY`: it is no worker, and counts nothing.
static OWN: AtomicUsize = AtomicUsize::new(NOBODY);
const NOBODY: usize = usize::MAX;

pub fn request() {
    pg_shmem_init!(COUNTERS);
}

/// The worker of a database counts from now on, and goes on where an earlier worker of the same
/// database was.
pub fn begin(database: pg_sys::Oid) {
    let Some(slot) = shared::place(database) else {
        return;
    };
    let counters = COUNTERS.get();
    if counters.databases[slot].swap(database.to_u32(), Relaxed) != database.to_u32() {
        for series in &counters.series {
            if belongs(series.key.load(Relaxed), slot) {
                series.count.store(0, Relaxed);
            }
        }
    }
    OWN.store(slot, Relaxed);
}

fn belongs(key: u64, slot: usize) -> bool {
    key != 0 && key >> 56 == slot as u64
}

/// Counts at once; from any thread.
pub fn add(counter: Counter, count: u64) {
    let slot = OWN.load(Relaxed);
    if slot == NOBODY || count == 0 {
        return;
    }
    let key = (slot as u64) << 56 | counter.key();
    // Fibonacci hashing: the upper bits depend on all of the key.
    let start = (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 50) as usize;
    for step in 0..REACH {
        let series = &COUNTERS.get().series[(start + step) % SERIES];
        let found = match series.key.load(Relaxed) {
            0 => series
                .key
                .compare_exchange(0, key, Relaxed, Relaxed)
                .unwrap_or_else(|other| other),
            other => other,
        };
        if found == 0 || found == key {
            series.count.fetch_add(count, Relaxed);
            return;
        }
    }
}

thread_local! {
    /// Counts of the transaction under way.
    static UNCOMMITTED: RefCell<Vec<(Counter, u64)>> = const { RefCell::new(Vec::new()) };
}

/// Counts once the worker's transaction is committed.
pub fn add_at_commit(counter: Counter, count: u64) {
    if OWN.load(Relaxed) != NOBODY {
        UNCOMMITTED.with_borrow_mut(|counts| counts.push((counter, count)));
    }
}

/// How much is counted so far in the transaction under way.
pub fn mark() -> usize {
    UNCOMMITTED.with_borrow(Vec::len)
}

/// What was counted since the mark is undone.
pub fn undo(mark: usize) {
    UNCOMMITTED.with_borrow_mut(|counts| counts.truncate(mark));
}

/// The transaction is committed.
pub fn commit() {
    for (counter, count) in UNCOMMITTED.take() {
        add(counter, count);
    }
}

/// What the workers of a database have counted since the server started.
pub fn of_database(database: pg_sys::Oid) -> Vec<(Counter, u64)> {
    let Some(slot) = shared::place(database) else {
        return Vec::new();
    };
    let counters = COUNTERS.get();
    if counters.databases[slot].load(Relaxed) != database.to_u32() {
        return Vec::new();
    }
    let read = |series: &Series| {
        let key = series.key.load(Relaxed);
        let count = series.count.load(Relaxed);
        let counter = belongs(key, slot).then(|| Counter::of_key(key)).flatten();
        counter
            .filter(|_| count > 0)
            .map(|counter| (counter, count))
    };
    counters.series.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_read_back_from_its_key() {
        let mut keys = std::collections::HashSet::new();
        let classes = ErrorClass::ALL.into_iter().map(Some).chain([None]);
        for class in classes {
            for path in Path::ALL {
                for result in AuditResult::ALL {
                    for map_id in [1, -1, i32::MAX] {
                        let counter = Counter::Records {
                            map_id,
                            path,
                            result,
                            class,
                        };
                        assert_eq!(Counter::of_key(counter.key()), Some(counter));
                        assert!(keys.insert(counter.key()));
                    }
                }
            }
            for priority in Priority::ALL {
                let counter = Counter::Requests {
                    connection_id: 7,
                    priority,
                    class,
                };
                assert_eq!(Counter::of_key(counter.key()), Some(counter));
                assert!(keys.insert(counter.key()));
            }
        }
    }

    #[test]
    fn a_request_belongs_to_one_bucket() {
        let ms = Duration::from_millis;
        for (took, expected) in [(0, 0), (10, 0), (11, 1), (30_000, 9), (30_001, 10)] {
            assert_eq!(bucket(ms(took)), expected, "{took} ms");
        }
    }
}
