//! Who takes part in a scenario: a vendor, and the way on which it is reached.

use serde_json::Value;

use super::Vendor;
use super::facts::{Guarded, Situation};

/// A transport between pg_crm and the CRM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// None: the vendor's own address and credentials.
    Direct,
    /// The broker, which has an account of each CRM that it knows.
    Composio,
}

impl Way {
    /// What cannot happen on this way, and why not.
    fn absent(self) -> &'static [(Situation, &'static str)] {
        match self {
            Way::Direct => &[],
            Way::Composio => &[
                (
                    Situation::Tokens,
                    "the broker keeps the tokens, and renews them",
                ),
                (Situation::Bytes, "the broker makes text of any answer"),
            ],
        }
    }

    /// The options of a connection on this way.
    pub(super) fn options(self, vendor: Vendor, options: &str) -> String {
        let mut options: Value = options.parse().expect("options are JSON");
        if self == Way::Composio {
            options["via"] = "composio".into();
            options["connected_account_id"] = format!("ca_{}", vendor.name()).into();
            options["user_id"] = "user-1".into();
        }
        options.to_string()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contestant {
    pub vendor: Vendor,
    pub way: Way,
}

impl Contestant {
    pub const fn direct(vendor: Vendor) -> Contestant {
        Contestant {
            vendor,
            way: Way::Direct,
        }
    }

    pub const fn by_composio(vendor: Vendor) -> Contestant {
        Contestant {
            vendor,
            way: Way::Composio,
        }
    }

    /// What cannot happen there, and why not.
    pub fn absent(self) -> impl Iterator<Item = &'static (Situation, &'static str)> {
        self.vendor.facts().absent.iter().chain(self.way.absent())
    }

    /// Whether a situation cannot exist there. Says why not: a scenario that has nothing to tell
    /// must not look as if it had.
    pub fn lacks(self, situation: Situation) -> bool {
        let reason = self.absent().find(|(known, _)| *known == situation);
        if let Some((_, reason)) = reason {
            eprintln!("no {situation:?} at {self:?}: {reason}");
        }
        reason.is_some()
    }

    /// Requests that so many records may take, if a thousand of them may take `of_thousand`
    /// directly.
    pub fn requests(self, records: usize, of_thousand: usize) -> usize {
        match self.way {
            Way::Direct => of_thousand * records / 1000,
            // It carries no jobs.
            Way::Composio => records.div_ceil(self.vendor.facts().batch),
        }
    }
}

impl From<Vendor> for Contestant {
    fn from(vendor: Vendor) -> Contestant {
        Contestant::direct(vendor)
    }
}

impl Vendor {
    /// What becomes of a value that somebody sets between our read and our write of that record.
    pub fn guards_one(self) -> Guarded {
        self.facts().guards[0]
    }

    /// The same where more than a few records are written.
    pub fn guards_many(self) -> Guarded {
        self.facts().guards[1]
    }
}
