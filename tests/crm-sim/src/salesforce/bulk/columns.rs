//! The form of an uploaded file: header, line ends, quotes.

use super::Operation;
use crate::store::Object;
use bytes::Bytes;
use csv::ByteRecord;

pub enum Column {
    Id,
    Key,
    Field(String),
    Related(String),
}

/// What is to be done with a file.
pub struct Plan {
    pub data: Bytes,
    pub object: usize,
    pub operation: Operation,
    pub key: Option<String>,
    pub delimiter: u8,
    pub crlf: bool,
}

/// Quotes open right after a separator and close right before one: blanks between fail the row.
pub fn well_quoted(row: &[u8], delimiter: u8) -> bool {
    if !row.contains(&b'"') {
        return true;
    }
    let edge =
        |byte: Option<&u8>| byte.is_none_or(|b| *b == delimiter || matches!(b, b'\r' | b'\n'));
    let mut inside = false;
    let mut at = 0;
    while at < row.len() {
        if row[at] == b'"' {
            match (inside, row.get(at + 1)) {
                (true, Some(b'"')) => at += 1,
                (true, next) if !edge(next) => return false,
                (false, _) if !edge(at.checked_sub(1).and_then(|at| row.get(at))) => return false,
                _ => inside = !inside,
            }
        }
        at += 1;
    }
    !inside
}

pub fn check_line_end(plan: &Plan) -> Result<(), String> {
    let Some(end) = plan.data.iter().position(|byte| *byte == b'\n') else {
        return Ok(());
    };
    let crlf = end > 0 && plan.data[end - 1] == b'\r';
    if crlf == plan.crlf {
        return Ok(());
    }
    let declared = if plan.crlf { "CRLF" } else { "LF" };
    Err(format!(
        "ClientInputError : LineEnding is invalid on user data. Current LineEnding setting is {declared}"
    ))
}

pub fn columns(object: &Object, header: &ByteRecord, plan: &Plan) -> Result<Vec<Column>, String> {
    let is_key =
        |name: &str| (plan.key.as_deref()).is_some_and(|key| key.eq_ignore_ascii_case(name));
    let column = |name: &[u8]| {
        let name = String::from_utf8_lossy(name).into_owned();
        let missing = || format!("InvalidBatch : Field name not found : {name}");
        if name.eq_ignore_ascii_case("Id") {
            return Ok(Column::Id);
        }
        if plan.operation == Operation::Upsert && is_key(&name) {
            return Ok(Column::Key);
        }
        if name.contains('.') {
            return Ok(Column::Related(name));
        }
        let known = object.def.field(&name).is_some();
        known
            .then(|| Column::Field(name.clone()))
            .ok_or_else(missing)
    };
    let columns: Vec<Column> = header.iter().map(column).collect::<Result<_, _>>()?;
    let has = |wanted: fn(&Column) -> bool| columns.iter().any(wanted);
    let needs_id = matches!(
        plan.operation,
        Operation::Update | Operation::Delete | Operation::HardDelete
    );
    if needs_id && !has(|column| matches!(column, Column::Id)) {
        return Err("InvalidBatch : Field name not found : Id".into());
    }
    let by_id = is_key("Id");
    if plan.operation == Operation::Upsert && !by_id && !has(|column| matches!(column, Column::Key))
    {
        let key = plan.key.as_deref().unwrap_or_default();
        return Err(format!("InvalidBatch : Field name not found : {key}"));
    }
    Ok(columns)
}
