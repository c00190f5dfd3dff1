//! The columns of a table, from Dataverse's metadata: the names of all tables first, since
//! lookups are mapped with the entity set that they lead to, then the rest in one batch.
//!
//! Guarantees: that there is no such entity set is the only mapping error; a definition that is not
//! told is a failure, and never a description with less in it.

use std::collections::HashMap;

use crm_domain::{Description, ErrorClass, Failure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::definition::{Attribute, Definition, Detail, Key, Relationship};
use super::{api, batch, errors};
use crate::errors::unreadable;
use crate::request::encode;
use crate::{Method, Operation, Request, Response, Step};

const TABLES: &str = "EntityDefinitions?$select=LogicalName,EntitySetName,PrimaryIdAttribute";

/// Begins the names by which lookups are read (`_column_value`), and no name of a column.
const READ_PREFIX: &str = "_";

const ATTRIBUTES: &str = "Attributes?$select=LogicalName,AttributeTypeName,AttributeOf,DisplayName,RequiredLevel,IsValidForCreate,IsValidForUpdate,IsValidForRead";
const KEYS: &str = "Keys?$select=KeyAttributes,EntityKeyIndexStatus";
const RELATIONSHIPS: &str = "ManyToOneRelationships?$select=ReferencingAttribute,ReferencingEntityNavigationPropertyName,ReferencedEntity";

const OPTIONS: &str =
    "LogicalName&$expand=OptionSet($select=Options),GlobalOptionSet($select=Options)";

/// What columns of one type alone have is told of that type alone.
const DETAILS: [(&str, &str); 9] = [
    ("String", "LogicalName,MaxLength"),
    ("Memo", "LogicalName,MaxLength"),
    ("DateTime", "LogicalName,DateTimeBehavior"),
    ("Picklist", OPTIONS),
    ("MultiSelectPicklist", OPTIONS),
    ("State", OPTIONS),
    ("Status", OPTIONS),
    // Of floating point numbers it is how people see them.
    ("Decimal", "LogicalName,Precision"),
    ("Money", "LogicalName,Precision,PrecisionSource"),
];

#[derive(Deserialize)]
struct Listed<T> {
    value: Vec<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Table {
    logical_name: String,
    /// Some tables have none.
    entity_set_name: Option<String>,
    primary_id_attribute: Option<String>,
}

pub(super) struct Describe {
    set: String,
    definition: Option<Definition>,
}

impl Describe {
    pub fn new(set: &str) -> Describe {
        Describe {
            set: set.to_owned(),
            definition: None,
        }
    }

    fn take(&mut self, response: &Response) -> Result<Step<Description>, Failure> {
        let Some(definition) = self.definition.take() else {
            let tables = listed::<Table>(response)?;
            let (table, definition) = self.defined(tables)?;
            self.definition = Some(definition);
            return Ok(Step::Send(questions(&table)));
        };
        let definition = told(definition, response)?;
        Ok(Step::Done(Ok(Description {
            fields: definition.fields(),
            free_prefix: Some(READ_PREFIX.to_owned()),
            is_partial: false,
        })))
    }

    /// The table of the entity set, by its own name, and what all tables are called.
    fn defined(&self, tables: Vec<Table>) -> Result<(String, Definition), Failure> {
        let is_ours = |table: &&Table| table.entity_set_name.as_ref() == Some(&self.set);
        let Some(table) = tables.iter().find(is_ours) else {
            return Err(unknown_set(&self.set));
        };
        let (name, id_column) = (
            table.logical_name.clone(),
            table.primary_id_attribute.clone(),
        );
        let sets = tables.into_iter();
        let sets = sets.filter_map(|table| Some((table.logical_name, table.entity_set_name?)));
        let definition = Definition {
            id_column: id_column.unwrap_or_default(),
            sets: sets.collect(),
            ..Definition::default()
        };
        Ok((name, definition))
    }
}

pub(super) fn unknown_set(set: &str) -> Failure {
    let message = format!("there is no table whose entity set is \"{set}\"");
    Failure::record(ErrorClass::Mapping, "unknown_entity_set", message)
}

fn questions(table: &str) -> Request {
    let quoted = format!("'{}'", table.replace('\'', "''"));
    let root = format!("EntityDefinitions(LogicalName={})", encode(&quoted));
    let ask = |path: &str| api::request(Method::Get, format!("{root}/{path}"));
    let details = DETAILS.iter().map(|(kind, chosen)| {
        ask(&format!(
            "Attributes/Microsoft.Dynamics.CRM.{kind}AttributeMetadata?$select={chosen}"
        ))
    });
    let whole = [ATTRIBUTES, KEYS, RELATIONSHIPS].map(ask);
    batch::wrap(&whole.into_iter().chain(details).collect::<Vec<Request>>())
}

/// A definition with what a batch of [`questions`] was answered.
fn told(definition: Definition, response: &Response) -> Result<Definition, Failure> {
    let Some(parts) = batch::unwrap(response) else {
        return Err(failure(response).unwrap_or_else(|| unreadable(response)));
    };
    let [attributes, keys, relationships, details @ ..] = &parts[..] else {
        return Err(unreadable(response));
    };
    if details.len() != DETAILS.len() {
        return Err(unreadable(response));
    }
    let mut known: HashMap<String, Detail> = HashMap::new();
    for part in details {
        let each = listed::<Detail>(part)?.into_iter();
        known.extend(each.map(|detail| (detail.logical_name.clone(), detail)));
    }
    Ok(Definition {
        attributes: listed::<Attribute>(attributes)?,
        keys: listed::<Key>(keys)?,
        relationships: listed::<Relationship>(relationships)?,
        details: known,
        ..definition
    })
}

fn listed<T: DeserializeOwned>(response: &Response) -> Result<Vec<T>, Failure> {
    if let Some(failure) = failure(response) {
        return Err(failure);
    }
    let answer = crate::json::parse::<Listed<T>>(&response.body);
    answer
        .map(|answer| answer.value)
        .map_err(|_| unreadable(response))
}

/// A definition that may not be read, or not so, says nothing of whether its table is there.
fn failure(response: &Response) -> Option<Failure> {
    let failure = errors::of_response(response)?;
    let class = match failure.class {
        ErrorClass::Mapping | ErrorClass::NotFound if response.status == 403 => ErrorClass::Auth,
        ErrorClass::Mapping | ErrorClass::NotFound => ErrorClass::Internal,
        class => class,
    };
    Some(Failure { class, ..failure })
}

impl Operation<Description> for Describe {
    fn step(&mut self, answer: Option<Response>) -> Step<Description> {
        match answer {
            None => Step::Send(api::request(Method::Get, TABLES)),
            Some(response) => self
                .take(&response)
                .unwrap_or_else(|failure| Step::Done(Err(failure))),
        }
    }
}
