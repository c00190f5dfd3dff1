//! COQL: `select … from … where … order by … limit …`.
//!
//! Guarantees: total; a statement without a condition, of more than 50 columns, or whose criteria are not
//! in brackets by twos is refused, as Zoho refuses them.

use super::error::ZohoError;
use super::org::{self, floor};
use crate::clock;
use crate::schema::Source;
use crate::store::{Object, Store};
use crate::token::{Token, tokens};
use std::cmp::Ordering;

const COLUMNS: usize = 50;
const ROWS: usize = 2000;

enum Condition {
    Both(Box<[Condition; 2]>),
    Either(Box<[Condition; 2]>),
    Test {
        field: String,
        op: &'static str,
        text: String,
    },
}

pub struct Query {
    pub columns: Vec<String>,
    pub module: String,
    condition: Condition,
    order: Vec<(String, bool)>,
    pub limit: usize,
}

type Parsed<T> = Result<T, ZohoError>;

struct Words(std::iter::Peekable<std::vec::IntoIter<Token>>);

fn trouble(near: Option<&Token>) -> ZohoError {
    let near = near.map_or("the end".to_owned(), Token::shown);
    ZohoError::new(
        400,
        "SYNTAX_ERROR",
        format!("error occured while parsing the query near {near}"),
    )
}

impl Words {
    fn word(&mut self) -> Parsed<String> {
        match self.0.next() {
            Some(Token::Word(word)) => Ok(word),
            other => Err(trouble(other.as_ref())),
        }
    }

    fn is(&mut self, keyword: &str) -> bool {
        let is = |token: &Token| match token {
            Token::Word(word) => word.eq_ignore_ascii_case(keyword),
            Token::Mark(mark) => *mark == keyword,
            Token::Text(_) => false,
        };
        self.0.next_if(|token| is(token)).is_some()
    }

    fn expect(&mut self, keyword: &str) -> Parsed<()> {
        match self.is(keyword) {
            true => Ok(()),
            false => Err(trouble(self.0.peek())),
        }
    }

    fn condition(&mut self) -> Parsed<Condition> {
        let first = self.criterion()?;
        let joined = match (self.is("and"), self.is("or")) {
            (true, _) => Condition::Both(Box::new([first, self.criterion()?])),
            (_, true) => Condition::Either(Box::new([first, self.criterion()?])),
            _ => return Ok(first),
        };
        // A third one needs brackets.
        match self.is("and") || self.is("or") {
            true => Err(trouble(None)),
            false => Ok(joined),
        }
    }

    fn criterion(&mut self) -> Parsed<Condition> {
        if self.is("(") {
            let inner = self.condition()?;
            self.expect(")")?;
            return Ok(inner);
        }
        let field = self.word()?;
        if self.is("is") {
            let op = if self.is("not") { "is not" } else { "is" };
            self.expect("null")?;
            let text = String::new();
            return Ok(Condition::Test { field, op, text });
        }
        let op = match self.0.next() {
            Some(Token::Mark(op @ ("=" | "!=" | "<" | ">" | "<=" | ">="))) => op,
            other => return Err(trouble(other.as_ref())),
        };
        let text = match self.0.next() {
            Some(Token::Text(text) | Token::Word(text)) => text,
            other => return Err(trouble(other.as_ref())),
        };
        Ok(Condition::Test { field, op, text })
    }
}

pub fn parse(text: &str) -> Parsed<Query> {
    let tokens = tokens(text).map_err(|message| ZohoError::new(400, "SYNTAX_ERROR", message))?;
    let mut words = Words(tokens.into_iter().peekable());
    words.expect("select")?;
    let mut columns = vec![words.word()?];
    while words.is(",") {
        columns.push(words.word()?);
    }
    if columns.len() > COLUMNS {
        return Err(ZohoError::new(400, "LIMIT_EXCEEDED", "too many columns"));
    }
    words.expect("from")?;
    let module = words.word()?;
    words.expect("where")?;
    let condition = words.condition()?;
    let mut order = Vec::new();
    if words.is("order") {
        words.expect("by")?;
        loop {
            let field = words.word()?;
            let descending = words.is("desc");
            let _ = !descending && words.is("asc");
            order.push((field, descending));
            if !words.is(",") {
                break;
            }
        }
    }
    let mut limit = 200;
    if words.is("limit") {
        let told = words.word()?.parse().ok();
        let told = told.filter(|limit| (1..=ROWS).contains(limit));
        limit = told.ok_or_else(|| ZohoError::new(400, "LIMIT_EXCEEDED", "limit"))?;
    }
    match words.0.next() {
        None => Ok(Query {
            columns,
            module,
            condition,
            order,
            limit,
        }),
        other => Err(trouble(other.as_ref())),
    }
}

