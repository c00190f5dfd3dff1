//! The settings (`pg_crm.*`) and an owned copy of them that threads may hold.

use std::ffi::{CStr, CString, c_char, c_void};
use std::time::Duration;

use crm_domain::fuse::Fuse;
use pgrx::prelude::*;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

use crate::server_version;

/// Records in one slice of work.
pub static BATCH_ROWS: GucSetting<i32> = GucSetting::<i32>::new(10_000);
/// Bytes of values in one slice of work, in kB.
pub static BATCH_BYTES: GucSetting<i32> = GucSetting::<i32>::new(8 * 1024);
/// Records above which an asynchronous bulk job is used. Salesforce advises bulk above 2,000.
pub static BULK_THRESHOLD: GucSetting<i32> = GucSetting::<i32>::new(2_000);
/// Attempts before a record becomes a dead letter.
pub static MAX_ATTEMPTS: GucSetting<i32> = GucSetting::<i32>::new(10);
/// Months of audit older than this are dropped, in minutes; 0 keeps them.
pub static AUDIT_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(0);
/// Edits of `crm.write()` in flight.
pub static REALTIME_QUEUE: GucSetting<i32> = GucSetting::<i32>::new(800);
/// How long one HTTP request may take, in ms.
pub static REQUEST_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(30_000);
/// How long the code of a mapped table may take for one row, in ms.
pub static TRANSFORM_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(10_000);
/// Longest response that is read, in kB.
pub static MAX_RESPONSE: GucSetting<i32> = GucSetting::<i32>::new(64 * 1024);
/// Largest value of one field that is sent or taken, in kB. The longest text of the CRMs is about
/// 131,072 characters (Salesforce's long and rich text areas), which is 512 kB at most.
pub static MAX_VALUE: GucSetting<i32> = GucSetting::<i32>::new(1024);
/// What a round may delete, clear or create without a person: part of a map's records, and records
/// whatever part they are; -1: everything.
pub static FUSE_SHARE: GucSetting<f64> = GucSetting::<f64>::new(0.2);
pub static FUSE_RECORDS: GucSetting<i32> = GucSetting::<i32>::new(500);
/// Hosts that base URLs may name; empty: any.
pub static ALLOWED_HOSTS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
/// Address of the listener for webhooks; empty: none.
pub static WEBHOOK_LISTEN: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
/// Connections to the listener, in all and of one address.
pub static WEBHOOK_CONNECTIONS: GucSetting<i32> = GucSetting::<i32>::new(128);
pub static WEBHOOK_CONNECTIONS_PER_PEER: GucSetting<i32> = GucSetting::<i32>::new(96);
/// Address of the listener for monitoring, empty: none; and the file of the token that it asks for,
/// empty: none.
pub static METRICS_LISTEN: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
pub static METRICS_TOKEN_FILE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(None);
/// The application's own user, for the audit.
pub static ACTOR: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
/// The application's own id of what it is doing, for the audit and for events.
pub static CORRELATION_ID: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
/// What crm.map_field() does with what the CRM says of a field.
pub static CHECK_FIELDS: GucSetting<CheckFields> =
    GucSetting::<CheckFields>::new(CheckFields::Error);
#[cfg(feature = "failpoints")]
pub static FAILPOINTS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// The words of `pg_crm.check_fields`.
#[derive(Clone, Copy, PostgresGucEnum)]
pub enum CheckFields {
    #[name = c"off"]
    Off,
    #[name = c"warning"]
    Warning,
    #[name = c"error"]
    Error,
}

/// Settings of PostgreSQL that code of a table's owner must not change while pg_crm runs it, for
/// all that it sets is put back, but what these do is done by then: with `exit_on_error` the next
/// error, a caught one too, ends the worker, or the session of who called `crm.write()`.
const NOT_WHILE_RESTRICTED: [&CStr; 1] = [c"exit_on_error"];

/// Has PostgreSQL refuse them in a security-restricted operation, as it does `role`.
pub fn restrict() {
    // SAFETY: this process's own table of settings, in which nothing is moved; called while the
    // library is loaded.
    unsafe {
        for &setting in server_version::settings() {
            if NOT_WHILE_RESTRICTED.contains(&CStr::from_ptr((*setting).name)) {
                (*setting).flags |= pg_sys::GUC_NOT_WHILE_SEC_REST as i32;
            }
        }
    }
}

