//! How CRMs change values as they store them, as far as their documentation tells.
//!
//! Guarantees: a value in the form that is told is held as it is, so that a read will show what was
//! sent; where that is open (what a number of too many digits becomes, a scale that nobody tells),
//! nothing is told.

use crm_domain::{DataType, Description, FieldDescription, Number, Value};

/// What a vendor does with values.
#[derive(Clone, Copy)]
pub struct StorageRules {
    pub numbers: NumberStorage,
    /// Fields that hold their text in lower case.
    pub lower_case: &'static [&'static str],
    /// A choice in other case is taken for the one in the list.
    pub folds_choices: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberStorage {
    /// All digits.
    Exact,
    Doubles,
    /// With as many decimals as the field says; if it does not say, nobody knows.
    Decimals,
}

impl StorageRules {
    pub const NONE: StorageRules = StorageRules {
        numbers: NumberStorage::Exact,
        lower_case: &[],
        folds_choices: false,
    };
}

pub(crate) fn form(rules: &StorageRules, field: &FieldDescription, value: Value) -> Option<Value> {
    Some(match value {
        Value::Number(n) => Value::Number(number(rules, field, &n)?),
        Value::Text(text) if rules.lower_case.contains(&field.name.as_str()) => {
            Value::Text(text.to_lowercase())
        }
        Value::Text(text) if rules.folds_choices && !field.choices.is_empty() => {
            Value::Text(choice(field, text))
        }
        value => value,
    })
}

pub(crate) fn apply_storage_rules(rules: &StorageRules, description: &mut Description) {
    for field in &mut description.fields {
        field.is_double =
            rules.numbers == NumberStorage::Doubles && field.data_types.contains(&DataType::Number);
        field.is_lower_case = rules.lower_case.contains(&field.name.as_str());
    }
}

pub(crate) fn unstorable_reason(rules: &StorageRules, value: &Value) -> Option<&'static str> {
    match value {
        Value::Number(n) if rules.numbers == NumberStorage::Doubles && n.as_double().is_none() => {
            Some("the CRM stores numbers as doubles, and the value exceeds their range")
        }
        _ => None,
    }
}

fn number(rules: &StorageRules, field: &FieldDescription, n: &Number) -> Option<Number> {
    let n = match field.scale {
        // Halves away from zero, whatever the CRM itself would do: it is sent the rounded number.
        Some(scale) => n.rounded(scale).0,
        None => n.clone(),
    };
    match rules.numbers {
        NumberStorage::Exact => Some(n),
        NumberStorage::Doubles => n.as_double(),
        NumberStorage::Decimals => (field.scale.is_some() || n.scale() <= 0).then_some(n),
    }
}

