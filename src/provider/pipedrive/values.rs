//! Values as Pipedrive has them, strictly typed: ids and options are numbers, moments whole
//! seconds.
//!
//! A field is named as the API names it; a custom one by the 40 digits of its key. What lies within
//! a field is named after a dot: `KEY.currency`. A list of addresses (`emails`) or a place
//! (`address`) that is mapped to a plain type stands for its primary address, or its text; mapped
//! to JSON, for the whole list. JSON in a custom field is text.
//!
//! Guarantees: what is written into a part leaves the other parts as they are; a value that was
//! written is read back as the same canonical value.

use crm_domain::{DataType, Value, ValueError};
use serde_json::{Map, Value as Json, json};

use super::field_name::{LISTS, PARTS, PLACES, is_custom, split};
use super::objects::{Object, Version};
use crate::moment::{self, SECOND};
use crate::storage_rules::{NumberStorage, StorageRules};
use crate::{WriteRecord, wire};

/// Numbers are doubles.
pub(super) const STORAGE_RULES: StorageRules = StorageRules {
    numbers: NumberStorage::Doubles,
    ..StorageRules::NONE
};

const CUSTOM: &str = "custom_fields";

/// A value in the form that a field of its type takes.
pub(super) fn form(data_type: DataType, value: &Value) -> Json {
    match value {
        Value::Text(text) if matches!(data_type, DataType::Choice | DataType::Reference) => {
            word(text)
        }
        Value::MultiChoice(words) => words.iter().map(|text| word(text)).collect(),
        Value::Timestamp(ms) => second(*ms).into(),
        Value::Json(_) => wire::text(value).into(),
        value => value.to_json(),
    }
}

/// Ids and options are numbers; choices of the system's own fields are words.
fn word(text: &str) -> Json {
    let is_id = text.len() <= 18
        && text.bytes().all(|b| b.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'));
    match text.parse::<i64>() {
        Ok(id) if is_id => id.into(),
        _ => text.into(),
    }
}

/// A moment as version 2 takes it: RFC 3339, in whole seconds.
pub(super) fn second(ms: i64) -> String {
    let text = moment::text(ms.div_euclid(SECOND) * SECOND);
    format!("{}Z", text.get(..19).unwrap_or(&text))
}

/// Makes canonical what Pipedrive answers, in either version.
pub(super) fn read(data_type: DataType, held: &Json) -> Result<Value, ValueError> {
    match (data_type, held) {
        (DataType::Json, held) => wire::read(data_type, held),
        (_, Json::Array(items)) if items.iter().any(Json::is_object) => {
            let primary = items.iter().find(|item| item["primary"] == true);
            read(data_type, &primary.unwrap_or(&items[0])["value"])
        }
        (_, Json::Array(items)) if items.is_empty() => Ok(Value::Null),
        (_, Json::Object(parts)) => {
            let whole = ["value", "amount", "id"]
                .iter()
                .find_map(|name| parts.get(*name));
            read(data_type, whole.unwrap_or(&Json::Null))
        }
        // Version 1 has no booleans, and lists in one text.
        (DataType::Boolean, Json::Number(n)) => match n.as_i64() {
            Some(n @ (0 | 1)) => Ok(Value::Boolean(n == 1)),
            _ => Value::from_json(data_type, held),
        },
        (DataType::MultiChoice, Json::String(text)) if text.contains(',') => {
            Ok(Value::multi_choice(text.split(',')))
        }
        _ => Value::from_json(data_type, held),
    }
}

/// What a record holds under a name.
pub(super) fn held<'a>(record: &'a Json, name: &str) -> &'a Json {
    let (field, part) = split(name);
    // Lists of version 1 show records of both.
    let whole = match record.get(CUSTOM) {
        Some(custom) if is_custom(field) => &custom[field],
        _ => &record[field],
    };
    match (part, whole) {
        (None, whole) => whole,
        (Some(part), Json::Object(parts)) => parts.get(part).unwrap_or(&Json::Null),
        // Version 1 has the parts of a custom field side by side.
        (Some("value"), whole) => whole,
        (Some(part), _) => &record[format!("{field}_{part}")],
    }
}

/// The mapped fields of a record, by the names of the mapping.
pub(super) fn fields<'a>(record: &Json, names: impl Iterator<Item = &'a str>) -> Map<String, Json> {
    names
        .map(|name| (name.to_owned(), held(record, name).clone()))
        .collect()
}

/// Whether a write can only be told once one knows what the record holds.
pub(super) fn needs_held(object: &Object, record: &WriteRecord) -> bool {
    record.fields.iter().any(|(field, _)| {
        let (name, part) = split(&field.name);
        match part {
            Some(_) => object.version == Version::V2 || !is_custom(name),
            None => is_list(name, field.data_type),
        }
    })
}

