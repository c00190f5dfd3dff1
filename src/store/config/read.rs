//! The mapping, read from the catalog.

use std::sync::Arc;

use crm_domain::key::KeyEquality;
use crm_domain::mapping::{ConflictPolicy, Direction};
use crm_domain::{Column, DataType, FieldDescription};
use crm_provider::record::Field;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::store::config::key_column::KeyColumn;
use crate::store::config::{Map, MappedField};
use crate::store::error::StoreError;
use crate::store::statement::Cached;
use crate::store::statement::names::Names;

/// Holds a map's definition until the end of the transaction: whoever changes it waits, and then sees what was claimed by it.
pub fn hold(client: &mut SpiClient, map_id: i32) -> Result<(), StoreError> {
    client.update(
        "SELECT FROM crm.object_map WHERE map_id = $1 FOR SHARE",
        None,
        &[map_id.into()],
    )?;
    Ok(())
}

pub fn maps(client: &mut SpiClient) -> Result<Vec<Arc<Map>>, StoreError> {
    maps_of(client, None)
}

/// One map, without reading those of other tables.
pub fn map(client: &mut SpiClient, map_id: i32) -> Result<Option<Arc<Map>>, StoreError> {
    let relation = client
        .select(
            Cached("SELECT m.relation::oid FROM crm.object_map m WHERE m.map_id = $1"),
            None,
            &[map_id.into()],
        )?
        .next()
        .map_or(Ok(None), |row| row.get::<pg_sys::Oid>(1))?;
    let Some(relation) = relation else {
        return Ok(None);
    };
    let maps = maps_of(client, Some(relation))?;
    Ok(maps.into_iter().find(|map| map.id == map_id))
}

