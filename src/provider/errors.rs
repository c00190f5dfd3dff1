//! From a vendor's error to a [`Failure`].
//!
//! Every error of every vendor goes through [`classify`]: its codes are looked up in that vendor's
//! table ([`Rule`]s, data), and what no table knows is classed by its HTTP status. Messages are
//! bounded, free of control characters and of access tokens.

use std::ops::RangeInclusive;
use std::time::Duration;

use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Failure};

use crate::Response;

/// One row of an error table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub code: &'static str,
    pub when: When,
    pub class: ErrorClass,
    pub scope: Scope,
    /// How long to wait if the answer does not say.
    pub wait: Option<Duration>,
}

/// What else must hold for a rule to apply.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    Always,
    /// The message holds this text.
    Says(&'static str),
    /// The complaint is about a field of the record, not about the record.
    NamesField,
}

impl Rule {
    pub const fn new(class: ErrorClass, code: &'static str) -> Rule {
        Rule {
            code,
            when: When::Always,
            class,
            scope: Scope::Records,
            wait: None,
        }
    }

    pub const fn says(self, text: &'static str) -> Rule {
        Rule {
            when: When::Says(text),
            ..self
        }
    }

    pub const fn names_field(self) -> Rule {
        Rule {
            when: When::NamesField,
            ..self
        }
    }

    pub const fn connection(self) -> Rule {
        Rule {
            scope: Scope::Connection,
            ..self
        }
    }

    pub const fn wait(self, seconds: u64) -> Rule {
        Rule {
            wait: Some(Duration::from_secs(seconds)),
            ..self
        }
    }

    fn applies(&self, vendor_error: &VendorError) -> bool {
        vendor_error.codes.iter().any(|code| code == self.code)
            && match self.when {
                When::Always => true,
                When::Says(text) => vendor_error.message.contains(text),
                When::NamesField => vendor_error.names_field,
            }
    }
}

/// An error as a vendor wrote it, whatever the shape it came in.
#[derive(Clone, Debug, Default)]
pub(crate) struct VendorError {
    /// The vendor's codes, the most telling first.
    pub codes: Vec<String>,
    pub message: String,
    /// Whether it names a field of the record as the culprit.
    pub names_field: bool,
}

/// The failure that a complaint states. The first rule that applies decides, so that a table's
/// order is its priority; the status decides where none does.
pub(crate) fn classify(table: &[Rule], vendor_error: &VendorError, status: u16) -> Failure {
    let rule = table.iter().find(|rule| rule.applies(vendor_error));
    let (class, scope) = match rule {
        Some(rule) => (rule.class, rule.scope),
        None => by_status(status),
    };
    let code = match (rule, vendor_error.codes.first()) {
        (Some(rule), _) => rule.code.to_owned(),
        (None, Some(code)) => code.clone(),
        (None, None) => status_code(status),
    };
    let message = clean(&vendor_error.message);
    let message = if message.is_empty() {
        format!("HTTP {status}")
    } else {
        message
    };
    let failure = Failure::record(class, code, message);
    Failure {
        scope,
        retry_after: rule.and_then(|rule| rule.wait),
        ..failure
    }
}

/// [`classify`] for a whole response, whose `Retry-After` goes before the table's own wait.
pub(crate) fn classify_response(
    table: &[Rule],
    vendor_error: &VendorError,
    response: &Response,
) -> Failure {
    let mut failure = classify(table, vendor_error, response.status);
    if is_precondition(response.status) {
        return Failure::stale(failure.message);
    }
    // A code that says no more than "later" does not make records answerable for an outage that the
    // status tells of.
    if failure.class == ErrorClass::Transient && matches!(response.status, 429 | 502..) {
        (failure.class, failure.scope) = by_status(response.status);
    }
    let told = requested_wait(response, &failure);
    Failure {
        retry_after: told.or(failure.retry_after),
        ..failure
    }
}

/// Whether a status says that a condition was not met (412) or is asked for (428), whatever words
/// the body has for it: either way, the record is to be read before it is written.
fn is_precondition(status: u16) -> bool {
    matches!(status, 412 | 428)
}

/// The failure of a response whose body is not of the vendor's making: a proxy's page, an outage.
pub(crate) fn foreign_body(response: &Response) -> Failure {
    let status = response.status;
    if is_precondition(status) {
        return Failure::stale(format!("HTTP {status}: the record was changed meanwhile"));
    }
    let (class, scope) = by_status(status);
    let message = format!("HTTP {status}, with a body that is not a response of the CRM's API");
    let failure = Failure {
        scope,
        ..Failure::record(class, status_code(status), message)
    };
    let told = requested_wait(response, &failure);
    failure.after(told)
}

/// A success whose body cannot be read.
pub(crate) fn unreadable(response: &Response) -> Failure {
    let message = format!("HTTP {} with a body that cannot be read", response.status);
    Failure::record(ErrorClass::Internal, "unreadable_answer", message)
}

/// A record of an answer that cannot be read.
pub(crate) fn unreadable_record(why: impl std::fmt::Display) -> Failure {
    let message = format!("the CRM's answer for this record cannot be read: {why}");
    Failure::record(ErrorClass::Internal, "unreadable_record", message)
}

