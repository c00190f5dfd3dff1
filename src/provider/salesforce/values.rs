//! Values as Salesforce has them. It keeps numbers as doubles (`100.0`), moments as
//! `2026-01-02T03:04:05.000+0000`, several choices as `A;B;C`, and has no type for JSON but text.

use crm_domain::Value;

use crate::wire::{self, Wire};

pub(super) fn form(value: &Value) -> Wire<'_> {
    match value {
        Value::Null => Wire::Null,
        Value::Boolean(b) => Wire::Boolean(*b),
        Value::Number(n) => Wire::Number(n),
        value => Wire::Text(wire::text(value)),
    }
}
