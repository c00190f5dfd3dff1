//! What a walk does: how the map is made, and the actions, all of it drawn from a seed.
//!
//! Guarantees: the same seed, CRM and number of actions give the same plan. Actions are plain data.
//! Whom they meet is told by a number that counts round whatever rows or records there are when
//! their turn comes.

use crm_suites::Vendor;
use fastrand::Rng;

/// Columns that a walk maps, and whether the CRM's field may be empty.
pub const COLUMNS: [(&str, bool); 7] = [
    ("first_name", true),
    ("last_name", false),
    ("email", true),
    ("phone", true),
    ("title", true),
    ("score", true),
    ("born", true),
];

/// What sessions of applications may be set to, one of them at a time.
const SETTINGS: [&str; 8] = [
    "DateStyle = 'German, YMD'",
    "TimeZone = 'Asia/Kathmandu'",
    "IntervalStyle = 'sql_standard'",
    "extra_float_digits = -15",
    "standard_conforming_strings = off",
    "bytea_output = 'escape'",
    "search_path = decoys, public",
    "quote_all_identifiers = on",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Outbound,
    Bidirectional,
    Inbound,
}

impl Direction {
    pub fn name(self) -> &'static str {
        ["outbound", "bidirectional", "inbound"][self as usize]
    }
}

