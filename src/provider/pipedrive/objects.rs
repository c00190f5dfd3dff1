//! Pipedrive's objects, and what its API can do with each: version 2 where it has one, version 1
//! else.

use std::collections::BTreeSet;
use std::fmt::Display;

use crm_domain::{ErrorClass, Failure};

use super::field_name;
use crate::request::encode;
use crate::{Method, Request};

/// Keys of custom fields in one request (API Reference, parameter `custom_fields`); beyond, all
/// come.
const CUSTOM_KEYS: usize = 15;

/// Fields that are only told if they are asked for (API Reference, parameter `include_fields`).
const OPTIONAL: [&str; 8] = [
    "next_activity_id",
    "last_activity_id",
    "activities_count",
    "notes_count",
    "files_count",
    "followers_count",
    "email_messages_count",
    "attendees",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// Where records are that the list of an object does not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elsewhere {
    Nowhere,
    /// In a list of the archived ones. The object's list shows deleted ones if asked to.
    Archived,
    /// Deleted ones are among what has changed lately (`/recents`).
    Recents,
}

#[derive(Debug)]
pub(super) struct Object {
    /// As paths have it.
    pub name: &'static str,
    /// As searches, recent changes and webhooks have it.
    pub word: &'static str,
    pub version: Version,
    pub update: Method,
    /// Whether a field of it can be searched, so that a key can be looked up.
    pub is_searchable: bool,
    pub has_changelog: bool,
    /// Whether its list takes `updated_until`.
    pub has_until: bool,
    pub elsewhere: Elsewhere,
}

const V2: Object = Object {
    name: "",
    word: "",
    version: Version::V2,
    update: Method::Patch,
    is_searchable: true,
    has_changelog: true,
    has_until: true,
    elsewhere: Elsewhere::Recents,
};

const V1: Object = Object {
    version: Version::V1,
    has_changelog: false,
    has_until: false,
    elsewhere: Elsewhere::Nowhere,
    ..V2
};

/// API Reference; the parameters are those of the npm package `pipedrive` 33.7.0.
pub(super) const OBJECTS: [Object; 7] = [
    Object {
        name: "deals",
        word: "deal",
        elsewhere: Elsewhere::Archived,
        ..V2
    },
    Object {
        name: "persons",
        word: "person",
        ..V2
    },
    Object {
        name: "organizations",
        word: "organization",
        ..V2
    },
    Object {
        name: "products",
        word: "product",
        has_changelog: false,
        has_until: false,
        ..V2
    },
    Object {
        name: "activities",
        word: "activity",
        is_searchable: false,
        has_changelog: false,
        ..V2
    },
    Object {
        name: "leads",
        word: "lead",
        ..V1
    },
    Object {
        name: "notes",
        word: "note",
        update: Method::Put,
        is_searchable: false,
        elsewhere: Elsewhere::Recents,
        ..V1
    },
];

/// The object of that name, in singular or plural.
pub(super) fn known(name: &str) -> Option<&'static Object> {
    let is_it = |object: &&Object| {
        object.name.eq_ignore_ascii_case(name) || object.word.eq_ignore_ascii_case(name)
    };
    OBJECTS.iter().find(is_it)
}

/// A path that is not known would be answered 404, as a record is that is gone. So it is never
/// asked.
pub(super) fn object(name: &str) -> Result<&'static Object, Failure> {
    known(name).ok_or_else(|| {
        let names = OBJECTS.each_ref().map(|object| object.name).join(", ");
        let message = format!("there is no object \"{name}\"; known objects: {names}");
        Failure::record(ErrorClass::Mapping, "unknown_object", message)
    })
}

impl Object {
    /// A request for what lies below the object's path.
    pub fn request(&self, method: Method, rest: impl Display) -> Request {
        let version = match self.version {
            Version::V1 => "v1",
            Version::V2 => "v2",
        };
        Request::new(method, format!("/api/{version}/{}{rest}", self.name))
    }

    pub fn one(&self, method: Method, id: &str) -> Request {
        self.request(method, format_args!("/{}", encode(id)))
    }

    /// The parameters that ask a list for mapped fields.
    pub fn wanted<'a>(&self, names: impl Iterator<Item = &'a str>) -> String {
        if self.version == Version::V1 {
            return String::new();
        }
        let names: BTreeSet<&str> = names.map(|name| field_name::split(name).0).collect();
        let (keys, own): (Vec<&str>, Vec<&str>) = names
            .into_iter()
            .partition(|name| field_name::is_custom(name));
        let optional: Vec<&str> = OPTIONAL.into_iter().filter(|n| own.contains(n)).collect();
        let mut wanted = String::new();
        if (1..=CUSTOM_KEYS).contains(&keys.len()) {
            wanted.push_str(&format!("&custom_fields={}", keys.join(",")));
        }
        if !optional.is_empty() {
            wanted.push_str(&format!("&include_fields={}", optional.join(",")));
        }
        wanted
    }

    /// Records by their ids; of version 1, which takes none, any: the answer shows that the path is
    /// right.
    pub fn by_ids<'a>(&self, ids: impl Iterator<Item = &'a str>, wanted: &str) -> Request {
        match self.version {
            Version::V1 => self.request(Method::Get, "?limit=1"),
            Version::V2 => self.request(Method::Get, in_list("", ids) + wanted),
        }
    }

    /// The same among the archived ones, if such are kept apart.
    pub fn archived_by_ids<'a>(
        &self,
        ids: impl Iterator<Item = &'a str>,
        wanted: &str,
    ) -> Option<Request> {
        let kept_apart = self.elsewhere == Elsewhere::Archived;
        kept_apart.then(|| self.request(Method::Get, in_list("/archived", ids) + wanted))
    }
}

/// Ids in one request (API Reference, parameter `ids`), all of whose records fit a page.
pub(super) const IDS: usize = 100;

fn in_list<'a>(list: &str, ids: impl Iterator<Item = &'a str>) -> String {
    let ids: Vec<String> = ids.map(|id| encode(id).to_string()).collect();
    format!("{list}?ids={}&limit={IDS}", ids.join(","))
}