/// The maps of one table, or of all.
pub fn maps_of(
    client: &mut SpiClient,
    relation: Option<pg_sys::Oid>,
) -> Result<Vec<Arc<Map>>, StoreError> {
    // After a restore the catalog's numbers are new: bind what is not bound yet.
    let unbound = client.select(
        // OFFSET 0: is_key() is asked of those alone.
        Cached("SELECT m.map_id
              FROM (SELECT m.* FROM crm.object_map m WHERE NOT EXISTS (SELECT FROM crm.map_state s WHERE s.map_id = m.map_id) OFFSET 0) m
              WHERE crm_internal.is_key(m.relation, m.key_column, m.shard_column) OR NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = m.relation)"),
        None,
        &[],
    )?;
    let unbound: Vec<i32> = unbound
        .filter_map(|row| row.get(1).ok().flatten())
        .collect();
    for id in unbound {
        client.update("SELECT crm_internal.bind_map($1)", None, &[id.into()])?;
    }
    let mut maps: Vec<Map> = Vec::new();
    let mut broken = Vec::new();
    let rows = client.select(
        Cached("SELECT m.map_id, m.connection_id, CASE WHEN c.oid IS NOT NULL THEN format('%I.%I', n.nspname, c.relname) END, m.relation::oid, m.crm_object,
                m.key_column::text, k.typname::text, m.shard_column::text, m.external_id_field,
                m.on_crm_delete, e.state = 'error' OR c.oid IS NULL OR c.relkind NOT IN ('r', 'p') OR a.attnum IS NULL OR NOT crm_internal.is_key_type(a.atttypid),
                (extract(epoch FROM greatest(e.next_write_at, now() - interval '1 day') - now()) * 1000)::bigint,
                EXISTS (SELECT FROM crm.field_map f WHERE f.map_id = m.map_id AND f.direction = 'bidirectional'),
                coalesce(c.relrowsecurity AND c.relforcerowsecurity
                         AND NOT (SELECT r.rolsuper OR r.rolbypassrls FROM pg_roles r WHERE r.oid = c.relowner), false),
                m.conflict_scope = 'record', m.on_crm_insert = 'insert',
                coalesce(crm_internal.key_expression('{}', a.atttypid), ''), z.typname::text, crm_internal.key_expression('{}', s.atttypid), s.attnotnull,
                (SELECT n.provider FROM crm.connection n WHERE n.connection_id = m.connection_id), m.key_is_case_sensitive, m.key_max_length,
                array_remove(ARRAY[a.atttypid, s.atttypid], NULL),
                m.on_insert = 'create', m.on_delete <> 'ignore'
         FROM crm.object_map m
         JOIN crm.map_state e USING (map_id)
         LEFT JOIN pg_class c ON c.oid = m.relation
         LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = m.key_column AND NOT a.attisdropped
         -- A key is looked for by the type beneath: what a domain checks is code of others, and looking sets nothing.
         LEFT JOIN pg_type k ON k.oid = crm_internal.base_type(a.atttypid) AND crm_internal.is_builtin(k.oid)
         LEFT JOIN pg_attribute s ON s.attrelid = c.oid AND s.attname = m.shard_column AND NOT s.attisdropped
         LEFT JOIN pg_type z ON z.oid = crm_internal.base_type(s.atttypid) AND crm_internal.is_builtin(z.oid)
         WHERE $1 IS NULL OR m.relation = $1
         ORDER BY m.map_id"),
        None,
        &[relation.into()],
    )?;
    for row in rows {
        let key = KeyColumn::new(
            row.get(6)?.unwrap_or_default(),
            row.get(7)?,
            row.get(17)?.unwrap_or_default(),
            true,
        );
        let external_id_field: Option<String> = row.get(9)?;
        let provider = row.get::<String>(21)?;
        let provider = provider.and_then(|name| crm_provider::provider(&name));
        let told = match row.get(22)? {
            Some(true) => Some(KeyEquality::Exact),
            Some(false) => Some(KeyEquality::IgnoringCase),
            None => provider.map(|provider| provider.key_equality()),
        };
        let equality = told.filter(|_| external_id_field.is_some());
        maps.push(Map {
            id: row.get(1)?.unwrap_or_default(),
            connection_id: row.get(2)?.unwrap_or_default(),
            relation: row.get(3)?.unwrap_or_default(),
            names: Arc::new(Names {
                table: row.get(4)?.unwrap_or(pg_sys::InvalidOid),
                functions: Vec::new(),
                types: row.get(24)?.unwrap_or_default(),
            }),
            crm_object: row.get(5)?.unwrap_or_default(),
            key,
            shard: row
                .get(8)?
                .map(|name| -> Result<KeyColumn, StoreError> {
                    let text = row.get(19)?.unwrap_or_default();
                    let not_null = row.get(20)?.unwrap_or_default();
                    Ok(KeyColumn::new(name, row.get(18)?, text, not_null))
                })
                .transpose()?,
            key_equality: equality,
            key_room: row.get::<i32>(23)?.map(|room| room as usize),
            external_id_field,
            on_crm_delete: row.get(10)?.unwrap_or_default(),
            in_error: row.get(11)?.unwrap_or(true),
            next_write_ms: row.get(12)?.unwrap_or_default(),
            realtime: row.get(13)?.unwrap_or_default(),
            hides_rows: row.get(14)?.unwrap_or_default(),
            compares_record: row.get(15)?.unwrap_or(true),
            inserts: row.get(16)?.unwrap_or_default(),
            creates: row.get(25)?.unwrap_or_default(),
            follows_deletes: row.get(26)?.unwrap_or_default(),
            fields: Vec::new(),
        });
    }
    let rows = client.select(
        Cached("SELECT f.map_id, f.field_id, f.column_name::text, f.crm_field, f.data_type,
                (SELECT format('%I.%I', n.nspname, p.proname) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                 WHERE p.oid = f.transform_out), t.typcategory IN ('A', 'C'),
                CASE WHEN f.transform_out IS NOT NULL OR f.transform_in IS NOT NULL
                     THEN coalesce(crm_internal.transform_trouble(f.transform_out, m.relation), crm_internal.transform_trouble(f.transform_in, m.relation)) END,
                f.direction, f.on_conflict, f.direction <> 'inbound' AND f.materialize,
                (SELECT format('%I.%I', n.nspname, p.proname) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                 WHERE p.oid = f.transform_in), t.oid IN ('json'::regtype, 'jsonb'::regtype), c.provider,
                t.typlen < 0 AND t.oid <> 'numeric'::regtype, t.oid IN ('text'::regtype, 'varchar'::regtype),
                ARRAY(SELECT p.oid FROM unnest(ARRAY[f.transform_out::oid, f.transform_in::oid]) WITH ORDINALITY AS x (oid, n) JOIN pg_proc p USING (oid) ORDER BY x.n),
                format_type(a.atttypid, a.atttypmod), t.oid, a.atttypmod, f.described::text, a.atttypid
         FROM crm.field_map f JOIN crm.object_map m USING (map_id) JOIN crm.connection c USING (connection_id)
         JOIN crm.bound_column b USING (map_id, column_name) JOIN pg_type t ON t.oid = b.type_id
         LEFT JOIN pg_attribute a ON a.attrelid = m.relation AND a.attnum = b.attnum AND a.atttypid = b.type_id
         WHERE $1 IS NULL OR m.relation = $1
         ORDER BY f.map_id, f.field_id"),
        None,
        &[relation.into()],
    )?;
    for row in rows {
        let map_id: i32 = row.get(1)?.unwrap_or_default();
        let Some(map) = maps.iter_mut().find(|m| m.id == map_id) else {
            continue;
        };
        // Neither does the raw value go through when a transform was dropped, nor does one run that became somebody else's.
        if let Some(trouble) = row.get::<String>(8)? {
            map.in_error = true;
            broken.push((map_id, row.get::<String>(3)?.unwrap_or_default(), trouble));
        }
        let names = Arc::make_mut(&mut map.names);
        names.types.extend(row.get::<pg_sys::Oid>(22)?);
        let functions: Vec<pg_sys::Oid> = row.get(17)?.unwrap_or_default();
        names.functions.extend(functions);
        let type_name = match row.get::<pg_sys::Oid>(19)? {
            Some(type_id) => type_beneath(type_id, row.get(20)?.unwrap_or(-1)),
            None => String::new(),
        };
        let crm_field: String = row.get(4)?.unwrap_or_default();
        let described = row.get::<String>(21)?;
        let described = described.and_then(|json| serde_json::from_str(&json).ok());
        map.fields.push(MappedField {
            holds: Column::of(&type_name),
            type_name,
            described: FieldDescription {
                name: crm_field.clone(),
                ..described.unwrap_or_default()
            },
            id: row.get::<i16>(2)?.unwrap_or_default() as u16,
            column: row.get(3)?.unwrap_or_default(),
            column_type: row.get::<String>(18)?.unwrap_or_else(|| "text".to_owned()),
            field: Arc::new(Field {
                name: crm_field,
                data_type: row
                    .get::<String>(5)?
                    .unwrap_or_default()
                    .parse()
                    .unwrap_or(DataType::Text),
            }),
            transform_out: row.get(6)?,
            transform_in: row.get(12)?,
            as_json: row.get(7)?.unwrap_or_default(),
            is_json_column: row.get(13)?.unwrap_or_default(),
            is_long: row.get(15)?.unwrap_or(true),
            is_text: row.get(16)?.unwrap_or_default(),
            direction: word(row.get::<String>(9)?, Direction::Outbound),
            policy: word(row.get::<String>(10)?, ConflictPolicy::CrmWins),
            written: row.get(11)?.unwrap_or_default(),
            provider: row
                .get::<String>(14)?
                .and_then(|name| crm_provider::provider(&name)),
        });
    }
    for map in &mut maps {
        let names = Arc::make_mut(&mut map.names);
        for oids in [&mut names.types, &mut names.functions] {
            oids.sort_unstable_by_key(|oid| oid.to_u32());
            oids.dedup();
        }
    }
    for (map_id, column, trouble) in broken {
        let reason = format!(
            "a transform of column \"{column}\" {trouble}; fix it with crm.map_field() or crm.unmap_field()"
        );
        // Somebody may be mending it this moment: looked at again once they are done.
        let held = client.update(
            "SELECT FROM crm.object_map WHERE map_id = $1 FOR NO KEY UPDATE SKIP LOCKED",
            None,
            &[map_id.into()],
        )?;
        if held.is_empty() {
            continue;
        }
        // Whoever mended it was done before we had the lock. What is known of roles and functions may be older.
        // SAFETY: as each statement that locks a table does.
        unsafe { pg_sys::AcceptInvalidationMessages() };
        client.update(
            "UPDATE crm.map_state SET state = 'error', reason = $2
             WHERE map_id = $1 AND state <> 'error' AND crm_internal.lost_transform(map_id) IS NOT NULL",
            None,
            &[map_id.into(), reason.into()],
        )?;
    }
    Ok(maps.into_iter().map(Arc::new).collect())
}

/// A type, or what is beneath it if it is a domain, as `format_type` names it.
pub fn type_beneath(type_id: pg_sys::Oid, mut modifier: i32) -> String {
    // SAFETY: syscache look-ups inside a transaction, of a type that the catalog has just told; the text is a fresh one.
    unsafe {
        let base = pg_sys::getBaseTypeAndTypmod(type_id, &mut modifier);
        let text = pg_sys::format_type_with_typemod(base, modifier);
        let name = std::ffi::CStr::from_ptr(text)
            .to_string_lossy()
            .into_owned();
        pg_sys::pfree(text.cast());
        name
    }
}

/// A word that the table's own CHECK has made sure of.
pub fn word<T: std::str::FromStr>(text: Option<String>, otherwise: T) -> T {
    text.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}
