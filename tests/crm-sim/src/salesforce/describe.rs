//! What objects there are and what fields they have.

use super::org;
use crate::http::Response;
use crate::schema::{Field, Source};
use crate::store::{Object, Store};
use crate::value::Kind;
use serde_json::{Value as Json, json};

pub fn resources(version: &str) -> Response {
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
        }),
    )
}

pub fn global(store: &Store, version: &str) -> Response {
    let objects: Vec<_> = store.objects.iter().map(|o| summary(o, version)).collect();
    Response::json(
        200,
        &json!({"encoding": "UTF-8", "maxBatchSize": 200, "sobjects": objects}),
    )
}

pub fn basic(object: &Object, version: &str) -> Response {
    Response::json(
        200,
        &json!({"objectDescribe": summary(object, version), "recentItems": []}),
    )
}

pub fn object(object: &Object, version: &str) -> Response {
    let mut shown = summary(object, version);
    let fields = object.def.visible().map(|(_, field)| describe(field));
    shown["fields"] = fields.collect();
    shown["childRelationships"] = json!([]);
    shown["recordTypeInfos"] = json!([]);
    Response::json(200, &shown)
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
    let relation = match spec.name.strip_suffix("Id") {
        Some(base) if field.kind == Kind::Reference => json!(base),
        _ => match spec.name.strip_suffix("__c") {
            Some(base) if field.kind == Kind::Reference => json!(format!("{base}__r")),
            _ => Json::Null,
        },
    };
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
        "relationshipName": relation,
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
