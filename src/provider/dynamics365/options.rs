//! Options for every write: whether duplicates are detected, and which custom logic is bypassed.

use serde_json::{Map, Value as Json};

use crate::{Method, Request};

pub(super) const SUPPRESS_DUPLICATE_DETECTION: &str = "suppress_duplicate_detection";
pub(super) const BYPASS_BUSINESS_LOGIC: &str = "bypass_business_logic";

/// What can be passed by ("Bypass custom Dataverse logic").
const LOGIC: [&str; 2] = ["CustomSync", "CustomAsync"];

/// The headers that every write bears, in a batch each of its parts.
#[derive(Clone, Default)]
pub(super) struct WriteHeaders {
    suppress: Option<bool>,
    bypass: Option<String>,
}

impl WriteHeaders {
    pub fn of(options: &Map<String, Json>) -> WriteHeaders {
        let logic = options.get(BYPASS_BUSINESS_LOGIC).and_then(Json::as_array);
        let logic = logic.map(|words| words.iter().filter_map(Json::as_str).collect::<Vec<_>>());
        WriteHeaders {
            suppress: options
                .get(SUPPRESS_DUPLICATE_DETECTION)
                .and_then(Json::as_bool),
            bypass: logic
                .map(|words| words.join(","))
                .filter(|words| !words.is_empty()),
        }
    }

    pub fn on(&self, request: Request) -> Request {
        let mut request = request;
        if let (Some(suppress), true) = (self.suppress, request.method != Method::Delete) {
            request = request.header("mscrm.suppressduplicatedetection", suppress.to_string());
        }
        if let Some(bypass) = &self.bypass {
            request = request.header("mscrm.bypassbusinesslogicexecution", bypass);
        }
        request
    }
}

pub(super) fn check(options: &Map<String, Json>) -> Result<(), (String, &'static str)> {
    let is_logic = |told: &Json| {
        let words = told.as_array().filter(|words| !words.is_empty());
        words.is_some_and(|words| {
            words
                .iter()
                .all(|word| LOGIC.iter().any(|known| word == known))
        })
    };
    match (
        options.get(SUPPRESS_DUPLICATE_DETECTION),
        options.get(BYPASS_BUSINESS_LOGIC),
    ) {
        (Some(told), _) if !told.is_boolean() => Err((
            format!("{SUPPRESS_DUPLICATE_DETECTION} cannot be {told}"),
            "It is true or false.",
        )),
        (_, Some(told)) if !is_logic(told) => Err((
            format!("{BYPASS_BUSINESS_LOGIC} cannot be {told}"),
            "It is a list of CustomSync and CustomAsync.",
        )),
        _ => Ok(()),
    }
}
