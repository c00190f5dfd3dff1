//! Reading records.

use std::sync::Arc;

use crm_domain::{DataType, ErrorClass, Failure};
use serde_json::{Value as Json, json};

use super::super::HubSpot;
use crate::scripted_server::{answer, body, drive, field, line, settings};
use crate::{CrmObject, Provider, ReadBatch, Request, Response};

fn read(object: &str, response: Response) -> (Result<Vec<Option<CrmObject>>, Failure>, Request) {
    let batch = ReadBatch {
        object: object.to_owned(),
        ids: ["1", "2", "3", "1"].map(str::to_owned).to_vec(),
        fields: vec![
            field("email", DataType::Text),
            field("amount", DataType::Number),
        ],
        ..ReadBatch::default()
    };
    let operation = HubSpot.read(&settings(1), Arc::new(batch));
    let (result, mut log) = drive(operation, |_, _| response.clone());
    (result, log.requests.remove(0))
}

fn record(id: &str, properties: Json) -> Json {
    json!({ "id": id, "properties": properties, "updatedAt": "2026-01-02T03:04:05.678Z", "archived": false })
}

#[test]
fn records_are_told_by_id_and_missing_ones_apart() {
    let third = record(
        "3",
        json!({ "email": null, "amount": "12.50", "hs_object_id": "3", "lastmodifieddate": "2026-01-02T03:04:06.000Z" }),
    );
    let first = record("1", json!({ "email": "a@x.test", "amount": null }));
    let error = json!({ "status": "error", "category": "OBJECT_NOT_FOUND", "message": "gone", "context": { "ids": ["2"] } });
    for (status, errors) in [(207, json!([error])), (200, json!(null))] {
        let results = json!({ "status": "COMPLETE", "results": [third, first], "errors": errors });
        let (result, request) = read("contacts", answer(status, &results));
        let found = result.unwrap();
        assert_eq!(line(&request), "POST /crm/v3/objects/contacts/batch/read");
        assert_eq!(
            body(&request),
            json!({
                "inputs": [{ "id": "1" }, { "id": "2" }, { "id": "3" }],
                "properties": ["amount", "email", "lastmodifieddate"],
                "propertiesWithHistory": [],
            })
        );
        assert!(request.repeatable);
        let ids: Vec<_> = found
            .iter()
            .map(|object| object.as_ref().map(|o| o.crm_id.as_str()))
            .collect();
        assert_eq!(ids, [Some("1"), None, Some("3"), Some("1")]);
        let fields = |i: usize| Json::Object(found[i].as_ref().unwrap().fields.clone());
        assert_eq!(fields(0), json!({ "email": "a@x.test", "amount": null }));
        assert_eq!(fields(2), json!({ "email": null, "amount": "12.50" }));
        assert_eq!(
            found[0].as_ref().unwrap().modified_at,
            Some(1_767_323_045_678)
        );
        assert_eq!(
            found[2].as_ref().unwrap().modified_at,
            Some(1_767_323_046_000)
        );
    }
}

#[test]
fn only_contacts_have_a_modified_date_of_their_own_name() {
    for (object, property) in [
        ("contacts", "lastmodifieddate"),
        ("0-1", "lastmodifieddate"),
        ("companies", "hs_lastmodifieddate"),
        ("deals", "hs_lastmodifieddate"),
        ("2-1234567", "hs_lastmodifieddate"),
    ] {
        let (_, request) = read(object, answer(200, &json!({ "results": [] })));
        assert!(
            body(&request)["properties"]
                .as_array()
                .unwrap()
                .contains(&json!(property)),
            "{object}"
        );
    }
}

#[test]
fn trouble_is_not_taken_for_a_missing_record() {
    let locked = json!({ "results": [], "errors": [{ "category": "LOCKED", "message": "later", "context": { "ids": ["2"] } }] });
    let not_found = json!({ "status": "error", "category": "OBJECT_NOT_FOUND", "message": "no such object type" });
    for (response, class) in [
        (answer(207, &locked), ErrorClass::Transient),
        (answer(404, &not_found), ErrorClass::Mapping),
        (
            answer(200, &json!({ "message": "hm" })),
            ErrorClass::Internal,
        ),
    ] {
        assert_eq!(read("contacts", response).0.unwrap_err().class, class);
    }
}
