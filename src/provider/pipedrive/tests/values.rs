//! Values there and back, and as Pipedrive keeps them.

use crm_domain::{DataType, Value};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::super::objects::object;
use super::super::{Pipedrive, values};
use super::{KEY, OTHER};
use crate::scripted_server::field;
use crate::scripted_server::values::any_value;
use crate::{Provider, WriteRecord};

fn record(fields: &[(&str, DataType, Value)]) -> WriteRecord {
    let fields = fields
        .iter()
        .map(|(name, data_type, value)| (field(name, *data_type), value.clone()));
    WriteRecord {
        fields: fields.collect(),
        ..WriteRecord::default()
    }
}

fn body(object_name: &str, fields: &[(&str, DataType, Value)], held: &Json) -> Json {
    let object = object(object_name).unwrap();
    values::body(object, &record(fields), None, None, held)
}

/// What Pipedrive holds after a write: options in its own order.
fn kept(data_type: DataType, mut body: Json) -> Json {
    for value in body.as_object_mut().unwrap().values_mut() {
        if let (DataType::MultiChoice, Json::Array(items)) = (data_type, value) {
            items.reverse();
        }
    }
    body
}

proptest! {
    #[test]
    fn what_is_written_is_read_back((data_type, value) in any_value()) {
        let value = Pipedrive.stored(data_type, value);
        let wire = Pipedrive.to_wire(data_type, &value);
        let read = Pipedrive.from_wire(data_type, &wire).unwrap();
        prop_assert_eq!(read.hash(), value.hash());
        for object_name in ["persons", "leads"] {
            let own = kept(data_type, body(object_name, &[("x", data_type, value.clone())], &Json::Null));
            prop_assert_eq!(&values::read(data_type, values::held(&own, "x")).unwrap(), &value);
            let custom = body(object_name, &[(KEY, data_type, value.clone())], &Json::Null);
            prop_assert_eq!(&values::read(data_type, values::held(&custom, KEY)).unwrap(), &value);
        }
    }

    #[test]
    fn what_is_written_into_a_part_is_read_back(
        (data_type, value) in any_value(), held in any::<bool>(), own in any::<bool>()
    ) {
        let value = Pipedrive.stored(data_type, value);
        let currency = format!("{KEY}.currency");
        let before = match held {
            true => json!({ "custom_fields": { KEY: { "value": 1, "currency": "EUR" } } }),
            false => Json::Null,
        };
        let part = format!("{KEY}.value");
        let mut after = body("deals", &[(&part, data_type, value.clone())], &before);
        if own {
            after = body("deals", &[(&part, data_type, value.clone()), (&currency, DataType::Text, Value::text("USD"))], &before);
        }
        let read = |name: &str, data_type| values::read(data_type, values::held(&after, name)).unwrap();
        prop_assert_eq!(read(&part, data_type), value);
        let expected = match (own, held) { (true, _) => Value::text("USD"), (_, true) => Value::text("EUR"), _ => Value::Null };
        prop_assert_eq!(read(&currency, DataType::Text), expected);
    }
}

#[test]
fn each_type_has_its_form() {
    let wire = |data_type, value| Pipedrive.to_wire(data_type, &value);
    assert_eq!(wire(DataType::Text, Value::Null), json!(null));
    assert_eq!(wire(DataType::Text, Value::text("42")), json!("42"));
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
    for (text, form) in [
        ("42", json!(42)),
        ("0", json!(0)),
        ("042", json!("042")),
        ("-1", json!("-1")),
        ("open", json!("open")),
        ("1234567890123456789", json!("1234567890123456789")),
    ] {
        assert_eq!(wire(DataType::Choice, Value::text(text)), form);
        assert_eq!(wire(DataType::Reference, Value::text(text)), form);
    }
    assert_eq!(
        wire(DataType::MultiChoice, Value::multi_choice(["7", "12"])),
        json!([12, 7])
    );
    // An empty list is refused.
    assert_eq!(wire(DataType::MultiChoice, Value::Null), json!(null));
}

