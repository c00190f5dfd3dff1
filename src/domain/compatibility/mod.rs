//! Whether a mapping is compatible with the CRM's description of the object.
//!
//! Guarantees: an [`Severity::Error`] is certain, every write or every read of that field would
//! fail; what may work for some values, or only seems odd, is a warning. A name that the CRM leaves
//! free is never judged.

mod finding;
mod forms;
mod pairs;
#[cfg(test)]
mod tests;

use crate::description::{Description, FieldDescription};
use crate::mapping::{Direction, OnInsert};
use crate::{DataType, UnknownName};

pub use finding::{Finding, MappedField, Mapping, Severity};

use pairs::Pair;

/// All findings, in the order of the mapping; what concerns no mapped field comes last.
pub fn judge(description: &Description, mapping: &Mapping) -> Result<Vec<Finding>, UnknownName> {
    let creates = mapping.on_insert.parse::<OnInsert>()? == OnInsert::Create;
    let mut findings = Vec::new();
    for mapped in &mapping.fields {
        findings.extend(judge_field(description, mapped, creates)?);
    }
    findings.extend(judge_key(description, mapping));
    if creates {
        findings.extend(missing(description, mapping)?);
    }
    Ok(findings)
}

fn judge_field(
    description: &Description,
    mapped: &MappedField,
    creates: bool,
) -> Result<Vec<Finding>, UnknownName> {
    let direction: Direction = mapped.direction.parse()?;
    let data_type: DataType = mapped.data_type.parse()?;
    let name = &mapped.crm_field;
    let Some(field) = description.field(name) else {
        return Ok(unknown(description, name).into_iter().collect());
    };
    let writes = direction.writes_crm() && mapped.materialize;
    let say = |severity, code, message: String, hint: String| Finding {
        field: name.clone(),
        severity,
        code,
        message,
        hint,
    };
    let mut findings = Vec::new();
    if writes && field.is_read_only() {
        findings.push(say(
            Severity::Error,
            "read_only",
            format!("the CRM does not allow writes to \"{name}\""),
            "Map it inbound, or request write access to it.".to_owned(),
        ));
    } else if writes && !field.updateable {
        findings.push(say(
            Severity::Warning,
            "not_updateable",
            format!("\"{name}\" can only be set when a record is created"),
            "Changes in existing records will be refused.".to_owned(),
        ));
    } else if writes && creates && !field.createable {
        findings.push(say(
            Severity::Warning,
            "not_createable",
            format!("\"{name}\" cannot be set when a record is created"),
            "Creating records with it will be refused.".to_owned(),
        ));
    }
    let types = || {
        let names: Vec<&str> = field.data_types.iter().map(|t| t.name()).collect();
        format!(
            "In the CRM it is a {}: data_type => '{}'.",
            field.crm_type,
            names.join("' or '")
        )
    };
    let is_refused = writes && field.refused_types.contains(&data_type);
    let pair = match (field.is_typed || is_refused) && !field.data_types.contains(&data_type) {
        true => Pair::Never,
        false => pairs::pair(data_type, &field.data_types, writes, direction.reads_crm()),
    };
    match pair {
        Pair::Good => {}
        Pair::Doubtful => findings.push(say(
            Severity::Warning,
            "type_doubtful",
            format!("\"{name}\" is mapped as {data_type}, to which not every value of the other side converts"),
            types(),
        )),
        Pair::Never => findings.push(say(
            Severity::Error,
            "type_mismatch",
            format!("\"{name}\" cannot be mapped as {data_type}"),
            types(),
        )),
    }
    if writes && !mapped.is_transformed {
        findings.extend(too_long(field, mapped, data_type));
        findings.extend(not_a_choice(field, mapped));
        findings.extend(forms::sent(field, mapped, data_type));
    }
    if direction.reads_crm() && !mapped.is_transformed_in {
        findings.extend(forms::taken(field, mapped, data_type));
    }
    Ok(findings)
}

