//! What is wrong with rules, and what rules find wrong with a value.

use super::bound::Bound;
use super::rule::Rule;
use crate::value::excerpt;
use crate::{DataType, UnknownName};

/// Why a JSON value is no set of rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    #[error("validation must be a JSON object")]
    NotAnObject,
    #[error(transparent)]
    Unknown(#[from] UnknownName),
    #[error("rule {rule} does not apply to a {data_type}")]
    NotForType { rule: Rule, data_type: DataType },
    #[error("rule {rule}: {reason}")]
    Invalid { rule: Rule, reason: String },
}

impl RulesError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            RulesError::NotAnObject => {
                r#"For example: {"nullable": false, "max_length": 80}."#.to_owned()
            }
            RulesError::Unknown(_) => "Correct the name of the rule, or leave it out.".to_owned(),
            RulesError::NotForType { rule, .. } => {
                let types: Vec<&str> = rule.types().iter().map(|t| t.name()).collect();
                format!("It applies to {}.", types.join(", "))
            }
            RulesError::Invalid { rule, .. } => format!("For example: {}.", rule.example()),
        }
    }
}

/// The first rule that a value breaks, with the rule's limits.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Violation {
    #[error("must not be null")]
    Null,
    #[error("must be at least {min}")]
    BelowMin { min: Bound },
    #[error("must be at most {max}")]
    AboveMax { max: Bound },
    #[error("has {length} characters, at most {max_length} are allowed")]
    TooLong { length: usize, max_length: u32 },
    #[error("does not match the pattern {pattern}")]
    NoMatch { pattern: String },
    #[error("{found:?} is not one of the choices: {}", listed(choices))]
    NotAChoice { found: String, choices: Vec<String> },
}

impl Violation {
    pub fn rule(&self) -> Rule {
        match self {
            Violation::Null => Rule::Nullable,
            Violation::BelowMin { .. } => Rule::Min,
            Violation::AboveMax { .. } => Rule::Max,
            Violation::TooLong { .. } => Rule::MaxLength,
            Violation::NoMatch { .. } => Rule::Pattern,
            Violation::NotAChoice { .. } => Rule::Choices,
        }
    }
}

/// The first choices, as many as a message can bear.
fn listed(choices: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut list = choices
        .iter()
        .take(SHOWN)
        .map(|c| excerpt(c))
        .collect::<Vec<_>>()
        .join(", ");
    if choices.len() > SHOWN {
        list.push_str(", …");
    }
    list
}
