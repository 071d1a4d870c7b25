//! What things are and what is decided about them. Pure: std, serde, chrono, sha2, unicode tables. No I/O, no async, no clock but the trait.

pub mod clock;
pub mod company;
pub mod date;
pub mod fence;
pub mod ids;
pub mod message;
pub mod money;
pub mod outbox;
pub mod plan;
pub mod rules;
pub mod sheet;
pub mod tab;
pub mod text;
pub mod triage;
