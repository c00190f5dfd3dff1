//! The log of what came in.
//!
//! Guarantees: bounded in entries and in bytes, oldest dropped first; bodies are cut at a cap;
//! bearer tokens and passwords of the `Authorization` header are masked. Counts are of everything
//! since the last clear, dropped entries included.

use parking_lot::Mutex;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const MAX_ENTRIES: usize = 20_000;
const MAX_BYTES: usize = 64 << 20;
const BODY_CAP: usize = 16 << 10;
const MAX_ROUTES: usize = 500;

#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    pub seq: u64,
    /// Milliseconds since 1970 by the machine's clock, not the simulator's.
    pub at_ms: i64,
    pub vendor: &'static str,
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
    pub body_bytes: usize,
    /// `null` when the connection was dropped instead.
    pub status: Option<u16>,
    pub response: String,
    pub response_bytes: usize,
    pub duration_ms: f64,
    /// Ids of the faults that acted on it.
    pub faults: Vec<u64>,
}

#[derive(Debug, Default, Clone, Serialize)]
pub struct Count {
    requests: u64,
    body_bytes: u64,
    statuses: BTreeMap<String, u64>,
    routes: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: VecDeque<Entry>,
    bytes: usize,
    seq: u64,
    counts: BTreeMap<&'static str, Count>,
}

/// Which entries to show.
#[derive(Debug, Default)]
pub struct Filter {
    pub vendor: Option<String>,
    pub since: u64,
    pub method: Option<String>,
    pub path: Option<String>,
    pub status: Option<u16>,
    pub limit: Option<usize>,
}

impl Filter {
    fn takes(&self, entry: &Entry) -> bool {
        entry.seq > self.since
            && self.vendor.as_deref().is_none_or(|v| v == entry.vendor)
            && (self.method.as_deref()).is_none_or(|m| m.eq_ignore_ascii_case(&entry.method))
            && self.path.as_deref().is_none_or(|p| entry.path.contains(p))
            && self.status.is_none_or(|s| entry.status == Some(s))
    }
}

#[derive(Debug, Default)]
pub struct RequestLog {
    inner: Mutex<Inner>,
    under_way: AtomicUsize,
}

/// A request that is not in the log yet.
pub struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl RequestLog {
    pub fn begin(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, SeqCst);
        UnderWay(&self.under_way)
    }

    /// Requests that have come and may still do something, whether or not their callers wait.
    pub fn under_way(&self) -> usize {
        self.under_way.load(SeqCst)
    }

    pub fn add(&self, mut entry: Entry) {
        let mut inner = self.inner.lock();
        inner.seq += 1;
        entry.seq = inner.seq;
        inner.count(&entry);
        inner.bytes += size(&entry);
        inner.entries.push_back(entry);
        while inner.entries.len() > MAX_ENTRIES || inner.bytes > MAX_BYTES {
            let Some(oldest) = inner.entries.pop_front() else {
                break;
            };
            inner.bytes -= size(&oldest);
        }
    }

    /// Matching entries, oldest first, and the newest sequence number given out.
    pub fn list(&self, filter: &Filter) -> (Vec<Entry>, u64) {
        let inner = self.inner.lock();
        let entries = inner.entries.iter().filter(|entry| filter.takes(entry));
        let entries = entries
            .take(filter.limit.unwrap_or(usize::MAX))
            .cloned()
            .collect();
        (entries, inner.seq)
    }

    pub fn counts(&self) -> BTreeMap<&'static str, Count> {
        self.inner.lock().counts.clone()
    }

    /// Sequence numbers go on, so a poller's `since` stays right.
    pub fn clear(&self) {
        let mut inner = self.inner.lock();
        let seq = inner.seq;
        *inner = Inner {
            seq,
            ..Inner::default()
        };
    }
}

impl Inner {
    fn count(&mut self, entry: &Entry) {
        let count = self.counts.entry(entry.vendor).or_default();
        count.requests += 1;
        count.body_bytes += entry.body_bytes as u64;
        let status = entry
            .status
            .map_or("dropped".into(), |status| status.to_string());
        *count.statuses.entry(status).or_default() += 1;
        let route = format!("{} {}", entry.method, route(&entry.path));
        let full = count.routes.len() >= MAX_ROUTES && !count.routes.contains_key(&route);
        let route = if full { "other".into() } else { route };
        *count.routes.entry(route).or_default() += 1;
    }
}

/// The path with segments that look like ids replaced, so that counts group.
fn route(path: &str) -> String {
    let looks_like_id = |part: &str| {
        let digits = part.bytes().filter(u8::is_ascii_digit).count();
        !part.is_empty() && (digits == part.len() || digits >= 3 && part.len() >= 6)
    };
    path.split('/')
        .map(|part| if looks_like_id(part) { "{id}" } else { part })
        .collect::<Vec<_>>()
        .join("/")
}

fn size(entry: &Entry) -> usize {
    let headers = entry.headers.iter().map(|(k, v)| k.len() + v.len() + 64);
    entry.body.len() + entry.response.len() + entry.path.len() + 256 + headers.sum::<usize>()
}

/// The text of a body for the log: cut at the cap, never in the middle of a character.
pub fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(BODY_CAP)]).into_owned()
}

pub fn masked(headers: &hyper::HeaderMap) -> BTreeMap<String, String> {
    headers
        .iter()
        .map(|(name, value)| {
            let text = String::from_utf8_lossy(value.as_bytes());
            let shown = match name.as_str() {
                "authorization" => {
                    let scheme = text.split(' ').next().unwrap_or_default();
                    format!("{scheme} ***")
                }
                "x-api-key" | "x-api-token" => "***".into(),
                _ => text.into_owned(),
            };
            (name.as_str().to_owned(), shown)
        })
        .collect()
}
