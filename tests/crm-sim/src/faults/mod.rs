//! Trouble on request.
//!
//! Guarantees: a fault acts on a request only if everything it names matches; each time it acts it
//! uses up one of its `times`; faults act in the order they were made. A fault on records uses up
//! one per record it fails.

pub mod echo;
mod spec;

use crate::http::{Request, Response};
use parking_lot::Mutex;
use regex::Regex;
pub use spec::{Drop, EditSpec, FaultError, FaultSpec, When};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub struct Fault {
    pub id: u64,
    spec: FaultSpec,
    regex: Option<Regex>,
    /// `u64::MAX` is unlimited.
    left: AtomicU64,
    skip: AtomicU64,
}

impl Fault {
    fn matches(&self, vendor: &str, request: &Request) -> bool {
        let spec = &self.spec;
        let target = || match request.query.as_str() {
            "" => request.path.clone(),
            query => format!("{}?{query}", request.path),
        };
        spec.vendor.as_deref().is_none_or(|v| v == vendor)
            && (spec.method.as_deref())
                .is_none_or(|m| m.eq_ignore_ascii_case(request.method.as_str()))
            && spec.path.as_deref().is_none_or(|p| target().contains(p))
            && (self.regex.as_ref()).is_none_or(|regex| regex.is_match(&target()))
            && (spec.body_contains.as_deref())
                .is_none_or(|part| String::from_utf8_lossy(&request.body).contains(part))
    }

    fn use_up(&self) -> bool {
        let lucky = || {
            self.spec
                .chance
                .is_none_or(|chance| fastrand::f64() < chance)
        };
        let minus_one = |left: u64| match left {
            0 => None,
            u64::MAX => Some(left),
            left => Some(left - 1),
        };
        let order = Ordering::Relaxed;
        let skips = (self.skip)
            .fetch_update(order, order, |skip| skip.checked_sub(1))
            .is_ok();
        !skips && lucky() && self.left.fetch_update(order, order, minus_one).is_ok()
    }

    fn spent(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    pub fn show(&self) -> serde_json::Value {
        let left = match self.left.load(Ordering::Relaxed) {
            u64::MAX => "unlimited".into(),
            left => serde_json::Value::from(left),
        };
        serde_json::json!({"id": self.id, "remaining": left, "fault": self.spec})
    }
}

/// What a record's fault says.
#[derive(Debug, Clone)]
pub struct RecordFailure {
    pub code: String,
    pub message: String,
    pub fields: Vec<String>,
}

/// The record faults that apply to one request.
#[derive(Debug, Clone, Default)]
pub struct RecordFaults(Vec<Arc<Fault>>);

impl RecordFaults {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the record known by any of these names must fail.
    pub fn strike(&self, ids: &[&str], keys: &[&str]) -> Option<RecordFailure> {
        let named = |list: &[String], names: &[&str]| list.iter().any(|n| names.contains(&&**n));
        self.0.iter().find_map(|fault| {
            let spec = fault.spec.fail_records.as_ref()?;
            let all = spec.ids.is_empty() && spec.keys.is_empty();
            let hit = all || named(&spec.ids, ids) || named(&spec.keys, keys);
            (hit && fault.use_up()).then(|| RecordFailure {
                code: spec.code.clone(),
                message: spec.message.clone(),
                fields: spec.fields.clone(),
            })
        })
    }
}

/// What is to happen to one request.
#[derive(Debug, Default)]
pub struct Plan {
    pub faults: Vec<u64>,
    pub delay_ms: u64,
    pub delay_after_ms: u64,
    pub drop: Option<Drop>,
    pub expire_tokens: bool,
    /// The answer quotes the request's credentials.
    pub echo: bool,
    pub answer: Option<Answer>,
    pub applied: bool,
    pub records: RecordFaults,
    pub edits: Vec<EditSpec>,
}

#[derive(Debug, Default)]
pub struct Faults {
    list: Mutex<Vec<Arc<Fault>>>,
    ids: AtomicU64,
}

impl Faults {
    pub fn add(&self, spec: FaultSpec) -> Result<serde_json::Value, FaultError> {
        spec::check(&spec)?;
        let left = spec::times(&spec)?;
        let regex = spec.path_regex.as_deref().map(Regex::new).transpose()?;
        let fault = Arc::new(Fault {
            id: self.ids.fetch_add(1, Ordering::Relaxed) + 1,
            regex,
            left: AtomicU64::new(left),
            skip: AtomicU64::new(spec.skip),
            spec,
        });
        let shown = fault.show();
        self.list.lock().push(fault);
        Ok(shown)
    }

    pub fn list(&self) -> Vec<serde_json::Value> {
        self.list.lock().iter().map(|fault| fault.show()).collect()
    }

    /// Removes one, or all with `None`; says how many.
    pub fn clear(&self, id: Option<u64>) -> usize {
        let mut list = self.list.lock();
        let before = list.len();
        list.retain(|fault| id.is_some_and(|id| id != fault.id));
        before - list.len()
    }

    pub fn plan(&self, vendor: &str, request: &Request) -> Plan {
        let mut plan = Plan::default();
        let list = self.list.lock();
        for fault in list.iter().filter(|fault| !fault.spent()) {
            if !fault.matches(vendor, request) {
                continue;
            }
            // A record fault is used up where a record meets it, not here.
            if fault.spec.fail_records.is_some() {
                plan.echo |= fault.spec.echo;
                plan.records.0.push(fault.clone());
                continue;
            }
            // One request gets one answer: a second fault that gives one waits for the next
            // request.
            let answers = fault.spec.status.is_some() || fault.spec.drop.is_some();
            let answered = plan.answer.is_some() || plan.drop.is_some();
            if (answers && answered) || !fault.use_up() {
                continue;
            }
            plan.faults.push(fault.id);
            plan.delay_ms += fault.spec.delay_ms.unwrap_or(0);
            plan.delay_after_ms += fault.spec.delay_after_ms.unwrap_or(0);
            plan.expire_tokens |= fault.spec.expire_tokens;
            plan.echo |= fault.spec.echo;
            plan.drop = plan.drop.or(fault.spec.drop);
            plan.edits.extend(fault.spec.edit.clone());
            if let Some(status) = fault.spec.status {
                plan.applied = fault.spec.applied;
                plan.answer = Some(Answer {
                    status,
                    headers: fault.spec.headers.clone(),
                    body: fault.spec.body.clone(),
                    latin1: fault.spec.latin1,
                });
            }
        }
        plan
    }
}

/// An answer to give in place of the vendor's own.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Option<serde_json::Value>,
    latin1: bool,
}

impl Answer {
    /// Spells the answer out; without a body it is what the vendor usually says with that status.
    pub fn spell(self, usual: impl FnOnce(u16) -> Response) -> Response {
        let mut response = match self.body {
            None => usual(self.status),
            Some(serde_json::Value::String(text)) => Response {
                body: match self.latin1 {
                    // What Latin-1 does not have becomes a question mark, as everywhere.
                    true => text
                        .chars()
                        .map(|c| u8::try_from(c).unwrap_or(b'?'))
                        .collect(),
                    false => text.into(),
                },
                ..Response::empty(self.status)
            },
            Some(json) => Response::json(self.status, &json),
        };
        for (name, value) in self.headers {
            (response.headers).retain(|(held, _)| !held.eq_ignore_ascii_case(&name));
            response = response.with(&name, value);
        }
        response
    }
}
