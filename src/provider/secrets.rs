//! A connection's secrets, which are masked in every text that comes from outside.
//!
//! Guarantee: what comes out of [`Secrets::mask`] holds none of the secrets that it was taught,
//! neither as they are nor in a form in which somebody could quote them: base64 in both alphabets,
//! padded or not, alone or as part of something longer (`Basic …`), hexadecimal, percent-encoded,
//! escaped as JSON. A text that was cut in the middle of a secret does not keep its beginning.
//! Secrets of less than [`SHORTEST`] characters are not looked for: they would be found in every
//! sentence.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet, VecDeque};

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use crm_domain::Failure;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::request::encode;
use crate::{ChangesPage, Credentials, CrmObject, Grant, Overwritten, Request, Written};
use crm_domain::Description;

/// Shortest secret that is looked for, in characters.
pub const SHORTEST: usize = 6;
/// What stands in place of a secret.
const MASK: &str = "…";
/// Secrets that were sent, the last of them: tokens come and go.
const REMEMBERED: usize = 64;

/// What credentials hold that is no secret. All else is.
const PUBLIC: [&str; 8] = [
    "client_id",
    "tenant_id",
    "login_url",
    "token_url",
    "audience",
    "scope",
    "username",
    "user_id",
];
/// Headers and fields of forms that carry secrets.
const HEADERS: [&str; 3] = ["authorization", "x-api-key", "x-api-token"];
const FIELDS: [&str; 5] = [
    "access_token",
    "refresh_token",
    "client_secret",
    "assertion",
    "code",
];

#[derive(Default)]
pub struct Secrets {
    given: BTreeSet<String>,
    /// The oldest first.
    sent: VecDeque<String>,
    forms: Vec<String>,
    finder: Option<AhoCorasick>,
}

impl Secrets {
    pub fn new(credentials: &Credentials, more: impl IntoIterator<Item = String>) -> Secrets {
        let mut secrets = Secrets::default();
        let secret = credentials.0.iter();
        let secret = secret.filter(|(name, _)| !PUBLIC.contains(&name.as_str()));
        for (_, value) in secret {
            secrets.given.insert(value.clone());
            // Of a key in PEM, of `user:password`, each part.
            let parts = value.split(|c: char| c.is_whitespace() || c == ':');
            secrets.given.extend(parts.map(str::to_owned));
        }
        secrets.given.extend(more);
        secrets.given.retain(|secret| is_long(secret));
        secrets.compile();
        secrets
    }

    /// Learns what a request carries: a token that was granted, an assertion that was made for it.
    pub fn learn(&mut self, request: &Request) {
        let mut found = Vec::new();
        for (name, value) in &request.headers {
            if HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
                let (_, credential) = value.split_once(' ').unwrap_or(("", value));
                found.push(credential.to_owned());
            }
        }
        if request.body.len() < 64 * 1024 && is_form(request) {
            let fields = form_urlencoded::parse(&request.body);
            let fields = fields.filter(|(name, _)| FIELDS.contains(&name.as_ref()));
            found.extend(fields.map(|(_, value)| value.into_owned()));
        }
        self.add(found);
    }

    /// Learns secrets that are known by other ways.
    pub fn add(&mut self, found: impl IntoIterator<Item = String>) {
        let before = self.sent.len();
        let mut moved = false;
        for secret in found {
            if !is_long(&secret) || self.given.contains(&secret) || self.sent.contains(&secret) {
                continue;
            }
            self.sent.push_back(secret);
            if self.sent.len() > REMEMBERED {
                self.sent.pop_front();
                moved = true;
            }
        }
        if moved || self.sent.len() > before {
            self.compile();
        }
    }

    /// All that is known, for who takes this one's place.
    pub fn all(&self) -> Vec<String> {
        self.given.iter().chain(&self.sent).cloned().collect()
    }

    fn compile(&mut self) {
        let secrets = self.given.iter().chain(&self.sent);
        let forms: HashSet<String> = secrets.flat_map(|secret| forms(secret)).collect();
        self.forms = forms.into_iter().collect();
        self.finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&self.forms)
            .ok();
    }

    /// A text without secrets.
    pub fn mask<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut out = Cow::Borrowed(text);
        if let Some(finder) = &self.finder
            && finder.is_match(text)
        {
            out = finder
                .replace_all(text, &vec![MASK; self.forms.len()])
                .into();
        }
        // What bounds a text may have cut a secret in two.
        let is_cut = |most: usize| text.len() <= most && text.len() + 8 > most;
        if is_cut(Failure::CODE_BYTES) || text.len() + 8 > Failure::MESSAGE_BYTES {
            let begun = self.forms.iter().filter_map(|form| {
                let longest = form.len().min(out.len());
                (SHORTEST..longest)
                    .rev()
                    .find(|&n| form.is_char_boundary(n) && out.ends_with(&form[..n]))
            });
            if let Some(n) = begun.max() {
                out = format!("{}{MASK}", &out[..out.len() - n]).into();
            }
        }
        out
    }

    pub fn mask_failure(&self, failure: &mut Failure) {
        for text in [&mut failure.code, &mut failure.message] {
            if let Cow::Owned(masked) = self.mask(text) {
                *text = masked;
            }
        }
    }
}

