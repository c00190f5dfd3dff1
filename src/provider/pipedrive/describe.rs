//! The fields of a Pipedrive object: those of its field lists, and what is known of its built-in
//! fields.
//!
//! The lists tell what an administrator made. Of Pipedrive's own fields they leave some out, name
//! some as version 1 did, and tell neither what is required nor what is read-only: that is kept
//! here ([`OWN`]).

use std::collections::BTreeMap;

use crm_domain::{Choice, DataType, Description, Failure, FieldDescription};
use serde_json::Value as Json;

use super::answers::{go_on, page};
use super::objects::{Object, Version};
use super::{field_name, lookup};
use crate::{Method, Operation, Request, Response, Step, wire};

/// Fields in one page, the most that both versions allow.
const PAGE: usize = 500;
/// Characters in a field of type `varchar` ("Custom fields").
const VARCHAR: u32 = 255;

/// What an own field may be.
enum Rights {
    Required,
    Writable,
    ReadOnly,
}

use DataType::{Boolean, Date, MultiChoice, Number, Reference, Text, Timestamp};
use Rights::{ReadOnly, Required, Writable};

/// Own fields by the word of their object, `""` for every one (API Reference; npm package
/// `pipedrive` 33.7.0).
const OWN: &[(&str, &str, DataType, Rights)] = &[
    ("", "id", Reference, ReadOnly),
    ("", "add_time", Timestamp, ReadOnly),
    ("", "update_time", Timestamp, ReadOnly),
    ("", "owner_id", Reference, Writable),
    ("", "visible_to", DataType::Choice, Writable),
    ("", "label_ids", MultiChoice, Writable),
    ("", "is_deleted", Boolean, Writable),
    ("deal", "title", Text, Required),
    ("deal", "value", Number, Writable),
    ("deal", "currency", Text, Writable),
    ("deal", "status", DataType::Choice, Writable),
    ("deal", "person_id", Reference, Writable),
    ("deal", "org_id", Reference, Writable),
    ("deal", "pipeline_id", Reference, Writable),
    ("deal", "stage_id", Reference, Writable),
    ("deal", "probability", Number, Writable),
    ("deal", "lost_reason", Text, Writable),
    ("deal", "expected_close_date", Date, Writable),
    ("deal", "won_time", Timestamp, Writable),
    ("deal", "lost_time", Timestamp, Writable),
    ("deal", "close_time", Timestamp, Writable),
    ("deal", "archive_time", Timestamp, Writable),
    ("deal", "is_archived", Boolean, Writable),
    ("deal", "stage_change_time", Timestamp, ReadOnly),
    ("person", "name", Text, Required),
    ("person", "first_name", Text, ReadOnly),
    ("person", "last_name", Text, ReadOnly),
    ("person", "org_id", Reference, Writable),
    ("person", "emails", Text, Writable),
    ("person", "phones", Text, Writable),
    ("person", "ims", Text, Writable),
    ("organization", "name", Text, Required),
    ("organization", "address", Text, Writable),
    ("organization", "website", Text, Writable),
    ("organization", "employee_count", Number, Writable),
    ("organization", "annual_revenue", Number, Writable),
    ("product", "name", Text, Required),
    ("product", "code", Text, Writable),
    ("product", "description", Text, Writable),
    ("product", "unit", Text, Writable),
    ("product", "tax", Number, Writable),
    ("activity", "subject", Text, Required),
    ("activity", "type", Text, Writable),
    ("activity", "done", Boolean, Writable),
    ("activity", "due_date", Date, Writable),
    ("activity", "due_time", Text, Writable),
    ("activity", "duration", Text, Writable),
    ("activity", "note", Text, Writable),
    ("activity", "deal_id", Reference, Writable),
    ("activity", "person_id", Reference, Writable),
    ("activity", "org_id", Reference, Writable),
    ("activity", "location", Text, Writable),
    ("lead", "title", Text, Required),
    ("lead", "person_id", Reference, Writable),
    ("lead", "organization_id", Reference, Writable),
    ("lead", "value", Number, Writable),
    ("lead", "expected_close_date", Date, Writable),
    ("lead", "is_archived", Boolean, Writable),
    ("lead", "was_seen", Boolean, Writable),
    ("note", "content", Text, Required),
    ("note", "deal_id", Reference, Writable),
    ("note", "person_id", Reference, Writable),
    ("note", "org_id", Reference, Writable),
    ("note", "lead_id", Reference, Writable),
];

pub(super) struct Describe {
    object: &'static Object,
    fields: BTreeMap<String, FieldDescription>,
}

impl Describe {
    pub fn new(object: &'static Object) -> Describe {
        Describe {
            object,
            fields: BTreeMap::new(),
        }
    }

    fn request(&self, next: Option<&str>) -> Request {
        let version = match self.object.version {
            Version::V1 => "v1",
            Version::V2 => "v2",
        };
        let (word, rest) = (self.object.word, go_on(self.object, next));
        Request::new(
            Method::Get,
            format!("/api/{version}/{word}Fields?limit={PAGE}{rest}"),
        )
    }

