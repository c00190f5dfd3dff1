//! What `docs/providers.md` says of the providers is what the scenarios hold them to.

use crm_suites::crm::facts::Guarded;
use crm_suites::{Contestant, Vendor};

crm_suites::with_every_contestant!(the_table_of_the_documentation_is_true);

/// The section with a table of what holds for all of them.
const SECTION: &str = "What each can do";

fn section(title: &str) -> &'static str {
    let text = include_str!("../../../../docs/providers.md");
    let section = text.split(&format!("\n## {title}\n")).nth(1);
    let section = section.and_then(|rest| rest.split("\n## ").next());
    section.expect("the section is there")
}

/// The cell of a vendor in the row of a section's table that begins so.
pub fn cell(title: &str, row: &str, vendor: Vendor) -> &'static str {
    let line = section(title)
        .lines()
        .find(|line| line[2.min(line.len())..].starts_with(row));
    let line = line.unwrap_or_else(|| panic!("no row \"{row}\""));
    let order = [
        Vendor::Salesforce,
        Vendor::HubSpot,
        Vendor::Pipedrive,
        Vendor::Zoho,
        Vendor::Dynamics365,
        Vendor::Stub,
    ];
    let place = order.iter().position(|held| *held == vendor);
    let mut cells = line.split(" | ").skip(1);
    let cell = cells.nth(place.expect("a column"));
    cell.expect("a cell").trim_end_matches(" |")
}

/// The number that a cell begins with.
pub fn number(cell: &str) -> usize {
    let digits = cell.split(|c: char| !c.is_ascii_digit() && c != ',').next();
    digits
        .and_then(|digits| digits.replace(',', "").parse().ok())
        .expect(cell)
}

async fn the_table_of_the_documentation_is_true(contestant: Contestant) {
    let vendor = contestant.vendor;
    let facts = vendor.facts();
    assert_eq!(
        number(cell(SECTION, "records in a request", vendor)),
        facts.batch
    );
    assert_eq!(number(cell(SECTION, "[changes]", vendor)), facts.page);
    assert_eq!(
        number(cell(SECTION, "forms of a", vendor)),
        facts.limits.len()
    );
    let guarded = |guarded| match guarded {
        Guarded::Refused => "is refused",
        Guarded::Reported => "is reported",
        Guarded::Unnoticed => "is not noticed",
    };
    let one = cell(SECTION, "an edit between", vendor);
    assert_eq!(one, guarded(vendor.guards_one()));
    let many = cell(SECTION, "the same among", vendor);
    assert_eq!(many, guarded(vendor.guards_many()));
    for (situation, reason) in contestant.absent() {
        assert!(section(SECTION).contains(reason), "{situation:?}: {reason}");
    }
}
