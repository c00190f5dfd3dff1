//! `contacts`, `contacts(GUID)`, `contacts(column='value')`, and the options of a query.

use super::error::DataverseError;
use super::org;
use crate::http::{Request, pairs};
use crate::store::Object;

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

impl Address {
    pub fn set(&self) -> &str {
        match self {
            Self::Set(set) | Self::Row { set, .. } | Self::Keyed { set, .. } => set,
        }
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
        let literal = literal
            .strip_prefix('\'')
            .and_then(|text| text.strip_suffix('\''));
        let literal = literal.ok_or_else(syntax)?;
        let key = literal.replace("''", "'");
        if key.matches('\'').count() * 2 != literal.matches('\'').count() {
            return Err(syntax());
        }
        // Encoded or not, the servers on the way do not let these pass.
        if key.contains(['/', '<', '>', '*', '%', '&', ':', '\\', '?', '+', '#']) {
            return Err(syntax());
        }
        let column = column.to_owned();
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
    let one = |name: &str| {
        let known = object.def.field(name);
        let known = known.filter(|(_, field)| field.name() == name && !field.removed);
        let unknown = || {
            let table = org::table(&object.def.name);
            DataverseError::query(format!(
                "Could not find a property named '{name}' on type 'Microsoft.Dynamics.CRM.{table}'."
            ))
        };
        known.map(|(at, _)| at).ok_or_else(unknown)
    };
    list.split(',').map(one).collect::<Result<_, _>>().map(Some)
}

/// The preferences of a request.
pub fn prefers(request: &Request, preference: &str) -> bool {
    let told = request.header("prefer").unwrap_or_default();
    told.split(',').any(|held| held.trim() == preference)
}

/// Rows that a page may have.
pub fn page_size(request: &Request) -> usize {
    let told = request.header("prefer").unwrap_or_default();
    let size = told
        .split(',')
        .find_map(|held| held.trim().strip_prefix("odata.maxpagesize="));
    let size = size.and_then(|size| size.parse().ok());
    size.unwrap_or(5000).clamp(1, 5000)
}
