//! COQL: `select … from … where … order by … limit …`.
//!
//! Guarantees: total; a statement without a condition, of more than 50 columns, or whose criteria
//! are not in brackets by twos is refused, as Zoho refuses them.

use super::error::ZohoError;
use super::key::{Key, key, key_of};
use crate::store::{Object, Store};
use crate::token::{Token, tokens};
use crate::value::Kind;
use std::cmp::Ordering;

const COLUMNS: usize = 50;
const ROWS: usize = 2000;
/// What limit and offset reach together.
const REACH: usize = 100_000;
const CRITERIA: usize = 25;
const LISTED: usize = 50;
const ORDERED: usize = 10;

enum Condition {
    Both(Box<[Condition; 2]>),
    Either(Box<[Condition; 2]>),
    Test {
        field: String,
        op: &'static str,
        text: String,
    },
    /// One of these, or none of them.
    In {
        field: String,
        texts: Vec<String>,
        not: bool,
    },
    Between {
        field: String,
        ends: [String; 2],
        not: bool,
    },
    /// Begins, ends, or has within: a text with a `%` at either end.
    Like {
        field: String,
        pattern: String,
        not: bool,
    },
}

pub struct Query {
    pub columns: Vec<String>,
    pub module: String,
    condition: Condition,
    order: Vec<(String, bool)>,
    pub limit: usize,
    pub offset: usize,
}

type Parsed<T> = Result<T, ZohoError>;

struct Words {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    criteria: usize,
}

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
        match self.tokens.next() {
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
        self.tokens.next_if(|token| is(token)).is_some()
    }

    fn expect(&mut self, keyword: &str) -> Parsed<()> {
        match self.is(keyword) {
            true => Ok(()),
            false => Err(trouble(self.tokens.peek())),
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
        self.criteria += 1;
        if self.criteria > CRITERIA {
            return Err(ZohoError::new(400, "LIMIT_EXCEEDED", "too many criteria"));
        }
        let field = self.word()?;
        let not = self.is("not");
        if self.is("in") {
            self.expect("(")?;
            let mut texts = vec![self.text()?];
            while self.is(",") {
                texts.push(self.text()?);
            }
            self.expect(")")?;
            if texts.len() > LISTED {
                return Err(ZohoError::new(400, "LIMIT_EXCEEDED", "too many values"));
            }
            return Ok(Condition::In { field, texts, not });
        }
        if self.is("between") {
            let first = self.text()?;
            self.expect("and")?;
            let ends = [first, self.text()?];
            return Ok(Condition::Between { field, ends, not });
        }
        if self.is("like") {
            let pattern = self.text()?;
            return Ok(Condition::Like {
                field,
                pattern,
                not,
            });
        }
        if not {
            return Err(trouble(self.tokens.peek()));
        }
        if self.is("is") {
            let op = if self.is("not") { "is not" } else { "is" };
            self.expect("null")?;
            let text = String::new();
            return Ok(Condition::Test { field, op, text });
        }
        let op = match self.tokens.next() {
            Some(Token::Mark(op @ ("=" | "!=" | "<" | ">" | "<=" | ">="))) => op,
            other => return Err(trouble(other.as_ref())),
        };
        let text = self.text()?;
        Ok(Condition::Test { field, op, text })
    }

    fn text(&mut self) -> Parsed<String> {
        match self.tokens.next() {
            Some(Token::Text(text) | Token::Word(text)) => Ok(text),
            other => Err(trouble(other.as_ref())),
        }
    }

    fn number(&mut self) -> Parsed<usize> {
        let word = self.word()?;
        let limit = || ZohoError::new(400, "LIMIT_EXCEEDED", "limit");
        word.parse().map_err(|_| limit())
    }
}

pub fn parse(text: &str) -> Parsed<Query> {
    let tokens = tokens(text).map_err(|message| ZohoError::new(400, "SYNTAX_ERROR", message))?;
    let mut words = Words {
        tokens: tokens.into_iter().peekable(),
        criteria: 0,
    };
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
    let twice =
        |n: usize, (name, _): &(String, bool)| order[..n].iter().any(|(held, _)| held == name);
    if order.iter().enumerate().any(|(n, field)| twice(n, field)) {
        return Err(ZohoError::new(
            400,
            "DUPLICATE_DATA",
            "a field is there twice",
        ));
    }
    if order.len() > ORDERED {
        return Err(ZohoError::new(
            400,
            "LIMIT_EXCEEDED",
            "too many fields to order by",
        ));
    }
    let (mut limit, mut offset) = (200, 0);
    if words.is("limit") {
        limit = words.number()?;
        // `limit 10, 200` skips ten; so does `limit 200 offset 10`.
        if words.is(",") {
            offset = std::mem::replace(&mut limit, words.number()?);
        }
    }
    if words.is("offset") {
        offset = words.number()?;
    }
    if !(1..=ROWS).contains(&limit) || limit + offset > REACH {
        return Err(ZohoError::new(400, "LIMIT_EXCEEDED", "limit"));
    }
    match words.tokens.next() {
        None => Ok(Query {
            columns,
            module,
            condition,
            order,
            limit,
            offset,
        }),
        other => Err(trouble(other.as_ref())),
    }
}

