//! Reads by id.

use std::sync::Arc;

use crm_domain::{DataType, ErrorClass, Failure};

use super::super::Dynamics365;
use super::*;
use crate::scripted_server::{Log, drive, field, page, settings};
use crate::{CrmObject, Provider, ReadBatch};

fn read(
    ids: &[&str],
    answer: impl FnMut(usize, &Request) -> Response,
) -> (Result<Vec<Option<CrmObject>>, Failure>, Log) {
    let batch = ReadBatch {
        object: "contacts".to_owned(),
        ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        fields: vec![
            field("firstname", DataType::Text),
            field(
                "parentcustomerid/parentcustomerid_account/accounts",
                DataType::Reference,
            ),
            field("_ownerid_value", DataType::Reference),
            field("modifiedon", DataType::Timestamp),
        ],
        for_write: true,
    };
    drive(Dynamics365.read(&settings(1), Arc::new(batch)), answer)
}

const SELECT: &str = "$select=modifiedon,firstname,_parentcustomerid_value,_ownerid_value";

fn row(id: &str) -> Response {
    let row = json!({
        "@odata.context": "x", "@odata.etag": "W/\"468026\"", "contactid": id, "firstname": null,
        "_parentcustomerid_value": B, "_ownerid_value": C, "modifiedon": "2026-01-02T03:04:05Z",
    });
    answer(200, &row)
}

#[test]
fn one_record_is_read_by_its_own_path() {
    let (result, log) = read(&[A], |_, _| row(A));
    assert_eq!(
        log.lines(),
        [format!("GET /api/data/v9.2/contacts({A})?{SELECT}")]
    );
    let found = result.unwrap().remove(0).unwrap();
    assert_eq!(
        (found.crm_id.as_str(), found.version.as_deref()),
        (A, Some("W/\"468026\""))
    );
    assert_eq!(found.modified_at, Some(1_767_323_045_000));
    let fields = json!({
        "firstname": null, "parentcustomerid/parentcustomerid_account/accounts": B,
        "_ownerid_value": C, "modifiedon": "2026-01-02T03:04:05Z",
    });
    assert_eq!(json!(found.fields), fields);
    let (result, _) = read(&[A], |_, _| missing(A));
    assert!(result.unwrap()[0].is_none());
}

#[test]
fn a_version_that_no_header_holds_is_none() {
    for version in ["W/\"1\"\r\nx: y", "W/\"\u{e9}\""] {
        let row = json!({ "@odata.etag": version, "contactid": A, "firstname": null });
        let (result, _) = read(&[A], |_, _| answer(200, &row));
        assert_eq!(result.unwrap()[0].as_ref().unwrap().version, None);
    }
}

#[test]
fn several_are_read_in_a_batch() {
    assert_eq!(Dynamics365.read_size("contacts"), 100);
    let (result, log) = read(&[A, B, C], |_, _| {
        batched(200, &[row(A), missing(B), row(C)])
    });
    assert_eq!(log.lines(), ["POST /api/data/v9.2/$batch"]);
    assert!(log.requests[0].repeatable);
    let lines: Vec<String> = parts(&log.requests[0])
        .into_iter()
        .map(|part| part.0)
        .collect();
    assert_eq!(
        lines[1],
        format!("GET /api/data/v9.2/contacts({B})?{SELECT} HTTP/1.1")
    );
    let found = result.unwrap();
    assert!(found[1].is_none());
    assert_eq!(found[2].as_ref().unwrap().crm_id, C);
    let (result, log) = read(&[], |_, _| empty(500));
    assert_eq!((result.unwrap().len(), log.requests.len()), (0, 0));
}

#[test]
fn what_is_not_told_is_not_taken_for_gone() {
    let unknown = error("0x80060888", "Could not find a property named 'firstname'");
    let unknown = || answer(400, &unknown);
    let ask = |ids: &[&str], answered: Response| read(ids, |_, _| answered.clone()).0.unwrap_err();
    assert_eq!(ask(&[A], unknown()).class, ErrorClass::Mapping);
    assert_eq!(
        ask(&[A, B], batched(200, &[row(A), unknown()])).class,
        ErrorClass::Mapping
    );
    assert_eq!(
        ask(&[A, B], batched(200, &[row(A)])).class,
        ErrorClass::Internal
    );
    let no_set = error(
        "0x8006088a",
        "Resource not found for the segment 'contacts'.",
    );
    assert_eq!(ask(&[A], answer(404, &no_set)).class, ErrorClass::Mapping);
    assert_eq!(ask(&[A], page(404)).class, ErrorClass::Mapping);
    assert_eq!(ask(&[A, B], missing(A)).class, ErrorClass::Mapping);
}
