//! `EntityDefinitions(LogicalName='…')/Attributes`, `/Keys` and `/ManyToOneRelationships`: what a
//! table's columns are.
//!
//! Guarantees: what columns of one type alone have is told of that type alone; a lookup has the
//! column beside it that spells it out, which no row shows; a query that asks for anything else is
//! refused.

use super::error::DataverseError;
use super::{Answer, ROOT, address, definitions, org};
use crate::http::Response;
use crate::schema::{Field, Source};
use crate::store::{Object, Store};
use crate::vendor::Call;
use serde_json::{Value as Json, json};

const CAST: &str = "Microsoft.Dynamics.CRM.";
const ID: &str = "d2c2d1a0-0d36-4000-8000-000000000001";
const OPTIONS: [(&str, &str); 2] = [
    ("OptionSet", "OptionSet($select=Options)"),
    ("GlobalOptionSet", "GlobalOptionSet($select=Options)"),
];

pub fn list(store: &Store, call: &Call<'_>, segment: &str, path: &[&str]) -> Answer {
    let name = segment
        .strip_prefix("EntityDefinitions(LogicalName='")
        .and_then(|rest| rest.strip_suffix("')"))
        .ok_or_else(|| DataverseError::no_segment(segment))?;
    let object = definitions::by_name(store, name).ok_or_else(|| {
        let text =
            format!("Could not find an entity with specified entity name '{name}' in the metadata");
        DataverseError::new(404, "0x80060888", text)
    })?;
    let (all, kind, expands) = match path {
        ["Attributes"] => (columns(object), "AttributeMetadata".to_owned(), false),
        ["Attributes", cast] => {
            let kind = cast.strip_prefix(CAST);
            let kind = kind.and_then(|cast| cast.strip_suffix("AttributeMetadata"));
            let kind = kind.ok_or_else(|| DataverseError::no_segment(cast))?;
            let (all, expands) = of_kind(object, kind)?;
            (all, format!("{kind}AttributeMetadata"), expands)
        }
        ["Keys"] => (keys(object), "EntityKeyMetadata".to_owned(), false),
        ["ManyToOneRelationships"] => {
            let kind = "OneToManyRelationshipMetadata".to_owned();
            (relationships(object), kind, false)
        }
        _ => return Err(DataverseError::no_segment(path.last().unwrap_or(&segment))),
    };
    let known: &[&str] = if expands {
        &["$select", "$expand"]
    } else {
        &["$select"]
    };
    address::only(call.request, known)?;
    let expanded = call.request.param("$expand");
    let expanded = expanded.as_deref().map(|list| list.split(','));
    let expanded: Option<Vec<&str>> = expanded
        .into_iter()
        .flatten()
        .map(|one| OPTIONS.iter().find(|(_, text)| *text == one))
        .map(|known| known.map(|(name, _)| *name))
        .collect();
    let expanded =
        expanded.ok_or_else(|| DataverseError::not_simulated("expansions but of option sets"))?;
    let chosen = call.request.param("$select");
    let chosen = chosen.ok_or_else(|| DataverseError::not_simulated("definitions as a whole"))?;
    let shown = all.iter().map(|one| {
        let mut shown = definitions::select(one, &chosen, &kind)?;
        for name in &expanded {
            shown[*name] = one[*name].clone();
        }
        Ok(shown)
    });
    let shown: Vec<Json> = shown.collect::<Result<_, _>>()?;
    let last = path.join("/");
    let context = format!(
        "{}{ROOT}/$metadata#EntityDefinitions('{name}')/{last}({chosen})",
        call.origin
    );
    Ok(Response::json(
        200,
        &json!({"@odata.context": context, "value": shown}),
    ))
}

fn label(text: &str) -> Json {
    let label = json!({"Label": text, "LanguageCode": 1033, "IsManaged": true, "MetadataId": ID});
    json!({"LocalizedLabels": [label], "UserLocalizedLabel": label})
}

/// The column's own name, where rows show it by another.
fn name(field: &Field) -> &str {
    let own = field.name().strip_prefix('_');
    own.and_then(|own| own.strip_suffix("_value"))
        .unwrap_or(field.name())
}

fn kind(field: &Field) -> &str {
    match field.spec.native.as_str() {
        "DateOnly" => "DateTime",
        native => native,
    }
}

/// What is told of every column.
fn columns(object: &Object) -> Vec<Json> {
    let all = object.def.visible().map(|(_, field)| field);
    all.flat_map(|field| {
        let own = column(field);
        let spelled_out = (kind(field) == "Lookup").then(|| {
            let mut beside = own.clone();
            beside["LogicalName"] = beside_name(field).into();
            beside["AttributeOf"] = name(field).into();
            typed(&mut beside, "String");
            for right in ["IsValidForCreate", "IsValidForUpdate"] {
                beside[right] = false.into();
            }
            beside["DisplayName"] = json!({"LocalizedLabels": [], "UserLocalizedLabel": null});
            beside
        });
        std::iter::once(own).chain(spelled_out)
    })
    .collect()
}

