//! Webhooks of the listener, as the main thread handles them: whoever knocks is shown to the connection that they name;
//! what the threads let in is stored, all that is at hand in one transaction, and answered after its commit.

pub mod listener;
pub mod peers;
pub mod refusal_log;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crm_provider::WebhookEvent;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use self::peers::Peers;
use self::refusal_log::{MINUTE, Refusals};
use crate::failpoint;
use crate::store::webhook_inbox as inbox;
use crate::store::webhook_inbox::{PRUNED_AT_ONCE, Refused};
use crate::store::{StoreError, durable_transaction, transaction};
use crate::webhook::{Doorkeeper, Refusal};
use crate::worker::main_loop::Worker;
use crate::worker::main_loop::event::Event;

/// What the threads have to say about webhooks. A reply that is dropped tells them that the database cannot now.
pub enum Message {
    Knock(Knock),
    Admitted(Admitted),
    Refused(Arc<Doorkeeper>, Refusal),
    /// For the log.
    Listener(String),
    /// A minute is over in which refusals were only counted.
    MinuteOver,
    /// There is more to prune.
    PruneMore,
}

pub struct Knock {
    pub connection: String,
    /// `None`: there is no such connection.
    pub reply: oneshot::Sender<Option<Arc<Doorkeeper>>>,
}

pub struct Admitted {
    pub connection_id: i32,
    pub events: Vec<WebhookEvent>,
    /// How many of them are new.
    pub reply: oneshot::Sender<usize>,
}

#[derive(Default)]
pub struct Webhooks {
    /// The address, and who listens there.
    listener: Option<(String, JoinHandle<()>)>,
    knocks: Vec<Knock>,
    admitted: Vec<Admitted>,
    refusals: Refusals,
    /// Rows of refusals for the audit.
    rows: Vec<Refused>,
}

impl Worker {
    /// Keeps one listener at the address that the settings name, if they name one.
    pub fn listen_for_webhooks(&mut self) {
        let wanted = &self.cx.settings.webhook_listen;
        let current = self.webhooks.listener.as_ref();
        if current.map_or("", |(address, _)| address) == wanted {
            return;
        }
        if let Some((address, task)) = self.webhooks.listener.take() {
            // Requests that it has taken are answered all the same.
            task.abort();
            log!("pg_crm takes no more webhooks at {address}");
        }
        if !wanted.is_empty() {
            let [most, of_one] = self.cx.settings.webhook_connections;
            let peers = Peers::new(most, of_one);
            let task = listener::listen(wanted.clone(), peers, self.mailbox.wrap(Event::Webhooks));
            self.webhooks.listener = Some((wanted.clone(), self.cx.runtime.spawn(task)));
        }
    }

    pub fn notice(&mut self, notice: Message) {
        let webhooks = &mut self.webhooks;
        match notice {
            Message::Knock(knock) => webhooks.knocks.push(knock),
            Message::Admitted(admitted) => webhooks.admitted.push(admitted),
            Message::Refused(keeper, refusal) => self.turned_away(&keeper, &refusal),
            Message::Listener(text) => log!("{text}"),
            Message::MinuteOver => {
                let summaries = webhooks.refusals.summaries(Instant::now());
                webhooks.rows.extend(summaries);
            }
            Message::PruneMore => self.prune_inbox(),
        }
    }

    /// Serves whoever knocks and takes in what was admitted; whether anything new came in.
    pub fn receive_webhooks(&mut self) -> bool {
        let (shown, taken) = (self.show_in(), self.take_in());
        let any = *taken.as_ref().unwrap_or(&false);
        for error in [shown.err(), taken.err()].into_iter().flatten() {
            if !error.is_transient() {
                log!("pg_crm could not store webhooks: {error}");
            }
        }
        any
    }

    fn show_in(&mut self) -> Result<(), StoreError> {
        let mut knocks = std::mem::take(&mut self.webhooks.knocks);
        // Whoever went away comes again, or does not care.
        knocks.retain(|knock| !knock.reply.is_closed());
        if knocks.is_empty() {
            return Ok(());
        }
        let keepers = transaction(|client| keepers(client, &knocks))?;
        for Knock { connection, reply } in knocks {
            let keeper = keepers.get(&connection).cloned();
            if keeper.is_none() && self.webhooks.refusals.is_worth_a_line(Instant::now()) {
                let name: String = connection.chars().take(64).collect();
                log!("pg_crm refuses webhooks to {name:?}: there is no such connection");
            }
            let _ = reply.send(keeper);
        }
        Ok(())
    }

    fn take_in(&mut self) -> Result<bool, StoreError> {
        let mut admitted = std::mem::take(&mut self.webhooks.admitted);
        let rows = std::mem::take(&mut self.webhooks.rows);
        admitted.retain(|one| !one.reply.is_closed());
        if admitted.is_empty() && rows.is_empty() {
            return Ok(false);
        }
        let work = |client: &mut SpiClient| {
            let mut counts = Vec::with_capacity(admitted.len());
            for one in &admitted {
                counts.push(inbox::keep(client, one.connection_id, &one.events)?);
            }
            inbox::refused(client, &rows)?;
            failpoint::reach("webhook::before_commit");
            Ok(counts)
        };
        // Whoever is answered 2xx does not come again: what they brought is on disk by then.
        let counts = match admitted.is_empty() {
            false => durable_transaction(work),
            true => transaction(work),
        }?;
        failpoint::reach("webhook::after_commit");
        let any = counts.iter().any(|&count| count > 0);
        for (one, count) in admitted.into_iter().zip(counts) {
            let _ = one.reply.send(count);
        }
        Ok(any)
    }

    fn turned_away(&mut self, keeper: &Doorkeeper, refusal: &Refusal) {
        let (refusals, now) = (&mut self.webhooks.refusals, Instant::now());
        // A minute that is over, of which no row has told yet, ends here.
        self.webhooks.rows.extend(refusals.summaries(now));
        let (row, first) = refusals.count(&keeper.door, refusal, now);
        self.webhooks.rows.extend(row);
        if first {
            let mailbox = self.mailbox.wrap(Event::Webhooks);
            self.cx.runtime.spawn(async move {
                tokio::time::sleep(MINUTE).await;
                mailbox.send(Message::MinuteOver);
            });
        }
    }

    /// Removes what was done with long ago, a slice now and the rest between other work.
    pub fn prune_inbox(&mut self) {
        match transaction(inbox::prune) {
            Ok(PRUNED_AT_ONCE) => self.mailbox.send(Event::Webhooks(Message::PruneMore)),
            Ok(_) => {}
            // Dropped, or of a version to come.
            Err(error) if error.is_undefined() => {}
            Err(error) => log!("pg_crm could not prune crm.webhook_inbox: {error}"),
        }
    }
}

/// The connections that they name, as far as there are such, each read once.
fn keepers(
    client: &SpiClient,
    knocks: &[Knock],
) -> Result<HashMap<String, Arc<Doorkeeper>>, StoreError> {
    let mut keepers = HashMap::new();
    for Knock { connection, .. } in knocks {
        if !keepers.contains_key(connection)
            && let Some(door) = inbox::door(client, connection)?
        {
            keepers.insert(connection.clone(), Arc::new(Doorkeeper::new(door)));
        }
    }
    Ok(keepers)
}
