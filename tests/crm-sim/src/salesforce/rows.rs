//! `/sobjects/{Type}/...`: one record per request, by id or by external id.
//!
//! Guarantees: the conditional headers are honoured exactly where Salesforce honours them
//! (`If-Match` on Account only, the dates everywhere, at one second); a refused write changes
//! nothing.

use super::error::SfError;
use super::save::{self, Target, Writer};
use super::{id, org};
use crate::clock;
use crate::http::{Request, Response};
use crate::store::{Object, Store};
use serde_json::{Map, Value as Json, json};
use std::hash::{DefaultHasher, Hash, Hasher};

pub struct Rows<'a> {
    pub request: &'a Request,
    pub version: &'a str,
    pub writer: Writer<'a>,
}

type Answer = Result<Response, SfError>;

impl Rows<'_> {
    pub fn create(&self, store: &mut Store, at: usize) -> Answer {
        let fields = body_map(self.request)?;
        let change = save::change_of(store, &store.objects[at], &fields, &["attributes"], true)?;
        let object = &mut store.objects[at];
        let saved = save::save(object, Target::New, change, &self.writer)?;
        let id = org::record_id(object, saved.slot);
        let location = format!(
            "/services/data/{}/sobjects/{}/{id}",
            self.version, object.def.name
        );
        let body = json!({"id": id, "success": true, "errors": []});
        Ok(Response::json(201, &body).with("Location", location))
    }

    pub fn by_id(&self, store: &mut Store, at: usize, text: &str) -> Answer {
        let object = &store.objects[at];
        match self.request.method.as_str() {
            "GET" | "HEAD" => {
                let slot = org::live_slot(object, text).ok_or_else(|| gone(object, text))?;
                self.get(object, slot)
            }
            "PATCH" => {
                let slot =
                    org::live_slot(object, text).ok_or_else(|| save::missing_id(object, text))?;
                self.guard(object, slot)?;
                let fields = body_map(self.request)?;
                if fields.keys().any(|key| key.eq_ignore_ascii_case("id")) {
                    let message = "The Id field should not be specified in the sobject data.";
                    return Err(SfError::new(400, "INVALID_FIELD", message));
                }
                let change = save::change_of(store, object, &fields, &["attributes"], false)?;
                let object = &mut store.objects[at];
                save::save(object, Target::Slot(slot), change, &self.writer)?;
                Ok(Response::empty(204))
            }
            "DELETE" => {
                save::delete(&mut store.objects[at], text, &self.writer)?;
                Ok(Response::empty(204))
            }
            method => Err(SfError::method(method, "HEAD,GET,PATCH,DELETE")),
        }
    }

    pub fn by_external_id(&self, store: &mut Store, at: usize, key: &str, value: &str) -> Answer {
        let object = &store.objects[at];
        let method = self.request.method.as_str();
        // Creating by `POST /sobjects/Account/Id` is the one case without a value.
        let target = match (key.eq_ignore_ascii_case("id"), value, method) {
            (true, "", "POST") => Target::New,
            _ => match save::resolve(object, key, value) {
                Err(error) if error.status == 300 => return Ok(self.choices(object, &error)),
                other => other?,
            },
        };
        match (method, target) {
            ("GET" | "HEAD", Target::Slot(slot)) => self.get(object, slot),
            ("DELETE", Target::Slot(slot)) => {
                let id = org::record_id(object, slot);
                save::delete(&mut store.objects[at], &id, &self.writer)?;
                Ok(Response::empty(204))
            }
            ("GET" | "HEAD" | "DELETE", Target::New) => {
                let message = "The requested resource does not exist";
                Err(SfError::new(404, "NOT_FOUND", message))
            }
            ("PATCH" | "POST", target) => self.upsert(store, at, key, value, target),
            _ => Err(SfError::method(method, "HEAD,GET,PATCH,DELETE,POST")),
        }
    }

    fn upsert(&self, store: &mut Store, at: usize, key: &str, value: &str, to: Target) -> Answer {
        let object = &store.objects[at];
        let fields = body_map(self.request)?;
        let barred =
            |name: &String| name.eq_ignore_ascii_case("id") || name.eq_ignore_ascii_case(key);
        if let Some(name) = fields.keys().find(|name| barred(name)) {
            let message = format!("The {name} field should not be specified in the sobject data.");
            return Err(SfError::new(400, "INVALID_FIELD", message));
        }
        let creating = to == Target::New;
        if creating && self.request.param("updateOnly").as_deref() == Some("true") {
            let message = "The requested resource does not exist";
            return Err(SfError::new(404, "NOT_FOUND", message));
        }
        if let Target::Slot(slot) = to {
            self.guard(object, slot)?;
        }
        let mut change = save::change_of(store, object, &fields, &["attributes"], creating)?;
        if creating && !value.is_empty() {
            let raw = crate::value::Raw::Text(value);
            change.push(save::cell(store, object, key, raw, true)?);
        }
        let object = &mut store.objects[at];
        let saved = save::save(object, to, change, &self.writer)?;
        let id = org::record_id(object, saved.slot);
        let body = json!({"id": id, "success": true, "errors": [], "created": saved.created});
        Ok(Response::json(if saved.created { 201 } else { 200 }, &body))
    }

    fn get(&self, object: &Object, slot: u32) -> Answer {
        let fields = org::select(&object.def, &self.request.list("fields"))
            .map_err(|name| SfError::unknown_field(&name, &object.def.name))?;
        let modified = object.records[slot as usize].modified;
        let tag = etag(object, slot);
        let account = object.def.name == "Account";
        let header = |name| self.request.header(name);
        let unchanged = match header("if-none-match") {
            Some(list) if account => tag_listed(list, &tag),
            _ => header("if-modified-since")
                .and_then(clock::parse_http_date)
                .is_some_and(|since| modified / 1000 * 1000 <= since),
        };
        if !unchanged {
            self.guard(object, slot)?;
        }
        let response = match unchanged {
            true => Response::empty(304),
            false => Response::json(
                200,
                &org::Row {
                    object,
                    slot,
                    fields: &fields,
                    version: self.version,
                },
            ),
        };
        let response = response.with("Last-Modified", clock::http_date(modified));
        Ok(if account {
            response.with("ETag", tag)
        } else {
            response
        })
    }

    /// 412 when the caller's picture of the record is stale. Only writes mind an invalid condition.
    fn guard(&self, object: &Object, slot: u32) -> Result<(), SfError> {
        let writes = matches!(self.request.method.as_str(), "PATCH" | "POST");
        let modified = object.records[slot as usize].modified;
        let account = object.def.name == "Account";
        let tags = |name| self.request.header(name).filter(|_| account);
        if let Some(list) = tags("if-match") {
            check_tags(list, "If-Match", writes)?;
            if !tag_listed(list, &etag(object, slot)) {
                return Err(stale());
            }
        }
        if let Some(list) = tags("if-none-match").filter(|_| writes) {
            check_tags(list, "If-None-Match", writes)?;
            if tag_listed(list, &etag(object, slot)) {
                return Err(stale());
            }
        }
        match self.date("if-unmodified-since", writes)? {
            Some(since) if modified.div_euclid(1000) > since.div_euclid(1000) => Err(stale()),
            _ => Ok(()),
        }
    }

    /// A date among the conditions, to the second.
    fn date(&self, name: &str, strict: bool) -> Result<Option<i64>, SfError> {
        let Some(text) = self.request.header(name) else {
            return Ok(None);
        };
        match clock::parse_http_date(text) {
            None if strict => Err(invalid_condition(name, text)),
            date => Ok(date),
        }
    }

    /// HTTP 300: where the records are that an external id matches.
    fn choices(&self, object: &Object, error: &SfError) -> Response {
        let url = |id: &String| {
            format!(
                "/services/data/{}/sobjects/{}/{id}",
                self.version, object.def.name
            )
        };
        Response::json(300, &error.fields.iter().map(url).collect::<Vec<_>>())
    }
}

