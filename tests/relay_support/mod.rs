//! Parts of `tests/relay.rs`.

mod backfill;
pub mod foreign;
pub mod frozen;
mod stopped;
mod whole;
pub mod world;
