//! Values there and back, and as Salesforce keeps them.

use crm_domain::{DataType, Value};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::super::Salesforce;
use crate::Provider;
use crate::scripted_server::values::{any_value, double};

/// What Salesforce answers for what it was sent: numbers as doubles, moments with an offset.
fn stored(data_type: DataType, wire: &Json) -> Json {
    match (data_type, wire) {
        (DataType::Number, Json::Number(n)) => {
            let n: f64 = n.as_str().parse().unwrap();
            serde_json::from_str(&format!("{n:?}")).unwrap()
        }
        (DataType::Timestamp, Json::String(moment)) => moment.replace('Z', "+0000").into(),
        (DataType::MultiChoice, Json::String(words)) => {
            let mut words: Vec<&str> = words.split(';').collect();
            words.reverse();
            words.join(";").into()
        }
        _ => wire.clone(),
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back((data_type, value) in any_value()) {
        let wire = Salesforce.to_wire(data_type, &value);
        prop_assert_eq!(Salesforce.from_wire(data_type, &wire).unwrap(), value.clone());
        if data_type != DataType::Number {
            let kept = stored(data_type, &wire);
            prop_assert_eq!(Salesforce.from_wire(data_type, &kept).unwrap(), value);
        }
    }

    #[test]
    fn numbers_survive_as_doubles(value in double()) {
        let kept = stored(DataType::Number, &Salesforce.to_wire(DataType::Number, &value));
        prop_assert_eq!(Salesforce.from_wire(DataType::Number, &kept).unwrap(), value);
    }
}

#[test]
fn each_type_has_its_form() {
    let wire = |data_type, value| Salesforce.to_wire(data_type, &value);
    assert_eq!(wire(DataType::Text, Value::Null), Json::Null);
    assert_eq!(
        wire(DataType::Text, Value::text("O'Neil \"Bob\"")),
        json!("O'Neil \"Bob\"")
    );
    assert_eq!(
        wire(DataType::Number, Value::number("100.00").unwrap()),
        json!(100)
    );
    assert_eq!(wire(DataType::Boolean, Value::Boolean(false)), json!(false));
    assert_eq!(
        wire(DataType::Timestamp, Value::Timestamp(1_767_323_045_678)),
        json!("2026-01-02T03:04:05.678Z")
    );
    assert_eq!(
        wire(DataType::MultiChoice, Value::multi_choice(["b", "[a"])),
        json!("[a;b")
    );
    assert_eq!(
        wire(DataType::Json, Value::json(json!({ "b": 1.0, "a": [] }))),
        json!("{\"a\":[],\"b\":1}")
    );
}

#[test]
fn numbers_and_moments_do_not_flip_flop_between_spellings() {
    let read = |data_type, wire: Json| Salesforce.from_wire(data_type, &wire).unwrap();
    assert_eq!(
        read(DataType::Number, json!(100.0)),
        Value::number("100").unwrap()
    );
    assert_eq!(
        read(DataType::Number, serde_json::from_str("1.0E7").unwrap()),
        Value::number("10000000").unwrap()
    );
    let moment = Value::Timestamp(1_767_323_045_000);
    for spelling in [
        "2026-01-02T03:04:05.000+0000",
        "2026-01-02T03:04:05Z",
        "2026-01-02T04:04:05+01:00",
    ] {
        assert_eq!(read(DataType::Timestamp, json!(spelling)), moment);
    }
    assert_eq!(read(DataType::Text, json!("")), Value::Null);
    assert_eq!(
        read(DataType::Json, json!("typed by hand")),
        Value::json(json!("typed by hand"))
    );
    assert_eq!(read(DataType::Json, json!(" ")), Value::Null);
}
