//! What changed: statements, rows, and what to do without.

use std::sync::Arc;

use crm_domain::{DataType, ErrorClass, Failure};
use percent_encoding::percent_decode_str;
use serde_json::{Value as Json, json};

use super::super::Salesforce;
use crate::scripted_server::{
    Log, answer, body, drive, field, line, settings, sf_error, with_header,
};
use crate::{ChangesPage, ChangesQuery, Provider, Request, Response, Target};

const DATE: &str = "Fri, 02 Jan 2026 04:00:00 GMT";

fn query(object: &str, since: Option<Json>, limit: usize) -> ChangesQuery {
    ChangesQuery {
        object: object.to_owned(),
        fields: vec![
            field("LastName", DataType::Text),
            field("Level__c", DataType::Number),
        ],
        external_id_field: Some("Ext__c".to_owned()),
        since,
        limit,
    }
}

fn ask(
    query: ChangesQuery,
    answer: impl FnMut(usize, &Request) -> Response,
) -> (Result<ChangesPage, Failure>, Log) {
    drive(Salesforce.changes(&settings(1), Arc::new(query)), answer)
}

fn statement(request: &Request) -> String {
    let Target::Api(path) = &request.target else {
        panic!("{request:?}")
    };
    let text = path.strip_prefix("/services/data/v66.0/queryAll?q=");
    let text = percent_decode_str(text.expect(path)).decode_utf8().unwrap();
    text.into_owned()
}

fn row(id: &str, at: &str) -> Json {
    json!({
        "attributes": { "type": "Contact" }, "Id": id, "SystemModstamp": at, "IsDeleted": false,
        "LastModifiedDate": "2026-01-02T03:00:00.000+0000", "LastModifiedById": "005x",
        "MasterRecordId": null, "Ext__c": "k", "LastName": "Ada", "Level__c": 1.5,
    })
}

fn rows(records: &[Json], done: bool) -> Response {
    let body = json!({ "totalSize": records.len(), "done": done, "records": records });
    with_header(answer(200, &body), "date", DATE)
}

#[test]
fn records_come_with_what_is_known_of_them() {
    let mut deleted = row("003b", "2026-01-02T03:04:06.000+0000");
    deleted["IsDeleted"] = true.into();
    deleted["MasterRecordId"] = "003a".into();
    deleted["Ext__c"] = json!(12.0);
    let first = row("003a", "2026-01-02T03:04:05.000+0000");
    let (page, log) = ask(query("Contact", None, 5000), |_, _| {
        rows(&[first.clone(), deleted.clone()], true)
    });
    let page = page.unwrap();
    assert_eq!(
        statement(&log.requests[0]),
        "SELECT Id,SystemModstamp,IsDeleted,LastModifiedDate,LastModifiedById,MasterRecordId,Ext__c,LastName,Level__c \
         FROM Contact ORDER BY SystemModstamp,Id LIMIT 2000"
    );
    assert!(!page.more && log.requests[0].repeatable);
    let [a, b] = &page.changes[..] else {
        panic!("{page:?}")
    };
    assert_eq!((a.object.crm_id.as_str(), a.deleted), ("003a", false));
    assert_eq!(
        Json::Object(a.object.fields.clone()),
        json!({ "LastName": "Ada", "Level__c": 1.5 })
    );
    assert_eq!(a.external_id.as_deref(), Some("k"));
    assert_eq!(a.modified_by.as_deref(), Some("005x"));
    assert_eq!(a.object.modified_at, Some(1_767_322_800_000));
    assert_eq!(a.merged_into, None);
    assert!(b.deleted);
    assert_eq!(b.merged_into.as_deref(), Some("003a"));
    assert_eq!(b.external_id.as_deref(), Some("12"));
    // What is settled by the CRM's own clock is not asked for again.
    let (page, log) = ask(query("Contact", Some(page.next), 10), |_, _| {
        rows(&[], true)
    });
    assert!(statement(&log.requests[0]).contains(
        " WHERE SystemModstamp >= 2026-01-02T03:04:07Z ORDER BY SystemModstamp,Id LIMIT 10"
    ));
    assert!(page.unwrap().changes.is_empty());
}

#[test]
fn a_second_that_fills_a_page_is_read_by_ids() {
    let at = "2026-01-02T03:04:05.000+0000";
    let full = [row("003a", at), row("003b", at)];
    let (page, log) = ask(query("Contact", None, 2), |_, _| rows(&full, true));
    let page = page.unwrap();
    assert!(page.more);
    assert_eq!(page.changes.len(), 2);
    assert!(statement(&log.requests[1]).ends_with(
        " WHERE SystemModstamp >= 2026-01-02T03:04:05Z AND SystemModstamp < 2026-01-02T03:04:06Z \
         ORDER BY Id LIMIT 2"
    ));
    let (page, log) = ask(query("Contact", Some(page.next), 2), |_, _| {
        rows(&[row("003c", at)], true)
    });
    assert!(statement(&log.requests[0]).contains(" AND Id > '003b' ORDER BY Id "));
    let page = page.unwrap();
    assert!(page.more);
    let (_, log) = ask(query("Contact", Some(page.next), 2), |_, _| rows(&[], true));
    assert!(statement(&log.requests[0]).contains(" WHERE SystemModstamp >= 2026-01-02T03:04:06Z "));
}

#[test]
fn an_answer_that_is_not_done_is_no_end() {
    let seconds = ["05", "06"].map(|s| format!("2026-01-02T03:04:{s}.000+0000"));
    let records = [row("003a", &seconds[0]), row("003b", &seconds[1])];
    let (page, _) = ask(query("Contact", None, 100), |_, _| rows(&records, false));
    let page = page.unwrap();
    assert_eq!((page.changes.len(), page.more), (1, true));
}

