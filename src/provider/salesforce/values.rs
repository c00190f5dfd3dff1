//! Values as Salesforce has them. It keeps numbers as doubles (`100.0`), moments as
//! `2026-01-02T03:04:05.000+0000`, several choices as `A;B;C`, and has no type for JSON but text.

use crm_domain::Value;

use crate::storage_rules::{NumberStorage, StorageRules};
use crate::wire::{self, Wire};

/// Numbers are doubles of the field's scale, rounded half up ("Custom Field Attributes"); a choice
/// is spelt as its list has it.
pub(super) const STORAGE_RULES: StorageRules = StorageRules {
    numbers: NumberStorage::Doubles,
    folds_choices: true,
    ..StorageRules::NONE
};

pub(super) fn form(value: &Value) -> Wire<'_> {
    match value {
        Value::Null => Wire::Null,
        Value::Boolean(b) => Wire::Boolean(*b),
        Value::Number(n) => Wire::Number(n),
        value => Wire::Text(wire::text(value)),
    }
}
