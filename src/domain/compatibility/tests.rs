//! What is found, and how sure of it one can be.

use super::pairs::{Pair, pair};
use super::*;
use crate::description::Choice;

fn field(name: &str, data_type: DataType) -> FieldDescription {
    FieldDescription {
        name: name.to_owned(),
        label: name.to_owned(),
        data_types: vec![data_type],
        crm_type: "native".to_owned(),
        createable: true,
        updateable: true,
        ..FieldDescription::default()
    }
}

fn mapped(crm_field: &str, direction: &str, data_type: &str) -> MappedField {
    MappedField {
        column: "c".to_owned(),
        crm_field: crm_field.to_owned(),
        direction: direction.to_owned(),
        data_type: data_type.to_owned(),
        materialize: true,
        is_transformed: false,
        is_transformed_in: false,
        column_type: String::new(),
        max_length: Some(1),
        choices: None,
    }
}

/// `code of field` of each finding, with its severity.
fn found(fields: Vec<FieldDescription>, mapping: Mapping) -> Vec<String> {
    let description = Description {
        fields,
        free_prefix: Some("x_".to_owned()),
        is_partial: false,
    };
    let findings = judge(&description, &mapping).unwrap();
    let told = findings
        .iter()
        .map(|f| format!("{} {} {}", f.severity, f.code, f.field));
    told.collect()
}

fn one(mapped: MappedField) -> Mapping {
    Mapping {
        on_insert: "ignore".to_owned(),
        external_id_field: None,
        fields: vec![mapped],
    }
}

#[test]
fn a_name_that_is_none_is_an_error_with_a_near_one() {
    let fields = vec![field("LastName", DataType::Text)];
    let mapping = one(mapped("last_name", "outbound", "text"));
    assert_eq!(
        found(fields.clone(), mapping.clone()),
        ["error unknown_field last_name"]
    );
    let mut description = Description {
        fields,
        ..Description::default()
    };
    let findings = judge(&description, &mapping).unwrap();
    assert_eq!(findings[0].hint, "Did you mean \"LastName\"?");
    description.is_partial = true;
    let findings = judge(&description, &mapping).unwrap();
    assert_eq!(findings[0].severity, Severity::Warning);
    let free = one(mapped("x_anything", "outbound", "json"));
    assert_eq!(found(Vec::new(), free), [""; 0]);
}

#[test]
fn what_is_read_only_can_be_inbound_alone() {
    let fixed = FieldDescription {
        createable: false,
        updateable: false,
        ..field("f", DataType::Text)
    };
    for (direction, expected) in [
        ("outbound", &["error read_only f"][..]),
        ("bidirectional", &["error read_only f"]),
        ("inbound", &[]),
    ] {
        let mapping = one(mapped("f", direction, "text"));
        assert_eq!(found(vec![fixed.clone()], mapping), expected, "{direction}");
    }
    let mut unwritten = mapped("f", "outbound", "text");
    unwritten.materialize = false;
    assert_eq!(found(vec![fixed], one(unwritten)), [""; 0]);
}

#[test]
fn what_can_be_written_at_times_is_a_warning() {
    let once = FieldDescription {
        updateable: false,
        ..field("once", DataType::Text)
    };
    let late = FieldDescription {
        createable: false,
        ..field("late", DataType::Text)
    };
    let mapping = |on_insert: &str| Mapping {
        on_insert: on_insert.to_owned(),
        external_id_field: None,
        fields: vec![
            mapped("once", "outbound", "text"),
            mapped("late", "outbound", "text"),
        ],
    };
    assert_eq!(
        found(vec![once.clone(), late.clone()], mapping("create")),
        ["warning not_updateable once", "warning not_createable late"]
    );
    assert_eq!(
        found(vec![once, late], mapping("ignore")),
        ["warning not_updateable once"]
    );
}

#[test]
fn types_go_together_always_sometimes_or_never() {
    use DataType::*;
    for (mapped, held, written, read_only) in [
        (Number, Number, Pair::Good, Pair::Good),
        (Timestamp, Text, Pair::Good, Pair::Doubtful),
        (Text, Number, Pair::Doubtful, Pair::Good),
        (Text, Choice, Pair::Good, Pair::Good),
        (Number, Choice, Pair::Good, Pair::Good),
        (Boolean, Date, Pair::Never, Pair::Never),
        (Number, Timestamp, Pair::Never, Pair::Never),
        (Date, Timestamp, Pair::Doubtful, Pair::Doubtful),
        (Json, Number, Pair::Never, Pair::Doubtful),
    ] {
        assert_eq!(
            pair(mapped, &[held], true, true),
            written,
            "{mapped} to {held}"
        );
        assert_eq!(
            pair(mapped, &[held], false, true),
            read_only,
            "{mapped} from {held}"
        );
    }
    assert_eq!(pair(Json, &[Text, Json], true, true), Pair::Good);
    assert_eq!(
        pair(Json, &[], true, true),
        Pair::Good,
        "nothing is known of it"
    );
    assert_eq!(
        found(
            vec![field("f", Date)],
            one(mapped_number("f", "bidirectional"))
        ),
        ["error type_mismatch f"]
    );
    // A text would do for any reference, unless the CRM is asked otherwise for one.
    for (is_typed, expected) in [(false, &[][..]), (true, &["error type_mismatch f"])] {
        let reference = FieldDescription {
            is_typed,
            ..field("f", Reference)
        };
        let as_text = one(mapped("f", "bidirectional", "text"));
        assert_eq!(found(vec![reference.clone()], as_text), expected);
        let as_itself = one(mapped("f", "bidirectional", "reference"));
        assert_eq!(found(vec![reference], as_itself), [""; 0]);
    }
}

