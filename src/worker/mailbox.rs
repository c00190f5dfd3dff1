//! The channel from the threads to the main thread, and the eventfd that wakes it.
//!
//! Knows no message: the main loop has one inbox of events, and each component a sender of its own
//! messages, which arrive wrapped as events.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc;

/// The threads' end of the channel.
pub struct Sender<M>(Arc<dyn Fn(M) + Send + Sync>);

impl<M> Clone for Sender<M> {
    fn clone(&self) -> Self {
        Sender(self.0.clone())
    }
}

impl<M: 'static> Sender<M> {
    pub fn new(send: impl Fn(M) + Send + Sync + 'static) -> Self {
        Sender(Arc::new(send))
    }

    pub fn send(&self, message: M) {
        (self.0)(message);
    }

    /// A sender for one component, whose messages arrive wrapped.
    pub fn wrap<N: 'static>(&self, into: impl Fn(N) -> M + Send + Sync + 'static) -> Sender<N> {
        let outer = self.clone();
        Sender::new(move |message| outer.send(into(message)))
    }
}

/// The main thread's end.
pub struct Inbox<M> {
    receiver: mpsc::Receiver<M>,
    bell: Arc<OwnedFd>,
}

impl<M> Inbox<M> {
    /// Readable while there are messages.
    pub fn fd(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    /// All messages at hand. Resets the eventfd first, so that none is missed.
    pub fn drain(&self) -> Vec<M> {
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

/// A channel whose sender rings the inbox's bell with each message.
pub fn channel<M: Send + 'static>() -> io::Result<(Sender<M>, Inbox<M>)> {
    // SAFETY: a new descriptor that nobody else owns.
    let bell = unsafe {
        let fd = libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Arc::new(OwnedFd::from_raw_fd(fd))
    };
    let (sender, receiver) = mpsc::channel();
    let threads_bell = bell.clone();
    let sender = Sender::new(move |message| {
        if sender.send(message).is_ok() {
            let one = 1u64.to_ne_bytes();
            // SAFETY: writes eight bytes to an eventfd that lives as long as this closure.
            unsafe { libc::write(threads_bell.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    });
    Ok((sender, Inbox { receiver, bell }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    enum Event {
        Number(i32),
        Text(&'static str),
    }

    #[test]
    fn messages_arrive_wrapped_and_in_order() {
        let (sender, inbox) = channel().unwrap();
        let (numbers, texts) = (sender.wrap(Event::Number), sender.wrap(Event::Text));
        std::thread::spawn(move || {
            numbers.send(1);
            texts.send("two");
        })
        .join()
        .unwrap();
        assert_eq!(inbox.drain(), [Event::Number(1), Event::Text("two")]);
        assert_eq!(inbox.drain(), []);
    }
}
