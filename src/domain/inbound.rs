//! What becomes of a field as the CRM now holds it: whose change it is, told from values alone.
//!
//! The ledger's hash says what both sides last agreed on. A field that still has it did not change, whoever touched the
//! record; neither a clock nor the vendor's word for who did it is asked.

use crate::Value;
use crate::conflict::{ShortHash, hash};
use crate::mapping::{ConflictPolicy, Direction};

/// A field as it came in.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    pub direction: Direction,
    pub policy: ConflictPolicy,
    /// Changes of the column are written to the CRM.
    pub written: bool,
    /// What the CRM was last known to hold; `None`: nobody knows.
    pub known: Option<ShortHash>,
    /// Both sides once held the same, even if in a CRM record that is gone or was merged away.
    pub synced: bool,
    pub local: &'a Value,
    pub crm: &'a Value,
    /// The CRM held this very value once before, after what the row holds had been sent, and was written over.
    pub answered: bool,
    /// An edit of the column waits to be written.
    pub waits: bool,
    /// The field is in conflict already, and waits for a person.
    pub disputed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The CRM holds what it was known to hold: an echo, or a change of other fields.
    Unchanged,
    /// Both sides hold the same, of which nobody knew.
    Agreed,
    /// The row takes the CRM's value.
    Take,
    /// The CRM holds something else than the row, whose column is the source of truth: it is written over.
    Overwrite,
    /// The CRM makes this of what the row holds, however often it is sent: remembered, and left alone.
    Form,
    /// Nobody knew what the CRM held, and the row's value goes there.
    Write,
    /// The CRM's value is remembered, and nothing else is done.
    Note,
    /// The reconciler has an edit of this column to settle, and reads the record itself.
    Leave,
    /// The field waits for a person, who is to see what the CRM holds now.
    Disputed,
    /// The field may not change once it is set.
    Locked,
    /// Both sides hold something, and nobody knows which is newer: a person decides.
    Review,
}

/// Settles a field of a record that was read.
pub fn settle(field: &Arrived) -> Arrival {
    let theirs = hash(field.crm);
    if field.known == Some(theirs) {
        return Arrival::Unchanged;
    }
    if field.local == field.crm {
        return Arrival::Agreed;
    }
    match field.direction {
        _ if field.disputed => Arrival::Disputed,
        Direction::Inbound => Arrival::Take,
        Direction::Outbound if !field.written => Arrival::Note,
        // What the CRM held before the row was first linked is not ours to wipe out.
        Direction::Outbound if field.known.is_none() && !field.synced => Arrival::Note,
        Direction::Outbound if field.answered && field.known == Some(hash(field.local)) => {
            Arrival::Form
        }
        Direction::Outbound => Arrival::Overwrite,
        Direction::Bidirectional if field.waits => Arrival::Leave,
        Direction::Bidirectional => settle_both_ways(field),
    }
}

