//! Whether what a CRM holds is its own form of what was written there: rounded, cut off, or spelt
//! in another case.
//!
//! Guarantees: a value is a form of another only if it says less, never more: nothing that a person
//! could not have lost by the CRM's own doing is taken for it. Whether the CRM did it, or a person
//! entered just that, cannot be told from the values; so this is asked of what the CRM first shows
//! after a write, and of nothing later.

use std::collections::BTreeSet;

use crate::Value;
use crate::conflict::{ShortHash, hash};
use crate::value::is_blank;

/// Texts are cut off by columns of a fixed size, which have room for this many characters at least.
const LEAST_ROOM: usize = 20;
const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;

/// What we wrote to a field of a CRM record, as far as the CRM may hold another form of it.
#[derive(Clone, Debug, Default)]
pub struct Ours {
    /// What was written, where the CRM was not seen to hold it, or anything else, since.
    pub unseen: Option<Value>,
    /// What was written, and what the CRM was then seen to hold.
    pub form: Option<(ShortHash, ShortHash)>,
}

impl Ours {
    /// What we wrote, if what the CRM holds is its form of that.
    pub fn held_as(&self, crm: &Value) -> Option<ShortHash> {
        let seen = self.form.filter(|(_, held)| *held == hash(crm));
        let unseen = self.unseen.as_ref().filter(|ours| is_form_of(crm, ours));
        seen.map(|(written, _)| written).or(unseen.map(hash))
    }

    /// What a read shows of what had not been seen; `None`: it had been. Whatever comes next is a
    /// change, also where the CRM holds neither what was written nor a form of it.
    pub fn sighting(&self, crm: &Value) -> Option<Sighting> {
        let written = self.unseen.clone()?;
        let is_other_form = *crm != written && is_form_of(crm, &written);
        Some(Sighting {
            form: is_other_form.then(|| crm.clone()),
            written,
        })
    }
}

/// What was written to a field, once a CRM has shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub written: Value,
    /// What the CRM holds, if that is another form of it.
    pub form: Option<Value>,
}

/// What the CRM's answer to a write shows of a field that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    held: Value,
    /// Whether that is what was sent, or could be made of nothing else.
    is_form: bool,
}

impl Shown {
    /// `None`: it tells nothing. A field may be missing from an answer, or be empty there, for
    /// other reasons than that it is.
    pub fn of(sent: &Value, held: Value) -> Option<Shown> {
        let is_form = is_form_of(&held, sent);
        (!held.is_null()).then_some(Shown { held, is_form })
    }

    /// What the CRM made of what was sent, whatever it is; `before`: what it held until then. An
    /// answer that shows the same as before may have been made before the write, and tells nothing.
    pub fn held(&self, before: Option<ShortHash>) -> Option<&Value> {
        let is_told = self.is_form || before != Some(hash(&self.held));
        is_told.then_some(&self.held)
    }
}

/// Whether a CRM may keep the value in another form than this, for all that is known.
pub fn may_be_altered(value: &Value) -> bool {
    match value {
        Value::Text(_) | Value::MultiChoice(_) => true,
        Value::Number(n) => n.scale() > 0,
        Value::Timestamp(ms) => ms % MINUTE != 0,
        Value::Null | Value::Boolean(_) | Value::Date(_) | Value::Json(_) => false,
    }
}

/// Whether a CRM may hold `theirs` because `ours` was written there.
pub fn is_form_of(theirs: &Value, ours: &Value) -> bool {
    match (theirs, ours) {
        (theirs, ours) if theirs == ours => true,
        (Value::Number(theirs), Value::Number(ours)) => theirs.is_rounding_of(ours),
        (Value::Text(theirs), Value::Text(ours)) => is_spelling_of(theirs, ours),
        (Value::Timestamp(theirs), Value::Timestamp(ours)) => {
            let within = |unit| theirs % unit == 0 && theirs.abs_diff(*ours) < unit as u64;
            within(SECOND) || within(MINUTE)
        }
        (Value::MultiChoice(theirs), Value::MultiChoice(ours)) => {
            folded_set(theirs) == folded_set(ours)
        }
        _ => false,
    }
}

fn is_spelling_of(theirs: &str, ours: &str) -> bool {
    let (theirs, ours) = (folded(theirs), folded(ours));
    theirs == ours || theirs.chars().nth(LEAST_ROOM - 1).is_some() && ours.starts_with(&theirs)
}

/// The text without regard to case, and to how much white space is between words.
fn folded(text: &str) -> String {
    let words: Vec<&str> = text.split(is_blank).filter(|w| !w.is_empty()).collect();
    words.join(" ").to_lowercase()
}

