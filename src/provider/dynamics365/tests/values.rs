//! Values there and back, and as Dataverse keeps them.

use crm_domain::{DataType, Value};
use proptest::prelude::*;

use super::super::Dynamics365;
use super::*;
use crate::Provider;
use crate::scripted_server::values::any_value;

proptest! {
    #[test]
    fn what_is_written_is_read_back((data_type, value) in any_value()) {
        let value = match value {
            // Options are numbers.
            Value::MultiChoice(words) => {
                Value::multi_choice(words.iter().map(|word| word.len().to_string()))
            }
            value => Dynamics365.stored(data_type, value),
        };
        let wire = Dynamics365.to_wire(data_type, &value);
        let read = Dynamics365.from_wire(data_type, &wire).unwrap();
        prop_assert_eq!(read.hash(), value.hash());
    }
}

#[test]
fn each_type_has_its_form() {
    let wire = |data_type, value| Dynamics365.to_wire(data_type, &value);
    for data_type in DataType::ALL {
        assert_eq!(wire(data_type, Value::Null), json!(null));
    }
    assert_eq!(wire(DataType::Text, Value::text("12")), json!("12"));
    assert_eq!(
        wire(DataType::Number, Value::number("12.50").unwrap()),
        json!(12.5)
    );
    assert_eq!(wire(DataType::Boolean, Value::Boolean(true)), json!(true));
    assert_eq!(
        wire(DataType::Date, Value::Date(jiff::civil::date(2026, 1, 2))),
        json!("2026-01-02")
    );
    assert_eq!(
        wire(DataType::Timestamp, Value::Timestamp(1_999)),
        json!("1970-01-01T00:00:01Z")
    );
    assert_eq!(
        wire(DataType::Choice, Value::text("100000001")),
        json!(100_000_001)
    );
    assert_eq!(wire(DataType::Choice, Value::text("Web")), json!("Web"));
    assert_eq!(
        wire(DataType::MultiChoice, Value::multi_choice(["3", "1"])),
        json!("1,3")
    );
    assert_eq!(
        wire(DataType::Json, Value::json(json!({ "a": 1 }))),
        json!("{\"a\":1}")
    );
}

#[test]
fn choices_are_read_by_their_numbers() {
    let read = |data_type, wire| Dynamics365.from_wire(data_type, &wire).unwrap();
    assert_eq!(read(DataType::Choice, json!(3)), Value::text("3"));
    assert_eq!(
        read(DataType::MultiChoice, json!("3,1")),
        Value::multi_choice(["1", "3"])
    );
    assert_eq!(read(DataType::MultiChoice, json!(null)), Value::Null);
    assert_eq!(
        read(DataType::Timestamp, json!("2026-01-02T03:04:05Z")),
        Value::Timestamp(1_767_323_045_000)
    );
    let stored = |data_type, value| Dynamics365.stored(data_type, value);
    assert_eq!(
        stored(
            DataType::Reference,
            Value::text(&format!("{{{}}}", A.to_uppercase()))
        ),
        Value::text(A)
    );
    assert_eq!(stored(DataType::Boolean, Value::Null), Value::Null);
}

#[test]
fn options_are_those_that_come_back() {
    let there_and_back = |data_type, value: Value| {
        let stored = Dynamics365.stored(data_type, value);
        let wire = Dynamics365.to_wire(data_type, &stored);
        assert_eq!(
            Dynamics365.from_wire(data_type, &wire),
            Ok(stored),
            "{wire}"
        );
    };
    for option in ["7", "007", "+7", "-7", "-0"] {
        there_and_back(DataType::Choice, Value::text(option));
    }
    there_and_back(DataType::MultiChoice, Value::multi_choice(["1,2", "3"]));
    // What is left of an id without its braces is as canonical as any text, if anything is left.
    for id in ["{ 0A\u{f}}", "{ {0A} }", "{}"] {
        there_and_back(DataType::Reference, Value::text(id));
    }
    // A label is no option, and is not taken for two.
    let label = Value::multi_choice(["Red, dark", "3"]);
    let label = Dynamics365.stored(DataType::MultiChoice, label.clone());
    assert_eq!(label, Value::multi_choice(["Red, dark", "3"]));
    assert!(Dynamics365.unstorable_reason(&label).is_some());
    let options = Dynamics365.stored(DataType::MultiChoice, Value::multi_choice(["1,2", "3"]));
    assert_eq!(options, Value::multi_choice(["1", "2", "3"]));
    assert_eq!(Dynamics365.unstorable_reason(&options), None);
    let read = Dynamics365.from_wire(DataType::MultiChoice, &json!(["1,2", "3"]));
    assert_eq!(read, Ok(Value::multi_choice(["1", "2", "3"])));
}
