use serde_json::json;

use super::*;
use DataType::{Boolean, Choice, Date, MultiChoice, Number, Reference, Text, Timestamp};

fn from_postgres(data_type: DataType, text: &str) -> Value {
    Value::from_postgres(data_type, Some(text)).unwrap()
}

fn from_json(data_type: DataType, json: Json) -> Value {
    Value::from_json(data_type, &json).unwrap()
}

#[test]
fn three_spellings_of_a_hundred_are_one_number() {
    let hundred = Value::number("100").unwrap();
    assert_eq!(from_postgres(Number, "100.00"), hundred);
    assert_eq!(from_json(Number, json!("100")), hundred);
    assert_eq!(
        from_json(Number, serde_json::from_str("100.0").unwrap()),
        hundred
    );
    assert_eq!(
        from_json(Number, serde_json::from_str("1e2").unwrap()),
        hundred
    );
}

#[test]
fn numbers_have_one_spelling() {
    let cases = [
        ("0", "0"),
        ("-0", "0"),
        ("-0.000e5", "0"),
        ("0e99999999999999999999999", "0"),
        (" +00012.3400 ", "12.34"),
        (".5", "0.5"),
        ("5.", "5"),
        ("-5e-1", "-0.5"),
        ("1.5e3", "1500"),
        ("123.456E1", "1234.56"),
        ("1e39", "1000000000000000000000000000000000000000"),
        ("1e40", "1e+40"),
        ("-12.5e40", "-1.25e+41"),
        ("1e-38", "0.00000000000000000000000000000000000001"),
        ("0.0000000000000000000000000000000000000000012", "1.2e-42"),
        (
            "12345678901234567890123456789012345678901",
            "1.2345678901234567890123456789012345678901e+40",
        ),
    ];
    for (spelt, canonical) in cases {
        let number: super::Number = spelt.parse().unwrap();
        assert_eq!(number.as_str(), canonical, "{spelt}");
        assert_eq!(canonical.parse(), Ok(number), "{spelt}");
    }
}

#[test]
fn what_is_no_number_is_refused() {
    for text in [
        "x", "1x", "--1", "1..2", "1.2.3", ".", "-", "e5", "1e", "1e+", "1 2", "0x1f", "1_000", "१",
    ] {
        assert!(
            matches!(Value::number(text), Err(ValueError::Unreadable { .. })),
            "{text}"
        );
    }
    for text in ["NaN", "Infinity", "-Infinity"] {
        assert!(
            matches!(Value::number(text), Err(ValueError::Unsupported { .. })),
            "{text}"
        );
    }
}

#[test]
fn numbers_end_where_postgres_numeric_ends() {
    for text in ["1e131071", "-9.9e131071", "1e-16383"] {
        assert!(Value::number(text).is_ok(), "{text}");
    }
    for text in [
        "1e131072",
        "1e-16384",
        "1e999999999",
        "-1e-999999999",
        "1e-9223372036854775808",
        "1e99999999999999999999999",
    ] {
        let error = Value::number(text).unwrap_err();
        assert!(matches!(error, ValueError::OutOfRange { .. }), "{text}");
    }
}

#[test]
fn numbers_are_ordered_by_value() {
    let ascending = [
        "-1e50", "-10", "-9.5", "-1", "-0.01", "-1e-60", "0", "1e-60", "0.01", "1", "1.5", "10",
        "1e50",
    ];
    for pair in ascending
        .map(|text| text.parse::<super::Number>().unwrap())
        .windows(2)
    {
        assert!(pair[0] < pair[1], "{pair:?}");
    }
}

#[test]
fn floors() {
    let cases = [
        ("1.9", Some(1)),
        ("-1.1", Some(-2)),
        ("-2", Some(-2)),
        ("120", Some(120)),
        ("1e-90", Some(0)),
        ("-1e-90", Some(-1)),
        ("9223372036854775807.5", Some(i64::MAX)),
        ("-9223372036854775808", Some(i64::MIN)),
        ("9223372036854775808", None),
        ("-1e131000", None),
    ];
    for (text, floor) in cases {
        assert_eq!(
            text.parse::<super::Number>().unwrap().floor(),
            floor,
            "{text}"
        );
    }
}

