//! `contacts`, `contacts(GUID)`, `contacts(column='value')`, and the options of a query.

use super::error::DataverseError;
use super::{ROOT, org};
use crate::http::{Request, decode, pairs};
use crate::store::Object;

/// Rows of a page, of a request that does not say.
pub const LARGEST: usize = 5000;

/// What a path addresses below the root.
#[derive(Debug, PartialEq, Eq)]
pub enum Address {
    Set(String),
    Row {
        set: String,
        id: String,
    },
    /// A row by an alternate key of one column.
    Keyed {
        set: String,
        column: String,
        key: String,
    },
}

/// What the values of a key may not hold: encoded or not, the servers on the way do not let it
/// pass.
const BARRED: [char; 11] = ['/', '<', '>', '*', '%', '&', ':', '\\', '?', '+', '#'];

impl Address {
    pub fn set(&self) -> &str {
        match self {
            Self::Set(set) | Self::Row { set, .. } | Self::Keyed { set, .. } => set,
        }
    }

    /// What a link to a row leads to: `/contacts(…)`, or the whole of its URL.
    pub fn of_link(link: &str) -> Result<Self, DataverseError> {
        let path = match link.split_once("://") {
            Some((_, rest)) => rest.split_once(ROOT).map_or(rest, |(_, path)| path),
            None => link.strip_prefix(ROOT).unwrap_or(link),
        };
        Self::parse(&decode(path.trim_start_matches('/')))
    }

    pub fn parse(segment: &str) -> Result<Self, DataverseError> {
        let Some((set, rest)) = segment.split_once('(') else {
            return Ok(Self::Set(segment.to_owned()));
        };
        let set = set.to_owned();
        let syntax =
            || DataverseError::query(format!("Bad Request - Error in query syntax: '{segment}'"));
        let within = rest.strip_suffix(')').ok_or_else(syntax)?;
        if org::is_id(within) {
            let id = within.to_ascii_lowercase();
            return Ok(Self::Row { set, id });
        }
        let (column, literal) = within.split_once('=').ok_or_else(syntax)?;
        let literal = literal.trim();
        let text = literal
            .strip_prefix('\'')
            .and_then(|text| text.strip_suffix('\''));
        let literal = match text {
            Some(text) => text,
            None if literal.parse::<i64>().is_ok() => literal,
            None => return Err(syntax()),
        };
        let key = literal.replace("''", "'");
        if key.matches('\'').count() * 2 != literal.matches('\'').count() {
            return Err(syntax());
        }
        if key.contains(BARRED) {
            return Err(syntax());
        }
        let column = column.trim().to_owned();
        Ok(Self::Keyed { set, column, key })
    }
}

/// Refuses options of a query beyond these: who sends one means something by it.
pub fn only(request: &Request, known: &[&str]) -> Result<(), DataverseError> {
    match pairs(&request.query).find(|(name, _)| !known.contains(&name.as_str())) {
        Some((name, _)) => Err(DataverseError::query(format!(
            "The query parameter {name} is not supported"
        ))),
        None => Ok(()),
    }
}

/// The columns that `$select` names; `None`: all. Names tell case.
pub fn columns(object: &Object, request: &Request) -> Result<Option<Vec<u16>>, DataverseError> {
    let Some(list) = request.param("$select") else {
        return Ok(None);
    };
    let columns = list.split(',').map(|name| column(object, name.trim()));
    columns.collect::<Result<_, _>>().map(Some)
}

/// The column that a query names.
pub fn column(object: &Object, name: &str) -> Result<u16, DataverseError> {
    let known = object.def.field(name);
    let known = known.filter(|(_, field)| field.name() == name && !field.removed);
    let unknown = || {
        let table = org::table(&object.def.name);
        DataverseError::query(format!(
            "Could not find a property named '{name}' on type 'Microsoft.Dynamics.CRM.{table}'."
        ))
    };
    known.map(|(at, _)| at).ok_or_else(unknown)
}

/// The preferences of a request.
pub fn prefers(request: &Request, preference: &str) -> bool {
    let told = request.header("prefer").unwrap_or_default();
    told.split(',').any(|held| held.trim() == preference)
}

/// Rows that a page may have, if the request says so.
pub fn page_size(request: &Request) -> Option<usize> {
    let told = request.header("prefer").unwrap_or_default();
    let size = told
        .split(',')
        .find_map(|held| held.trim().strip_prefix("odata.maxpagesize="));
    let size: Option<usize> = size.and_then(|size| size.parse().ok());
    size.map(|size| size.clamp(1, LARGEST))
}
