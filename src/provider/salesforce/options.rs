//! Options for every write: how duplicate rules apply, and whether assignment rules run.
//!
//! They are headers of rows and collections. Jobs have neither, so where one is set, no jobs are
//! used.

use serde_json::{Map, Value as Json};

use crate::Request;

pub(super) const DUPLICATE_RULE: &str = "duplicate_rule";
pub(super) const AUTO_ASSIGN: &str = "auto_assign";

/// Fields of the header, as options and as Salesforce name them.
const RULE_FIELDS: [(&str, &str); 2] = [
    ("allow_save", "allowSave"),
    ("run_as_current_user", "runAsCurrentUser"),
];

/// The headers that every write bears.
#[derive(Clone, Default)]
pub(super) struct WriteHeaders {
    duplicate_rule: Option<String>,
    auto_assign: Option<String>,
}

impl WriteHeaders {
    pub fn of(options: &Map<String, Json>) -> WriteHeaders {
        let rule = options.get(DUPLICATE_RULE).map(|rule| {
            let fields = RULE_FIELDS.iter();
            let fields =
                fields.filter_map(|(ours, theirs)| Some(format!("{theirs}={}", rule.get(*ours)?)));
            fields.collect::<Vec<_>>().join("; ")
        });
        WriteHeaders {
            duplicate_rule: rule.filter(|rule| !rule.is_empty()),
            auto_assign: options.get(AUTO_ASSIGN).map(|told| match told {
                Json::Bool(true) => "TRUE".to_owned(),
                Json::String(rule) => rule.clone(),
                _ => "FALSE".to_owned(),
            }),
        }
    }

    /// Whether there are any, so that jobs will not do.
    pub fn any(options: &Map<String, Json>) -> bool {
        [DUPLICATE_RULE, AUTO_ASSIGN]
            .iter()
            .any(|name| options.contains_key(*name))
    }

    pub fn on(&self, request: Request) -> Request {
        let mut request = request;
        if let Some(rule) = &self.duplicate_rule {
            request = request.header("sforce-duplicate-rule-header", rule);
        }
        if let Some(rule) = &self.auto_assign {
            request = request.header("sforce-auto-assign", rule);
        }
        request
    }
}

pub(super) fn check(options: &Map<String, Json>) -> Result<(), (String, &'static str)> {
    let is_rule = |rule: &Json| {
        let fields = rule.as_object().filter(|fields| !fields.is_empty());
        fields.is_some_and(|fields| {
            let known = |name: &String| RULE_FIELDS.iter().any(|(ours, _)| ours == name);
            fields
                .iter()
                .all(|(name, value)| known(name) && value.is_boolean())
        })
    };
    let is_assignment = |told: &Json| match told {
        Json::String(id) => {
            matches!(id.len(), 15 | 18) && id.bytes().all(|b| b.is_ascii_alphanumeric())
        }
        told => told.is_boolean(),
    };
    match (options.get(DUPLICATE_RULE), options.get(AUTO_ASSIGN)) {
        (Some(rule), _) if !is_rule(rule) => Err((
            format!("{DUPLICATE_RULE} cannot be {rule}"),
            "It is an object of allow_save and run_as_current_user, each true or false.",
        )),
        (_, Some(told)) if !is_assignment(told) => Err((
            format!("{AUTO_ASSIGN} cannot be {told}"),
            "It is true, false, or the id of an assignment rule.",
        )),
        _ => Ok(()),
    }
}
