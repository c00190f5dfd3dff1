//! A user's table, read and changed as its owner.

pub mod capture_guard;
pub mod cell_value;
pub mod crm_values;
pub mod delete;
pub mod fetch;
pub mod membership;
pub mod owner;
pub mod pace;
pub mod raw_size;
pub mod read;
pub mod read_statement;
pub mod row_locks;
pub mod spelling;
pub mod text_length;
pub mod time_limit;
pub mod transform;
pub mod update;
pub mod violations;
pub mod write;
