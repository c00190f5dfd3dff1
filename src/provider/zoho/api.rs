//! Options and paths of Zoho's API.

use crate::request::encode;
use crate::{Settings, wire};

/// The option that names the organisation (its `zgid`), for tokens that may not ask for it.
pub const ORG_OPTION: &str = "org_id";
/// The option that says where files of bulk write jobs go, where that does not follow from the base URL.
pub const UPLOAD_URL_OPTION: &str = "upload_url";

/// An option that holds a word.
pub(super) fn option(settings: &Settings, key: &str) -> Option<String> {
    wire::scalar_text(settings.options.get(key)?).filter(|word| !word.is_empty())
}

pub(super) fn module_path(module: &str) -> String {
    format!("/crm/v8/{}", encode(module))
}
