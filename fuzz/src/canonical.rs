//! Values and their one spelling, from any JSON.
//!
//! The input is JSON, or else it is the text in a JSON string.

use crm_domain::{DataType, Value, canonical};
use serde_json::Value as Json;

pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let json = serde_json::from_str(&text).unwrap_or_else(|_| Json::from(&*text));
    of_json(&json);
    for data_type in DataType::ALL {
        for value in [
            Value::from_json(data_type, &json),
            Value::from_postgres(data_type, Some(&text)),
        ] {
            match value {
                Ok(value) => of_value(data_type, &value),
                Err(error) => assert!(error.to_string().chars().count() < 500),
            }
        }
    }
}

/// Canonical text is a fixed point, tells all that the JSON holds, and is what the hash is of.
fn of_json(json: &Json) {
    let text = canonical::text(json);
    let read: Json = serde_json::from_str(&text).expect("canonical text is JSON");
    assert_eq!(canonical::text(&read), text);
    let mut normal = json.clone();
    canonical::normalise(&mut normal);
    assert_eq!(read, normal);
    assert_eq!(canonical::hash(json), blake3::hash(text.as_bytes()));
    assert_eq!(canonical::hash(&read), canonical::hash(json));
}

/// A value comes back from its own JSON, its text and its bytes as it was, with the same hash.
pub(crate) fn of_value(data_type: DataType, value: &Value) {
    let json = value.to_json();
    assert_eq!(Value::from_json(data_type, &json).as_ref(), Ok(value));
    let told = value.to_text();
    assert_eq!(
        Value::from_postgres(data_type, told.as_deref()).as_ref(),
        Ok(value)
    );
    assert_eq!(value.hash(), canonical::hash(&json));
    let mut bytes = Vec::new();
    assert_eq!(value.append_canonical(&mut bytes), value.hash());
    assert_eq!(String::from_utf8_lossy(&bytes), canonical::text(&json));
}
