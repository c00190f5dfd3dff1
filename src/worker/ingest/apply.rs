//! The CRM's responses, applied to the tables: a page or a read in one transaction each, and what
//! is to be read again.

use std::collections::HashSet;
use std::ffi::CStr;
use std::time::{Duration, Instant};

use crm_domain::bisect::{PATIENCE, Undone, bisect, fail_alike};
use crm_domain::stop_rule::stops;
use crm_domain::{ErrorClass, Failure, Path};
use pgrx::spi::SpiClient;
use serde_json::json;

use super::fuse;
use super::request::{PollRequest, PollResult, Target};
use crate::failpoint;
use crate::settings::Settings;
use crate::store::config::{self, Connection, Map};
use crate::store::conflict;
use crate::store::fuse::{Direction, end};
use crate::store::ingest::refetch::{self, Refetch};
use crate::store::ingest::state::{self, Pass};
use crate::store::ingest::{self, Arrived, Arriving, Incoming};
use crate::store::notify;
use crate::store::table::read::READ_TIME;
use crate::store::transaction::set_lock_timeout;
use crate::store::{Fault, StoreError, map_state, transaction};
use crate::worker::notification;
use crate::worker::schedule::LOCKED_RETRY;

/// After a table's own code took its time, others have so many times as much.
pub const OTHERS_SHARE: u32 = 4;
/// How long a row waits for what it refers to and another session has locked: other records and
/// maps wait with it.
const ROW_LOCK_TIMEOUT: &CStr = c"50ms";
/// The code of a response that is longer than it may be.
pub const TOO_LONG: &str = "response_too_long";

/// Records by shard_key and record_key.
type Keys = HashSet<(String, String)>;

/// What a response says beside its records; applied with the last of them.
pub struct Last<'a> {
    pub result: &'a PollResult,
    /// How many records it had.
    pub count: usize,
    /// Those that were applied before these, and why some of them were quarantined.
    pub before: &'a [Incoming],
    pub failures: &'a [ErrorClass],
}

/// Which part of a response some records are.
#[derive(Clone, Copy)]
pub enum Part<'a> {
    /// It says by itself whether the mapping works.
    Alone,
    /// Others come after it.
    Step,
    Last(&'a Last<'a>),
}

/// Bytes of the records' values.
pub fn size(records: &[Incoming]) -> usize {
    let values = records.iter().filter_map(|r| r.values.as_ref().ok());
    values.flatten().map(|f| f.value.size() + 16).sum()
}

/// Applies records in as few parts as will do. One that cannot be applied is charged with an
/// attempt, and comes again by itself.
///
/// Fails, and charges none, where none is to blame: nothing at all can be stored, or all of them
/// fail alike. `failures`: how often in a row that was so before.
pub fn apply_in_parts(
    poll: &PollRequest,
    busy: &Keys,
    records: Vec<Incoming>,
    settings: &Settings,
    failures: u32,
) -> Result<(), StoreError> {
    apply(poll, busy, &[], Part::Alone, settings)?;
    let count = records.len();
    let mut undone = bisect(records, StoreError::blames_no_row, |part| {
        apply(poll, busy, part, Part::Alone, settings).map(|_| ())
    });
    let last_error = |undone: &mut Vec<Undone<Incoming, StoreError>>| undone.pop().map(|u| u.error);
    if undone.iter().any(|u| u.error.blames_no_row()) {
        undone.retain(|u| u.error.blames_no_row());
        return last_error(&mut undone).map_or(Ok(()), Err);
    }
    if failures < PATIENCE && !poll.reads_failed() && fail_alike(&undone, count, StoreError::code) {
        return last_error(&mut undone).map_or(Ok(()), Err);
    }
    for Undone { items, error } in undone {
        for record in items {
            let failure = Failure::record(ErrorClass::Internal, "settle", error.message());
            let reread = poll.reread_of(&record);
            transaction(|client| {
                let most = settings.max_attempts;
                ingest::charge(client, &poll.connection, &poll.map, &reread, &failure, most)
            })?;
        }
    }
    Ok(())
}

