//! The canonical text of a JSON value, and its BLAKE3 hash.
//!
//! Two JSON values have the same canonical text if and only if they are equal: objects are sorted
//! by key (in byte order), numbers are spelt one way whatever their scale or exponent, strings
//! carry only the escapes that JSON demands, and nothing is padded. JSON's own syntax keeps values
//! of different types apart (`1`, `"1"`, `[1]`). The hash is that of the canonical text, computed
//! without building it.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::Value as Json;

use crate::value::number;

/// The canonical text of a JSON value.
pub fn text(json: &Json) -> String {
    let mut out = Vec::new();
    infallible(write_json(&mut out, json));
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// The BLAKE3 of the canonical text of a JSON value.
pub fn hash(json: &Json) -> blake3::Hash {
    hashed(|sink| write_json(sink, json))
}

/// Appends a text as JSON.
pub fn append_text(out: &mut Vec<u8>, text: &str) {
    infallible(write_string(out, text));
}

/// Spells every number inside a JSON value canonically, so that `==` compares values.
pub fn normalise(json: &mut Json) {
    match json {
        Json::Number(n) => {
            if let Some(spelt) = number::canonical(n.as_str()).filter(|s| s != n.as_str()) {
                *n = number::to_json(&spelt);
            }
        }
        Json::Array(items) => items.iter_mut().for_each(normalise),
        Json::Object(entries) => entries.values_mut().for_each(normalise),
        Json::Null | Json::Bool(_) | Json::String(_) => {}
    }
}

pub(crate) fn write_json(out: &mut impl Write, json: &Json) -> io::Result<()> {
    match json {
        Json::Null => out.write_all(b"null"),
        Json::Bool(b) => write_bool(out, *b),
        Json::String(s) => write_string(out, s),
        // A number too long to normalise (its exponent alone has sixteen digits) is kept as it is
        // spelt.
        Json::Number(n) => match number::canonical(n.as_str()) {
            Some(spelt) => out.write_all(spelt.as_bytes()),
            None => out.write_all(n.as_str().as_bytes()),
        },
        Json::Array(items) => write_array(out, items, write_json),
        // serde_json keeps keys sorted unless some crate of the build asks it to keep their order.
        Json::Object(entries) if entries.keys().is_sorted() => {
            write_object(out, entries, write_json)
        }
        Json::Object(entries) => {
            let sorted: BTreeMap<_, _> = entries.iter().collect();
            write_object(out, sorted, |out, item| write_json(out, item))
        }
    }
}

pub(crate) fn write_bool(out: &mut impl Write, b: bool) -> io::Result<()> {
    out.write_all(if b { b"true" } else { b"false" })
}

/// serde_json escapes the quote, the backslash and the control characters, each in one way.
pub(crate) fn write_string(out: &mut impl Write, s: &str) -> io::Result<()> {
    Ok(serde_json::to_writer(out, s)?)
}

pub(crate) fn write_array<W: Write, T>(
    out: &mut W,
    items: impl IntoIterator<Item = T>,
    write_item: impl Fn(&mut W, T) -> io::Result<()>,
) -> io::Result<()> {
    out.write_all(b"[")?;
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.write_all(b",")?;
        }
        write_item(out, item)?;
    }
    out.write_all(b"]")
}

pub(crate) fn write_object<'a, W: Write, T: 'a>(
    out: &mut W,
    entries: impl IntoIterator<Item = (&'a String, &'a T)>,
    write_item: impl Fn(&mut W, &T) -> io::Result<()>,
) -> io::Result<()> {
    out.write_all(b"{")?;
    for (i, (key, item)) in entries.into_iter().enumerate() {
        if i > 0 {
            out.write_all(b",")?;
        }
        write_string(out, key)?;
        out.write_all(b":")?;
        write_item(out, item)?;
    }
    out.write_all(b"}")
}

/// The BLAKE3 of what is written.
pub(crate) fn hashed(write: impl FnOnce(&mut HashSink) -> io::Result<()>) -> blake3::Hash {
    let mut sink = HashSink {
        buffer: [0; 256],
        used: 0,
        spilt: None,
    };
    infallible(write(&mut sink));
    sink.finish()
}

/// Memory takes whatever is written to it.
pub(crate) fn infallible(written: io::Result<()>) {
    written.expect("writing to memory does not fail");
}

/// Collects what is written and hashes it. Most values fit the buffer, and hashing it in one go
/// costs a fraction of setting up an incremental hasher.
pub(crate) struct HashSink {
    buffer: [u8; 256],
    used: usize,
    spilt: Option<blake3::Hasher>,
}

impl HashSink {
    fn finish(self) -> blake3::Hash {
        let rest = &self.buffer[..self.used];
        match self.spilt {
            None => blake3::hash(rest),
            Some(mut hasher) => hasher.update(rest).finalize(),
        }
    }
}

impl Write for HashSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.buffer.len() - self.used {
            let hasher = self.spilt.get_or_insert_with(blake3::Hasher::new);
            hasher.update(&self.buffer[..self.used]);
            self.used = 0;
            if bytes.len() > self.buffer.len() {
                hasher.update(bytes);
                return Ok(bytes.len());
            }
        }
        self.buffer[self.used..][..bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Json {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn text_has_sorted_keys_plain_numbers_and_few_escapes() {
        let json =
            read(r#"{"b": [1.0, 1e2, -0.0], "a": {"\u00e9": "\u0041\/\u001f\n\"\\"}, "": null}"#);
        assert_eq!(
            text(&json),
            r#"{"":null,"a":{"é":"A/\u001f\n\"\\"},"b":[1,100,0]}"#
        );
    }

    #[test]
    fn hashes_are_those_of_blake3() {
        // Fixed for ever: ledgers hold them.
        assert_eq!(hash(&Json::Null), blake3::hash(b"null"));
        assert_eq!(hash(&read("100.0")), blake3::hash(b"100"));
        assert_eq!(hash(&read(r#""100""#)), blake3::hash(br#""100""#));
    }

    #[test]
    fn numbers_of_any_size_are_spelt_without_expanding_them() {
        assert_eq!(text(&read("10e999999999")), "1e+1000000000");
        assert_eq!(text(&read("-0.1E-999999999")), "-1e-1000000000");
        let beyond = "1e+99999999999999999999";
        assert_eq!(text(&read(beyond)), beyond);
    }
}
