//! The decision on a whole record with pending edits: it is written if it is still the record that
//! was edited.
//!
//! Guarantees: under [`ConflictScope::Record`] no edit is written to a record of which another
//! field that flows in changed since the edit was made, unless its field's policy says so. What we
//! sent ourselves is no change, nor is a field of which nobody knew what it held.

use super::{Decision, ShortHash, Sides, hash, resolve, settle_by_policy};
use crate::Value;
use crate::mapping::{ConflictPolicy, ConflictScope};

/// A field that flows in from the CRM, as it was read before edits of its record are written.
#[derive(Clone, Copy, Debug)]
pub struct RecordField<'a> {
    pub crm: &'a Value,
    /// What the CRM held when the oldest of the edits was made; `None`: nobody knows.
    pub snapshot: Option<ShortHash>,
    /// What we sent, of which nobody knows whether it arrived, or whose caller rolled back.
    pub sent: &'a [ShortHash],
    /// What we wrote there before, if what the CRM holds is its form of that.
    pub ours: Option<ShortHash>,
    pub edit: Option<FieldEdit<'a>>,
}

/// A pending edit of a field.
#[derive(Clone, Copy, Debug)]
pub struct FieldEdit<'a> {
    pub policy: ConflictPolicy,
    pub sides: Sides<'a>,
    /// It is written whatever became of other fields: a person decided on this field alone.
    pub is_alone: bool,
}

impl RecordField<'_> {
    /// Whether somebody else changed the field in the CRM since the edits of the record were made.
    pub fn is_changed(&self) -> bool {
        let crm = hash(self.crm);
        let is_held = |hash: &ShortHash| *hash == crm || Some(*hash) == self.ours;
        let differs = self.snapshot.is_some_and(|snapshot| !is_held(&snapshot));
        let known = self.edit.filter(|edit| edit.sides.base.is_some());
        let moved = known.is_some_and(|edit| edit.sides.crm_moved());
        (differs || moved) && !self.sent.iter().any(is_held)
    }
}

