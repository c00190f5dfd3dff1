//! How long the texts of a mapped table are. Read as the table's owner, as everything of a user's
//! table is.

use pgrx::prelude::*;

use crate::store::error::StoreError;
use crate::store::statement::Uncached;
use crate::store::table::owner::as_owner_of_table;

/// The length of the longest text in a column, in characters.
pub fn text(relation: pg_sys::Oid, column: &str) -> Result<Option<i32>, StoreError> {
    let (name, column) = Spi::get_two_with_args::<String, String>(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.quote_ident($2)
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE c.oid OPERATOR(pg_catalog.=) $1",
        &[relation.into(), column.into()],
    )?;
    let (Some(name), Some(column)) = (name, column) else {
        return Ok(None);
    };
    let query =
        format!("SELECT max(pg_catalog.char_length({column}::pg_catalog.text)) FROM {name}");
    as_owner_of_table(relation, &name, || {
        Spi::connect_mut(|client| {
            Ok(client
                .update(Uncached(&query), None, &[])?
                .first()
                .get_one()?)
        })
    })
}
