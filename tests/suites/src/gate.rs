//! A gate before a server: while it is shut, connections to it are refused and those through it are
//! cut.
//!
//! The address stays the same, so what comes back is the same CRM with all that it held.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

pub struct Gate {
    address: SocketAddr,
    to: String,
    open: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
    through: Arc<Mutex<Vec<TcpStream>>>,
}

impl Gate {
    /// An open gate before a URL.
    pub fn before(url: &str) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let to = url.trim_start_matches("http://").to_owned();
        let mut gate = Gate {
            address,
            to,
            open: None,
            through: Arc::default(),
        };
        gate.serve(listener);
        gate
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn open(&mut self) {
        self.serve(TcpListener::bind(self.address).expect("the same port"));
    }

    /// From now on connections are refused.
    pub fn shut(&mut self) {
        let Some((ended, thread)) = self.open.take() else {
            return;
        };
        ended.store(true, Ordering::SeqCst);
        // A last connection wakes the thread, which then drops its listener.
        let _ = TcpStream::connect(self.address);
        thread.join().expect("the gate's thread");
        for stream in self.through.lock().expect("no panic here").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn serve(&mut self, listener: TcpListener) {
        let ended = Arc::new(AtomicBool::new(false));
        let (over, to, through) = (ended.clone(), self.to.clone(), self.through.clone());
        let thread = std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(far) = TcpStream::connect(&to) else {
                    continue;
                };
                let mut kept = through.lock().expect("no panic here");
                for (from, into) in [(&near, &far), (&far, &near)] {
                    let (from, into) = (from.try_clone(), into.try_clone());
                    let (from, into) = (from.expect("a socket"), into.expect("a socket"));
                    std::thread::spawn(move || copy(from, into));
                }
                kept.extend([near, far]);
            }
        });
        self.open = Some((ended, thread));
    }
}

fn copy(mut from: TcpStream, mut into: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if into.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = into.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shut();
    }
}
