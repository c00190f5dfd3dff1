//! The facts of each vendor.

mod dynamics365;
mod hubspot;
mod pipedrive;
mod salesforce;
mod stub;
mod zoho;

use super::Vendor;
use super::facts::Facts;

impl Vendor {
    pub fn facts(self) -> &'static Facts {
        match self {
            Vendor::Stub => &stub::FACTS,
            Vendor::Salesforce => &salesforce::FACTS,
            Vendor::HubSpot => &hubspot::FACTS,
            Vendor::Pipedrive => &pipedrive::FACTS,
            Vendor::Zoho => &zoho::FACTS,
            Vendor::Dynamics365 => &dynamics365::FACTS,
        }
    }
}
