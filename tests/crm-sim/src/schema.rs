//! Objects and fields as a CRM's administrator defines them.
//!
//! Guarantees: a field keeps its position for ever (records refer to fields by position), so a
//! field that is removed only becomes invisible; names compare without case.

use crate::value::{Kind, Value};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use thiserror::Error;

/// When the built-in objects were defined: on 1 January 2026.
const BUILT_IN: i64 = 1_767_225_600_000;

/// Where a field's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Stored,
    Id,
    Deleted,
    Created,
    CreatedBy,
    Modified,
    ModifiedBy,
    /// First and last name joined.
    FullName,
    /// The record that this one was merged into.
    Master,
    /// Records that were merged into this one; with times.
    Merged,
    MergedTimes,
}

#[derive(Debug, Clone)]
pub struct Field {
    pub spec: FieldSpec,
    pub kind: Kind,
    pub source: Source,
    pub default: Option<Value>,
    pub removed: bool,
}

impl Field {
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    pub fn label(&self) -> &str {
        self.spec.label.as_deref().unwrap_or(&self.spec.name)
    }

    pub fn writable(&self) -> bool {
        self.source == Source::Stored && !self.spec.read_only && !self.spec.calculated
    }

    /// Whether records are looked up by it, so the store keeps an index.
    pub fn indexed(&self) -> bool {
        self.source == Source::Stored && (self.spec.unique || self.spec.external_id)
    }
}

/// An object definition as `POST /schema/{vendor}/{object}` takes it; the built-in ones use it too.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectSpec {
    pub label: Option<String>,
    pub plural: Option<String>,
    /// Vendor's short code: key prefix of ids on Salesforce, object type id on HubSpot.
    pub code: Option<String>,
    pub fields: Vec<FieldSpec>,
    /// What becomes of the values of fields from now on, by their names.
    pub alter: BTreeMap<String, Alteration>,
    /// Names of fields to take away.
    pub remove: Vec<String>,
    /// What makes a new record a duplicate of another one; without it nothing does.
    pub duplicates: Option<DuplicateRule>,
}

/// A rule of the CRM's administrator: records that agree in all of these fields are duplicates.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DuplicateRule {
    pub fields: Vec<String>,
    /// Callers cannot insist.
    pub block: bool,
}

/// A field definition; `type` is the vendor's own word.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct FieldSpec {
    pub name: String,
    #[serde(rename = "type")]
    pub native: String,
    pub label: Option<String>,
    /// HubSpot's `fieldType`.
    pub widget: Option<String>,
    pub length: Option<u32>,
    pub precision: Option<u32>,
    pub scale: Option<u32>,
    pub required: bool,
    pub unique: bool,
    pub external_id: bool,
    pub case_sensitive: bool,
    pub read_only: bool,
    pub calculated: bool,
    /// Choices of a picklist or enumeration.
    pub values: Vec<String>,
    pub restricted: bool,
    pub references: Vec<String>,
    pub default: Option<serde_json::Value>,
    /// Digits beyond `scale` are kept, where the vendor would round them off.
    pub exact: bool,
    /// Text is kept in lower case.
    pub lower: bool,
    /// The group of a HubSpot property.
    pub group: Option<String>,
    /// What becomes of values, and no description tells.
    pub alters: Alteration,
}

/// What a CRM makes of values by rules of its own that its descriptions do not show: a trigger, a
/// workflow, a column that is narrower than it says.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Alteration {
    /// Numbers are rounded to so many decimals.
    pub decimals: Option<u32>,
    /// Texts are cut off after so many characters.
    pub characters: Option<usize>,
    /// Texts are kept in upper case.
    pub upper: bool,
    /// Texts are kept in brackets: nobody would take them for what was sent.
    pub brackets: bool,
}

#[derive(Debug, Error)]
pub enum SchemaError {
    #[error("field {field}: type \"{native}\" is unknown; known types: {known}")]
    UnknownType {
        field: String,
        native: String,
        known: String,
    },
    #[error("a field needs a name")]
    Nameless,
    #[error("field {field} belongs to the system and cannot be redefined or removed")]
    System { field: String },
    #[error("there is no field {field} to remove")]
    Missing { field: String },
    #[error("field {field}: the default does not fit the type")]
    Default { field: String },
}

/// How a vendor reads native type names and spells values.
pub trait Dialect {
    fn kind(&self, field: &FieldSpec) -> Option<Kind>;
    fn known_types(&self) -> &'static str;
}

#[derive(Debug, Clone)]
pub struct ObjectDef {
    pub name: String,
    pub spec: ObjectSpec,
    pub fields: Vec<Field>,
    /// When it was last defined, in milliseconds.
    pub changed: i64,
    names: HashMap<String, u16>,
}

