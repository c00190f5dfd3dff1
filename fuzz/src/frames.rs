//! Frames of the local socket: whatever bytes come, they are a message, the beginning of one, or an
//! error.
//!
//! The input is what a peer sends, or else a message as JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

#[path = "../../src/worker/socket/frame.rs"]
mod frame;
#[expect(dead_code, reason = "the worker makes answers, nobody here does")]
#[path = "../../src/worker/socket/protocol.rs"]
mod protocol;

use protocol::{Answer, Intent, ReadRequest, Request};

pub fn check(data: &[u8]) {
    if let Ok(Some(message)) = frame::parse(data) {
        of_message(&message);
    }
    if let Ok(message) = serde_json::from_slice(data) {
        of_message(&message);
    }
}

fn of_message(message: &Json) {
    let framed = frame::frame(message);
    assert_eq!(frame::parse(&framed).ok().flatten().as_ref(), Some(message));
    // It comes in pieces, and nothing is a message before the last.
    for end in pieces(framed.len()) {
        let part = frame::parse(&framed[..end]).expect("a beginning is no error");
        assert_eq!(part, None);
    }
    // What follows is the next one's.
    let two = [&framed[..], &framed].concat();
    assert_eq!(frame::parse(&two).ok().flatten().as_ref(), Some(message));
    survives::<Intent>(message);
    survives::<ReadRequest>(message);
    survives::<Answer>(message);
    survives::<Request>(message);
}

/// All beginnings of a short frame, and some of a long one.
fn pieces(length: usize) -> impl Iterator<Item = usize> {
    (0..length).step_by(length.div_ceil(64).max(1))
}

/// What one side means is what the other side reads.
fn survives<T: Serialize + DeserializeOwned>(message: &Json) {
    let Ok(meant) = T::deserialize(message) else {
        return;
    };
    let sent = serde_json::to_value(&meant).expect("messages are plain");
    let framed = frame::frame(&sent);
    let read = frame::parse(&framed).ok().flatten();
    let read = T::deserialize(read.expect("it is whole")).expect("it is of its kind");
    assert_eq!(serde_json::to_value(&read).ok(), Some(sent));
}
