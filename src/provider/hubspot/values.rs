//! Values as HubSpot has them: every property is text (`"12.5"`, `"true"`, `"2026-01-02"`,
//! `"a;b;c"`), and the empty text is the absence of a value.

use crm_domain::Value;

use crate::storage_rules::{NumberStorage, StorageRules};
use crate::wire::{self, Wire};

/// Numbers are doubles, addresses are kept in lower case.
pub(super) const STORAGE_RULES: StorageRules = StorageRules {
    numbers: NumberStorage::Doubles,
    lower_case: &["email"],
    ..StorageRules::NONE
};

pub(super) fn form(value: &Value) -> Wire<'_> {
    Wire::Text(wire::text(value))
}