#[derive(Clone, Debug)]
pub struct Field {
    pub column: &'static str,
    pub direction: Direction,
    pub policy: &'static str,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub vendor: Vendor,
    pub fields: Vec<Field>,
    pub on_insert: &'static str,
    pub on_delete: &'static str,
    pub on_crm_insert: &'static str,
    pub on_crm_delete: &'static str,
    pub conflict_scope: &'static str,
    /// The types of the columns.
    pub types: [&'static str; COLUMNS.len()],
    /// By how much the CRM's clock is off.
    pub skew_s: i64,
    pub actions: Vec<Action>,
}

/// Whom an action is about: the n-th of those there are, counted round.
pub type Pick = usize;

/// What an edit sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// A value that nobody else ever sets.
    Own,
    /// One that others set as well, on either side.
    Common,
    Empty,
    /// One of its own in a form that somebody may have thought of as another: blanks of all kinds,
    /// line ends, signs that are several characters, numbers that doubles or the CRM's scale have
    /// no room for.
    Odd,
    /// Set by people of the CRM: what the table cannot take.
    Indigestible,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    Known,
    Row,
    Live,
    Wrong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrmKey {
    None,
    New,
    /// That of a row.
    Row(Pick),
}

#[derive(Clone, Debug)]
pub enum Action {
    Update {
        rows: usize,
        pick: Pick,
        cells: Vec<(usize, Word)>,
    },
    Insert {
        rows: usize,
        words: Vec<Word>,
    },
    /// A row that was deleted comes back with its key.
    Revive {
        pick: Pick,
        words: Vec<Word>,
    },
    Delete {
        pick: Pick,
    },
    /// All rows are taken out and put back by one transaction.
    Reload,
    /// An update in a transaction that is prepared first.
    Prepare {
        pick: Pick,
        cells: Vec<(usize, Word)>,
        commit: bool,
        ms: u64,
    },
    /// The application's session is set to something else.
    Set {
        setting: &'static str,
    },
    Write {
        pick: Pick,
        cells: Vec<(usize, Word)>,
        base: Base,
        force: bool,
        commit: bool,
    },
    ReadLive {
        pick: Pick,
    },
    CrmEdit {
        pick: Pick,
        cells: Vec<(usize, Word)>,
    },
    CrmCreate {
        key: CrmKey,
        words: Vec<Word>,
    },
    CrmDelete {
        pick: Pick,
    },
    CrmRestore {
        pick: Pick,
    },
    CrmMerge {
        into: Pick,
        from: Pick,
    },
    Resolve {
        pick: Pick,
        winner: &'static str,
    },
    Replay {
        pick: Pick,
    },
    Pause,
    Resume,
    Mend,
    Flush,
    Ingest,
    Backfill,
    Fault {
        operation: &'static str,
        class: &'static str,
        times: u32,
    },
    /// Cells change behind capture, and an operator asks for what was missed.
    Behind {
        rows: usize,
        pick: Pick,
        cells: Vec<(usize, Word)>,
    },
    /// A column is rewritten: `ALTER COLUMN … TYPE … USING`.
    Rewrite {
        column: usize,
    },
    KillWorker,
    KillCaller,
    KillServer,
    /// The CRM's clock goes ahead.
    Ahead {
        hours: i64,
    },
    /// Nothing happens for a moment: what is under way goes on.
    Pass {
        ms: u64,
    },
}

const POLICIES: [&str; 6] = [
    "crm_wins",
    "local_wins",
    "merge_with_audit",
    "manual_review",
    "immutable_after_bind",
    "last_writer_wins",
];
const CLASSES: [&str; 9] = [
    "transient",
    "transient",
    "rate_limited",
    "auth",
    "validation",
    "conflict",
    "drop",
    "drop_after_apply",
    "slow",
];

impl Plan {
    pub fn draw(seed: u64, vendor: Vendor, actions: usize) -> Plan {
        let mut rng = Rng::with_seed(seed.wrapping_mul(3).wrapping_add(vendor as u64));
        let fields = COLUMNS.map(|(column, _)| Field {
            column,
            // A record cannot be made without a last name.
            direction: match rng.u8(..10) {
                0..2 => Direction::Outbound,
                2..4 if column != "last_name" => Direction::Inbound,
                _ => Direction::Bidirectional,
            },
            policy: POLICIES[rng.usize(..POLICIES.len())],
        });
        let mut of = |words: &[&'static str]| words[rng.usize(..words.len())];
        let (on_insert, on_delete) = (
            of(&["create", "create", "ignore"]),
            of(&["ignore", "unlink", "delete"]),
        );
        let (on_crm_insert, on_crm_delete) = (
            of(&["insert", "insert", "ignore"]),
            of(&["ignore", "unlink", "delete"]),
        );
        let conflict_scope = of(&["record", "fields"]);
        let types = COLUMNS.map(|(column, _)| of(types(column)));
        let skew_s = [0, -5 * 3600, 7 * 3600 + 13, 90][rng.usize(..4)];
        let actions = (0..actions)
            .map(|_| Action::draw(&mut rng, vendor))
            .collect();
        Plan {
            seed,
            vendor,
            fields: fields.to_vec(),
            on_insert,
            on_delete,
            on_crm_insert,
            on_crm_delete,
            conflict_scope,
            types,
            skew_s,
            actions,
        }
    }
}

/// The types that a column may have: some spell what they hold in a way of their own, and some
/// compare it so. `label`, `amount` and `day` are domains.
fn types(column: &str) -> &'static [&'static str] {
    match column {
        "first_name" => &["text", "citext", "char(120)", "label"],
        "last_name" => &["text", "varchar(200)", "citext", "label"],
        "email" => &["text", "citext"],
        "phone" => &["text", "varchar(120)", "char(120)", "label"],
        "score" => &["numeric", "numeric(12, 2)", "amount"],
        "born" => &["date", "day"],
        _ => &["text"],
    }
}

impl Action {
    fn draw(rng: &mut Rng, vendor: Vendor) -> Action {
        let pick = rng.usize(..1 << 20);
        let weight = rng.u16(..1000);
        match weight {
            0..260 => Action::Update {
                rows: if rng.u8(..5) == 0 {
                    rng.usize(2..12)
                } else {
                    1
                },
                pick,
                cells: cells(rng),
            },
            260..310 => Action::Insert {
                rows: if rng.u8(..5) == 0 { rng.usize(2..6) } else { 1 },
                words: words(rng),
            },
            310..317 => Action::Revive {
                pick,
                words: words(rng),
            },
            317..340 => Action::Delete { pick },
            340 => Action::Reload,
            341..345 => Action::Set {
                setting: SETTINGS[rng.usize(..SETTINGS.len())],
            },
            345..430 => Action::Write {
                pick,
                cells: cells(rng),
                base: [Base::Known, Base::Row, Base::Live, Base::Wrong][rng.usize(..4)],
                force: rng.u8(..6) == 0,
                commit: rng.u8(..5) != 0,
            },
            430..436 => Action::ReadLive { pick },
            436..446 => Action::Prepare {
                pick,
                cells: cells(rng),
                commit: rng.u8(..4) != 0,
                ms: rng.u64(..30),
            },
            446..640 => Action::CrmEdit {
                pick,
                cells: edited(rng),
            },
            640..670 => Action::CrmCreate {
                key: match rng.u8(..8) {
                    0 => CrmKey::Row(rng.usize(..1 << 20)),
                    1 | 2 => CrmKey::New,
                    _ => CrmKey::None,
                },
                words: words(rng),
            },
            670..690 => Action::CrmDelete { pick },
            690..700 => Action::CrmRestore { pick },
            700..708 if vendor != Vendor::Stub => Action::CrmMerge {
                into: rng.usize(..1 << 20),
                from: pick,
            },
            700..708 => Action::CrmEdit {
                pick,
                cells: cells(rng),
            },
            708..748 => Action::Resolve {
                pick,
                winner: if rng.bool() { "crm" } else { "local" },
            },
            748..768 => Action::Replay { pick },
            768..774 => Action::Pause,
            774..790 => Action::Resume,
            790..815 => Action::Mend,
            815..850 => Action::Flush,
            850..912 => Action::Ingest,
            912..914 => Action::Backfill,
            914..960 => Action::Fault {
                operation: if rng.u8(..3) == 0 { "read" } else { "write" },
                class: CLASSES[rng.usize(..CLASSES.len())],
                times: rng.u32(1..4),
            },
            960..962 => Action::KillWorker,
            962..964 => Action::KillCaller,
            964 => Action::KillServer,
            965..967 => Action::Ahead {
                hours: rng.i64(1..30),
            },
            967..973 => Action::Behind {
                rows: rng.usize(1..4),
                pick,
                cells: cells(rng),
            },
            973..976 => Action::Rewrite {
                column: rng.usize(..COLUMNS.len()),
            },
            _ => Action::Pass { ms: rng.u64(1..40) },
        }
    }
}

fn cells(rng: &mut Rng) -> Vec<(usize, Word)> {
    let first = rng.usize(..COLUMNS.len());
    let count = if rng.u8(..3) == 0 { rng.usize(2..4) } else { 1 };
    (0..count)
        .map(|n| (first + n) % COLUMNS.len())
        .map(|column| (column, word(rng, column)))
        .collect()
}

/// What people of the CRM set now and then is nothing for a table.
fn edited(rng: &mut Rng) -> Vec<(usize, Word)> {
    let mut cells = cells(rng);
    if rng.u8(..40) == 0 {
        cells = vec![(4, Word::Indigestible)];
    }
    cells
}

fn words(rng: &mut Rng) -> Vec<Word> {
    (0..COLUMNS.len()).map(|column| word(rng, column)).collect()
}

fn word(rng: &mut Rng, column: usize) -> Word {
    match rng.u8(..20) {
        0 | 1 if COLUMNS[column].1 => Word::Empty,
        // Addresses are unique in some CRMs.
        2 if COLUMNS[column].0 != "email" => Word::Common,
        3 | 4 => Word::Odd,
        _ => Word::Own,
    }
}
