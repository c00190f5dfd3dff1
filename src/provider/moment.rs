//! Moments in UTC milliseconds, as JSON `2026-01-02T03:04:05.678Z`: for `#[serde(with =
//! "moment")]`.

use crm_domain::Value;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::wire;

pub(crate) const SECOND: i64 = 1000;

pub fn text(ms: i64) -> String {
    Value::timestamp_ms(ms)
        .to_text()
        .unwrap_or_default()
        .into_owned()
}

pub fn serialize<S: Serializer>(ms: &Option<i64>, to: S) -> Result<S::Ok, S::Error> {
    ms.map(text).serialize(to)
}

pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    let json = Option::<serde_json::Value>::deserialize(from)?;
    json.map(|json| wire::moment(&json).ok_or_else(|| D::Error::custom("no moment")))
        .transpose()
}