/// Notes that a request failed: when it is repeated, and what else follows from the failure.
/// `is_first`: the last one had not failed.
pub fn fail(
    poll: &PollRequest,
    failure: &Failure,
    wait: Duration,
    max_attempts: u32,
    is_first: bool,
) -> Result<(), StoreError> {
    let PollRequest {
        map,
        connection,
        target,
        ..
    } = poll;
    let wait_ms = wait.as_millis() as i64;
    let reason = format!("cannot poll for changes: {failure}");
    transaction(|client| {
        map_state::note_error(client, map.id, &reason)?;
        if is_first && poll.is_page() {
            let event = pass_event(client, "sync_failed", poll, None)?;
            notify::notify(client, vec![event])?;
        }
        match target {
            Target::Page { .. } if failure.code == TOO_LONG => Ok(()),
            Target::Page { .. } if failure.code == "unreadable_cursor" => {
                state::begin_anew(client, map.id)
            }
            Target::Page { .. } if failure.class == ErrorClass::Mapping => {
                map_state::stop(client, map.id, &reason)
            }
            Target::Page { .. } => state::postpone(client, map.id, wait_ms),
            Target::Records(records) => {
                let (worn, others): (Vec<&Refetch>, Vec<&Refetch>) = records
                    .iter()
                    .partition(|r| records.len() == 1 && r.attempts + 1 >= max_attempts);
                refetch::failed(client, map.id, &others, wait_ms)?;
                for record in worn {
                    ingest::give_up(client, connection, map, record, failure)?;
                }
                Ok(())
            }
        }
    })
}

/// What could not be applied comes again later. Records that failed together are charged with no
/// attempt, unless `error` may be about one of them.
pub fn postpone(poll: &PollRequest, wait: Duration, error: &StoreError) -> Result<(), StoreError> {
    let (map_id, wait_ms) = (poll.map.id, wait.as_millis() as i64);
    transaction(|client| match &poll.target {
        Target::Page { .. } => {
            failpoint::reach("ingest::postpone");
            state::postpone(client, map_id, wait_ms)
        }
        Target::Records(records) => {
            let records: Vec<&Refetch> = records.iter().collect();
            match error.fault() {
                Fault::Row => refetch::postpone(client, map_id, &records, wait_ms),
                _ => refetch::failed(client, map_id, &records, wait_ms),
            }
        }
    })
}

/// What came of applying records.
#[derive(PartialEq, Eq)]
pub enum Applied {
    /// Done; why some of them were quarantined.
    Done(Vec<ErrorClass>),
    /// Done, and the map is stopped.
    Stopped,
    /// Not done: what was requested is not what is wanted by now.
    Outdated,
}

/// Applies a part of a response in one transaction, and with the last one how far the CRM was read.
pub fn apply(
    poll: &PollRequest,
    busy: &Keys,
    records: &[Incoming],
    part: Part,
    settings: &Settings,
) -> Result<Applied, StoreError> {
    let PollRequest {
        map, connection, ..
    } = poll;
    let start = Instant::now();
    let last = match part {
        Part::Last(last) => Some(last),
        Part::Alone | Part::Step => None,
    };
    let next = last.and_then(|last| last.result.next.as_ref());
    let is_last_page = next.is_some_and(|(_, more)| !more);
    transaction(|client| {
        config::lock_definition(client, map.id)?;
        let Some(current) = config::map(client, map.id)? else {
            return Ok(Applied::Outdated);
        };
        // With other credentials, it may be another org by now.
        let is_same_org = config::version(client, connection.id)? == Some(connection.version);
        if !is_same_org || !requests_the_same(&current, map) || current.is_inbound_held {
            return Ok(Applied::Outdated);
        }
        let is_wanted = match (last, &poll.target) {
            (Some(last), _) => note_progress(client, poll, last)?,
            (None, Target::Page { since }) => state::stands_at(client, map.id, since.as_ref())?,
            (None, Target::Records(_)) => true,
        };
        if !is_wanted {
            return Ok(Applied::Outdated);
        }
        if poll.is_page() {
            let before = last.map_or(&[][..], |last| last.before);
            let shown = records.iter().chain(before).map(|r| r.crm_id.as_str());
            refetch::seen(client, map.id, shown.collect())?;
            if is_last_page {
                refetch::ask_unseen(client, map.id)?;
            }
        }
        failpoint::reach_with("ingest::store", records.iter().map(|r| r.crm_id.as_str()));
        let about = Arriving {
            connection,
            map: &current,
            asked: &poll.asked,
            busy,
            settings,
        };
        set_lock_timeout(ROW_LOCK_TIMEOUT);
        let arrived = ingest::apply(client, &about, records)?;
        fuse::judge(
            client,
            poll,
            records.len(),
            &arrived.hazards,
            &settings.fuse,
        )?;
        let wait = LOCKED_RETRY.max(match start.elapsed() {
            time if time >= READ_TIME => time * OTHERS_SHARE,
            _ => Duration::ZERO,
        });
        queue_reads(client, poll, records, &arrived, wait)?;
        let disputed = conflict::ids(client, map.id, &arrived.disputed)?;
        let conflicts = disputed
            .iter()
            .map(|ids| conflict_event(connection, map, ids));
        let mut events: Vec<String> = conflicts.collect();
        if arrived.is_first {
            events.push(pass_event(client, "sync_started", poll, None)?);
        }
        if is_last_page {
            if let Some(pass) = state::end_pass(client, map.id)? {
                events.push(pass_event(client, "sync_completed", poll, Some(&pass))?);
            }
            end(client, map.id, Direction::Inbound)?;
        }
        notify::notify(client, events)?;
        if let Some(reason) = &arrived.trouble {
            map_state::note_error(client, map.id, reason)?;
            // Of records that are read again because they failed before, it says nothing that all
            // of them fail.
            let (before, failures) = last.map_or((0, &[][..]), |l| (l.before.len(), l.failures));
            let failures = failures.iter().chain(&arrived.quarantined).copied();
            let all_fail = failures.clone().count() == before + records.len();
            if poll.is_page() && !matches!(part, Part::Step) && all_fail {
                let is_new = !state::has_applied(client, map.id)?;
                if stops(failures.map(Some), is_new) {
                    let reason = format!("every record fails: {reason}");
                    map_state::stop(client, map.id, &reason)?;
                    failpoint::reach("ingest::before_commit");
                    return Ok(Applied::Stopped);
                }
            }
        }
        failpoint::reach("ingest::before_commit");
        Ok(Applied::Done(arrived.quarantined))
    })
}

