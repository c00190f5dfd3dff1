//! Callers who wait in `crm.write()` and `crm.read_live()`.
//!
//! Intents and outcomes of concurrent calls share transactions: one commit before anything of
//! theirs is written to a CRM, one before any of them is answered. The CRM is read meanwhile.

pub mod audit;
pub mod call;
pub mod live_reads;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crm_domain::failure::Scope;
use pgrx::spi::SpiClient;
use tokio::sync::oneshot;

use self::audit::{event, write_down};
use self::call::{Call, Reply, answer, edit, opening, send_answer};
use self::live_reads::SeenRead;
use crate::failpoint;
use crate::store::calls::intents;
use crate::store::notify;
use crate::store::{durable_transaction, transaction};
use crate::worker::connections::Connections;
use crate::worker::connections::readiness::AWAY;
use crate::worker::context::Context;
use crate::worker::link::{Priority, RequestContext};
use crate::worker::mailbox::Sender;
use crate::worker::process::complain;
use crate::worker::schedule::LOCKED_RETRY;
use crate::worker::sender::checked_write::{Checked, CheckedWrite, Outcome};
use crate::worker::socket::protocol::{Answer, AnswerOutcome, Intent, ReadRequest};
use crate::worker::tasks::catch_panic;

/// What the threads report.
pub enum Message {
    /// The CRM's result of a caller's edit.
    Written {
        write_id: String,
        checked: Checked,
        at: Instant,
    },
    /// A record that was read, and was written before.
    Read(SeenRead),
}

pub struct Calls {
    mailbox: Sender<Message>,
    /// New since the last turn.
    fresh: Vec<(Intent, Reply)>,
    reads: Vec<(ReadRequest, Reply)>,
    seen: Vec<SeenRead>,
    /// Calls that are being sent, by write_id.
    in_flight: HashMap<String, Call>,
    /// Back from the CRM, not recorded yet.
    results: Vec<(Call, Checked)>,
    /// Another session has locked what is needed to record them.
    is_locked: bool,
    /// Callers were answered whose transactions have the next word.
    answered: bool,
    /// How long calls are in flight, by the last ones.
    flight_time: Duration,
}

/// A call whose CRM record is being read; it is written once there is consent.
struct Started {
    call: Call,
    consent: oneshot::Sender<()>,
}

impl Calls {
    pub fn new(mailbox: Sender<Message>) -> Self {
        Calls {
            mailbox,
            fresh: Vec::new(),
            reads: Vec::new(),
            seen: Vec::new(),
            in_flight: HashMap::new(),
            results: Vec::new(),
            is_locked: false,
            answered: false,
            flight_time: Duration::MAX,
        }
    }

    pub fn write(&mut self, intent: Intent, reply: Reply) {
        self.fresh.push((intent, reply));
    }

    pub fn read(&mut self, request: ReadRequest, reply: Reply) {
        self.reads.push((request, reply));
    }

    pub fn on_message(&mut self, message: Message) {
        match message {
            Message::Written {
                write_id,
                checked,
                at,
            } => {
                failpoint::reach("request::after");
                if let Some(call) = self.in_flight.remove(&write_id) {
                    let took = at.saturating_duration_since(call.sent_at);
                    self.flight_time = match self.flight_time {
                        Duration::MAX => took,
                        before => (before * 3 + took) / 4,
                    };
                    self.results.push((call, checked));
                }
            }
            Message::Read(read) => self.seen.push(read),
        }
    }

    /// Whether there are any calls that came or are being sent.
    pub fn are_about(&self) -> bool {
        self.has_work() || !self.in_flight.is_empty()
    }

    /// Whether calls are in flight, and CRMs answer that fast.
    pub fn will_be_back_within(&self, time: Duration) -> bool {
        !self.in_flight.is_empty() && self.flight_time <= time
    }

    /// The ids of calls that are being sent.
    pub fn in_flight_ids(&self) -> Vec<&str> {
        self.in_flight.keys().map(String::as_str).collect()
    }

    /// How long there is nothing to be done unless something happens.
    pub fn pause(&self) -> Duration {
        match self.is_locked {
            true => LOCKED_RETRY,
            false => Duration::MAX,
        }
    }

    /// Whether calls ended since this was last asked, each of which leaves its intent to its
    /// caller's transaction.
    pub fn take_answered(&mut self) -> bool {
        std::mem::take(&mut self.answered)
    }

    /// Whether a call needs a connection that the worker has no link to yet.
    pub fn needs_link(&self, connections: &Connections) -> bool {
        let writes = self.fresh.iter().map(|(i, _)| i.connection_id);
        let reads = self.reads.iter().map(|(q, _)| q.connection_id);
        let mut ids = writes.chain(reads);
        ids.any(|id| connections.link(id).is_none())
    }

    fn has_work(&self) -> bool {
        let reads = !(self.reads.is_empty() && self.seen.is_empty());
        reads || !(self.fresh.is_empty() && self.results.is_empty())
    }

