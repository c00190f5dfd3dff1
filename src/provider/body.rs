//! The JSON of answers, read so that a damaged record affects no other.
//!
//! Guarantees: a well-formed answer is read in one pass. Of any other, each record is read by
//! itself; one that cannot be is marked, and what is left of it serves to tell which record it is
//! and nothing else. A half of a surrogate pair (`\ud83d`, legal JSON and no text), bytes that are
//! no UTF-8 and nesting without end are such troubles. A control character that should have been
//! escaped is none: what it means is plain.

use std::collections::HashMap;
use std::fmt::Write;

use crm_domain::Failure;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::Response;
use crate::errors::unreadable_record;

/// A record in an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Item {
    /// With trouble: without what cannot be read, and with U+FFFD for characters that are none.
    pub json: Json,
    /// Why its values are not to be trusted.
    pub damage: Option<Failure>,
}

impl Item {
    /// A `null` in the place of a record.
    pub fn is_nothing(&self) -> bool {
        self.json.is_null() && self.damage.is_none()
    }
}

/// An object that holds a list of records, and the rest of it.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub items: Vec<Item>,
    pub rest: Json,
}

impl From<Json> for Item {
    fn from(json: Json) -> Item {
        Item { json, damage: None }
    }
}

impl Response {
    /// The whole body, for answers that hold no record's values: what is no character is U+FFFD.
    pub fn json(&self) -> Option<Json> {
        read(self.json_bytes())
    }

    /// A list of records under a name; `None`: there is none.
    pub(crate) fn list(&self, name: &str) -> Option<Listed> {
        let body = self.json_bytes();
        if let Ok(mut rest) = serde_json::from_slice::<Json>(body) {
            return match rest.get_mut(name)?.take() {
                Json::Array(items) => Some(Listed {
                    items: items.into_iter().map(Item::from).collect(),
                    rest,
                }),
                _ => None,
            };
        }
        let text = with_escapes(body);
        let mut members: HashMap<String, &RawValue> = serde_json::from_str(&text).ok()?;
        let items = items(members.remove(name)?.get())?;
        Some(Listed {
            items,
            rest: members.into_iter().map(member).collect(),
        })
    }

    /// A list of records that is the whole body.
    pub(crate) fn array(&self) -> Option<Vec<Item>> {
        let body = self.json_bytes();
        match serde_json::from_slice(body) {
            Ok(Json::Array(items)) => Some(items.into_iter().map(Item::from).collect()),
            Ok(_) => None,
            Err(_) => items(&with_escapes(body)),
        }
    }

    /// A record that is the whole body.
    pub(crate) fn item(&self) -> Option<Item> {
        let body = self.json_bytes();
        let item = match serde_json::from_slice::<Json>(body) {
            Ok(json) => Item::from(json),
            Err(_) => {
                let text = with_escapes(body);
                let raw: &RawValue = serde_json::from_str(&text).ok()?;
                item(raw.get())
            }
        };
        item.json.is_object().then_some(item)
    }

    /// A record under a name.
    pub(crate) fn item_at(&self, name: &str) -> Option<Item> {
        let body = self.json_bytes();
        let item = match serde_json::from_slice::<Json>(body) {
            Ok(mut json) => Item::from(json.get_mut(name)?.take()),
            Err(_) => {
                let text = with_escapes(body);
                let members: HashMap<String, &RawValue> = serde_json::from_str(&text).ok()?;
                item(members.get(name)?.get())
            }
        };
        item.json.is_object().then_some(item)
    }

    /// What stands under a name, as it is written there.
    pub(crate) fn raw_at(&self, name: &str) -> Option<String> {
        let text = with_escapes(self.json_bytes());
        let members: HashMap<String, &RawValue> = serde_json::from_str(&text).ok()?;
        Some((*members.get(name)?).get().to_owned())
    }

    /// The body without the mark that some begin with; nothing, if it would take more memory than
    /// an answer is worth.
    fn json_bytes(&self) -> &[u8] {
        let bare = self.body.strip_prefix(b"\xef\xbb\xbf");
        let bare = bare.unwrap_or(&self.body);
        match crate::json::is_in_proportion(bare) {
            true => bare,
            false => b"",
        }
    }
}

