//! Statements against a company schema, one file per table or concern. Tables are unqualified: the transaction's search_path, set by
//! [`super::pools::Pools::begin`], chooses the schema.

pub mod projection;