    /// Records what is new and what came back, in one transaction; then lets the one be written and
    /// answers the other.
    pub fn turn(&mut self, cx: &mut Context) {
        // Results free their records for calls that came meanwhile.
        while self.has_work() && self.serve(cx) {}
    }

    /// Returns whether calls were answered.
    fn serve(&mut self, cx: &mut Context) -> bool {
        for (request, reply) in std::mem::take(&mut self.reads) {
            live_reads::start(cx, self.mailbox.wrap(Message::Read), request, reply);
        }
        for read in std::mem::take(&mut self.seen) {
            live_reads::record(cx, read);
        }
        let fresh = self.start_fresh(cx);
        let results = std::mem::take(&mut self.results);
        self.is_locked = false;
        if fresh.is_empty() && results.is_empty() {
            return false;
        }
        self.conclude(cx, fresh, results)
    }

    /// Records them, lets those that are new be written and answers the others; whether any was
    /// answered.
    fn conclude(
        &mut self,
        cx: &mut Context,
        fresh: Vec<Started>,
        results: Vec<(Call, Checked)>,
    ) -> bool {
        match record(&fresh, &results) {
            Ok(opened) => {
                note_health(cx, &results);
                let answered = !results.is_empty();
                self.answered |= answered;
                for (call, checked) in results {
                    let answer = answer(&call.intent, &checked);
                    send_answer(call.reply, &answer);
                }
                for started in fresh {
                    self.let_write(started, &opened);
                }
                answered
            }
            // Once more, with all that has come until then.
            Err(error) if error.is_transient() => {
                self.is_locked = true;
                self.results.extend(results);
                let fresh = fresh.into_iter().map(|s| (s.call.intent, s.call.reply));
                self.fresh.extend(fresh);
                false
            }
            // One of them may be to blame, and the others are not to wait for it.
            Err(_) if fresh.len() + results.len() > 1 => {
                let mut answered = false;
                for started in fresh {
                    answered |= self.conclude(cx, vec![started], Vec::new());
                }
                for result in results {
                    answered |= self.conclude(cx, Vec::new(), vec![result]);
                }
                answered
            }
            // Its caller queues the edit; the reconciler finds what was sent.
            Err(error) => {
                let message = format!("pg_crm cannot record an edit of a waiting caller: {error}");
                complain(&error, &message);
                let why = format!("the worker cannot record the edit: {error}");
                let answer = Answer::failed(AnswerOutcome::Pending, "internal", why);
                let unrecorded = fresh.into_iter().map(|started| started.call);
                for call in unrecorded.chain(results.into_iter().map(|(call, _)| call)) {
                    send_answer(call.reply, &answer);
                }
                false
            }
        }
    }

    /// Starts what can be sent of the new calls, and answers the others. Each waits for its consent
    /// before it writes.
    fn start_fresh(&mut self, cx: &Context) -> Vec<Started> {
        let mut fresh = Vec::new();
        for (intent, reply) in self.take_ready() {
            match self.obstacle(cx, &intent, fresh.len()) {
                Some(answer) => send_answer(reply, &answer),
                None => {
                    if let Some((consent, version)) = self.start(cx, &intent) {
                        let call = Call {
                            intent,
                            reply,
                            version,
                            sent_at: Instant::now(),
                        };
                        fresh.push(Started { call, consent });
                    }
                }
            }
        }
        fresh
    }

    /// Takes the new calls, but for those of records with a call in flight: a caller that
    /// disconnected releases its lock, but the record is still being written.
    fn take_ready(&mut self) -> Vec<(Intent, Reply)> {
        fn key(i: &Intent) -> (i32, &str, &str) {
            (i.map_id, &i.shard_key, &i.record_key)
        }
        if self.fresh.is_empty() {
            return Vec::new();
        }
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.retain(|(_, reply)| !reply.is_closed());
        let results = self.results.iter().map(|(call, _)| call);
        let open = self.in_flight.values().chain(results);
        let mut busy: HashSet<_> = open.map(|c| key(&c.intent)).collect();
        let free: Vec<bool> = fresh.iter().map(|(i, _)| busy.insert(key(i))).collect();
        let mut free = free.into_iter();
        let (ready, later) = fresh
            .into_iter()
            .partition(|_| free.next().unwrap_or_default());
        self.fresh = later;
        ready
    }

