//! What stands around the records: owners, pipelines, custom objects, the account.

use super::error::HsError;
use super::objects::{self, Answer};
use super::portal;
use crate::budget::Meter;
use crate::clock;
use crate::http::{Request, Response};
use crate::schema::{FieldSpec, ObjectSpec};
use crate::store::{Object, Store};
use serde_json::{Map, Value as Json, json};

/// Since when the portal is there.
const FOUNDED: &str = "2026-01-01T00:00:00.000Z";

/// The portal's users; any text will do for `hubspot_owner_id` all the same.
const OWNERS: [(&str, &str, &str, &str); 2] = [
    ("41629779", "ada@portal.example", "Ada", "Lovelace"),
    ("41629780", "grace@portal.example", "Grace", "Hopper"),
];

pub fn owners(request: &Request, path: &[&str]) -> Answer {
    let all = OWNERS
        .iter()
        .zip(0u64..)
        .map(|((id, email, first, last), at)| {
            json!({
                "id": id,
                "email": email,
                "type": "PERSON",
                "firstName": first,
                "lastName": last,
                "userId": 98 + at,
                "createdAt": FOUNDED,
                "updatedAt": FOUNDED,
                "archived": false,
                "teams": [],
            })
        });
    let mut all: Vec<Json> = all.collect();
    match (request.method.as_str(), path) {
        ("GET", []) => {
            if let Some(email) = request.param("email") {
                all.retain(|owner| owner["email"] == email.as_str());
            }
            if request.param("archived").as_deref() == Some("true") {
                all.clear();
            }
            let limit = request.param("limit").and_then(|text| text.parse().ok());
            let after = request.param("after").unwrap_or_default();
            let start = all.iter().position(|owner| owner["id"] == after.as_str());
            let rest = &all[start.map_or(0, |at| at + 1)..];
            let page = &rest[..rest.len().min(limit.unwrap_or(100))];
            let mut body = json!({"results": page});
            if let (true, Some(last)) = (page.len() < rest.len(), page.last()) {
                body["paging"] = json!({"next": {"after": last["id"]}});
            }
            Ok(Response::json(200, &body))
        }
        ("GET", [id]) => {
            let key = match request.param("idProperty").as_deref() {
                Some("userId") => "userId",
                _ => "id",
            };
            let found = all.iter().find(|owner| {
                owner[key] == *id || id.parse::<u64>().is_ok_and(|number| owner[key] == number)
            });
            let found = found.ok_or_else(|| HsError::not_found(id))?;
            Ok(Response::json(200, found))
        }
        (_, [] | [_]) => Err(HsError::method()),
        _ => Err(HsError::no_resource()),
    }
}

/// The one pipeline of deals, with the stages that `dealstage` takes; other objects have none.
pub fn pipelines(store: &Store, name: &str, path: &[&str]) -> Answer {
    let at = portal::position(store, name).ok_or_else(|| super::unknown_type(name))?;
    let stages = store.objects[at].def.field("dealstage");
    let pipelines = stages.map(|(_, field)| {
        let last = field.spec.values.len().max(2) - 1;
        let stages = field.spec.values.iter().enumerate().map(|(at, stage)| {
            json!({
                "id": stage,
                "label": stage,
                "displayOrder": at,
                "metadata": {
                    "isClosed": (at + 1 >= last).to_string(),
                    "probability": format!("{:.1}", at as f64 / last as f64),
                },
                "createdAt": FOUNDED,
                "updatedAt": FOUNDED,
                "archived": false,
            })
        });
        json!({
            "id": "default",
            "label": "Sales Pipeline",
            "displayOrder": 0,
            "createdAt": FOUNDED,
            "updatedAt": FOUNDED,
            "archived": false,
            "stages": stages.collect::<Vec<_>>(),
        })
    });
    let found = |list: &Json, id: &str| {
        let mut list = list.as_array().into_iter().flatten();
        let found = list.find(|entry| entry["id"] == id).cloned();
        found.ok_or_else(|| HsError::not_found(id))
    };
    let all = Json::from_iter(pipelines);
    let shown = match path {
        [] => json!({"results": all}),
        [id] => found(&all, id)?,
        [id, "stages"] => json!({"results": found(&all, id)?["stages"]}),
        [id, "stages", stage] => found(&found(&all, id)?["stages"], stage)?,
        _ => return Err(HsError::no_resource()),
    };
    Ok(Response::json(200, &shown))
}

