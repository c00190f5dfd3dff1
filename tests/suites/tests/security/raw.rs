//! A server that answers any request with any bytes, at any pace.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

pub struct Raw {
    url: String,
}

impl Raw {
    /// Calls `answer` for each request, with the socket and the request's head; the connection ends
    /// with it.
    pub fn start(answer: impl Fn(&mut TcpStream, &str) + Send + Sync + 'static) -> Raw {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let answer = answer.clone();
                std::thread::spawn(move || {
                    let mut head = String::new();
                    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
                    while !head.ends_with("\r\n\r\n")
                        && reader.read_line(&mut head).is_ok_and(|n| n > 0)
                    {}
                    answer(&mut stream, &head);
                });
            }
        });
        Raw { url }
    }

    /// Answers each request with status 200, these headers and this body.
    pub fn answering(headers: &str, body: Vec<u8>) -> Raw {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
            body.len()
        );
        Raw::start(move |stream, _| {
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(&body);
        })
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}
