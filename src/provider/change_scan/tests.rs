//! The scan against CRMs that store, show and compare times in different ways.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A record: when it changed, and when that can be seen.
#[derive(Clone, Copy, Debug)]
struct Model {
    id: u32,
    at: i64,
    visible: i64,
}

/// What a vendor does with milliseconds.
#[derive(Clone, Copy, Debug)]
struct Habits {
    /// Sorts by seconds and then by id.
    sorts_seconds: bool,
    shows_seconds: bool,
    compares_seconds: bool,
}

struct Crm {
    records: Vec<Model>,
    habits: Habits,
    now: i64,
    tells_date: bool,
}

fn name(id: u32) -> String {
    format!("{id:06}")
}

impl Crm {
    fn answer(&self, ask: &ScanQuery<'_>, limit: usize) -> ScanPage<u32> {
        let time = |seconds: bool, at: i64| if seconds { floor(at) } else { at };
        let compared = |m: &Model| time(self.habits.compares_seconds, m.at);
        let mut found: Vec<Model> = self.records.clone();
        found.retain(|m| m.visible <= self.now);
        match ask {
            ScanQuery::Since(None) => {}
            ScanQuery::Since(Some(second)) => found.retain(|m| compared(m) >= *second),
            ScanQuery::Within { second, after } => found.retain(|m| {
                compared(m) >= *second && compared(m) < second + SECOND && *name(m.id) > **after
            }),
        }
        match ask {
            ScanQuery::Since(_) => {
                found.sort_by_key(|m| (time(self.habits.sorts_seconds, m.at), m.id));
            }
            ScanQuery::Within { .. } => found.sort_by_key(|m| m.id),
        }
        let full = found.len() > limit;
        found.truncate(limit);
        let row = |m: Model| ScanRow {
            at: Some(time(self.habits.shows_seconds, m.at)),
            id: Some(name(m.id)),
            item: m.id,
        };
        ScanPage {
            rows: found.into_iter().map(row).collect(),
            full,
            date: self.tells_date.then(|| floor(self.now)),
        }
    }

    /// Reads until there is nothing more. The scan is stored and loaded between pages.
    fn pass(&self, scan: &mut ChangeScan, limit: usize, overlap: i64) -> Vec<u32> {
        let mut seen = Vec::new();
        let bound = 10 + 4 * self.records.len();
        for _ in 0..bound {
            let stored = serde_json::to_string(scan).unwrap();
            *scan = serde_json::from_str(&stored).unwrap();
            let page = self.answer(&scan.query(), limit);
            match scan.advance(page, overlap).unwrap() {
                ScanStep::QueryAgain => {}
                ScanStep::Page { items, more } => {
                    seen.extend(items);
                    if !more {
                        return seen;
                    }
                }
            }
        }
        panic!("the scan never ends: {scan:?}");
    }
}

const EXACT: Habits = Habits {
    sorts_seconds: false,
    shows_seconds: false,
    compares_seconds: false,
};

fn crm(times: impl IntoIterator<Item = i64>) -> Crm {
    let record = |(id, at): (usize, i64)| Model {
        id: id as u32,
        at,
        visible: at,
    };
    let records: Vec<Model> = times.into_iter().enumerate().map(record).collect();
    Crm {
        now: records.iter().map(|m| m.at).max().unwrap_or(0),
        records,
        habits: EXACT,
        tells_date: true,
    }
}

#[test]
fn ties_at_the_border_of_a_page_are_neither_lost_nor_read_for_ever() {
    for (times, limit) in [
        (vec![1000, 1000, 1000, 2000], 2),
        (vec![1000, 2000, 2000, 2000], 2),
        (vec![1000, 2000, 2000, 3000], 3),
        (vec![1000, 1001, 1999, 2000], 3),
        (vec![5000; 7], 1),
        (vec![5000; 7], 7),
        (vec![], 1),
    ] {
        let crm = crm(times.clone());
        let mut scan = ChangeScan::default();
        let seen = crm.pass(&mut scan, limit, 0);
        assert_eq!(seen.len(), times.len(), "{times:?} by {limit}");
    }
}

