//! Records with a write in flight, as components report them to the main loop.

use std::collections::HashSet;

/// Records of one map with a write in flight, or with a result that is not stored yet.
#[derive(Default)]
pub struct RecordsInFlight {
    /// By shard_key and record_key.
    pub keys: HashSet<(String, String)>,
    /// Those with a write in flight, as far as they have ids: what is read of them now could not be
    /// compared.
    pub crm_ids: HashSet<String>,
}

impl RecordsInFlight {
    pub fn add(&mut self, shard_key: &str, record_key: &str) {
        self.keys
            .insert((shard_key.to_owned(), record_key.to_owned()));
    }
}
