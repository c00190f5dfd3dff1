//! The limits that `min` and `max` state.

use std::cmp::Ordering;
use std::fmt;

use jiff::civil::Date;
use serde_json::Value as Json;

use crate::value::time;
use crate::{DataType, Number, Value};

/// A limit of a number, a date or a timestamp. Displays as the canonical text of the value.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
pub enum Bound {
    Number(Number),
    Date(Date),
    Timestamp(i64),
}

impl Bound {
    pub(super) fn parse(json: &Json, data_type: DataType) -> Result<Bound, String> {
        match Value::from_json(data_type, json) {
            Ok(Value::Number(n)) => Ok(Bound::Number(n)),
            Ok(Value::Date(date)) => Ok(Bound::Date(date)),
            Ok(Value::Timestamp(ms)) => Ok(Bound::Timestamp(ms)),
            Ok(_) => Err(format!("must be a {data_type}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Where a value lies from here; `None` if it is of another type.
    pub(super) fn order(&self, value: &Value) -> Option<Ordering> {
        match (value, self) {
            (Value::Number(n), Bound::Number(bound)) => Some(n.cmp(bound)),
            (Value::Date(date), Bound::Date(bound)) => Some(date.cmp(bound)),
            (Value::Timestamp(ms), Bound::Timestamp(bound)) => Some(ms.cmp(bound)),
            _ => None,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Number(n) => n.fmt(f),
            Bound::Date(date) => date.fmt(f),
            Bound::Timestamp(ms) => time::Utc(*ms).fmt(f),
        }
    }
}
