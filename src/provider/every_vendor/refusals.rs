//! What refusals of whole batches cost: requests are counted.

use std::collections::BTreeSet;
use std::sync::Arc;

use crm_domain::bisect::BisectBudget;
use crm_domain::{ErrorClass, Value};
use serde_json::{Value as Json, json};

use crate::hubspot::HubSpot;
use crate::scripted_server::{answer, batch, body, drive, settings};
use crate::{Provider, WriteKind};

/// Of `count` records these hold what is refused.
fn spread(count: usize, bad: usize) -> BTreeSet<usize> {
    (0..bad).map(|n| n * count / bad.max(1)).collect()
}

fn hubspot(
    values: &[String],
    refuse: impl Fn(&[(Json, String)]) -> Option<Json>,
) -> (usize, Vec<bool>) {
    let keys: Vec<String> = (0..values.len()).map(|n| n.to_string()).collect();
    let mut requests = 0;
    let mut outcomes = Vec::new();
    for at in (0..values.len()).step_by(100) {
        let part = at..(at + 100).min(values.len());
        let records: Vec<_> = part
            .map(|n| (keys[n].as_str(), Value::text(&values[n])))
            .collect();
        let batch = batch("contacts", WriteKind::Update, "stage", &records);
        let write = HubSpot.write(&settings(1), Arc::new(batch));
        let (result, log) = drive(write, |_, request| {
            let inputs = body(request)["inputs"].as_array().unwrap().clone();
            let held = |input: &Json| {
                (
                    input["id"].clone(),
                    input["properties"]["stage"].as_str().unwrap().to_owned(),
                )
            };
            let held: Vec<(Json, String)> = inputs.iter().map(held).collect();
            match refuse(&held) {
                Some(refusal) => answer(400, &refusal),
                None => {
                    let results: Vec<Json> = held
                        .iter()
                        .map(|(id, _)| json!({ "id": id, "properties": {} }))
                        .collect();
                    answer(200, &json!({ "status": "COMPLETE", "results": results }))
                }
            }
        });
        requests += log.requests.len();
        for outcome in result.unwrap() {
            if let Err(failure) = &outcome {
                assert_eq!(failure.class, ErrorClass::Validation);
            }
            outcomes.push(outcome.is_ok());
        }
    }
    (requests, outcomes)
}

/// As HubSpot words it: about the first value that it does not like, in the message and beside it.
fn bad_option(held: &[(Json, String)]) -> Option<Json> {
    let (_, value) = held.iter().find(|(_, value)| value.starts_with("bad"))?;
    let said = format!("{value} was not one of the allowed options: [new, won]");
    let quoted =
        json!([{ "isValid": false, "message": said, "error": "INVALID_OPTION", "name": "stage" }]);
    Some(json!({
        "status": "error", "category": "VALIDATION_ERROR",
        "message": format!("Property values were not valid: {quoted}"),
        "errors": [{ "message": said, "code": "INVALID_OPTION", "context": { "propertyName": ["stage"] } }],
    }))
}

/// The same without a word of what it is about.
fn silent(held: &[(Json, String)]) -> Option<Json> {
    bad_option(held)
        .map(|_| json!({ "status": "error", "category": "VALIDATION_ERROR", "message": "no" }))
}

fn values(count: usize, bad: &BTreeSet<usize>, kinds: usize) -> Vec<String> {
    let value = |n: usize| match bad.contains(&n) {
        true => format!("bad{}", n % kinds),
        false => "new".to_owned(),
    };
    (0..count).map(value).collect()
}

#[test]
fn a_batch_whose_refusal_names_the_value_goes_again_without_its_records() {
    for (bad, kinds, most) in [
        (1, 1, 11),
        (500, 1, 20),
        (1000, 1, 10),
        (500, 1000, 510),
        (1000, 1000, 1000),
    ] {
        let bad = spread(1000, bad);
        let (requests, written) = hubspot(&values(1000, &bad, kinds), bad_option);
        assert!(
            requests <= most,
            "{} bad of {kinds} kinds: {requests} requests",
            bad.len()
        );
        let expected: Vec<bool> = (0..1000).map(|n| !bad.contains(&n)).collect();
        assert_eq!(written, expected);
    }
}

#[test]
fn at_no_share_of_bad_records_does_a_batch_cost_more_than_its_records() {
    for count in [2_usize, 3, 10, 100] {
        for bad in (0..=count).step_by(count.div_ceil(20)) {
            let bad = spread(count, bad);
            let (requests, written) = hubspot(&values(count, &bad, 1), silent);
            let most = count + BisectBudget::in_vain(count);
            assert!(
                requests <= most,
                "{} of {count}: {requests} requests",
                bad.len()
            );
            let expected: Vec<bool> = (0..count).map(|n| !bad.contains(&n)).collect();
            assert_eq!(written, expected, "{} of {count}", bad.len());
        }
    }
    // Few are found by quarters.
    let (requests, _) = hubspot(&values(100, &spread(100, 1), 1), silent);
    assert!(requests <= 15, "{requests} requests");
}

#[test]
fn a_value_that_only_looks_like_the_named_one_is_not_blamed() {
    let refuse = |held: &[(Json, String)]| {
        let bad = held.iter().find(|(_, value)| value == "bad")?;
        bad_option(std::slice::from_ref(bad))
    };
    let values: Vec<String> = ["ad", "bad", "bad was", "not bad"]
        .map(str::to_owned)
        .to_vec();
    let (requests, written) = hubspot(&values, refuse);
    assert_eq!((requests, written), (2, vec![true, false, true, true]));
}