#[test]
fn what_an_object_does_not_have_is_done_without() {
    let missing = |name: &str| {
        let message = format!("\nFROM User ORDER BY\n^ No such column '{name}' on entity 'User'.");
        answer(400, &sf_error("INVALID_FIELD", &message))
    };
    let record =
        json!({ "Id": "005a", "SystemModstamp": "2026-01-02T03:04:05.000+0000", "LastName": "x" });
    let (page, log) = ask(query("User", None, 1), |n, _| match n {
        0 => missing("IsDeleted"),
        1 => missing("LastModifiedById"),
        _ => rows(std::slice::from_ref(&record), true),
    });
    let page = page.unwrap();
    assert!(page.more && page.changes.len() == 1 && page.changes[0].modified_by.is_none());
    let asked = statement(&log.requests[2]);
    assert!(
        asked.starts_with("SELECT Id,SystemModstamp,LastModifiedDate,Ext__c,"),
        "{asked}"
    );
    // As long as the pass lasts, it is not asked for again.
    let (_, log) = ask(query("User", Some(page.next), 1), |_, _| rows(&[], true));
    assert!(!statement(&log.requests[0]).contains("IsDeleted"));
    // What the mapping names is not done without.
    let mut mapped = query("User", None, 1);
    mapped
        .fields
        .push(field("lastmodifiedbyid", DataType::Text));
    let (page, log) = ask(mapped, |_, _| missing("LastModifiedById"));
    assert_eq!(page.unwrap_err().class, ErrorClass::Mapping);
    assert_eq!(log.requests.len(), 1);
    assert_eq!(
        statement(&log.requests[0]).matches("astModifiedBy").count(),
        1
    );
}

#[test]
fn fields_that_do_not_fit_a_statement_are_read_apart() {
    let names: Vec<String> = (0..600)
        .map(|n| format!("A_rather_long_name_{n}__c"))
        .collect();
    let mut wide = query("Contact", None, 10);
    wide.fields = names
        .iter()
        .map(|name| field(name, DataType::Text))
        .collect();
    let mut gone = row("003c", "2026-01-02T03:04:05.000+0000");
    gone["IsDeleted"] = true.into();
    let found = [
        row("003a", "2026-01-02T03:04:05.000+0000"),
        row("003b", "2026-01-02T03:04:05.000+0000"),
        gone,
    ];
    let (page, log) = ask(wide, |n, request| match n {
        0 => {
            assert!(line(request).len() < 1000);
            rows(&found, true)
        }
        _ => answer(
            200,
            &json!([{ "Id": "003a", "A_rather_long_name_7__c": "v" }, null]),
        ),
    });
    assert_eq!(
        line(&log.requests[1]),
        "POST /services/data/v66.0/composite/sobjects/Contact"
    );
    assert_eq!(body(&log.requests[1])["ids"], json!(["003a", "003b"]));
    let changes = page.unwrap().changes;
    let told: Vec<_> = changes
        .iter()
        .map(|c| (c.object.crm_id.as_str(), c.deleted))
        .collect();
    assert_eq!(told, [("003a", false), ("003c", true)]);
    assert_eq!(changes[0].object.fields["A_rather_long_name_7__c"], "v");
    assert_eq!(changes[0].external_id.as_deref(), Some("k"));
}

#[test]
fn nothing_from_a_mapping_or_a_cursor_gets_out_of_its_place() {
    for (object, name) in [
        ("Contact", "a,b"),
        ("Contact", "x FROM y"),
        ("Contact'", "a"),
        ("", "a"),
    ] {
        let mut query = query(object, None, 1);
        query.fields.push(field(name, DataType::Text));
        let (page, log) = ask(query, |_, _| rows(&[], true));
        assert_eq!(page.unwrap_err().class, ErrorClass::Mapping);
        assert!(log.requests.is_empty());
    }
    for since in [
        json!(5),
        json!({ "scan": { "at": "x" } }),
        json!({ "archived": {} }),
        json!("2026"),
    ] {
        let (page, log) = ask(query("Contact", Some(since), 1), |_, _| rows(&[], true));
        assert_eq!(page.unwrap_err().code, "unreadable_cursor");
        assert!(log.requests.is_empty());
    }
    let since = json!({ "scan": { "at": "2026-01-02T03:04:05Z", "id": "' OR \\ ''" } });
    let (_, log) = ask(query("Contact", Some(since), 1), |_, _| rows(&[], true));
    assert!(statement(&log.requests[0]).contains(r"Id > '\' OR \\ \'\'' ORDER"));
}

#[test]
fn trouble_keeps_its_class() {
    for (response, class) in [
        (
            answer(
                400,
                &sf_error("INVALID_TYPE", "sObject type 'X' is not supported"),
            ),
            ErrorClass::Mapping,
        ),
        (
            answer(400, &sf_error("INVALID_FIELD", "No such column 'LastName'")),
            ErrorClass::Mapping,
        ),
        (
            answer(404, &sf_error("NOT_FOUND", "nowhere")),
            ErrorClass::Mapping,
        ),
        (
            answer(503, &sf_error("SERVER_UNAVAILABLE", "busy")),
            ErrorClass::Transient,
        ),
        (
            answer(200, &json!({ "records": [{ "Id": "003a" }] })),
            ErrorClass::Internal,
        ),
        (answer(200, &json!([])), ErrorClass::Internal),
    ] {
        let (page, log) = ask(query("Contact", None, 1), |_, _| response.clone());
        assert_eq!(page.unwrap_err().class, class);
        assert_eq!(log.requests.len(), 1);
    }
}