fn gone(object: &Object, text: &str) -> SfError {
    match (org::slot(object, text), id::well_formed(text)) {
        (Some(_), _) => SfError::new(404, "ENTITY_IS_DELETED", "entity is deleted"),
        (None, true) => {
            let message = "Provided external ID field does not exist or is not accessible: ";
            let message = match id::parse(text) {
                Some(_) => "The requested resource does not exist".to_owned(),
                None => format!("{message}{text}"),
            };
            SfError::new(404, "NOT_FOUND", message)
        }
        (None, false) => {
            let message =
                format!("Provided external ID field does not exist or is not accessible: {text}");
            SfError::new(404, "NOT_FOUND", message)
        }
    }
}

fn etag(object: &Object, slot: u32) -> String {
    let record = &object.records[slot as usize];
    let mut hasher = DefaultHasher::new();
    (slot, record.version, record.modified).hash(&mut hasher);
    format!("\"{:016x}--gzip\"", hasher.finish())
}

fn tag_listed(list: &str, tag: &str) -> bool {
    list.split(',')
        .map(str::trim)
        .any(|held| held == tag || held == "*")
}

fn check_tags(list: &str, name: &str, strict: bool) -> Result<(), SfError> {
    let quoted = |tag: &str| tag.len() > 1 && tag.starts_with('"') && tag.ends_with('"');
    let sound = list
        .split(',')
        .map(str::trim)
        .all(|tag| tag == "*" || quoted(tag));
    match sound || !strict {
        true => Ok(()),
        false => Err(invalid_condition(name, list)),
    }
}

fn stale() -> SfError {
    let message = "The precondition failed: the record has changed";
    SfError::new(412, "PRECONDITION_FAILED", message)
}

fn invalid_condition(name: &str, text: &str) -> SfError {
    let message = format!("Invalid value for header {name}: {text}");
    SfError::new(400, "INVALID_HEADER_VALUE", message)
}

pub fn body_map(request: &Request) -> Result<Map<String, Json>, SfError> {
    match serde_json::from_slice(&request.body) {
        Ok(Json::Object(map)) => Ok(map),
        Ok(_) => Err(SfError::unparsable(
            "Unexpected value; expected START_OBJECT at [line:1, column:1]",
        )),
        Err(error) => Err(SfError::unparsable(format!(
            "{error} at [line:{}, column:{}]",
            error.line(),
            error.column()
        ))),
    }
}