/// The choice as its list has it, if that tells one.
fn choice(field: &FieldDescription, text: String) -> String {
    let mut same = field.choices.iter().map(|choice| &choice.value);
    if same.clone().any(|value| *value == text) {
        return text;
    }
    let lower = text.to_lowercase();
    match same.find(|value| value.to_lowercase() == lower) {
        Some(value) => value.clone(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use crm_domain::Choice;
    use proptest::prelude::*;

    use super::*;
    use crate::{provider, providers};

    /// A type and a value as columns hold them.
    fn typed() -> impl Strategy<Value = (DataType, String)> {
        let number = "-?[0-9]{1,25}(\\.[0-9]{1,20})?(e-?[0-9]{1,3})?";
        let text = prop_oneof!["\\PC{0,12}", "[aAbBİß @.;,{}-]{0,12}", "[a-zA-Z0-9]{15}"];
        let worded = prop::sample::select(vec![
            DataType::Text,
            DataType::Choice,
            DataType::Reference,
            DataType::MultiChoice,
        ]);
        let second = "20[0-9]{2}-0[1-9]-1[0-9] 0[0-9]:0[0-9]:0[0-9]\\.[0-9]{1,6}\\+00";
        prop_oneof![
            number.prop_map(|text| (DataType::Number, text)),
            (worded, text),
            second.prop_map(|text| (DataType::Timestamp, text)),
        ]
    }

    proptest! {
        /// What a CRM holds is held as it is when it is sent back.
        #[test]
        fn a_form_is_its_own_form(
            (data_type, text) in typed(),
            scale in prop::option::of(0_u32..12),
            name in "email|x",
            choices in prop::collection::vec("[aAbB]{1,3}", 0..4),
        ) {
            // A text may begin as a list of choices does, and be none.
            let Ok(value) = Value::from_postgres(data_type, Some(&text)) else { return Ok(()) };
            let choices = choices.into_iter().map(|value| Choice { value, ..Choice::default() });
            let field = FieldDescription { name, scale, choices: choices.collect(), ..FieldDescription::default() };
            for vendor in providers() {
                let Some(held) = vendor.stored_form(&field, data_type, &value) else { continue };
                prop_assert_eq!(vendor.stored_form(&field, data_type, &held), Some(held), "{}", vendor.name());
            }
        }
    }

    #[test]
    fn what_is_beyond_a_double_cannot_be_held_where_numbers_are_doubles() {
        let value = |text| Value::from_postgres(DataType::Number, Some(text)).unwrap();
        for (vendor, refuses) in [
            ("salesforce", true),
            ("hubspot", true),
            ("pipedrive", true),
            ("zoho", true),
            ("dynamics365", false),
            ("stub", false),
        ] {
            let vendor = provider(vendor).unwrap();
            assert_eq!(
                vendor.unstorable_reason(&value("-1e400")).is_some(),
                refuses
            );
            assert_eq!(vendor.unstorable_reason(&value("1e300")), None);
            assert_eq!(vendor.unstorable_reason(&Value::Null), None);
        }
    }

    fn stored(
        vendor: &str,
        field: FieldDescription,
        data_type: DataType,
        text: &str,
    ) -> Option<String> {
        let value = Value::from_postgres(data_type, Some(text)).unwrap();
        let form = provider(vendor)
            .unwrap()
            .stored_form(&field, data_type, &value)?;
        Some(form.to_text().unwrap_or_default().into_owned())
    }

    fn number(vendor: &str, scale: Option<u32>, text: &str) -> Option<String> {
        let field = FieldDescription {
            scale,
            ..FieldDescription::default()
        };
        stored(vendor, field, DataType::Number, text)
    }

    #[test]
    fn numbers_are_rounded_to_the_fields_scale_and_kept_as_doubles() {
        for (vendor, scale, sent, held) in [
            ("salesforce", Some(2), "0.3333333333333333333", Some("0.33")),
            ("salesforce", Some(2), "12.345", Some("12.35")),
            ("salesforce", Some(2), "-12.345", Some("-12.35")),
            ("salesforce", Some(2), "999.999", Some("1000")),
            ("salesforce", Some(0), "0.4", Some("0")),
            (
                "salesforce",
                None,
                "0.33333333333333333333",
                Some("0.3333333333333333"),
            ),
            (
                "salesforce",
                Some(2),
                "1234567890123456.78",
                Some("1234567890123456.8"),
            ),
            (
                "hubspot",
                None,
                "1234567890123456.78",
                Some("1234567890123456.8"),
            ),
            (
                "hubspot",
                None,
                "9007199254740993",
                Some("9007199254740992"),
            ),
            ("hubspot", None, "1e400", None),
            ("pipedrive", None, "0.1", Some("0.1")),
            ("zoho", Some(2), "12.344", Some("12.34")),
            ("zoho", Some(2), "12.345", Some("12.35")),
            ("dynamics365", Some(2), "-12.345", Some("-12.35")),
            ("dynamics365", None, "12", Some("12")),
            ("dynamics365", None, "12.5", None),
            ("dynamics365", Some(4), "12.56789", Some("12.5679")),
            (
                "stub",
                None,
                "1234567890123456.78",
                Some("1234567890123456.78"),
            ),
        ] {
            assert_eq!(
                number(vendor, scale, sent).as_deref(),
                held,
                "{vendor} {sent}"
            );
        }
    }

    #[test]
    fn texts_ids_and_choices_take_the_vendors_spelling() {
        let named = |name: &str| FieldDescription {
            name: name.to_owned(),
            ..FieldDescription::default()
        };
        let listed = |values: &[&str]| FieldDescription {
            choices: values
                .iter()
                .map(|value| Choice {
                    value: (*value).to_owned(),
                    ..Choice::default()
                })
                .collect(),
            ..FieldDescription::default()
        };
        use DataType::{Choice as Word, Reference, Text, Timestamp};
        for (vendor, field, data_type, sent, held) in [
            ("hubspot", named("email"), Text, "Ada@X.test", "ada@x.test"),
            ("hubspot", named("lastname"), Text, "Ada", "Ada"),
            (
                "salesforce",
                named("Email"),
                Text,
                " Ada@X.test\u{a0}",
                "Ada@X.test",
            ),
            (
                "salesforce",
                named("OwnerId"),
                Reference,
                "a0D30000001n7Pi",
                "a0D30000001n7PiEAI",
            ),
            ("salesforce", listed(&["Hot", "Cold"]), Word, "hot", "Hot"),
            ("salesforce", listed(&["Hot", "hot"]), Word, "hot", "hot"),
            ("salesforce", listed(&["Hot"]), Word, "warm", "warm"),
            ("hubspot", listed(&["Hot"]), Word, "hot", "hot"),
            (
                "dynamics365",
                named("x"),
                Reference,
                "{0A000000-0000-4000-8000-00000000000B}",
                "0a000000-0000-4000-8000-00000000000b",
            ),
            (
                "zoho",
                named("x"),
                Timestamp,
                "2026-01-02 03:04:05.678+00",
                "2026-01-02T03:04:05.000Z",
            ),
            (
                "hubspot",
                named("x"),
                Timestamp,
                "2026-01-02 03:04:05.678+00",
                "2026-01-02T03:04:05.678Z",
            ),
        ] {
            let told = stored(vendor, field, data_type, sent);
            assert_eq!(told.as_deref(), Some(held), "{vendor} {sent}");
        }
    }
}
