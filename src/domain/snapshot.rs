//! A record's fields as one canonical JSON object, and its BLAKE3 hash. Fields without a value are
//! left out, since null and missing mean the same.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::Value;
use crate::canonical::{hashed, write_object};

pub type Fields = BTreeMap<String, Value>;

fn present(fields: &Fields) -> impl Iterator<Item = (&String, &Value)> {
    fields.iter().filter(|(_, value)| !value.is_null())
}

pub fn json(fields: &Fields) -> Json {
    present(fields)
        .map(|(name, value)| (name.clone(), value.to_json()))
        .collect()
}

/// The BLAKE3 of [`json`].
pub fn hash(fields: &Fields) -> blake3::Hash {
    hashed(|sink| {
        write_object(sink, present(fields), |out, value| {
            value.write_canonical(out)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_no_fields_is_that_of_an_empty_object() {
        assert_eq!(hash(&Fields::new()), blake3::hash(b"{}"));
    }
}
