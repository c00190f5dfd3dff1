//! `/search`: records by criteria, e-mail, phone or word, as an index has them that may be behind.
//!
//! Guarantees: total; a criterion that is malformed, or of a field that is none, is refused; texts
//! compare without case.

use super::error::ZohoError;
use super::key::{Key, key, key_of};
use super::org;
use super::paging::{PAGE, number, paged, wrong};
use super::{Answer, records};
use crate::http::Request;
use crate::store::Object;
use crate::value::Value;
use serde_json::json;

/// Criteria of one search.
const MOST: usize = 15;

/// The types that a word is looked for in.
const WORDS: [&str; 6] = ["text", "email", "phone", "website", "picklist", "textarea"];

#[derive(Debug)]
enum Criterion {
    All(Vec<Criterion>),
    Any(Vec<Criterion>),
    Test {
        field: String,
        how: How,
        values: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Equals,
    NotEqual,
    In,
    StartsWith,
    Contains,
    Between,
    GreaterThan,
    GreaterEqual,
    LessThan,
    LessEqual,
}

fn invalid(reason: &str) -> ZohoError {
    let error = ZohoError::new(400, "INVALID_QUERY", "invalid query formed");
    error.with(json!({"reason": reason}))
}

struct Parser<'a> {
    rest: &'a str,
    count: usize,
}

impl Parser<'_> {
    fn is(&mut self, mark: &str) -> bool {
        match self.rest.strip_prefix(mark) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// `(Field:how:value)`, or several of them within brackets of their own, all joined by the same
    /// word.
    fn one(&mut self, depth: usize) -> Result<Criterion, ZohoError> {
        if depth > MOST {
            return Err(invalid("the criteria are too deep"));
        }
        if !self.is("(") {
            return Err(invalid("a criterion is not in brackets"));
        }
        if !self.rest.starts_with('(') {
            return self.test();
        }
        let inner = self.joined(depth + 1)?;
        match self.is(")") {
            true => Ok(inner),
            false => Err(invalid("a bracket is not closed")),
        }
    }

    fn joined(&mut self, depth: usize) -> Result<Criterion, ZohoError> {
        let mut parts = vec![self.one(depth)?];
        let word = ["and", "or"]
            .into_iter()
            .find(|word| self.rest.starts_with(word));
        while word.is_some_and(|word| self.is(word)) {
            parts.push(self.one(depth)?);
        }
        Ok(match (parts.len(), word) {
            (1, _) => parts.remove(0),
            (_, Some("or")) => Criterion::Any(parts),
            _ => Criterion::All(parts),
        })
    }

    fn test(&mut self) -> Result<Criterion, ZohoError> {
        self.count += 1;
        if self.count > MOST {
            let error = ZohoError::new(400, "LIMIT_EXCEEDED", "too many criteria");
            return Err(error.with(json!({"limit": MOST})));
        }
        let field = self.until(':')?;
        let how = self.until(':')?;
        let mut values = vec![String::new()];
        let mut chars = self.rest.char_indices();
        loop {
            let last = values.last_mut().expect("there is always one");
            match chars.next() {
                None => return Err(invalid("a bracket is not closed")),
                Some((at, ')')) => {
                    self.rest = &self.rest[at + 1..];
                    break;
                }
                // Marks that are meant are escaped.
                Some((_, '\\')) => last.extend(chars.next().map(|(_, c)| c)),
                Some((_, ',')) => values.push(String::new()),
                Some((_, '(')) => return Err(invalid("a bracket in a value is not escaped")),
                Some((_, c)) => last.push(c),
            }
        }
        let how = match (how.as_str(), values.len()) {
            ("equals", 1) => How::Equals,
            ("not_equal", 1) => How::NotEqual,
            ("in", _) => How::In,
            ("starts_with", 1) => How::StartsWith,
            ("contains", 1) => How::Contains,
            ("between", 2) => How::Between,
            ("greater_than", 1) => How::GreaterThan,
            ("greater_equal", 1) => How::GreaterEqual,
            ("less_than", 1) => How::LessThan,
            ("less_equal", 1) => How::LessEqual,
            _ => return Err(invalid("the comparator does not fit")),
        };
        Ok(Criterion::Test { field, how, values })
    }

    fn until(&mut self, mark: char) -> Result<String, ZohoError> {
        let (word, rest) = self
            .rest
            .split_once(mark)
            .ok_or_else(|| invalid("a criterion is (field:comparator:value)"))?;
        self.rest = rest;
        Ok(word.to_owned())
    }
}

fn criteria(text: &str) -> Result<Criterion, ZohoError> {
    let mut parser = Parser {
        rest: text.trim(),
        count: 0,
    };
    let criterion = parser.joined(0)?;
    match parser.rest.is_empty() {
        true => Ok(criterion),
        false => Err(invalid("there is more after the criteria")),
    }
}