/// JSON of which the records' values do not matter: what is no character is U+FFFD.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    serde_json::from_slice(body)
        .or_else(|_| serde_json::from_str(&with_replacements(&with_escapes(body))))
        .ok()
}

/// The text that a string of JSON spells; what is no character is U+FFFD.
pub(crate) fn text_of(string: &str) -> String {
    serde_json::from_str(&with_replacements(string)).unwrap_or_default()
}

fn items(text: &str) -> Option<Vec<Item>> {
    let raw: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    Some(raw.into_iter().map(|raw| item(raw.get())).collect())
}

fn item(text: &str) -> Item {
    let error = match serde_json::from_str(text) {
        Ok(json) => {
            return Item { json, damage: None };
        }
        Err(error) => error,
    };
    let text = with_replacements(text);
    let members = serde_json::from_str::<HashMap<String, &RawValue>>(&text);
    Item {
        // Member by member, so that one of them does not hide the record's id.
        json: match members {
            Ok(members) => members.into_iter().map(member).collect(),
            Err(_) => serde_json::from_str(&text).unwrap_or_default(),
        },
        damage: Some(unreadable_record(why(&error))),
    }
}

fn member((name, raw): (String, &RawValue)) -> (String, Json) {
    let text = raw.get();
    let json = serde_json::from_str(text);
    let json = json.or_else(|_| serde_json::from_str(&with_replacements(text)));
    (name, json.unwrap_or_default())
}

/// The parser's words without the place, which is one in the record alone.
fn why(error: &serde_json::Error) -> String {
    let words = error.to_string();
    match words.rsplit_once(" at line ") {
        Some((words, _)) => words.to_owned(),
        None => words,
    }
}

/// A body as text whose strings are well-formed, if anything can make them so. A byte that is no
/// UTF-8 becomes the half of a surrogate pair, so that its record alone cannot be read.
fn with_escapes(body: &[u8]) -> String {
    let mut text = String::with_capacity(body.len() + 64);
    let (mut within, mut escaped) = (false, false);
    for chunk in body.utf8_chunks() {
        for c in chunk.valid().chars() {
            if within && c < ' ' {
                // A backslash before it escapes nothing.
                text.push_str(if escaped { "\\" } else { "" });
                let _ = write!(text, "\\u{:04x}", u32::from(c));
                escaped = false;
                continue;
            }
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = within,
                '"' => within = !within,
                _ => {}
            }
            text.push(c);
        }
        for byte in chunk.invalid() {
            text.push_str(if escaped { "\\" } else { "" });
            let _ = write!(text, "\\udc{byte:02x}");
            escaped = false;
        }
    }
    text
}

