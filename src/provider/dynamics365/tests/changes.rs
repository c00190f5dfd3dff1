//! Changes: the first pass, delta links, and links that have lapsed.

use std::sync::Arc;

use crm_domain::{DataType, ErrorClass, Failure};

use super::super::Dynamics365;
use super::*;
use crate::scripted_server::{Log, drive, field, settings};
use crate::{ChangesPage, ChangesQuery, Provider};

const HOST: &str = "https://x.crm.dynamics.com";
const SELECT: &str = "$select=modifiedon,_modifiedby_value,ext,firstname";

fn ask(
    since: Option<Json>,
    answer: impl FnMut(usize, &Request) -> Response,
) -> (Result<ChangesPage, Failure>, Log) {
    let query = ChangesQuery {
        object: "contacts".to_owned(),
        fields: vec![field("firstname", DataType::Text)],
        external_id_field: Some("ext".to_owned()),
        since,
        limit: 7,
    };
    drive(Dynamics365.changes(&settings(1), Arc::new(query)), answer)
}

fn prefer(request: &Request) -> &str {
    let mut found = request.headers.iter().filter(|(name, _)| *name == "prefer");
    found.next().map_or("", |(_, value)| value)
}

fn definition(tracked: bool) -> Response {
    let table = json!({ "LogicalName": "contact", "PrimaryIdAttribute": "contactid", "ChangeTrackingEnabled": tracked });
    answer(200, &json!({ "value": [table] }))
}

fn rows(link: &str, to: &str) -> Response {
    let link = format!("@odata.{link}");
    let to = format!("{HOST}/api/data/v9.2/{to}");
    answer(
        200,
        &json!({ "@odata.context": "x", (link): to, "value": [
            { "@odata.etag": "W/\"1\"", "contactid": A, "firstname": "Ada", "ext": "K-1", "_modifiedby_value": C,
              "modifiedon": "2026-01-02T03:04:05Z" },
            { "@odata.context": "https://x/api/data/v9.2/$metadata#contacts/$deletedEntity", "id": B.to_uppercase(), "reason": "deleted" },
        ] }),
    )
}

fn cursor(link: &str, within: bool) -> Json {
    json!({ "id_column": "contactid", "link": format!("{HOST}/api/data/v9.2/{link}"), "within": within })
}

#[test]
fn the_first_pass_asks_for_all_rows_and_to_be_told_of_changes() {
    let (result, log) = ask(None, |n, _| match n {
        0 => definition(true),
        _ => rows("nextLink", &format!("contacts?{SELECT}&$skiptoken=x")),
    });
    assert_eq!(
        log.lines(),
        [
            "GET /api/data/v9.2/EntityDefinitions?$select=LogicalName,PrimaryIdAttribute,ChangeTrackingEnabled&$filter=EntitySetName%20eq%20%27contacts%27".to_owned(),
            format!("GET /api/data/v9.2/contacts?{SELECT}"),
        ]
    );
    assert_eq!(
        prefer(&log.requests[1]),
        "odata.track-changes,odata.maxpagesize=7"
    );
    let page = result.unwrap();
    assert!(page.more && page.deletions_unknown);
    assert_eq!(
        page.next,
        cursor(&format!("contacts?{SELECT}&$skiptoken=x"), true)
    );
    let [changed, deleted] = &page.changes[..] else {
        panic!("{:?}", page.changes);
    };
    assert_eq!(
        (
            changed.object.crm_id.as_str(),
            changed.external_id.as_deref()
        ),
        (A, Some("K-1"))
    );
    assert_eq!(changed.object.modified_at, Some(1_767_323_045_000));
    assert_eq!(changed.object.fields["firstname"], "Ada");
    assert_eq!(changed.modified_by.as_deref(), Some(C));
    assert!(deleted.deleted && deleted.object.crm_id == B);
    let (result, log) = ask(Some(page.next), |_, _| {
        rows(
            "deltaLink",
            &format!("contacts?{SELECT}&$deltatoken=919042%2108"),
        )
    });
    assert_eq!(
        log.lines(),
        [format!("GET /api/data/v9.2/contacts?{SELECT}&$skiptoken=x")]
    );
    assert_eq!(
        prefer(&log.requests[0]),
        "odata.track-changes,odata.maxpagesize=7"
    );
    let page = result.unwrap();
    assert!(!page.more && !page.deletions_unknown);
    assert_eq!(page.next["within"], false);
}

