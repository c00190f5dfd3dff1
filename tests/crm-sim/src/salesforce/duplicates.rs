//! Duplicate rules: a record that agrees with another one in the fields of its object's rule.
//!
//! Guarantees: a caller may insist (`Sforce-Duplicate-Rule-Header: allowSave=true`) unless the rule
//! blocks; a record is no duplicate of itself, nor of a deleted one.

use super::error::SfError;
use super::org;
use super::save::Target;
use crate::http::Request;
use crate::store::{Change, Object};
use crate::value::Value;
use serde_json::json;

const HEADER: &str = "sforce-duplicate-rule-header";

/// Whether the caller wants duplicates saved.
pub fn allowed(request: &Request) -> bool {
    let options = request.header(HEADER).unwrap_or_default();
    options.split([';', ',']).any(|option| {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        name.trim() == "allowSave" && value.trim().eq_ignore_ascii_case("true")
    })
}

pub fn check(object: &Object, target: Target, change: &Change, allow: bool) -> Result<(), SfError> {
    let Some(rule) = &object.def.spec.duplicates else {
        return Ok(());
    };
    let fields = rule.fields.iter();
    let fields = fields.filter_map(|name| object.def.field(name).map(|(at, _)| at));
    let fields: Vec<u16> = fields.collect();
    let touched = change.iter().any(|(at, _)| fields.contains(at));
    if (allow && !rule.block) || !touched {
        return Ok(());
    }
    let own = match target {
        Target::Slot(slot) => Some(slot),
        Target::New => None,
    };
    // What the record will hold; an empty field matches nothing.
    let wanted = fields.iter().map(|at| {
        let sent = change.iter().rev().find(|(sent, _)| sent == at);
        match sent {
            Some((_, value)) => value.as_ref().map(folded),
            None => object.record(own?)?.get(*at).map(folded),
        }
    });
    let Some(wanted) = wanted.collect::<Option<Vec<_>>>() else {
        return Ok(());
    };
    let same = |slot: &u32| {
        let record = object.live(*slot).filter(|_| Some(*slot) != own);
        record.is_some_and(|record| {
            let mut pairs = fields.iter().zip(&wanted);
            pairs.all(|(at, wanted)| record.get(*at).map(folded).as_ref() == Some(wanted))
        })
    };
    let found: Vec<u32> = (0..object.records.len() as u32).filter(same).collect();
    match found.is_empty() {
        true => Ok(()),
        false => Err(detected(object, &found, !rule.block)),
    }
}

fn folded(value: &Value) -> String {
    match value {
        Value::Text(text) => text.to_lowercase(),
        other => format!("{other:?}"),
    }
}

fn detected(object: &Object, found: &[u32], allow_save: bool) -> SfError {
    let name = &object.def.name;
    let message = match allow_save {
        true => "Use one of these records?",
        false => {
            "You're creating a duplicate record. We recommend you use an existing record instead."
        }
    };
    let records: Vec<_> = found
        .iter()
        .map(|slot| {
            let id = org::record_id(object, *slot);
            json!({
                "additionalInformation": [],
                "fieldDiffs": [],
                "matchConfidence": 100.0,
                "record": {"attributes": {"type": name}, "Id": id},
            })
        })
        .collect();
    let rule = format!("Standard_{name}_Duplicate_Rule");
    SfError {
        duplicates: Some(json!({
            "allowSave": allow_save,
            "duplicateRule": rule,
            "duplicateRuleEntityType": name,
            "errorMessage": message,
            "matchResults": [{
                "entityType": name,
                "errors": [],
                "matchEngine": "ExactMatchEngine",
                "matchRecords": records,
                "rule": format!("Standard_{name}_Match_Rule"),
                "size": found.len(),
                "success": true,
            }],
        })),
        ..SfError::new(400, "DUPLICATES_DETECTED", message)
    }
}
