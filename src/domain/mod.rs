//! What things are and what is decided about them. Pure: std, serde, chrono, sha2, unicode tables. No I/O, no async, no clock but the trait.

pub mod company;
pub mod ids;
pub mod sheet;
