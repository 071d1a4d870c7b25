//! The vocabulary between the consumer and what it feeds: a message's place, what to do with it, and what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::domain::company::Route;
use crate::domain::message::{BadRow, PromoteRequest, TxnsBatch};

/// Where a message stands in Kafka.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

/// A message as the broker gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub position: Position,
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Header values that are UTF-8; the last of a name wins.
    pub headers: BTreeMap<String, String>,
    pub timestamp: Option<DateTime<Utc>>,
}

impl Record {
    /// The dead letter whose replay this message is (header `dead_letter_id`).
    pub fn dead_letter_id(&self) -> Option<i64> {
        self.headers.get("dead_letter_id")?.parse().ok()
    }

    pub fn traceparent(&self) -> Option<&str> {
        // Postgres stores no U+0000, and a broken header must not make poison of a good message.
        self.headers.get("traceparent").map(String::as_str).filter(|text| !text.contains('\0'))
    }
}

/// A decoded, routed batch on its way into its company's database.
#[derive(Clone, Debug)]
pub struct TxnsWork {
    pub record: Arc<Record>,
    pub route: Arc<Route>,
    pub batch: TxnsBatch,
    pub bad: Vec<BadRow>,
}

/// A decoded, routed promote request.
#[derive(Clone, Debug)]
pub struct PromoteWork {
    pub record: Arc<Record>,
    pub route: Arc<Route>,
    pub request: PromoteRequest,
}

/// Why a company's work could not be done now. Nothing was written; the same work is to be tried again.
#[derive(Debug, thiserror::Error)]
pub enum Stuck {
    /// The company's database does not answer, is read-only, is full, refuses the login: wait with backoff, hold after 30 s.
    #[error("the database of company {company} is down: {reason}")]
    Down { company: String, reason: String },
    /// The company's own configuration or schema is wrong: hold at once, try again every 15 minutes or when its row changes.
    #[error("company {company} is parked: {reason}")]
    Parked { company: String, reason: String },
    /// The control database does not answer: everything waits.
    #[error("the control database is down: {0}")]
    Control(String),
}

/// What came of a message that was handled. Its effects are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handled {
    /// Something changed in the company's schema.
    Applied,
    /// Known already (ledger, request key): nothing changed.
    Duplicate,
    /// Nothing of it could be applied; all of it stands in dead letters.
    DeadLettered,
}

/// What a dead letter is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterKind {
    Message,
    Row,
}

/// A dead letter to be written. Written again for the same position, pointer and bytes it only counts (`attempts`, `last_seen_at`).
#[derive(Clone, Debug)]
pub struct NewLetter {
    pub record: Arc<Record>,
    /// JSON pointer of a row, empty for the whole message.
    pub pointer: String,
    pub kind: LetterKind,
    /// Stable snake_case name, also the metric label.
    pub class: &'static str,
    /// For people: what is wrong and what to do. No row contents.
    pub reason: String,
    pub company_id: Option<String>,
    pub batch_id: Option<String>,
    /// A row's own JSON text; `None` = the record's payload.
    pub row_text: Option<String>,
    /// What a replay wraps a row in.
    pub envelope: Option<serde_json::Value>,
}
