//! `/crm/v3/properties/{type}`: what properties there are, and new ones.

use super::error::HsError;
use super::groups::{self, Groups};
use super::objects::{self, Answer};
use super::portal;
use crate::http::{Request, Response};
use crate::schema::{Field, FieldSpec, ObjectDef, ObjectSpec, Source};
use crate::store::Object;
use serde_json::{Map, Value as Json, json};

pub fn answer(object: &mut Object, groups: &Groups, request: &Request, path: &[&str]) -> Answer {
    match (request.method.as_str(), path) {
        ("GET", []) => {
            let results = object.def.visible();
            let results: Vec<_> = results.map(|(_, field)| show(&object.def, field)).collect();
            Ok(Response::json(200, &json!({"results": results})))
        }
        ("POST", []) => {
            let created = create(object, groups, &objects::body(request)?)?;
            Ok(Response::json(201, &created))
        }
        ("POST", ["batch", "read"]) => {
            let body = objects::body(request)?;
            let inputs = body
                .get("inputs")
                .and_then(Json::as_array)
                .into_iter()
                .flatten();
            let found = inputs.filter_map(|input| object.def.field(input["name"].as_str()?));
            let results: Vec<_> = found.map(|(_, field)| show(&object.def, field)).collect();
            Ok(Response::json(
                200,
                &json!({"status": "COMPLETE", "results": results}),
            ))
        }
        ("POST", ["batch", "create"]) => {
            let body = objects::body(request)?;
            let inputs = inputs(&body)?;
            // All of them or none.
            let before = object.def.clone();
            let mut results = Vec::with_capacity(inputs.len());
            for input in inputs {
                match create(object, groups, input) {
                    Ok(created) => results.push(created),
                    Err(error) => {
                        object.def = before;
                        object.reindex();
                        return Err(error);
                    }
                }
            }
            let body = json!({"status": "COMPLETE", "results": results});
            Ok(Response::json(201, &body))
        }
        ("POST", ["batch", "archive"]) => {
            let body = objects::body(request)?;
            for input in inputs(&body)? {
                let name = input.get("name").and_then(Json::as_str).unwrap_or_default();
                if existing(object, name).is_ok() {
                    remove(object, name)?;
                }
            }
            Ok(Response::empty(204))
        }
        ("GET", [name]) => {
            let (_, field) = object
                .def
                .field(name)
                .ok_or_else(|| HsError::not_found(name))?;
            Ok(Response::json(200, &show(&object.def, field)))
        }
        ("PATCH", [name]) => {
            let mut spec = existing(object, name)?;
            change(&mut spec, &objects::body(request)?);
            define(object, spec)?;
            let (_, field) = object
                .def
                .field(name)
                .ok_or_else(|| HsError::not_found(name))?;
            Ok(Response::json(200, &show(&object.def, field)))
        }
        ("DELETE", [name]) => {
            existing(object, name)?;
            remove(object, name)?;
            Ok(Response::empty(204))
        }
        _ => Err(HsError::method()),
    }
}

fn inputs(body: &Map<String, Json>) -> Result<Vec<&Map<String, Json>>, HsError> {
    let list = body.get("inputs").and_then(Json::as_array);
    let list = list.and_then(|list| list.iter().map(Json::as_object).collect());
    list.ok_or_else(|| HsError::validation("Invalid input JSON: inputs must be a list of objects"))
}

fn remove(object: &mut Object, name: &str) -> Result<(), HsError> {
    let spec = ObjectSpec {
        remove: vec![name.to_owned()],
        ..ObjectSpec::default()
    };
    portal::define(&mut object.def, &spec)
        .map_err(|error| HsError::validation(error.to_string()))?;
    object.reindex();
    Ok(())
}

fn existing(object: &Object, name: &str) -> Result<FieldSpec, HsError> {
    let (_, field) = object
        .def
        .field(name)
        .ok_or_else(|| HsError::not_found(name))?;
    match field.source {
        Source::Stored => Ok(field.spec.clone()),
        _ => Err(HsError::validation(format!("{name} is defined by HubSpot"))),
    }
}

fn create(object: &mut Object, groups: &Groups, body: &Map<String, Json>) -> Result<Json, HsError> {
    let text = |key: &str| body.get(key).and_then(Json::as_str).unwrap_or_default();
    let mut missing = ["name", "label", "type", "fieldType", "groupName"]
        .into_iter()
        .filter(|key| text(key).is_empty());
    if let Some(key) = missing.next() {
        return Err(HsError::validation(format!(
            "Invalid input JSON: {key} is required"
        )));
    }
    let group = text("groupName");
    if !groups.has(&object.def, group) {
        let message = format!("Property group '{group}' does not exist");
        return Err(HsError::validation(message));
    }
    let name = text("name").to_owned();
    if object.def.field(&name).is_some() {
        let message = format!("A property named '{name}' already exists.");
        return Err(HsError::new(409, "OBJECT_ALREADY_EXISTS", message));
    }
    let mut spec = FieldSpec {
        name: name.clone(),
        native: text("type").to_owned(),
        widget: Some(text("fieldType").to_owned()),
        unique: body.get("hasUniqueValue") == Some(&Json::Bool(true)),
        group: Some(group.to_owned()),
        ..FieldSpec::default()
    };
    change(&mut spec, body);
    define(object, spec)?;
    let (_, field) = object
        .def
        .field(&name)
        .ok_or_else(|| HsError::not_found(&name))?;
    Ok(show(&object.def, field))
}

fn change(spec: &mut FieldSpec, body: &Map<String, Json>) {
    if let Some(label) = body.get("label").and_then(Json::as_str) {
        spec.label = Some(label.to_owned());
    }
    if let Some(group) = body.get("groupName").and_then(Json::as_str) {
        spec.group = Some(group.to_owned());
    }
    if let Some(options) = body.get("options").and_then(Json::as_array) {
        let values = options.iter().filter_map(|option| option["value"].as_str());
        spec.values = values.map(str::to_owned).collect();
    }
}

fn define(object: &mut Object, field: FieldSpec) -> Result<(), HsError> {
    let spec = ObjectSpec {
        fields: vec![field],
        ..ObjectSpec::default()
    };
    portal::define(&mut object.def, &spec)
        .map_err(|error| HsError::validation(error.to_string()))?;
    object.reindex();
    Ok(())
}

pub fn show(def: &ObjectDef, field: &Field) -> Json {
    let spec = &field.spec;
    let options: Vec<_> = spec
        .values
        .iter()
        .enumerate()
        .map(|(at, value)| json!({"label": value, "value": value, "displayOrder": at, "hidden": false}))
        .collect();
    let read_only = !field.writable();
    json!({
        "name": spec.name,
        "label": field.label(),
        "type": spec.native,
        "fieldType": spec.widget.as_deref().unwrap_or("text"),
        "description": "",
        "groupName": groups::of(def, field),
        "options": options,
        "displayOrder": -1,
        "calculated": spec.calculated,
        "externalOptions": false,
        "archived": false,
        "hasUniqueValue": spec.unique || field.source == Source::Id,
        "hidden": false,
        "hubspotDefined": field.source != Source::Stored,
        "modificationMetadata": {
            "archivable": !read_only,
            "readOnlyDefinition": read_only,
            "readOnlyValue": read_only,
        },
        "formField": !read_only,
        "dataSensitivity": "non_sensitive",
    })
}
