//! The mapping, read from the catalog.

use std::sync::Arc;

use crm_domain::key::KeyEquality;
use crm_domain::{Column, FieldDescription};
use crm_provider::record::Field;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiHeapTupleData};

use crate::store::config::filter::Filter;
use crate::store::config::key_column::KeyColumn;
use crate::store::config::{Map, MappedField};
use crate::store::error::StoreError;
use crate::store::row::Columns;
use crate::store::statement::Cached;
use crate::store::statement::names::Names;

/// Locks a map's definition until the end of the transaction: a session that changes it waits, and
/// then sees what was claimed by it.
pub fn lock_definition(client: &mut SpiClient, map_id: i32) -> Result<(), StoreError> {
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
            Cached("SELECT m.relation::oid AS table_id FROM crm.object_map m WHERE m.map_id = $1"),
            None,
            &[map_id.into()],
        )?
        .next()
        .map(|row| row.required("table_id"))
        .transpose()?;
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
    bind_unbound(client)?;
    let mut maps = object_maps(client, relation)?;
    for lost in add_fields(client, relation, &mut maps)? {
        stop_map(client, &lost)?;
    }
    for map in &mut maps {
        let names = Arc::make_mut(&mut map.names);
        for oids in [&mut names.types, &mut names.functions] {
            oids.sort_unstable_by_key(|oid| oid.to_u32());
            oids.dedup();
        }
    }
    Ok(maps.into_iter().map(Arc::new).collect())
}

/// After a restore the catalog's numbers are new: binds what is not bound yet.
fn bind_unbound(client: &mut SpiClient) -> Result<(), StoreError> {
    let unbound = client.select(
        // OFFSET 0: is_key() is asked of those alone.
        Cached("SELECT m.map_id
              FROM (SELECT m.* FROM crm.object_map m WHERE NOT EXISTS (SELECT FROM crm.map_state s WHERE s.map_id = m.map_id) OFFSET 0) m
              WHERE crm_internal.is_key(m.relation, m.key_column, m.shard_column) OR NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = m.relation)"),
        None,
        &[],
    )?;
    let unbound: Vec<i32> = unbound
        .map(|row| row.required("map_id"))
        .collect::<Result<_, _>>()?;
    for id in unbound {
        client.update("SELECT crm_internal.bind_map($1)", None, &[id.into()])?;
    }
    Ok(())
}

