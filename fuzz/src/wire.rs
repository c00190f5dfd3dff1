//! Values in every vendor's form, there and back.
//!
//! The first byte picks the type, the rest is what a CRM answered as JSON, or else the text in a
//! JSON string.

use crm_domain::DataType;
use crm_provider::providers;
use serde_json::Value as Json;

use crate::canonical::of_value;

pub fn check(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else {
        return;
    };
    let data_type = DataType::ALL[usize::from(first) % DataType::ALL.len()];
    let text = String::from_utf8_lossy(rest);
    let told = serde_json::from_str(&text).unwrap_or_else(|_| Json::from(&*text));
    for provider in providers() {
        let Ok(value) = provider.from_wire(data_type, &told) else {
            continue;
        };
        of_value(data_type, &value);
        let stored = provider.stored(data_type, value);
        of_value(data_type, &stored);
        // What the CRM holds already is not altered by being written again.
        assert_eq!(provider.stored(data_type, stored.clone()), stored);
        let wire = provider.to_wire(data_type, &stored);
        let read = provider.from_wire(data_type, &wire);
        let name = provider.name();
        assert_eq!(read.as_ref(), Ok(&stored), "{name}, {data_type}: {wire}");
        assert_eq!(read.map(|value| value.hash()), Ok(stored.hash()));
        // The wire is bytes: numbers and texts survive being written and parsed.
        assert_eq!(
            serde_json::from_str::<Json>(&wire.to_string()).ok(),
            Some(wire)
        );
    }
}
