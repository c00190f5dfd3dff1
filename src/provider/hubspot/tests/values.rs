//! Values there and back, and as HubSpot keeps them.

use crm_domain::{DataType, Value};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::super::HubSpot;
use crate::Provider;
use crate::scripted_server::values::any_value;

/// What HubSpot answers for what it was sent: nothing for the empty text, choices in its own order.
fn stored(data_type: DataType, wire: &Json) -> Json {
    let text = wire.as_str().expect("HubSpot is sent text alone");
    match data_type {
        _ if text.is_empty() => Json::Null,
        DataType::MultiChoice => {
            let mut words: Vec<&str> = text.split(';').collect();
            words.reverse();
            words.join(";").into()
        }
        _ => wire.clone(),
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back((data_type, value) in any_value()) {
        let wire = HubSpot.to_wire(data_type, &value);
        prop_assert_eq!(&HubSpot.from_wire(data_type, &wire).unwrap(), &value);
        prop_assert_eq!(HubSpot.from_wire(data_type, &stored(data_type, &wire)).unwrap(), value);
    }
}

#[test]
fn each_type_has_its_form() {
    let wire = |data_type, value| HubSpot.to_wire(data_type, &value);
    assert_eq!(wire(DataType::Text, Value::Null), json!(""));
    assert_eq!(wire(DataType::Text, Value::text("O'Neil")), json!("O'Neil"));
    assert_eq!(
        wire(DataType::Number, Value::number("100.00").unwrap()),
        json!("100")
    );
    assert_eq!(wire(DataType::Boolean, Value::Boolean(true)), json!("true"));
    assert_eq!(
        wire(DataType::Date, Value::Date(jiff::civil::date(2026, 1, 2))),
        json!("2026-01-02")
    );
    assert_eq!(
        wire(DataType::Timestamp, Value::Timestamp(0)),
        json!("1970-01-01T00:00:00.000Z")
    );
    assert_eq!(
        wire(DataType::MultiChoice, Value::multi_choice(["b", "a"])),
        json!("a;b")
    );
}

#[test]
fn numbers_and_moments_do_not_flip_flop_between_spellings() {
    let read = |data_type, wire: &str| HubSpot.from_wire(data_type, &json!(wire)).unwrap();
    assert_eq!(
        read(DataType::Number, "100.0"),
        Value::number("100").unwrap()
    );
    assert_eq!(
        read(DataType::Timestamp, "1767323045678"),
        read(DataType::Timestamp, "2026-01-02T03:04:05.678Z")
    );
    assert_eq!(
        read(DataType::Date, "1767312000000"),
        Value::Date(jiff::civil::date(2026, 1, 2))
    );
    assert_eq!(read(DataType::Boolean, "true"), Value::Boolean(true));
    assert_eq!(
        read(DataType::MultiChoice, "b;a;b"),
        Value::multi_choice(["a", "b"])
    );
    for data_type in DataType::ALL {
        assert_eq!(read(data_type, ""), Value::Null, "{data_type}");
    }
}
