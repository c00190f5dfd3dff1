//! What a record is called in Postgres.

/// A record's keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub shard_key: String,
    pub record_key: String,
}
