//! `$filter`: which rows.
//!
//! Guarantees: total; a literal that is not of the column's type is refused, and so is what the
//! grammar here does not know; texts compare without case, as the database does.

use super::address;
use super::error::DataverseError;
use super::org;
use crate::clock;
use crate::decimal;
use crate::schema::Field;
use crate::store::Object;
use serde_json::Value as Json;
use std::cmp::Ordering;

/// Brackets and negations within each other.
const DEPTH: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    Contains,
    Starts,
    Ends,
}

/// What a literal, or a column, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Text,
    Number,
    Bool,
    Guid,
    Date,
    Moment,
}

impl Type {
    pub fn of(field: &Field) -> Self {
        match field.spec.native.as_str() {
            "Lookup" | "Uniqueidentifier" => Self::Guid,
            "Picklist" | "Integer" | "Decimal" | "Double" | "Money" => Self::Number,
            "Boolean" => Self::Bool,
            "DateOnly" => Self::Date,
            "DateTime" => Self::Moment,
            _ => Self::Text,
        }
    }

    fn edm(self) -> &'static str {
        match self {
            Self::Text => "Edm.String",
            Self::Number => "Edm.Decimal",
            Self::Bool => "Edm.Boolean",
            Self::Guid => "Edm.Guid",
            Self::Date => "Edm.Date",
            Self::Moment => "Edm.DateTimeOffset",
        }
    }
}

#[derive(Debug)]
pub enum Filter {
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Not(Box<Filter>),
    /// `None`: null.
    Is(u16, Op, Option<String>),
    Like(u16, Match, String),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Open,
    Close,
    Comma,
}

fn syntax(what: &str) -> DataverseError {
    DataverseError::query(format!("Syntax error in the $filter option: {what}."))
}

fn tokens(text: &str) -> Result<Vec<Token>, DataverseError> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let mark = match first {
            '(' => Some(Token::Open),
            ')' => Some(Token::Close),
            ',' => Some(Token::Comma),
            _ => None,
        };
        if let Some(mark) = mark {
            tokens.push(mark);
            rest = &rest[1..];
        } else if first == '\'' {
            let (text, tail) = quoted(&rest[1..])?;
            tokens.push(Token::Text(text));
            rest = tail;
        } else {
            let ends = |c: char| c.is_whitespace() || "(),'".contains(c);
            let end = rest.find(ends).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

/// The text up to the quote that ends it, and what follows. A quote within is doubled.
fn quoted(rest: &str) -> Result<(String, &str), DataverseError> {
    let mut text = String::new();
    let mut left = rest;
    loop {
        let at = left
            .find('\'')
            .ok_or_else(|| syntax("there is an unterminated string literal"))?;
        text += &left[..at];
        left = &left[at + 1..];
        match left.strip_prefix('\'') {
            Some(more) => {
                text.push('\'');
                left = more;
            }
            None => return Ok((text, left)),
        }
    }
}

struct Parser<'a> {
    object: &'a Object,
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
}

impl Parser<'_> {
    fn is(&mut self, word: &str) -> bool {
        let is = |token: &Token| *token == Token::Word(word.to_owned());
        self.tokens.next_if(is).is_some()
    }

    fn expect(&mut self, token: &Token) -> Result<(), DataverseError> {
        match self.tokens.next() {
            Some(next) if next == *token => Ok(()),
            other => Err(syntax(&format!("{token:?} is expected, not {other:?}"))),
        }
    }

    fn any(&mut self, depth: usize) -> Result<Filter, DataverseError> {
        if depth > DEPTH {
            return Err(syntax("it is too deep"));
        }
        let mut parts = vec![self.all(depth)?];
        while self.is("or") {
            parts.push(self.all(depth)?);
        }
        Ok(match parts.len() {
            1 => parts.remove(0),
            _ => Filter::Any(parts),
        })
    }

    fn all(&mut self, depth: usize) -> Result<Filter, DataverseError> {
        let mut parts = vec![self.one(depth)?];
        while self.is("and") {
            parts.push(self.one(depth)?);
        }
        Ok(match parts.len() {
            1 => parts.remove(0),
            _ => Filter::All(parts),
        })
    }

    fn one(&mut self, depth: usize) -> Result<Filter, DataverseError> {
        if depth > DEPTH {
            return Err(syntax("it is too deep"));
        }
        if self.is("not") {
            return Ok(Filter::Not(Box::new(self.one(depth + 1)?)));
        }
        let word = match self.tokens.next() {
            Some(Token::Open) => {
                let inner = self.any(depth + 1)?;
                self.expect(&Token::Close)?;
                return Ok(inner);
            }
            Some(Token::Word(word)) => word,
            other => return Err(syntax(&format!("{other:?} is not expected"))),
        };
        if self.tokens.next_if_eq(&Token::Open).is_some() {
            return self.function(&word);
        }
        let (at, kind) = self.column(&word)?;
        let op = match self.tokens.next() {
            Some(Token::Word(op)) => op,
            other => return Err(syntax(&format!("an operator is expected, not {other:?}"))),
        };
        let op = match op.as_str() {
            "eq" => Op::Eq,
            "ne" => Op::Ne,
            "gt" => Op::Gt,
            "ge" => Op::Ge,
            "lt" => Op::Lt,
            "le" => Op::Le,
            other => return Err(syntax(&format!("'{other}' is no operator"))),
        };
        let literal = self.literal(kind, op)?;
        Ok(Filter::Is(at, op, literal))
    }

    fn column(&self, name: &str) -> Result<(u16, Type), DataverseError> {
        let at = address::column(self.object, name)?;
        Ok((at, Type::of(&self.object.def.fields[at as usize])))
    }

    fn function(&mut self, name: &str) -> Result<Filter, DataverseError> {
        let how = match name {
            "contains" => Match::Contains,
            "startswith" => Match::Starts,
            "endswith" => Match::Ends,
            _ => {
                let what = format!("the function {name}");
                return Err(DataverseError::not_simulated(&what));
            }
        };
        let Some(Token::Word(column)) = self.tokens.next() else {
            return Err(syntax(&format!("{name} takes a column")));
        };
        let (at, kind) = self.column(&column)?;
        self.expect(&Token::Comma)?;
        let text = match self.tokens.next() {
            Some(Token::Text(text)) if kind == Type::Text => text,
            _ => {
                let text =
                    format!("No function signature for the function with name '{name}' matches.");
                return Err(DataverseError::query(text));
            }
        };
        self.expect(&Token::Close)?;
        Ok(Filter::Like(at, how, text.to_lowercase()))
    }

    /// In the spelling of what a row shows.
    fn literal(&mut self, kind: Type, op: Op) -> Result<Option<String>, DataverseError> {
        let incompatible = |of: &str| {
            let text = format!(
                "A binary operator with incompatible types was detected. Found operand types '{}' and '{of}' for operator kind '{op:?}'.",
                kind.edm()
            );
            DataverseError::query(text)
        };
        let word = match self.tokens.next() {
            Some(Token::Text(text)) if kind == Type::Text => return Ok(Some(text.to_lowercase())),
            Some(Token::Text(_)) => return Err(incompatible("Edm.String")),
            Some(Token::Word(word)) => word,
            other => return Err(syntax(&format!("a value is expected, not {other:?}"))),
        };
        if word == "null" {
            return match op {
                Op::Eq | Op::Ne => Ok(None),
                _ => Err(incompatible("null")),
            };
        }
        let (of, text) = spelled(&word).ok_or_else(|| {
            DataverseError::query(format!("Could not find a property named '{word}'."))
        })?;
        match (kind, of) {
            // A day is the moment at which it begins.
            (Type::Moment, Type::Date) => Ok(Some(format!("{text}T00:00:00Z"))),
            _ if kind == of => Ok(Some(text)),
            _ => Err(incompatible(of.edm())),
        }
    }
}

