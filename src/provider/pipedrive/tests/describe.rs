//! Field lists page by page, and what they leave out.

use serde_json::{Value as Json, json};

use super::super::Pipedrive;
use crate::scripted_server::{answer, drive, settings};
use crate::{Provider, Response};
use crm_domain::{DataType, Description, ErrorClass, Failure};

fn describe(object: &str, pages: &[Json]) -> (Result<Description, Failure>, Vec<String>) {
    let operation = Pipedrive.describe(&settings(0), object).unwrap();
    let (result, log) = drive(operation, |n, _| -> Response { answer(200, &pages[n]) });
    (result, log.lines())
}

#[test]
fn every_page_is_read_in_either_version() {
    let page = |code: &str, next: Json| {
        json!({"success": true, "additional_data": {"next_cursor": next},
               "data": [{"field_code": code, "field_name": "A label", "field_type": "double", "options": null}]})
    };
    let (one, two) = ("1".repeat(40), "2".repeat(40));
    let pages = [page(&one, "c=".into()), page(&two, Json::Null)];
    let (description, asked) = describe("deal", &pages);
    let description = description.unwrap();
    assert_eq!(
        asked,
        [
            "GET /api/v2/dealFields?limit=500",
            "GET /api/v2/dealFields?limit=500&cursor=c%3D"
        ]
    );
    for name in [&one, &two] {
        let field = description.field(name).unwrap();
        assert_eq!(field.data_types, [DataType::Number]);
        assert_eq!(field.label, "A label");
    }
    let first = |more: bool| {
        json!({"success": true, "data": [{"key": one, "name": "Kind", "field_type": "enum",
                                          "options": [{"id": 7, "label": "Warm"}]}],
               "additional_data": {"pagination": {"start": 0, "limit": 1, "more_items_in_collection": more, "next_start": 1}}})
    };
    let (description, asked) = describe("leads", &[first(true), first(false)]);
    assert_eq!(
        asked,
        [
            "GET /api/v1/leadFields?limit=500",
            "GET /api/v1/leadFields?limit=500&start=1"
        ]
    );
    let description = description.unwrap();
    let kind = description.field(&one).unwrap();
    assert_eq!(
        (kind.choices[0].value.as_str(), kind.is_closed),
        ("7", true)
    );
}

#[test]
fn what_the_lists_leave_out_is_known() {
    let listed = json!({"success": true, "additional_data": {"next_cursor": null}, "data": [
        {"field_code": "name", "field_name": "Name", "field_type": "varchar"},
        {"field_code": "email", "field_name": "Email", "field_type": "varchar"},
    ]});
    let (description, _) = describe("persons", &[listed]);
    let description = description.unwrap();
    assert!(description.is_partial);
    assert!(description.field("name").unwrap().required);
    assert!(description.field("emails").unwrap().updateable);
    assert!(description.field("add_time").unwrap().is_read_only());
    assert!(description.field("title").is_none(), "of deals");
}

#[test]
fn what_is_no_list_of_fields_is_a_failure() {
    let (result, _) = describe("deals", &[json!({"success": true, "data": "none"})]);
    assert_eq!(result.unwrap_err().class, ErrorClass::Internal);
    let operation = Pipedrive.describe(&settings(0), "quotes").unwrap();
    let (result, log) = drive(operation, |_, _| answer(200, &json!({})));
    assert_eq!(result.unwrap_err().code, "unknown_object");
    assert!(log.requests.is_empty());
}
