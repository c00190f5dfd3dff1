//! Whether a column and its field keep the same of a value.
//!
//! Guarantees: a warning names values that the column's type admits and the field does not keep as
//! they are, or the other way round; where nothing bounds the column, that is information.

use super::finding::{Finding, MappedField, Severity};
use crate::description::FieldDescription;
use crate::{Column, DataType};

/// Decimal digits that any double keeps.
const DOUBLE_DIGITS: i64 = 15;

/// What the CRM makes of what it is sent.
pub(super) fn sent(
    field: &FieldDescription,
    mapped: &MappedField,
    data_type: DataType,
) -> Vec<Finding> {
    let name = &field.name;
    let say = |severity, code, message: String, hint: &str| Finding {
        field: name.clone(),
        severity,
        code,
        message,
        hint: hint.to_owned(),
    };
    let mut findings = Vec::new();
    if field.is_lower_case && data_type == DataType::Text {
        let message = format!("the CRM keeps \"{name}\" in lower case");
        let hint = "The row keeps its own case; the two count as equal.";
        findings.push(say(Severity::Info, "lower_case", message, hint));
    }
    if data_type != DataType::Number {
        return findings;
    }
    let hint = "The row keeps its own digits; the two count as equal.";
    let column = Column::of(&mapped.column_type);
    if let Some(scale) = field.scale {
        match column {
            Column::Numeric(Some((_, decimals))) if decimals > i64::from(scale) => {
                let message = format!(
                    "\"{name}\" keeps {scale} decimals, the column {decimals}: the CRM rounds"
                );
                findings.push(say(Severity::Warning, "fewer_decimals", message, hint));
            }
            Column::Numeric(None) | Column::Float4 | Column::Float8 => {
                let message =
                    format!("\"{name}\" keeps {scale} decimals, and the column has no limit");
                findings.push(say(Severity::Info, "fewer_decimals", message, hint));
            }
            _ => {}
        }
    }
    if field.is_double {
        let digits = match column {
            Column::Numeric(Some((digits, _))) => Some(digits),
            Column::Integer(_, most) => Some(most.ilog10().into()),
            _ => None,
        };
        let is_open = column == Column::Numeric(None);
        if let Some(digits) = digits.filter(|&digits| digits > DOUBLE_DIGITS) {
            let message = format!(
                "\"{name}\" keeps numbers as doubles, of {DOUBLE_DIGITS} digits, and the column up to {digits}"
            );
            findings.push(say(Severity::Warning, "fewer_digits", message, hint));
        } else if is_open {
            let message = format!(
                "\"{name}\" keeps numbers as doubles, of {DOUBLE_DIGITS} digits, and the column has no limit"
            );
            findings.push(say(Severity::Info, "fewer_digits", message, hint));
        }
    }
    findings
}

/// What the column would make of what the CRM holds.
pub(super) fn taken(
    field: &FieldDescription,
    mapped: &MappedField,
    data_type: DataType,
) -> Option<Finding> {
    let scale = i64::from(field.scale.filter(|_| data_type == DataType::Number)?);
    let decimals = match Column::of(&mapped.column_type) {
        Column::Numeric(Some((_, decimals))) => decimals,
        Column::Integer(..) => 0,
        _ => return None,
    };
    (decimals < scale).then(|| Finding {
        field: field.name.clone(),
        severity: Severity::Warning,
        code: "more_decimals",
        message: format!(
            "\"{}\" has {scale} decimals, the column {decimals}",
            field.name
        ),
        hint: "A value that does not fit the column exactly becomes a dead letter; use a wider column."
            .to_owned(),
    })
}
