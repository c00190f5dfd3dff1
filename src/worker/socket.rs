//! The local socket: how a backend asks its database's worker, and the threads that listen.
//!
//! One frame is four bytes of length (big-endian) and that much JSON. Requests carry the version `v`; a worker refuses
//! what it does not speak. The socket lies in the data directory (a process's working directory), mode 0600, beside
//! other files that base backups leave out.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use pgrx::pg_sys;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

use super::event::{Event, Outbox};

pub const VERSION: u64 = 1;
/// Longest frame; requests are small.
const MAX_FRAME: usize = 16 * 1024 * 1024;

pub fn path(database: pg_sys::Oid) -> PathBuf {
    PathBuf::from(format!("pg_stat_tmp/pg_crm.{}.sock", database.to_u32()))
}

pub fn frame(message: &Json) -> Vec<u8> {
    let body = message.to_string().into_bytes();
    let mut frame = (body.len() as u32).to_be_bytes().to_vec();
    frame.extend(body);
    frame
}

/// The message in a buffer, once it is whole.
pub fn parse(buffer: &[u8]) -> io::Result<Option<Json>> {
    let Some((length, rest)) = buffer.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a frame is too long",
        ));
    }
    match rest.get(..length) {
        None => Ok(None),
        Some(body) => serde_json::from_slice(body)
            .map(Some)
            .map_err(io::Error::from),
    }
}

/// Opens the socket; a stale one of a worker that was killed is replaced.
pub fn bind(database: pg_sys::Oid) -> io::Result<std::os::unix::net::UnixListener> {
    let path = path(database);
    let _ = std::fs::remove_file(&path);
    // The data directory is closed to others, so there is no moment at which the socket is open to them.
    let listener = std::os::unix::net::UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Accepts backends until the runtime ends.
pub async fn listen(listener: std::os::unix::net::UnixListener, outbox: Outbox) {
    let Ok(listener) = UnixListener::from_std(listener) else {
        return;
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, outbox.clone()));
            }
            // Out of descriptors, for example: others may close theirs soon.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
        }
    }
}

async fn serve(stream: UnixStream, outbox: Outbox) {
    let (mut reader, mut writer) = stream.into_split();
    // A backend says nothing while it waits: what can be read then is the end of the stream.
    let mut hung_up = [0u8; 1];
    loop {
        let Ok(length) = reader.read_u32().await else {
            return;
        };
        if length as usize > MAX_FRAME {
            return;
        }
        let mut body = vec![0; length as usize];
        if reader.read_exact(&mut body).await.is_err() {
            return;
        }
        let answer = match serde_json::from_slice::<Json>(&body) {
            Ok(request) if request["v"].as_u64() == Some(VERSION) => {
                let (reply, answer) = oneshot::channel();
                outbox.send(Event::Asked { request, reply });
                // A caller that went away (cancel, timeout) is noticed, and its question dropped.
                tokio::select! {
                    answer = answer => match answer { Ok(answer) => answer, Err(_) => return },
                    _ = reader.read(&mut hung_up) => return,
                }
            }
            _ => {
                json!({"error": format!("this worker speaks version {VERSION} of the socket protocol")})
            }
        };
        if writer.write_all(&frame(&answer)).await.is_err() {
            return;
        }
    }
}
