//! What a write replaced that nobody had read.

use std::sync::Arc;

use crm_domain::{DataType, ErrorClass, Failure, Value};
use serde_json::{Value as Json, json};

use super::super::HubSpot;
use crate::scripted_server::{Log, answer, body, drive, field, line, settings};
use crate::{DoneBatch, DoneField, DoneRecord, Guard, Overwritten, Provider, Response, WriteKind};

/// The record was last modified at this moment when it was read.
const READ_AT: i64 = 1_767_323_045_678;

fn done(crm_id: &str, read: Value, written: Value) -> DoneRecord {
    DoneRecord {
        crm_id: crm_id.to_owned(),
        modified_at: Some(READ_AT),
        fields: vec![DoneField {
            field: field("city", DataType::Text),
            read,
            written,
        }],
    }
}

fn read_history(
    records: Vec<DoneRecord>,
    answer: impl FnMut(usize, &crate::Request) -> Response,
) -> (Result<Vec<Vec<Overwritten>>, Failure>, Log) {
    let batch = DoneBatch {
        object: "contacts".to_owned(),
        records,
    };
    let operation = HubSpot.overwritten(&settings(1), Arc::new(batch)).unwrap();
    drive(operation, answer)
}

/// An entry of a history, `ms` after the read's time; `u` is a person, `i` an app, `?` says
/// nothing.
fn entry((value, ms, by): (&str, i64, char)) -> Json {
    let timestamp = Value::timestamp_ms(READ_AT + ms).to_json();
    match by {
        'u' => {
            json!({ "value": value, "timestamp": timestamp, "sourceType": "CRM_UI", "sourceId": "userId:9" })
        }
        'i' => {
            json!({ "value": value, "timestamp": timestamp, "sourceType": "INTEGRATION", "sourceId": "567" })
        }
        'a' => {
            json!({ "value": value, "timestamp": timestamp, "sourceType": "AUTOMATION_PLATFORM" })
        }
        _ => json!({ "value": value, "timestamp": timestamp }),
    }
}

fn found(id: &str, history: &[(&str, i64, char)]) -> Json {
    let history: Vec<Json> = history.iter().copied().map(entry).collect();
    json!({ "id": id, "properties": {}, "propertiesWithHistory": { "city": history } })
}

/// What a write of `W` onto a read `R` replaced.
fn replaced(modified_at: Option<i64>, history: &[(&str, i64, char)]) -> Option<String> {
    let record = DoneRecord {
        modified_at,
        ..done("1", Value::text("R"), Value::text("W"))
    };
    let response = answer(200, &json!({ "results": [found("1", history)] }));
    let (result, _) = read_history(vec![record], |_, _| response.clone());
    let mut result = result.unwrap();
    assert_eq!(result.len(), 1);
    let value = result.remove(0).pop()?.value;
    Some(value.as_str().unwrap().to_owned())
}

