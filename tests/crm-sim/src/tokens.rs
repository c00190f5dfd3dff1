//! Access and refresh tokens of one vendor.
//!
//! Guarantees: a token is valid, expired or unknown, never both; an expired token says since when;
//! a refresh token works until it is revoked (or rotated, when rotation is on).

use parking_lot::Mutex;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What a vendor starts with; documented in `--help`.
#[derive(Debug, Clone)]
pub struct Defaults {
    pub access: &'static str,
    pub refresh: &'static str,
    pub client_id: &'static str,
    pub client_secret: &'static str,
    pub lifetime_s: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Valid,
    Expired { since_ms: i64 },
    Unknown,
}

#[derive(Debug, Clone, Serialize)]
pub struct State {
    /// Access token -> when it expires, milliseconds since 1970; `null` is never.
    access: BTreeMap<String, Option<i64>>,
    refresh: BTreeSet<String>,
    client_id: String,
    client_secret: String,
    lifetime_s: Option<i64>,
    rotate_refresh: bool,
    /// Of the client: what its assertions are to be signed with, as an RSAPublicKey in DER.
    #[serde(skip)]
    public_key: Option<Vec<u8>>,
    #[serde(skip)]
    issued: u64,
}

#[derive(Debug)]
pub struct Tokens {
    vendor: &'static str,
    defaults: Defaults,
    state: Mutex<State>,
}

/// A fresh pair handed out by a token endpoint.
#[derive(Debug)]
pub struct Issued {
    pub access: String,
    pub lifetime_s: Option<i64>,
    /// The refresh token to use from now on, when it changed.
    pub rotated: Option<String>,
}

impl Tokens {
    pub fn new(vendor: &'static str, defaults: Defaults) -> Self {
        let state = Mutex::new(initial(&defaults));
        Self {
            vendor,
            defaults,
            state,
        }
    }

    pub fn reset(&self) {
        *self.state.lock() = initial(&self.defaults);
    }

    pub fn standing(&self, token: &str, now: i64) -> Standing {
        match self.state.lock().access.get(token) {
            None => Standing::Unknown,
            Some(Some(at)) if *at <= now => Standing::Expired { since_ms: *at },
            Some(_) => Standing::Valid,
        }
    }

    pub fn client_known(&self, id: &str, secret: Option<&str>) -> bool {
        let state = self.state.lock();
        state.client_id == id && secret.is_none_or(|secret| state.client_secret == secret)
    }

    pub fn refresh_known(&self, token: &str) -> bool {
        self.state.lock().refresh.contains(token)
    }

    /// Hands out a new access token; `used` is the refresh token it was asked with.
    pub fn issue(&self, used: Option<&str>, now: i64) -> Issued {
        let mut state = self.state.lock();
        let access = state.fresh(self.vendor, "access");
        let lifetime_s = state.lifetime_s;
        let expires = lifetime_s.map(|seconds| now + seconds * 1000);
        state.access.insert(access.clone(), expires);
        let rotated = match used {
            Some(used) if state.rotate_refresh => {
                state.refresh.remove(used);
                let fresh = state.fresh(self.vendor, "refresh");
                state.refresh.insert(fresh.clone());
                Some(fresh)
            }
            _ => None,
        };
        Issued {
            access,
            lifetime_s,
            rotated,
        }
    }

    /// Makes `token` valid, for `lifetime_s` or for ever.
    pub fn admit(&self, token: &str, lifetime_s: Option<i64>, now: i64) {
        let expires = lifetime_s.map(|seconds| now + seconds * 1000);
        self.state.lock().access.insert(token.to_owned(), expires);
    }

    pub fn admit_refresh(&self, token: &str) {
        self.state.lock().refresh.insert(token.to_owned());
    }

    /// Ends access tokens now: one, or all with `None`.
    pub fn expire(&self, token: Option<&str>, now: i64) {
        for (name, expires) in self.state.lock().access.iter_mut() {
            let live = expires.is_none_or(|at| at > now);
            if live && token.is_none_or(|token| token == name) {
                *expires = Some(now);
            }
        }
    }

    /// Forgets access and refresh tokens: one of either kind, or all with `None`.
    pub fn revoke(&self, token: Option<&str>) {
        let mut state = self.state.lock();
        state
            .access
            .retain(|name, _| token.is_some_and(|token| token != name));
        state
            .refresh
            .retain(|name| token.is_some_and(|token| token != name));
    }

    pub fn set_lifetime(&self, lifetime_s: Option<i64>) {
        self.state.lock().lifetime_s = lifetime_s;
    }

    pub fn set_public_key(&self, key: Vec<u8>) {
        self.state.lock().public_key = Some(key);
    }

    /// The key that assertions are signed for with; `None`: the client has shown none.
    pub fn public_key(&self) -> Option<Vec<u8>> {
        self.state.lock().public_key.clone()
    }

    pub fn set_rotation(&self, on: bool) {
        self.state.lock().rotate_refresh = on;
    }

    pub fn state(&self) -> State {
        self.state.lock().clone()
    }
}

impl State {
    fn fresh(&mut self, vendor: &str, kind: &str) -> String {
        self.issued += 1;
        format!("{vendor}-{kind}-{}-{:08x}", self.issued, fastrand::u32(..))
    }
}

fn initial(defaults: &Defaults) -> State {
    State {
        access: BTreeMap::from([(defaults.access.to_owned(), None)]),
        refresh: BTreeSet::from([defaults.refresh.to_owned()]),
        client_id: defaults.client_id.to_owned(),
        client_secret: defaults.client_secret.to_owned(),
        lifetime_s: defaults.lifetime_s,
        rotate_refresh: false,
        public_key: None,
        issued: 0,
    }
}