impl Query {
    /// The slots that it finds, one more than its limit if there are more.
    pub fn run(&self, store: &Store) -> Parsed<Vec<u32>> {
        let object = store
            .object(&self.module)
            .ok_or_else(ZohoError::no_module)?;
        let unknown = self
            .columns
            .iter()
            .find(|name| object.def.field(name).is_none());
        if let Some(name) = unknown {
            let error = ZohoError::new(400, "INVALID_QUERY", "invalid query formed");
            return Err(error.with(serde_json::json!({"column_name": name, "reason": "column given seems to be invalid"})));
        }
        let mut found = Vec::new();
        for slot in (0..object.records.len() as u32).filter(|slot| object.live(*slot).is_some()) {
            if holds(object, slot, &self.condition)? {
                found.push(slot);
            }
        }
        let keys = |slot: u32| -> Vec<_> {
            let fields = self.order.iter();
            fields.map(|(field, _)| key(object, slot, field)).collect()
        };
        let mut keyed: Vec<_> = found.into_iter().map(|slot| (keys(slot), slot)).collect();
        keyed.sort_by(|(a, _), (b, _)| {
            let orders = self.order.iter().zip(a.iter().zip(b));
            let mut orders = orders.map(|((_, descending), (a, b))| match descending {
                true => b.cmp(a),
                false => a.cmp(b),
            });
            orders
                .find(|ordering| ordering.is_ne())
                .unwrap_or(Ordering::Equal)
        });
        let mut found: Vec<u32> = keyed.into_iter().map(|(_, slot)| slot).collect();
        found.truncate(self.limit + 1);
        Ok(found)
    }
}

/// Numbers before texts; moments and ids are numbers.
fn key(object: &Object, slot: u32, field: &str) -> (u64, String) {
    let record = &object.records[slot as usize];
    let Some((at, field)) = object.def.field(field) else {
        return Default::default();
    };
    match field.source {
        Source::Id => (
            org::record_id(object, slot).parse().unwrap_or_default(),
            String::new(),
        ),
        Source::Created => (floor(record.created) as u64, String::new()),
        Source::Modified => (floor(record.modified) as u64, String::new()),
        _ => (
            0,
            org::held(object, slot, at)
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        ),
    }
}

fn holds(object: &Object, slot: u32, condition: &Condition) -> Parsed<bool> {
    Ok(match condition {
        Condition::Both(parts) => {
            holds(object, slot, &parts[0])? && holds(object, slot, &parts[1])?
        }
        Condition::Either(parts) => {
            holds(object, slot, &parts[0])? || holds(object, slot, &parts[1])?
        }
        Condition::Test { field, op, text } => {
            let unknown = || ZohoError::new(400, "INVALID_QUERY", "invalid query formed");
            let (at, known) = object.def.field(field).ok_or_else(unknown)?;
            let held = key(object, slot, field);
            let is_null = org::held(object, slot, at).is_null();
            let sought = match known.source {
                Source::Id => (text.parse().unwrap_or_default(), String::new()),
                Source::Created | Source::Modified if *op != "is" && *op != "is not" => {
                    let moment = clock::parse_time(text).filter(|_| !text.contains('.'));
                    (moment.ok_or_else(unknown)? as u64, String::new())
                }
                _ => (0, text.clone()),
            };
            match *op {
                "is" => is_null,
                "is not" => !is_null,
                "=" => held == sought,
                "!=" => held != sought,
                "<" => held < sought,
                ">" => held > sought,
                "<=" => held <= sought,
                _ => held >= sought,
            }
        }
    })
}