pub fn define() {
    let none = GucFlags::default();
    let int = |name, short, long, setting, min, max, flags| {
        GucRegistry::define_int_guc(
            name,
            short,
            long,
            setting,
            min,
            max,
            GucContext::Sighup,
            flags,
        );
    };
    int(
        c"pg_crm.batch_rows",
        c"Maximum number of records in one batch of write-back.",
        c"",
        &BATCH_ROWS,
        1,
        100_000,
        none,
    );
    int(
        c"pg_crm.batch_bytes",
        c"Maximum size of the values in one batch of write-back.",
        c"Limits the worker's memory, together with the number of batches in flight.",
        &BATCH_BYTES,
        64,
        1024 * 1024,
        GucFlags::UNIT_KB,
    );
    int(
        c"pg_crm.bulk_threshold",
        c"Number of records above which a CRM's asynchronous bulk job is used.",
        c"",
        &BULK_THRESHOLD,
        1,
        i32::MAX,
        none,
    );
    int(
        c"pg_crm.max_attempts",
        c"Number of failed attempts after which a record becomes a dead letter.",
        c"Outages and rate limits of a CRM do not count as attempts.",
        &MAX_ATTEMPTS,
        1,
        1000,
        none,
    );
    int(
        c"pg_crm.audit_retention",
        c"Age at which monthly partitions of crm.audit_log are dropped.",
        c"0 keeps the audit forever.",
        &AUDIT_RETENTION,
        0,
        i32::MAX,
        GucFlags::UNIT_MIN,
    );
    int(
        c"pg_crm.realtime_queue",
        c"Maximum number of crm.write() edits in flight.",
        c"Edits beyond it are pending at once: their rows keep them, and they are sent in bulk.",
        &REALTIME_QUEUE,
        1,
        10_000,
        none,
    );
    int(
        c"pg_crm.request_timeout",
        c"Maximum duration of one HTTP request to a CRM.",
        c"",
        &REQUEST_TIMEOUT,
        100,
        600_000,
        GucFlags::UNIT_MS,
    );
    int(
        c"pg_crm.transform_timeout",
        c"Maximum time that the code of a mapped table may take for one row: transforms, triggers, policies, defaults.",
        c"The record of a row that takes longer becomes a dead letter; other maps wait meanwhile.",
        &TRANSFORM_TIMEOUT,
        10,
        600_000,
        GucFlags::UNIT_MS,
    );
    int(
        c"pg_crm.max_response_bytes",
        c"Maximum size of a CRM's response.",
        c"Measured after decompression.",
        &MAX_RESPONSE,
        64,
        1024 * 1024,
        GucFlags::UNIT_KB,
    );
    int(
        c"pg_crm.max_value_bytes",
        c"Maximum size of one field's value sent to or taken from a CRM.",
        c"The record of a larger value becomes a dead letter. Limits the worker's memory.",
        &MAX_VALUE,
        1,
        64 * 1024,
        GucFlags::UNIT_KB,
    );
    int(
        c"pg_crm.fuse_records",
        c"Records that a round may delete, clear or create without approval, however few the map has.",
        c"A round that would do so with more, and with more than pg_crm.fuse_share of the map's records, is held until crm.approve(). -1: never.",
        &FUSE_RECORDS,
        -1,
        i32::MAX,
        none,
    );
    GucRegistry::define_float_guc(
        c"pg_crm.fuse_share",
        c"Part of a map's records that a round may delete, clear or create without approval.",
        c"See pg_crm.fuse_records.",
        &FUSE_SHARE,
        0.0,
        1.0,
        GucContext::Sighup,
        none,
    );
    GucRegistry::define_string_guc(
        c"pg_crm.allowed_hosts",
        c"Hosts allowed in base URLs of connections, separated by commas; *.example.com allows subdomains.",
        c"Empty allows every host over https. Plain http is allowed to loopback addresses only.",
        &ALLOWED_HOSTS,
        GucContext::Sighup,
        none,
    );
    // Not Sighup: a database can be given an address of its own (ALTER DATABASE … SET).
    GucRegistry::define_string_guc(
        c"pg_crm.webhook_listen",
        c"Address on which the worker accepts webhooks over HTTP, such as 127.0.0.1:8088.",
        c"Empty: it does not listen. CRMs post to /webhooks/{connection}.",
        &WEBHOOK_LISTEN,
        GucContext::Suset,
        none,
    );
    int(
        c"pg_crm.webhook_connections",
        c"Maximum number of open connections of the webhook listener.",
        c"Beyond it, the oldest connection that has not sent its request is closed. Takes effect when the listener starts.",
        &WEBHOOK_CONNECTIONS,
        8,
        10_000,
        none,
    );
    int(
        c"pg_crm.webhook_connections_per_peer",
        c"Maximum number of those connections from one address.",
        c"Behind a proxy, all connections come from its address. Takes effect when the listener starts.",
        &WEBHOOK_CONNECTIONS_PER_PEER,
        1,
        10_000,
        none,
    );
    for (name, short, long, setting) in [
        (
            c"pg_crm.metrics_listen",
            c"Address on which the worker serves metrics and a page over HTTP, such as 127.0.0.1:9187.",
            c"Empty: it does not listen. GET /metrics and /; both only read. Anyone who reaches an address without pg_crm.metrics_token_file can read them.",
            &METRICS_LISTEN,
        ),
        (
            c"pg_crm.metrics_token_file",
            c"File that holds the bearer token required to read metrics.",
            c"Empty: no token is required. Read with each request, so the token can be changed at any time.",
            &METRICS_TOKEN_FILE,
        ),
    ] {
        // Not Sighup: a database can be given an address of its own.
        GucRegistry::define_string_guc(name, short, long, setting, GucContext::Suset, none);
    }
    for (name, short, long, setting) in [
        (
            c"pg_crm.actor",
            c"User of the application, recorded with each edit.",
            c"Set it with SET LOCAL in the transaction that edits. At most 256 bytes.",
            &ACTOR,
        ),
        (
            c"pg_crm.correlation_id",
            c"The application's id for what it is doing, recorded with each edit.",
            c"Set it with SET LOCAL in the transaction that edits; crm.write() takes another as an argument. At most 256 bytes.",
            &CORRELATION_ID,
        ),
    ] {
        // SAFETY: the hook is guarded, and reads what it is given.
        unsafe {
            GucRegistry::define_string_guc_with_hooks(
                name,
                short,
                long,
                setting,
                GucContext::Userset,
                none,
                Some(check_name),
                None,
                None,
            );
        }
    }
    GucRegistry::define_enum_guc(
        c"pg_crm.check_fields",
        c"What crm.map_field() does with a mapping that does not fit the CRM's fields.",
        c"error rejects a mapping that cannot work, warning only reports it, off does not ask the CRM.",
        &CHECK_FIELDS,
        GucContext::Userset,
        none,
    );
    #[cfg(feature = "failpoints")]
    GucRegistry::define_string_guc(
        c"pg_crm.failpoints",
        c"Points at which the worker kills itself, once per data directory.",
        c"",
        &FAILPOINTS,
        GucContext::Sighup,
        none,
    );
    // A misspelt setting of ours is an error in a session and a warning at the start, and not one
    // more of nobody's. SAFETY: a plain call while the library is loaded.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"pg_crm".as_ptr()) }
}