    fn take(&mut self, response: &Response) -> Result<Option<String>, Failure> {
        let page = page(response)?;
        for told in &page.records {
            for field in fields(&told.json) {
                self.fields.insert(field.name.clone(), field);
            }
        }
        Ok(page.next)
    }

    fn finish(&mut self) -> Description {
        let word = self.object.word;
        let own = OWN.iter().filter(|(of, ..)| of.is_empty() || *of == word);
        for (_, name, data_type, rights) in own {
            let field = self.fields.entry((*name).to_owned()).or_default();
            if field.name.is_empty() {
                field.name = (*name).to_owned();
                field.label = (*name).to_owned();
                field.crm_type = data_type.name().to_owned();
            }
            field.data_types.retain(|known| known != data_type);
            field.data_types.insert(0, *data_type);
            field.required = matches!(rights, Required);
            let is_writable = !matches!(rights, ReadOnly);
            (field.createable, field.updateable) = (is_writable, is_writable);
            if field_name::is_composite(name) {
                // The list as a whole, of which the type told is that of one item.
                field.data_types.push(DataType::Json);
                field.max_length = None;
            }
        }
        let mut fields: Vec<_> = std::mem::take(&mut self.fields).into_values().collect();
        for field in &mut fields {
            // What is a string to Pipedrive is a string in JSON.
            if field.data_types.first() == Some(&Text) {
                field.refused_types = vec![Number, Boolean, MultiChoice];
            }
            field.is_key =
                field.data_types.contains(&Text) && lookup::holds_keys(self.object, &field.name);
        }
        Description {
            fields,
            is_partial: true,
            ..Description::default()
        }
    }
}

impl Operation<Description> for Describe {
    fn step(&mut self, answer: Option<Response>) -> Step<Description> {
        let next = match answer.map(|response| self.take(&response)) {
            None => return Step::Send(self.request(None)),
            Some(Err(failure)) => return Step::Done(Err(failure)),
            Some(Ok(next)) => next,
        };
        match next {
            Some(next) => Step::Send(self.request(Some(&next))),
            None => Step::Done(Ok(self.finish())),
        }
    }
}

/// A field as either version tells it, and its parts.
fn fields(told: &Json) -> Vec<FieldDescription> {
    let word = |names: [&str; 2]| {
        let text = names.into_iter().find_map(|name| told[name].as_str());
        text.unwrap_or_default().to_owned()
    };
    let (name, crm_type) = (
        word(["field_code", "key"]),
        word(["field_type", "field_type"]),
    );
    if name.is_empty() {
        return Vec::new();
    }
    let options = told["options"].as_array().into_iter().flatten();
    let choices: Vec<Choice> = options
        .filter_map(|option| {
            Some(Choice {
                value: wire::scalar_text(&option["id"])?,
                label: option["label"].as_str().unwrap_or_default().to_owned(),
            })
        })
        .collect();
    let field = FieldDescription {
        label: word(["field_name", "name"]),
        data_types: data_types(&crm_type).to_vec(),
        max_length: matches!(&*crm_type, "varchar" | "varchar_auto").then_some(VARCHAR),
        createable: true,
        updateable: true,
        is_closed: matches!(&*crm_type, "enum" | "set"),
        choices,
        crm_type,
        name,
        ..FieldDescription::default()
    };
    let parts = parts(&field.crm_type).iter().map(|(part, data_type)| {
        let is_writable = field_name::PARTS.contains(part);
        FieldDescription {
            name: format!("{}.{part}", field.name),
            label: format!("{}: {part}", field.label),
            data_types: vec![*data_type],
            crm_type: field.crm_type.clone(),
            createable: is_writable,
            updateable: is_writable,
            ..FieldDescription::default()
        }
    });
    let parts: Vec<_> = parts.collect();
    std::iter::once(field).chain(parts).collect()
}

fn data_types(word: &str) -> &'static [DataType] {
    use DataType::{Choice, Json};
    match word {
        "int" | "double" => &[Number],
        "monetary" => &[Number, Json],
        "boolean" => &[Boolean],
        "varchar" | "varchar_auto" | "varchar_options" | "text" | "phone" | "time" => &[Text],
        "date" => &[Date],
        "daterange" => &[Date, Json],
        "timerange" | "address" => &[Text, Json],
        "enum" | "status" | "visible_to" => &[Choice],
        "set" => &[MultiChoice],
        "user" | "org" | "people" | "deal" | "lead" | "project" | "stage" | "pipeline"
        | "activity" => &[Reference],
        "json" => &[Json],
        _ => &[],
    }
}

fn parts(word: &str) -> &'static [(&'static str, DataType)] {
    match word {
        "monetary" => &[("value", Number), ("currency", Text)],
        "daterange" => &[("value", Date), ("until", Date)],
        "timerange" => &[("value", Text), ("until", Text), ("timezone_name", Text)],
        "time" => &[("value", Text), ("timezone_name", Text)],
        "address" => &[
            ("value", Text),
            ("street_number", Text),
            ("route", Text),
            ("sublocality", Text),
            ("locality", Text),
            ("admin_area_level_1", Text),
            ("admin_area_level_2", Text),
            ("country", Text),
            ("postal_code", Text),
            ("formatted_address", Text),
        ],
        _ => &[],
    }
}
