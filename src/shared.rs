//! The shared memory of backends, the launcher and the workers.
//!
//! Atomics only: nothing here can be left locked, and no pointer to a process can dangle. A process
//! is woken through its PGPROC, found by pid at that moment; if the pid has been reused by then,
//! the other process wakes up needlessly.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;
use pgrx::{PGRXSharedMemory, PgAtomic, pg_shmem_init};

/// Databases with a worker at once. A database beyond it waits until another is dropped.
pub const SLOTS: usize = 256;

/// What is known of a database's worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// The launcher should start one.
    Wanted = 0,
    Starting = 1,
    Running = 2,
    /// `max_worker_processes` is used up.
    NoFreeSlot = 3,
    /// The database does not have the extension.
    Absent = 4,
    /// It ended and will be started again.
    Ended = 5,
}

impl State {
    fn from_u8(n: u8) -> State {
        [
            State::Wanted,
            State::Starting,
            State::Running,
            State::NoFreeSlot,
            State::Absent,
            State::Ended,
        ][n.min(5) as usize]
    }

    /// As `crm.status_wide.worker` shows it.
    pub fn name(self) -> &'static str {
        match self {
            State::Wanted | State::Starting => "starting",
            State::Running => "running",
            State::NoFreeSlot => "waiting for a free worker slot (max_worker_processes)",
            State::Absent | State::Ended => "stopped",
        }
    }
}

/// What commits asked of a worker.
#[derive(Default)]
pub struct Woken {
    pub at_all: bool,
    /// Edits are to go to the CRM at once.
    pub urgently: bool,
    /// Connections or maps may be others.
    pub by_a_change: bool,
}

impl Woken {
    pub fn add(&mut self, more: Woken) {
        self.at_all |= more.at_all;
        self.urgently |= more.urgently;
        self.by_a_change |= more.by_a_change;
    }
}

#[derive(Default)]
pub struct Slot {
    database: AtomicU32,
    pid: AtomicI32,
    state: AtomicU8,
    /// CREATE EXTENSION asked for a worker, and none has looked for the extension since.
    asked: AtomicBool,
    /// Set by a commit, cleared by the worker before it looks for work.
    woken: AtomicBool,
    /// A commit whose edits go to the CRM at once.
    urgent: AtomicBool,
    /// A commit after which connections or maps may be others, such as a pause.
    changed: AtomicBool,
    /// The SQLSTATE of what keeps the worker from working; 0: nothing.
    trouble: AtomicI32,
    /// Since when the worker has been at one turn of its work, in ms; 0: it rests.
    busy_since: AtomicI64,
    /// No worker may run in the database before this time (DROP DATABASE is under way), in ms.
    held_until: AtomicI64,
}

pub struct Registry {
    launcher: AtomicI32,
    slots: [Slot; SLOTS],
}

impl Default for Registry {
    fn default() -> Self {
        Registry {
            launcher: AtomicI32::new(0),
            slots: std::array::from_fn(|_| Slot::default()),
        }
    }
}

// SAFETY: made of atomics alone; no pointer, nothing to drop.
unsafe impl PGRXSharedMemory for Registry {}

// SAFETY: the name is unique to this extension.
static REGISTRY: PgAtomic<Registry> = unsafe { PgAtomic::new(c"pg_crm registry") };

pub fn request() {
    pg_shmem_init!(REGISTRY);
}

/// Whether the library was preloaded, so that there is shared memory to look at.
pub fn available() -> bool {
    // SAFETY: a plain read; set from postgresql.conf before any backend starts.
    let preloaded = unsafe { std::ffi::CStr::from_ptr(pg_sys::shared_preload_libraries_string) };
    preloaded.to_string_lossy().split(',').any(|l| {
        let l = l.trim().trim_matches('"');
        l == "pg_crm" || l.ends_with("/pg_crm") || l.ends_with("/pg_crm.so")
    })
}

pub fn now_ms() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as i64)
}

/// Sets the latch of a process, if there is one of that pid.
fn set_latch(pid: i32) {
    if pid == 0 {
        return;
    }
    // SAFETY: BackendPidGetProc takes its lock itself; a PGPROC lies in shared memory and is never
    // freed.
    unsafe {
        let proc = pg_sys::BackendPidGetProc(pid);
        if !proc.is_null() {
            pg_sys::SetLatch(&raw mut (*proc).procLatch);
        }
    }
}

/// Whether a server process of that pid is connected to the database.
pub fn is_connected(pid: i32, database: pg_sys::Oid) -> bool {
    // SAFETY: as in set_latch; databaseId is a plain value.
    pid != 0
        && unsafe {
            let proc = pg_sys::BackendPidGetProc(pid);
            !proc.is_null() && (*proc).databaseId == database
        }
}

