//! What a write replaced that nobody had read, by the changelog.

use std::sync::Arc;

use crm_domain::{DataType, Value};
use serde_json::{Value as Json, json};

use super::super::Pipedrive;
use super::{list, not_found};
use crate::scripted_server::{drive, field, settings};
use crate::{DoneBatch, DoneField, DoneRecord, Guard, Provider, Response, WriteKind};

const READ_AT: i64 = 1_767_323_045_000;

fn batch(object: &str) -> DoneBatch {
    DoneBatch {
        object: object.to_owned(),
        records: vec![DoneRecord {
            crm_id: "42".to_owned(),
            modified_at: Some(READ_AT),
            fields: vec![DoneField {
                field: field("value", DataType::Number),
                read: Value::number("1").unwrap(),
                written: Value::number("3").unwrap(),
            }],
        }],
    }
}

/// A change from one value to another, so many seconds after the read; by us, or by a person.
fn change((old, new, seconds, by): (&str, &str, i64, char)) -> Json {
    let at = Value::timestamp_ms(READ_AT + seconds * 1000).to_json();
    let (source, agent) = match by {
        'u' => ("app", None),
        'o' => ("api", Some("other/1")),
        _ => ("api", Some("pg_crm/0.1.0")),
    };
    let time = at.as_str().unwrap().replace('T', " ").replace(".000Z", "");
    json!({
        "field_key": "value", "old_value": old, "new_value": new, "time": time,
        "actor_user_id": 7, "change_source": source, "change_source_user_agent": agent,
    })
}

fn replaced(response: Response) -> Option<(String, Option<i64>, Option<String>)> {
    let operation = Pipedrive
        .overwritten(&settings(1), Arc::new(batch("deals")))
        .unwrap();
    let (result, log) = drive(operation, |_, _| response.clone());
    assert_eq!(log.lines(), ["GET /api/v1/deals/42/changelog?limit=100"]);
    let mut told = result.unwrap();
    assert_eq!(told.len(), 1);
    let lost = told.remove(0).pop()?;
    Some((
        lost.value.as_str().unwrap().to_owned(),
        lost.modified_at,
        lost.source,
    ))
}

#[test]
fn only_what_lies_between_our_read_and_our_write_was_replaced() {
    for (case, changes, expected) in [
        (
            "no race",
            &[("1", "3", 2, 'i'), ("0", "1", -9, 'u')][..],
            None,
        ),
        (
            "a race",
            &[("2", "3", 2, 'i'), ("1", "2", 1, 'u'), ("0", "1", -9, 'u')],
            Some("2"),
        ),
        (
            "a race with an app",
            &[("2", "3", 2, 'i'), ("1", "2", 1, 'o')],
            Some("2"),
        ),
        (
            "changed after us",
            &[("3", "2", 3, 'u'), ("1", "3", 2, 'i')],
            None,
        ),
        (
            "only our change is told",
            &[("2.0", "3.00", 2, 'i')],
            Some("2.0"),
        ),
        ("nothing is told", &[], None),
    ] {
        let mut told: Vec<Json> = changes.iter().copied().map(change).collect();
        for _ in 0..2 {
            let lost = replaced(list(told.clone().into(), None));
            assert_eq!(
                lost.as_ref().map(|lost| lost.0.as_str()),
                expected,
                "{case}"
            );
            // In whatever order they come.
            told.reverse();
        }
    }
}

#[test]
fn who_was_replaced_is_told() {
    let told = [change(("2", "3", 2, 'i')), change(("1", "2", 1, 'u'))];
    let (_, at, source) = replaced(list(told.to_vec().into(), None)).unwrap();
    assert_eq!(at, Some(READ_AT + 1000));
    assert_eq!(source.as_deref(), Some("app userId:7"));
}

#[test]
fn what_is_gone_has_no_history() {
    assert_eq!(replaced(not_found()), None);
    for object in ["leads", "notes", "products", "activities", "nothing"] {
        assert!(
            Pipedrive
                .overwritten(&settings(1), Arc::new(batch(object)))
                .is_none()
        );
    }
    assert_eq!(Pipedrive.history_size(), 1);
    assert_eq!(Pipedrive.guard(WriteKind::Update, 25), Guard::Afterwards);
    assert_eq!(Pipedrive.guard(WriteKind::Update, 26), Guard::None);
    assert_eq!(Pipedrive.guard(WriteKind::Upsert, 1), Guard::None);
}
