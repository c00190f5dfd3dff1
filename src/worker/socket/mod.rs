//! The local socket: how a backend asks its database's worker, and the threads that listen.
//!
//! What travels are frames ([`frame`]). Requests carry the version `v`; a worker refuses what it
//! does not speak. The socket lies in the data directory (a process's working directory), mode
//! 0600, beside other files that base backups leave out.

pub mod frame;
pub mod protocol;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use pgrx::pg_sys;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

use self::protocol::Request;
use crate::worker::mailbox::Sender;

pub const VERSION: u64 = 1;

/// A request of a backend. A reply that is dropped ends the backend's connection.
pub struct Message {
    pub request: Request,
    pub reply: oneshot::Sender<Json>,
}

pub fn path(database: pg_sys::Oid) -> PathBuf {
    PathBuf::from(format!("pg_stat_tmp/pg_crm.{}.sock", database.to_u32()))
}

/// Opens the socket; a stale one of a worker that was killed is replaced.
pub fn bind(database: pg_sys::Oid) -> io::Result<std::os::unix::net::UnixListener> {
    let path = path(database);
    let _ = std::fs::remove_file(&path);
    // The data directory is closed to others, so there is no moment at which the socket is open to
    // them.
    let listener = std::os::unix::net::UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Accepts backends until the runtime ends.
pub async fn listen(listener: std::os::unix::net::UnixListener, mailbox: Sender<Message>) {
    let Ok(listener) = UnixListener::from_std(listener) else {
        return;
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, mailbox.clone()));
            }
            // Out of descriptors, for example: others may close theirs soon.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
        }
    }
}

async fn serve(stream: UnixStream, mailbox: Sender<Message>) {
    let (mut reader, mut writer) = stream.into_split();
    // A backend says nothing while it waits: what can be read then is the end of the stream.
    let mut hung_up = [0u8; 1];
    loop {
        let mut head = [0; 4];
        if reader.read_exact(&mut head).await.is_err() {
            return;
        }
        let Ok(length) = frame::length(head) else {
            return;
        };
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).await.is_err() {
            return;
        }
        let answer = match understand(&body) {
            Ok(request) => {
                let (reply, answer) = oneshot::channel();
                mailbox.send(Message { request, reply });
                // A disconnect (cancel, timeout) is noticed, and the request is dropped.
                tokio::select! {
                    answer = answer => match answer { Ok(answer) => answer, Err(_) => return },
                    _ = reader.read(&mut hung_up) => return,
                }
            }
            Err(error) => json!({ "error": error }),
        };
        if writer.write_all(&frame::frame(&answer)).await.is_err() {
            return;
        }
    }
}

fn understand(body: &[u8]) -> Result<Request, String> {
    let other_version = || format!("this worker speaks version {VERSION} of the socket protocol");
    let request: Json = serde_json::from_slice(body).map_err(|_| other_version())?;
    if request["v"].as_u64() != Some(VERSION) {
        return Err(other_version());
    }
    Request::deserialize(request).map_err(|error| format!("not a request: {error}"))
}
