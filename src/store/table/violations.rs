//! How many rows of a mapped table violate the rules of a column. Read as the table's owner, and no
//! further than a bounded effort goes.

use std::time::{Duration, Instant};

use crm_domain::validation::Rules;
use crm_domain::{DataType, Value};
use pgrx::prelude::*;

use crate::store::error::StoreError;
use crate::store::row::Columns;
use crate::store::statement::{Cached, Uncached};
use crate::store::table::owner::as_owner_of_table;

/// Rows that are read at most.
const MOST: usize = 100_000;
/// And for how long.
const TIME: Duration = Duration::from_secs(5);
/// Rows that are in memory at once.
const PART: i64 = 500;

pub struct Count {
    pub violating: usize,
    pub rows: usize,
    /// There are no more rows.
    pub is_whole: bool,
}

/// `as_json`: the column is an array.
pub fn count(
    relation: pg_sys::Oid,
    column: &str,
    as_json: bool,
    data_type: DataType,
    rules: &Rules,
) -> Result<Count, StoreError> {
    let names = Spi::connect(|client| {
        let mut rows = client.select(
            Cached(
                "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, pg_catalog.quote_ident($2) AS column_name
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
                 WHERE c.oid OPERATOR(pg_catalog.=) $1",
            ),
            None,
            &[relation.into(), column.into()],
        )?;
        rows.next()
            .map(|row| {
                Ok::<(String, String), StoreError>((
                    row.required("name")?,
                    row.required("column_name")?,
                ))
            })
            .transpose()
    })?;
    // The table was dropped meanwhile.
    let Some((name, column)) = names else {
        return Ok(Count {
            violating: 0,
            rows: 0,
            is_whole: true,
        });
    };
    let value = match as_json {
        true => format!("pg_catalog.to_jsonb({column})"),
        false => column,
    };
    let query = format!("SELECT {value}::pg_catalog.text AS value FROM {name}");
    as_owner_of_table(relation, &name, || {
        Spi::connect_mut(|client| {
            let mut count = Count {
                violating: 0,
                rows: 0,
                is_whole: false,
            };
            let start = Instant::now();
            let mut cursor = client.open_cursor(Uncached(&query), &[]);
            while count.rows < MOST && start.elapsed() < TIME {
                let part = cursor.fetch(PART as _)?;
                if part.is_empty() {
                    count.is_whole = true;
                    break;
                }
                for row in part {
                    let text: Option<String> = row.optional("value")?;
                    // What cannot be read is not what the rules allow.
                    let holds = Value::from_postgres(data_type, text.as_deref())
                        .is_ok_and(|value| rules.check(&value).is_ok());
                    count.rows += 1;
                    count.violating += usize::from(!holds);
                }
            }
            Ok(count)
        })
    })
}
