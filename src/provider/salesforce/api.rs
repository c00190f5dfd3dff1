//! Paths, headers and ids: what every Salesforce request shares.

use std::fmt::Display;

use serde_json::Value as Json;

use crate::{Method, Request, Settings};

/// Spring '26, the newest release that production orgs all have.
const DEFAULT_VERSION: &str = "v66.0";

/// The REST API in one version, which is part of every path.
#[derive(Clone)]
pub(super) struct Api {
    version: String,
}

impl Api {
    /// The version is option `api_version`: `v66.0`, `66.0` or the number 66.0.
    pub fn new(settings: &Settings) -> Api {
        let version = match settings.options.get("api_version") {
            Some(Json::String(text)) => text.clone(),
            Some(Json::Number(number)) => number.to_string(),
            _ => DEFAULT_VERSION.to_owned(),
        };
        let digits = version.trim().trim_start_matches(['v', 'V']);
        Api {
            version: format!("v{}", crate::request::encode(digits)),
        }
    }

    /// A request for what lies below `/services/data/vXX.X`.
    pub fn request(&self, method: Method, path: impl Display) -> Request {
        Request::new(method, format!("/services/data/{}{path}", self.version))
    }
}

/// Names us as the origin of a change in Salesforce's change events, so that an echo can be told.
/// Rows and Bulk API 2.0 honour it; collections do not have it (REST API Developer Guide, "Call
/// Options Header").
pub(super) fn named(request: Request) -> Request {
    request.header("sforce-call-options", "client=pg_crm")
}

/// The form in which ids compare: the 15 characters that both spellings begin with. The other three
/// of the long spelling are a checksum.
pub(super) fn id_form(id: &str) -> &str {
    id.get(..15).filter(|_| id.len() == 18).unwrap_or(id)
}

pub(super) fn whole_key(key: &str) -> &str {
    key
}