impl ObjectDef {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            spec: ObjectSpec::default(),
            fields: Vec::new(),
            changed: BUILT_IN,
            names: HashMap::new(),
        }
    }

    pub fn label(&self) -> &str {
        self.spec.label.as_deref().unwrap_or(&self.name)
    }

    pub fn plural(&self) -> String {
        self.spec
            .plural
            .clone()
            .unwrap_or_else(|| format!("{}s", self.label()))
    }

    pub fn field(&self, name: &str) -> Option<(u16, &Field)> {
        let at = match self.names.get(name) {
            Some(at) => *at,
            None => *self.names.get(&name.to_ascii_lowercase())?,
        };
        Some((at, &self.fields[at as usize]))
    }

    /// Every visible field with its position.
    pub fn visible(&self) -> impl Iterator<Item = (u16, &Field)> {
        self.fields
            .iter()
            .enumerate()
            .filter(|(_, field)| !field.removed)
            .map(|(at, field)| (at as u16, field))
    }

    /// Adds a field that the system fills.
    pub fn add_system(&mut self, name: &str, native: &str, kind: Kind, source: Source) {
        let spec = FieldSpec {
            name: name.to_owned(),
            native: native.to_owned(),
            read_only: true,
            ..FieldSpec::default()
        };
        self.put(Field {
            spec,
            kind,
            source,
            default: None,
            removed: false,
        });
    }

    /// Merges `spec` into the definition. Nothing changes unless all of it is sound.
    pub fn define(&mut self, spec: &ObjectSpec, dialect: &impl Dialect) -> Result<(), SchemaError> {
        let mut fields = Vec::new();
        for field in &spec.fields {
            fields.push(self.check(field, dialect)?);
        }
        for name in spec.alter.keys() {
            let missing = || SchemaError::Missing {
                field: name.clone(),
            };
            self.field(name).ok_or_else(missing)?;
        }
        for name in &spec.remove {
            let missing = || SchemaError::Missing {
                field: name.clone(),
            };
            let (_, field) = self.field(name).ok_or_else(missing)?;
            if field.source != Source::Stored {
                return Err(SchemaError::System {
                    field: name.clone(),
                });
            }
        }
        for field in fields {
            self.put(field);
        }
        for (name, alters) in &spec.alter {
            if let Some((at, _)) = self.field(name) {
                self.fields[at as usize].spec.alters = alters.clone();
            }
        }
        for name in &spec.remove {
            if let Some(at) = self.names.remove(&name.to_ascii_lowercase()) {
                self.names.retain(|_, position| *position != at);
                self.fields[at as usize].removed = true;
            }
        }
        self.spec.label = spec.label.clone().or(self.spec.label.take());
        self.spec.plural = spec.plural.clone().or(self.spec.plural.take());
        self.spec.code = spec.code.clone().or(self.spec.code.take());
        self.spec.duplicates = (spec.duplicates.clone()).or(self.spec.duplicates.take());
        Ok(())
    }

    fn check(&self, spec: &FieldSpec, dialect: &impl Dialect) -> Result<Field, SchemaError> {
        if spec.name.is_empty() {
            return Err(SchemaError::Nameless);
        }
        let taken = self.field(&spec.name);
        if taken.is_some_and(|(_, field)| field.source != Source::Stored) {
            return Err(SchemaError::System {
                field: spec.name.clone(),
            });
        }
        let kind = dialect.kind(spec).ok_or_else(|| SchemaError::UnknownType {
            field: spec.name.clone(),
            native: spec.native.clone(),
            known: dialect.known_types().to_owned(),
        })?;
        let mut field = Field {
            spec: spec.clone(),
            kind,
            source: Source::Stored,
            default: None,
            removed: false,
        };
        if let Some(default) = &spec.default {
            field.default =
                crate::value::fit(&field, crate::value::Raw::from(default)).map_err(|_| {
                    SchemaError::Default {
                        field: spec.name.clone(),
                    }
                })?;
        }
        Ok(field)
    }

    fn put(&mut self, field: Field) {
        let name = field.spec.name.clone();
        let same_kind = |old: &Field| old.kind == field.kind;
        match self.names.get(&name.to_ascii_lowercase()).copied() {
            Some(at) if same_kind(&self.fields[at as usize]) => self.fields[at as usize] = field,
            // A field whose type changed is a new one: old values would not fit it.
            taken => {
                if let Some(at) = taken {
                    self.fields[at as usize].removed = true;
                    self.names.retain(|_, position| *position != at);
                }
                let at = self.fields.len() as u16;
                self.names.insert(name.to_ascii_lowercase(), at);
                self.names.insert(name, at);
                self.fields.push(field);
            }
        }
    }
}