#[test]
fn a_value_is_read_from_whatever_holds_it() {
    for (data_type, held, value) in [
        (
            DataType::Reference,
            json!({ "value": 5, "name": "Ada" }),
            Value::text("5"),
        ),
        (DataType::Reference, json!({ "id": 5 }), Value::text("5")),
        (
            DataType::Text,
            json!({ "value": "1 Main St", "locality": "x" }),
            Value::text("1 Main St"),
        ),
        (
            DataType::Number,
            json!({ "amount": 5, "currency": "EUR" }),
            Value::number("5").unwrap(),
        ),
        (DataType::Boolean, json!(1), Value::Boolean(true)),
        (DataType::Boolean, json!(0), Value::Boolean(false)),
        (
            DataType::MultiChoice,
            json!("7,12"),
            Value::multi_choice(["7", "12"]),
        ),
        (DataType::Text, json!([]), Value::Null),
        (
            DataType::Timestamp,
            json!("2026-01-02 03:04:05"),
            Value::Timestamp(1_767_323_045_000),
        ),
        (
            DataType::Text,
            json!([{ "value": "b@x.test" }, { "value": "a@x.test", "primary": true }]),
            Value::text("a@x.test"),
        ),
        (
            DataType::Text,
            json!([{ "value": "b@x.test", "primary": false }]),
            Value::text("b@x.test"),
        ),
    ] {
        assert_eq!(
            Pipedrive.from_wire(data_type, &held).unwrap(),
            value,
            "{held}"
        );
    }
    let list = json!([{ "value": "a@x.test", "primary": true }]);
    assert_eq!(
        Pipedrive.from_wire(DataType::Json, &list).unwrap(),
        Value::json(list)
    );
}

#[test]
fn another_primary_address_leaves_the_others() {
    let held = json!({ "emails": [
        { "value": "work@x.test", "primary": true, "label": "work" },
        { "value": "home@x.test", "primary": false, "label": "home" },
    ] });
    let emails =
        |value| body("persons", &[("emails", DataType::Text, value)], &held)["emails"].take();
    assert_eq!(
        emails(Value::text("new@x.test")),
        json!([
            { "value": "new@x.test", "primary": true, "label": "work" },
            { "value": "home@x.test", "primary": false, "label": "home" },
        ])
    );
    assert_eq!(
        emails(Value::text("home@x.test")),
        json!([
            { "value": "work@x.test", "primary": false, "label": "work" },
            { "value": "home@x.test", "primary": true, "label": "home" },
        ])
    );
    assert_eq!(emails(Value::Null), json!([]));
    let list = json!([{ "value": "a@x.test" }]);
    assert_eq!(
        body(
            "persons",
            &[("emails", DataType::Json, Value::json(list.clone()))],
            &held
        ),
        json!({ "emails": list })
    );
}

#[test]
fn custom_fields_lie_where_the_version_has_them() {
    let fields = [
        ("title", DataType::Text, Value::text("Acme")),
        (KEY, DataType::Text, Value::text("x")),
        (
            &format!("{OTHER}.value"),
            DataType::Number,
            Value::number("5").unwrap(),
        ),
        (
            &format!("{OTHER}.currency"),
            DataType::Text,
            Value::text("EUR"),
        ),
    ];
    assert_eq!(
        body("deals", &fields, &Json::Null),
        json!({ "title": "Acme", "custom_fields": { KEY: "x", OTHER: { "value": 5, "currency": "EUR" } } })
    );
    assert_eq!(
        body("leads", &fields, &Json::Null),
        json!({ "title": "Acme", KEY: "x", OTHER: 5, (format!("{OTHER}_currency")): "EUR" })
    );
    let place = [("address", DataType::Text, Value::text("1 Main St"))];
    assert_eq!(
        body("organizations", &place, &Json::Null),
        json!({ "address": { "value": "1 Main St" } })
    );
}

#[test]
fn only_what_has_other_parts_is_read_before_it_is_written() {
    let part = format!("{KEY}.value");
    for (object_name, name, data_type, expected) in [
        ("persons", "name", DataType::Text, false),
        ("persons", "emails", DataType::Text, true),
        ("persons", "emails", DataType::Json, false),
        ("persons", &part, DataType::Number, true),
        ("leads", &part, DataType::Number, false),
        ("leads", "value.amount", DataType::Number, true),
    ] {
        let record = record(&[(name, data_type, Value::Null)]);
        let object = object(object_name).unwrap();
        assert_eq!(
            values::needs_held(object, &record),
            expected,
            "{object_name} {name}"
        );
    }
}
