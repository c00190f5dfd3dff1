//! JSON from outside, before it is parsed.
//!
//! Guarantee: what is parsed takes memory in proportion to what a CRM has to say. `[0,0,0,…]` and
//! `[{"":0},…]` grow by 30 to 100 times as they become values; the recursion limit of the parser
//! bounds only how deep they are nested.

use serde::de::{DeserializeOwned, Error};

/// Memory that the values of one answer may take, beside their texts: a page of 2,000 records with
/// 400 fields takes three quarters of it.
const MOST: usize = 96 << 20;
/// About what an object, and what any other value takes.
const OBJECT: usize = 640;
const VALUE: usize = 96;

/// Whether a body can be parsed in memory that is no more than an answer is worth. What is no JSON
/// can.
pub fn is_in_proportion(body: &[u8]) -> bool {
    // Whatever it holds.
    if body.len() <= MOST / OBJECT {
        return true;
    }
    let first = body.iter().find(|b| !b.is_ascii_whitespace());
    if !matches!(first, Some(b'{' | b'[')) {
        return true;
    }
    let (mut taken, mut rest) = (0usize, body);
    while let Some((&byte, after)) = rest.split_first() {
        rest = match byte {
            b'"' => after_text(after),
            b'{' => {
                taken += OBJECT;
                after
            }
            b',' | b'[' => {
                taken += VALUE;
                after
            }
            _ => after,
        };
        if taken > MOST {
            return false;
        }
    }
    true
}

/// What follows a text that has begun.
fn after_text(mut rest: &[u8]) -> &[u8] {
    while let Some((&byte, after)) = rest.split_first() {
        rest = match byte {
            b'"' => return after,
            b'\\' => after.get(1..).unwrap_or_default(),
            _ => after,
        };
    }
    rest
}

/// Parses JSON that came inside of something else: a broker's answer holds a CRM's, which nobody
/// has looked at.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    if !is_in_proportion(body) {
        return Err(serde_json::Error::custom("more values than an answer has"));
    }
    serde_json::from_slice(body)
}

/// The JSON value that a sentence ends in, from there on.
pub(crate) fn in_sentence(text: &str) -> Option<serde_json::Value> {
    // A sentence of that length is none.
    let text = &text[..text.floor_char_boundary(MOST / OBJECT)];
    serde_json::Deserializer::from_str(text)
        .into_iter()
        .next()?
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_crms_pass_and_bombs_do_not() {
        let record = |n: usize| {
            format!(
                "{{\"id\":\"{n}\",\"text\":\"{},[{{\\\"\"}}",
                "a,b".repeat(2000)
            )
        };
        let page: Vec<String> = (0..5000).map(record).collect();
        let page = format!("[{}]", page.join(","));
        assert!(page.len() > 20 << 20 && is_in_proportion(page.as_bytes()));
        for bomb in ["0,", "{\"\":0},", "[],", "\"\","] {
            let bomb = format!(" [{}0]", bomb.repeat(2_000_000));
            assert!(!is_in_proportion(bomb.as_bytes()), "{}", &bomb[..12]);
            assert!(parse::<serde_json::Value>(bomb.as_bytes()).is_err());
        }
        for odd in [&b"x"[..], b"", b"\"", b"[\"\\", b"{\"a\\\"\":1}"] {
            assert!(is_in_proportion(odd));
            assert!(is_in_proportion(&odd.repeat(200_000)[..odd.len()]));
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = [b"[".repeat(10_000), b"]".repeat(10_000)].concat();
        assert!(is_in_proportion(&deep));
        assert!(parse::<serde_json::Value>(&deep).is_err());
    }
}