    /// Why an edit cannot be sent right now, as the answer to its caller. `starting`: those that
    /// are about to be sent.
    fn obstacle(&self, cx: &Context, intent: &Intent, starting: usize) -> Option<Answer> {
        let pending =
            |class: &str, why: String| Some(Answer::failed(AnswerOutcome::Pending, class, why));
        let Some(connection) = cx.connections.get(intent.connection_id) else {
            let why = "the worker does not know the connection yet";
            return pending("internal", why.to_owned());
        };
        let name = &connection.name;
        if connection.paused {
            return pending("transient", format!("connection \"{name}\" is paused"));
        }
        if cx.maps.iter().any(|m| m.id == intent.map_id && m.paused) {
            return pending("transient", format!("map {} is paused", intent.map_id));
        }
        if connection.is_away {
            return pending("transient", AWAY.to_owned());
        }
        if connection.in_error || cx.connections.link(connection.id).is_none() {
            let why = format!("the credentials of connection \"{name}\" are refused");
            return pending("auth", why);
        }
        if connection.blocked_ms > 0 {
            let why = format!("connection \"{name}\" waits for the CRM; see crm.status");
            return pending("transient", why);
        }
        if self.in_flight.len() + starting >= cx.settings.realtime_queue {
            let why = "too many edits are in flight";
            return pending("transient", why.to_owned());
        }
        None
    }

    /// Reads the CRM for an edit while its intent is being committed; writes once that is on disk,
    /// which the consent that it returns says. Also returned: the version of the credentials.
    fn start(&self, cx: &Context, intent: &Intent) -> Option<(oneshot::Sender<()>, i32)> {
        let link = cx.connections.link(intent.connection_id)?.clone();
        let version = link.version;
        let (consent, consented) = oneshot::channel();
        let write_id = intent.write_id.clone();
        let (object, edit) = (intent.object.clone(), edit(intent));
        let context = RequestContext {
            correlation_id: intent.correlation_id.as_deref().map(Arc::from),
            ..RequestContext::of_map(Priority::RealTime, intent.map_id)
        };
        let mailbox = self.mailbox.clone();
        cx.runtime.spawn(async move {
            let checked = catch_panic(async {
                failpoint::reach_on_thread("call::task");
                let write = CheckedWrite {
                    link: &link,
                    context: &context,
                    object: &object,
                    edits: &[edit],
                };
                write.run(&write_id, Some(consented)).await
            });
            let checked = match checked.await {
                Ok(checked) => checked.and_then(|mut checked| checked.pop()),
                Err(failure) => Some(Checked::failed(failure)),
            };
            if let Some(checked) = checked {
                mailbox.send(Message::Written {
                    write_id,
                    checked,
                    at: Instant::now(),
                });
            }
        });
        Some((consent, version))
    }

    /// Its intent is on disk: the edit may be written, unless an earlier one of the record waits.
    fn let_write(&mut self, started: Started, opened: &HashSet<String>) {
        let Started { mut call, consent } = started;
        call.sent_at = Instant::now();
        if opened.contains(&call.intent.write_id) {
            failpoint::reach("request::before");
            let write_id = call.intent.write_id.clone();
            self.in_flight.insert(write_id, call);
            let _ = consent.send(());
        } else {
            let why = "an earlier edit of this record is still pending; this edit follows it";
            send_answer(
                call.reply,
                &Answer::failed(AnswerOutcome::Pending, "transient", why),
            );
        }
    }
}

/// Records the intents of new calls and the outcomes of others. Returns the ids of the intents that
/// may go on.
fn record(
    fresh: &[Started],
    results: &[(Call, Checked)],
) -> Result<HashSet<String>, crate::store::StoreError> {
    let intents: Vec<&Intent> = fresh.iter().map(|s| &s.call.intent).collect();
    let write = |client: &mut SpiClient| {
        let openings: Vec<_> = intents.iter().map(|i| opening(i)).collect();
        let opened = intents::open(client, &openings)?;
        write_down(client, results)?;
        let started = intents
            .iter()
            .map(|i| event("sync_started", i, None))
            .collect();
        notify::notify(client, started)?;
        let keys = intents.iter().map(|i| i.record_key.as_str());
        failpoint::reach_with("intent::store", keys);
        let keys = results.iter().map(|(c, _)| c.intent.record_key.as_str());
        failpoint::reach_with("outcome::store", keys);
        if !intents.is_empty() {
            failpoint::reach("intent::before_commit");
        }
        if !results.is_empty() {
            failpoint::reach("outcome::before_commit");
        }
        Ok(opened)
    };
    // An outcome need not be durable before its caller's COMMIT, whose place in the log is behind
    // it; without that COMMIT the intent stays, and the CRM is read.
    let opened = if intents.is_empty() {
        transaction(write)
    } else {
        durable_transaction(write)
    }?;
    if !intents.is_empty() {
        failpoint::reach("intent::after_commit");
    }
    if !results.is_empty() {
        failpoint::reach("outcome::after_commit");
    }
    Ok(opened)
}

/// What calls prove of their connections' health.
fn note_health(cx: &mut Context, results: &[(Call, Checked)]) {
    for (call, checked) in results {
        let id = call.intent.connection_id;
        let outage = match &checked.outcome {
            Outcome::Failed(failure) if failure.scope == Scope::Connection => Some(failure),
            _ => None,
        };
        if let Some(link) = cx.connections.link(id)
            && link.version == call.version
        {
            link.take_outage();
        }
        cx.connections.note_health(id, call.version, outage);
    }
}
