//! The rules that there are.

use crate::DataType;
use crate::string_enum::string_enum;

string_enum! {
    /// The names of the rules.
    Rule: "validation rule" {
        Min = "min",
        Max = "max",
        MaxLength = "max_length",
        Nullable = "nullable",
        Pattern = "pattern",
        Choices = "choices",
    }
}

impl Rule {
    /// The types that the rule makes sense for.
    ///
    /// A length is that of text as the CRM stores it; JSON and multi-choices, which each vendor
    /// spells in a way of its own, have none to count.
    pub fn types(self) -> &'static [DataType] {
        use DataType::*;
        match self {
            Rule::Min | Rule::Max => &[Number, Date, Timestamp],
            Rule::MaxLength | Rule::Pattern => &[Text, Choice, Reference],
            Rule::Nullable => &DataType::ALL,
            Rule::Choices => &[Text, Number, Choice, MultiChoice, Reference],
        }
    }

    pub(super) fn example(self) -> &'static str {
        match self {
            Rule::Min => r#"{"min": 0} or {"min": "2026-01-01"}"#,
            Rule::Max => r#"{"max": 100} or {"max": "2026-12-31"}"#,
            Rule::MaxLength => r#"{"max_length": 80}"#,
            Rule::Nullable => r#"{"nullable": false}"#,
            Rule::Pattern => r#"{"pattern": "^[A-Z]{2}[0-9]+$"}"#,
            Rule::Choices => r#"{"choices": ["new", "open", "won"]}"#,
        }
    }
}
