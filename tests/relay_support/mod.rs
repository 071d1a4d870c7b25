//! Parts of `tests/relay.rs`.

pub mod foreign;
pub mod frozen;
mod whole;
pub mod world;