fn is_list(name: &str, data_type: DataType) -> bool {
    LISTS.contains(&name) && data_type != DataType::Json
}

/// The body of a write. `record_held` is what the record holds already, where that matters; `key`
/// the external key's field and value, of a record that is created.
pub(super) fn body(
    object: &Object,
    record: &WriteRecord,
    key_field: Option<&str>,
    key: Option<(&str, &str)>,
    record_held: &Json,
) -> Json {
    let mut body = Body {
        object,
        record_held,
        own: Map::new(),
        custom: Map::new(),
    };
    for (field, value) in &record.fields {
        if key_field != Some(&field.name) {
            body.put(&field.name, field.data_type, value);
        }
    }
    if let Some((name, key)) = key {
        body.put(name, DataType::Text, &Value::text(key));
    }
    if !body.custom.is_empty() {
        body.own.insert(CUSTOM.to_owned(), body.custom.into());
    }
    body.own.into()
}

fn json_is_plain(json: &Json) -> bool {
    !matches!(json, Json::Array(_) | Json::Object(_))
}

struct Body<'a> {
    object: &'a Object,
    record_held: &'a Json,
    own: Map<String, Json>,
    custom: Map<String, Json>,
}

impl Body<'_> {
    fn put(&mut self, name: &str, data_type: DataType, value: &Value) {
        let (field, part) = split(name);
        let wire = match value {
            // No field of Pipedrive's own is a text of JSON, and no custom one is a list.
            Value::Json(json) if !is_custom(field) && !json_is_plain(json) => json.clone(),
            value => form(data_type, value),
        };
        let is_nested = is_custom(field) && self.object.version == Version::V2;
        let (at, wire) = match part {
            Some("value") if is_custom(field) && !is_nested => (field.to_owned(), wire),
            Some(part) if is_custom(field) && !is_nested => (format!("{field}_{part}"), wire),
            Some(part) => (field.to_owned(), self.with_part(field, part, wire)),
            None if is_list(field, data_type) => {
                let list = held(self.record_held, field);
                (field.to_owned(), with_primary(list, wire))
            }
            None if PLACES.contains(&field) && data_type != DataType::Json => {
                let place = match wire {
                    Json::Null => Json::Null,
                    text => json!({ "value": text }),
                };
                (field.to_owned(), place)
            }
            None => (field.to_owned(), wire),
        };
        let fields = match is_nested {
            true => &mut self.custom,
            false => &mut self.own,
        };
        fields.insert(at, wire);
    }

    /// A field with one part of it changed: without its value it is nothing.
    fn with_part(&self, field: &str, part: &str, wire: Json) -> Json {
        let written = [&self.custom, &self.own]
            .into_iter()
            .find_map(|fields| fields.get(field));
        let whole = written.unwrap_or_else(|| held(self.record_held, field));
        let mut parts: Map<String, Json> = PARTS
            .iter()
            .filter_map(|part| Some(((*part).to_owned(), whole.get(*part)?.clone())))
            .collect();
        parts.insert(part.to_owned(), wire);
        match parts.values().all(Json::is_null) {
            true => Json::Null,
            false => parts.into(),
        }
    }
}

/// A list with another primary address. Without one there is no list, for the next would take its
/// place.
fn with_primary(list: &Json, primary: Json) -> Json {
    if primary.is_null() {
        return json!([]);
    }
    let mut items: Vec<Json> = list.as_array().cloned().unwrap_or_default();
    let same = items.iter().position(|item| item["value"] == primary);
    let at = same.or_else(|| items.iter().position(|item| item["primary"] == true));
    for item in &mut items {
        item["primary"] = false.into();
    }
    match at {
        Some(at) => {
            items[at]["value"] = primary;
            items[at]["primary"] = true.into();
        }
        None => items.insert(0, json!({ "value": primary, "primary": true })),
    }
    items.into()
}

/// The record's id, whatever its kind.
pub(super) fn id(record: &Json) -> Option<String> {
    wire::id(&record["id"])
}

/// Whether a record is in the recycle bin: version 2, version 1, and deals of version 1.
pub(super) fn is_deleted(record: &Json) -> bool {
    record["is_deleted"] == true || record["active_flag"] == false || record["status"] == "deleted"
}

/// When it was last modified, UTC milliseconds.
pub(super) fn modified_at(record: &Json) -> Option<i64> {
    wire::moment(&record["update_time"]).or_else(|| wire::moment(&record["add_time"]))
}
