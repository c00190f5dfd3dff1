//! Values as the audit log stores them: a long one is truncated, and its length noted.

use serde_json::Value as Json;

use crate::{Value, canonical};

/// Longest value that the audit keeps whole, in bytes: what is longer is a document, and lies in
/// the table and in the CRM.
pub const BYTES: usize = 32 * 1024;

/// A value as JSON, cut if it is long.
pub fn of(value: &Value) -> Json {
    match value {
        Value::Text(text) if text.len() > BYTES => cut(text),
        Value::Text(_) => value.to_json(),
        Value::Json(json) => of_json(json),
        Value::MultiChoice(_) if value.size() > BYTES => cut(&canonical::text(&value.to_json())),
        _ => value.to_json(),
    }
}

/// The same of JSON.
pub fn of_json(json: &Json) -> Json {
    match json {
        Json::String(text) if text.len() > BYTES => cut(text),
        Json::Array(_) | Json::Object(_) | Json::Number(_) => {
            let text = json.to_string();
            if text.len() > BYTES {
                cut(&text)
            } else {
                json.clone()
            }
        }
        _ => json.clone(),
    }
}

/// Cuts the value that begins at `start` of a JSON text under construction, if it is long.
pub fn shorten(out: &mut Vec<u8>, start: usize, value: &Value) {
    if out.len() - start > BYTES {
        out.truncate(start);
        canonical::append_text(out, of(value).as_str().unwrap_or("…"));
    }
}

/// A value within a sentence: the beginning of its text.
pub fn brief(value: &Value) -> String {
    const CHARS: usize = 60;
    let text = value.to_text().unwrap_or_default();
    let kept: String = text.chars().take(CHARS).collect();
    let rest = if kept.len() < text.len() { "…" } else { "" };
    match value {
        Value::Number(_) => format!("{kept}{rest}"),
        _ => format!("'{kept}{rest}'"),
    }
}

fn cut(text: &str) -> Json {
    let kept = &text[..text.floor_char_boundary(BYTES / 8)];
    format!("{kept}… ({} bytes)", text.len()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DataType;

    #[test]
    fn what_is_long_is_cut_and_its_length_told() {
        let short = Value::text("hello");
        assert_eq!(of(&short), "hello");
        let long = "é".repeat(100_000);
        for value in [
            Value::text(&long),
            Value::from_json(DataType::Json, &Json::from(vec![long.clone()])).unwrap(),
            Value::multi_choice((0..10_000).map(|n| format!("word {n}"))),
        ] {
            let kept = of(&value);
            let kept = kept.as_str().expect("a text");
            assert!(kept.len() < 5000 && kept.ends_with(" bytes)"), "{kept}");
            let mut out = b"{\"new\":".to_vec();
            let start = out.len();
            value.append_canonical(&mut out);
            shorten(&mut out, start, &value);
            out.push(b'}');
            let entry: Json = serde_json::from_slice(&out).unwrap();
            assert_eq!(entry["new"], kept);
        }
        // Quotes double as they are escaped; the value itself is not long.
        let quotes = Value::text(&"\"".repeat(BYTES - 1));
        let mut out = Vec::new();
        quotes.append_canonical(&mut out);
        shorten(&mut out, 0, &quotes);
        assert!(serde_json::from_slice::<Json>(&out).is_ok());
    }
}