#[test]
fn more_than_10_000_records_of_one_millisecond_end() {
    let crm = crm([1_767_323_045_678; 10_050]);
    let mut scan = ChangeScan::default();
    let mut seen = crm.pass(&mut scan, 200, 60 * SECOND);
    assert_eq!(seen.len(), 10_050);
    seen.dedup();
    assert_eq!(seen.len(), 10_050);
}

#[test]
fn a_quiet_crm_is_read_again_for_the_overlap_and_then_left_alone() {
    let overlap = 60 * SECOND;
    let mut crm = crm((0..100).map(|n| n * 10 * SECOND));
    let mut scan = ChangeScan::default();
    assert_eq!(crm.pass(&mut scan, 10, overlap).len(), 100);
    let mut passes = Vec::new();
    for wait in [0, 0, 30, 29, 2, 3600, 3600] {
        crm.now += wait * SECOND;
        passes.push(crm.pass(&mut scan, 10, overlap).len());
    }
    // The window reaches back from the CRM's clock, and shrinks as that goes on.
    assert_eq!(passes, [7, 7, 7, 4, 1, 0, 0]);
    // A CRM that tells no date: the window stays that before the newest change.
    crm.tells_date = false;
    crm.records.push(Model {
        id: 100,
        at: crm.now,
        visible: crm.now,
    });
    let passes: Vec<usize> = (0..4)
        .map(|_| crm.pass(&mut scan, 10, overlap).len())
        .collect();
    assert_eq!(passes, [1, 1, 1, 1]);
}

#[test]
fn a_clock_that_was_set_back_loses_nothing() {
    let mut crm = crm([1_000_000]);
    let mut scan = ChangeScan::default();
    crm.pass(&mut scan, 10, SECOND);
    crm.now = 500_000;
    crm.records[0].visible = 0;
    crm.pass(&mut scan, 10, SECOND);
    crm.records.push(Model {
        id: 1,
        at: 500_500,
        visible: 0,
    });
    assert!(crm.pass(&mut scan, 10, SECOND).contains(&1));
}

/// A second that fills the first page is read by ids: what was not to be seen before it is read
/// again.
#[test]
fn what_comes_late_before_a_second_read_by_ids_is_seen() {
    let mut crm = crm([5000, 5000, 6000]);
    crm.records.push(Model {
        id: 3,
        at: 4000,
        visible: 9000,
    });
    crm.now = 7000;
    let mut scan = ChangeScan::default();
    assert!(matches!(
        scan.advance(crm.answer(&scan.query(), 1), 6000),
        Ok(ScanStep::QueryAgain)
    ));
    crm.now = 11_000;
    crm.pass(&mut scan, 1, 6000);
    assert!(crm.pass(&mut scan, 1, 6000).contains(&3));
}

#[test]
fn what_no_walk_stored_is_refused() {
    for json in [
        json!({ "at": "soon" }),
        json!({ "place": 1 }),
        json!({ "at": "2026-01-02T03:04:05Z", "id": 5 }),
        json!("x"),
    ] {
        assert!(
            serde_json::from_value::<ChangeScan>(json.clone()).is_err(),
            "{json}"
        );
    }
    let scan = ChangeScan {
        at: Some(1_767_323_045_000),
        id: Some("5".to_owned()),
        newest: Some(1_767_323_045_678),
        again: None,
    };
    let stored = serde_json::to_value(&scan).unwrap();
    assert_eq!(stored["id"], "5");
    assert!(
        stored["at"]
            .as_str()
            .unwrap()
            .starts_with("2026-01-02T03:04:05")
    );
    assert_eq!(serde_json::from_value::<ChangeScan>(stored).unwrap(), scan);
}

#[test]
fn an_answer_that_gets_nowhere_is_an_error() {
    let empty = || ScanPage::<u32> {
        rows: Vec::new(),
        full: true,
        date: None,
    };
    assert!(ChangeScan::default().advance(empty(), 0).is_err());
    let mut scan = ChangeScan {
        at: Some(0),
        id: Some("1".to_owned()),
        ..ChangeScan::default()
    };
    let same = ScanPage {
        rows: vec![ScanRow {
            at: Some(0),
            id: Some("1".to_owned()),
            item: 1,
        }],
        ..empty()
    };
    assert!(scan.advance(same, 0).is_err());
}

