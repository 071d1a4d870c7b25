//! Kafka, through librdkafka. The only folder that names its types.
//!
//! What must never happen here: a rule of Kylo's, a call that waits without a bound, or a secret in a text.

pub mod admin;
pub mod client;
pub mod consumer;
pub mod events;
pub mod examine;
pub mod lag;
pub mod mock;
pub mod producer;
pub mod reader;
pub mod snapshot;
pub mod trouble;

mod group;
mod identity;
mod poll;
mod probe;
mod rebalances;
mod renew;
mod rotation;