impl Slot {
    pub fn database(&self) -> pg_sys::Oid {
        pg_sys::Oid::from(self.database.load(SeqCst))
    }
    pub fn pid(&self) -> i32 {
        self.pid.load(SeqCst)
    }
    pub fn state(&self) -> State {
        match State::from_u8(self.state.load(SeqCst)) {
            // The worker that did not find the extension looked before it was there.
            State::Absent if self.asked.load(SeqCst) => State::Wanted,
            state => state,
        }
    }
    pub fn set_state(&self, state: State) {
        self.state.store(state as u8, SeqCst);
    }
    pub fn set_trouble(&self, trouble: Option<PgSqlErrorCode>) {
        let code = trouble.map_or(0, |code| code as i32);
        self.trouble.store(code, SeqCst);
    }
    /// The SQLSTATE of what keeps a worker that runs from working.
    pub fn trouble(&self) -> Option<String> {
        let code = self.trouble.load(SeqCst);
        // Five characters of six bits, as MAKE_SQLSTATE packs them.
        let character = |n: u32| char::from((code >> (6 * n) & 0x3F) as u8 + b'0');
        (code != 0).then(|| (0..5).map(character).collect())
    }
    /// The worker begins a turn.
    pub fn begin_turn(&self) {
        self.busy_since.store(now_ms(), SeqCst);
    }
    pub fn end_turn(&self) {
        self.busy_since.store(0, SeqCst);
    }
    /// How long a worker that runs has been at one turn.
    pub fn busy_for(&self) -> Option<Duration> {
        let since = self.busy_since.load(SeqCst);
        let is_busy = since > 0 && self.state() == State::Running;
        is_busy.then(|| Duration::from_millis((now_ms() - since).max(0) as u64))
    }
    /// Asks for a worker; called right after the commit of CREATE EXTENSION.
    pub fn ask(&self) {
        self.asked.store(true, SeqCst);
    }
    pub fn is_held(&self) -> bool {
        self.held_until.load(SeqCst) > now_ms()
    }
    pub fn held_for(&self) -> Duration {
        Duration::from_millis((self.held_until.load(SeqCst) - now_ms()).max(0) as u64)
    }
    pub fn hold(&self, time: Duration) {
        self.held_until
            .store(now_ms() + time.as_millis() as i64, SeqCst);
    }
    pub fn free(&self) {
        self.pid.store(0, SeqCst);
        self.held_until.store(0, SeqCst);
        self.asked.store(false, SeqCst);
        self.set_state(State::Wanted);
        self.database.store(0, SeqCst);
    }
    /// The worker enters; it is found by pid from now on. `false` when another is there already.
    pub fn enter(&self, pid: i32) -> bool {
        let before = self.pid();
        if before != pid && is_connected(before, self.database()) {
            return false;
        }
        self.pid.store(pid, SeqCst);
        // Before it looks for the extension: whoever asks from now on may have come too late for
        // that.
        self.asked.store(false, SeqCst);
        self.set_trouble(None);
        self.end_turn();
        self.set_state(State::Running);
        true
    }
    /// The worker ends, or the process that was to become it.
    pub fn leave(&self) {
        self.pid.store(0, SeqCst);
        if self.state.load(SeqCst) != State::Absent as u8 {
            self.set_state(State::Ended);
        }
        wake_launcher();
    }
    /// Which commits asked for attention since the last call.
    pub fn take_wake(&self) -> Woken {
        Woken {
            at_all: self.woken.swap(false, SeqCst),
            urgently: self.urgent.swap(false, SeqCst),
            by_a_change: self.changed.swap(false, SeqCst),
        }
    }
}

pub fn slots() -> impl Iterator<Item = &'static Slot> {
    REGISTRY
        .get()
        .slots
        .iter()
        .filter(|s| s.database.load(SeqCst) != 0)
}

pub fn slot(database: pg_sys::Oid) -> Option<&'static Slot> {
    slots().find(|s| s.database() == database)
}

/// Where among the slots the database's is.
pub fn place(database: pg_sys::Oid) -> Option<usize> {
    let slots = &REGISTRY.get().slots;
    slots.iter().position(|slot| slot.database() == database)
}

/// The database's slot, taken anew if it has none; `None` when all are in use.
pub fn slot_or_new(database: pg_sys::Oid) -> Option<&'static Slot> {
    slot(database).or_else(|| {
        REGISTRY.get().slots.iter().find(|s| {
            s.database
                .compare_exchange(0, database.to_u32(), SeqCst, SeqCst)
                .is_ok()
        })
    })
}

pub fn launcher_started(pid: i32) {
    REGISTRY.get().launcher.store(pid, SeqCst);
}

pub fn launcher_pid() -> i32 {
    REGISTRY.get().launcher.load(SeqCst)
}

pub fn wake_launcher() {
    set_latch(launcher_pid());
}

/// Wakes this database's worker; called right after a commit.
pub fn wake_worker(urgent: bool) {
    // SAFETY: a plain read of this backend's own database.
    let database = unsafe { pg_sys::MyDatabaseId };
    if let Some(slot) = slot(database) {
        let why = if urgent { &slot.urgent } else { &slot.changed };
        why.store(true, SeqCst);
        // Only the first of many commits pays for the signal.
        if !slot.woken.swap(true, SeqCst) || urgent {
            set_latch(slot.pid());
        }
    }
}