#[test]
fn the_overlap_is_an_option() {
    for (option, ms) in [
        (None, 7000),
        (Some(json!(90)), 90_000),
        (Some(json!("15")), 15_000),
        (Some(json!(0)), 0),
        (Some(json!(-5)), 0),
        (Some(json!(1e9)), 7000),
        (Some(json!(9_999_999_999i64)), DAY),
        (Some(json!("soon")), 7000),
    ] {
        let mut settings = Settings::default();
        let named = option.map(|value| (OVERLAP_OPTION.to_owned(), value));
        settings.options.extend(named.clone());
        assert_eq!(overlap(&settings, 7), ms, "{named:?}");
    }
}

fn habits() -> impl Strategy<Value = Habits> {
    any::<(bool, bool, bool)>().prop_map(|(sorts_seconds, shows_seconds, compares_seconds)| {
        Habits {
            sorts_seconds,
            shows_seconds,
            compares_seconds,
        }
    })
}

proptest! {
    /// Whatever the sizes of the pages, whatever the vendor does with milliseconds: a pass from any
    /// position sees every record of that position and later, and ends.
    #[test]
    fn every_record_is_seen_and_every_walk_ends(
        times in prop::collection::vec(prop_oneof![0i64..20_000, Just(5_500i64)], 0..60),
        limit in 1usize..20,
        overlap in 0i64..10_000,
        habits in habits(),
        tells_date in any::<bool>(),
        from in prop::option::of((0i64..20, prop::option::of(0u32..60))),
    ) {
        let crm = Crm { habits, tells_date, ..crm(times) };
        let mut scan = match from {
            None => ChangeScan::default(),
            Some((second, id)) => ChangeScan {
                at: Some(second * SECOND),
                id: id.map(name),
                ..ChangeScan::default()
            },
        };
        let due = |m: &&Model| match from {
            None => true,
            Some((second, id)) => {
                let at = floor(m.at) / SECOND;
                at > second || at == second && id.is_none_or(|id| m.id > id)
            }
        };
        let expected: BTreeSet<u32> = crm.records.iter().filter(due).map(|m| m.id).collect();
        let seen: BTreeSet<u32> = crm.pass(&mut scan, limit, overlap).into_iter().collect();
        prop_assert!(seen.is_superset(&expected), "missed {:?}", expected.difference(&seen));
    }

    /// Records that change and become visible late, while the scan goes on page by page: each
    /// change is seen, if it is visible within the overlap.
    #[test]
    fn what_becomes_visible_late_is_seen(
        changes in prop::collection::vec((0u32..15, 0i64..60_000, 0i64..5_000), 1..80),
        limit in 1usize..6,
        pace in 1i64..5_000,
        habits in habits(),
    ) {
        let overlap = 6_000;
        // One place per record and time: a record is where its last visible change put it.
        let mut changes: Vec<Model> = changes
            .into_iter()
            .map(|(id, at, late)| Model { id, at, visible: at + late })
            .collect();
        changes.sort_by_key(|m| (m.visible, m.at));
        let mut scan = ChangeScan::default();
        let mut seen: BTreeMap<u32, i64> = BTreeMap::new();
        let mut now = 0;
        let mut quiet = 0;
        while quiet < 3 {
            now += pace;
            let mut latest: BTreeMap<u32, Model> = BTreeMap::new();
            for change in changes.iter().filter(|m| m.visible <= now) {
                let held = latest.entry(change.id).or_insert(*change);
                if change.at >= held.at {
                    *held = *change;
                }
            }
            let crm = Crm { records: latest.values().copied().collect(), habits, now, tells_date: true };
            let page = crm.answer(&scan.query(), limit);
            if let ScanStep::Page { items, more } = scan.advance(page, overlap).unwrap() {
                for id in items {
                    seen.insert(id, latest[&id].at);
                }
                quiet = if !more && now > 80_000 { quiet + 1 } else { 0 };
            }
            prop_assert!(now < 80_000 + 2_000 * pace, "the scan never ends: {scan:?}");
        }
        for change in &changes {
            let last = changes.iter().filter(|m| m.id == change.id).map(|m| m.at).max();
            prop_assert_eq!(seen.get(&change.id).copied(), last, "record {}", change.id);
        }
    }
}