#[test]
fn only_what_lies_between_our_read_and_our_write_was_replaced() {
    const OLD: (&str, i64, char) = ("R", -9000, 'u');
    for (case, history, expected) in [
        ("no race", &[("W", 500, 'i'), OLD][..], None),
        (
            "a race",
            &[("W", 500, 'i'), ("F", 400, 'u'), OLD],
            Some("F"),
        ),
        (
            "two foreign values: the last was replaced",
            &[("W", 500, 'i'), ("G", 450, 'u'), ("F", 400, 'u'), OLD],
            Some("G"),
        ),
        (
            "there and back again loses nothing",
            &[("W", 500, 'i'), ("R", 450, 'u'), ("F", 400, 'u'), OLD],
            None,
        ),
        (
            "a later edit is newer than ours",
            &[("F", 600, 'u'), ("W", 500, 'i'), OLD],
            None,
        ),
        (
            "a race and a later edit",
            &[("G", 600, 'u'), ("W", 500, 'i'), ("F", 400, 'u'), OLD],
            Some("F"),
        ),
        (
            "a later edit back to what we read",
            &[("R", 600, 'u'), ("W", 500, 'i'), ("F", 400, 'u'), OLD],
            Some("F"),
        ),
        (
            "a person set our value later, after another",
            &[("W", 700, 'u'), ("F", 600, 'u'), ("W", 500, 'i'), OLD],
            None,
        ),
        (
            "a person set our value before us, so ours made no entry",
            &[("W", 400, 'u'), OLD],
            None,
        ),
        (
            "a race with an app that set our value first",
            &[("W", 500, 'i'), ("F", 450, 'u'), ("W", 400, 'i'), OLD],
            Some("F"),
        ),
        (
            "an automation's value is foreign too",
            &[("W", 500, 'i'), ("F", 400, 'a'), OLD],
            Some("F"),
        ),
        (
            "sources that are not told",
            &[("W", 500, '?'), ("F", 400, '?'), ("R", -9000, '?')],
            Some("F"),
        ),
        (
            "our entry under a source of another name",
            &[("W", 500, 'a'), ("F", 400, 'u'), OLD],
            Some("F"),
        ),
        (
            "all in the same millisecond",
            &[("W", 0, 'i'), ("F", 0, 'u'), ("R", 0, 'u')],
            Some("F"),
        ),
        (
            "a millisecond before the record's own time",
            &[("W", 0, 'i'), ("F", -1, 'u'), ("R", -1, 'u')],
            Some("F"),
        ),
        (
            "our value long ago is not our write",
            &[("w", 500, 'i'), OLD, ("W", -9500, 'i'), ("Q", -9900, 'u')],
            None,
        ),
        (
            "our write has no entry at all",
            &[OLD, ("W", -9500, 'i'), ("Q", -9900, 'u')],
            None,
        ),
        (
            "what was read in another form is no race",
            &[("W", 500, 'i'), ("r", -9000, 'u')],
            None,
        ),
        ("history ends with our entry", &[("W", 500, 'i')], None),
        ("no history", &[], None),
    ] {
        assert_eq!(
            replaced(Some(READ_AT), history).as_deref(),
            expected,
            "{case}"
        );
    }
}

#[test]
fn without_the_time_of_the_read_its_value_must_do() {
    const OLD: (&str, i64, char) = ("R", -9000, 'u');
    for (history, expected) in [
        (&[("W", 500, 'i'), OLD][..], None),
        (&[("W", 500, 'i'), ("F", 400, 'u'), OLD], Some("F")),
        (&[("F", 600, 'u'), ("W", 500, 'i'), OLD], None),
        (&[OLD, ("W", -9500, 'i'), ("Q", -9900, 'u')], None),
    ] {
        assert_eq!(replaced(None, history).as_deref(), expected, "{history:?}");
    }
}

#[test]
fn values_are_compared_in_their_canonical_form() {
    let amount = field("amount", DataType::Number);
    let number = |text: &str| Value::number(text).unwrap();
    let cleared = |read: Value, written: Value| DoneField {
        field: amount.clone(),
        read,
        written,
    };
    for (fields, values, expected) in [
        (
            cleared(number("780"), number("12.5")),
            ["12.50", "780.00"],
            None,
        ),
        (cleared(number("780"), Value::Null), ["", "780.0"], None),
        (
            cleared(number("780"), Value::Null),
            ["", "781"],
            Some("781"),
        ),
        (cleared(Value::Null, number("1")), ["1", ""], None),
        // What is no number was set by somebody else for certain.
        (
            cleared(Value::Null, number("1")),
            ["1", "many"],
            Some("many"),
        ),
    ] {
        let history: Vec<Json> = values
            .iter()
            .zip([500, 400])
            .map(|(value, ms)| entry((value, ms, 'i')))
            .collect();
        let found =
            json!({ "results": [{ "id": "1", "propertiesWithHistory": { "amount": history } }] });
        let record = DoneRecord {
            fields: vec![fields],
            ..done("1", Value::Null, Value::Null)
        };
        let (result, _) = read_history(vec![record], |_, _| answer(200, &found));
        let value = result.unwrap().remove(0).pop().map(|lost| lost.value);
        assert_eq!(value, expected.map(Json::from), "{values:?}");
    }
}