/// A literal that is no text, and of what type it is.
fn spelled(word: &str) -> Option<(Type, String)> {
    if matches!(word, "true" | "false") {
        return Some((Type::Bool, word.to_owned()));
    }
    if org::is_id(word) {
        return Some((Type::Guid, word.to_ascii_lowercase()));
    }
    if clock::parse_date(word).is_some() {
        return Some((Type::Date, word.to_owned()));
    }
    if word.contains('T') && (word.ends_with('Z') || word.get(19..).is_some_and(has_offset)) {
        let moment = clock::parse_time(word)?;
        return Some((Type::Moment, clock::iso(moment)));
    }
    let digits = word.strip_prefix('-').unwrap_or(word);
    let number = digits.starts_with(|c: char| c.is_ascii_digit());
    let number = number && word.parse::<f64>().is_ok_and(f64::is_finite);
    number.then(|| (Type::Number, word.to_owned()))
}

fn has_offset(tail: &str) -> bool {
    tail.contains(['+', '-'])
}

impl Filter {
    pub fn parse(object: &Object, text: &str) -> Result<Self, DataverseError> {
        let tokens = tokens(text)?.into_iter().peekable();
        let mut parser = Parser { object, tokens };
        let filter = parser.any(0)?;
        match parser.tokens.next() {
            None => Ok(filter),
            Some(token) => Err(syntax(&format!("{token:?} is not expected"))),
        }
    }

    pub fn holds(&self, object: &Object, slot: u32) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(object, slot)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(object, slot)),
            Self::Not(part) => !part.holds(object, slot),
            Self::Like(at, how, text) => match org::held(object, slot, *at) {
                Json::String(held) => {
                    let held = held.to_lowercase();
                    match how {
                        Match::Contains => held.contains(text.as_str()),
                        Match::Starts => held.starts_with(text.as_str()),
                        Match::Ends => held.ends_with(text.as_str()),
                    }
                }
                _ => false,
            },
            Self::Is(at, op, literal) => {
                let held = org::held(object, slot, *at);
                match literal {
                    None => held.is_null() == (*op == Op::Eq),
                    // What is empty differs from every value.
                    Some(_) if held.is_null() => *op == Op::Ne,
                    Some(text) => {
                        let kind = Type::of(&object.def.fields[*at as usize]);
                        compare(kind, &plain(&held), text).is_some_and(|order| match op {
                            Op::Eq => order.is_eq(),
                            Op::Ne => order.is_ne(),
                            Op::Gt => order.is_gt(),
                            Op::Ge => order.is_ge(),
                            Op::Lt => order.is_lt(),
                            Op::Le => order.is_le(),
                        })
                    }
                }
            }
        }
    }
}

pub fn plain(held: &Json) -> String {
    match held {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

pub fn compare(kind: Type, a: &str, b: &str) -> Option<Ordering> {
    match kind {
        Type::Text => Some(a.to_lowercase().cmp(&b.to_lowercase())),
        Type::Number => decimal::compare(a, b),
        Type::Moment => Some(clock::parse_time(a)?.cmp(&clock::parse_time(b)?)),
        Type::Bool | Type::Guid | Type::Date => Some(a.cmp(b)),
    }
}
