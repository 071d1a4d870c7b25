//! Bytes from a topic become a validated event, or poison.
//!
//! Called by consuming, once per message. Pure: a function of the message and the time handed in, so a message that is
//! delivered again decodes to the same. What must never happen here: a panic or unbounded work on any bytes, a float
//! on the way of an amount, a bad row that takes its neighbours along, a secret or a row's content in a reason.

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::ids::CompanyId;
use crate::domain::message::{BadRow, PromoteRequest, TxnsBatch};

pub use poison::{Poison, PoisonClass};

mod head;
pub(super) mod json;
mod poison;
mod promote;
pub(super) mod row;
mod txns;

/// The largest payload that is looked at, in bytes. Brokers allow 1 MiB by default.
pub const MAX_PAYLOAD_BYTES: usize = 16 << 20;

/// The most rows of one message.
pub const MAX_ROWS: usize = 100_000;

/// How far `created_at` may lie ahead of our clock.
pub const MAX_CLOCK_AHEAD: TimeDelta = TimeDelta::minutes(5);

/// A record as it came from Kafka.
#[derive(Debug, Clone, Copy)]
pub struct RawMessage<'a> {
    /// The value; `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// The record key.
    pub key: Option<&'a [u8]>,
    /// Topic it came from.
    pub topic: &'a str,
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
}

/// What a record on the txns topic is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// A null value: counted, skipped.
    Tombstone,
    /// A batch, perhaps with rows set aside, perhaps with nothing but rows set aside.
    Batch {
        /// The good rows.
        batch: Box<TxnsBatch>,
        /// The rows for the dead letters, by index.
        bad: Vec<BadRow>,
        /// What is to be counted.
        counts: Counts,
        /// Of version 1: what the message believes about routing, to be compared with ours and never used.
        v1_routing: Option<V1Routing>,
    },
}

/// What a record on the promote topic is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodedPromote {
    /// A null value: counted, skipped.
    Tombstone,
    /// A request.
    Request {
        /// The request.
        request: PromoteRequest,
        /// What is to be counted.
        counts: Counts,
        /// What the original's message believes about routing, to be compared with ours and never used.
        v1_routing: Option<V1Routing>,
    },
}

/// Things that are tolerated and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Fields, of the message and of its rows, that the contract does not know.
    pub unknown_fields: u32,
    /// Rows that repeated another of the batch in every respect.
    pub collapsed_in_batch: u32,
    /// The record had no key: it may be out of order with the company's other messages.
    pub null_key: bool,
    /// The message came in a `{key, message}` envelope.
    pub enveloped: bool,
}

/// The original's `routing`, without its DSN, which is never read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct V1Routing {
    /// Company schema.
    pub db_schema: Option<String>,
    /// Spreadsheet.
    pub spreadsheet_id: Option<String>,
    /// Title of the Pending tab.
    pub tab_pending: Option<String>,
    /// Title of the Active tab.
    pub tab_active: Option<String>,
}

/// Decodes a record of the txns topic.
///
/// # Errors
/// [`Poison`] when the message as a whole cannot be used. Bad rows are not errors: they come back set aside.
pub fn decode_txns(message: &RawMessage<'_>, now: DateTime<Utc>) -> Result<Decoded, Poison> {
    let Some(text) = head::payload_text(message)? else { return Ok(Decoded::Tombstone) };
    head::unwrapped(text, |head, envelope| txns::decode(head, envelope, message, now))
}

/// Decodes a record of the promote topic.
///
/// # Errors
/// [`Poison`] when the message cannot be used.
pub fn decode_promote(message: &RawMessage<'_>, now: DateTime<Utc>) -> Result<DecodedPromote, Poison> {
    let Some(text) = head::payload_text(message)? else { return Ok(DecodedPromote::Tombstone) };
    head::unwrapped(text, |head, envelope| promote::decode(head, envelope, message, now))
}

#[cfg(test)]
mod tests;
