//! A user's table, read and changed as its owner.

pub mod owner;
pub mod pace;
pub mod raw_size;
pub mod read;
pub mod text_length;
pub mod time_limit;
pub mod update;
pub mod write;
