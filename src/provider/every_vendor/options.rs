//! Options that every write bears.

use std::sync::Arc;

use crm_domain::Value;
use serde_json::{Map, Value as Json, json};

use crate::scripted_server::{batch, drive, empty, line};
use crate::{Provider, Request, Response, Settings, WriteKind, provider};

fn settings(options: Json) -> Settings {
    let options: Map<String, Json> = serde_json::from_value(options).expect("an object");
    Settings::new(options, 2000)
}

/// All requests of a write of so many records, none of which is answered well.
fn requests(
    vendor: &str,
    object: &str,
    kind: WriteKind,
    count: usize,
    options: Json,
) -> Vec<Request> {
    let keys: Vec<String> = (0..count)
        .map(|n| format!("0a000000-0000-4000-8000-{n:012}"))
        .collect();
    let records: Vec<_> = keys
        .iter()
        .map(|key| (key.as_str(), Value::text("x")))
        .collect();
    let batch = batch(object, kind, "x", &records);
    let write = vendor_of(vendor).write(&settings(options), Arc::new(batch));
    let (_, log) = drive(write, |_, _| -> Response { empty(503) });
    log.requests
}

fn vendor_of(name: &str) -> &'static dyn Provider {
    provider(name).expect("a provider")
}

fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    let mut headers = request.headers.iter();
    headers
        .find(|(held, _)| *held == name)
        .map(|(_, value)| value.as_str())
}

#[test]
fn salesforce_is_told_of_duplicate_and_assignment_rules_with_every_write() {
    let options = json!({ "duplicate_rule": { "allow_save": true, "run_as_current_user": false }, "auto_assign": false });
    for kind in [WriteKind::Update, WriteKind::Upsert, WriteKind::Delete] {
        // Jobs have neither header: however many there are, they go by collections.
        for count in [1, 2, 5000] {
            let asked = requests("salesforce", "Lead", kind, count, options.clone());
            for request in &asked {
                assert!(!line(request).contains("/jobs/"), "{}", line(request));
                let held = [
                    header(request, "sforce-duplicate-rule-header"),
                    header(request, "sforce-auto-assign"),
                ];
                assert_eq!(
                    held,
                    [
                        Some("allowSave=true; runAsCurrentUser=false"),
                        Some("FALSE")
                    ]
                );
            }
            let plain = requests("salesforce", "Lead", kind, count, json!({}));
            assert!(
                plain
                    .iter()
                    .all(|request| header(request, "sforce-auto-assign").is_none())
            );
            assert_eq!(line(&plain[0]).contains("/jobs/"), count == 5000);
        }
    }
    let sizes = [json!({}), options].map(|options| {
        vendor_of("salesforce").write_size(&settings(options), WriteKind::Update, 5000)
    });
    assert_eq!(sizes, [5000, 200]);
}

#[test]
fn dynamics_is_told_of_duplicates_and_custom_logic_in_each_part_of_a_batch() {
    let options = json!({ "suppress_duplicate_detection": false, "bypass_business_logic": ["CustomSync", "CustomAsync"] });
    for (kind, detects) in [
        (WriteKind::Update, true),
        (WriteKind::Upsert, true),
        (WriteKind::Delete, false),
    ] {
        let alone = requests("dynamics365", "contacts", kind, 1, options.clone());
        assert_eq!(
            header(&alone[0], "mscrm.suppressduplicatedetection"),
            detects.then_some("false")
        );
        assert_eq!(
            header(&alone[0], "mscrm.bypassbusinesslogicexecution"),
            Some("CustomSync,CustomAsync")
        );
        let batch = requests("dynamics365", "contacts", kind, 3, options.clone());
        let text = String::from_utf8_lossy(&batch[0].body);
        assert_eq!(
            text.matches("mscrm.suppressduplicatedetection: false")
                .count(),
            if detects { 3 } else { 0 }
        );
        assert_eq!(
            text.matches("mscrm.bypassbusinesslogicexecution: CustomSync,CustomAsync")
                .count(),
            3
        );
        let plain = requests("dynamics365", "contacts", kind, 3, json!({}));
        assert!(!String::from_utf8_lossy(&plain[0].body).contains("mscrm"));
    }
}

#[test]
fn options_that_say_nothing_are_refused() {
    for (vendor, good, bad) in [
        (
            "salesforce",
            vec![
                json!({}),
                json!({ "duplicate_rule": { "allow_save": true } }),
                json!({ "auto_assign": "01Q000000000001" }),
            ],
            vec![
                json!({ "duplicate_rule": "allowSave=true" }),
                json!({ "duplicate_rule": {} }),
                json!({ "duplicate_rule": { "allowSave": true } }),
                json!({ "auto_assign": "x\r\ny" }),
                json!({ "auto_assign": 1 }),
            ],
        ),
        (
            "dynamics365",
            vec![
                json!({ "suppress_duplicate_detection": true }),
                json!({ "bypass_business_logic": ["CustomAsync"] }),
            ],
            vec![
                json!({ "suppress_duplicate_detection": "true" }),
                json!({ "bypass_business_logic": "CustomSync" }),
                json!({ "bypass_business_logic": [] }),
                json!({ "bypass_business_logic": ["All"] }),
            ],
        ),
        (
            "zoho",
            vec![
                json!({ "trigger": [] }),
                json!({ "trigger": ["workflow"] }),
                json!({ "org_id": "673573045" }),
                json!({ "org_id": 673573045 }),
            ],
            vec![
                json!({ "org_id": "1\r\nx: y" }),
                json!({ "org_id": "" }),
                json!({ "org_id": ["1"] }),
                json!({ "trigger": "workflow" }),
                json!({ "trigger": ["x"] }),
            ],
        ),
    ] {
        let check = |options: &Json| {
            vendor_of(vendor)
                .check_options(options.as_object().unwrap())
                .is_ok()
        };
        assert!(good.iter().all(&check), "{vendor}");
        assert!(!bad.iter().any(&check), "{vendor}");
    }
}
