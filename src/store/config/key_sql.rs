//! How a record's keys and its row's columns are compared.

use pgrx::spi::quote_identifier;

use crate::store::config::map::Map;

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