/// The maps, without their fields.
fn object_maps(client: &SpiClient, relation: Option<pg_sys::Oid>) -> Result<Vec<Map>, StoreError> {
    let rows = client.select(
        Cached("SELECT m.map_id, m.connection_id,
                CASE WHEN c.oid IS NOT NULL THEN format('%I.%I', n.nspname, c.relname) ELSE '' END AS relation,
                m.relation::oid AS table_id, m.crm_object, m.external_id_field,
                m.key_column::text, k.typname::text AS key_type, coalesce(crm_internal.key_expression('{}', a.atttypid), '') AS key_text,
                m.shard_column::text, z.typname::text AS shard_type,
                coalesce(crm_internal.key_expression('{}', s.atttypid), '') AS shard_text, coalesce(s.attnotnull, false) AS shard_not_null,
                EXISTS (SELECT FROM crm.fuse f WHERE f.map_id = m.map_id AND f.direction = 'outbound' AND f.held_at IS NOT NULL) AS is_held,
                EXISTS (SELECT FROM crm.fuse f WHERE f.map_id = m.map_id AND f.direction = 'inbound' AND f.held_at IS NOT NULL) AS is_inbound_held,
                EXISTS (SELECT FROM crm.fuse f WHERE f.map_id = m.map_id AND f.direction = 'outbound' AND f.exempt IS NOT NULL) AS is_loading,
                m.on_insert, m.on_delete, m.on_crm_insert, m.on_crm_delete, m.conflict_scope, m.filter, m.on_filter_out, f.columns AS filter_columns,
                f.given AS filter_given,
                coalesce(e.state = 'error' OR c.oid IS NULL OR c.relkind NOT IN ('r', 'p') OR a.attnum IS NULL
                         OR NOT crm_internal.is_key_type(a.atttypid), true) AS in_error,
                e.last_success IS NOT NULL AS has_succeeded, m.paused, m.enabled, crm_internal.ingests(m.map_id) AS ingests,
                (extract(epoch FROM greatest(e.next_write_at, now() - interval '1 day') - now()) * 1000)::bigint AS next_write_ms,
                EXISTS (SELECT FROM crm.field_map f WHERE f.map_id = m.map_id AND f.direction = 'bidirectional') AS realtime,
                coalesce(c.relrowsecurity AND c.relforcerowsecurity
                         AND NOT (SELECT r.rolsuper OR r.rolbypassrls FROM pg_roles r WHERE r.oid = c.relowner), false) AS hides_rows,
                (SELECT n.provider FROM crm.connection n WHERE n.connection_id = m.connection_id) AS provider,
                m.key_is_case_sensitive, m.key_max_length, array_remove(ARRAY[a.atttypid, s.atttypid], NULL) || coalesce(f.types, '{}') AS key_types
         FROM crm.object_map m
         JOIN crm.map_state e USING (map_id)
         LEFT JOIN pg_class c ON c.oid = m.relation
         LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = m.key_column AND NOT a.attisdropped
         -- A key is looked for by the type beneath: what a domain checks is code of others, and looking sets nothing.
         LEFT JOIN pg_type k ON k.oid = CASE WHEN crm_internal.is_builtin(a.atttypid) THEN crm_internal.base_type(a.atttypid) END
         LEFT JOIN pg_attribute s ON s.attrelid = c.oid AND s.attname = m.shard_column AND NOT s.attisdropped
         LEFT JOIN pg_type z ON z.oid = CASE WHEN crm_internal.is_builtin(s.atttypid) THEN crm_internal.base_type(s.atttypid) END
         LEFT JOIN LATERAL (
             SELECT array_agg(quote_ident(x.name) ORDER BY x.ord) AS columns, array_agg(v.atttypid ORDER BY x.ord) AS types,
                    -- As the column is: with its collation, and without the checks of a domain, which may have come later.
                    array_agg(format('($1::pg_catalog.text[])[%s]::%s%s AS %I', x.ord, crm_internal.type_beneath(v.atttypid, v.atttypmod),
                                     coalesce(' COLLATE ' || nullif(v.attcollation, 0)::regcollation, ''), x.name) ORDER BY x.ord) AS given
             FROM unnest(m.filter_columns::text[]) WITH ORDINALITY AS x (name, ord)
             JOIN pg_attribute v ON v.attrelid = m.relation AND v.attname = x.name AND NOT v.attisdropped) f ON m.filter IS NOT NULL
         WHERE $1 IS NULL OR m.relation = $1
         ORDER BY m.map_id"),
        None,
        &[relation.into()],
    )?;
    rows.map(|row| object_map(&row)).collect()
}

fn object_map(row: &SpiHeapTupleData) -> Result<Map, StoreError> {
    let key_type: Option<String> = row.optional("key_type")?;
    let key = KeyColumn::new(
        row.required("key_column")?,
        key_type.as_deref(),
        row.required("key_text")?,
        true,
    );
    let shard = match row.optional("shard_column")? {
        None => None,
        Some(name) => {
            let shard_type: Option<String> = row.optional("shard_type")?;
            let (text, not_null) = (row.required("shard_text")?, row.required("shard_not_null")?);
            Some(KeyColumn::new(name, shard_type.as_deref(), text, not_null))
        }
    };
    let external_id_field: Option<String> = row.optional("external_id_field")?;
    let provider = crm_provider::provider(row.required("provider")?);
    let equality = match row.optional("key_is_case_sensitive")? {
        Some(true) => Some(KeyEquality::Exact),
        Some(false) => Some(KeyEquality::IgnoringCase),
        None => provider.map(|provider| provider.key_equality()),
    };
    let key_room: Option<i32> = row.optional("key_max_length")?;
    Ok(Map {
        id: row.required("map_id")?,
        connection_id: row.required("connection_id")?,
        relation: row.required("relation")?,
        names: Arc::new(Names {
            table: row.required("table_id")?,
            functions: Vec::new(),
            types: row.required("key_types")?,
        }),
        crm_object: row.required("crm_object")?,
        key,
        shard,
        key_equality: equality.filter(|_| external_id_field.is_some()),
        key_room: key_room.map(|room| room as usize),
        external_id_field,
        on_insert: row.parsed("on_insert")?,
        on_delete: row.parsed("on_delete")?,
        on_filter_out: row.parsed("on_filter_out")?,
        filter: match row.optional("filter")? {
            Some(condition) => Some(Filter {
                condition,
                columns: row.optional("filter_columns")?.unwrap_or_default(),
                given: row.optional("filter_given")?.unwrap_or_default(),
            }),
            None => None,
        },
        on_crm_insert: row.parsed("on_crm_insert")?,
        on_crm_delete: row.parsed("on_crm_delete")?,
        conflict_scope: row.parsed("conflict_scope")?,
        in_error: row.required("in_error")?,
        enabled: row.required("enabled")?,
        ingests: row.required("ingests")?,
        paused: row.required("paused")?,
        is_loading: row.required("is_loading")?,
        is_held: row.required("is_held")?,
        is_inbound_held: row.required("is_inbound_held")?,
        next_write_ms: row.required("next_write_ms")?,
        has_succeeded: row.required("has_succeeded")?,
        realtime: row.required("realtime")?,
        hides_rows: row.required("hides_rows")?,
        fields: Vec::new(),
    })
}

/// A transform that is gone, or that may not run any more.
struct LostTransform {
    map_id: i32,
    column: String,
    trouble: String,
}

/// Reads the fields of these maps; returns the transforms that were lost.
fn add_fields(
    client: &SpiClient,
    relation: Option<pg_sys::Oid>,
    maps: &mut [Map],
) -> Result<Vec<LostTransform>, StoreError> {
    let rows = client.select(
        Cached("SELECT f.map_id, f.field_id, f.column_name::text, f.crm_field, f.data_type, f.direction, f.on_conflict,
                f.direction <> 'inbound' AND f.materialize AND NOT f.create_only AS written, f.direction <> 'inbound' AND f.materialize AS created,
                f.send_null, f.create_default::text, f.described::text, c.provider,
                (SELECT format('%I.%I', n.nspname, p.proname) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                 WHERE p.oid = f.transform_out) AS transform_out,
                (SELECT format('%I.%I', n.nspname, p.proname) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                 WHERE p.oid = f.transform_in) AS transform_in,
                CASE WHEN f.transform_out IS NOT NULL OR f.transform_in IS NOT NULL
                     THEN coalesce(crm_internal.transform_trouble(f.transform_out, m.relation), crm_internal.transform_trouble(f.transform_in, m.relation)) END AS trouble,
                ARRAY(SELECT p.oid FROM unnest(ARRAY[f.transform_out::oid, f.transform_in::oid]) WITH ORDINALITY AS x (oid, n)
                      JOIN pg_proc p USING (oid) ORDER BY x.n) AS functions,
                t.oid AS type_id, coalesce(a.atttypmod, -1) AS type_modifier, a.atttypid AS named_type,
                coalesce(format_type(a.atttypid, a.atttypmod), 'text') AS column_type,
                t.typcategory IN ('A', 'C') AS as_json, t.oid IN ('json'::regtype, 'jsonb'::regtype) AS is_json_column,
                t.typlen < 0 AND t.oid <> 'numeric'::regtype AS is_long, t.oid IN ('text'::regtype, 'varchar'::regtype) AS is_text
         FROM crm.field_map f JOIN crm.object_map m USING (map_id) JOIN crm.connection c USING (connection_id)
         JOIN crm.bound_column b USING (map_id, column_name) JOIN pg_type t ON t.oid = b.type_id
         LEFT JOIN pg_attribute a ON a.attrelid = m.relation AND a.attnum = b.attnum AND a.atttypid = b.type_id
         WHERE $1 IS NULL OR m.relation = $1
         ORDER BY f.map_id, f.field_id"),
        None,
        &[relation.into()],
    )?;
    let mut lost = Vec::new();
    for row in rows {
        let map_id: i32 = row.required("map_id")?;
        let Some(map) = maps.iter_mut().find(|m| m.id == map_id) else {
            continue;
        };
        // A raw value is not sent when its transform was dropped, nor does one run that belongs to
        // another role by now.
        if let Some(trouble) = row.optional("trouble")? {
            map.in_error = true;
            lost.push(LostTransform {
                map_id,
                column: row.required("column_name")?,
                trouble,
            });
        }
        let names = Arc::make_mut(&mut map.names);
        names
            .types
            .extend(row.optional::<pg_sys::Oid>("named_type")?);
        let functions: Vec<pg_sys::Oid> = row.required("functions")?;
        names.functions.extend(functions);
        map.fields.push(mapped_field(&row)?);
    }
    Ok(lost)
}

fn mapped_field(row: &SpiHeapTupleData) -> Result<MappedField, StoreError> {
    let type_name = type_beneath(row.required("type_id")?, row.required("type_modifier")?);
    let crm_field: String = row.required("crm_field")?;
    let described: Option<String> = row.optional("described")?;
    // As an earlier version wrote it, perhaps: then only the field's name is known.
    let described = described.and_then(|json| serde_json::from_str(&json).ok());
    Ok(MappedField {
        holds: Column::of(&type_name),
        type_name,
        described: FieldDescription {
            name: crm_field.clone(),
            ..described.unwrap_or_default()
        },
        id: row.required::<i16>("field_id")? as u16,
        column: row.required("column_name")?,
        column_type: row.required("column_type")?,
        field: Arc::new(Field {
            name: crm_field,
            data_type: row.parsed("data_type")?,
        }),
        transform_out: row.optional("transform_out")?,
        transform_in: row.optional("transform_in")?,
        as_json: row.required("as_json")?,
        is_json_column: row.required("is_json_column")?,
        is_long: row.required("is_long")?,
        is_text: row.required("is_text")?,
        direction: row.parsed("direction")?,
        policy: row.parsed("on_conflict")?,
        written: row.required("written")?,
        created: row.required("created")?,
        send_null: row.required("send_null")?,
        create_default: row
            .optional::<String>("create_default")?
            .and_then(|json| serde_json::from_str(&json).ok()),
        provider: crm_provider::provider(row.required("provider")?),
    })
}

/// Stops a map whose transform was lost.
fn stop_map(client: &mut SpiClient, lost: &LostTransform) -> Result<(), StoreError> {
    let reason = format!(
        "a transform of column \"{}\" {}; fix it with crm.alter_field() or crm.unmap_field()",
        lost.column, lost.trouble
    );
    // Another session may be fixing it this moment: it is looked at again once that has ended.
    let locked = client.update(
        "SELECT FROM crm.object_map WHERE map_id = $1 FOR NO KEY UPDATE SKIP LOCKED",
        None,
        &[lost.map_id.into()],
    )?;
    if locked.is_empty() {
        return Ok(());
    }
    // It may have been fixed before we had the lock. What is known of roles and functions may be
    // older. SAFETY: as each statement that locks a table does.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    client.update(
        "UPDATE crm.map_state SET state = 'error', reason = $2
         WHERE map_id = $1 AND state <> 'error' AND crm_internal.lost_transform(map_id) IS NOT NULL",
        None,
        &[lost.map_id.into(), reason.into()],
    )?;
    Ok(())
}

/// A type, or what is beneath it if it is a domain, as `format_type` names it.
pub fn type_beneath(type_id: pg_sys::Oid, mut modifier: i32) -> String {
    // SAFETY: syscache look-ups inside a transaction, of a type that the catalog has just named;
    // the text is a fresh one.
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
