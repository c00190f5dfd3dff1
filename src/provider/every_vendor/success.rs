//! Success is what a vendor documents, and nothing else.

use std::sync::Arc;

use crm_domain::failure::Scope;
use crm_domain::{ErrorClass, Value};

use super::{VENDORS, response};
use crate::WriteKind;
use crate::scripted_server::{batch, drive, line, settings};

/// Statuses below 400 that say something else than what was asked for, whatever the body.
const OTHERS: [u16; 9] = [202, 203, 205, 206, 226, 301, 302, 307, 308];

#[test]
fn another_status_is_never_taken_for_read() {
    for vendor in &VENDORS {
        for status in OTHERS {
            let known = response(b"{}".to_vec());
            let answer = || crate::Response {
                status,
                ..known.clone()
            };
            let provider = vendor.provider();
            let read = provider.read(&settings(1), vendor.read(&["101", "102"]));
            let failure = drive(read, |_, _| answer()).0.expect_err(vendor.name);
            assert_eq!(
                failure.class,
                ErrorClass::Internal,
                "{} {status}",
                vendor.name
            );
            let changes = provider.changes(&settings(1), vendor.query());
            let failure = drive(changes, |_, _| answer()).0.expect_err(vendor.name);
            assert_eq!(
                failure.class,
                ErrorClass::Internal,
                "{} {status}",
                vendor.name
            );
            let ping = drive(provider.ping(&settings(1)), |_, _| answer()).0;
            assert_eq!(ping.expect_err(vendor.name).class, ErrorClass::Internal);
        }
    }
}

#[test]
fn another_status_is_never_taken_for_written() {
    for vendor in &VENDORS {
        for kind in [WriteKind::Update, WriteKind::Delete] {
            for status in OTHERS {
                for count in [1, 2] {
                    let keys = ["101", "102"];
                    let records: Vec<_> = keys[..count]
                        .iter()
                        .map(|key| (*key, Value::text("x")))
                        .collect();
                    let batch = batch(vendor.object, kind, vendor.text, &records);
                    let answer = crate::Response {
                        status,
                        ..response(b"{}".to_vec())
                    };
                    let write = vendor.provider().write(&settings(2000), Arc::new(batch));
                    let (outcomes, log) = drive(write, |_, _| answer.clone());
                    let outcomes = outcomes
                        .unwrap_or_else(|failure| panic!("{} {status}: {failure}", vendor.name));
                    for outcome in outcomes {
                        let failure = outcome.expect_err(vendor.name);
                        assert_eq!(
                            (failure.class, failure.scope),
                            (ErrorClass::Internal, Scope::Records),
                            "{} {kind:?} {status}",
                            vendor.name
                        );
                    }
                    // Nothing is found out by asking for parts.
                    assert!(
                        log.requests.len() <= count,
                        "{} {status}: {:?}",
                        vendor.name,
                        log.lines()
                    );
                }
            }
        }
    }
}

#[test]
fn no_content_and_an_empty_body_are_not_taken_for_an_answer() {
    for vendor in &VENDORS {
        let provider = vendor.provider();
        for status in [200, 204] {
            let nothing = crate::Response {
                status,
                ..crate::Response::default()
            };
            let read = provider.read(&settings(1), vendor.read(&["101", "102"]));
            let (read, log) = drive(read, |_, _| nothing.clone());
            let documented = log.requests[0].success.contains(&204) && status == 204;
            match documented {
                // So Zoho says that there is none of these.
                true => assert_eq!(read.unwrap().len(), 2, "{}", vendor.name),
                false => assert_eq!(read.expect_err(vendor.name).class, ErrorClass::Internal),
            }
            for count in [1, 2] {
                let keys = ["101", "102"];
                let records: Vec<_> = keys[..count]
                    .iter()
                    .map(|key| (*key, Value::text("x")))
                    .collect();
                let batch = batch(vendor.object, WriteKind::Update, vendor.text, &records);
                let write = provider.write(&settings(2000), Arc::new(batch));
                let (outcomes, log) = drive(write, |_, _| nothing.clone());
                let documented = log.requests[0].success == [status];
                for outcome in outcomes.unwrap() {
                    assert_eq!(
                        outcome.is_ok(),
                        documented && status == 204,
                        "{} {status} {}",
                        vendor.name,
                        line(&log.requests[0])
                    );
                }
            }
        }
    }
}
