//! A topic as it stands: every message that it holds, decoded, and how far its group has committed.
//!
//! The decoder is the contract's (`flow::decode`), pinned by the examples in `tests/contracts/`; its clock is set to the end of time, because whether a
//! message came from the future is known to its dead letter alone.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use sha2::{Digest, Sha256};

use crate::domain::ids::CompanyId;
use crate::domain::message::{BadRow, PromoteRequest, TxnsBatch};
use crate::flow::decode::{Decoded, DecodedPromote, PoisonClass, RawMessage, decode_promote, decode_txns};

/// Where a message stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

/// A partition's first and last offset, and its group's committed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first offset that the topic holds.
    pub low: i64,
    /// One more than the last.
    pub high: i64,
    /// Everything below it is promised durable. `None`: nothing has been committed.
    pub committed: Option<i64>,
}

/// A topic, first offset to end.
#[derive(Clone, Debug, Default)]
pub struct Topic {
    pub name: Arc<str>,
    pub spans: BTreeMap<i32, Span>,
    /// By place.
    pub told: Vec<Told>,
}

/// A message and what it says.
#[derive(Clone, Debug)]
pub struct Told {
    pub place: Place,
    pub said: Said,
    /// SHA-256 of the value.
    pub sha256: [u8; 32],
    /// The record's own time: when it was published.
    pub written_at: Option<DateTime<Utc>>,
    /// The dead letter that this message says it replays.
    pub replay_of: Option<i64>,
}

/// What a message says.
#[derive(Clone, Debug)]
pub enum Said {
    Tombstone,
    Poison { class: PoisonClass },
    Batch { batch: Box<TxnsBatch>, bad: Vec<BadRow> },
    Request(PromoteRequest),
}

impl Told {
    pub fn company(&self) -> Option<&CompanyId> {
        match &self.said {
            Said::Batch { batch, .. } => Some(&batch.company_id),
            Said::Request(request) => Some(&request.company_id),
            Said::Tombstone | Said::Poison { .. } => None,
        }
    }
}

/// Which of the two topics a message is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Txns,
    Promote,
}

/// A record as the broker gave it.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub written_at: Option<DateTime<Utc>>,
    pub dead_letter_id: Option<i64>,
}

/// Decodes a record.
pub fn told(topic: &Arc<str>, kind: Kind, raw: &Raw<'_>) -> Told {
    let message = RawMessage { payload: raw.value, key: raw.key, topic, partition: raw.partition, offset: raw.offset };
    let said = match kind {
        Kind::Txns => decode_txns(&message, end_of_time()).map(|decoded| match decoded {
            Decoded::Tombstone => Said::Tombstone,
            Decoded::Batch { batch, bad, .. } => Said::Batch { batch, bad },
        }),
        Kind::Promote => decode_promote(&message, end_of_time()).map(|decoded| match decoded {
            DecodedPromote::Tombstone => Said::Tombstone,
            DecodedPromote::Request { request, .. } => Said::Request(request),
        }),
    };
    Told {
        place: Place { topic: Arc::clone(topic), partition: raw.partition, offset: raw.offset },
        said: said.unwrap_or_else(|poison| Said::Poison { class: poison.class }),
        sha256: Sha256::digest(raw.value.unwrap_or_default()).into(),
        written_at: raw.written_at,
        replay_of: raw.dead_letter_id,
    }
}

/// No message's `created_at` lies after it.
fn end_of_time() -> DateTime<Utc> {
    NaiveDate::from_ymd_opt(10_000, 1, 1).unwrap_or(NaiveDate::MAX).and_time(NaiveTime::MIN).and_utc()
}
