//! The rule of the fuse, for SQL that tells what would happen.

use pgrx::prelude::*;

use crm_domain::fuse::Counts;

use crate::settings::Settings;

/// The number of records that may be written of a map with so many linked ones, if these are more.
#[pg_extern(stable, parallel_safe, schema = "crm_internal")]
fn exceeded_limit(deletes: i64, clears: i64, creates: i64, linked: Option<i64>) -> Option<i64> {
    let fuse = Settings::current().fuse;
    let counts = Counts {
        deletes,
        clears,
        creates,
    };
    let linked = linked.unwrap_or_default();
    let counted = fuse.exemption(&counts, linked).counted(counts);
    let is_held = fuse.depends_on_records(&counted) && fuse.holds(&counted, linked);
    is_held.then(|| fuse.limit(linked))
}

extension_sql!(
    "COMMENT ON FUNCTION crm_internal.exceeded_limit(bigint, bigint, bigint, bigint) IS 'how many records of a map with so many linked ones the fuse lets through, if deleting, clearing and creating these is more; NULL: it is not';",
    name = "fuse_rule_comments",
    requires = [exceeded_limit]
);