fn is_long(secret: &str) -> bool {
    secret.chars().count() >= SHORTEST
}

fn is_form(request: &Request) -> bool {
    let kind = request
        .headers
        .iter()
        .find(|(name, _)| *name == "content-type");
    kind.is_some_and(|(_, kind)| kind.starts_with("application/x-www-form-urlencoded"))
}

/// The forms in which a secret may be quoted.
fn forms(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let mut forms = vec![secret.to_owned()];
    let json = serde_json::to_string(secret).unwrap_or_default();
    forms.push(json.trim_matches('"').to_owned());
    forms.push(json.trim_matches('"').replace('/', "\\/"));
    for escaped in [
        encode(secret).to_string(),
        utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string(),
        form_urlencoded::byte_serialize(bytes).collect(),
    ] {
        // Once more, as part of a form inside of a form; and with the digits in lower case.
        forms.push(encode(&escaped).to_string());
        forms.push(lower_escapes(&escaped));
        forms.push(escaped);
    }
    let digits = hex::encode(bytes);
    forms.push(digits.to_uppercase());
    forms.push(digits);
    for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
        // Wherever the secret begins within what is encoded, the characters that hold nothing else
        // are the same.
        for before in 0..3 {
            let shifted = [&[0; 2][..before], bytes].concat();
            let encoded = engine.encode(&shifted);
            let first = (before * 8).div_ceil(6);
            let last = shifted.len() * 8 / 6;
            let form = &encoded[first.min(last)..last];
            if form.len() >= SHORTEST {
                forms.push(form.to_owned());
                forms.push(encode(form).to_string());
            }
            if before == 0 {
                forms.push(encoded);
            }
        }
    }
    forms.retain(|form| is_long(form));
    forms
}

/// `%2F` as `%2f`.
fn lower_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut escaped = 0;
    for c in text.chars() {
        out.push(if escaped > 0 {
            c.to_ascii_lowercase()
        } else {
            c
        });
        escaped = if c == '%' { 2 } else { escaped.max(1) - 1 };
    }
    out
}

/// What an operation ends in, as far as it holds sentences of others. Values of records are no
/// sentences: they stay as they are.
pub trait Mask {
    fn mask(&mut self, secrets: &Secrets);
}

impl<T: Mask> Mask for Result<T, Failure> {
    fn mask(&mut self, secrets: &Secrets) {
        match self {
            Ok(result) => result.mask(secrets),
            Err(failure) => secrets.mask_failure(failure),
        }
    }
}

impl<T: Mask> Mask for Vec<T> {
    fn mask(&mut self, secrets: &Secrets) {
        self.iter_mut().for_each(|item| item.mask(secrets));
    }
}

