//! Both directions at once, with everything that can go wrong: a random walk, and proof that it
//! settles.
//!
//! Applications, people in the CRM and operators do what they like, faults strike, processes are
//! killed. Then the storm ends, and everything must be in its place (see `proof.rs`). A walk is
//! drawn from a seed: one that fails says how to take it again. `WALK_SEED`, `WALK_ACTIONS` and
//! `WALK_VENDOR` choose one; `make soak` takes `WALK_SEEDS` long ones.

mod applications;
mod calls;
mod crm_users;
mod failure;
mod forms;
mod operators;
mod oracle;
mod plan;
mod proof;
mod settle;
mod sides;
mod walker;

use crm_suites::Vendor;

use plan::Plan;
use walker::Walk;

/// Actions between two proofs.
const STRETCH: usize = 500;

const VENDORS: [Vendor; 6] = [
    Vendor::Stub,
    Vendor::Salesforce,
    Vendor::HubSpot,
    Vendor::Pipedrive,
    Vendor::Zoho,
    Vendor::Dynamics365,
];

#[tokio::test]
async fn stub() {
    short(Vendor::Stub).await;
}

#[tokio::test]
async fn salesforce() {
    short(Vendor::Salesforce).await;
}

#[tokio::test]
async fn hubspot() {
    short(Vendor::HubSpot).await;
}

#[tokio::test]
async fn pipedrive() {
    short(Vendor::Pipedrive).await;
}

#[tokio::test]
async fn zoho() {
    short(Vendor::Zoho).await;
}

#[tokio::test]
async fn dynamics365() {
    short(Vendor::Dynamics365).await;
}

async fn short(vendor: Vendor) {
    let only = std::env::var("WALK_VENDOR").is_ok_and(|name| name != vendor.name());
    if only {
        return;
    }
    let seeds = number("WALK_SEED").map_or(1..4, |seed| seed..seed + 1);
    for seed in seeds {
        walk(seed, vendor, number("WALK_ACTIONS").unwrap_or(150) as usize).await;
    }
}

/// As many walks as `WALK_SEEDS` says, of the CRMs in turn, from `WALK_FIRST` on.
#[tokio::test]
#[ignore = "takes long: make soak"]
async fn long_walks() {
    let (seeds, actions) = (
        number("WALK_SEEDS").unwrap_or(6),
        number("WALK_ACTIONS").unwrap_or(5000),
    );
    let first = number("WALK_FIRST").unwrap_or(1);
    for seed in first..first + seeds {
        let vendor = VENDORS[seed as usize % VENDORS.len()];
        let start = std::time::Instant::now();
        walk(seed, vendor, actions as usize).await;
        eprintln!(
            "walk {seed} of {}: {actions} actions settle, {:?}",
            vendor.name(),
            start.elapsed()
        );
    }
}

async fn walk(seed: u64, vendor: Vendor, actions: usize) {
    let plan = Plan::draw(seed, vendor, actions);
    let all = plan.actions.clone();
    let mut walk = Walk::begin(plan).await;
    for stretch in all.chunks(STRETCH) {
        for action in stretch {
            walk.step(action).await;
        }
        walk.settle().await;
        walk.prove().await;
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
    )
}
