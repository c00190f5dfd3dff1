//! Rows of a result, read by the names of their columns.
//!
//! What the database must give is asked for with [`Columns::required`]: a NULL, or a column that
//! the statement does not have, is an error of ours and never a zero or an empty text.

use std::str::FromStr;

use pgrx::prelude::*;
use pgrx::spi::{SpiHeapTupleData, SpiTupleTable};
use serde_json::Value as Json;

use crate::store::error::StoreError;

pub trait Columns {
    /// A value that may be NULL.
    fn optional<T: FromDatum + IntoDatum>(&self, column: &str) -> Result<Option<T>, StoreError>;

    /// A value that is never NULL.
    fn required<T: FromDatum + IntoDatum>(&self, column: &str) -> Result<T, StoreError> {
        let value = self.optional(column)?;
        value.ok_or_else(|| StoreError::unexpected(format!("column \"{column}\" is NULL")))
    }

    /// A text that a CHECK constraint limits to the names of an enum.
    fn parsed<T: FromStr<Err: std::fmt::Display>>(&self, column: &str) -> Result<T, StoreError> {
        let name: String = self.required(column)?;
        name.parse()
            .map_err(|error| StoreError::unexpected(format!("column \"{column}\": {error}")))
    }

    /// A JSON document that was selected as text.
    fn json(&self, column: &str) -> Result<Json, StoreError> {
        let text: String = self.required(column)?;
        serde_json::from_str(&text)
            .map_err(|error| StoreError::unexpected(format!("column \"{column}\": {error}")))
    }

    /// A number of something, or a place among what a statement was given.
    fn number(&self, column: &str) -> Result<usize, StoreError> {
        let number: i64 = self.required(column)?;
        usize::try_from(number)
            .map_err(|_| StoreError::unexpected(format!("column \"{column}\" is {number}")))
    }
}

impl Columns for SpiHeapTupleData<'_> {
    fn optional<T: FromDatum + IntoDatum>(&self, column: &str) -> Result<Option<T>, StoreError> {
        self.get_by_name(column)
            .map_err(|error| StoreError::unexpected(format!("column \"{column}\": {error}")))
    }
}

/// The only row of a result that has one.
pub fn only<'a>(mut rows: SpiTupleTable<'a>) -> Result<SpiHeapTupleData<'a>, StoreError> {
    rows.next()
        .ok_or_else(|| StoreError::unexpected("a statement returned no row".to_owned()))
}
