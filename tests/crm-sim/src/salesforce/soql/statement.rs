//! What a SOQL statement says, before anybody knows which fields there are.

#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    pub select: Select,
    /// Of a statement within another one, what the parent calls its children.
    pub object: String,
    pub filter: Option<Condition>,
    pub group: Vec<String>,
    pub having: Option<Condition>,
    pub order: Vec<OrderKey>,
    pub limit: Option<usize>,
    pub offset: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Select {
    Count,
    All,
    Items(Vec<Item>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    pub what: What,
    pub alias: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum What {
    Term(Term),
    Children(Box<Statement>),
}

/// A field or an aggregate of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Term {
    /// A path, as `Account.Name`.
    Field(String),
    Call(Function, Option<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    Count,
    CountDistinct,
    Sum,
    Avg,
    Min,
    Max,
}

impl Function {
    pub fn named(name: &str) -> Option<Self> {
        Some(match name.to_ascii_uppercase().as_str() {
            "COUNT" => Self::Count,
            "COUNT_DISTINCT" => Self::CountDistinct,
            "SUM" => Self::Sum,
            "AVG" => Self::Avg,
            "MIN" => Self::Min,
            "MAX" => Self::Max,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct OrderKey {
    pub term: Term,
    pub ascending: bool,
    pub nulls_first: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    And(Vec<Condition>),
    Or(Vec<Condition>),
    Not(Box<Condition>),
    Test {
        term: Term,
        op: Op,
        values: Vec<Literal>,
    },
    /// `IN (SELECT ...)`
    Among {
        term: Term,
        negated: bool,
        query: Box<Statement>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Eq,
    Ne,
    Lt,
    Gt,
    Le,
    Ge,
    In,
    NotIn,
    Like,
    Includes,
    Excludes,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    Text(String),
    /// A number, a date, a time, or a word such as `true`, `null`, `TODAY`, `LAST_N_DAYS:3`.
    Bare(String),
}
