//! Labels of associations between two objects.

use super::kinds::Kind;
use super::{Calls, type_name};
use crate::http::Response;
use crate::hubspot::error::HsError;
use crate::hubspot::objects::{self, Answer};
use serde_json::{Value as Json, json};

impl Calls<'_> {
    pub(super) fn labels(&mut self, (from, to): (usize, usize), path: &[&str]) -> Answer {
        match (self.request.method.as_str(), path) {
            ("GET", []) => Ok(Response::json(200, &self.shown_labels((from, to)))),
            ("POST", []) => {
                let body = objects::body(self.request)?;
                let text = |key: &str| body.get(key).and_then(Json::as_str).map(str::to_owned);
                let label = text("label").filter(|label| !label.is_empty());
                if label.is_none() || text("name").is_none() {
                    let message = "Invalid input JSON: label and name are required";
                    return Err(HsError::validation(message));
                }
                let id = self
                    .links
                    .kinds
                    .label(from, to, [label, text("inverseLabel")]);
                let kind = self.kind(from, id)?;
                let back = self.kind(to, kind.inverse)?;
                let both = json!({"results": [kind.shown(), back.shown()]});
                Ok(Response::json(200, &both))
            }
            ("PUT", []) => {
                let body = objects::body(self.request)?;
                let kind = self.kind(from, number(&body["associationTypeId"])?)?;
                let text = |key: &str| body.get(key).and_then(Json::as_str).map(str::to_owned);
                let labels = [text("label"), text("inverseLabel")];
                self.links.kinds.relabel(kind.id, kind.inverse, labels);
                Ok(Response::empty(204))
            }
            ("DELETE", [id]) => {
                let kind = self.kind(from, number(&Json::from(*id))?)?;
                if kind.label.is_none() || kind.primary() {
                    return Err(HsError::validation("HubSpot's own types cannot be deleted"));
                }
                self.links.forget(&kind);
                self.links.kinds.remove(kind.id, kind.inverse);
                Ok(Response::empty(204))
            }
            _ => Err(HsError::method()),
        }
    }

    fn shown_labels(&mut self, (from, to): (usize, usize)) -> Json {
        self.links.kinds.plain(from, to);
        let kinds = self.links.kinds.between(from, to);
        json!({"results": kinds.map(Kind::shown).collect::<Vec<_>>()})
    }

    /// What version 3 calls them.
    pub(super) fn types(&mut self, (from, to): (usize, usize)) -> Json {
        self.links.kinds.plain(from, to);
        let kinds = self.links.kinds.between(from, to);
        let shown = kinds
            .map(|kind| json!({"id": kind.id.to_string(), "name": type_name(self.store, kind)}));
        json!({"results": shown.collect::<Vec<_>>()})
    }

    fn kind(&self, from: usize, id: u32) -> Result<Kind, HsError> {
        let kind = self.links.kinds.get(from, id);
        kind.cloned()
            .ok_or_else(|| HsError::not_found(&id.to_string()))
    }
}

fn number(value: &Json) -> Result<u32, HsError> {
    let number = match value {
        Json::String(text) => text.parse().ok(),
        value => value.as_u64().and_then(|id| u32::try_from(id).ok()),
    };
    number.ok_or_else(|| HsError::validation("associationTypeId must be a number"))
}
