use serde_json::json;

use super::*;
use DataType::{Boolean, Choice, Date, MultiChoice, Number, Text, Timestamp};

fn rules(data_type: DataType, json: Json) -> Rules {
    Rules::parse(&json, data_type).unwrap()
}

fn refusal(data_type: DataType, json: Json) -> String {
    let error = Rules::parse(&json, data_type).unwrap_err();
    assert!(!error.hint().is_empty());
    error.to_string()
}

#[test]
fn no_rules_allow_everything() {
    let none = rules(Text, json!({}));
    assert_eq!(none, Rules::default());
    for value in [
        Value::Null,
        Value::text("x"),
        Value::Boolean(false),
        Value::json(json!([1])),
    ] {
        assert_eq!(none.check(&value), Ok(()));
    }
}

#[test]
fn rules_that_make_no_sense_are_refused() {
    assert_eq!(refusal(Text, json!([])), "validation must be a JSON object");
    assert_eq!(
        refusal(Text, json!({"maxlength": 5})),
        "unknown validation rule \"maxlength\": valid values are min, max, max_length, nullable, pattern, choices"
    );
    assert_eq!(
        refusal(Text, json!({"min": 1})),
        "rule min does not apply to a text"
    );
    assert_eq!(
        refusal(DataType::Json, json!({"max_length": 1})),
        "rule max_length does not apply to a json"
    );
    assert_eq!(
        refusal(Boolean, json!({"choices": [true]})),
        "rule choices does not apply to a boolean"
    );
    assert_eq!(
        refusal(Number, json!({"min": "x"})),
        "rule min: \"x\" is not a number"
    );
    assert_eq!(
        refusal(Number, json!({"min": null})),
        "rule min: must be a number"
    );
    assert_eq!(
        refusal(Number, json!({"min": 10.0, "max": 9})),
        "rule min: 10 is above max, 9"
    );
    assert_eq!(
        refusal(Date, json!({"max": "2026-02-30"})),
        "rule max: \"2026-02-30\" is not a date"
    );
    for length in [
        json!(0),
        json!(-1),
        json!(1.5),
        json!("80"),
        json!(4_294_967_296_u64),
        json!(null),
    ] {
        assert!(
            refusal(Text, json!({"max_length": length}))
                .starts_with("rule max_length: must be a whole number")
        );
    }
    assert_eq!(
        refusal(Text, json!({"nullable": "no"})),
        "rule nullable: must be true or false"
    );
    for choices in [
        json!([]),
        json!("a"),
        json!([""]),
        json!([null]),
        json!([["a"]]),
    ] {
        assert!(refusal(Choice, json!({"choices": choices})).starts_with("rule choices: "));
    }
    assert!(refusal(MultiChoice, json!({"choices": ["a;b"]})).contains("semicolon"));
}

#[test]
fn hints_show_the_way() {
    let hint = |json, data_type| Rules::parse(&json, data_type).unwrap_err().hint();
    assert_eq!(
        hint(json!({"min": 1}), Text),
        "It applies to number, date, timestamp."
    );
    assert_eq!(
        hint(json!({"max_length": 0}), Text),
        "For example: {\"max_length\": 80}."
    );
}

#[test]
fn every_example_in_a_hint_is_valid() {
    for rule in Rule::ALL {
        for example in rule.example().split(" or ") {
            let json = serde_json::from_str(example).unwrap();
            let fits = |t: &&DataType| Rules::parse(&json, **t).is_ok();
            assert!(rule.types().iter().any(|t| fits(&t)), "{example}");
        }
    }
}

#[test]
fn bounds_are_inclusive_and_typed() {
    let percent = rules(Number, json!({"min": 0, "max": "100.0"}));
    for (text, broken) in [
        ("-0.01", Some(Rule::Min)),
        ("-0", None),
        ("1e2", None),
        ("100.000000001", Some(Rule::Max)),
    ] {
        let outcome = percent.check(&Value::number(text).unwrap());
        assert_eq!(outcome.err().map(|v| v.rule()), broken, "{text}");
    }
    let year = rules(Date, json!({"min": "2026-01-01", "max": "2026-12-31"}));
    let date = |text| Value::from_postgres(Date, Some(text)).unwrap();
    assert_eq!(year.check(&date("2026-12-31")), Ok(()));
    assert_eq!(
        year.check(&date("2025-12-31")).unwrap_err().to_string(),
        "must be at least 2026-01-01"
    );
    let since = rules(Timestamp, json!({"min": "2026-01-01T01:00:00+01:00"}));
    assert_eq!(since.check(&Value::timestamp_ms(1_767_225_600_000)), Ok(()));
    let early = since
        .check(&Value::timestamp_ms(1_767_225_599_999))
        .unwrap_err();
    assert_eq!(
        early.to_string(),
        "must be at least 2026-01-01T00:00:00.000Z"
    );
    // A value of another type is never within bounds.
    assert!(percent.check(&Value::text("50")).is_err());
}