/// Longest name that an application may give to its user or to what it does, in bytes: each of its
/// edits carries it.
const NAME_BYTES: usize = 256;

/// Why a text is no name that an application may give; `Ok` if it is one.
pub fn is_name(text: &[u8]) -> Result<(), &'static CStr> {
    if text.len() > NAME_BYTES {
        Err(c"It is longer than 256 bytes.")
    } else if text.iter().any(u8::is_ascii_control) {
        Err(c"It contains control characters.")
    } else {
        Ok(())
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_name(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: PostgreSQL passes the new value, a string or NULL; the detail is a copy in memory of
    // this call.
    unsafe {
        if (*value).is_null() {
            return true;
        }
        match is_name(CStr::from_ptr(*value).to_bytes()) {
            Ok(()) => true,
            Err(why) => {
                pg_sys::GUC_check_errdetail_string = pg_sys::pstrdup(why.as_ptr());
                false
            }
        }
    }
}

/// The settings as they are now, for code that may not ask Postgres.
#[derive(Clone, Debug)]
pub struct Settings {
    pub batch_rows: usize,
    pub batch_bytes: usize,
    pub bulk_threshold: usize,
    pub max_attempts: u32,
    pub audit_retention_minutes: i32,
    pub realtime_queue: usize,
    pub request_timeout: Duration,
    pub transform_timeout: Duration,
    pub max_response: u64,
    pub max_value: usize,
    pub fuse: Fuse,
    pub allowed_hosts: Vec<String>,
    pub webhook_listen: String,
    /// In all, and of one address.
    pub webhook_connections: [usize; 2],
    /// The address, and the file of the token.
    pub metrics_listen: [String; 2],
}

pub fn max_value() -> usize {
    MAX_VALUE.get() as usize * 1024
}

/// Empty if it is not set.
fn text(setting: &GucSetting<Option<CString>>) -> String {
    let value = setting.get();
    value.map_or_else(String::new, |value| {
        value.to_string_lossy().trim().to_owned()
    })
}

impl Settings {
    pub fn current() -> Self {
        Settings {
            batch_rows: BATCH_ROWS.get() as usize,
            batch_bytes: BATCH_BYTES.get() as usize * 1024,
            bulk_threshold: BULK_THRESHOLD.get() as usize,
            max_attempts: MAX_ATTEMPTS.get() as u32,
            audit_retention_minutes: AUDIT_RETENTION.get(),
            realtime_queue: REALTIME_QUEUE.get() as usize,
            request_timeout: Duration::from_millis(REQUEST_TIMEOUT.get() as u64),
            transform_timeout: Duration::from_millis(TRANSFORM_TIMEOUT.get() as u64),
            max_response: MAX_RESPONSE.get() as u64 * 1024,
            max_value: max_value(),
            fuse: Fuse {
                share: FUSE_SHARE.get(),
                records: Some(i64::from(FUSE_RECORDS.get())).filter(|records| *records >= 0),
            },
            allowed_hosts: ALLOWED_HOSTS
                .get()
                .map(|hosts| {
                    hosts
                        .to_string_lossy()
                        .split(',')
                        .map(|host| host.trim().to_ascii_lowercase())
                        .filter(|host| !host.is_empty())
                        .collect()
                })
                .unwrap_or_default(),
            webhook_connections: [&WEBHOOK_CONNECTIONS, &WEBHOOK_CONNECTIONS_PER_PEER]
                .map(|setting| setting.get() as usize),
            webhook_listen: text(&WEBHOOK_LISTEN),
            metrics_listen: [text(&METRICS_LISTEN), text(&METRICS_TOKEN_FILE)],
        }
    }
}
