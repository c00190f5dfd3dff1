//! `/settings/fields` and `/settings/modules`: what a module holds, and which there are.

use super::org::{is_list, is_reference};
use crate::schema::Field;
use crate::store::{Object, Store};
use crate::value::Kind;
use serde_json::{Value as Json, json};

fn json_type(field: &Field) -> &'static str {
    match field.kind {
        _ if is_list(field) => "jsonarray",
        _ if is_reference(field) => "jsonobject",
        Kind::Bool => "boolean",
        Kind::Int => "integer",
        Kind::Number => "double",
        _ => "string",
    }
}

pub fn fields(object: &Object) -> Json {
    let one = |(at, field): (u16, &Field)| {
        let spec = &field.spec;
        let options: Vec<Json> = spec
            .values
            .iter()
            .enumerate()
            .map(|(n, value)| {
                json!({"id": format!("55459740000002{n:05}"), "actual_value": value, "display_value": value,
                       "reference_value": value, "sequence_number": n + 1, "type": "used"})
            })
            .collect();
        let stored = field.writable();
        json!({
            "id": format!("55459740000001{at:05}"),
            "api_name": field.name(),
            "field_label": field.label(),
            "data_type": spec.native,
            "json_type": json_type(field),
            "length": spec.length.unwrap_or(if spec.native == "textarea" { 32_000 } else { 255 }),
            "system_mandatory": spec.required,
            "read_only": !stored,
            "field_read_only": !stored,
            "custom_field": false,
            "visible": true,
            "unique": if spec.unique { json!({"casesensitive": spec.case_sensitive.to_string()}) } else { json!({}) },
            "pick_list_values": options,
            "lookup": match spec.references.first() {
                Some(module) => json!({"module": {"api_name": module}}),
                None => json!({}),
            },
            "decimal_place": spec.scale,
            "external": if spec.external_id { json!({"type": "org", "show": true}) } else { Json::Null },
            "operation_type": {"web_create": stored, "web_update": stored, "api_create": stored, "api_update": stored},
        })
    };
    let fields: Vec<Json> = object.def.visible().map(one).collect();
    json!({ "fields": fields })
}

pub fn modules(store: &Store) -> Json {
    let one = |(n, object): (usize, &Object)| {
        json!({
            "id": format!("55459740000000{n:05}"), "api_name": object.def.name, "module_name": object.def.name,
            "singular_label": object.def.label(), "plural_label": object.def.plural(), "generated_type": "default",
            "api_supported": true, "creatable": true, "editable": true, "deletable": true, "viewable": true,
        })
    };
    let modules: Vec<Json> = store.objects.iter().enumerate().map(one).collect();
    json!({ "modules": modules })
}
