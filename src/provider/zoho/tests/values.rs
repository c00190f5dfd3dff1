//! Values there and back, and as Zoho keeps them.

use crm_domain::{DataType, Value};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::super::Zoho;
use crate::Provider;
use crate::scripted_server::values::any_value;

/// What Zoho shows of what it was sent: names beside ids, choices in its own order, its own time
/// zone.
fn shown(data_type: DataType, wire: &Json) -> Json {
    match (data_type, wire) {
        (DataType::Reference, Json::Object(parts)) => json!({ "name": "x", "id": parts["id"] }),
        (DataType::MultiChoice, Json::Array(items)) => items.iter().rev().cloned().collect(),
        _ => wire.clone(),
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back((data_type, value) in any_value()) {
        let value = Zoho.stored(data_type, value);
        let wire = Zoho.to_wire(data_type, &value);
        for wire in [shown(data_type, &wire), wire] {
            let read = Zoho.from_wire(data_type, &wire).unwrap();
            prop_assert_eq!(read.hash(), value.hash());
        }
    }
}

#[test]
fn each_type_has_its_form() {
    let wire = |data_type, value| Zoho.to_wire(data_type, &value);
    assert_eq!(wire(DataType::Text, Value::Null), json!(null));
    assert_eq!(
        wire(DataType::Number, Value::number("12.50").unwrap()),
        json!(12.5)
    );
    assert_eq!(wire(DataType::Boolean, Value::Boolean(true)), json!(true));
    assert_eq!(wire(DataType::Boolean, Value::Null), json!(false));
    assert_eq!(
        wire(DataType::Date, Value::Date(jiff::civil::date(2026, 1, 2))),
        json!("2026-01-02")
    );
    assert_eq!(
        wire(DataType::Timestamp, Value::Timestamp(1_999)),
        json!("1970-01-01T00:00:01+00:00")
    );
    assert_eq!(
        wire(DataType::MultiChoice, Value::multi_choice(["b", "a"])),
        json!(["a", "b"])
    );
    assert_eq!(
        wire(DataType::Reference, Value::text("55")),
        json!({ "id": "55" })
    );
    assert_eq!(
        wire(DataType::Json, Value::json(json!({ "a": 1 }))),
        json!("{\"a\":1}")
    );
}

#[test]
fn moments_of_any_zone_are_one() {
    let read = |text: &str| Zoho.from_wire(DataType::Timestamp, &json!(text)).unwrap();
    assert_eq!(
        read("2026-01-02T03:04:05-08:00"),
        read("2026-01-02T11:04:05+00:00")
    );
    assert_eq!(
        Zoho.stored(DataType::Boolean, Value::Null),
        Value::Boolean(false)
    );
}