impl Query {
    /// The slots that it finds behind its offset, one more than its limit if there are more.
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
        let ordered = self.order.iter().map(|(name, _)| name);
        if ordered.clone().any(|name| object.def.field(name).is_none()) {
            return Err(ZohoError::new(400, "INVALID_QUERY", "invalid query formed"));
        }
        check(object, &self.condition)?;
        let mut found = Vec::new();
        for slot in (0..object.records.len() as u32).filter(|slot| object.live(*slot).is_some()) {
            if holds(object, slot, &self.condition) {
                found.push(slot);
            }
        }
        let keys = |slot: u32| -> Vec<Key> {
            let fields = self.order.iter();
            fields.map(|(field, _)| key(object, slot, field)).collect()
        };
        let mut keyed: Vec<_> = found.into_iter().map(|slot| (keys(slot), slot)).collect();
        keyed.sort_by(|(a, _), (b, _)| {
            let orders = self.order.iter().zip(a.iter().zip(b));
            let mut orders = orders.map(|((_, descending), (a, b))| match descending {
                true => b.total(a),
                false => a.total(b),
            });
            orders
                .find(|ordering| ordering.is_ne())
                .unwrap_or(Ordering::Equal)
        });
        let found = keyed.into_iter().map(|(_, slot)| slot);
        Ok(found.skip(self.offset).take(self.limit + 1).collect())
    }
}

/// Whether the fields of a condition can be asked for, and its values fit them.
fn check(object: &Object, condition: &Condition) -> Parsed<()> {
    let unfit = || ZohoError::new(400, "INVALID_QUERY", "invalid query formed");
    let known = |name: &str| {
        let known = object.def.field(name).map(|(_, field)| field);
        // Texts of several lines are no criteria.
        let known = known.filter(|field| field.spec.native != "textarea");
        known.ok_or_else(unfit)
    };
    let fits = |name: &str, texts: &[&String]| {
        let field = known(name)?;
        texts
            .iter()
            .try_for_each(|text| key_of(field, text).map(drop))
    };
    match condition {
        Condition::Both(parts) | Condition::Either(parts) => {
            parts.iter().try_for_each(|part| check(object, part))
        }
        Condition::Test {
            field,
            op: "is" | "is not",
            ..
        } => known(field).map(drop),
        Condition::Test { field, text, .. } => fits(field, &[text]),
        Condition::In { field, texts, .. } => fits(field, &texts.iter().collect::<Vec<_>>()),
        Condition::Between { field, ends, .. } => fits(field, &[&ends[0], &ends[1]]),
        Condition::Like { field, pattern, .. } => {
            let inner = pattern.strip_prefix('%').unwrap_or(pattern);
            let inner = inner.strip_suffix('%').unwrap_or(inner);
            let is_text = matches!(known(field)?.kind, Kind::Text | Kind::Email);
            match is_text && !inner.contains('%') && inner.len() < pattern.len() {
                true => Ok(()),
                false => Err(unfit()),
            }
        }
    }
}

fn holds(object: &Object, slot: u32, condition: &Condition) -> bool {
    let sought = |name: &str, text: &str| match object.def.field(name) {
        Some((_, field)) => key_of(field, text).unwrap_or(Key::Nothing),
        None => Key::Nothing,
    };
    match condition {
        Condition::Both(parts) => parts.iter().all(|part| holds(object, slot, part)),
        Condition::Either(parts) => parts.iter().any(|part| holds(object, slot, part)),
        Condition::Test { field, op, text } => {
            let held = key(object, slot, field);
            let is_null = held == Key::Nothing;
            match *op {
                "is" => is_null,
                "is not" => !is_null,
                "!=" => held != sought(field, text),
                _ if is_null => false,
                "=" => held == sought(field, text),
                "<" => held < sought(field, text),
                ">" => held > sought(field, text),
                "<=" => held <= sought(field, text),
                _ => held >= sought(field, text),
            }
        }
        Condition::In { field, texts, not } => {
            let held = key(object, slot, field);
            texts.iter().any(|text| held == sought(field, text)) != *not
        }
        Condition::Between { field, ends, not } => {
            let held = key(object, slot, field);
            let within = held >= sought(field, &ends[0]) && held <= sought(field, &ends[1]);
            held != Key::Nothing && within != *not
        }
        Condition::Like {
            field,
            pattern,
            not,
        } => {
            let Key::Text(held) = key(object, slot, field) else {
                return *not;
            };
            let pattern = pattern.to_lowercase();
            let (open, closed) = (!pattern.starts_with('%'), !pattern.ends_with('%'));
            let inner = pattern.trim_matches('%');
            let like = match (open, closed) {
                (true, false) => held.starts_with(inner),
                (false, true) => held.ends_with(inner),
                _ => held.contains(inner),
            };
            like != *not
        }
    }
}