/// A status that is no error, and none that the vendor documents for what was asked.
pub(crate) fn undocumented(response: &Response) -> Option<Failure> {
    let status = response.status;
    let is_error = status >= 400;
    (!is_error && !response.is_success()).then(|| {
        let known: Vec<String> = response.success.iter().map(u16::to_string).collect();
        let message = format!(
            "HTTP {status}, which the CRM's documentation does not name; expected {}",
            known.join(", ")
        );
        Failure::record(ErrorClass::Internal, "undocumented_status", message)
    })
}

/// The refusal of a request that could have told of each of its records: if it is not found, the
/// object or the path is unknown, and no record may be taken for deleted because of it.
pub(crate) fn refused(failure: Failure) -> Failure {
    match failure.class {
        ErrorClass::NotFound => Failure {
            class: ErrorClass::Mapping,
            ..failure
        },
        _ => failure,
    }
}

fn status_code(status: u16) -> String {
    format!("http_{status}")
}

/// What a status means when nothing else is known. A bare 404 is a wrong path, not a missing
/// record: only a vendor's own code may say that a record is gone.
const STATUSES: &[(RangeInclusive<u16>, ErrorClass, Scope)] = &[
    (300..=300, ErrorClass::Conflict, Scope::Records),
    (400..=400, ErrorClass::Validation, Scope::Records),
    (401..=403, ErrorClass::Auth, Scope::Connection),
    (404..=406, ErrorClass::Mapping, Scope::Records),
    (407..=408, ErrorClass::Transient, Scope::Connection),
    (409..=409, ErrorClass::Conflict, Scope::Records),
    (410..=411, ErrorClass::Mapping, Scope::Records),
    (412..=412, ErrorClass::Conflict, Scope::Records),
    (413..=414, ErrorClass::Validation, Scope::Records),
    (415..=415, ErrorClass::Mapping, Scope::Records),
    (420..=420, ErrorClass::Transient, Scope::Connection),
    (422..=422, ErrorClass::Validation, Scope::Records),
    (423..=425, ErrorClass::Transient, Scope::Connection),
    (428..=428, ErrorClass::Conflict, Scope::Records),
    (429..=429, ErrorClass::RateLimited, Scope::Connection),
    (431..=431, ErrorClass::Validation, Scope::Records),
    (477..=477, ErrorClass::Transient, Scope::Connection),
    // A server that breaks may break on what it was sent.
    (500..=500, ErrorClass::Transient, Scope::Records),
    (502..=599, ErrorClass::Transient, Scope::Connection),
];

fn by_status(status: u16) -> (ErrorClass, Scope) {
    let known = STATUSES.iter().find(|(range, ..)| range.contains(&status));
    known.map_or(
        (ErrorClass::Internal, Scope::Records),
        |&(_, class, scope)| (class, scope),
    )
}

const MINUTE: Duration = Duration::from_secs(60);
/// Waits below this would make a busy loop of a vendor that says 0.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
/// From here on a table's own wait is that of a daily budget.
const DAILY_WAIT: Duration = Duration::from_secs(15 * 60);

/// What `Retry-After` asks for, in seconds; where that is beyond all reason, in milliseconds, which
/// some of HubSpot's endpoints are seen to send. A date there is left to the engine's backoff.
fn requested_wait(response: &Response, failure: &Failure) -> Option<Duration> {
    let longest = match failure.class {
        ErrorClass::RateLimited if failure.retry_after >= Some(DAILY_WAIT) => 24 * 60 * MINUTE,
        ErrorClass::RateLimited => 10 * MINUTE,
        ErrorClass::Transient => 60 * MINUTE,
        _ => return None,
    };
    let told: f64 = response.header("retry-after")?.trim().parse().ok()?;
    let seconds = if told > longest.as_secs_f64() {
        told / 1000.0
    } else {
        told
    };
    let wait = Duration::try_from_secs_f64(seconds).ok()?;
    Some(wait.clamp(SHORTEST_WAIT, longest))
}

/// A vendor's sentence without control characters (a NUL would not fit a Postgres text) and without
/// anything that looks like an access token.
pub(crate) fn clean(message: &str) -> String {
    // What is beyond the bound is dropped by `Failure`; what is far beyond is not even looked at.
    let end = message.floor_char_boundary(4 * Failure::MESSAGE_BYTES);
    let mut out = String::with_capacity(end);
    let mut bearer = false;
    for word in message[..end]
        .split(|c: char| c.is_control() || c == ' ')
        .filter(|w| !w.is_empty())
    {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(if bearer || is_token(word) {
            "…"
        } else {
            word
        });
        bearer = word.eq_ignore_ascii_case("bearer");
    }
    out
}

/// Salesforce session ids are `00D…!…`; HubSpot's private app tokens are `pat-…`; Zoho's are
/// `1000.….…`; Entra's are `eyJ….….…`. Pipedrive's API tokens look like the keys of its fields, and
/// it quotes none.
fn is_token(word: &str) -> bool {
    let secret = |start: &str, rest: fn(&str) -> bool| {
        word.find(start)
            .is_some_and(|at| word.len() - at > 20 && rest(&word[at..]))
    };
    secret("00D", |id| id.contains('!'))
        || secret("pat-", |_| true)
        || secret("1000.", |token| token.matches('.').count() > 1)
        || secret("eyJ", |token| token.matches('.').count() > 1)
}
