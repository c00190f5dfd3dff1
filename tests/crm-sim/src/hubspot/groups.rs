//! Groups of properties.
//!
//! Guarantees: every object has the group that its built-in properties are in; a group that has
//! properties stays.

use super::error::HsError;
use super::objects::{self, Answer};
use crate::http::{Request, Response};
use crate::schema::{Field, ObjectDef};
use crate::store::Object;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, HashMap};

/// Labels by name, by the name of the object.
#[derive(Debug, Default)]
pub struct Groups(HashMap<String, BTreeMap<String, String>>);

impl Groups {
    pub fn has(&self, def: &ObjectDef, name: &str) -> bool {
        name == usual(def)
            || self
                .0
                .get(&def.name)
                .is_some_and(|held| held.contains_key(name))
    }
}

/// The group that properties are in unless they say something else.
pub fn usual(def: &ObjectDef) -> String {
    format!(
        "{}information",
        def.label().to_ascii_lowercase().replace(' ', "_")
    )
}

pub fn of(def: &ObjectDef, field: &Field) -> String {
    field.spec.group.clone().unwrap_or_else(|| usual(def))
}

pub fn answer(all: &mut Groups, object: &Object, request: &Request, path: &[&str]) -> Answer {
    let def = &object.def;
    let held = all.0.entry(def.name.clone()).or_default();
    let usual = usual(def);
    held.entry(usual.clone())
        .or_insert_with(|| format!("{} information", def.label()));
    let shown = |name: &str, label: &str| json!({"name": name, "label": label, "displayOrder": -1, "archived": false});
    let label = |body: &serde_json::Map<String, Json>| -> Option<String> {
        let label = body.get("label").and_then(Json::as_str);
        label.map(String::from)
    };
    match (request.method.as_str(), path) {
        ("GET", []) => {
            let results: Vec<_> = held
                .iter()
                .map(|(name, label)| shown(name, label))
                .collect();
            Ok(Response::json(200, &json!({"results": results})))
        }
        ("POST", []) => {
            let body = objects::body(request)?;
            let name = body.get("name").and_then(Json::as_str).unwrap_or_default();
            let (false, Some(label)) = (name.is_empty(), label(&body)) else {
                let message = "Invalid input JSON: name and label are required";
                return Err(HsError::validation(message));
            };
            if held.contains_key(name) {
                let message = format!("A property group named '{name}' already exists.");
                return Err(HsError::new(409, "OBJECT_ALREADY_EXISTS", message));
            }
            let shown = shown(name, &label);
            held.insert(name.to_owned(), label);
            Ok(Response::json(201, &shown))
        }
        ("GET", [name]) => {
            let label = held.get(*name).ok_or_else(|| HsError::not_found(name))?;
            Ok(Response::json(200, &shown(name, label)))
        }
        ("PATCH", [name]) => {
            let body = objects::body(request)?;
            let held = held
                .get_mut(*name)
                .ok_or_else(|| HsError::not_found(name))?;
            if let Some(label) = label(&body) {
                *held = label;
            }
            Ok(Response::json(200, &shown(name, held)))
        }
        ("DELETE", [name]) => {
            let mut fields = def.visible();
            if *name == usual || fields.any(|(_, field)| of(def, field) == *name) {
                let message = format!("The property group '{name}' is in use");
                return Err(HsError::validation(message));
            }
            held.remove(*name);
            Ok(Response::empty(204))
        }
        _ => Err(HsError::method()),
    }
}
