//! Frames of the local socket: four bytes of length (big-endian) and that much JSON.
//!
//! Plain Rust, of bytes alone, so that it can be tried with any.

use std::io;

use serde_json::Value as Json;

/// Longest frame; requests are small.
const MAX_FRAME: usize = 16 * 1024 * 1024;

pub fn frame(message: &Json) -> Vec<u8> {
    let body = message.to_string().into_bytes();
    let mut frame = (body.len() as u32).to_be_bytes().to_vec();
    frame.extend(body);
    frame
}

/// How long the body is, by the bytes before it.
pub fn length(head: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(head) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a frame is too long",
        ));
    }
    Ok(length)
}

/// The message in a buffer, once it is whole.
pub fn parse(buffer: &[u8]) -> io::Result<Option<Json>> {
    let Some((head, rest)) = buffer.split_first_chunk() else {
        return Ok(None);
    };
    match rest.get(..length(*head)?) {
        None => Ok(None),
        Some(body) => serde_json::from_slice(body)
            .map(Some)
            .map_err(io::Error::from),
    }
}
