//! How a record's keys and its row's columns are compared.
//!
//! A row is looked for by casting the key to the column's type, never the column to text, so that
//! the table's own index finds it; and `crm_internal.key_expression()` alone says what the text of
//! a column is.

use pgrx::spi::quote_identifier;

/// A column that is part of a record's identity.
#[derive(Clone, Debug)]
pub struct KeyColumn {
    pub name: String,
    /// What its text is cast to, to be compared with it.
    pub cast: Option<String>,
    /// Its text, of `{}`.
    pub text: String,
    /// Every text is one of its values.
    pub is_text: bool,
    /// Its values are texts, of which a CRM may take several for one.
    pub holds_text: bool,
    pub is_integer: bool,
    pub not_null: bool,
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

    pub fn text_of(&self, expression: &str) -> String {
        self.text.replace("{}", expression)
    }
}
