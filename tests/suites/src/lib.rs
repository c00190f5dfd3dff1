//! The harness of the suites: real PostgreSQL clusters with pg_crm preloaded, and the simulated
//! CRMs.
//!
//! Every helper panics with the SQL, the request or the condition that failed, so that scenarios
//! read as the story they tell. Nothing outlives the process: servers and simulators die with it,
//! whatever way it ends.

pub mod cluster;
pub mod complaints;
pub mod crm;
pub mod database;
pub mod desk;
pub mod eventually;
pub mod gate;
pub mod hooks;
pub mod live;
pub mod needs;
pub mod post;
pub mod process;
pub mod sim;
pub mod vitals;

pub use cluster::Cluster;
pub use crm::{Contestant, Crm, Vendor};
pub use database::{Database, Session};
pub use desk::Desk;
pub use eventually::{eventually, within};
pub use gate::Gate;
pub use live::{Live, Written};
pub use needs::{Need, lacks};
pub use serde_json::{Value as Json, json};
pub use sim::Sim;
pub use tokio_postgres::error::SqlState;
pub use vitals::Vitals;

/// Makes a test of each scenario for each CRM: `stub::name`, `salesforce::name`, `hubspot::name`,
/// `pipedrive::name`.
#[macro_export]
macro_rules! with_every_crm {
    ($($scenario:ident),+ $(,)?) => {
        mod stub {
            $(#[tokio::test] async fn $scenario() { super::$scenario($crate::Vendor::Stub).await })+
        }
        mod pipedrive {
            $(#[tokio::test] async fn $scenario() { super::$scenario($crate::Vendor::Pipedrive).await })+
        }
        $crate::with_remote_crms!($($scenario),+);
    };
}

/// The same for Zoho and Dynamics 365, in scenarios of which more CRMs can tell something new.
#[macro_export]
macro_rules! with_more_crms {
    ($($scenario:ident),+ $(,)?) => {
        mod zoho {
            $(#[tokio::test] async fn $scenario() { super::$scenario($crate::Vendor::Zoho).await })+
        }
        $crate::with_dynamics365!($($scenario),+);
    };
}

/// The same for Dynamics 365, whose writes are bound to what was read even in batches.
#[macro_export]
macro_rules! with_dynamics365 {
    ($($scenario:ident),+ $(,)?) => {
        mod dynamics365 {
            $(#[tokio::test] async fn $scenario() { super::$scenario($crate::Vendor::Dynamics365).await })+
        }
    };
}

/// The same for those that are spoken to over HTTP, and take batches.
#[macro_export]
macro_rules! with_remote_crms {
    ($($scenario:ident),+ $(,)?) => {
        mod salesforce {
            $(#[tokio::test] async fn $scenario() { super::$scenario($crate::Vendor::Salesforce).await })+
        }
        mod hubspot {
            $(#[tokio::test] async fn $scenario() { super::$scenario($crate::Vendor::HubSpot).await })+
        }
    };
}

/// Makes a test of each scenario for each contestant. Who is to hold to what all hold to gets a
/// line here.
#[macro_export]
macro_rules! with_every_contestant {
    ($($scenario:ident),+ $(,)?) => {
        $crate::contestant!(stub, direct(Stub), $($scenario),+);
        $crate::contestant!(salesforce, direct(Salesforce), $($scenario),+);
        $crate::contestant!(hubspot, direct(HubSpot), $($scenario),+);
        $crate::contestant!(pipedrive, direct(Pipedrive), $($scenario),+);
        $crate::contestant!(zoho, direct(Zoho), $($scenario),+);
        $crate::contestant!(dynamics365, direct(Dynamics365), $($scenario),+);
        $crate::contestant!(salesforce_by_composio, by_composio(Salesforce), $($scenario),+);
        $crate::contestant!(hubspot_by_composio, by_composio(HubSpot), $($scenario),+);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! contestant {
    ($name:ident, $way:ident($vendor:ident), $($scenario:ident),+) => {
        mod $name {
            $(#[tokio::test] async fn $scenario() {
                let contestant = $crate::Contestant::$way($crate::Vendor::$vendor);
                super::$scenario(contestant).await
            })+
        }
    };
}
