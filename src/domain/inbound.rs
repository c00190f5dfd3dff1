//! The decision on a field that was read from the CRM: who changed it, judged by values alone.
//!
//! The ledger's hash says what both sides last agreed on. A field that still has it did not change,
//! whatever else changed in the record. Neither clocks nor the vendor's record of who made a change
//! are used.

use crate::Value;
use crate::conflict::{ShortHash, hash};
use crate::mapping::{ConflictPolicy, Direction};

/// A field as it was read.
#[derive(Clone, Copy, Debug)]
pub struct InboundField<'a> {
    pub direction: Direction,
    pub policy: ConflictPolicy,
    /// Changes of the column are written to the CRM.
    pub is_written: bool,
    /// The row is empty, and that is never sent: it says nothing against what the CRM holds.
    pub is_withheld: bool,
    /// What the CRM was last known to hold; `None`: nobody knows.
    pub known: Option<ShortHash>,
    /// Both sides once held the same, even if in a CRM record that is gone or was merged away.
    pub synced: bool,
    /// The row holds something else than it did when both sides last agreed, although its table has
    /// no edit that says so: it was changed without capture.
    pub row_changed: bool,
    pub local: &'a Value,
    pub crm: &'a Value,
    /// The CRM held this very value before, after it had been sent the row's value, and was
    /// overwritten.
    pub crm_insists: bool,
    /// The CRM first shows this value since we wrote there, and it may be its form of what we
    /// wrote.
    pub is_own_form: bool,
    /// An edit of the column is pending.
    pub has_pending_edit: bool,
    /// The field is already in conflict, and waits for an operator.
    pub in_conflict: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboundDecision {
    /// The CRM holds what it was known to hold: an echo, or a change of other fields.
    Unchanged,
    /// Both sides hold the same, of which nobody knew.
    Agreed,
    /// The row accepts the CRM's value.
    AcceptCrm,
    /// The CRM differs from the row, whose column is the source of truth: the CRM's value is
    /// overwritten.
    Overwrite,
    /// The CRM holds its form of what we wrote, or turns the row's value into it however often it
    /// is sent: remembered, and left alone.
    KeepCrmForm,
    /// Nobody knew what the CRM held, and the row's value goes there.
    Write,
    /// The CRM's value is remembered, and nothing else is done.
    Remember,
    /// The reconciler has an edit of this column to settle, and reads the record itself.
    LeavePending,
    /// The field waits for a person, who is to see what the CRM holds now.
    InConflict,
    /// The field may not change once it is set.
    Immutable,
    /// Both sides hold something, and nobody knows which is newer: a person decides.
    ManualReview,
    /// Both sides changed it: a person decides.
    BothChanged,
}

/// Decides on a field of a record that was read.
pub fn decide(field: &InboundField) -> InboundDecision {
    let theirs = hash(field.crm);
    if field.known == Some(theirs) {
        return InboundDecision::Unchanged;
    }
    if field.local == field.crm {
        return InboundDecision::Agreed;
    }
    if field.is_own_form {
        return InboundDecision::KeepCrmForm;
    }
    match field.direction {
        _ if field.in_conflict => InboundDecision::InConflict,
        Direction::Inbound => InboundDecision::AcceptCrm,
        Direction::Outbound if !field.is_written || field.is_withheld => InboundDecision::Remember,
        // What the CRM held before the row was first linked is not ours to wipe out.
        Direction::Outbound if field.known.is_none() && !field.synced => InboundDecision::Remember,
        Direction::Outbound if field.crm_insists && field.known == Some(hash(field.local)) => {
            InboundDecision::KeepCrmForm
        }
        Direction::Outbound => InboundDecision::Overwrite,
        Direction::Bidirectional if field.has_pending_edit => InboundDecision::LeavePending,
        Direction::Bidirectional => decide_bidirectional(field),
    }
}