fn settle_both_ways(field: &Arrived) -> Arrival {
    let empty = hash(&Value::Null);
    match field.known {
        // The CRM alone changed it.
        Some(known) => match field.policy {
            ConflictPolicy::ImmutableAfterBind if known != empty && !field.local.is_null() => {
                Arrival::Locked
            }
            _ => Arrival::Take,
        },
        None if field.local.is_null() => Arrival::Take,
        // Nothing is lost by filling an empty field.
        None if field.crm.is_null() && field.written => Arrival::Write,
        None if field.crm.is_null() => Arrival::Note,
        None => match field.policy {
            ConflictPolicy::CrmWins
            | ConflictPolicy::MergeWithAudit
            | ConflictPolicy::LastWriterWins => Arrival::Take,
            ConflictPolicy::LocalWins if field.written => Arrival::Write,
            ConflictPolicy::LocalWins => Arrival::Note,
            ConflictPolicy::ManualReview | ConflictPolicy::ImmutableAfterBind => Arrival::Review,
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

    fn arrive(
        direction: Direction,
        policy: ConflictPolicy,
        known: Option<&str>,
        local: &str,
        crm: &str,
        waits: bool,
    ) -> Arrival {
        settle(&Arrived {
            direction,
            policy,
            written: direction != Direction::Inbound,
            known: known.map(|known| hash(&text(known))),
            synced: false,
            local: &text(local),
            crm: &text(crm),
            answered: false,
            waits,
            disputed: false,
        })
    }

    #[test]
    fn an_echo_is_nothing_whatever_the_row_holds_by_now() {
        for direction in Direction::ALL {
            for policy in ConflictPolicy::ALL {
                for waits in [false, true] {
                    let arrival = arrive(direction, policy, Some("a"), "b", "a", waits);
                    assert_eq!(arrival, Arrival::Unchanged);
                    let arrival = arrive(direction, policy, None, "b", "b", waits);
                    assert_eq!(arrival, Arrival::Agreed);
                }
            }
        }
    }

    #[test]
    fn a_change_of_the_crm_flows_as_the_direction_says() {
        use ConflictPolicy::*;
        use Direction::*;
        for policy in ConflictPolicy::ALL {
            let of = |direction| arrive(direction, policy, Some("a"), "a", "b", false);
            assert_eq!(of(Inbound), Arrival::Take);
            assert_eq!(of(Outbound), Arrival::Overwrite);
            let locked = policy == ImmutableAfterBind;
            let both = if locked {
                Arrival::Locked
            } else {
                Arrival::Take
            };
            assert_eq!(of(Bidirectional), both, "{policy}");
            let waiting = arrive(Bidirectional, policy, Some("a"), "c", "b", true);
            assert_eq!(waiting, Arrival::Leave);
        }
        // A field that is not set on both sides yet may be.
        let of = |known, local| {
            arrive(
                Bidirectional,
                ImmutableAfterBind,
                Some(known),
                local,
                "b",
                false,
            )
        };
        assert_eq!(of("", ""), Arrival::Take);
        assert_eq!(of("", "c"), Arrival::Take);
        assert_eq!(of("a", ""), Arrival::Take);
    }

    #[test]
    fn what_nobody_knew_wipes_out_nothing() {
        use ConflictPolicy::*;
        use Direction::*;
        for policy in ConflictPolicy::ALL {
            assert_eq!(
                arrive(Outbound, policy, None, "a", "b", false),
                Arrival::Note
            );
            assert_eq!(
                arrive(Outbound, policy, None, "", "b", false),
                Arrival::Note
            );
            assert_eq!(
                arrive(Bidirectional, policy, None, "", "b", false),
                Arrival::Take
            );
            assert_eq!(
                arrive(Bidirectional, policy, None, "a", "", false),
                Arrival::Write
            );
        }
        for (policy, arrival) in [
            (CrmWins, Arrival::Take),
            (MergeWithAudit, Arrival::Take),
            (LastWriterWins, Arrival::Take),
            (LocalWins, Arrival::Write),
            (ManualReview, Arrival::Review),
            (ImmutableAfterBind, Arrival::Review),
        ] {
            assert_eq!(
                arrive(Bidirectional, policy, None, "a", "b", false),
                arrival,
                "{policy}"
            );
        }
    }

    #[test]
    fn a_column_that_was_in_step_once_is_the_source_of_truth_for_whichever_record_its_row_goes_with()
     {
        let (local, crm) = (text("a"), text("b"));
        let field = Arrived {
            direction: Direction::Outbound,
            policy: ConflictPolicy::CrmWins,
            written: true,
            known: None,
            synced: true,
            local: &local,
            crm: &crm,
            answered: false,
            waits: false,
            disputed: false,
        };
        assert_eq!(settle(&field), Arrival::Overwrite);
        let unwritten = Arrived {
            written: false,
            ..field
        };
        assert_eq!(settle(&unwritten), Arrival::Note);
    }

    #[test]
    fn what_the_crm_makes_of_the_same_again_is_its_form_of_it() {
        let (local, crm) = (text("a"), text("b"));
        let field = Arrived {
            direction: Direction::Outbound,
            policy: ConflictPolicy::CrmWins,
            written: true,
            known: Some(hash(&local)),
            synced: true,
            local: &local,
            crm: &crm,
            answered: true,
            waits: false,
            disputed: false,
        };
        assert_eq!(settle(&field), Arrival::Form);
        let new = Arrived {
            answered: false,
            ..field
        };
        assert_eq!(settle(&new), Arrival::Overwrite);
        // The row holds something else by now.
        let edited = Arrived {
            known: Some(hash(&text("c"))),
            ..field
        };
        assert_eq!(settle(&edited), Arrival::Overwrite);
        let both = Arrived {
            direction: Direction::Bidirectional,
            ..field
        };
        assert_eq!(settle(&both), Arrival::Take);
    }

    proptest! {
        /// Once what came of it is done and remembered, the same record coming again is nothing.
        #[test]
        fn settled_is_settled(
            direction in prop::sample::select(Direction::ALL.to_vec()),
            policy in prop::sample::select(ConflictPolicy::ALL.to_vec()),
            known in prop::option::of("[ab]?"), local in "[ab]?", crm in "[ab]?", answered: bool, waits: bool, written: bool, disputed: bool, synced: bool,
        ) {
            let (mut row, crm) = (text(&local), text(&crm));
            let mut ledger = known.map(|known| hash(&text(&known)));
            let field = Arrived { direction, policy, written, known: ledger, synced, local: &row, crm: &crm, answered, waits, disputed };
            let arrival = settle(&field);
            match arrival {
                Arrival::Take => {
                    row = crm.clone();
                    ledger = Some(hash(&crm));
                }
                Arrival::Agreed | Arrival::Note | Arrival::Overwrite | Arrival::Form | Arrival::Write => ledger = Some(hash(&crm)),
                Arrival::Unchanged | Arrival::Leave | Arrival::Disputed | Arrival::Locked | Arrival::Review => {}
            }
            let again = settle(&Arrived { direction, policy, written, known: ledger, synced, local: &row, crm: &crm, answered, waits, disputed });
            match arrival {
                Arrival::Leave | Arrival::Disputed | Arrival::Locked | Arrival::Review => prop_assert_eq!(again, arrival),
                _ => prop_assert_eq!(again, Arrival::Unchanged),
            }
        }
    }
}
