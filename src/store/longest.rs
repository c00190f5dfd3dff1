//! How long the texts of a mapped table are. Read as the table's owner, as everything of a user's table is.

use pgrx::prelude::*;

use super::{StoreError, as_owner};

/// The length of the longest text in a column, in characters.
pub fn text(relation: pg_sys::Oid, column: &str) -> Result<Option<i32>, StoreError> {
    let (owner, query) = Spi::get_two_with_args::<pg_sys::Oid, String>(
        "SELECT c.relowner, format('SELECT max(pg_catalog.char_length(%I::pg_catalog.text)) FROM %I.%I',
                                   $2, n.nspname, c.relname)
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
        &[relation.into(), column.into()],
    )?;
    match (owner, query) {
        (Some(owner), Some(query)) => Ok(as_owner(owner, || Spi::get_one(&query))?),
        _ => Ok(None),
    }
}
