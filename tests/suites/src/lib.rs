//! The harness of the suites: real PostgreSQL clusters with pg_crm preloaded, and the simulated CRMs.
//!
//! Every helper panics with the SQL, the request or the condition that failed, so that scenarios read as the story they
//! tell. Nothing outlives the process: servers and simulators die with it, whatever way it ends.

pub mod cluster;
pub mod crm;
pub mod database;
pub mod desk;
pub mod eventually;
pub mod gate;
pub mod live;
pub mod post;
pub mod process;
pub mod sim;
pub mod vitals;

pub use cluster::Cluster;
pub use crm::{Crm, Vendor};
pub use database::{Database, Session};
pub use desk::Desk;
pub use eventually::{eventually, within};
pub use gate::Gate;
pub use live::{Live, Written};
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
