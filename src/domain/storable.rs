//! JSON made acceptable to PostgreSQL's `jsonb`, whatever it contains.
//!
//! JSON may contain what `jsonb` rejects: the character NUL, a number beyond `numeric`, a string of
//! more than 256 MB, too deep a nesting. A CRM accepts such a value, so it is sent; what is stored
//! of it is a note with its hash. Other texts, nearly all of them, are scanned once and passed on
//! unchanged.

use std::borrow::Cow;

use serde_json::{Value as Json, json};

use crate::canonical;
use crate::value::number::Number;

/// The longest string, and the longest array or object, that `jsonb` takes (its lengths have 28
/// bits).
const LONGEST: usize = (1 << 28) - 1;
/// Numbers are spelt in fewer bytes than that by anybody who means them.
const LONG_NUMBER: usize = 1000;
/// Brackets within brackets that serde_json reads; `jsonb` takes many more.
const DEPTH: usize = 127;
/// How deep the notes may lie: field -> what is said of it (`new`, `old`) -> value.
const ENTRIES: usize = 2;

/// The text of a JSON value, storable: what `jsonb` would refuse is replaced by `{"unstorable":
/// true, "hash": …}`. Of an object of objects, as audits are made of, the values inside are
/// replaced, each by itself.
pub fn storable(text: &str) -> Cow<'_, str> {
    if !is_suspicious(text) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(match serde_json::from_str::<Json>(text) {
        Ok(json) => replaced(json, ENTRIES).to_string(),
        Err(_) => note(blake3::hash(text.as_bytes())).to_string(),
    })
}

fn replaced(json: Json, depth: usize) -> Json {
    match json {
        Json::Object(entries)
            if depth > 0
                && entries.keys().all(|key| fits(key))
                && entries.values().any(|value| !is_storable(value)) =>
        {
            let entries = entries
                .into_iter()
                .map(|(key, value)| (key, replaced(value, depth - 1)));
            Json::Object(entries.collect())
        }
        json if is_storable(&json) => spelt(json),
        json => note(canonical::hash(&json)),
    }
}

fn note(hash: blake3::Hash) -> Json {
    json!({ "unstorable": true, "hash": hash.to_hex().as_str() })
}

fn is_storable(json: &Json) -> bool {
    match json {
        Json::Null | Json::Bool(_) => true,
        Json::Number(n) => n.as_str().parse::<Number>().is_ok(),
        Json::String(s) => fits(s),
        Json::Array(items) => items.iter().all(is_storable),
        Json::Object(entries) => entries.iter().all(|(k, v)| fits(k) && is_storable(v)),
    }
}

fn fits(text: &str) -> bool {
    text.len() <= LONGEST && !text.contains('\0')
}

/// Superfluous zeros alone can take a number beyond what `numeric` holds.
fn spelt(mut json: Json) -> Json {
    canonical::normalise(&mut json);
    json
}

/// Whether a look at the values is worth it: false for what `jsonb` surely takes.
fn is_suspicious(text: &str) -> bool {
    if text.len() > LONGEST {
        return true;
    }
    let bytes = text.as_bytes();
    let (mut i, mut depth) = (0, 0);
    while i < bytes.len() {
        match bytes[i] {
            b'"' => {
                i += 1;
                while i < bytes.len() && bytes[i] != b'"' {
                    if bytes[i] == b'\\' {
                        if bytes[i + 1..].starts_with(b"u0000") {
                            return true;
                        }
                        i += 1;
                    }
                    i += 1;
                }
            }
            b'[' | b'{' => {
                depth += 1;
                if depth > DEPTH {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'0'..=b'9' => {
                let rest = &bytes[i..];
                let is_part = |b: &u8| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
                let length = rest.iter().take_while(|b| is_part(b)).count();
                let number = &rest[..length];
                if length > LONG_NUMBER || number.contains(&b'e') || number.contains(&b'E') {
                    return true;
                }
                i += length - 1;
            }
            _ => {}
        }
        i += 1;
    }
    false
}

/// A text without NUL, which no text of PostgreSQL holds.
pub fn storable_text(text: &str) -> Cow<'_, str> {
    match text.contains('\0') {
        true => Cow::Owned(text.replace('\0', "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Json {
        serde_json::from_str(&storable(text)).expect("JSON")
    }

    #[test]
    fn what_jsonb_takes_is_left_as_it_is() {
        for text in [
            "{}",
            r#"{"a":{"new":"x\\u0000y","old":1.50}}"#,
            r#"{"a":{"new":"2e5","old":[1,-0.25,{"b":null}]}}"#,
            r#""\"\\""#,
            "12345678901234567890123456789012345678901234567890",
        ] {
            assert!(
                matches!(storable(text), Cow::Borrowed(same) if same == text),
                "{text}"
            );
        }
        // A long or scientific number is looked at, and stays.
        assert_eq!(
            parsed(r#"{"a":{"new":1e+300}}"#)["a"]["new"].to_string(),
            "1e+300"
        );
    }

    #[test]
    fn only_the_value_at_fault_is_left_out() {
        for bad in [
            r#"{"x":"a\u0000b"}"#,
            "[1e200000]",
            "1e-20000",
            r#"{"a\u0000":1}"#,
        ] {
            let text =
                format!(r#"{{"j":{{"new":{bad},"old_hash":"00"}},"name":{{"new":"kept"}}}}"#);
            let kept = parsed(&text);
            assert_eq!(kept["name"]["new"], "kept");
            assert_eq!(kept["j"]["old_hash"], "00");
            let value: Json = serde_json::from_str(bad).unwrap();
            let hash = canonical::hash(&value).to_hex();
            assert_eq!(
                kept["j"]["new"],
                json!({"unstorable": true, "hash": hash.as_str()})
            );
        }
    }

    #[test]
    fn zeros_that_say_nothing_go() {
        let zeros = "0".repeat(20_000);
        assert_eq!(storable(&format!("[1.5{zeros}]")), "[1.5]");
    }

    #[test]
    fn brackets_without_end_are_a_note() {
        let deep = format!("{{\"j\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(parsed(&deep)["unstorable"], true);
    }

    #[test]
    fn nonsense_is_a_note() {
        assert_eq!(parsed(r#"{"a": 1e5"#)["unstorable"], true);
    }
}
