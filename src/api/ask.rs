//! A request to the worker over its local socket, and the wait for the answer: cancellable,
//! bounded, and never in the way of the postmaster.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{JsonB, PgSqlErrorCode};
use serde_json::{Value as Json, json};

use super::caller::refuse_restricted;
use super::document::Document;
use super::raise;
use super::wake::has_uncommitted_changes;
use crate::shared;
use crate::worker::socket::{self, frame};

/// Sends a request to this database's worker and waits for its answer. At the timeout the answer is
/// `{}`.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
fn ask_worker(request: Document, timeout_ms: i64) -> JsonB {
    let Json::Object(mut request) = request.0 else {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "a request is a JSON object".to_owned(),
            None,
            "",
        )
    };
    // What a CRM says of its fields depends on no row.
    if request.get("op") != Some(&json!("describe")) && has_uncommitted_changes() {
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_WARNING,
            "the worker sees committed changes only",
            "pg_crm",
        )
        .set_hint(
            "This transaction has made changes that are not committed yet; call it after COMMIT.",
        )
        .report(PgLogLevel::NOTICE);
    }
    let timeout = Duration::from_millis(timeout_ms.max(0) as u64);
    request.insert("timeout_ms".into(), json!(timeout_ms.max(0)));
    JsonB(ask(request, timeout).unwrap_or_else(|| json!({})))
}

/// How long a worker that is starting is waited for.
const STARTS: Duration = Duration::from_secs(10);

thread_local! {
    /// The connection of this backend's last request, for the next one.
    static STREAM: RefCell<Option<UnixStream>> = const { RefCell::new(None) };
}

/// Raises unless there is a worker to ask.
pub fn require_worker() {
    refuse_restricted();
    let stream = connected(Instant::now() + STARTS);
    STREAM.set(Some(stream));
}

/// Asks the worker; `None` at the timeout. An error, such as a cancel, closes the connection, which
/// the worker notices.
pub fn ask(mut request: serde_json::Map<String, Json>, timeout: Duration) -> Option<Json> {
    refuse_restricted();
    let deadline = Instant::now() + timeout;
    request.insert("v".into(), json!(socket::VERSION));
    let mut stream = connected(deadline);
    let framed = frame::frame(&Json::Object(request));
    if let Err(error) = exchange(&mut stream, &framed, deadline) {
        no_worker(&error.to_string())
    }
    match read_answer(&mut stream, deadline) {
        Ok(Some(answer)) => {
            STREAM.set(Some(stream));
            Some(answer)
        }
        Ok(None) => None,
        Err(error) => no_worker(&error.to_string()),
    }
}

/// The connection of the last request if it is still open, else a new one.
fn connected(deadline: Instant) -> UnixStream {
    if let Some(mut stream) = STREAM.take()
        && let Err(error) = stream.read(&mut [0u8; 1])
        && error.kind() == io::ErrorKind::WouldBlock
    {
        return stream;
    }
    connect(deadline)
}

/// Connects, waiting a little for a worker that is just starting.
fn connect(deadline: Instant) -> UnixStream {
    let patience = (Instant::now() + STARTS).min(deadline);
    loop {
        // SAFETY: a plain read of this backend's own database.
        let database = unsafe { pg_sys::MyDatabaseId };
        match UnixStream::connect(socket::path(database)) {
            Ok(stream) => {
                stream
                    .set_nonblocking(true)
                    .unwrap_or_else(|e| no_worker(&e.to_string()));
                return stream;
            }
            Err(error) => {
                let starting = shared::available()
                    && shared::slot(database).is_none_or(|s| {
                        matches!(
                            s.state(),
                            shared::State::Starting
                                | shared::State::Wanted
                                | shared::State::Running
                                | shared::State::Ended
                        )
                    });
                if !starting || Instant::now() >= patience {
                    no_worker(&error.to_string())
                }
                wait(None, Duration::from_millis(20));
            }
        }
    }
}

fn no_worker(why: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "the pg_crm worker of this database does not answer".to_owned(),
        Some(format!(
            "The worker is {}: {why}.",
            super::wake::worker_state()
        )),
        "Plain UPDATEs are captured all the same and are sent when it runs again; see crm.status_wide and the server log.",
    )
}

fn exchange(stream: &mut UnixStream, frame: &[u8], deadline: Instant) -> io::Result<()> {
    let mut sent = 0;
    while sent < frame.len() {
        match stream.write(&frame[sent..]) {
            Ok(n) => sent += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                wait(None, Duration::from_millis(5));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn read_answer(stream: &mut UnixStream, deadline: Instant) -> io::Result<Option<Json>> {
    // The worker keeps the deadline itself; this one is for a worker that does not answer at all.
    let deadline = deadline + Duration::from_secs(2);
    let mut buffer = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "it ended during the request",
                ));
            }
            Ok(n) => {
                buffer.extend_from_slice(&chunk[..n]);
                if let Some(answer) = frame::parse(&buffer)? {
                    return Ok(Some(answer));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                    return Ok(None);
                };
                wait(Some(stream), left);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Waits, cancellably.
pub fn pause(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        wait(None, left);
    }
}

/// Waits for the socket or the latch, and gives cancel and statement_timeout their chance.
fn wait(stream: Option<&UnixStream>, time: Duration) {
    let mut events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    let mut fd = pg_sys::PGINVALID_SOCKET;
    if let Some(stream) = stream {
        events |= pg_sys::WL_SOCKET_READABLE;
        fd = stream.as_raw_fd();
    }
    // SAFETY: waits on this backend's own latch and on a descriptor that lives through the call.
    unsafe {
        let ms = time.as_millis().clamp(1, i64::from(i32::MAX) as u128) as i64;
        pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            events as i32,
            fd,
            ms,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pgrx::check_for_interrupts!();
}

extension_sql!(
    "COMMENT ON FUNCTION crm_internal.ask_worker(jsonb, bigint) IS 'sends a request to the worker over its local socket and waits at most that many milliseconds. Cancellable. Errors: 55000 no worker';",
    name = "ask_comments",
    requires = [ask_worker]
);