fn unknown(description: &Description, name: &str) -> Option<Finding> {
    if description.is_free(name) {
        return None;
    }
    let hint = match description.near(name) {
        Some(near) => format!("Did you mean \"{}\"?", near.name),
        None => {
            "crm.describe() lists the fields. Fields that the connection's user may not see are not listed."
                .to_owned()
        }
    };
    Some(Finding {
        field: name.to_owned(),
        severity: match description.is_partial {
            true => Severity::Warning,
            false => Severity::Error,
        },
        code: "unknown_field",
        message: format!("the CRM's object has no field \"{name}\""),
        hint,
    })
}

/// Only what has a length: a number's is none of the text that it is written as.
fn too_long(
    field: &FieldDescription,
    mapped: &MappedField,
    data_type: DataType,
) -> Option<Finding> {
    let room = field.max_length?;
    if !matches!(
        data_type,
        DataType::Text | DataType::Choice | DataType::Reference
    ) {
        return None;
    }
    let hint = format!("Limit it: validation => '{{\"max_length\": {room}}}'.");
    let name = &field.name;
    let (severity, code, message) = match mapped.max_length {
        Some(length) if length <= room => return None,
        // The words of a list are as long as they are.
        _ if mapped.choices.is_some() => return None,
        Some(length) => (
            Severity::Warning,
            "too_long",
            format!("\"{name}\" has room for {room} characters, the column for {length}"),
        ),
        None => (
            Severity::Info,
            "unbounded",
            format!("\"{name}\" has room for {room} characters, and the column has no limit"),
        ),
    };
    Some(Finding {
        field: name.clone(),
        severity,
        code,
        message,
        hint,
    })
}

fn not_a_choice(field: &FieldDescription, mapped: &MappedField) -> Option<Finding> {
    let is_known = |word: &String| field.choices.iter().any(|choice| choice.value == *word);
    let word = mapped
        .choices
        .iter()
        .flatten()
        .find(|word| !is_known(word))?;
    if !field.is_closed || field.choices.is_empty() {
        return None;
    }
    let known: Vec<&str> = field.choices.iter().map(|c| c.value.as_str()).collect();
    Some(Finding {
        field: field.name.clone(),
        severity: Severity::Warning,
        code: "unknown_choice",
        message: format!(
            "\"{}\" does not accept \"{word}\", which the rule allows",
            field.name
        ),
        hint: format!("It accepts: {}.", known.join(", ")),
    })
}

/// Whether the field that is to hold our key can.
fn judge_key(description: &Description, mapping: &Mapping) -> Option<Finding> {
    let name = mapping.external_id_field.as_ref()?;
    let Some(field) = description.field(name) else {
        return unknown(description, name);
    };
    let say = |severity, code, message: String, hint: &str| {
        Some(Finding {
            field: name.clone(),
            severity,
            code,
            message,
            hint: hint.to_owned(),
        })
    };
    if field.is_read_only() {
        let message =
            format!("the CRM does not allow writes to \"{name}\", which has to hold the key");
        return say(
            Severity::Error,
            "read_only",
            message,
            "Choose a field of your own for external_id_field.",
        );
    }
    if !field.is_key {
        let message =
            format!("records cannot be looked up by \"{name}\", which has to hold the key");
        let hint = "Make it unique in the CRM (Salesforce: an External ID).";
        return say(Severity::Warning, "not_a_key", message, hint);
    }
    None
}

/// What new records lack.
fn missing(description: &Description, mapping: &Mapping) -> Result<Vec<Finding>, UnknownName> {
    let mut given: Vec<&str> = mapping.external_id_field.as_deref().into_iter().collect();
    for mapped in &mapping.fields {
        if mapped.materialize && mapped.direction.parse::<Direction>()?.writes_crm() {
            given.push(&mapped.crm_field);
        }
    }
    let required = description.fields.iter().filter(|field| field.required);
    let lacking = required.filter(|field| !given.contains(&field.name.as_str()));
    Ok(lacking
        .map(|field| Finding {
            field: field.name.clone(),
            severity: Severity::Warning,
            code: "required_unmapped",
            message: format!(
                "\"{}\" is required to create records, but no column is written to it",
                field.name
            ),
            hint: "Map a column to it; on_insert => 'create' fails until then.".to_owned(),
        })
        .collect())
}
