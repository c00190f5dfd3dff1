//! Callers who wait in `crm.write()` and `crm.read_live()`.
//!
//! Intents and outcomes of all who call at once share transactions: one commit before anything of theirs is written to a
//! CRM, one before any of them is answered. The CRM is read meanwhile.

pub mod audit;
pub mod call;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crm_domain::failure::Scope;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::Value as Json;
use tokio::sync::oneshot;

use self::audit::{event, write_down};
use self::call::{answer, edit, opening, read, send_answer};
use crate::failpoint;
use crate::store::reconcile::pending_writes;
use crate::store::{durable_transaction, transaction};
use crate::worker::connections::Connections;
use crate::worker::connections::readiness::AWAY;
use crate::worker::link::{Lane, RequestContext};
use crate::worker::main_loop::Worker;
use crate::worker::main_loop::event::Event;
use crate::worker::schedule::LOCKED_RETRY;
use crate::worker::sender::checked_write::{self, Checked, Outcome};
use crate::worker::socket::protocol::{Answer, Intent, Question};
use crate::worker::tasks::catch_panic;

pub type Reply = oneshot::Sender<Json>;

/// What the threads report.
pub enum Message {
    /// The CRM's result of a caller's edit.
    Written { write_id: String, checked: Checked },
}

/// A call that is being sent.
pub struct Call {
    pub intent: Intent,
    reply: Reply,
    /// Of the credentials that it goes with.
    version: i32,
}

#[derive(Default)]
pub struct RealTime {
    /// New since the last turn.
    fresh: Vec<(Intent, Reply)>,
    questions: Vec<(Question, Reply)>,
    /// By write_id.
    pub sending: HashMap<String, Call>,
    /// Back from the CRM, not written down yet.
    back: Vec<(Call, Checked)>,
    /// Somebody held what is needed to write them down.
    held_up: bool,
    /// Callers were answered whose transactions have the next word.
    answered: bool,
}

impl RealTime {
    pub fn write(&mut self, intent: Intent, reply: Reply) {
        self.fresh.push((intent, reply));
    }

    pub fn read(&mut self, question: Question, reply: Reply) {
        self.questions.push((question, reply));
    }

    pub fn on_written(&mut self, write_id: &str, checked: Checked) {
        if let Some(call) = self.sending.remove(write_id) {
            self.back.push((call, checked));
        }
    }

    pub fn has_work(&self) -> bool {
        !(self.fresh.is_empty() && self.back.is_empty() && self.questions.is_empty())
    }

    /// How long there is nothing to be done unless something happens.
    pub fn pause(&self) -> Duration {
        if self.held_up {
            LOCKED_RETRY
        } else {
            Duration::MAX
        }
    }

    /// Whether calls ended since the last question, each of which leaves its intent to its caller's transaction.
    pub fn leaves_intents(&mut self) -> bool {
        std::mem::take(&mut self.answered)
    }

    /// Takes the new calls, but for those of records that are on their way already: a caller who went away leaves the
    /// record's lock to others, but not the record.
    fn ready(&mut self) -> Vec<(Intent, Reply)> {
        fn key(i: &Intent) -> (i32, &str, &str) {
            (i.map_id, &i.shard_key, &i.record_key)
        }
        if self.fresh.is_empty() {
            return Vec::new();
        }
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.retain(|(_, reply)| !reply.is_closed());
        let back = self.back.iter().map(|(call, _)| call);
        let under_way = self.sending.values().chain(back);
        let mut busy: HashSet<_> = under_way.map(|c| key(&c.intent)).collect();
        let free: Vec<bool> = fresh.iter().map(|(i, _)| busy.insert(key(i))).collect();
        let mut free = free.into_iter();
        let (ready, later) = fresh
            .into_iter()
            .partition(|_| free.next().unwrap_or_default());
        self.fresh = later;
        ready
    }

    /// Whether a connection is asked for that the worker has no link to yet.
    pub fn misses(&self, connections: &Connections) -> bool {
        let writes = self.fresh.iter().map(|(i, _)| i.connection_id);
        let reads = self.questions.iter().map(|(q, _)| q.connection_id);
        writes.chain(reads).any(|id| connections.link(id).is_none())
    }
}