impl Mask for String {
    fn mask(&mut self, secrets: &Secrets) {
        if let Cow::Owned(masked) = secrets.mask(self) {
            *self = masked;
        }
    }
}

/// Results without any.
macro_rules! without_sentences {
    ($($result:ty),+) => {
        $(impl Mask for $result {
            fn mask(&mut self, _: &Secrets) {}
        })+
    };
}

without_sentences!(
    u64,
    Written,
    Grant,
    Option<CrmObject>,
    Overwritten,
    ChangesPage,
    Description
);

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    const TOKEN: &str = "00Dxx!AQ/+tok en=\"é?";

    fn secrets() -> Secrets {
        let credentials = [
            ("client_secret", TOKEN),
            ("client_id", "the-client"),
            ("webhook_secret", "user:hunter22"),
        ];
        let credentials = credentials.map(|(k, v)| (k.to_owned(), v.to_owned()));
        Secrets::new(
            &Credentials(credentials.into()),
            ["proxy-password".to_owned()],
        )
    }

    #[test]
    fn every_form_is_masked() {
        let secrets = secrets();
        for form in [
            TOKEN.to_owned(),
            STANDARD.encode(TOKEN),
            URL_SAFE.encode(TOKEN),
            STANDARD_NO_PAD.encode(TOKEN),
            URL_SAFE_NO_PAD.encode(TOKEN),
            STANDARD.encode(format!("the-client:{TOKEN}")),
            STANDARD.encode(format!("Bearer {TOKEN} or so")),
            STANDARD.encode(format!("x{TOKEN}")),
            encode(TOKEN).to_string(),
            encode(TOKEN)
                .to_string()
                .to_lowercase()
                .replace("00dxx%21aq", "00Dxx%21AQ"),
            form_urlencoded::byte_serialize(TOKEN.as_bytes()).collect(),
            serde_json::to_string(TOKEN).unwrap(),
            serde_json::to_string(TOKEN).unwrap().replace('/', "\\/"),
            hex::encode(TOKEN),
            hex::encode_upper(TOKEN),
            "hunter22".to_owned(),
            "user:hunter22".to_owned(),
            "http://user:proxy-password@proxy".to_owned(),
        ] {
            let told = secrets
                .mask(&format!("Session {form} expired"))
                .into_owned();
            assert!(told.contains(MASK), "{form}: {told}");
            // What is left of it is less than can be guessed from.
            let left: String = told
                .replace(MASK, "")
                .replace("Session ", "")
                .replace(" expired", "");
            let secret_left = [TOKEN, "hunter22", "proxy-password"]
                .iter()
                .any(|s| left.contains(&s[..6]));
            assert!(!secret_left, "{told}");
        }
        let innocent = "Session of the-client expired";
        assert!(matches!(secrets.mask(innocent), Cow::Borrowed(_)));
    }

    #[test]
    fn what_a_request_carries_is_learnt() {
        let mut secrets = secrets();
        let form = "grant_type=jwt-bearer&assertion=eyJh.bGci.OiJ&client_id=the-client";
        let request = Request::url(crate::Method::Post, "https://x.test")
            .header("authorization", "Bearer granted-token")
            .body("application/x-www-form-urlencoded", form.into());
        secrets.learn(&request);
        let told = secrets.mask("granted-token eyJh.bGci.OiJ the-client jwt-bearer");
        assert_eq!(told, "… … the-client jwt-bearer");
        for n in 0..2 * REMEMBERED {
            secrets.add([format!("token number {n}")]);
        }
        assert_eq!(secrets.mask("token number 127"), MASK);
        assert_eq!(secrets.mask(&hex::encode(TOKEN)), MASK);
    }

    #[test]
    fn a_secret_cut_in_two_is_masked() {
        let secrets = secrets();
        let long = format!("{}{TOKEN}", "x".repeat(Failure::MESSAGE_BYTES - 10));
        let mut failure = Failure::record(crm_domain::ErrorClass::Auth, "code", long);
        secrets.mask_failure(&mut failure);
        assert!(failure.message.ends_with("xx…"), "{}", failure.message);
    }
}
