//! What a write replaced that nobody had read, by the timeline.

use std::sync::Arc;

use crm_domain::{DataType, Value};
use serde_json::{Value as Json, json};

use super::super::Zoho;
use crate::scripted_server::{answer, drive, empty, field, settings};
use crate::{DoneBatch, DoneField, DoneRecord, Provider, Response};

const READ_AT: i64 = 1_767_323_045_000;

fn change((old, new, seconds, source): (&str, &str, i64, &str)) -> Json {
    json!({
        "audited_time": Value::timestamp_ms(READ_AT + seconds * 1000).to_json(),
        "action": "updated", "source": source, "done_by": { "name": "x", "id": "7" },
        "field_history": [
            { "api_name": "City", "data_type": "text", "_value": { "old": old, "new": new } },
            { "api_name": "Other", "_value": { "old": "a", "new": "b" } },
        ],
    })
}

fn replaced(response: Response) -> Option<(Json, Option<String>)> {
    let batch = DoneBatch {
        object: "Contacts".to_owned(),
        records: vec![DoneRecord {
            crm_id: "42".to_owned(),
            modified_at: Some(READ_AT),
            fields: vec![DoneField {
                field: field("City", DataType::Text),
                read: Value::text("read"),
                written: Value::text("ours"),
            }],
        }],
    };
    let operation = Zoho.overwritten(&settings(1), Arc::new(batch)).unwrap();
    let (result, log) = drive(operation, |_, _| response.clone());
    assert_eq!(
        log.lines(),
        ["GET /crm/v8/Contacts/42/__timeline?per_page=100"]
    );
    let lost = result.unwrap().remove(0).pop()?;
    Some((lost.value, lost.source))
}

#[test]
fn only_what_lies_between_our_read_and_our_write_was_replaced() {
    let told = |changes: &[(&str, &str, i64, &str)]| {
        let entries: Vec<Json> = changes.iter().copied().map(change).collect();
        replaced(answer(200, &json!({ "__timeline": entries, "info": {} })))
    };
    assert_eq!(
        told(&[("read", "ours", 2, "crm_api"), ("x", "read", -9, "crm_ui")]),
        None
    );
    let race = [
        ("theirs", "ours", 2, "crm_api"),
        ("read", "theirs", 1, "crm_ui"),
    ];
    let lost = Some((json!("theirs"), Some("crm_ui userId:7".to_owned())));
    assert_eq!(told(&race), lost);
    assert_eq!(told(&[race[1], race[0]]), lost);
    assert_eq!(told(&[]), None);
}

#[test]
fn what_has_no_timeline_has_no_history() {
    let gone = json!({ "status": "error", "code": "INVALID_DATA", "message": "the related id given seems to be invalid" });
    for response in [empty(204), answer(400, &gone)] {
        assert_eq!(replaced(response), None);
    }
    assert_eq!(Zoho.history_size(), 1);
}
