//! Paths of HubSpot's API.

use crate::request::encode;

pub(super) fn object_path(object: &str) -> String {
    format!("/crm/v3/objects/{}", encode(object))
}
