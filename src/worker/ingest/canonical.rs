//! From a CRM's records to what is compared: canonical values and their hashes, made by the
//! threads.

use crm_domain::{ErrorClass, Failure, conflict};
use crm_provider::changes::key;
use crm_provider::{Change, CrmObject};

use crate::store::config::{Map, MappedField};
use crate::store::ingest::{Field, Incoming, Unreadable};
use crate::worker::link::Link;
use crate::worker::tasks::catch_panic_in;

/// A record of a page of changes.
pub fn changed(link: &Link, map: &Map, change: Change) -> Incoming {
    let values = match change.deleted {
        true => Ok(Vec::new()),
        false => fields(link, map, &change.object),
    };
    Incoming {
        crm_id: change.object.crm_id,
        external_id: change.external_id,
        deleted: change.deleted,
        merged_into: change.merged_into,
        by: change
            .modified_by
            .map(|by| format!("{}: {by}", link.provider.name())),
        values,
    }
}

/// A record that was read by itself; `None`: the CRM does not have it any more.
pub fn read(
    link: &Link,
    map: &Map,
    crm_id: &str,
    merged_into: Option<&str>,
    object: Option<CrmObject>,
) -> Incoming {
    let external_id = object.as_ref().and_then(|object| {
        let field = map.external_id_field.as_ref()?;
        key(object.fields.get(field))
    });
    Incoming {
        crm_id: crm_id.to_owned(),
        external_id,
        deleted: object.is_none(),
        merged_into: merged_into.map(str::to_owned),
        by: None,
        values: object.map_or(Ok(Vec::new()), |object| fields(link, map, &object)),
    }
}

/// A panic makes the record that caused it unreadable.
fn fields(link: &Link, map: &Map, object: &CrmObject) -> Result<Vec<Field>, Unreadable> {
    if let Some(damage) = &object.damage {
        return Err(damage.clone().into());
    }
    catch_panic_in(|| mapped(link, map, object))?
}

fn mapped(link: &Link, map: &Map, object: &CrmObject) -> Result<Vec<Field>, Unreadable> {
    let fields = map.fields.iter();
    fields
        .map(|field| {
            mapped_field(link, field, object).map_err(|failure| Unreadable {
                failure,
                field: Some(field.field.name.clone()),
            })
        })
        .collect()
}

fn mapped_field(link: &Link, f: &MappedField, object: &CrmObject) -> Result<Field, Failure> {
    let name = &f.field.name;
    // An empty field is reported as empty; one that is missing does not exist (any more).
    let wire = object.fields.get(name).ok_or_else(|| {
        let message = format!("the CRM's record has no field \"{name}\"");
        Failure::record(ErrorClass::Mapping, "no_such_field", message)
    })?;
    let value = link.value(&f.field, wire)?;
    if !value.fits_jsonb() {
        let message = format!("field \"{name}\" contains JSON that PostgreSQL cannot store");
        return Err(Failure::record(
            ErrorClass::Mapping,
            "unreadable_value",
            message,
        ));
    }
    Ok(Field {
        id: f.id,
        hash: conflict::hash(&value),
        value,
    })
}