#[test]
fn lengths_are_counted_as_crms_count_them() {
    assert_eq!(
        ["", "abc", "é", "e\u{301}", "漢字", "👍", "👩‍👩‍👧"].map(utf16_length),
        [0, 3, 1, 2, 2, 2, 8]
    );
    let short = rules(Text, json!({"max_length": 4}));
    assert_eq!(short.check(&Value::text("👍👍")), Ok(()));
    let violation = short.check(&Value::text("👍👍!")).unwrap_err();
    assert_eq!(
        violation.to_string(),
        "has 5 characters, at most 4 are allowed"
    );
    assert_eq!(short.check(&Value::text("  abcd \r\n")), Ok(()));
}

#[test]
fn null_is_subject_to_nullable_alone() {
    let strict = rules(Text, json!({"nullable": false}));
    assert_eq!(
        strict.check(&Value::text(" ")).unwrap_err().rule(),
        Rule::Nullable
    );
    let lenient = rules(
        Choice,
        json!({"choices": ["a"], "pattern": "^a$", "max_length": 1}),
    );
    assert_eq!(lenient.check(&Value::Null), Ok(()));
}

#[test]
fn patterns_match_as_postgres_does() {
    let cases = [
        ("b", "abc", true),
        ("^b", "abc", false),
        ("a.c", "a\nc", true),
        ("a$", "a\nb", false),
        ("(?i)^abc$", "ABC", true),
        ("^(?:ab)+$", "abab", true),
        (r"^\d{2}\.[[:alpha:]]$", "12.x", true),
    ];
    for (pattern, text, matches) in cases {
        let outcome = rules(Text, json!({"pattern": pattern})).check(&Value::text(text));
        assert_eq!(outcome.is_ok(), matches, "{pattern} on {text}");
    }
    assert_eq!(
        rules(Text, json!({"pattern": "^a$"})).pattern.as_deref(),
        Some("^a$")
    );
}

#[test]
fn patterns_that_postgres_reads_otherwise_are_refused() {
    assert_eq!(
        refusal(Text, json!({"pattern": r"\bword"})),
        r"rule pattern: \b is not supported in patterns"
    );
    assert_eq!(
        refusal(Text, json!({"pattern": "a(?=b)"})),
        "rule pattern: (?= is not supported in patterns"
    );
    for pattern in [
        "", "(", "[", "a(?i)b", r"(a)\1", r"\mword", "(?<n>a)", r"a\", "***=a",
    ] {
        assert!(
            refusal(Text, json!({"pattern": pattern})).starts_with("rule pattern: "),
            "{pattern}"
        );
    }
    assert!(
        refusal(Text, json!({"pattern": "a".repeat(1001)})).starts_with("rule pattern: must have")
    );
}

#[test]
fn choices_are_compared_as_values() {
    let stage = rules(Choice, json!({"choices": [" new ", "won", "won"]}));
    assert_eq!(
        stage.choices,
        Some(vec!["new".to_owned(), "won".to_owned()])
    );
    assert_eq!(stage.check(&Value::text("new")), Ok(()));
    let violation = stage.check(&Value::text("New")).unwrap_err();
    assert_eq!(
        violation.to_string(),
        "\"New\" is not one of the choices: new, won"
    );

    let grade = rules(Number, json!({"choices": [1, "2.0"]}));
    assert_eq!(grade.check(&Value::number("2").unwrap()), Ok(()));
    assert_eq!(
        grade
            .check(&Value::number("3").unwrap())
            .unwrap_err()
            .rule(),
        Rule::Choices
    );

    let tags = rules(MultiChoice, json!({"choices": ["a", "b"]}));
    assert_eq!(tags.check(&Value::multi_choice(["b", "a"])), Ok(()));
    assert!(
        tags.check(&Value::multi_choice(["a", "c"]))
            .unwrap_err()
            .to_string()
            .starts_with("\"c\" is not")
    );
}

#[test]
fn violations_of_long_rules_stay_short() {
    let many: Vec<String> = (0..5000).map(|n| format!("{n:0100}")).collect();
    let violation = rules(Choice, json!({"choices": many}))
        .check(&Value::text("x"))
        .unwrap_err();
    assert!(violation.to_string().len() < 1200);
}
