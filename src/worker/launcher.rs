//! The launcher: one worker for each database that has the extension.
//!
//! It starts a worker in every database it does not know; one that does not find the extension says
//! so and ends, and is not started again before CREATE EXTENSION asks for it. Workers that end are
//! started again, with a growing delay while they end early. On a standby it does not run: Postgres
//! starts it on promotion.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::prelude::*;

use super::process::{attach_signals, reload_if_requested, report, wait_latch};
use crate::shared::{self, State};

/// How often databases are looked for that came without CREATE EXTENSION (a template, for example).
const SCAN: Duration = Duration::from_secs(300);
/// A worker that has not entered after this time did not start.
const START: Duration = Duration::from_secs(10);
/// A worker that ran this long was healthy.
const HEALTHY: Duration = Duration::from_secs(60);

pub fn register() {
    BackgroundWorkerBuilder::new("pg_crm launcher")
        .set_type("pg_crm launcher")
        .set_library("pg_crm")
        .set_function("pg_crm_launcher_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
        .load();
}

/// What the launcher remembers of a database's worker.
struct Attempt {
    at: Instant,
    ends_in_a_row: u32,
    running: bool,
}

impl Attempt {
    /// 1 s after the first end, doubling to 32 s.
    fn not_before(&self) -> Instant {
        match self.ends_in_a_row {
            0 => self.at,
            n => {
                self.at
                    + Duration::from_secs(1 << n.min(6).saturating_sub(1))
                        .min(Duration::from_secs(60))
            }
        }
    }
}

#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_crm_launcher_main(_argument: pg_sys::Datum) {
    attach_signals();
    // SAFETY: no database: the shared catalogs are enough, and no database is kept from being
    // dropped.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0) };
    shared::launcher_started(std::process::id() as i32);
    let mut attempts: HashMap<u32, Attempt> = HashMap::new();
    let mut complained = false;
    loop {
        reload_if_requested();
        report("looking for databases that have pg_crm");
        let next = look(&mut attempts, &mut complained);
        report("");
        wait_latch(Some(next));
    }
}

/// Starts what should run; returns when to look again.
fn look(attempts: &mut HashMap<u32, Attempt>, complained: &mut bool) -> Duration {
    let databases = databases();
    for slot in shared::slots() {
        if !databases.contains(&slot.database()) && slot.pid() == 0 {
            attempts.remove(&slot.database().to_u32());
            slot.free();
        }
    }
    let mut next = SCAN;
    let mut no_slot = false;
    for database in databases {
        let Some(slot) = shared::slot_or_new(database) else {
            warning!(
                "pg_crm has no room for another database; one is served when another is dropped"
            );
            break;
        };
        let attempt = attempts.entry(database.to_u32()).or_insert(Attempt {
            at: Instant::now(),
            ends_in_a_row: 0,
            running: false,
        });
        match slot.state() {
            State::Running => {
                attempt.running = true;
                continue;
            }
            State::Absent => {
                attempt.ends_in_a_row = 0;
                continue;
            }
            State::Starting if attempt.at.elapsed() < START => {
                next = next.min(START);
                continue;
            }
            State::Ended if attempt.running => {
                attempt.running = false;
                attempt.ends_in_a_row = if attempt.at.elapsed() > HEALTHY {
                    1
                } else {
                    attempt.ends_in_a_row + 1
                };
                attempt.at = Instant::now();
            }
            _ => {}
        }
        let wait = attempt
            .not_before()
            .saturating_duration_since(Instant::now())
            .max(slot.held_for());
        if !wait.is_zero() {
            next = next.min(wait);
            continue;
        }
        attempt.at = Instant::now();
        // Before the start: a worker that is quick says that it runs, and that must stand.
        slot.set_state(State::Starting);
        if start(database) {
            attempt.running = true;
            next = next.min(START);
        } else {
            slot.set_state(State::NoFreeSlot);
            no_slot = true;
            next = next.min(Duration::from_secs(5));
        }
    }
    if no_slot && !*complained {
        ereport!(
            PgLogLevel::WARNING,
            PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            "pg_crm found no free worker slot; a database is not served",
            "Raise max_worker_processes (one for the launcher, one for each database that has pg_crm)."
        );
    }
    *complained = no_slot;
    next
}

fn start(database: pg_sys::Oid) -> bool {
    BackgroundWorkerBuilder::new("pg_crm worker")
        .set_type("pg_crm worker")
        .set_library("pg_crm")
        .set_function("pg_crm_worker_main")
        .set_argument(Some(pg_sys::Datum::from(database.to_u32() as usize)))
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(None)
        .set_notify_pid(std::process::id() as i32)
        .load_dynamic()
        .is_ok()
}

/// Databases that may be connected to; templates are left alone, a worker would keep them from
/// being copied.
fn databases() -> Vec<pg_sys::Oid> {
    let mut found = Vec::new();
    // SAFETY: a catalog scan as the autovacuum launcher does it; pg_database is readable without a
    // database.
    unsafe {
        pg_sys::StartTransactionCommand();
        pg_sys::GetTransactionSnapshot();
        let relation =
            pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let database = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            if (*database).datallowconn && !(*database).datistemplate {
                found.push((*database).oid);
            }
        }
        if let Some(end) = (*(*(*scan).rs_rd).rd_tableam).scan_end {
            end(scan);
        }
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        pg_sys::CommitTransactionCommand();
    }
    found
}
