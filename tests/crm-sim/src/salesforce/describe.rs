//! What objects there are and what fields they have.

use super::{org, reference};
use crate::clock;
use crate::http::{Request, Response};
use crate::schema::{Field, Source};
use crate::store::{Actor, Object, Store};
use crate::value::Kind;
use serde_json::{Value as Json, json};

pub fn resources(version: &str, origin: &str) -> Response {
    let base = format!("/services/data/{version}");
    Response::json(
        200,
        &json!({
            "sobjects": format!("{base}/sobjects"),
            "query": format!("{base}/query"),
            "queryAll": format!("{base}/queryAll"),
            "composite": format!("{base}/composite"),
            "limits": format!("{base}/limits"),
            "jobs": format!("{base}/jobs"),
            "identity": format!("{origin}/id/{}/{}", org::ORG_ID, org::user(Actor::Integration)),
        }),
    )
}

/// Who a token belongs to.
pub fn identity(user: &str, origin: &str) -> Response {
    Response::json(
        200,
        &json!({
            "id": format!("{origin}/id/{}/{user}", org::ORG_ID),
            "user_id": user,
            "organization_id": org::ORG_ID,
            "username": "integration@org.example",
            "display_name": "Integration User",
            "email": "integration@org.example",
            "user_type": "STANDARD",
            "active": true,
            "language": "en_US",
            "locale": "en_US",
            "urls": {"rest": format!("{origin}/services/data/v{{version}}/")},
        }),
    )
}

/// 304 for those who know the definitions already; they are told apart by whole seconds.
fn unless_known(request: &Request, changed: i64, shown: impl FnOnce() -> Json) -> Response {
    let since = request.header("if-modified-since");
    let since = since.and_then(clock::parse_http_date);
    let response = match since.is_some_and(|since| changed.div_euclid(1000) * 1000 <= since) {
        true => Response::empty(304),
        false => Response::json(200, &shown()),
    };
    response.with("Last-Modified", clock::http_date(changed))
}

pub fn global(store: &Store, request: &Request, version: &str) -> Response {
    let changed = store.objects.iter().map(|object| object.def.changed).max();
    unless_known(request, changed.unwrap_or_default(), || {
        let objects: Vec<_> = store.objects.iter().map(|o| summary(o, version)).collect();
        json!({"encoding": "UTF-8", "maxBatchSize": 200, "sobjects": objects})
    })
}

pub fn basic(object: &Object, version: &str) -> Response {
    Response::json(
        200,
        &json!({"objectDescribe": summary(object, version), "recentItems": []}),
    )
}

pub fn object(store: &Store, at: usize, request: &Request, version: &str) -> Response {
    let object = &store.objects[at];
    unless_known(request, object.def.changed, || {
        let mut shown = summary(object, version);
        let fields = object.def.visible().map(|(_, field)| describe(field));
        shown["fields"] = fields.collect();
        let children = reference::children(store, at).map(|(child, field, name)| {
            let def = &store.objects[child].def;
            json!({
                "childSObject": def.name,
                "field": def.fields[field as usize].name(),
                "relationshipName": name,
                "cascadeDelete": false,
                "deprecatedAndHidden": false,
                "restrictedDelete": false,
            })
        });
        shown["childRelationships"] = children.collect();
        shown["recordTypeInfos"] = json!([]);
        shown
    })
}

fn summary(object: &Object, version: &str) -> Json {
    let def = &object.def;
    let base = format!("/services/data/{version}/sobjects/{}", def.name);
    json!({
        "name": def.name,
        "label": def.label(),
        "labelPlural": def.plural(),
        "keyPrefix": org::prefix(def),
        "custom": def.name.ends_with("__c"),
        "customSetting": false,
        "createable": true,
        "updateable": true,
        "deletable": true,
        "undeletable": true,
        "queryable": true,
        "retrieveable": true,
        "replicateable": true,
        "searchable": true,
        "urls": {
            "sobject": base,
            "describe": format!("{base}/describe"),
            "rowTemplate": format!("{base}/{{ID}}"),
        },
    })
}

fn describe(field: &Field) -> Json {
    let spec = &field.spec;
    let text = matches!(
        field.kind,
        Kind::Text | Kind::Email | Kind::Choice | Kind::Choices
    );
    let reference = matches!(field.kind, Kind::Id | Kind::Reference);
    let length = match field.kind {
        Kind::Id | Kind::Reference => 18,
        _ => spec.length.unwrap_or(if text { 255 } else { 0 }),
    };
    let writable = field.writable();
    let relation = (field.kind == Kind::Reference).then(|| reference::relation(&spec.name));
    let choices: Vec<_> = spec
        .values
        .iter()
        .map(|value| {
            let default = field.default.as_ref().and_then(|d| d.as_text()) == Some(value);
            json!({"active": true, "defaultValue": default, "label": value, "value": value, "validFor": null})
        })
        .collect();
    json!({
        "name": spec.name,
        "label": field.label(),
        "type": spec.native,
        "soapType": soap_type(field),
        "length": length,
        "byteLength": if text || reference { length * 3 } else { 0 },
        "precision": spec.precision.unwrap_or(0),
        "scale": spec.scale.unwrap_or(0),
        "digits": if spec.native == "int" { 8 } else { 0 },
        "nillable": !spec.required && field.kind != Kind::Bool && field.source == Source::Stored
            && spec.name != "OwnerId" || field.source == Source::FullName,
        "createable": writable,
        "updateable": writable,
        "defaultedOnCreate": field.default.is_some() || field.kind == Kind::Bool
            || field.source != Source::Stored,
        "defaultValue": null,
        "calculated": spec.calculated,
        "custom": spec.name.ends_with("__c"),
        "externalId": spec.external_id,
        "idLookup": spec.external_id || field.source == Source::Id,
        "unique": spec.unique,
        "caseSensitive": spec.case_sensitive,
        "filterable": spec.length.is_none_or(|length| length <= 4096),
        "sortable": spec.native != "multipicklist",
        "groupable": !matches!(field.kind, Kind::Number | Kind::Second | Kind::Choices),
        "picklistValues": choices,
        "restrictedPicklist": spec.restricted,
        "referenceTo": spec.references,
        "relationshipName": relation.flatten(),
        "compoundFieldName": null,
        "deprecatedAndHidden": false,
        "permissionable": writable && !spec.required,
    })
}

fn soap_type(field: &Field) -> &'static str {
    match field.kind {
        Kind::Id | Kind::Reference => "tns:ID",
        Kind::Bool => "xsd:boolean",
        Kind::Int => "xsd:int",
        Kind::Number | Kind::Decimal => "xsd:double",
        Kind::Date => "xsd:date",
        Kind::Time | Kind::Second => "xsd:dateTime",
        Kind::Text | Kind::Email | Kind::Choice | Kind::Choices => "xsd:string",
    }
}