/// Decides on each field of a record, in order; `None`: it has no edit.
pub fn resolve_record(scope: ConflictScope, fields: &[RecordField]) -> Vec<Option<Decision>> {
    let changed: Vec<bool> = fields.iter().map(RecordField::is_changed).collect();
    let count = changed.iter().filter(|changed| **changed).count();
    let decide = |(field, is_changed): (&RecordField, bool)| {
        let edit = field.edit?;
        let others = count > usize::from(is_changed);
        let decision = resolve(edit.policy, &edit.sides);
        let gives_way = scope == ConflictScope::Record && others && !edit.is_alone;
        Some(match decision {
            // Three ways are looked at one field at a time: this one we alone changed.
            Decision::Write if edit.policy == ConflictPolicy::MergeWithAudit => decision,
            Decision::Write if gives_way => settle_by_policy(edit.policy, &edit.sides),
            _ => decision,
        })
    };
    fields.iter().zip(changed).map(decide).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Value {
        Value::text(text)
    }

    fn untouched<'a>(snapshot: Option<&str>, crm: &'a Value) -> RecordField<'a> {
        RecordField {
            crm,
            snapshot: snapshot.map(|s| hash(&text(s))),
            sent: &[],
            ours: None,
            edit: None,
        }
    }

    /// A field edited from a to b.
    fn edited<'a>(policy: ConflictPolicy, local: &'a Value, crm: &'a Value) -> RecordField<'a> {
        RecordField {
            crm,
            snapshot: Some(hash(&text("a"))),
            sent: &[],
            ours: None,
            edit: Some(FieldEdit {
                policy,
                is_alone: false,
                sides: Sides {
                    base: Some(hash(&text("a"))),
                    sent: &[],
                    ours: None,
                    local,
                    crm,
                    local_changed_at: Some(2),
                    crm_changed_at: Some(1),
                },
            }),
        }
    }

    fn decided(scope: ConflictScope, fields: &[RecordField]) -> Decision {
        resolve_record(scope, fields)[0].expect("the first has an edit")
    }

    #[test]
    fn another_field_that_changed_is_the_edited_fields_policys_affair() {
        use ConflictPolicy::*;
        let (a, b, c) = (text("a"), text("b"), text("c"));
        for (policy, decision) in [
            (CrmWins, Decision::AcceptCrm),
            (LocalWins, Decision::Write),
            (MergeWithAudit, Decision::Write),
            (ManualReview, Decision::ManualReview),
            (ImmutableAfterBind, Decision::ManualReview),
            (LastWriterWins, Decision::Write),
        ] {
            let record = [edited(policy, &b, &a), untouched(Some("a"), &c)];
            assert_eq!(
                decided(ConflictScope::Record, &record),
                decision,
                "{policy}"
            );
            assert_eq!(decided(ConflictScope::Fields, &record), Decision::Write);
            // Set and set back, or never known.
            for same in [untouched(Some("c"), &c), untouched(None, &c)] {
                let record = [edited(policy, &b, &a), same];
                assert_eq!(decided(ConflictScope::Record, &record), Decision::Write);
            }
        }
        let mut alone = edited(CrmWins, &b, &a);
        alone.edit.as_mut().expect("an edit").is_alone = true;
        let record = [alone, untouched(Some("a"), &c)];
        assert_eq!(decided(ConflictScope::Record, &record), Decision::Write);
    }

    #[test]
    fn an_edited_field_that_changed_counts_for_the_others_too() {
        use ConflictPolicy::*;
        let (a, b, c) = (text("a"), text("b"), text("c"));
        let record = [edited(CrmWins, &b, &a), edited(LocalWins, &b, &c)];
        let decisions = resolve_record(ConflictScope::Record, &record);
        assert_eq!(
            decisions,
            [Some(Decision::AcceptCrm), Some(Decision::Write)]
        );
        // Its own change is no other's.
        let record = [edited(MergeWithAudit, &b, &c), untouched(Some("a"), &a)];
        assert_eq!(decided(ConflictScope::Record, &record), Decision::AcceptCrm);
        // Of one of which nobody knew what it held, nobody knows that it changed.
        let mut unknown = edited(CrmWins, &a, &a);
        unknown.snapshot = None;
        unknown.edit.as_mut().expect("an edit").sides.base = None;
        let record = [edited(CrmWins, &b, &a), unknown];
        assert_eq!(decided(ConflictScope::Record, &record), Decision::Write);
        // What an earlier attempt of ours left there is nobody's change.
        let sent = [hash(&c)];
        let mut ours = edited(LocalWins, &b, &c);
        ours.sent = &sent;
        ours.edit.as_mut().expect("an edit").sides.sent = &sent;
        let mut undone = untouched(Some("a"), &c);
        undone.sent = &sent;
        for ours in [ours, undone] {
            let record = [edited(CrmWins, &b, &a), ours];
            assert_eq!(decided(ConflictScope::Record, &record), Decision::Write);
        }
    }

    #[test]
    fn the_crms_form_of_what_we_wrote_is_no_change_of_the_record() {
        let (a, b, c) = (text("a"), text("b"), text("c"));
        let ours = RecordField {
            ours: Some(hash(&a)),
            ..untouched(Some("a"), &c)
        };
        let record = [edited(ConflictPolicy::CrmWins, &b, &a), ours];
        assert_eq!(decided(ConflictScope::Record, &record), Decision::Write);
    }

    #[test]
    fn what_has_arrived_is_applied_whatever_else_changed() {
        let (a, b) = (text("a"), text("b"));
        for policy in ConflictPolicy::ALL {
            let record = [edited(policy, &b, &b), untouched(Some("b"), &a)];
            assert_eq!(
                decided(ConflictScope::Record, &record),
                Decision::AlreadyApplied,
                "{policy}"
            );
        }
    }

    #[derive(Clone, Debug)]
    struct Drawn {
        snapshot: Option<Value>,
        crm: Value,
        edit: Option<(ConflictPolicy, Value, Vec<ShortHash>)>,
    }

    fn drawn() -> impl Strategy<Value = Drawn> {
        let value = || prop::sample::select(vec!["", "a", "b"]).prop_map(text);
        let policy = prop::sample::select(ConflictPolicy::ALL.to_vec());
        let sent = prop::collection::vec(value().prop_map(|v| hash(&v)), 0..2);
        let edit = prop::option::of((policy, value(), sent));
        (prop::option::of(value()), value(), edit).prop_map(|(snapshot, crm, edit)| Drawn {
            snapshot,
            crm,
            edit,
        })
    }

    fn fields(drawn: &[Drawn]) -> Vec<RecordField<'_>> {
        let field = |d: &'_ Drawn| -> Option<ShortHash> { d.snapshot.as_ref().map(hash) };
        let fields = drawn.iter().map(|d| RecordField {
            crm: &d.crm,
            snapshot: field(d),
            sent: d.edit.as_ref().map_or(&[], |(_, _, sent)| sent),
            ours: None,
            edit: d.edit.as_ref().map(|(policy, local, sent)| FieldEdit {
                policy: *policy,
                is_alone: false,
                sides: Sides {
                    base: field(d),
                    sent,
                    ours: None,
                    local,
                    crm: &d.crm,
                    local_changed_at: None,
                    crm_changed_at: None,
                },
            }),
        });
        fields.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// A record that is as it was is written; one that is not, only by policy. The narrower
        /// scope never gives way where the wider does not.
        #[test]
        fn only_the_record_that_was_edited_is_written(drawn in prop::collection::vec(drawn(), 1..6)) {
            let fields = fields(&drawn);
            let whole = resolve_record(ConflictScope::Record, &fields);
            let narrow = resolve_record(ConflictScope::Fields, &fields);
            let is_same = !fields.iter().any(RecordField::is_changed);
            for ((field, whole), narrow) in fields.iter().zip(whole).zip(narrow) {
                prop_assert_eq!(whole.is_some(), field.edit.is_some());
                let (Some(edit), Some(whole), Some(narrow)) = (field.edit, whole, narrow) else {
                    continue;
                };
                prop_assert_eq!(narrow, resolve(edit.policy, &edit.sides));
                if narrow != Decision::Write {
                    prop_assert_eq!(whole, narrow);
                }
                if is_same {
                    prop_assert_eq!(whole, narrow);
                } else if whole == Decision::Write && edit.policy == ConflictPolicy::CrmWins {
                    let others = fields.iter().filter(|f| f.is_changed()).count();
                    prop_assert_eq!(others, usize::from(field.is_changed()));
                }
            }
        }

        /// Once the row took what the CRM holds, and the next edit is of the record as it is now,
        /// nothing is a change any more.
        #[test]
        fn an_edit_made_after_the_change_is_written(drawn in prop::collection::vec(drawn(), 1..6)) {
            let mut drawn = drawn;
            for d in &mut drawn {
                d.snapshot = Some(d.crm.clone());
            }
            let fields = fields(&drawn);
            let decisions = resolve_record(ConflictScope::Record, &fields);
            for (field, decision) in fields.iter().zip(decisions) {
                if let Some(edit) = field.edit {
                    let same = edit.sides.local == edit.sides.crm;
                    let expected = if same { Decision::AlreadyApplied } else { Decision::Write };
                    prop_assert_eq!(decision, Some(expected));
                }
            }
        }
    }
}
