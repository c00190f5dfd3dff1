//! Values as HubSpot has them: every property is text (`"12.5"`, `"true"`, `"2026-01-02"`,
//! `"a;b;c"`), and the empty text is the absence of a value.

use crm_domain::Value;

use crate::stored::{Habits, Numbers};
use crate::wire::{self, Wire};

/// Numbers are doubles, addresses are kept in lower case.
pub(super) const HABITS: Habits = Habits {
    numbers: Numbers::Doubles,
    lowers: &["email"],
    ..Habits::NONE
};

pub(super) fn form(value: &Value) -> Wire<'_> {
    Wire::Text(wire::text(value))
}
