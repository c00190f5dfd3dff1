//! The fields of an object of the stub, in the engine's own terms.

use crm_domain::Description;
use serde_json::json;

use super::errors::check;
use crate::errors::unreadable;
use crate::operation::Exchange;
use crate::{BoxOperation, Method, Request};

pub(super) fn describe(object: &str) -> BoxOperation<Description> {
    let request = Request::new(Method::Post, "/describe")
        .json(&json!({ "object": object }))
        .repeatable();
    Box::new(Exchange::new(request, |response| {
        check(&response)?;
        crate::json::parse(&response.body).map_err(|_| unreadable(&response))
    }))
}
