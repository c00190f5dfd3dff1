//! The base of an edit, in a model of one cell: whatever happens to the row and the record before
//! and meanwhile, a stranger's change in the CRM is never overwritten, and no ordinary edit is
//! lost.

use crm_domain::Value;
use crm_domain::conflict::{self, Decision, Evidence, ShortHash, Sides};
use crm_domain::inbound::{self, InboundDecision, InboundField};
use crm_domain::mapping::{ConflictPolicy, Direction};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Somebody changes the record in the CRM.
    CrmUser(u8),
    /// Somebody changes the row, which is captured.
    Edit(u8),
    /// The row changes behind capture.
    Behind(u8),
    /// The record comes in.
    Ingest,
    /// The edit that waits is claimed, with what the row holds.
    Claim,
    /// It is compared with the CRM and written there.
    Send,
    /// What came of it is written down.
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let value = 0_u8..4;
    prop_oneof![
        value.clone().prop_map(Step::CrmUser),
        value.clone().prop_map(Step::Edit),
        value.prop_map(Step::Behind),
        Just(Step::Ingest),
        Just(Step::Claim),
        Just(Step::Send),
        Just(Step::Settle),
    ]
}

fn value(v: u8) -> Value {
    Value::text(&v.to_string())
}

fn hash(v: u8) -> ShortHash {
    conflict::hash(&value(v))
}

#[derive(Debug)]
struct Waiting {
    old: u8,
    revision: u32,
}

#[derive(Debug)]
struct Flight {
    local: u8,
    base: Option<ShortHash>,
    revision: u32,
    decision: Option<(Decision, u8)>,
}

#[derive(Debug)]
struct Cell {
    row: u8,
    crm: u8,
    ledger: u8,
    waiting: Option<Waiting>,
    flight: Option<Flight>,
    /// What the CRM held when both sides last exchanged a value: anything else there is a
    /// stranger's.
    exchanged: u8,
}

impl Cell {
    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::CrmUser(v) => self.crm = v,
            Step::Behind(v) => self.row = v,
            Step::Edit(v) if v == self.row => {}
            Step::Edit(v) => {
                let old = self.row;
                self.row = v;
                let waiting = self.waiting.get_or_insert(Waiting { old, revision: 0 });
                waiting.revision += 1;
            }
            Step::Ingest => self.ingest(),
            Step::Claim => self.claim(),
            Step::Send => self.send()?,
            Step::Settle => self.settle(),
        }
        Ok(())
    }

    fn ingest(&mut self) {
        if self.flight.is_some() {
            return;
        }
        let decision = inbound::decide(&InboundField {
            direction: Direction::Bidirectional,
            policy: ConflictPolicy::CrmWins,
            is_written: true,
            is_withheld: false,
            known: Some(hash(self.ledger)),
            synced: true,
            row_changed: self.row != self.ledger && self.waiting.is_none(),
            local: &value(self.row),
            crm: &value(self.crm),
            crm_insists: false,
            is_own_form: false,
            has_pending_edit: self.waiting.is_some(),
            in_conflict: false,
        });
        match decision {
            InboundDecision::Unchanged | InboundDecision::LeavePending => {}
            InboundDecision::Agreed | InboundDecision::AcceptCrm => {
                (self.row, self.ledger, self.exchanged) = (self.crm, self.crm, self.crm);
            }
            other => panic!("{other:?}"),
        }
    }

    fn claim(&mut self) {
        if let (None, Some(waiting)) = (&self.flight, &self.waiting) {
            let evidence = Evidence {
                stated: None,
                ledger: Some(hash(self.ledger)),
                agreed: true,
                old: Some(hash(waiting.old)),
            };
            self.flight = Some(Flight {
                local: self.row,
                base: evidence.base(),
                revision: waiting.revision,
                decision: None,
            });
        }
    }

    fn send(&mut self) -> Result<(), TestCaseError> {
        let Some(flight) = self.flight.as_mut().filter(|f| f.decision.is_none()) else {
            return Ok(());
        };
        let decision = conflict::resolve(
            ConflictPolicy::CrmWins,
            &Sides {
                base: flight.base,
                sent: &[],
                ours: None,
                local: &value(flight.local),
                crm: &value(self.crm),
                local_changed_at: None,
                crm_changed_at: None,
            },
        );
        let is_news = self.crm != self.exchanged;
        let expected = match flight.local == self.crm {
            true => Decision::AlreadyApplied,
            false if is_news => Decision::AcceptCrm,
            false => Decision::Write,
        };
        prop_assert_eq!(decision, expected);
        flight.decision = Some((decision, self.crm));
        if decision == Decision::Write {
            self.crm = flight.local;
        }
        Ok(())
    }

    fn settle(&mut self) {
        let Some((decision, read)) = self.flight.as_ref().and_then(|f| f.decision) else {
            return;
        };
        let Some(flight) = self.flight.take() else {
            return;
        };
        let edited_since = decision == Decision::AcceptCrm && self.row != flight.local;
        let holds = match decision {
            Decision::AcceptCrm => read,
            _ => flight.local,
        };
        // The author of an edit since then has not seen what the CRM holds.
        if !edited_since {
            (self.ledger, self.exchanged) = (holds, holds);
            if decision == Decision::AcceptCrm {
                self.row = read;
            }
        }
        self.waiting.take_if(|w| w.revision == flight.revision);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_news_is_written_over_and_no_ordinary_edit_is_lost(steps in prop::collection::vec(step(), 1..40)) {
        let mut cell = Cell { row: 0, crm: 0, ledger: 0, waiting: None, flight: None, exchanged: 0 };
        for step in steps {
            cell.take(step)?;
        }
    }
}

#[test]
fn what_is_stated_comes_first_and_what_the_column_held_last() {
    let all = Evidence {
        stated: Some(hash(1)),
        ledger: Some(hash(2)),
        agreed: true,
        old: Some(hash(3)),
    };
    assert_eq!(all.base(), Some(hash(1)));
    let captured = Evidence {
        stated: None,
        ..all
    };
    assert_eq!(captured.base(), Some(hash(2)));
    assert!(!captured.asks_for_old());
    // What the CRM held before both sides first agreed was never in the row.
    let linked = Evidence {
        agreed: false,
        ..captured
    };
    assert_eq!(linked.base(), Some(hash(3)));
    assert!(linked.asks_for_old());
    let long = Evidence {
        old: None,
        ..linked
    };
    assert_eq!(long.base(), Some(hash(2)));
    assert_eq!(Evidence::default().base(), None);
}