impl Criterion {
    /// Whether its fields are there, and its values fit them.
    fn check(&self, object: &Object) -> Result<(), ZohoError> {
        match self {
            Self::All(parts) | Self::Any(parts) => {
                parts.iter().try_for_each(|part| part.check(object))
            }
            Self::Test { field, how, values } => {
                let known = object
                    .def
                    .field(field)
                    .filter(|(_, known)| known.name() == field);
                let (_, known) =
                    known.ok_or_else(|| invalid("the field is not available for search"))?;
                let texts = matches!(how, How::StartsWith | How::Contains);
                for value in values.iter().filter(|value| !is_empty(value)) {
                    let key = key_of(known, value)
                        .map_err(|_| invalid("the value does not fit the field"))?;
                    if texts && !matches!(key, Key::Text(_)) {
                        return Err(invalid("the comparator does not fit"));
                    }
                }
                Ok(())
            }
        }
    }

    fn holds(&self, object: &Object, slot: u32) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(object, slot)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(object, slot)),
            Self::Test { field, how, values } => {
                let Some((_, known)) = object.def.field(field) else {
                    return false;
                };
                let held = key(object, slot, field);
                let sought = |n: usize| match is_empty(&values[n]) {
                    true => Key::Nothing,
                    false => key_of(known, &values[n]).unwrap_or(Key::Nothing),
                };
                let text = |n: usize| values[n].to_lowercase();
                let is_there = held != Key::Nothing;
                match how {
                    How::Equals => held == sought(0),
                    How::NotEqual => held != sought(0),
                    How::In => is_there && (0..values.len()).any(|n| held == sought(n)),
                    How::StartsWith => {
                        matches!(&held, Key::Text(held) if held.starts_with(&text(0)))
                    }
                    How::Contains => matches!(&held, Key::Text(held) if held.contains(&text(0))),
                    How::Between => is_there && held >= sought(0) && held <= sought(1),
                    How::GreaterThan => is_there && held > sought(0),
                    How::GreaterEqual => is_there && held >= sought(0),
                    How::LessThan => is_there && held < sought(0),
                    How::LessEqual => is_there && held <= sought(0),
                }
            }
        }
    }
}

/// The word for nothing.
fn is_empty(value: &str) -> bool {
    value == "${EMPTY}"
}

/// Whether a field of one of these types is what `fits` says.
fn any_text(object: &Object, slot: u32, types: &[&str], fits: impl Fn(&str) -> bool) -> bool {
    let mut fields = object.def.visible();
    fields.any(|(at, field)| {
        let held = object.records[slot as usize]
            .get(at)
            .and_then(Value::as_text);
        types.contains(&field.spec.native.as_str())
            && held.is_some_and(|held| fits(&held.to_lowercase()))
    })
}

/// The records that the parameters find; `None`: there are no such parameters.
pub fn found(
    object: &Object,
    request: &Request,
    until: i64,
) -> Result<Option<Vec<u32>>, ZohoError> {
    let sought = ["criteria", "email", "phone", "word"]
        .into_iter()
        .find_map(|name| Some((name, request.param(name).filter(|text| !text.is_empty())?)));
    let Some((name, text)) = sought else {
        return Ok(None);
    };
    let lower = text.to_lowercase();
    let criterion = match name {
        "criteria" => Some(criteria(&text)?),
        "word" if text.chars().count() < 2 => return Err(wrong("word")),
        _ => None,
    };
    if let Some(criterion) = &criterion {
        criterion.check(object)?;
    }
    let word = |held: &str| {
        let mut words = held.split(|c: char| !c.is_alphanumeric());
        held == lower || words.any(|word| word.starts_with(&lower))
    };
    let fits = |slot: &u32| match (&criterion, name) {
        (Some(criterion), _) => criterion.holds(object, *slot),
        (None, "word") => any_text(object, *slot, &WORDS, word),
        (None, kind) => any_text(object, *slot, &[kind], |held| held == lower),
    };
    let slots = (0..object.records.len() as u32).filter(|slot| {
        let record = object.live(*slot);
        record.is_some_and(|record| record.modified <= until) && fits(slot)
    });
    Ok(Some(slots.collect()))
}

pub fn search(object: &Object, request: &Request, until: i64) -> Answer {
    let missing = || {
        let error = ZohoError::new(
            400,
            "REQUIRED_PARAM_MISSING",
            "One of the expected parameter is missing",
        );
        error.with(json!({"param_names": ["criteria", "email", "phone", "word"]}))
    };
    let slots = found(object, request, until)?.ok_or_else(missing)?;
    let mut names = request.list("fields");
    if names.is_empty() {
        names = records::all_fields(object);
    }
    let shown = slots
        .into_iter()
        .map(|slot| org::show(object, slot, &names));
    let per_page = number(request, "per_page", PAGE)?;
    let page = number(request, "page", 2000 / per_page)?;
    Ok(paged(shown.collect(), page, per_page))
}