fn decide_bidirectional(field: &InboundField) -> InboundDecision {
    let empty = hash(&Value::Null);
    let row_changed = field.row_changed && !field.is_withheld;
    match field.known {
        Some(known) => match field.policy {
            ConflictPolicy::ImmutableAfterBind if known != empty && !field.local.is_null() => {
                InboundDecision::Immutable
            }
            // As if the edit had been captured.
            ConflictPolicy::LocalWins if row_changed && field.is_written => InboundDecision::Write,
            ConflictPolicy::ManualReview if row_changed && field.is_written => {
                InboundDecision::BothChanged
            }
            // The CRM alone changed it, or has the last word.
            _ => InboundDecision::AcceptCrm,
        },
        None if field.local.is_null() => InboundDecision::AcceptCrm,
        // Nothing is lost by filling an empty field.
        None if field.crm.is_null() && field.is_written => InboundDecision::Write,
        None if field.crm.is_null() => InboundDecision::Remember,
        None => match field.policy {
            ConflictPolicy::CrmWins
            | ConflictPolicy::MergeWithAudit
            | ConflictPolicy::LastWriterWins => InboundDecision::AcceptCrm,
            ConflictPolicy::LocalWins if field.is_written => InboundDecision::Write,
            ConflictPolicy::LocalWins => InboundDecision::Remember,
            ConflictPolicy::ManualReview | ConflictPolicy::ImmutableAfterBind => {
                InboundDecision::ManualReview
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(text: &str) -> Value {
        Value::text(text)
    }

    /// An outbound field that was in step, of which nothing is known now.
    fn field<'a>(local: &'a Value, crm: &'a Value) -> InboundField<'a> {
        InboundField {
            direction: Direction::Outbound,
            policy: ConflictPolicy::CrmWins,
            is_written: true,
            is_withheld: false,
            known: None,
            synced: true,
            row_changed: false,
            local,
            crm,
            crm_insists: false,
            is_own_form: false,
            has_pending_edit: false,
            in_conflict: false,
        }
    }

    fn decided(
        direction: Direction,
        policy: ConflictPolicy,
        known: Option<&str>,
        local: &str,
        crm: &str,
        waits: bool,
    ) -> InboundDecision {
        decide(&InboundField {
            direction,
            policy,
            is_written: direction != Direction::Inbound,
            known: known.map(|known| hash(&text(known))),
            synced: false,
            has_pending_edit: waits,
            ..field(&text(local), &text(crm))
        })
    }

    #[test]
    fn an_echo_is_nothing_whatever_the_row_holds_by_now() {
        for direction in Direction::ALL {
            for policy in ConflictPolicy::ALL {
                for waits in [false, true] {
                    let decision = decided(direction, policy, Some("a"), "b", "a", waits);
                    assert_eq!(decision, InboundDecision::Unchanged);
                    let decision = decided(direction, policy, None, "b", "b", waits);
                    assert_eq!(decision, InboundDecision::Agreed);
                }
            }
        }
    }

    #[test]
    fn a_change_of_the_crm_flows_as_the_direction_says() {
        use ConflictPolicy::*;
        use Direction::*;
        for policy in ConflictPolicy::ALL {
            let of = |direction| decided(direction, policy, Some("a"), "a", "b", false);
            assert_eq!(of(Inbound), InboundDecision::AcceptCrm);
            assert_eq!(of(Outbound), InboundDecision::Overwrite);
            let locked = policy == ImmutableAfterBind;
            let both = if locked {
                InboundDecision::Immutable
            } else {
                InboundDecision::AcceptCrm
            };
            assert_eq!(of(Bidirectional), both, "{policy}");
            let waiting = decided(Bidirectional, policy, Some("a"), "c", "b", true);
            assert_eq!(waiting, InboundDecision::LeavePending);
        }
        // A field that is not set on both sides yet may be.
        let of = |known, local| {
            decided(
                Bidirectional,
                ImmutableAfterBind,
                Some(known),
                local,
                "b",
                false,
            )
        };
        assert_eq!(of("", ""), InboundDecision::AcceptCrm);
        assert_eq!(of("", "c"), InboundDecision::AcceptCrm);
        assert_eq!(of("a", ""), InboundDecision::AcceptCrm);
    }

    #[test]
    fn what_changed_on_both_sides_is_settled_by_the_policy_though_nobody_captured_it() {
        use ConflictPolicy::*;
        use Direction::*;
        let (local, crm) = (text("silent"), text("crm"));
        for (policy, decision) in [
            (CrmWins, InboundDecision::AcceptCrm),
            (MergeWithAudit, InboundDecision::AcceptCrm),
            (LastWriterWins, InboundDecision::AcceptCrm),
            (LocalWins, InboundDecision::Write),
            (ManualReview, InboundDecision::BothChanged),
            (ImmutableAfterBind, InboundDecision::Immutable),
        ] {
            let field = InboundField {
                direction: Bidirectional,
                policy,
                known: Some(hash(&text("both"))),
                row_changed: true,
                ..field(&local, &crm)
            };
            assert_eq!(decide(&field), decision, "{policy}");
            // Its edits do not go to the CRM anyway.
            let unwritten = InboundField {
                is_written: false,
                ..field
            };
            let decision = match policy {
                ImmutableAfterBind => InboundDecision::Immutable,
                _ => InboundDecision::AcceptCrm,
            };
            assert_eq!(decide(&unwritten), decision, "{policy}");
        }
    }

    #[test]
    fn what_nobody_knew_wipes_out_nothing() {
        use ConflictPolicy::*;
        use Direction::*;
        for policy in ConflictPolicy::ALL {
            assert_eq!(
                decided(Outbound, policy, None, "a", "b", false),
                InboundDecision::Remember
            );
            assert_eq!(
                decided(Outbound, policy, None, "", "b", false),
                InboundDecision::Remember
            );
            assert_eq!(
                decided(Bidirectional, policy, None, "", "b", false),
                InboundDecision::AcceptCrm
            );
            assert_eq!(
                decided(Bidirectional, policy, None, "a", "", false),
                InboundDecision::Write
            );
        }
        for (policy, decision) in [
            (CrmWins, InboundDecision::AcceptCrm),
            (MergeWithAudit, InboundDecision::AcceptCrm),
            (LastWriterWins, InboundDecision::AcceptCrm),
            (LocalWins, InboundDecision::Write),
            (ManualReview, InboundDecision::ManualReview),
            (ImmutableAfterBind, InboundDecision::ManualReview),
        ] {
            assert_eq!(
                decided(Bidirectional, policy, None, "a", "b", false),
                decision,
                "{policy}"
            );
        }
    }

    #[test]
    fn a_column_that_was_in_step_once_is_the_source_of_truth_for_whichever_record_its_row_goes_with()
     {
        let (local, crm) = (text("a"), text("b"));
        let field = field(&local, &crm);
        assert_eq!(decide(&field), InboundDecision::Overwrite);
        let unwritten = InboundField {
            is_written: false,
            ..field
        };
        assert_eq!(decide(&unwritten), InboundDecision::Remember);
    }

    #[test]
    fn an_empty_cell_that_is_never_sent_says_nothing() {
        let (local, crm) = (Value::Null, text("b"));
        for policy in ConflictPolicy::ALL {
            for (direction, decision) in [
                (Direction::Outbound, InboundDecision::Remember),
                (Direction::Bidirectional, InboundDecision::AcceptCrm),
            ] {
                let field = InboundField {
                    direction,
                    policy,
                    is_withheld: true,
                    known: Some(hash(&text("a"))),
                    row_changed: true,
                    ..field(&local, &crm)
                };
                assert_eq!(decide(&field), decision, "{policy}");
                let sent = InboundField {
                    is_withheld: false,
                    ..field
                };
                let takes = decide(&sent) == InboundDecision::AcceptCrm;
                use ConflictPolicy::{LocalWins, ManualReview};
                let bidirectional = direction == Direction::Bidirectional;
                assert_eq!(
                    takes,
                    bidirectional && !matches!(policy, LocalWins | ManualReview)
                );
            }
        }
    }

    #[test]
    fn what_the_crm_makes_of_the_same_again_is_its_form_of_it() {
        let (local, crm) = (text("a"), text("b"));
        let field = InboundField {
            known: Some(hash(&local)),
            crm_insists: true,
            ..field(&local, &crm)
        };
        assert_eq!(decide(&field), InboundDecision::KeepCrmForm);
        let new = InboundField {
            crm_insists: false,
            ..field
        };
        assert_eq!(decide(&new), InboundDecision::Overwrite);
        // The row holds something else by now.
        let edited = InboundField {
            known: Some(hash(&text("c"))),
            ..field
        };
        assert_eq!(decide(&edited), InboundDecision::Overwrite);
        let both = InboundField {
            direction: Direction::Bidirectional,
            ..field
        };
        assert_eq!(decide(&both), InboundDecision::AcceptCrm);
    }

    #[test]
    fn the_crms_form_of_what_we_wrote_is_kept_whatever_waits() {
        let (local, crm) = (text("McDonald"), text("MCDONALD"));
        for policy in ConflictPolicy::ALL {
            for (has_pending_edit, in_conflict) in [(false, false), (true, false), (false, true)] {
                let field = InboundField {
                    direction: Direction::Bidirectional,
                    policy,
                    known: Some(hash(&local)),
                    is_own_form: true,
                    has_pending_edit,
                    in_conflict,
                    ..field(&local, &crm)
                };
                assert_eq!(decide(&field), InboundDecision::KeepCrmForm, "{policy}");
            }
        }
    }

    proptest! {
        /// Once what came of it is done and remembered, the same record coming again is nothing.
        #[test]
        fn settled_is_settled(
            direction in prop::sample::select(Direction::ALL.to_vec()),
            policy in prop::sample::select(ConflictPolicy::ALL.to_vec()),
            known in prop::option::of("[ab]?"), local in "[ab]?", crm in "[ab]?", answered: bool, formed: bool, waits: bool, written: bool, nulls: bool, disputed: bool, synced: bool, silent: bool,
        ) {
            let (mut row, crm) = (text(&local), text(&crm));
            let mut ledger = known.map(|known| hash(&text(&known)));
            let field = InboundField { direction, policy, is_written: written, is_withheld: !nulls && row.is_null(), known: ledger, synced, row_changed: silent, local: &row, crm: &crm, crm_insists: answered, is_own_form: formed, has_pending_edit: waits, in_conflict: disputed };
            let decision = decide(&field);
            match decision {
                InboundDecision::AcceptCrm => {
                    row = crm.clone();
                    ledger = Some(hash(&crm));
                }
                InboundDecision::Agreed | InboundDecision::Remember | InboundDecision::Overwrite | InboundDecision::KeepCrmForm | InboundDecision::Write => ledger = Some(hash(&crm)),
                InboundDecision::Unchanged | InboundDecision::LeavePending | InboundDecision::InConflict | InboundDecision::Immutable | InboundDecision::ManualReview | InboundDecision::BothChanged => {}
            }
            let again = decide(&InboundField { direction, policy, is_written: written, is_withheld: !nulls && row.is_null(), known: ledger, synced, row_changed: silent, local: &row, crm: &crm, crm_insists: answered, is_own_form: formed, has_pending_edit: waits, in_conflict: disputed });
            match decision {
                InboundDecision::LeavePending | InboundDecision::InConflict | InboundDecision::Immutable | InboundDecision::ManualReview | InboundDecision::BothChanged => prop_assert_eq!(again, decision),
                _ => prop_assert_eq!(again, InboundDecision::Unchanged),
            }
        }
    }
}