#[test]
fn each_record_is_asked_for_once_and_told_in_order() {
    let mut records: Vec<_> = (0..50)
        .map(|n| done(&n.to_string(), Value::text("R"), Value::text("W")))
        .collect();
    records[1].crm_id = "0".to_owned();
    let (result, log) = read_history(records, |_, request| {
        let asked = body(request);
        let ids = asked["inputs"].as_array().unwrap();
        let mut results: Vec<Json> = ids
            .iter()
            .filter(|input| input["id"] != "7")
            .map(|input| {
                found(
                    input["id"].as_str().unwrap(),
                    &[("W", 500, 'i'), ("F", 400, 'u')],
                )
            })
            .collect();
        results.reverse();
        let gone = json!({ "category": "OBJECT_NOT_FOUND", "message": "gone", "context": { "ids": ["7"] } });
        answer(207, &json!({ "results": results, "errors": [gone] }))
    });
    assert_eq!(HubSpot.history_size(), 50);
    assert_eq!(log.requests.len(), 1);
    assert_eq!(
        line(&log.requests[0]),
        "POST /crm/v3/objects/contacts/batch/read"
    );
    let asked = body(&log.requests[0]);
    assert_eq!(asked["inputs"].as_array().unwrap().len(), 49);
    assert_eq!(
        (&asked["properties"], &asked["propertiesWithHistory"]),
        (&json!([]), &json!(["city"]))
    );
    assert!(log.requests[0].repeatable);
    let lost = result.unwrap();
    assert_eq!(lost.len(), 50);
    let silent: Vec<usize> = (0..50).filter(|&n| lost[n].is_empty()).collect();
    assert_eq!(silent, [7]);
    let first = &lost[0][0];
    assert_eq!(
        (first.field.name.as_str(), &first.value),
        ("city", &json!("F"))
    );
    assert_eq!(first.modified_at, Some(READ_AT + 400));
    assert_eq!(first.source.as_deref(), Some("CRM_UI userId:9"));
}

#[test]
fn trouble_is_no_proof_that_nothing_was_replaced() {
    let locked = json!({ "results": [], "errors": [{ "category": "LOCKED", "message": "later" }] });
    for (response, class) in [
        (answer(207, &locked), ErrorClass::Transient),
        (
            answer(200, &json!({ "message": "hm" })),
            ErrorClass::Internal,
        ),
        (
            answer(
                404,
                &json!({ "category": "OBJECT_NOT_FOUND", "message": "no such type" }),
            ),
            ErrorClass::Mapping,
        ),
    ] {
        let record = done("1", Value::text("R"), Value::text("W"));
        let (result, _) = read_history(vec![record], |_, _| response.clone());
        assert_eq!(result.unwrap_err().class, class);
    }
}

#[test]
fn updates_alone_have_something_to_look_back_at() {
    for (kind, guard) in [
        (WriteKind::Update, Guard::Afterwards),
        (WriteKind::Upsert, Guard::None),
        (WriteKind::Delete, Guard::None),
    ] {
        assert_eq!(
            (HubSpot.guard(kind, 1), HubSpot.guard(kind, 100)),
            (guard, guard)
        );
    }
}

#[test]
fn what_is_not_told_is_not_guessed() {
    let nothing = [
        json!({ "results": [{ "id": "1" }], "errors": null }),
        json!({ "results": [{ "id": "1", "propertiesWithHistory": null }] }),
        json!({ "results": [{ "id": "1", "propertiesWithHistory": { "city": null } }] }),
        json!({ "results": [{ "id": "1", "propertiesWithHistory": { "city": [{}] } }] }),
        json!({ "results": [] }),
    ];
    for told in nothing {
        let record = done("1", Value::text("R"), Value::text("W"));
        let (result, _) = read_history(vec![record], |_, _| answer(200, &told));
        assert_eq!(result.unwrap(), [vec![]], "{told}");
    }
}
