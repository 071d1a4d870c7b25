//! Parts of `tests/relay.rs`.

mod backfill;
pub mod foreign;
pub mod frozen;
mod refusals;
mod sources;
mod stopped;
mod whole;
pub mod world;
