//! What the threads hand to the main loop: each component's own messages. No other file knows them
//! all.

use crate::worker::socket::protocol::Request;
use crate::worker::{calls, ingest, link, monitor, reconciler, socket, webhooks, write_back};

pub enum Event {
    Socket(socket::Message),
    Link(link::Message),
    WriteBack(write_back::Message),
    Calls(calls::Message),
    Reconciler(reconciler::Message),
    Ingest(ingest::Message),
    Webhooks(webhooks::Message),
    Monitor(monitor::Message),
}

impl Event {
    /// Whether a whole turn is due because of it: not if it only concerns a waiting caller.
    pub fn is_of_a_turn(&self) -> bool {
        match self {
            Event::Calls(_) | Event::Webhooks(_) | Event::Monitor(_) => false,
            Event::Link(message) => !matches!(message, link::Message::StubRequest { .. }),
            Event::Socket(message) => {
                !matches!(message.request, Request::Write(_) | Request::Read(_))
            }
            Event::WriteBack(_) | Event::Reconciler(_) | Event::Ingest(_) => true,
        }
    }
}
