//! How a record's keys and its row's columns are compared.
//!
//! A row is looked for by casting the key to the column's type, never the column to text, so that the table's own index
//! finds it; and `crm_internal.key_expression()` alone says what the text of a column is.

use pgrx::spi::quote_identifier;

use crate::store::config::Map;

/// A column that is part of a record's identity.
#[derive(Clone, Debug)]
pub struct KeyColumn {
    pub name: String,
    /// What its text is cast to, to be compared with it.
    cast: Option<String>,
    /// Its text, of `{}`.
    text: String,
    /// Every text is one of its values.
    is_text: bool,
    /// Its values are texts, of which a CRM may take several for one.
    pub holds_text: bool,
    is_integer: bool,
    not_null: bool,
}

impl KeyColumn {
    /// `type_name`: of the type beneath domains, if it is one of PostgreSQL's own.
    pub fn new(name: String, type_name: Option<&str>, text: String, not_null: bool) -> KeyColumn {
        let is_integer = |name: &str| matches!(name, "int2" | "int4" | "int8");
        KeyColumn {
            name,
            cast: type_name.map(|name| format!("pg_catalog.{}", quote_identifier(name))),
            text,
            is_text: matches!(type_name, Some("text" | "varchar" | "name")),
            holds_text: matches!(type_name, Some("text" | "varchar" | "bpchar")),
            is_integer: type_name.is_some_and(is_integer),
            not_null,
        }
    }

    /// The type that a text is made to be set in it.
    pub fn type_name(&self) -> &str {
        self.cast.as_deref().unwrap_or("pg_catalog.text")
    }

    /// Whether a text is the only one that its value has, as far as that can be told at a glance.
    pub fn is_spelt(&self, text: &str) -> bool {
        let digits = text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit());
        self.is_text
            || self.cast.is_none()
            || (self.is_integer
                && digits
                && !text.is_empty()
                && (text == "0" || !text.starts_with('0')))
    }

    fn text_of(&self, expression: &str) -> String {
        self.text.replace("{}", expression)
    }
}

impl Map {
    /// The record_key of the row `alias`.
    pub fn record_key(&self, alias: &str) -> String {
        let column = format!("{alias}.{}", quote_identifier(&self.key.name));
        self.key.text_of(&column)
    }

    /// The record_key that a text would be, if it is one at all.
    pub fn record_key_of(&self, text: &str) -> String {
        match &self.key.cast {
            Some(cast) => self.key.text_of(&format!("{text}::{cast}")),
            None => text.to_owned(),
        }
    }

    /// The shard_key of the row `alias`.
    pub fn shard_key(&self, alias: &str) -> String {
        match &self.shard {
            Some(shard) => {
                let text = shard.text_of(&format!("{alias}.{}", quote_identifier(&shard.name)));
                format!("coalesce({text}, '')")
            }
            None => "''".to_owned(),
        }
    }

    /// Whether the row `t` has this record_key.
    pub fn has_key(&self, record_key: &str) -> String {
        let key = quote_identifier(&self.key.name);
        match &self.key.cast {
            Some(cast) => format!("t.{key} OPERATOR(pg_catalog.=) {record_key}::{cast}"),
            None => format!(
                "{} OPERATOR(pg_catalog.=) {record_key}",
                self.record_key("t")
            ),
        }
    }

    /// Whether the row `t` is this record's.
    pub fn is_row(&self, shard_key: &str, record_key: &str) -> String {
        let key = self.has_key(record_key);
        let Some(shard) = &self.shard else {
            return key;
        };
        match &shard.cast {
            // None is the '' of whoever does not say, and no number or date.
            Some(cast) if shard.not_null => {
                let text = match shard.is_text {
                    true => shard_key.to_owned(),
                    false => format!("NULLIF({shard_key}, '')"),
                };
                let column = quote_identifier(&shard.name);
                format!("{key} AND t.{column} OPERATOR(pg_catalog.=) {text}::{cast}")
            }
            // The key finds it.
            _ => format!(
                "{key} AND {} OPERATOR(pg_catalog.=) {shard_key}",
                self.shard_key("t")
            ),
        }
    }
}
