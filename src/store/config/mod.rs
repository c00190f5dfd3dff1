//! The configuration as the engine uses it, read anew each time it looks for work.

pub mod connection;
pub mod field;
pub mod filter;
pub mod key_column;
mod key_sql;
pub mod map;
pub mod read;

pub use connection::{Connection, connections, secret, version};
pub use field::MappedField;
pub use map::Map;
pub use read::{lock_definition, map, maps, maps_of, type_beneath};
