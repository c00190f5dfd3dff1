//! The providers by name.

use serde_json::{Map, Value as Json};

use crate::provider::Provider;
use crate::{composio, dynamics365, hubspot, pipedrive, salesforce, stub, zoho};

/// Every provider by name.
pub fn providers() -> &'static [&'static dyn Provider] {
    &[
        &stub::Stub,
        &salesforce::Salesforce,
        &hubspot::HubSpot,
        &pipedrive::Pipedrive,
        &zoho::Zoho,
        &dynamics365::Dynamics365,
    ]
}

/// The provider of that name.
pub fn provider(name: &str) -> Option<&'static dyn Provider> {
    providers().iter().copied().find(|p| p.name() == name)
}

/// The base URL of a connection that names none; `None` if it must name one.
pub fn default_base_url(
    provider: &dyn Provider,
    options: &Map<String, Json>,
) -> Option<&'static str> {
    if composio::is_way(options) {
        Some(composio::BASE_URL)
    } else {
        provider.profile().base_url
    }
}