#[test]
fn a_moment_has_many_spellings() {
    let moment = Value::timestamp_ms(1_767_323_045_678);
    assert_eq!(moment.to_json(), json!("2026-01-02T03:04:05.678Z"));
    for text in [
        "2026-01-02 03:04:05.678901+00",
        "2026-01-02 03:04:05.678901",
        "2026-01-02T03:04:05.678Z",
        "2026-01-02t03:04:05.678z",
        "2026-01-02T03:04:05.678+0000",
        "2026-01-02T05:34:05.678+02:30",
        "2026-01-01T18:04:05.678-09",
        "2026-01-02 03:05:05.678 +00:01:00",
        "1767323045678",
    ] {
        assert_eq!(from_postgres(Timestamp, text), moment, "{text}");
        assert_eq!(from_json(Timestamp, json!(text)), moment, "{text}");
    }
    assert_eq!(from_json(Timestamp, json!(1_767_323_045_678_i64)), moment);
    assert_eq!(
        from_json(Timestamp, serde_json::from_str("1767323045678.9").unwrap()),
        moment
    );
    assert_eq!(
        from_postgres(Timestamp, "2026-01-02"),
        from_postgres(Timestamp, "2026-01-02 00:00")
    );
    // Rounded down, before the epoch too; a leap second begins the next minute.
    assert_eq!(
        from_postgres(Timestamp, "1969-12-31 23:59:59.9999"),
        Value::Timestamp(-1)
    );
    assert_eq!(
        from_postgres(Timestamp, "1969-12-31 23:59:60"),
        Value::Timestamp(0)
    );
}

#[test]
fn the_first_and_the_last_moment() {
    for text in ["0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"] {
        assert_eq!(from_postgres(Timestamp, text).to_json(), json!(text));
    }
    assert_eq!(
        Value::timestamp_ms(i64::MAX).to_json(),
        json!("9999-12-31T23:59:59.999Z")
    );
    assert_eq!(
        Value::timestamp_ms(i64::MIN).to_json(),
        json!("0001-01-01T00:00:00.000Z")
    );
    assert_eq!(
        from_postgres(Date, "0001-01-01").to_json(),
        json!("0001-01-01")
    );
    for text in [
        "9999-12-31T23:59:59-01:00",
        "0000-12-31",
        "99999999999999999999",
    ] {
        assert!(
            matches!(
                Value::from_postgres(Timestamp, Some(text)),
                Err(ValueError::OutOfRange { .. })
            ),
            "{text}"
        );
        assert!(
            matches!(
                Value::from_postgres(Date, Some(text)),
                Err(ValueError::OutOfRange { .. })
            ),
            "{text}"
        );
    }
}

#[test]
fn a_date_is_a_day_or_its_midnight() {
    let day = from_postgres(Date, "2026-01-02");
    assert_eq!(day.to_json(), json!("2026-01-02"));
    assert_eq!(from_json(Date, json!("2026-01-02T00:00:00.000Z")), day);
    assert_eq!(from_json(Date, json!("2026-01-02T02:00:00+02:00")), day);
    assert_eq!(from_json(Date, json!("1767312000000")), day);
    assert_eq!(from_json(Date, json!(1_767_312_000_000_i64)), day);
    let error = Value::from_json(Date, &json!("2026-01-02T00:00:00.001Z")).unwrap_err();
    assert!(matches!(error, ValueError::NotMidnight { .. }));
}

#[test]
fn what_is_no_moment_is_refused() {
    for text in [
        "2026-02-30",
        "2026-13-01",
        "2026-1-2",
        "02/01/2026",
        "2026-01-02T",
        "2026-01-02 24:00",
        "2026-01-02 03:60",
        "2026-01-02 03:04:05.",
        "2026-01-02 03:04:05 CET",
        "2026-01-02 03:04+1",
        "2026-01-02x",
        "2026-01-02 03:04Zz",
        "é",
    ] {
        assert!(
            matches!(
                Value::from_postgres(Date, Some(text)),
                Err(ValueError::Unreadable { .. })
            ),
            "{text}"
        );
        assert!(
            matches!(
                Value::from_postgres(Timestamp, Some(text)),
                Err(ValueError::Unreadable { .. })
            ),
            "{text}"
        );
    }
    for text in [
        "infinity",
        "-infinity",
        "0044-03-15 BC",
        "0044-03-15 00:00:00+00 BC",
    ] {
        assert!(
            matches!(
                Value::from_postgres(Timestamp, Some(text)),
                Err(ValueError::Unsupported { .. })
            ),
            "{text}"
        );
    }
}

#[test]
fn text_is_as_a_crm_stores_it() {
    assert_eq!(
        Value::text(" \t\u{a0}O'Brien\r\nand\rSons\n\u{1}"),
        Value::Text("O'Brien\nand\nSons".to_owned())
    );
    assert_eq!(Value::text("a\0b\r\0\nc"), Value::Text("ab\nc".to_owned()));
    assert_eq!(Value::text(" \r\n\0"), Value::Null);
    assert_eq!(from_json(Text, json!(true)), Value::text("true"));
    assert_eq!(from_json(Reference, json!(51)), Value::text("51"));
    assert!(Value::from_json(Choice, &json!(["a"])).is_err());
}

