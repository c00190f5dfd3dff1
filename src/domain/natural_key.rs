//! The key that a row and a CRM record of the same thing have in common: an e-mail address, a name
//! and a date of birth.
//!
//! Guarantees: values that are equal have one key, and texts that differ only in case or in what is
//! blank around them too; where something is empty there is no key, since nothing in common is no
//! reason to match.

use serde_json::Value as Json;

use crate::key::folded;
use crate::value::is_blank;

/// The key of a list of canonical values; `None`: one of them is empty.
pub fn of(values: &[Json]) -> Option<String> {
    let parts: Option<Vec<Json>> = values.iter().map(part).collect();
    let parts = parts.filter(|parts| !parts.is_empty())?;
    Some(Json::Array(parts).to_string())
}

fn part(value: &Json) -> Option<Json> {
    match value {
        Json::Null => None,
        Json::String(text) if text.chars().all(is_blank) => None,
        Json::String(text) => Some(folded(text).into()),
        Json::Array(items) if items.is_empty() => None,
        Json::Array(items) => items
            .iter()
            .map(part)
            .collect::<Option<Vec<Json>>>()
            .map(Json::Array),
        other => Some(other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key(values: Json) -> Option<String> {
        of(values.as_array().expect("a list"))
    }

    #[test]
    fn case_and_outer_blanks_do_not_count() {
        assert_eq!(
            key(json!([" Ada@X.test\t", 100])),
            key(json!(["ada@x.TEST", 100]))
        );
        assert_ne!(key(json!(["a b"])), key(json!(["ab"])));
        // No value runs into the next one.
        assert_ne!(key(json!(["a", "b,c"])), key(json!(["a,b", "c"])));
        assert_ne!(key(json!(["1"])), key(json!([1])));
    }

    #[test]
    fn what_is_empty_matches_nothing() {
        for values in [
            json!([]),
            json!([null]),
            json!(["a", " "]),
            json!(["a", []]),
        ] {
            assert_eq!(key(values.clone()), None, "{values}");
        }
    }
}