fn folded_set(words: &BTreeSet<String>) -> BTreeSet<String> {
    words.iter().map(|word| folded(word)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{DataType, Number};

    fn is_form(data_type: DataType, theirs: &str, ours: &str) -> bool {
        let value = |text| Value::from_postgres(data_type, Some(text)).unwrap();
        is_form_of(&value(theirs), &value(ours))
    }

    #[test]
    fn numbers_are_rounded_or_cut_off() {
        for (theirs, ours, expected) in [
            ("12.35", "12.345", true),
            ("12.34", "12.345", true),
            ("12.3", "12.345", true),
            ("12", "12.345", true),
            ("13", "12.999", true),
            ("0", "0.4", true),
            ("1000", "999.999", true),
            ("-12.35", "-12.345", true),
            ("1234567890123456.8", "1234567890123456.78", true),
            ("12.36", "12.345", false),
            ("12.4", "12.345", true),
            ("12.5", "12.345", false),
            ("14", "12.345", false),
            ("12.345", "12.35", false),
            ("12.35", "12.3", false),
            ("12", "13", false),
            ("10", "13", false),
            ("-12.345", "12.345", false),
            ("0", "1.5", false),
            ("1e300", "12.345", false),
        ] {
            let is = is_form(DataType::Number, theirs, ours);
            assert_eq!(is, expected, "{theirs} of {ours}");
        }
    }

    #[test]
    fn an_answer_shows_what_became_of_what_was_sent() {
        let shown = |sent: &str, held: &str, before: &str| {
            let shown = Shown::of(&Value::text(sent), Value::text(held))?;
            shown.held(Some(hash(&Value::text(before)))).cloned()
        };
        for (sent, held, before, told) in [
            ("+49 30 1", "+49 30 1", "", true),
            ("+49 30 1", "+49 30 1", "+49 30 1", true),
            ("+49 30 1", "(030) 1", "", true),
            ("+49 30 1", "(030) 1", "(030) 1", false),
            ("ada", "ADA", "ADA", true),
            ("+49 30 1", "", "", false),
        ] {
            let told = told.then(|| Value::text(held));
            assert_eq!(shown(sent, held, before), told, "{sent} {held} {before}");
        }
        assert_eq!(Shown::of(&Value::text("a"), Value::Null), None);
    }

    #[test]
    fn a_read_shows_what_was_written_once() {
        let ours = |unseen: Option<&str>| Ours {
            unseen: unseen.map(Value::text),
            form: None,
        };
        let sighting = |crm: &str| ours(Some("Ada")).sighting(&Value::text(crm));
        let sighted = |form: Option<&str>| {
            Some(Sighting {
                written: Value::text("Ada"),
                form: form.map(Value::text),
            })
        };
        assert_eq!(sighting("Ada"), sighted(None));
        assert_eq!(sighting("ADA"), sighted(Some("ADA")));
        assert_eq!(sighting("Bea"), sighted(None));
        assert_eq!(ours(None).sighting(&Value::text("Ada")), None);
    }

    #[test]
    fn texts_lose_case_and_white_space_and_their_end() {
        let long = "A street name that is longer than its column has room";
        for (theirs, ours, expected) in [
            ("ada@x.test", "Ada@X.test", true),
            ("ADA", "ada", true),
            ("a b", "a  \u{a0} b", true),
            (&long[..40], long, true),
            (&long[..19], long, false),
            ("Ada", "Ada Byron", false),
            ("Ada Byron", "Ada", false),
            ("Bea", "Ada", false),
        ] {
            let is = is_form(DataType::Text, theirs, ours);
            assert_eq!(is, expected, "{theirs} of {ours}");
        }
    }

    #[test]
    fn moments_lose_their_smallest_units() {
        for (theirs, ours, expected) in [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.678Z", true),
            ("2026-01-02T03:04:06Z", "2026-01-02T03:04:05.678Z", true),
            ("2026-01-02T03:04:00Z", "2026-01-02T03:04:05.678Z", true),
            ("2026-01-02T03:00:00Z", "2026-01-02T03:04:05.678Z", false),
            ("2026-01-02T03:04:05.6Z", "2026-01-02T03:04:05.678Z", false),
        ] {
            let is = is_form(DataType::Timestamp, theirs, ours);
            assert_eq!(is, expected, "{theirs} of {ours}");
        }
        let words = |words: &str| Value::multi_choice([words]);
        assert!(is_form_of(&words("A;b"), &words("a;B")));
        assert!(!is_form_of(&words("A"), &words("a;B")));
        assert!(!is_form_of(&Value::Null, &Value::text("a")));
    }

    proptest! {
        /// What is rounded to fewer decimals is a form of the number, and the number is none of it.
        #[test]
        fn a_rounding_says_less(text in "-?[0-9]{1,20}\\.[0-9]{0,10}[1-9]", scale in 0_u32..12) {
            let ours: Number = text.parse().unwrap();
            let (theirs, _) = ours.rounded(scale);
            prop_assert!(is_form_of(&Value::Number(theirs.clone()), &Value::Number(ours.clone())));
            if theirs != ours {
                prop_assert!(!ours.is_rounding_of(&theirs));
                prop_assert!(may_be_altered(&Value::Number(ours)));
            }
        }

        /// What cannot be altered has no form but itself.
        #[test]
        fn what_may_not_be_altered_is_not(theirs in "[0-9]{1,4}(\\.[0-9]{1,3})?", ours in "[0-9]{1,4}(\\.[0-9]{1,3})?") {
            let value = |text: &str| Value::number(text).unwrap();
            let (theirs, ours) = (value(&theirs), value(&ours));
            if theirs != ours && is_form_of(&theirs, &ours) {
                prop_assert!(may_be_altered(&ours));
            }
        }
    }
}
