//! How a map's table gives new rows their keys, as the catalog has it.

use pgrx::spi::SpiClient;

use crate::store::config::map::Map;
use crate::store::error::StoreError;
use crate::store::ingest::key_sequence::Sequence;
use crate::store::row::{self, Columns};
use crate::store::statement::Cached;

/// How a map's table gives a new row its key.
pub struct KeySource {
    /// The key column has a default, or is an identity.
    pub by_default: bool,
    /// It can hold any text.
    pub is_text: bool,
    /// Columns that cannot be set, or are not to be: the key alone may say of itself what it is.
    pub generated: Vec<String>,
    /// Where the default comes from.
    pub sequence: Option<Sequence>,
}

pub fn key_source(client: &SpiClient, map: &Map) -> Result<KeySource, StoreError> {
    let rows = client.select(
        Cached(
            "SELECT bool_or((a.atthasdef OR a.attidentity <> '') AND a.attname = $2) AS by_default, bool_or(t.typcategory = 'S' AND a.attname = $2) AS is_text,
                    coalesce(array_agg(a.attname::text) FILTER (WHERE a.attgenerated <> '' OR a.attidentity = 'a' AND a.attname <> $2), '{}') AS generated
             FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
             WHERE a.attrelid = (SELECT m.relation FROM crm.object_map m WHERE m.map_id = $1) AND a.attnum > 0 AND NOT a.attisdropped",
        ),
        None,
        &[map.id.into(), map.key.name.as_str().into()],
    )?;
    let row = row::only(rows)?;
    Ok(KeySource {
        by_default: row.optional("by_default")?.unwrap_or_default(),
        is_text: row.optional("is_text")?.unwrap_or_default(),
        generated: row.required("generated")?,
        sequence: sequence(client, map)?,
    })
}

/// The one that an identity has, or that the default of the key column draws from.
fn sequence(client: &SpiClient, map: &Map) -> Result<Option<Sequence>, StoreError> {
    let mut rows = client.select(
        Cached(
            "SELECT s.seqrelid, s.seqstart, s.seqincrement, CASE WHEN s.seqincrement > 0 THEN s.seqmax ELSE s.seqmin END AS seqend
             FROM crm.object_map m JOIN pg_attribute a ON a.attrelid = m.relation AND a.attname = $2
             CROSS JOIN LATERAL (
                 SELECT d.objid FROM pg_depend d
                 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid
                   AND d.refobjsubid = a.attnum AND d.deptype = 'i'
                 UNION ALL
                 SELECT d.refobjid FROM pg_attrdef f JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
                 WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum AND d.refclassid = 'pg_class'::regclass) AS named (oid)
             JOIN pg_sequence s ON s.seqrelid = named.oid
             WHERE m.map_id = $1 AND NOT s.seqcycle",
        ),
        None,
        &[map.id.into(), map.key.name.as_str().into()],
    )?;
    let Some(row) = rows.next() else {
        return Ok(None);
    };
    Ok(Some(Sequence {
        oid: row.required("seqrelid")?,
        start: row.required("seqstart")?,
        increment: row.required("seqincrement")?,
        end: row.required("seqend")?,
    }))
}
