//! Paths, headers and ids: what every Salesforce request shares.

use std::fmt::Display;

use serde_json::Value as Json;

use super::options::WriteHeaders;
use crate::{Method, Request, Settings};

/// Spring '26, the newest release that production orgs all have.
const DEFAULT_VERSION: &str = "v66.0";

/// The REST API in one version, which is part of every path.
#[derive(Clone)]
pub(super) struct Api {
    version: String,
    headers: WriteHeaders,
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
            headers: WriteHeaders::of(&settings.options),
        }
    }

    /// A request for what lies below `/services/data/vXX.X`.
    pub fn request(&self, method: Method, path: impl Display) -> Request {
        Request::new(method, format!("/services/data/{}{path}", self.version))
    }

    /// A request that writes records.
    pub fn write(&self, method: Method, path: impl Display) -> Request {
        self.headers.on(self.request(method, path))
    }
}

/// Names us as the origin of a change in Salesforce's change events, so that an echo can be told.
/// Rows and Bulk API 2.0 honour it; collections do not have it (REST API Developer Guide, "Call
/// Options Header").
pub(super) fn named(request: Request) -> Request {
    request.header("sforce-call-options", "client=pg_crm")
}

/// Whether a key may stand in a path: Salesforce takes what follows a dot for a file extension
/// (`a@b.inc` is answered 404), and servers on the way decode and fold slashes and semicolons.
pub(super) fn is_path_safe(key: &str) -> bool {
    !key.chars()
        .any(|c| matches!(c, '.' | '/' | '\\' | ';' | '%') || c.is_control())
}

/// The form in which ids compare: the 15 characters that both spellings begin with. The other three
/// of the long spelling are a checksum.
pub(super) fn id_form(id: &str) -> &str {
    id.get(..15).filter(|_| id.len() == 18).unwrap_or(id)
}

/// The last three characters of an id: which of five letters are capital.
const SUFFIXES: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ012345";

/// The long spelling of an id: what follows the 15 characters says which of them are capitals, five
/// by five, so that systems that know no case tell ids apart.
///
/// One of 18 characters is known to Salesforce in any case: the last three say which letters of the
/// others are capital.
pub(super) fn long_id(id: &str) -> String {
    if let Some(id) = recased(id) {
        return id;
    }
    if id.len() != 15 || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return id.to_owned();
    }
    let mut long = id.to_owned();
    for five in id.as_bytes().chunks(5) {
        let bits = five.iter().enumerate();
        let number: usize = bits
            .map(|(n, b)| usize::from(b.is_ascii_uppercase()) << n)
            .sum();
        long.push(SUFFIXES[number].into());
    }
    long
}

/// An id of 18 characters in the case that its last three tell; `None`: it is none.
fn recased(id: &str) -> Option<String> {
    let (letters, told) = id.split_at_checked(15)?;
    if told.len() != 3 || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let told = told.to_ascii_uppercase();
    let mut recased = String::with_capacity(18);
    for (five, told) in letters.as_bytes().chunks(5).zip(told.bytes()) {
        let bits = SUFFIXES.iter().position(|suffix| *suffix == told)?;
        for (n, letter) in five.iter().enumerate() {
            recased.push(match bits >> n & 1 {
                1 if !letter.is_ascii_alphabetic() => return None,
                1 => letter.to_ascii_uppercase().into(),
                _ => letter.to_ascii_lowercase().into(),
            });
        }
    }
    Some(recased + &told)
}

pub(super) fn whole_key(key: &str) -> &str {
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_long_spelling() {
        assert_eq!(long_id("a0D30000001n7Pi"), "a0D30000001n7PiEAI");
        for id in ["003Hs0000000003", "001aaaaaaaaaaaa", "001AAAAAAAAAAAA"] {
            let long = long_id(id);
            assert_eq!((long.len(), id_form(&long)), (18, id));
            assert_eq!(long_id(&long), long);
            assert_eq!(long_id(&long.to_lowercase()), long);
            assert_eq!(long_id(&long.to_uppercase()), long);
        }
        assert_eq!(long_id("001aaaaaaaaaaaa"), "001aaaaaaaaaaaaAAA");
        assert_eq!(long_id("001AAAAAAAAAAAA"), "001AAAAAAAAAAAAY55");
        assert_eq!(long_id("not an id"), "not an id");
    }
}
