//! What comes in, and the callers who wait: they are served between any two steps of bulk work.
//!
//! Guarantees: events that are not about calls are kept, in their order, for the loop; so is what
//! commits asked for meanwhile.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use super::configuration;
use super::event::Event;
use crate::shared::{Slot, Woken};
use crate::worker::calls::Calls;
use crate::worker::context::Context;
use crate::worker::mailbox::Inbox;
use crate::worker::process::wait_latch_or_readable;
use crate::worker::socket;
use crate::worker::socket::protocol::Request;

/// A result that comes within that time is waited for.
const SOON: Duration = Duration::from_millis(10);

pub struct FrontDesk {
    slot: &'static Slot,
    inbox: Inbox<Event>,
    pub calls: Calls,
    /// For the loop.
    events: Vec<Event>,
    woken: Woken,
    /// Something came that a whole turn is due for.
    is_turn_due: bool,
}

impl FrontDesk {
    pub fn new(slot: &'static Slot, inbox: Inbox<Event>, calls: Calls) -> Self {
        FrontDesk {
            slot,
            inbox,
            calls,
            events: Vec::new(),
            woken: Woken::default(),
            is_turn_due: false,
        }
    }

    /// Readable while something waits to be taken in.
    pub fn fd(&self) -> RawFd {
        self.inbox.fd()
    }

    /// How long the loop may sleep unless something comes.
    pub fn pause(&self) -> Duration {
        match self.events.is_empty() && !self.woken.at_all && !self.is_turn_due {
            true => self.calls.pause(),
            false => Duration::ZERO,
        }
    }

    /// Takes in what has come; returns how much that was.
    pub fn take_in(&mut self, cx: &mut Context) -> usize {
        self.woken.add(self.slot.take_wake());
        let events = self.inbox.drain();
        let count = events.len();
        for event in events {
            self.is_turn_due |= event.is_of_a_turn();
            match event {
                Event::Calls(message) => self.calls.on_message(message),
                Event::Link(message) => cx.connections.on_message(message),
                Event::Socket(socket::Message {
                    request: Request::Write(intent),
                    reply,
                }) => self.calls.write(intent, reply),
                Event::Socket(socket::Message {
                    request: Request::Read(read),
                    reply,
                }) => self.calls.read(read, reply),
                event => self.events.push(event),
            }
        }
        if self.calls.are_about() {
            cx.steps.note_call();
        }
        count
    }

    /// What the loop is to handle, what commits asked for, and whether a whole turn is due.
    pub fn take(&mut self) -> (Vec<Event>, Woken, bool) {
        (
            std::mem::take(&mut self.events),
            std::mem::take(&mut self.woken),
            std::mem::take(&mut self.is_turn_due),
        )
    }

    /// Serves callers between two steps of bulk work. Results that are about to come are waited
    /// for: a step would take longer.
    pub fn serve(&mut self, cx: &mut Context) {
        self.serve_at_hand(cx);
        let until = Instant::now() + SOON;
        while self.calls.will_be_back_within(SOON)
            && let Some(left) = until.checked_duration_since(Instant::now())
        {
            pgrx::check_for_interrupts!();
            let left = left.max(Duration::from_millis(1));
            self.is_turn_due |= wait_latch_or_readable(self.fd(), left);
            self.serve_at_hand(cx);
        }
    }

    /// What callers need is known from the last turn, unless they use a new connection, or one that
    /// was paused meanwhile.
    fn serve_at_hand(&mut self, cx: &mut Context) {
        self.take_in(cx);
        if self.woken.by_a_change || self.calls.needs_link(&cx.connections) {
            self.woken.by_a_change = false;
            self.is_turn_due = true;
            if !matches!(configuration::read(cx), Ok(true)) {
                return;
            }
            cx.connect();
        }
        self.calls.turn(cx);
    }
}
