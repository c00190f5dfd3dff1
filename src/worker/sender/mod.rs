//! From claimed records to requests, and from responses back to each record; on the worker's
//! threads.

pub mod batches;
pub mod checked_write;
