//! Values as HubSpot has them: every property is text (`"12.5"`, `"true"`, `"2026-01-02"`,
//! `"a;b;c"`), and the empty text is the absence of a value.

use crm_domain::Value;

use crate::wire::{self, Wire};

pub(super) fn form(value: &Value) -> Wire<'_> {
    Wire::Text(wire::text(value))
}
