//! `#[pg_test]`: functions inside one transaction of a real server.
//!
//! Each test is named by the law that it holds pg_crm to. What it does is rolled back, and the
//! worker never sees it.

pub mod fixture;

mod access;
mod audit;
mod capture;
mod catalog;
mod cells;
mod column_types;
mod hashes;
mod identifiers;
mod keys;
mod links;
mod partitions;
mod rules;
mod snapshots;
mod table_changes;