/// Custom objects: what there are, and new ones.
pub fn schemas(store: &mut Store, request: &Request, path: &[&str]) -> Answer {
    match (request.method.as_str(), path) {
        ("GET", []) => {
            let custom = store.objects.iter().filter(|object| !built_in(object));
            let results: Vec<_> = custom.map(schema).collect();
            Ok(Response::json(200, &json!({"results": results})))
        }
        ("GET", [name]) => {
            let at = portal::position(store, name).ok_or_else(|| HsError::not_found(name))?;
            Ok(Response::json(200, &schema(&store.objects[at])))
        }
        ("POST", []) => {
            let body = objects::body(request)?;
            let object = created(store, &body)?;
            let shown = schema(&object);
            store.add(object);
            Ok(Response::json(201, &shown))
        }
        (_, [] | [_]) => Err(HsError::method()),
        _ => Err(HsError::no_resource()),
    }
}

fn created(store: &Store, body: &Map<String, Json>) -> Result<Object, HsError> {
    let body = Json::Object(body.clone());
    let text = |value: &Json| value.as_str().map(str::to_owned);
    let missing = |key: &str| HsError::validation(format!("Invalid input JSON: {key} is required"));
    let name = text(&body["name"]).ok_or_else(|| missing("name"))?;
    if portal::position(store, &name).is_some() {
        let message = format!("An object named '{name}' already exists.");
        return Err(HsError::new(409, "OBJECT_ALREADY_EXISTS", message));
    }
    let list = body["properties"]
        .as_array()
        .ok_or_else(|| missing("properties"))?;
    let required = body["requiredProperties"].as_array();
    let required = |name: &str| required.is_some_and(|list| list.iter().any(|one| one == name));
    let fields = list.iter().map(|property| {
        let name = property["name"].as_str().unwrap_or_default();
        let options = property["options"].as_array().into_iter().flatten();
        FieldSpec {
            name: name.to_owned(),
            native: text(&property["type"]).unwrap_or_else(|| "string".into()),
            widget: text(&property["fieldType"]),
            label: text(&property["label"]),
            unique: property["hasUniqueValue"] == true,
            required: required(name),
            values: options
                .filter_map(|option| text(&option["value"]))
                .collect(),
            ..FieldSpec::default()
        }
    });
    let spec = ObjectSpec {
        label: text(&body["labels"]["singular"]),
        plural: text(&body["labels"]["plural"]),
        code: Some(format!("2-{}", 4_101_000 + store.objects.len())),
        fields: fields.collect(),
        ..ObjectSpec::default()
    };
    let mut def = portal::blank(&name);
    portal::define(&mut def, &spec).map_err(|error| HsError::validation(error.to_string()))?;
    Ok(Object::new(def, true))
}

fn built_in(object: &Object) -> bool {
    portal::code(object).starts_with("0-")
}

fn schema(object: &Object) -> Json {
    let def = &object.def;
    let properties = def
        .visible()
        .map(|(_, field)| super::properties::show(def, field));
    let required = def.visible().filter(|(_, field)| field.spec.required);
    let required = required.map(|(_, field)| field.name().to_owned());
    json!({
        "id": portal::code(object),
        "objectTypeId": portal::code(object),
        "fullyQualifiedName": format!("p{}_{}", portal::PORTAL, def.name),
        "name": def.name,
        "labels": {"singular": def.label(), "plural": def.plural()},
        "requiredProperties": required.collect::<Vec<_>>(),
        "searchableProperties": [],
        "secondaryDisplayProperties": [],
        "properties": properties.collect::<Vec<_>>(),
        "associations": [],
        "createdAt": FOUNDED,
        "updatedAt": clock::iso(def.changed),
        "archived": false,
    })
}

pub fn details() -> Response {
    Response::json(
        200,
        &json!({"portalId": portal::PORTAL, "accountType": "STANDARD", "timeZone": "UTC"}),
    )
}

pub fn usage(meter: &Meter, now: i64) -> Response {
    let midnight = (now / clock::DAY_MS + 1) * clock::DAY_MS;
    Response::json(
        200,
        &json!({"results": [{
            "name": "private-apps-api-calls-daily",
            "usageLimit": meter.daily_limit,
            "currentUsage": meter.daily_used,
            "collectedAt": clock::iso(now),
            "resetsAt": clock::iso(midnight),
            "fetchStatus": "SUCCESS",
        }]}),
    )
}
