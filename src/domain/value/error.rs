//! Why a text or a JSON value is no value of a type.

use serde_json::Value as Json;

use crate::DataType;

/// How much of an offending value a message may quote.
const EXCERPT_CHARS: usize = 40;

/// Why something is no value of a type. Messages quote at most the value's first 40 characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    #[error("{found} is not a {expected}")]
    Unreadable { expected: DataType, found: String },
    /// A value that Postgres has and no CRM can hold: `NaN`, `infinity`, a date BC.
    #[error("{found} is a {expected} that no CRM can hold")]
    Unsupported { expected: DataType, found: String },
    #[error("{found} is beyond the range of a {expected}")]
    OutOfRange { expected: DataType, found: String },
    #[error("{found} is not a date: it has a time of day other than midnight UTC")]
    NotMidnight { found: String },
    #[error("{found} is not one choice: it contains a semicolon, which separates choices")]
    Separated { found: String },
}

impl ValueError {
    pub(super) fn unreadable(expected: DataType, text: &str) -> Self {
        let word = text.trim_start_matches(['-', '+']);
        let special = ["nan", "inf", "infinity"]
            .iter()
            .any(|s| word.eq_ignore_ascii_case(s));
        let before_christ = text.ends_with(" BC");
        let found = quoted(text);
        match expected {
            DataType::Number if special => ValueError::Unsupported { expected, found },
            DataType::Date | DataType::Timestamp if special || before_christ => {
                ValueError::Unsupported { expected, found }
            }
            _ => ValueError::Unreadable { expected, found },
        }
    }

    pub(super) fn out_of_range(expected: DataType, text: &str) -> Self {
        ValueError::OutOfRange {
            expected,
            found: quoted(text),
        }
    }

    pub(super) fn not_midnight(text: &str) -> Self {
        ValueError::NotMidnight {
            found: quoted(text),
        }
    }

    pub(super) fn separated(word: &str) -> Self {
        ValueError::Separated {
            found: quoted(word),
        }
    }

    /// A JSON value of a kind that the type is never written in.
    pub(super) fn wrong_kind(expected: DataType, json: &Json) -> Self {
        let found = match json {
            Json::Null => "null".to_owned(),
            Json::Bool(b) => b.to_string(),
            Json::Number(n) => excerpt(n.as_str()),
            Json::String(s) => quoted(s),
            Json::Array(_) => "a JSON array".to_owned(),
            Json::Object(_) => "a JSON object".to_owned(),
        };
        ValueError::Unreadable { expected, found }
    }
}

fn quoted(text: &str) -> String {
    format!("{:?}", excerpt(text))
}

/// The first characters of a text, with an ellipsis where it was cut.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
