//! What fields an object of the stub has: it speaks the engine's own words.

use crm_domain::Description;
use serde_json::json;

use super::failure;
use crate::errors::unreadable;
use crate::operation::Exchange;
use crate::{Method, Operation, Request};

pub(super) fn describe(object: &str) -> Box<dyn Operation<Description>> {
    let request = Request::new(Method::Post, "/describe")
        .json(&json!({ "object": object }))
        .repeatable();
    Box::new(Exchange::new(request, |response| {
        match failure(&response) {
            Some(failure) => Err(failure),
            None => crate::json::parse(&response.body).map_err(|_| unreadable(&response)),
        }
    }))
}