fn beside_name(field: &Field) -> String {
    format!("{}name", name(field))
}

fn typed(column: &mut Json, kind: &str) {
    // A type that came later, which the older property has no word for.
    let word = match kind {
        "MultiSelectPicklist" => "Virtual",
        kind => kind,
    };
    column["AttributeType"] = word.into();
    column["AttributeTypeName"] = json!({"Value": format!("{kind}Type")});
}

fn column(field: &Field) -> Json {
    let level = match field.spec.required || field.source == Source::Id {
        true => "SystemRequired",
        false => "None",
    };
    let mut column = json!({
        "MetadataId": ID,
        "LogicalName": name(field),
        "SchemaName": name(field),
        "AttributeOf": null,
        "DisplayName": label(field.spec.label.as_deref().unwrap_or(name(field))),
        "RequiredLevel": {
            "Value": level,
            "CanBeChanged": false,
            "ManagedPropertyLogicalName": "canmodifyrequirementlevelsettings",
        },
        "IsValidForCreate": field.writable(),
        "IsValidForUpdate": field.writable(),
        "IsValidForRead": true,
    });
    typed(&mut column, kind(field));
    column
}

/// What is told of columns of one type, and whether they have options.
fn of_kind(object: &Object, word: &str) -> Result<(Vec<Json>, bool), DataverseError> {
    let tell: fn(&Field) -> Json = match word {
        "String" | "Memo" => |field| json!({"MaxLength": field.spec.length}),
        "Decimal" | "Money" => |field| {
            let (most, _) = org::decimals(&field.spec.native);
            let mut own =
                json!({"Precision": field.spec.scale, "MaxValue": most, "MinValue": -most});
            if field.spec.native == "Money" {
                // The column's own, not the currency's.
                own["PrecisionSource"] = 0.into();
            }
            own
        },
        "DateTime" => |field| {
            let (format, behaviour) = match field.spec.native.as_str() {
                "DateOnly" => ("DateOnly", "DateOnly"),
                _ => ("DateAndTime", "UserLocal"),
            };
            json!({"Format": format, "DateTimeBehavior": {"Value": behaviour}})
        },
        "Picklist" | "MultiSelectPicklist" | "State" | "Status" => |field| {
            let options = field.spec.values.iter().map(|value| {
                json!({"Value": value.parse::<i64>().ok(), "Label": label(&format!("Option {value}"))})
            });
            json!({"OptionSet": {"MetadataId": ID, "Options": options.collect::<Vec<_>>()}})
        },
        _ => {
            let what = format!("what columns of the type {word} alone have");
            return Err(DataverseError::not_simulated(&what));
        }
    };
    let visible = || object.def.visible().map(|(_, field)| field);
    let told = visible().filter(|field| kind(field) == word);
    let mut all: Vec<Json> = told
        .map(|field| {
            let mut own = tell(field);
            own["LogicalName"] = name(field).into();
            own["MetadataId"] = ID.into();
            own
        })
        .collect();
    if word == "String" {
        let lookups = visible().filter(|field| kind(field) == "Lookup");
        all.extend(lookups.map(
            |field| json!({"MetadataId": ID, "LogicalName": beside_name(field), "MaxLength": 100}),
        ));
    }
    let has_options = !matches!(word, "String" | "Memo" | "DateTime" | "Decimal" | "Money");
    Ok((all, has_options))
}

fn keys(object: &Object) -> Vec<Json> {
    let unique = object.def.visible().filter(|(_, field)| field.spec.unique);
    let one = |(_, field): (u16, &Field)| {
        json!({
            "MetadataId": ID,
            "LogicalName": format!("{}_key", field.name()),
            "KeyAttributes": [field.name()],
            "EntityKeyIndexStatus": "Active",
        })
    };
    unique.map(one).collect()
}

fn relationships(object: &Object) -> Vec<Json> {
    let led = object.def.visible().filter_map(|(_, field)| {
        let [navigation, set] = &field.spec.references[..] else {
            return None;
        };
        let (table, target) = (org::table(&object.def.name), org::table(set));
        Some(json!({
            "MetadataId": ID,
            "SchemaName": format!("{table}_{}_{target}", name(field)),
            "ReferencingEntity": table,
            "ReferencingAttribute": name(field),
            "ReferencingEntityNavigationPropertyName": navigation,
            "ReferencedEntity": target,
            "ReferencedAttribute": format!("{target}id"),
        }))
    });
    led.collect()
}
