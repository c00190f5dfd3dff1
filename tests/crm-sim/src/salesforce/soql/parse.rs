//! From text to a statement.
//!
//! Guarantees: pure, and total: any text gives a statement or a message with the place of trouble.

use super::statement::{
    Condition, Function, Item, Literal, Op, OrderKey, Select, Statement, Term, What,
};
use crate::token::{Token, tokens};

pub fn parse(text: &str) -> Result<Statement, String> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        at: 0,
    };
    let statement = parser.statement()?;
    match parser.tokens.get(parser.at) {
        None => Ok(statement),
        Some(token) => Err(format!("unexpected token: '{}'", token.shown())),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn statement(&mut self) -> Result<Statement, String> {
        self.expect_word("SELECT")?;
        let select = self.select()?;
        self.expect_word("FROM")?;
        let object = self.name()?;
        let filter = match self.word("WHERE") {
            true => Some(self.condition()?),
            false => None,
        };
        let mut group = Vec::new();
        if self.word("GROUP") {
            self.expect_word("BY")?;
            group.push(self.name()?);
            while self.mark(",") {
                group.push(self.name()?);
            }
        }
        let having = match self.word("HAVING") {
            true => Some(self.condition()?),
            false => None,
        };
        let mut order = Vec::new();
        if self.word("ORDER") {
            self.expect_word("BY")?;
            loop {
                order.push(self.order_key()?);
                if !self.mark(",") {
                    break;
                }
            }
        }
        let limit = match self.word("LIMIT") {
            true => Some(self.number()?),
            false => None,
        };
        let offset = match self.word("OFFSET") {
            true => self.number()?,
            false => 0,
        };
        Ok(Statement {
            select,
            object,
            filter,
            group,
            having,
            order,
            limit,
            offset,
        })
    }

    fn select(&mut self) -> Result<Select, String> {
        if self.peek_word("FIELDS") && self.mark_follows("(") {
            self.name()?;
            self.expect_mark("(")?;
            self.name()?;
            self.expect_mark(")")?;
            return Ok(Select::All);
        }
        let mut items = vec![self.item()?];
        while self.mark(",") {
            items.push(self.item()?);
        }
        let count = What::Term(Term::Call(Function::Count, None));
        match items.iter().any(|item| item.what == count) {
            false => Ok(Select::Items(items)),
            true if items.len() == 1 && items[0].alias.is_none() => Ok(Select::Count),
            true => Err("unexpected token: 'COUNT()'".into()),
        }
    }

    fn item(&mut self) -> Result<Item, String> {
        if self.mark("(") {
            let statement = self.statement()?;
            self.expect_mark(")")?;
            let what = What::Children(Box::new(statement));
            return Ok(Item { what, alias: None });
        }
        let what = What::Term(self.term()?);
        let named = matches!(self.tokens.get(self.at), Some(Token::Word(_)));
        let alias = (named && !self.peek_word("FROM")).then(|| self.name());
        let alias = alias.transpose()?;
        Ok(Item { what, alias })
    }

    fn term(&mut self) -> Result<Term, String> {
        let name = self.name()?;
        if !self.mark("(") {
            return Ok(Term::Field(name));
        }
        let argument = (!self.peek_mark(")")).then(|| self.name()).transpose()?;
        self.expect_mark(")")?;
        match (Function::named(&name), argument) {
            (Some(Function::Count), argument) => Ok(Term::Call(Function::Count, argument)),
            (Some(function), Some(argument)) => Ok(Term::Call(function, Some(argument))),
            _ => Err(format!("the simulator does not know {name}(...)")),
        }
    }

    fn order_key(&mut self) -> Result<OrderKey, String> {
        let term = self.term()?;
        let descending = self.word("DESC");
        if !descending {
            self.word("ASC");
        }
        let mut nulls_first = true;
        if self.word("NULLS") {
            nulls_first = !self.word("LAST");
            if nulls_first {
                self.expect_word("FIRST")?;
            }
        }
        Ok(OrderKey {
            term,
            ascending: !descending,
            nulls_first,
        })
    }

    /// SOQL refuses AND beside OR without parentheses, and so do we.
    fn condition(&mut self) -> Result<Condition, String> {
        let first = self.factor()?;
        let (word, other) = match self.peek_word("AND") {
            true => ("AND", "OR"),
            false => ("OR", "AND"),
        };
        let mut parts = vec![first];
        while self.word(word) {
            parts.push(self.factor()?);
        }
        if self.peek_word(other) {
            return Err(format!("unexpected token: '{other}'"));
        }
        Ok(match (parts.len(), word) {
            (1, _) => parts.remove(0),
            (_, "AND") => Condition::And(parts),
            _ => Condition::Or(parts),
        })
    }

    fn factor(&mut self) -> Result<Condition, String> {
        if self.word("NOT") {
            return Ok(Condition::Not(Box::new(self.factor()?)));
        }
        if self.mark("(") {
            let inner = self.condition()?;
            self.expect_mark(")")?;
            return Ok(inner);
        }
        let term = self.term()?;
        let op = self.op()?;
        if matches!(op, Op::In | Op::NotIn) && self.peek_mark("(") && self.select_follows() {
            self.expect_mark("(")?;
            let query = Box::new(self.statement()?);
            self.expect_mark(")")?;
            let negated = op == Op::NotIn;
            return Ok(Condition::Among {
                term,
                negated,
                query,
            });
        }
        let values = match op {
            Op::In | Op::NotIn | Op::Includes | Op::Excludes => {
                self.expect_mark("(")?;
                let mut values = vec![self.literal()?];
                while self.mark(",") {
                    values.push(self.literal()?);
                }
                self.expect_mark(")")?;
                values
            }
            _ => vec![self.literal()?],
        };
        Ok(Condition::Test { term, op, values })
    }

    fn op(&mut self) -> Result<Op, String> {
        let marks = [
            ("=", Op::Eq),
            ("!=", Op::Ne),
            ("<>", Op::Ne),
            ("<=", Op::Le),
            (">=", Op::Ge),
            ("<", Op::Lt),
            (">", Op::Gt),
        ];
        for (mark, op) in marks {
            if self.mark(mark) {
                return Ok(op);
            }
        }
        let words = [
            ("LIKE", Op::Like),
            ("IN", Op::In),
            ("INCLUDES", Op::Includes),
            ("EXCLUDES", Op::Excludes),
        ];
        for (word, op) in words {
            if self.word(word) {
                return Ok(op);
            }
        }
        if self.word("NOT") {
            self.expect_word("IN")?;
            return Ok(Op::NotIn);
        }
        Err(self.unexpected())
    }

    fn literal(&mut self) -> Result<Literal, String> {
        let literal = match self.tokens.get(self.at) {
            Some(Token::Text(text)) => Literal::Text(text.clone()),
            Some(Token::Word(word)) => Literal::Bare(word.clone()),
            _ => return Err(self.unexpected()),
        };
        self.at += 1;
        Ok(literal)
    }

    fn name(&mut self) -> Result<String, String> {
        match self.tokens.get(self.at) {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word.clone())
            }
            _ => Err(self.unexpected()),
        }
    }

    fn number(&mut self) -> Result<usize, String> {
        let word = self.name()?;
        word.parse()
            .map_err(|_| format!("'{word}' is not a number"))
    }

    fn peek_word(&self, word: &str) -> bool {
        matches!(self.tokens.get(self.at), Some(Token::Word(held)) if held.eq_ignore_ascii_case(word))
    }

    fn peek_mark(&self, mark: &str) -> bool {
        matches!(self.tokens.get(self.at), Some(Token::Mark(held)) if *held == mark)
    }

    fn mark_follows(&self, mark: &str) -> bool {
        matches!(self.tokens.get(self.at + 1), Some(Token::Mark(held)) if *held == mark)
    }

    fn select_follows(&self) -> bool {
        matches!(self.tokens.get(self.at + 1), Some(Token::Word(held)) if held.eq_ignore_ascii_case("SELECT"))
    }

    fn word(&mut self, word: &str) -> bool {
        let found = self.peek_word(word);
        self.at += usize::from(found);
        found
    }

    fn mark(&mut self, mark: &str) -> bool {
        let found = self.peek_mark(mark);
        self.at += usize::from(found);
        found
    }

    fn expect_word(&mut self, word: &str) -> Result<(), String> {
        self.word(word)
            .then_some(())
            .ok_or_else(|| self.unexpected())
    }

    fn expect_mark(&mut self, mark: &str) -> Result<(), String> {
        self.mark(mark)
            .then_some(())
            .ok_or_else(|| self.unexpected())
    }

    fn unexpected(&self) -> String {
        match self.tokens.get(self.at) {
            Some(token) => format!("unexpected token: '{}'", token.shown()),
            None => "unexpected end of the query".into(),
        }
    }
}
