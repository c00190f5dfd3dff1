//! The resolution of a field that both sides may have changed.
//!
//! Decided from values alone: what the edit was based on, what the row holds, what the CRM holds.
//! Clocks count for nothing but the policy that asks for them.

mod record;

pub use record::{FieldEdit, RecordField, resolve_record};

use crate::Value;
use crate::cells::{HASH_BYTES, short};
use crate::mapping::ConflictPolicy;

/// A value as the ledger remembers it.
pub type ShortHash = [u8; HASH_BYTES];

/// The hash by which values are compared.
pub fn hash(value: &Value) -> ShortHash {
    short(&value.hash())
}

/// What is known of the CRM's value that an edit was based on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence {
    /// What the author of the edit stated that the CRM held.
    pub stated: Option<ShortHash>,
    /// What the ledger says that the CRM last held.
    pub ledger: Option<ShortHash>,
    /// Both sides have agreed on the field before, so the row had the value that the ledger knows.
    pub agreed: bool,
    /// What the column held before the edit.
    pub old: Option<ShortHash>,
}

impl Evidence {
    /// What the CRM held as far as the author of the edit could know; `None`: nobody knows.
    ///
    /// The ledger takes precedence over the column's old value: a column may be changed behind
    /// capture (`ALTER COLUMN … USING`, a disabled trigger), and then says nothing about the CRM.
    /// While an edit of a cell waits, its ledger entry changes only when we write there ourselves,
    /// so it still says what it said when the edit was made.
    pub fn base(&self) -> Option<ShortHash> {
        let agreed = self.ledger.filter(|_| self.agreed);
        self.stated.or(agreed).or(self.old).or(self.ledger)
    }

    /// Whether the base depends on what the column held.
    pub fn asks_for_old(&self) -> bool {
        self.stated.is_none() && !(self.agreed && self.ledger.is_some())
    }
}

/// The two sides of a field, and what they had in common.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'a> {
    /// What the CRM held when the edit was formed; `None`: nobody knows.
    pub base: Option<ShortHash>,
    /// What earlier attempts sent, of which nobody knows whether it arrived: should the CRM hold
    /// it, it is our own.
    pub sent: &'a [ShortHash],
    /// What we wrote there before, if what the CRM holds is its form of that.
    pub ours: Option<ShortHash>,
    pub local: &'a Value,
    pub crm: &'a Value,
    /// When each side changed, in UTC milliseconds by the database's clock.
    pub local_changed_at: Option<i64>,
    pub crm_changed_at: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The CRM already holds the row's value.
    AlreadyApplied,
    /// The row's value goes to the CRM.
    Write,
    /// The row accepts the CRM's value.
    AcceptCrm,
    /// A person decides; neither side is touched.
    ManualReview,
}

impl Sides<'_> {
    /// Whether the CRM holds something that the edit was not based on. An empty field that nobody
    /// knew of is no news: nothing is lost by filling it.
    pub fn crm_moved(&self) -> bool {
        let crm = hash(self.crm);
        let is_held = |hash: &ShortHash| *hash == crm || Some(*hash) == self.ours;
        match self.base {
            _ if self.sent.iter().any(is_held) => false,
            Some(base) => !is_held(&base),
            None => !self.crm.is_null(),
        }
    }
}

/// Decides what happens to a field that was changed in Postgres.
pub fn resolve(policy: ConflictPolicy, sides: &Sides) -> Decision {
    if sides.local == sides.crm || sides.ours == Some(hash(sides.local)) {
        return Decision::AlreadyApplied;
    }
    if !sides.crm_moved() {
        return Decision::Write;
    }
    settle_by_policy(policy, sides)
}

