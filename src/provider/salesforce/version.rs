//! What a conditional write of a row is sent, as the one text that [`crate::CrmObject::version`]
//! is.

use serde::{Deserialize, Serialize};

use crate::Request;

/// The state of a row as Salesforce can compare it ("Conditional Request Headers" of the REST API
/// Developer Guide): by a date of whole seconds, and for accounts by a tag.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Version {
    /// `If-Unmodified-Since`. Only there if it protects by itself: if the row was read in a later
    /// second than that of its last change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
}

/// `If-Match`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tag {
    pub etag: String,
    /// The `fields` that were read: the tag is a hash of content, and it is not told whether that
    /// is the row's or the answer's.
    pub fields: String,
}

impl Version {
    /// `None` if nothing of it protects.
    pub fn to_text(&self) -> Option<String> {
        if *self == Version::default() {
            return None;
        }
        serde_json::to_string(self).ok()
    }

    /// `None` if it is no version that [`Version::to_text`] made.
    pub fn from_text(text: &str) -> Option<Version> {
        let version = serde_json::from_str(text).ok()?;
        (version != Version::default()).then_some(version)
    }

    pub fn condition(&self, mut request: Request) -> Request {
        if let Some(tag) = &self.tag {
            request = request.header("if-match", &tag.etag);
        }
        if let Some(date) = &self.date {
            request = request.header("if-unmodified-since", date);
        }
        request
    }
}
