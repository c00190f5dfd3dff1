//! The results of operations.

use std::time::Duration;

use crm_domain::budget::Used;
use serde_json::{Map, Value as Json};

use crate::record::WriteRecord;

/// A record that the CRM took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub crm_id: String,
    pub created: bool,
    /// It was there, and was left as it is.
    pub found: bool,
    /// What the answer shows of the fields that were written, by name, in the vendor's own form.
    pub shown: Map<String, Json>,
}

impl Written {
    pub fn saved(crm_id: String, created: bool) -> Written {
        Written {
            crm_id,
            created,
            found: false,
            shown: Map::new(),
        }
    }

    /// The same with what the answer shows of these fields. What is not there, empty or damaged
    /// tells nothing.
    pub(crate) fn showing<'a>(
        self,
        record: &WriteRecord,
        held: impl Fn(&str) -> Option<&'a Json>,
    ) -> Written {
        let names = record.fields.iter().map(|(field, _)| &field.name);
        let shown = names.filter_map(|name| Some((name.clone(), held(name)?.clone())));
        let is_told = |value: &Json| !value.is_null() && !is_damaged(value);
        Written {
            shown: shown.filter(|(_, value)| is_told(value)).collect(),
            ..self
        }
    }

    pub fn found(crm_id: String) -> Written {
        Written {
            crm_id,
            created: false,
            found: true,
            shown: Map::new(),
        }
    }
}

/// Whether there are characters in it that could not be read.
fn is_damaged(value: &Json) -> bool {
    match value {
        Json::String(text) => text.contains('\u{fffd}'),
        Json::Array(items) => items.iter().any(is_damaged),
        Json::Object(members) => members.values().any(is_damaged),
        _ => false,
    }
}

/// An access token, as a token endpoint granted it.
#[derive(Clone)]
pub struct Grant {
    pub access_token: String,
    /// Where the API lives from now on, if the vendor says so (Salesforce `instance_url`).
    pub base_url: Option<String>,
    /// A new refresh token, if the vendor rotates them.
    pub refresh_token: Option<String>,
    pub expires_in: Option<Duration>,
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant")
            .field("base_url", &self.base_url)
            .finish_non_exhaustive()
    }
}

/// The request budget as the last response told it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Requests allowed in the vendor's day.
    pub daily_limit: Option<u64>,
    pub daily_remaining: Option<u64>,
    /// Requests left in the short window, of how many, and how long that window is.
    pub window_remaining: Option<u64>,
    pub window_limit: Option<u64>,
    pub window: Option<Duration>,
}

/// What was told of request budgets lately, and by whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageReport {
    pub crm: Usage,
    /// By who carries requests to it.
    pub broker: Usage,
    /// By our own count, where the admin bounds it.
    pub used: Option<Used>,
}