/// Both sides changed.
fn settle_by_policy(policy: ConflictPolicy, sides: &Sides) -> Decision {
    match policy {
        ConflictPolicy::CrmWins | ConflictPolicy::MergeWithAudit => Decision::AcceptCrm,
        ConflictPolicy::LocalWins => Decision::Write,
        ConflictPolicy::ManualReview | ConflictPolicy::ImmutableAfterBind => Decision::ManualReview,
        ConflictPolicy::LastWriterWins => match (sides.local_changed_at, sides.crm_changed_at) {
            (Some(local), Some(crm)) if local > crm => Decision::Write,
            _ => Decision::AcceptCrm,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::text(text)
    }

    fn decide(policy: ConflictPolicy, base: Option<&str>, local: &str, crm: &str) -> Decision {
        resolve(
            policy,
            &Sides {
                base: base.map(|base| hash(&text(base))),
                sent: &[],
                ours: None,
                local: &text(local),
                crm: &text(crm),
                local_changed_at: Some(2),
                crm_changed_at: Some(1),
            },
        )
    }

    #[test]
    fn one_side_changed_is_no_conflict_whatever_the_policy() {
        for policy in ConflictPolicy::ALL {
            assert_eq!(
                decide(policy, Some("a"), "b", "a"),
                Decision::Write,
                "{policy}"
            );
            assert_eq!(
                decide(policy, Some("a"), "b", "b"),
                Decision::AlreadyApplied,
                "{policy}"
            );
            assert_eq!(
                decide(policy, None, "b", "b"),
                Decision::AlreadyApplied,
                "{policy}"
            );
        }
    }

    #[test]
    fn both_sides_changed_is_the_policys_affair() {
        use ConflictPolicy::*;
        for (policy, decision) in [
            (CrmWins, Decision::AcceptCrm),
            (LocalWins, Decision::Write),
            (MergeWithAudit, Decision::AcceptCrm),
            (ManualReview, Decision::ManualReview),
            (ImmutableAfterBind, Decision::ManualReview),
            (LastWriterWins, Decision::Write),
        ] {
            assert_eq!(decide(policy, Some("a"), "b", "c"), decision, "{policy}");
        }
    }

    #[test]
    fn what_nobody_knew_is_not_overwritten_but_an_empty_field_may_be_filled() {
        assert_eq!(
            decide(ConflictPolicy::CrmWins, None, "b", "c"),
            Decision::AcceptCrm
        );
        assert_eq!(
            decide(ConflictPolicy::CrmWins, None, "b", ""),
            Decision::Write
        );
        // A field that somebody emptied since is news.
        assert_eq!(
            decide(ConflictPolicy::CrmWins, Some("a"), "b", ""),
            Decision::AcceptCrm
        );
    }

    #[test]
    fn what_we_sent_ourselves_is_nobodys_change() {
        for policy in ConflictPolicy::ALL {
            let sides = Sides {
                base: Some(hash(&text("a"))),
                sent: &[hash(&text("b"))],
                ours: None,
                local: &text("c"),
                crm: &text("b"),
                local_changed_at: None,
                crm_changed_at: None,
            };
            assert_eq!(resolve(policy, &sides), Decision::Write, "{policy}");
            let theirs = text("d");
            let moved = Sides {
                crm: &theirs,
                ..sides
            };
            assert!(moved.crm_moved());
        }
    }

    #[test]
    fn the_crms_form_of_what_we_wrote_is_nobodys_change() {
        let (written, held, edited) = (text("McDonald"), text("MCDONALD"), text("Byron"));
        for policy in ConflictPolicy::ALL {
            let sides = Sides {
                base: Some(hash(&written)),
                sent: &[],
                ours: Some(hash(&written)),
                local: &edited,
                crm: &held,
                local_changed_at: None,
                crm_changed_at: None,
            };
            assert_eq!(resolve(policy, &sides), Decision::Write, "{policy}");
            let seen = Sides {
                base: Some(hash(&held)),
                ..sides
            };
            assert_eq!(resolve(policy, &seen), Decision::Write, "{policy}");
            let same = Sides {
                base: Some(hash(&edited)),
                local: &written,
                ..sides
            };
            assert_eq!(resolve(policy, &same), Decision::AlreadyApplied, "{policy}");
            let moved = Sides {
                base: Some(hash(&edited)),
                ..sides
            };
            assert!(moved.crm_moved());
        }
    }

    #[test]
    fn without_both_times_the_crm_wins() {
        let sides = Sides {
            base: None,
            sent: &[],
            ours: None,
            local: &text("b"),
            crm: &text("c"),
            local_changed_at: Some(2),
            crm_changed_at: None,
        };
        assert_eq!(
            resolve(ConflictPolicy::LastWriterWins, &sides),
            Decision::AcceptCrm
        );
        let later = Sides {
            crm_changed_at: Some(3),
            ..sides
        };
        assert_eq!(
            resolve(ConflictPolicy::LastWriterWins, &later),
            Decision::AcceptCrm
        );
    }
}