/// JSON text with U+FFFD for each half of a surrogate pair.
fn with_replacements(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let unit = |text: &str| u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok();
        let taken = match unit(rest) {
            Some(0xd800..0xdc00) => match rest.get(6..).and_then(unit) {
                Some(0xdc00..0xe000) => 12,
                _ => 0,
            },
            Some(0xdc00..0xe000) => 0,
            Some(_) => 6,
            // The escaped character is one byte, or else no JSON.
            None => rest.char_indices().nth(2).map_or(rest.len(), |(at, _)| at),
        };
        match taken {
            0 => {
                out.push_str("\\ufffd");
                rest = &rest[6..];
            }
            taken => {
                out.push_str(&rest[..taken]);
                rest = &rest[taken..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn response(body: &[u8]) -> Response {
        Response {
            status: 200,
            body: body.to_vec(),
            ..Response::default()
        }
    }

    fn shown(items: &[Item]) -> Vec<(&Json, bool)> {
        let marked = items.iter().map(|item| (&item.json, item.damage.is_some()));
        marked.collect()
    }

    #[test]
    fn what_is_wrong_with_a_record_is_its_own_trouble() {
        let deep = format!("{{\"id\":3,\"v\":{}{}}}", "[".repeat(500), "]".repeat(500));
        for (bad, left) in [
            (
                &br#"{"id":3,"v":"half \ud83d"}"#[..],
                json!({"id": 3, "v": "half \u{fffd}"}),
            ),
            (
                br#"{"id":3,"v":"\ude00\ud83d"}"#,
                json!({"id": 3, "v": "\u{fffd}\u{fffd}"}),
            ),
            (
                br#"{"id":3,"v":"\ud83d\n\ud83d\ud83d\ude00"}"#,
                json!({"id": 3, "v": "\u{fffd}\n\u{fffd}😀"}),
            ),
            (br#"{"id":3,"v\ud83d":1}"#, json!({"id": 3, "v\u{fffd}": 1})),
            (
                br#"{"id":3,"v":{"w":["\ud83d"]}}"#,
                json!({"id": 3, "v": {"w": ["\u{fffd}"]}}),
            ),
            (
                b"{\"id\":3,\"v\":\"\xff\xfe\"}",
                json!({"id": 3, "v": "\u{fffd}\u{fffd}"}),
            ),
            (
                b"{\"id\":3,\"v\":\"\\\xff\"}",
                json!({"id": 3, "v": "\\\u{fffd}"}),
            ),
            (deep.as_bytes(), json!({"id": 3, "v": null})),
        ] {
            let good = br#"{"id":1,"v":"\ud83d\ude00 \\ud83d"}"#;
            let list = [b"[", &good[..], b",", bad, b",", good, b"]"].concat();
            let body = [
                b"{\"n\":1,\"results\":",
                &list[..],
                b",\"paging\":{\"after\":\"2\"}}",
            ]
            .concat();
            let fine = json!({"id": 1, "v": "😀 \\ud83d"});
            let expected = vec![(&fine, false), (&left, true), (&fine, false)];
            let text = String::from_utf8_lossy(bad);
            let listed = response(&body).list("results").expect("a list");
            assert_eq!(shown(&listed.items), expected, "{text}");
            assert_eq!(listed.rest["paging"]["after"], "2");
            assert_eq!(
                shown(&response(&list).array().expect("a list")),
                expected,
                "{text}"
            );
            let one = [b"{\"data\":", bad, b"}"].concat();
            let items = [response(bad).item(), response(&one).item_at("data")].map(Option::unwrap);
            assert_eq!(shown(&items), vec![(&left, true), (&left, true)], "{text}");
        }
    }

    #[test]
    fn a_control_character_is_read_as_what_it_is() {
        let items = response(b"[{\"v\":\"a\tb\nc\"},{\"v\":\"\\\t\"}]")
            .array()
            .unwrap();
        assert_eq!(
            shown(&items),
            vec![
                (&json!({"v": "a\tb\nc"}), false),
                (&json!({"v": "\\\t"}), false)
            ]
        );
    }

    #[test]
    fn what_is_no_list_is_none() {
        for body in [
            "",
            "<html>",
            "[1",
            "{\"results\":[{]}",
            "{\"results\":{}}",
            "{\"results\":\"\\ud83d\"}",
            "3",
        ] {
            assert!(
                response(body.as_bytes()).list("results").is_none(),
                "{body}"
            );
            assert!(response(body.as_bytes()).array().is_none(), "{body}");
            assert!(
                response(body.as_bytes()).item_at("results").is_none() || body.contains("{}"),
                "{body}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_well_formed_is_read_the_same_either_way(texts in prop::collection::vec("\\PC{0,8}|[\\\\\"u\\x00-\\x1fd8]{0,8}", 0..4)) {
            let body = json!(texts.iter().map(|text| json!({"v": text})).collect::<Vec<_>>()).to_string();
            prop_assert_eq!(&with_escapes(body.as_bytes()), &body);
            prop_assert_eq!(&with_replacements(&body), &body);
        }

        #[test]
        fn no_bytes_are_too_bad(body in prop::collection::vec(any::<u8>(), 0..40)) {
            let quoted = [b"[\"", &body[..], b"\"]"].concat();
            for body in [&body, &quoted] {
                let _ = (response(body).array(), response(body).json(), response(body).item());
            }
        }
    }
}
