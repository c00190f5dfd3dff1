//! The rules that an admin sets for a field's values: `map_field(validation => '{"min": 0, "max":
//! 100}')`.
//!
//! Rules are read strictly (an unknown rule, or one that makes no sense for the type, is an error
//! with a hint) and checked against canonical values, so a rule says the same whichever side a
//! value comes from. Null is subject to `nullable` alone.

mod bound;
mod error;
mod pattern;
mod rule;

use std::cmp::Ordering;

use serde_json::Value as Json;

use crate::value::excerpt;
use crate::{DataType, Value};

pub use bound::Bound;
pub use error::{RulesError, Violation};
pub use pattern::Pattern;
pub use rule::Rule;

/// The rules of one field.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    pub min: Option<Bound>,
    pub max: Option<Bound>,
    /// In characters as CRMs count them: [`utf16_length`].
    pub max_length: Option<u32>,
    pub nullable: bool,
    pub pattern: Option<Pattern>,
    /// The allowed words, or numbers, as canonical text.
    pub choices: Option<Vec<String>>,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            min: None,
            max: None,
            max_length: None,
            nullable: true,
            pattern: None,
            choices: None,
        }
    }
}

impl Rules {
    /// Reads the rules of a field of that type from a JSON object.
    pub fn parse(json: &Json, data_type: DataType) -> Result<Rules, RulesError> {
        let Json::Object(entries) = json else {
            return Err(RulesError::NotAnObject);
        };
        let mut rules = Rules::default();
        for (name, json) in entries {
            let rule: Rule = name.parse()?;
            if !rule.types().contains(&data_type) {
                return Err(RulesError::NotForType { rule, data_type });
            }
            rules
                .set(rule, json, data_type)
                .map_err(|reason| RulesError::Invalid { rule, reason })?;
        }
        match (&rules.min, &rules.max) {
            (Some(min), Some(max)) if min.partial_cmp(max) == Some(Ordering::Greater) => {
                Err(RulesError::Invalid {
                    rule: Rule::Min,
                    reason: format!("{min} is above max, {max}"),
                })
            }
            _ => Ok(rules),
        }
    }

    fn set(&mut self, rule: Rule, json: &Json, data_type: DataType) -> Result<(), String> {
        match rule {
            Rule::Min => self.min = Some(Bound::parse(json, data_type)?),
            Rule::Max => self.max = Some(Bound::parse(json, data_type)?),
            Rule::MaxLength => {
                let length = json
                    .as_u64()
                    .and_then(|n| u32::try_from(n).ok())
                    .filter(|&n| n > 0);
                self.max_length =
                    Some(length.ok_or("must be a whole number from 1 to 4294967295")?);
            }
            Rule::Nullable => self.nullable = json.as_bool().ok_or("must be true or false")?,
            Rule::Pattern => {
                self.pattern = Some(Pattern::parse(json.as_str().ok_or("must be a string")?)?)
            }
            Rule::Choices => self.choices = Some(read_choices(json, data_type)?),
        }
        Ok(())
    }

    /// Checks a canonical value of the type that the rules were read for.
    pub fn check(&self, value: &Value) -> Result<(), Violation> {
        if value.is_null() {
            return if self.nullable {
                Ok(())
            } else {
                Err(Violation::Null)
            };
        }
        if let Some(min) = &self.min
            && !matches!(min.order(value), Some(Ordering::Equal | Ordering::Greater))
        {
            return Err(Violation::BelowMin { min: min.clone() });
        }
        if let Some(max) = &self.max
            && !matches!(max.order(value), Some(Ordering::Equal | Ordering::Less))
        {
            return Err(Violation::AboveMax { max: max.clone() });
        }
        if let (Some(max_length), Value::Text(text)) = (self.max_length, value) {
            let length = utf16_length(text);
            if length > max_length as usize {
                return Err(Violation::TooLong { length, max_length });
            }
        }
        if let (Some(pattern), Value::Text(text)) = (&self.pattern, value)
            && !pattern.is_match(text)
        {
            return Err(Violation::NoMatch {
                pattern: pattern.as_str().to_owned(),
            });
        }
        let Some(choices) = &self.choices else {
            return Ok(());
        };
        let unknown = |word: &str| !choices.iter().any(|choice| choice == word);
        let stranger = match value {
            Value::Text(text) => Some(text.as_str()).filter(|text| unknown(text)),
            Value::Number(n) => Some(n.as_str()).filter(|n| unknown(n)),
            Value::MultiChoice(words) => {
                words.iter().map(String::as_str).find(|word| unknown(word))
            }
            _ => None,
        };
        match stranger {
            None => Ok(()),
            Some(word) => Err(Violation::NotAChoice {
                found: excerpt(word),
                choices: choices.clone(),
            }),
        }
    }
}

fn read_choices(json: &Json, data_type: DataType) -> Result<Vec<String>, String> {
    let items = json
        .as_array()
        .filter(|items| !items.is_empty())
        .ok_or("must be an array of at least one choice")?;
    // A choice of many is one word.
    let item_type = if data_type == DataType::MultiChoice {
        DataType::Choice
    } else {
        data_type
    };
    let mut choices: Vec<String> = Vec::with_capacity(items.len());
    for item in items {
        let value = Value::from_json(item_type, item).map_err(|error| error.to_string())?;
        let choice = value
            .to_text()
            .ok_or("contains an empty choice; use nullable instead")?;
        if data_type == DataType::MultiChoice && choice.contains(';') {
            return Err(format!(
                "{:?} contains a semicolon, which separates choices",
                excerpt(&choice)
            ));
        }
        if choices.iter().all(|known| *known != *choice) {
            choices.push(choice.into_owned());
        }
    }
    Ok(choices)
}

/// How many characters a CRM counts: UTF-16 code units, since Salesforce, HubSpot and Dynamics
/// run on the JVM and .NET. An emoji is two.
pub fn utf16_length(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

#[cfg(test)]
mod tests;
