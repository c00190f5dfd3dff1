//! What the threads hand to the main thread, and the bell that wakes it.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc;

use crm_domain::Failure;
use crm_provider::{Request, Response};
use serde_json::Value as Json;
use tokio::sync::oneshot;

use crate::worker::ingest::Came;
use crate::worker::sender::batches::Sent;
use crate::worker::sender::checked_write::Checked;
use crate::worker::webhooks::Notice;

pub enum Event {
    /// A slice came back from its CRM.
    Done {
        claim_id: i64,
        sent: Vec<Sent>,
        trouble: Option<Failure>,
    },
    /// A caller's edit came back from its CRM.
    Wrote { write_id: String, checked: Checked },
    /// Pending writes came back from their CRM.
    Reconciled {
        claim_id: i64,
        checked: Vec<Checked>,
        trouble: Option<Failure>,
    },
    /// A page of changes, or records that were read by themselves, came from a CRM.
    Came {
        ticket: u64,
        came: Result<Came, Failure>,
        trouble: Option<Failure>,
    },
    /// A task ended without an answer: it panicked.
    Failed { of: Task, failure: Failure },
    /// The stub CRM is asked; it lives in this database.
    Stub {
        connection: String,
        request: Request,
        reply: oneshot::Sender<Result<Response, Failure>>,
    },
    /// A refresh token was replaced and must be durable before the new access token is used.
    Rotated {
        connection_id: i32,
        /// Of the credentials that it belongs to.
        version: i32,
        refresh_token: String,
        reply: oneshot::Sender<bool>,
    },
    /// A CRM posted something, or other news of the listener.
    Webhook(Notice),
    /// A backend asks over the local socket.
    Asked {
        request: Json,
        reply: oneshot::Sender<Json>,
    },
}

/// A task of the threads that the main thread waits for.
#[derive(Clone, Debug)]
pub enum Task {
    /// A slice, by its claim.
    Slice(i64),
    /// A call of `crm.write()`.
    Call(String),
    /// Pending writes, by their claim.
    Edits(i64),
    /// A page or a read, by its ticket.
    Look(u64),
}

impl Event {
    /// Whether it concerns nobody but a caller who waits, so that no whole turn is due.
    pub fn is_of_a_call(&self) -> bool {
        match self {
            Event::Wrote { .. } | Event::Stub { .. } | Event::Webhook(_) => true,
            Event::Failed { of, .. } => matches!(of, Task::Call(_)),
            Event::Asked { request, .. } => {
                matches!(request["op"].as_str(), Some("write" | "read"))
            }
            _ => false,
        }
    }
}

/// The threads' end of the channel: sending rings the bell.
#[derive(Clone)]
pub struct Outbox {
    sender: mpsc::Sender<Event>,
    bell: Arc<OwnedFd>,
}

impl Outbox {
    pub fn send(&self, event: Event) {
        if self.sender.send(event).is_ok() {
            let one = 1u64.to_ne_bytes();
            // SAFETY: writes eight bytes to an eventfd that lives as long as this value.
            unsafe { libc::write(self.bell.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }
}

/// The main thread's end.
pub struct Inbox {
    receiver: mpsc::Receiver<Event>,
    bell: Arc<OwnedFd>,
}

impl Inbox {
    pub fn fd(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    /// The next event if there is one; silences the bell first, so that none is missed.
    pub fn drain(&self) -> Vec<Event> {
        let mut count = [0u8; 8];
        // SAFETY: reads eight bytes from a non-blocking eventfd.
        unsafe {
            libc::read(
                self.bell.as_raw_fd(),
                count.as_mut_ptr().cast(),
                count.len(),
            )
        };
        self.receiver.try_iter().collect()
    }
}

pub fn channel() -> std::io::Result<(Outbox, Inbox)> {
    // SAFETY: a new descriptor that nobody else owns.
    let bell = unsafe {
        let fd = libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Arc::new(OwnedFd::from_raw_fd(fd))
    };
    let (sender, receiver) = mpsc::channel();
    Ok((
        Outbox {
            sender,
            bell: bell.clone(),
        },
        Inbox { receiver, bell },
    ))
}