/// Stores how far the CRM was read, and what else its response said; `false`: the map stands
/// elsewhere by now.
fn note_progress(
    client: &mut SpiClient,
    poll: &PollRequest,
    last: &Last,
) -> Result<bool, StoreError> {
    let (map_id, result) = (poll.map.id, last.result);
    if let (Target::Page { since }, Some((next, more))) = (&poll.target, &result.next)
        && !state::advance(client, map_id, since.as_ref(), next, *more, last.count)?
    {
        return Ok(false);
    }
    if result.blind {
        refetch::look_out_for_linked(client, map_id)?;
    }
    if let Some(total) = result.total {
        state::note_total(client, map_id, total)?;
    }
    if result.strays > 0 {
        let counts = state::Counts {
            read: result.strays,
            ignored: result.strays,
            ..state::Counts::default()
        };
        state::count(client, map_id, &counts)?;
        let reason = format!(
            "{} records of the CRM's response were ignored: it does not identify them",
            result.strays
        );
        map_state::note_error(client, map_id, &reason)?;
    }
    Ok(true)
}

fn conflict_event(connection: &Connection, map: &Map, conflicts: &[i64]) -> String {
    let subject = notification::Subject {
        connection: &connection.name,
        map_id: map.id,
        relation: &map.relation,
        write_id: None,
        conflicts,
        correlation_id: None,
    };
    notification::payload("conflict", &subject, None)
}

/// The event of a pass through the CRM's changes.
fn pass_event(
    client: &SpiClient,
    name: &str,
    poll: &PollRequest,
    pass: Option<&Pass>,
) -> Result<String, StoreError> {
    let counts = match pass {
        Some(pass) => json!({ "read": pass.read, "applied": pass.applied }),
        None => json!({}),
    };
    let (map, connection) = (&poll.map, &poll.connection);
    let id = state::pass_id(client, map.id)?;
    let path = (Path::Ingest, id.as_deref());
    Ok(notification::summary(name, connection, map, path, counts))
}

/// Whether what was requested is what the map maps now.
fn requests_the_same(now: &Map, then: &Map) -> bool {
    let fields = |map: &Map| -> Vec<_> {
        let fields = map.fields.iter();
        fields.map(|f| (f.id, f.field.clone())).collect()
    };
    now.works()
        && now.crm_object == then.crm_object
        && now.external_id_field == then.external_id_field
        && fields(now) == fields(then)
}

/// Notes what is to be read by itself, and what has been.
fn queue_reads(
    client: &mut SpiClient,
    poll: &PollRequest,
    records: &[Incoming],
    arrived: &Arrived,
    wait: Duration,
) -> Result<(), StoreError> {
    let map_id = poll.map.id;
    if let Target::Records(requested) = &poll.target {
        let again: HashSet<&str> = arrived.again.iter().map(|(id, _)| id.as_str()).collect();
        let came: HashSet<&str> = records.iter().map(|r| r.crm_id.as_str()).collect();
        let (not_yet, read): (Vec<&Refetch>, Vec<&Refetch>) = requested
            .iter()
            .filter(|r| came.contains(r.crm_id.as_str()))
            .partition(|r| again.contains(r.crm_id.as_str()));
        refetch::reread(client, map_id, &read)?;
        refetch::not_yet(client, map_id, &not_yet)?;
    } else {
        let again: Vec<(&str, Option<&str>)> = arrived
            .again
            .iter()
            .map(|(id, into)| (id.as_str(), into.as_deref()))
            .collect();
        refetch::ask(client, map_id, &again, wait.as_millis() as i64)?;
    }
    let look: Vec<(&str, Option<&str>)> =
        arrived.look.iter().map(|id| (id.as_str(), None)).collect();
    refetch::ask(client, map_id, &look, 0)
}
