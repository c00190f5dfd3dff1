//! When two keys are equal for a CRM.
//!
//! PostgreSQL compares keys byte by byte. The field of a CRM that holds them does not: it trims
//! text, and most CRMs look it up without regard to case. Two rows whose
//! keys differ in that alone would be one record, and the second would overwrite the first's.

use std::borrow::Cow;

use crate::value::is_blank;

/// How a CRM compares what an external id field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyEquality {
    /// But for what is blank around it, which no CRM keeps.
    Exact,
    /// Without regard to case either.
    IgnoringCase,
}

impl KeyEquality {
    /// Whether the CRM would find the record of the one by the other.
    pub fn are_one(self, a: &str, b: &str) -> bool {
        let (a, b) = (kept(a), kept(b));
        match self {
            KeyEquality::Exact => a == b,
            KeyEquality::IgnoringCase => a == b || lower(a) == lower(b),
        }
    }
}

/// A key as CRMs keep it: without what is blank around it.
pub fn kept(key: &str) -> &str {
    key.trim_matches(is_blank)
}

/// What keys have in common that any CRM takes for one.
pub fn folded(key: &str) -> Cow<'_, str> {
    let bare = kept(key);
    // Mostly a number, or a uuid.
    let is_plain = |b: u8| b.is_ascii() && !b.is_ascii_uppercase();
    match bare.bytes().all(is_plain) {
        true => Cow::Borrowed(bare),
        false => Cow::Owned(lower(bare)),
    }
}

/// Letter by letter, so that none depends on its neighbours.
fn lower(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// Whether a key holds nothing that a CRM could find a record by.
pub fn is_blank_key(key: &str) -> bool {
    key.chars().all(is_blank)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 14] = [
        "xyz",
        "XYZ",
        "Xyz ",
        "pad",
        "pad ",
        "\u{a0}pad\u{3000}",
        "ÄÖ",
        "äö",
        "ΣΑΣ",
        "σας",
        "σασ",
        "1",
        "01",
        "",
    ];

    #[test]
    fn keys_that_any_crm_takes_for_one_are_folded_alike() {
        for a in KEYS {
            assert_eq!(folded(&folded(a)), folded(a), "{a:?}");
            for b in KEYS {
                let one = KeyEquality::IgnoringCase.are_one(a, b);
                assert_eq!(folded(a) == folded(b), one, "{a:?} {b:?}");
                assert!(one || !KeyEquality::Exact.are_one(a, b), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn what_is_kept_is_told_apart() {
        use KeyEquality::{Exact, IgnoringCase};
        assert!(Exact.are_one("pad", "pad\t"));
        assert!(!Exact.are_one("xyz", "XYZ"));
        assert!(IgnoringCase.are_one("ÄÖ", " äö"));
        assert!(!IgnoringCase.are_one("a b", "ab"));
        assert!(!IgnoringCase.are_one("1", "01"));
        assert!(is_blank_key("") && is_blank_key(" \u{3000}\r\n") && !is_blank_key("."));
    }
}
