//! When a round of write-back, or a pass through a CRM's changes, waits for a person: it would
//! delete, clear or create more records than an accident should.

use crate::string_enum::string_enum;

string_enum! {
    /// Whose records are counted: what is written to the CRM, or what is taken in from it.
    Direction: "direction" {
        Outbound = "outbound",
        Inbound = "inbound",
    }
}

string_enum! {
    /// What is not counted until the round or pass ends.
    Exempt: "exemption" {
        Nothing = "nothing",
        /// Records that are created and cleared: rows are being loaded.
        Load = "load",
        /// All of them: `crm.approve()`.
        All = "all",
    }
}

impl Exempt {
    /// What counts of these.
    pub fn counted(self, counts: Counts) -> Counts {
        match self {
            Exempt::Nothing => counts,
            // Those that nobody can have asked for by loading rows.
            Exempt::Load => Counts {
                deletes: counts.deletes,
                ..Counts::default()
            },
            Exempt::All => Counts::default(),
        }
    }
}

/// Records that are deleted, cleared (a field that has a value is emptied), or created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub deletes: i64,
    pub clears: i64,
    pub creates: i64,
}

impl Counts {
    pub fn total(&self) -> i64 {
        self.deletes + self.clears + self.creates
    }

    pub fn plus(&self, other: &Counts) -> Counts {
        Counts {
            deletes: self.deletes + other.deletes,
            clears: self.clears + other.clears,
            creates: self.creates + other.creates,
        }
    }

    /// If most of so many records are alike, so are all of them.
    pub fn of_all(&self, looked_at: i64, all: i64) -> Counts {
        let is_typical = self.total() * 2 > looked_at && all > looked_at;
        let scale = |n: i64| match is_typical {
            true => (n as f64 * all as f64 / looked_at as f64).round() as i64,
            false => n,
        };
        Counts {
            deletes: scale(self.deletes),
            clears: scale(self.clears),
            creates: scale(self.creates),
        }
    }
}

/// What may pass without a person.
#[derive(Clone, Copy, Debug)]
pub struct Fuse {
    /// Part of a map's records.
    pub share: f64,
    /// Records that pass whatever part they are; `None`: there is no fuse.
    pub records: Option<i64>,
}

impl Fuse {
    /// How many may pass of a map with so many linked records.
    pub fn limit(&self, linked: i64) -> i64 {
        let share = (self.share * linked as f64).floor() as i64;
        self.records.map_or(i64::MAX, |records| records.max(share))
    }

    /// Whether it has to be known how many records the map has.
    pub fn depends_on_records(&self, counts: &Counts) -> bool {
        self.records.is_some_and(|records| counts.total() > records)
    }

    /// The exemption of a map with so many linked records: one that has hardly any yet is being
    /// filled.
    pub fn exemption(&self, counts: &Counts, linked: i64) -> Exempt {
        let is_small = |n: i64| self.records.is_some_and(|records| n <= records);
        match is_small(linked) && is_small(counts.deletes + counts.clears) {
            true => Exempt::Load,
            false => Exempt::Nothing,
        }
    }

    /// Whether these, counted, wait for a person.
    pub fn holds(&self, counts: &Counts, linked: i64) -> bool {
        counts.total() > self.limit(linked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUSE: Fuse = Fuse {
        share: 0.2,
        records: Some(500),
    };

    #[test]
    fn the_larger_of_the_two_bounds_counts() {
        assert_eq!(FUSE.limit(0), 500);
        assert_eq!(FUSE.limit(2500), 500);
        assert_eq!(FUSE.limit(10_004), 2000);
        let none = Fuse {
            records: None,
            ..FUSE
        };
        assert_eq!(none.limit(10), i64::MAX);
    }

    #[test]
    fn what_most_of_a_part_is_all_of_it_is() {
        let clears = |clears| Counts {
            clears,
            ..Counts::default()
        };
        assert_eq!(clears(60).of_all(100, 1000), clears(600));
        assert_eq!(clears(50).of_all(100, 1000), clears(50));
        assert_eq!(clears(60).of_all(100, 100), clears(60));
    }

    #[test]
    fn a_load_creates_and_clears_but_deletes_nothing() {
        let counts = Counts {
            deletes: 1,
            clears: 2,
            creates: 3,
        };
        assert_eq!(Exempt::Load.counted(counts).total(), 1);
        assert_eq!(Exempt::Nothing.counted(counts), counts);
        assert_eq!(Exempt::All.counted(counts).total(), 0);
        assert_eq!(counts.plus(&counts).total(), 12);
    }

    #[test]
    fn a_map_with_hardly_any_records_is_being_filled() {
        let counts = |deletes, creates| Counts {
            deletes,
            creates,
            clears: 0,
        };
        assert_eq!(FUSE.exemption(&counts(500, 9000), 500), Exempt::Load);
        assert_eq!(FUSE.exemption(&counts(501, 9000), 500), Exempt::Nothing);
        assert_eq!(FUSE.exemption(&counts(0, 9000), 501), Exempt::Nothing);
    }

    #[test]
    fn what_is_beyond_both_bounds_is_held() {
        let creates = |creates| Counts {
            creates,
            ..Counts::default()
        };
        assert!(!FUSE.depends_on_records(&creates(500)));
        assert!(FUSE.depends_on_records(&creates(501)));
        assert!(FUSE.holds(&creates(501), 2500) && !FUSE.holds(&creates(500), 0));
        assert!(FUSE.holds(&creates(2001), 10_000) && !FUSE.holds(&creates(2000), 10_000));
        let none = Fuse {
            records: None,
            ..FUSE
        };
        assert!(!none.depends_on_records(&creates(9000)) && !none.holds(&creates(9000), 0));
    }
}
