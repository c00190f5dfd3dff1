//! Entry to and exit from the worker process of one database.

use pgrx::prelude::*;

use super::process::attach_signals;
use super::{main_loop, socket};
use crate::{counters, shared};

/// Entry of the worker of one database.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_crm_worker_main(database: pg_sys::Datum) {
    let database = pg_sys::Oid::from(database.value() as u32);
    attach_signals();
    // SAFETY: registers a callback that touches atomics alone, for every way out of the process.
    unsafe {
        pg_sys::before_shmem_exit(Some(leave), pg_sys::Datum::from(database.to_u32() as usize))
    };
    let Some(slot) = shared::slot(database) else {
        return;
    };
    if slot.is_held() {
        return;
    }
    // SAFETY: connects this process to the database; FATAL if it is gone, which the launcher
    // notices.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0) };
    if !slot.enter(std::process::id() as i32) {
        log!("pg_crm has a worker in this database already");
        return;
    }
    counters::begin(database);
    main_loop::run(slot, database);
}

#[pg_guard]
unsafe extern "C-unwind" fn leave(_code: i32, database: pg_sys::Datum) {
    if let Some(slot) = shared::slot(pg_sys::Oid::from(database.value() as u32)) {
        // One that never entered leaves nothing behind.
        if slot.pid() != 0 && slot.pid() != std::process::id() as i32 {
            return;
        }
        slot.leave();
        let _ = std::fs::remove_file(socket::path(slot.database()));
    }
}
