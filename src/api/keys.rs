//! Keys as CRMs compare them.

use crm_domain::key;
use pgrx::prelude::*;

/// What a key has in common with those that a CRM may take for it; NULL: it is that itself, as
/// numbers and uuids are.
#[pg_extern(immutable, strict, parallel_safe, schema = "crm_internal")]
fn folded_key(record_key: &str) -> Option<String> {
    let folded = key::folded(record_key);
    (folded != record_key).then(|| folded.into_owned())
}

extension_sql!(
    r#"
COMMENT ON FUNCTION crm_internal.folded_key(text) IS 'a key in lower case and trimmed; NULL: it already is';

-- By a hash, for a key may be longer than an index takes; and only those of which a CRM may take others for the same. Where there are
-- shards, a key does not tell whose it is.
CREATE INDEX ledger_folded ON crm.ledger (map_id, hashtextextended(coalesce(crm_internal.folded_key(record_key), record_key), 0))
    WHERE crm_internal.folded_key(record_key) IS NOT NULL OR shard_key <> '';
CREATE INDEX carried_key_folded ON crm.mismatched_key (map_id, hashtextextended(coalesce(crm_internal.folded_key(external_id), external_id), 0));
"#,
    name = "keys_comments",
    requires = [folded_key]
);
