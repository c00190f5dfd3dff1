//! Options and paths of Zoho's API.

use serde_json::Value as Json;

use crate::request::encode;
use crate::{Settings, wire};

/// The option that names the organisation (its `zgid`), for tokens that may not ask for it.
pub const ORG_OPTION: &str = "org_id";
/// The option that says where files of bulk write jobs go, where that does not follow from the base
/// URL.
pub const UPLOAD_URL_OPTION: &str = "upload_url";

/// An option that holds a word.
pub(super) fn option(settings: &Settings, key: &str) -> Option<String> {
    wire::scalar_text(settings.options.get(key)?).filter(|word| !word.is_empty())
}

/// Whether an option names an organisation, be it as a number or as a text.
pub(super) fn is_org(told: &Json) -> bool {
    wire::scalar_text(told)
        .is_some_and(|org| !org.is_empty() && org.bytes().all(|b| b.is_ascii_digit()))
}

pub(super) fn module_path(module: &str) -> String {
    format!("/crm/v8/{}", encode(module))
}
