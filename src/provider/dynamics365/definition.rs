//! A table's definition, and the fields that it makes.
//!
//! Guarantees: every field has the name that a mapping gives it, so a lookup is one field for
//! reading (`column`) and one for writing for each table that it may lead to (`column/set`,
//! `column/navigation/set`). Columns that only spell another one out cannot be asked for, and are
//! none.

use std::collections::{BTreeSet, HashMap};

use crm_domain::{Choice, DataType, FieldDescription};
use serde::Deserialize;

/// What an owner may be ("Lookup properties"): its own relationship leads to the abstract table of
/// both.
const OWNERS: [&str; 2] = ["systemusers", "teams"];

#[derive(Default)]
pub(super) struct Definition {
    pub id_column: String,
    /// Entity sets by the names of their tables.
    pub sets: HashMap<String, String>,
    pub attributes: Vec<Attribute>,
    pub keys: Vec<Key>,
    pub relationships: Vec<Relationship>,
    /// By column.
    pub details: HashMap<String, Detail>,
}

/// A property of one member, or none.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Held {
    value: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Attribute {
    logical_name: String,
    attribute_type_name: Option<Held>,
    attribute_of: Option<String>,
    display_name: Option<Label>,
    required_level: Option<Held>,
    is_valid_for_create: bool,
    is_valid_for_update: bool,
    is_valid_for_read: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Key {
    key_attributes: Vec<String>,
    entity_key_index_status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Relationship {
    referencing_attribute: String,
    referencing_entity_navigation_property_name: Option<String>,
    referenced_entity: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Detail {
    pub logical_name: String,
    max_length: Option<i64>,
    precision: Option<u32>,
    /// Of money: 0, unless it has the precision of its currency or of the organisation.
    #[serde(default)]
    precision_source: u32,
    date_time_behavior: Option<Held>,
    option_set: Option<OptionSet>,
    global_option_set: Option<OptionSet>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OptionSet {
    #[serde(default)]
    options: Vec<SetOption>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SetOption {
    value: i64,
    label: Option<Label>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Label {
    #[serde(default)]
    localized_labels: Vec<LocalizedLabel>,
    user_localized_label: Option<LocalizedLabel>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LocalizedLabel {
    label: Option<String>,
}

impl Label {
    /// In the user's language, if there is one.
    fn text(&self) -> Option<&str> {
        let own = self.user_localized_label.iter();
        let mut labels = own.chain(&self.localized_labels);
        labels.find_map(|label| label.label.as_deref())
    }
}

impl Attribute {
    /// `String`, `MultiSelectPicklist`.
    fn kind(&self) -> &str {
        let name = self.attribute_type_name.as_ref();
        let name = name
            .and_then(|name| name.value.as_deref())
            .unwrap_or_default();
        name.strip_suffix("Type").unwrap_or(name)
    }

    fn is_lookup(&self) -> bool {
        matches!(self.kind(), "Lookup" | "Customer" | "Owner")
    }

    /// Whether other columns spell out what it holds, which rows do not show.
    fn is_spelled_out(&self) -> bool {
        self.is_lookup()
            || matches!(
                self.kind(),
                "Picklist" | "MultiSelectPicklist" | "State" | "Status" | "Boolean"
            )
    }

    /// Whether no row is created without it: what it has by itself need not be given.
    fn is_required(&self) -> bool {
        let level = self
            .required_level
            .as_ref()
            .and_then(|level| level.value.as_deref());
        let has_default = matches!(
            self.kind(),
            "Owner" | "State" | "Status" | "Boolean" | "Uniqueidentifier"
        );
        self.is_valid_for_create && !has_default && level == Some("SystemRequired")
    }
}

impl Definition {
    pub fn fields(&self) -> Vec<FieldDescription> {
        let spelled_out = self.attributes.iter().filter(|a| a.is_spelled_out());
        let spelled_out: BTreeSet<&str> = spelled_out.map(|a| a.logical_name.as_str()).collect();
        let shown = self.attributes.iter().filter(|attribute| {
            let is_known = attribute.is_valid_for_read
                || attribute.is_valid_for_create
                || attribute.is_valid_for_update;
            let of = attribute.attribute_of.as_deref();
            is_known && of.is_none_or(|of| !spelled_out.contains(of))
        });
        shown
            .flat_map(|attribute| self.described(attribute))
            .collect()
    }

    /// A column, and the names by which it is written if they are others.
    fn described(&self, attribute: &Attribute) -> Vec<FieldDescription> {
        let field = self.field(attribute);
        if !attribute.is_lookup() || field.is_read_only() {
            return vec![field];
        }
        let targets = self.targets(attribute);
        let required = field.required && targets.len() == 1;
        let written = targets.iter().map(|target| FieldDescription {
            name: format!("{}/{target}", field.name),
            label: format!("{}: {target}", field.label),
            required,
            ..field.clone()
        });
        let written: Vec<_> = written.collect();
        let read = FieldDescription {
            required: false,
            createable: false,
            updateable: false,
            ..field
        };
        std::iter::once(read).chain(written).collect()
    }

    fn field(&self, attribute: &Attribute) -> FieldDescription {
        let name = &attribute.logical_name;
        let detail = self.details.get(name);
        let data_types = data_types(attribute.kind(), detail);
        let room = detail.and_then(|detail| detail.max_length);
        let room = room.and_then(|length| u32::try_from(length).ok());
        let label = attribute.display_name.as_ref().and_then(Label::text);
        let choices = detail.map(Detail::choices).unwrap_or_default();
        FieldDescription {
            name: name.clone(),
            label: label.unwrap_or_default().to_owned(),
            crm_type: attribute.kind().to_owned(),
            max_length: room.filter(|&length| length > 0),
            scale: detail
                .filter(|detail| detail.precision_source == 0)
                .and_then(|detail| detail.precision),
            required: attribute.is_required(),
            createable: attribute.is_valid_for_create,
            updateable: attribute.is_valid_for_update,
            is_case_sensitive: None,
            is_key: *name == self.id_column
                || (attribute.kind() == "String" && self.is_alternate_key(name)),
            is_closed: matches!(data_types[..], [DataType::Choice | DataType::MultiChoice]),
            choices,
            // What is a string to Dataverse is a string in JSON.
            refused_types: match data_types.first() {
                Some(DataType::Text) => vec![DataType::Number, DataType::Boolean],
                _ => Vec::new(),
            },
            data_types,
            // It is read by another name than a column of any other type.
            is_typed: attribute.is_lookup(),
            ..FieldDescription::default()
        }
    }

    /// By itself: our key is one text.
    fn is_alternate_key(&self, column: &str) -> bool {
        let mut keys = self.keys.iter();
        keys.any(|key| key.key_attributes == [column] && key.entity_key_index_status == "Active")
    }

    /// What follows the column in the names by which a lookup is written.
    fn targets(&self, attribute: &Attribute) -> BTreeSet<String> {
        if attribute.kind() == "Owner" {
            return OWNERS.map(str::to_owned).into();
        }
        let column = &attribute.logical_name;
        let own = self.relationships.iter();
        let own = own.filter(|relationship| relationship.referencing_attribute == *column);
        own.filter_map(|relationship| {
            let set = self.sets.get(&relationship.referenced_entity)?;
            let navigation = relationship
                .referencing_entity_navigation_property_name
                .as_ref()?;
            Some(match navigation == column {
                true => set.clone(),
                false => format!("{navigation}/{set}"),
            })
        })
        .collect()
    }
}

impl Detail {
    fn choices(&self) -> Vec<Choice> {
        let sets = [&self.option_set, &self.global_option_set];
        let options = sets.into_iter().flatten().map(|set| &set.options);
        // A list that several columns share may be told twice.
        let options = options.filter(|options| !options.is_empty()).take(1);
        let choice = |option: &SetOption| Choice {
            value: option.value.to_string(),
            label: option
                .label
                .as_ref()
                .and_then(Label::text)
                .unwrap_or_default()
                .to_owned(),
        };
        options.flatten().map(choice).collect()
    }
}

/// Of files, images and parties nothing is known. A GUID that is no lookup's is read by its own
/// name, as a text is.
fn data_types(kind: &str, detail: Option<&Detail>) -> Vec<DataType> {
    use DataType::{Boolean, Date, MultiChoice, Number, Reference, Text, Timestamp};
    match kind {
        "String" | "Memo" | "EntityName" | "Uniqueidentifier" => vec![Text],
        "Integer" | "BigInt" | "Double" | "Decimal" | "Money" => vec![Number],
        "Boolean" => vec![Boolean],
        // Its format is but how people see it.
        "DateTime" => match detail.and_then(|detail| detail.date_time_behavior.as_ref()) {
            Some(behaviour) if behaviour.value.as_deref() == Some("DateOnly") => vec![Date],
            Some(_) => vec![Timestamp],
            None => vec![Timestamp, Date],
        },
        "Picklist" | "State" | "Status" => vec![DataType::Choice],
        "MultiSelectPicklist" => vec![MultiChoice],
        "Lookup" | "Customer" | "Owner" => vec![Reference],
        _ => Vec::new(),
    }
}
