//! A damaged record in an answer affects no other record.

use crm_domain::{ErrorClass, Failure};

use super::{Shown, VENDORS};
use crate::scripted_server::{drive, settings};
use crate::{ChangesPage, CrmObject};

const IDS: [&str; 3] = ["101", "102", "103"];

fn good(vendor: &Shown, id: &str) -> Vec<u8> {
    (vendor.record)(id_of(vendor, id).as_str(), "\"fine\"")
}

fn id_of(vendor: &Shown, id: &str) -> String {
    match vendor.name {
        "pipedrive" => id.to_owned(),
        _ => format!("\"{id}\""),
    }
}

/// A record with a value that is none: each way in which a body is legal JSON, or nearly, and no
/// text.
fn damaged(vendor: &Shown, id: &str) -> Vec<Vec<u8>> {
    let record = |text: &str| (vendor.record)(&id_of(vendor, id), text);
    let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
    let marked = record("\"@\"");
    let at = marked.iter().position(|&b| b == b'@').expect("a mark");
    let bytes = [&marked[..at], b"a\xff\xc3(", &marked[at + 1..]].concat();
    vec![
        record(r#""half \ud83d""#),
        record(r#""\ude00 half""#),
        record(r#""\ude00\ud83d""#),
        record(&deep),
        bytes,
    ]
}

fn told(object: &CrmObject) -> (&str, Option<ErrorClass>) {
    let class = |failure: &Failure| failure.class;
    (&object.crm_id, object.damage.as_ref().map(class))
}

const TROUBLE: Option<ErrorClass> = Some(ErrorClass::Internal);

/// One record between two that are as they should be.
fn among_good(vendor: &Shown, record: Vec<u8>) -> [Vec<u8>; 3] {
    [good(vendor, IDS[0]), record, good(vendor, IDS[2])]
}

/// The page of changes that a vendor's answer comes to.
fn page(vendor: &Shown, records: &[Vec<u8>]) -> ChangesPage {
    let changes = vendor.provider().changes(&settings(1), vendor.query());
    let (page, _) = drive(changes, |_, request| vendor.page(request, records));
    page.unwrap_or_else(|failure| panic!("{}: {failure}", vendor.name))
}

fn seen(page: &ChangesPage) -> Vec<(&str, Option<ErrorClass>)> {
    page.changes.iter().map(|c| told(&c.object)).collect()
}

/// What is read of the records with these ids.
fn read(vendor: &Shown, records: &[Vec<u8>]) -> Vec<Option<CrmObject>> {
    let read = vendor.provider().read(&settings(1), vendor.read(&IDS));
    let (found, _) = drive(read, |_, _| vendor.found(records));
    found.unwrap_or_else(|failure| panic!("{}: {failure}", vendor.name))
}

fn assert_read(vendor: &Shown, records: &[Vec<u8>], of_the_second: Option<ErrorClass>) {
    let found = read(vendor, records);
    let seen: Vec<_> = found.iter().map(|o| o.as_ref().map(told)).collect();
    let expected = [(IDS[0], None), (IDS[1], of_the_second), (IDS[2], None)];
    let second = String::from_utf8_lossy(&records[1]);
    assert_eq!(seen, expected.map(Some), "{}: {second}", vendor.name);
}

#[test]
fn a_page_goes_on_beside_a_record_that_cannot_be_read() {
    for vendor in &VENDORS {
        for bad in damaged(vendor, IDS[1]) {
            let page = page(vendor, &among_good(vendor, bad.clone()));
            let bad = String::from_utf8_lossy(&bad);
            assert_eq!(
                seen(&page),
                [(IDS[0], None), (IDS[1], TROUBLE), (IDS[2], None)],
                "{}: {bad}",
                vendor.name
            );
            assert_eq!(page.changes[2].object.fields[vendor.text], "fine");
            assert!(!page.more && page.unidentified == 0 && page.next.is_object());
        }
    }
}

#[test]
fn a_read_goes_on_beside_a_record_that_cannot_be_read() {
    for vendor in &VENDORS {
        for bad in damaged(vendor, IDS[1]) {
            assert_read(vendor, &among_good(vendor, bad), TROUBLE);
        }
    }
}

/// Ids that no record can have, as JSON.
const STRANGE: [&str; 7] = [
    r#""1\u0000""#,
    r#""\ud83d""#,
    r#""""#,
    "null",
    "{}",
    "[1]",
    "true",
];

#[test]
fn what_does_not_say_which_record_it_is_is_counted_and_passed() {
    for vendor in &VENDORS {
        for id in STRANGE {
            let page = page(vendor, &among_good(vendor, (vendor.record)(id, "\"x\"")));
            assert_eq!(
                seen(&page),
                [(IDS[0], None), (IDS[2], None)],
                "{} {id}",
                vendor.name
            );
            assert_eq!(
                (page.unidentified, page.more),
                (1, false),
                "{} {id}",
                vendor.name
            );
        }
    }
}

/// A record that an answer may hold without saying so is not gone.
#[test]
fn nobody_is_taken_for_deleted_for_an_id_that_cannot_be_read() {
    for vendor in &VENDORS {
        for id in STRANGE {
            // Dataverse answers by place, and needs no id.
            let by_place = vendor.name == "dynamics365" && !id.contains("\\ud83d");
            let damage = if by_place { None } else { TROUBLE };
            let records = among_good(vendor, (vendor.record)(id, "\"x\""));
            assert_read(vendor, &records, damage);
        }
    }
}

#[test]
fn a_record_without_a_time_is_its_own_trouble_and_keeps_its_place() {
    for vendor in VENDORS
        .iter()
        .filter(|vendor| !["stub", "dynamics365"].contains(&vendor.name))
    {
        let record = |id| String::from_utf8(good(vendor, id)).unwrap();
        let timeless = record(IDS[1]).replace("2026-01-02T03:04:05Z", "never");
        let records = [
            record(IDS[0]).into(),
            timeless.into(),
            record(IDS[2]).into(),
        ];
        let page = page(vendor, &records);
        assert_eq!(
            seen(&page),
            [(IDS[0], None), (IDS[1], TROUBLE), (IDS[2], None)],
            "{}",
            vendor.name
        );
    }
}

/// An answer to a write that names no record that could be is none, whatever its status.
#[test]
fn what_was_written_has_an_id_that_can_be_one() {
    use crm_domain::Value;

    use crate::WriteKind;
    use crate::scripted_server::batch;

    for vendor in &VENDORS {
        for id in STRANGE {
            let body = format!(
                r#"{{"id":{id},"success":true,"data":{{"id":{id}}},"results":[{{"id":{id},"created":true}}]}}"#
            );
            for kind in [WriteKind::Update, WriteKind::Upsert] {
                let batch = batch(
                    vendor.object,
                    kind,
                    vendor.text,
                    &[("101", Value::text("x"))],
                );
                let write = vendor
                    .provider()
                    .write(&settings(2000), std::sync::Arc::new(batch));
                let answer = super::response(body.clone().into_bytes());
                let (outcomes, _) = drive(write, |_, _| answer.clone());
                // Refused, or told as a failure: never written.
                if let Ok(outcomes) = outcomes {
                    assert!(
                        outcomes.iter().all(Result::is_err),
                        "{} {kind:?} {body}",
                        vendor.name
                    );
                }
            }
        }
    }
}
