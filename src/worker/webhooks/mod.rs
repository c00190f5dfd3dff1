//! Webhooks of the listener, as the main thread handles them: each request is matched to the
//! connection it names; the events that the threads accepted are stored, all at hand in one
//! transaction, and answered after its commit.

pub mod listener;
pub mod message;
pub mod peers;
pub mod refusal_log;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use self::message::{Accepted, Lookup};
use self::peers::Peers;
use self::refusal_log::{MINUTE, RefusalLog};
use crate::failpoint;
use crate::settings::Settings;
use crate::store::webhook_inbox as inbox;
use crate::store::webhook_inbox::{PRUNED_AT_ONCE, Refused};
use crate::store::{StoreError, durable_transaction, transaction};
use crate::webhook_verifier::{Refusal, WebhookVerifier};
use crate::worker::context::Context;
use crate::worker::mailbox::Sender;
use crate::worker::process::complain;

pub use self::message::Message;

pub struct Webhooks {
    mailbox: Sender<Message>,
    /// The address and the task that listens there.
    listener: Option<(String, JoinHandle<()>)>,
    lookups: Vec<Lookup>,
    accepted: Vec<Accepted>,
    refusals: RefusalLog,
    /// Rows of refusals for the audit.
    rows: Vec<Refused>,
}

impl Webhooks {
    pub fn new(mailbox: Sender<Message>) -> Self {
        Webhooks {
            mailbox,
            listener: None,
            lookups: Vec::new(),
            accepted: Vec::new(),
            refusals: RefusalLog::default(),
            rows: Vec::new(),
        }
    }

    /// Keeps one listener at the address that the settings name, if they name one.
    pub fn listen(&mut self, settings: &Settings, runtime: &Handle) {
        let wanted = &settings.webhook_listen;
        let current = self.listener.as_ref();
        if current.map_or("", |(address, _)| address) == wanted {
            return;
        }
        if let Some((address, task)) = self.listener.take() {
            // Requests that it has accepted are answered all the same.
            task.abort();
            log!("pg_crm no longer listens for webhooks at {address}");
        }
        if !wanted.is_empty() {
            let [most, of_one] = settings.webhook_connections;
            let peers = Peers::new(most, of_one);
            let task = listener::listen(wanted.clone(), peers, self.mailbox.clone());
            self.listener = Some((wanted.clone(), runtime.spawn(task)));
        }
    }

    pub fn on_message(&mut self, cx: &Context, message: Message) {
        match message {
            Message::Lookup(lookup) => self.lookups.push(lookup),
            Message::Accepted(accepted) => self.accepted.push(accepted),
            Message::Refused(verifier, refusal) => self.record_refusal(cx, &verifier, &refusal),
            Message::Log(text) => log!("{text}"),
            Message::MinuteOver => {
                let summaries = self.refusals.summaries(Instant::now());
                self.rows.extend(summaries);
            }
            Message::PruneMore => self.prune(),
        }
    }

    /// Answers lookups and stores what was accepted; whether any new event came.
    pub fn receive(&mut self) -> bool {
        let (answered, stored) = (self.answer_lookups(), self.store_accepted());
        let any = *stored.as_ref().unwrap_or(&false);
        for error in [answered.err(), stored.err()].into_iter().flatten() {
            if !error.is_transient() {
                warning!("pg_crm could not store webhooks: {error}");
            }
        }
        any
    }

    fn answer_lookups(&mut self) -> Result<(), StoreError> {
        let mut lookups = std::mem::take(&mut self.lookups);
        // A client that disconnected will retry if it still cares.
        lookups.retain(|lookup| !lookup.reply.is_closed());
        if lookups.is_empty() {
            return Ok(());
        }
        let verifiers = transaction(|client| verifiers(client, &lookups))?;
        for Lookup { connection, reply } in lookups {
            let verifier = verifiers.get(&connection).cloned();
            if verifier.is_none() && self.refusals.is_worth_a_line(Instant::now()) {
                let name: String = connection.chars().take(64).collect();
                log!("pg_crm refuses webhooks to {name:?}: there is no such connection");
            }
            let _ = reply.send(verifier);
        }
        Ok(())
    }

    fn store_accepted(&mut self) -> Result<bool, StoreError> {
        let mut accepted = std::mem::take(&mut self.accepted);
        let rows = std::mem::take(&mut self.rows);
        accepted.retain(|one| !one.reply.is_closed());
        if accepted.is_empty() && rows.is_empty() {
            return Ok(false);
        }
        let work = |client: &mut SpiClient| {
            let mut counts = Vec::with_capacity(accepted.len());
            for one in &accepted {
                counts.push(inbox::keep(client, one.connection_id, &one.events)?);
            }
            inbox::refused(client, &rows)?;
            failpoint::reach("webhook::before_commit");
            Ok(counts)
        };
        // A sender that is answered 2xx does not retry: its events are on disk by then.
        let counts = match accepted.is_empty() {
            false => durable_transaction(work),
            true => transaction(work),
        }?;
        failpoint::reach("webhook::after_commit");
        let any = counts.iter().any(|&count| count > 0);
        for (one, count) in accepted.into_iter().zip(counts) {
            let _ = one.reply.send(count);
        }
        Ok(any)
    }

    fn record_refusal(&mut self, cx: &Context, verifier: &WebhookVerifier, refusal: &Refusal) {
        let now = Instant::now();
        // A minute that is over, and has no row yet, ends here.
        self.rows.extend(self.refusals.summaries(now));
        let (row, first) = self.refusals.count(&verifier.connection, refusal, now);
        self.rows.extend(row);
        if first {
            let mailbox = self.mailbox.clone();
            cx.runtime.spawn(async move {
                tokio::time::sleep(MINUTE).await;
                mailbox.send(Message::MinuteOver);
            });
        }
    }

    /// Removes events that were processed long ago, a batch now and the rest between other work.
    pub fn prune(&self) {
        match transaction(inbox::prune) {
            Ok(PRUNED_AT_ONCE) => self.mailbox.send(Message::PruneMore),
            Ok(_) => {}
            // Dropped, or of a version to come.
            Err(error) if error.is_undefined() => {}
            Err(error) => complain(
                &error,
                &format!("pg_crm could not prune crm.webhook_inbox: {error}"),
            ),
        }
    }
}

/// The connections that the requests name, as far as there are such, each read once.
fn verifiers(
    client: &SpiClient,
    lookups: &[Lookup],
) -> Result<HashMap<String, Arc<WebhookVerifier>>, StoreError> {
    let mut verifiers = HashMap::new();
    for Lookup { connection, .. } in lookups {
        if !verifiers.contains_key(connection)
            && let Some(found) = inbox::connection(client, connection)?
        {
            verifiers.insert(connection.clone(), Arc::new(WebhookVerifier::new(found)));
        }
    }
    Ok(verifiers)
}