#[test]
fn a_delta_link_is_followed_at_the_connections_own_host() {
    let held = cursor("contacts?$select=old&$deltatoken=919042%2108%2f22", false);
    let (_, log) = ask(Some(held), |_, _| {
        rows("deltaLink", "contacts?$deltatoken=2")
    });
    assert_eq!(
        log.lines(),
        [format!(
            "GET /api/data/v9.2/contacts?{SELECT}&$deltatoken=919042%2108%2f22"
        )]
    );
    assert_eq!(prefer(&log.requests[0]), "odata.maxpagesize=7");
    let foreign =
        json!({ "id_column": "contactid", "link": "https://evil.test/x", "within": false });
    let (result, log) = ask(Some(foreign), |_, _| empty(200));
    assert_eq!(
        (result.unwrap_err().code.as_str(), log.requests.len()),
        ("strange_link", 0)
    );
}

#[test]
fn a_link_is_asked_for_whatever_it_holds() {
    let held = cursor("contacts?$deltatoken=a b\u{e9}\u{0}#%2f{x}", false);
    let (_, log) = ask(Some(held), |_, _| empty(200));
    assert_eq!(
        log.lines(),
        ["GET /api/data/v9.2/contacts?$deltatoken=a%20b%C3%A9%00%23%2f%7Bx%7D"]
    );
}

#[test]
fn a_link_that_lapsed_is_followed_by_all_rows() {
    for (status, code) in [
        (400, "0x80044352"),
        (410, "0x80044352"),
        (400, "0x0"),
        (404, ""),
    ] {
        let held = cursor("contacts?$deltatoken=1", false);
        let (result, log) = ask(Some(held), |n, _| match n {
            0 => answer(status, &error(code, "Please perform a full sync.")),
            _ => rows("deltaLink", "contacts?$deltatoken=2"),
        });
        assert_eq!(
            log.lines()[1],
            format!("GET /api/data/v9.2/contacts?{SELECT}")
        );
        assert!(result.unwrap().deletions_unknown);
    }
    // Trouble is no reason to begin anew.
    for status in [401, 429, 503] {
        let held = cursor("contacts?$deltatoken=1", false);
        let (result, log) = ask(Some(held), |_, _| answer(status, &error("", "later")));
        assert_eq!((result.is_err(), log.requests.len()), (true, 1));
    }
    // Nor is a column that is not there.
    let held = cursor("contacts?$deltatoken=1", false);
    let unknown = error("0x80060888", "Could not find a property named 'firstname'");
    let (result, log) = ask(Some(held), |_, _| answer(400, &unknown));
    assert_eq!(
        (result.unwrap_err().class, log.requests.len()),
        (ErrorClass::Mapping, 2)
    );
}

#[test]
fn a_table_that_is_not_tracked_or_not_there_is_told() {
    let code = |answered: Response| {
        let (result, _) = ask(None, |n, _| match n {
            0 => answered.clone(),
            _ => answer(200, &json!({ "value": [] })),
        });
        let failure = result.unwrap_err();
        assert_eq!(failure.class, ErrorClass::Mapping);
        failure.code
    };
    assert_eq!(code(definition(false)), "change_tracking_disabled");
    assert_eq!(
        code(answer(200, &json!({ "value": [] }))),
        "unknown_entity_set"
    );
    // Nobody says how to go on.
    assert_eq!(code(definition(true)), "change_tracking_disabled");
}

#[test]
fn a_pass_that_gets_nowhere_ends() {
    let held = cursor("contacts?$skiptoken=1", true);
    let (result, _) = ask(Some(held), |_, _| rows("nextLink", "contacts?$skiptoken=1"));
    assert_eq!(result.unwrap_err().code, "no_progress");
    let (result, _) = ask(Some(json!({ "scan": {} })), |_, _| empty(200));
    assert_eq!(result.unwrap_err().code, "unreadable_cursor");
}
