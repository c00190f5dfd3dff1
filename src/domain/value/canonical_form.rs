//! A value as canonical JSON, without making the JSON.

use std::io::{self, Write};

use super::Value;
use super::time::Utc;
use crate::canonical::{hashed, infallible, write_array, write_bool, write_json, write_string};

impl Value {
    /// The BLAKE3 of the canonical JSON form: `canonical::hash(&self.to_json())`.
    pub fn hash(&self) -> blake3::Hash {
        hashed(|sink| self.write_canonical(sink))
    }

    /// Appends the canonical JSON, and returns its hash.
    pub fn append_canonical(&self, out: &mut Vec<u8>) -> blake3::Hash {
        let start = out.len();
        infallible(self.write_canonical(out));
        blake3::hash(&out[start..])
    }

    /// Writes what `write_json(out, &self.to_json())` would.
    pub(crate) fn write_canonical(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Value::Null => out.write_all(b"null"),
            Value::Text(s) => write_string(out, s),
            Value::Number(n) => out.write_all(n.as_str().as_bytes()),
            Value::Boolean(b) => write_bool(out, *b),
            Value::Date(date) => write!(out, "\"{date}\""),
            Value::Timestamp(ms) => write!(out, "\"{}\"", Utc(*ms)),
            Value::MultiChoice(words) => {
                write_array(out, words, |out, word| write_string(out, word))
            }
            Value::Json(json) => write_json(out, json),
        }
    }
}