impl Worker {
    /// Writes down what is new and what came back, in one transaction; then lets the one be written and answers the other.
    pub fn real_time(&mut self) {
        if !self.real_time.has_work() {
            return;
        }
        for (question, reply) in std::mem::take(&mut self.real_time.questions) {
            self.read_live(question, reply);
        }
        let (mut fresh, mut consents) = (Vec::new(), Vec::new());
        for (intent, reply) in self.real_time.ready() {
            match self.obstacle(&intent, fresh.len()) {
                Some(answer) => send_answer(reply, &answer),
                None => {
                    if let Some((consent, version)) = self.begin(&intent) {
                        consents.push(consent);
                        fresh.push(Call {
                            intent,
                            reply,
                            version,
                        });
                    }
                }
            }
        }
        let back = std::mem::take(&mut self.real_time.back);
        if fresh.is_empty() && back.is_empty() {
            self.real_time.held_up = false;
            return;
        }
        let intents: Vec<&Intent> = fresh.iter().map(|c| &c.intent).collect();
        let write = |client: &mut SpiClient| {
            let openings: Vec<_> = intents.iter().map(|i| opening(i)).collect();
            let opened = pending_writes::open(client, &openings)?;
            write_down(client, &back)?;
            let started = intents
                .iter()
                .map(|i| event("sync_started", i, None))
                .collect();
            pending_writes::notify(client, started)?;
            if !intents.is_empty() {
                failpoint::reach("intent::before_commit");
            }
            if !back.is_empty() {
                failpoint::reach("outcome::before_commit");
            }
            Ok(opened)
        };
        // An outcome need not be durable before its caller's COMMIT, whose place in the log is behind it; without that COMMIT
        // the intent stays, and the CRM is read.
        let written = if intents.is_empty() {
            transaction(write)
        } else {
            durable_transaction(write)
        };
        match written {
            Ok(opened) => {
                if !intents.is_empty() {
                    failpoint::reach("intent::after_commit");
                }
                if !back.is_empty() {
                    failpoint::reach("outcome::after_commit");
                }
                self.note_health(&back);
                self.real_time.held_up = false;
                let ended = !back.is_empty();
                self.real_time.answered |= ended;
                for (call, checked) in back {
                    let answer = answer(&call.intent, &checked);
                    send_answer(call.reply, &answer);
                }
                for (call, consent) in fresh.into_iter().zip(consents) {
                    if opened.contains(&call.intent.write_id) {
                        failpoint::reach("request::before");
                        let write_id = call.intent.write_id.clone();
                        self.real_time.sending.insert(write_id, call);
                        let _ = consent.send(());
                    } else {
                        let why = "an earlier edit of this record waits; this one follows it";
                        send_answer(call.reply, &Answer::failed("pending", "transient", why));
                    }
                }
                if ended {
                    // Their records are free for those that came meanwhile.
                    self.real_time();
                }
            }
            // Somebody holds what is needed: once more, with all that has come until then.
            Err(error) if error.is_transient() => {
                self.real_time.held_up = true;
                self.real_time.back = back;
                let fresh = fresh.into_iter().map(|c| (c.intent, c.reply));
                self.real_time.fresh.extend(fresh);
            }
            // The callers hear that the worker did not answer; what was sent is found by the reconciler.
            Err(error) => {
                self.real_time.held_up = false;
                log!("pg_crm cannot write down edits that callers wait for: {error}");
            }
        }
    }

    /// Why an edit cannot be sent right now, as the answer to its caller. `starting`: those that are about to be sent.
    fn obstacle(&self, intent: &Intent, starting: usize) -> Option<Answer> {
        let pending = |class: &str, why: String| Some(Answer::failed("pending", class, why));
        let Some(connection) = self.cx.connections.get(intent.connection_id) else {
            return pending(
                "internal",
                "the worker does not know the connection yet".to_owned(),
            );
        };
        if connection.paused {
            return pending(
                "transient",
                format!("connection \"{}\" is paused", connection.name),
            );
        }
        if connection.is_away {
            return pending("transient", AWAY.to_owned());
        }
        if connection.in_error || self.cx.connections.link(connection.id).is_none() {
            let why = format!(
                "the credentials of connection \"{}\" are refused",
                connection.name
            );
            return pending("auth", why);
        }
        if connection.blocked_ms > 0 {
            let why = format!(
                "connection \"{}\" waits for the CRM; see crm.status",
                connection.name
            );
            return pending("transient", why);
        }
        if self.real_time.sending.len() + starting >= self.cx.settings.realtime_queue {
            return pending(
                "transient",
                "too many edits are on their way at once".to_owned(),
            );
        }
        None
    }

    /// Reads the CRM for an edit while its intent is being committed; writes once that is on disk, which the caller of this
    /// says.
    fn begin(&self, intent: &Intent) -> Option<(oneshot::Sender<()>, i32)> {
        let link = self.cx.connections.link(intent.connection_id)?.clone();
        let version = link.version;
        let (consent, consented) = oneshot::channel();
        let write_id = intent.write_id.clone();
        let (object, edit) = (intent.object.clone(), edit(intent));
        let context = RequestContext {
            correlation_id: intent.correlation_id.as_deref().map(Arc::from),
            ..RequestContext::of_map(Lane::RealTime, intent.map_id)
        };
        let mailbox = self.mailbox.wrap(Event::Calls);
        self.cx.runtime.spawn(async move {
            let edits = [edit];
            let consent = Some(consented);
            let checked = catch_panic(async {
                failpoint::reach_on_thread("call::task");
                checked_write::run(&link, &context, &write_id, &object, &edits, consent).await
            });
            let checked = match checked.await {
                Ok(checked) => checked.and_then(|mut checked| checked.pop()),
                Err(failure) => Some(Checked::failed(failure)),
            };
            if let Some(checked) = checked {
                mailbox.send(Message::Written { write_id, checked });
            }
        });
        Some((consent, version))
    }

    fn read_live(&mut self, question: Question, reply: Reply) {
        let Some(link) = self.cx.connections.link(question.connection_id).cloned() else {
            let connection = self.cx.connections.get(question.connection_id);
            let why = match connection {
                Some(connection) if connection.is_away => AWAY,
                _ => "the connection's credentials are refused; see crm.status",
            };
            send_answer(reply, &Answer::failed("read", "auth", why));
            return;
        };
        self.cx.runtime.spawn(async move {
            let answer = read(&link, &question).await;
            send_answer(reply, &answer);
        });
    }

    /// What calls prove of their connections' health.
    fn note_health(&mut self, back: &[(Call, Checked)]) {
        let connections = &mut self.cx.connections;
        for (call, checked) in back {
            let id = call.intent.connection_id;
            let outage = match &checked.outcome {
                Outcome::Failed(failure) if failure.scope == Scope::Connection => Some(failure),
                _ => None,
            };
            if let Some(link) = connections.link(id)
                && link.version == call.version
            {
                link.take_outage();
            }
            connections.note_health(id, call.version, outage);
        }
    }
}
