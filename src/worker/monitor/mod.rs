//! Metrics and the page, as the main thread serves them.
//!
//! Guarantee: no flood of requests keeps it from its work. Requests of one kind that are at hand
//! together get one answer, and an answer serves for a second.

mod history;
mod listener;
mod message;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crm_domain::open_metrics;
use pgrx::prelude::*;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use self::history::History;
use self::message::Document;
use crate::counters;
use crate::settings::Settings;
use crate::shared::now_ms;
use crate::store::{StoreError, monitor, transaction};
use crate::worker::mailbox::Sender;

pub use self::message::Message;

const FRESH: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

pub struct Monitor {
    mailbox: Sender<Message>,
    /// Where it listens, with which file of the token; and the tasks.
    listener: Option<([String; 2], [JoinHandle<()>; 2])>,
    requests: Vec<(Document, oneshot::Sender<Arc<str>>)>,
    answers: HashMap<Document, (Instant, Arc<str>)>,
    history: History,
}

impl Monitor {
    pub fn new(mailbox: Sender<Message>) -> Self {
        Monitor {
            mailbox,
            listener: None,
            requests: Vec::new(),
            answers: HashMap::new(),
            history: History::default(),
        }
    }

    /// Keeps one listener at the address that the settings name, if they name one.
    pub fn listen(&mut self, settings: &Settings, runtime: &Handle) {
        let wanted = &settings.metrics_listen;
        match &self.listener {
            Some((current, _)) if current == wanted => return,
            None if wanted[0].is_empty() => return,
            _ => {}
        }
        if let Some(([address, _], tasks)) = self.listener.take() {
            tasks.iter().for_each(JoinHandle::abort);
            log!("pg_crm no longer serves metrics at {address}");
        }
        let [address, token_file] = wanted;
        if !address.is_empty() {
            self.history = History::starting_with(&counted());
            let listener =
                listener::listen(address.clone(), token_file.clone(), self.mailbox.clone());
            let mailbox = self.mailbox.clone();
            let clock = async move {
                loop {
                    tokio::time::sleep(MINUTE).await;
                    mailbox.send(Message::Minute);
                }
            };
            let tasks = [runtime.spawn(listener), runtime.spawn(clock)];
            self.listener = Some((wanted.clone(), tasks));
        }
    }

    pub fn on_message(&mut self, message: Message) {
        match message {
            Message::Get(document, reply) => self.requests.push((document, reply)),
            Message::Minute => self.history.add(now_ms() / 1000, &counted()),
            Message::Log(text) => log!("{text}"),
        }
    }

    /// Answers the requests at hand. One that cannot be answered is dropped.
    pub fn answer(&mut self) {
        for (document, reply) in std::mem::take(&mut self.requests) {
            // A client that disconnected does not care.
            if reply.is_closed() {
                continue;
            }
            match self.document(document) {
                Ok(text) => {
                    let _ = reply.send(text);
                }
                Err(error) if error.is_transient() => {}
                Err(error) => log!("pg_crm could not answer a request for metrics: {error}"),
            }
        }
    }

    fn document(&mut self, document: Document) -> Result<Arc<str>, StoreError> {
        if let Some((at, text)) = self.answers.get(&document)
            && at.elapsed() < FRESH
        {
            return Ok(text.clone());
        }
        let text: Arc<str> = match document {
            Document::Metrics => {
                let samples = transaction(|client| monitor::samples(client))?;
                open_metrics::render(&samples).into()
            }
            Document::Overview => {
                let overview = transaction(|client| monitor::overview(client))?;
                let history = self.history.to_json();
                format!("{{\"overview\":{overview},\"history\":{history}}}").into()
            }
        };
        self.answers
            .insert(document, (Instant::now(), text.clone()));
        Ok(text)
    }
}

fn counted() -> Vec<(counters::Counter, u64)> {
    // SAFETY: a plain read of this process's own database.
    counters::of_database(unsafe { pg_sys::MyDatabaseId })
}