#[test]
fn what_a_text_field_refuses_is_an_error_where_it_is_written() {
    let strict = FieldDescription {
        refused_types: vec![DataType::Number, DataType::Boolean],
        crm_type: "string".to_owned(),
        ..field("f", DataType::Text)
    };
    for (data_type, direction, expected) in [
        ("number", "outbound", &["error type_mismatch f"][..]),
        ("boolean", "bidirectional", &["error type_mismatch f"]),
        ("number", "inbound", &["warning type_doubtful f"]),
        ("date", "outbound", &[]),
        ("text", "outbound", &[]),
    ] {
        let mapping = one(mapped("f", direction, data_type));
        let found = found(vec![strict.clone()], mapping.clone());
        assert_eq!(found, expected, "{data_type} {direction}");
        if found.first().is_some_and(|f| f.starts_with("error")) {
            let description = Description {
                fields: vec![strict.clone()],
                ..Description::default()
            };
            let hint = &judge(&description, &mapping).unwrap()[0].hint;
            assert_eq!(hint, "In the CRM it is a string: data_type => 'text'.");
        }
    }
}

fn mapped_number(name: &str, direction: &str) -> MappedField {
    mapped(name, direction, "number")
}

#[test]
fn room_is_compared_with_what_the_column_may_hold() {
    let small = FieldDescription {
        max_length: Some(80),
        ..field("f", DataType::Text)
    };
    for (length, expected) in [
        (Some(80), &[][..]),
        (Some(81), &["warning too_long f"]),
        (None, &["info unbounded f"]),
    ] {
        let mut mapped = mapped("f", "outbound", "text");
        mapped.max_length = length;
        assert_eq!(found(vec![small.clone()], one(mapped.clone())), expected);
        mapped.is_transformed = true;
        assert_eq!(found(vec![small.clone()], one(mapped)), [""; 0]);
    }
}

#[test]
fn choices_of_a_closed_list_bind_the_rule() {
    let choice = |value: &str| Choice {
        value: value.to_owned(),
        label: value.to_owned(),
    };
    let mut stage = FieldDescription {
        choices: vec![choice("open"), choice("won")],
        is_closed: true,
        ..field("stage", DataType::Choice)
    };
    let mut rule = mapped("stage", "outbound", "choice");
    rule.choices = Some(vec!["open".to_owned(), "lost".to_owned()]);
    assert_eq!(
        found(vec![stage.clone()], one(rule.clone())),
        ["warning unknown_choice stage"]
    );
    stage.is_closed = false;
    assert_eq!(found(vec![stage], one(rule)), [""; 0]);
}

#[test]
fn new_records_need_what_is_required_and_a_key_that_can_be_found() {
    let name = FieldDescription {
        required: true,
        ..field("name", DataType::Text)
    };
    let key = field("key", DataType::Text);
    let mapping = |on_insert: &str, field: &str, direction: &str| Mapping {
        on_insert: on_insert.to_owned(),
        external_id_field: Some("key".to_owned()),
        fields: vec![mapped(field, direction, "text")],
    };
    let fields = vec![name, key, field("other", DataType::Text)];
    assert_eq!(
        found(fields.clone(), mapping("create", "other", "outbound")),
        ["warning not_a_key key", "warning required_unmapped name"]
    );
    assert_eq!(
        found(fields.clone(), mapping("create", "name", "inbound")),
        ["warning not_a_key key", "warning required_unmapped name"]
    );
    assert_eq!(
        found(fields, mapping("ignore", "other", "outbound")),
        ["warning not_a_key key"]
    );
}

#[test]
fn what_one_side_does_not_keep_of_the_other_is_told() {
    let number = |scale, is_double| FieldDescription {
        scale,
        is_double,
        ..field("f", DataType::Number)
    };
    let lower_case = FieldDescription {
        is_lower_case: true,
        ..field("f", DataType::Text)
    };
    for (field, direction, column_type, told) in [
        (number(Some(2), true), "outbound", "numeric(10,2)", &[][..]),
        (
            number(Some(2), true),
            "outbound",
            "numeric(10,4)",
            &["warning fewer_decimals f"],
        ),
        (number(Some(2), true), "inbound", "numeric(10,4)", &[]),
        (
            number(Some(2), true),
            "inbound",
            "numeric(10,1)",
            &["warning more_decimals f"],
        ),
        (
            number(Some(2), true),
            "bidirectional",
            "integer",
            &["warning more_decimals f"],
        ),
        (number(Some(0), true), "bidirectional", "integer", &[]),
        (
            number(Some(2), true),
            "outbound",
            "double precision",
            &["info fewer_decimals f"],
        ),
        (
            number(None, true),
            "outbound",
            "bigint",
            &["warning fewer_digits f"],
        ),
        (number(None, true), "outbound", "integer", &[]),
        (
            number(None, true),
            "outbound",
            "numeric(18,2)",
            &["warning fewer_digits f"],
        ),
        (
            number(None, true),
            "outbound",
            "numeric",
            &["info fewer_digits f"],
        ),
        (number(None, false), "bidirectional", "numeric", &[]),
        (lower_case, "outbound", "text", &["info lower_case f"]),
    ] {
        let data_type = field.data_types[0].name();
        let mapping = one(MappedField {
            column_type: column_type.to_owned(),
            ..mapped("f", direction, data_type)
        });
        assert_eq!(
            found(vec![field], mapping),
            told,
            "{direction} {column_type}"
        );
    }
    let made = one(MappedField {
        is_transformed: true,
        is_transformed_in: true,
        column_type: "bigint".to_owned(),
        ..mapped("f", "bidirectional", "number")
    });
    assert_eq!(found(vec![number(Some(2), true)], made), [""; 0]);
}