#[test]
fn a_boolean_is_a_word() {
    for yes in ["t", "true", "TRUE", " true "] {
        assert_eq!(from_postgres(Boolean, yes), Value::Boolean(true));
    }
    assert_eq!(from_json(Boolean, json!(false)), Value::Boolean(false));
    assert_eq!(from_json(Boolean, json!("False")), Value::Boolean(false));
    assert!(Value::from_json(Boolean, &json!(1)).is_err());
    assert!(Value::from_postgres(Boolean, Some("yes")).is_err());
}

#[test]
fn a_multi_choice_is_a_set() {
    let set = Value::multi_choice(["b", "a"]);
    assert_eq!(set.to_json(), json!(["a", "b"]));
    for text in [
        "a;b",
        " b ; a;;a",
        r#"["b","a"]"#,
        r#" ["a", "b", null, " "]"#,
    ] {
        assert_eq!(from_postgres(MultiChoice, text), set, "{text}");
    }
    assert_eq!(from_json(MultiChoice, json!(["b", "a", "b"])), set);
    assert_eq!(from_json(MultiChoice, json!("b;a")), set);
    assert_eq!(
        from_json(MultiChoice, json!([1, true])),
        Value::multi_choice(["1", "true"])
    );
    assert_eq!(
        from_json(MultiChoice, json!("[x];b")),
        Value::multi_choice(["[x]", "b"])
    );
    assert!(Value::from_json(MultiChoice, &json!([["a"]])).is_err());
    assert!(Value::from_postgres(MultiChoice, Some("[a")).is_err());
}

#[test]
fn null_has_many_names() {
    for data_type in DataType::ALL {
        assert_eq!(Value::from_postgres(data_type, None), Ok(Value::Null));
        assert_eq!(Value::from_json(data_type, &Json::Null), Ok(Value::Null));
        if data_type != DataType::Json {
            assert_eq!(Value::from_postgres(data_type, Some(" ")), Ok(Value::Null));
            assert_eq!(Value::from_json(data_type, &json!("")), Ok(Value::Null));
        }
    }
    assert_eq!(from_postgres(DataType::Json, "null"), Value::Null);
    assert_eq!(from_postgres(MultiChoice, "[]"), Value::Null);
    assert_eq!(from_postgres(MultiChoice, ";"), Value::Null);
    assert_eq!(from_json(DataType::Json, json!("")), Value::Json(json!("")));
}

#[test]
fn json_is_compared_by_value() {
    assert_eq!(
        from_postgres(DataType::Json, r#"{"b": 1.0, "a": [1e2]}"#),
        from_postgres(DataType::Json, r#"{"a":[100],"b":1}"#)
    );
    assert_ne!(
        from_postgres(DataType::Json, r#"{"a": "1"}"#),
        from_postgres(DataType::Json, r#"{"a": 1}"#)
    );
    assert!(Value::from_postgres(DataType::Json, Some("{")).is_err());
    // Too deep to read is an error, not an overflow of the stack.
    assert!(Value::from_postgres(DataType::Json, Some(&"[".repeat(1_000_000))).is_err());
}

#[test]
fn errors_quote_little() {
    let long = "secret ".repeat(1000);
    for data_type in [Number, Boolean, Date, Timestamp, DataType::Json] {
        let error = Value::from_postgres(data_type, Some(&long)).unwrap_err();
        assert!(error.to_string().len() < 120, "{error}");
    }
    let error = Value::from_postgres(Number, Some("12a")).unwrap_err();
    assert_eq!(error.to_string(), "\"12a\" is not a number");
}

#[test]
fn sizes_grow_with_the_content() {
    let small = Value::text("x").size();
    assert!(Value::text(&"x".repeat(8192)).size() >= small + 8191);
    assert!(Value::json(json!([["x".repeat(8192)]])).size() > 8192);
    assert!(Value::multi_choice(["x".repeat(8192)]).size() > 8192);
}

#[test]
fn jsonb_has_no_nul_and_no_endless_number() {
    for (json, fits) in [
        (r#"{"a":[1,"x",null,true]}"#, true),
        (r#""\u0000""#, false),
        (r#"{"a":[{"b\u0000":1}]}"#, false),
        ("[1e131071]", true),
        ("[1e200000]", false),
        ("[1e-16383]", true),
        ("[1e-20000]", false),
    ] {
        let json = serde_json::from_str(json).unwrap();
        assert_eq!(Value::json(json).fits_jsonb(), fits);
    }
}

#[test]
fn a_choice_of_a_row_that_holds_the_separator_is_refused() {
    let list = |text: &str| Value::from_postgres(DataType::MultiChoice, Some(text));
    let error = list(r#"["a;b", "c"]"#).unwrap_err().to_string();
    assert_eq!(
        error,
        r#""a;b" is not one choice: it contains a semicolon, which separates choices"#
    );
    assert_eq!(list(r#"["a", "b"]"#), list("b;a"));
    let held = Value::from_json(DataType::MultiChoice, &json!(["a;b"]));
    assert_eq!(held, list("a;b"), "what a CRM holds is several");
}
