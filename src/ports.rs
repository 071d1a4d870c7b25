//! What a test must be able to replace: the spreadsheet service and the publisher of events. Implemented by `adapters`; doubles live in `tests/`.
//!
//! The message source has its port beside the consumer (`flow::source`), because its events are the consumer's vocabulary.
//! What must never happen here: a foreign type (hyper, google, rdkafka) in a signature.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::domain::company::SpreadsheetId;
use crate::domain::outbox::Event;
use crate::domain::sheet::{Applied, Batch, MetadataEntry, Observed};

/// Why a call to the spreadsheet service did not give an answer. Decided by HTTP status alone, never by message text, which is localised.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Connect refused, DNS, TLS, or no token: nothing was sent, so nothing was applied.
    #[error("nothing was sent: {0}")]
    NotSent(String),
    /// 429, or a 403 that speaks of rates: nothing was applied.
    #[error("the quota is used up: {message}")]
    Throttled { retry_after: Option<Duration>, message: String },
    /// 400: this attempt applied nothing. For a write: read the fence before judging.
    #[error("refused: {0}")]
    Refused(String),
    /// 401 although the token was just renewed: nothing was applied.
    #[error("the credentials were not accepted: {0}")]
    Unauthorised(String),
    /// 403: not shared with the service account, or the API is off.
    #[error("no permission: {0}")]
    Forbidden(String),
    /// 404: no such spreadsheet, or not shared.
    #[error("not found: {0}")]
    NotFound(String),
    /// 408, 409, 5xx, timeout, cut connection, unreadable 2xx: a write may or may not have been applied, now or later.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// The spreadsheet service. Every method is one HTTP call and takes one call from the shared budget (waiting for it if need be).
pub trait SheetGateway: Send + Sync + std::fmt::Debug {
    /// All tabs' properties and the spreadsheet-level metadata, without cells.
    fn directory<'a>(&'a self, spreadsheet: &'a SpreadsheetId) -> BoxFuture<'a, Result<Observed, CallError>>;

    /// Properties and all cells of the tabs with these titles, and the spreadsheet-level metadata. `Refused` if one of them does not exist.
    fn read<'a>(&'a self, spreadsheet: &'a SpreadsheetId, titles: &'a [String]) -> BoxFuture<'a, Result<Observed, CallError>>;

    /// One atomic batchUpdate.
    fn apply<'a>(&'a self, spreadsheet: &'a SpreadsheetId, batch: &'a Batch) -> BoxFuture<'a, Result<Applied, CallError>>;

    /// One metadata entry wherever it is attached, by id. `None` if there is none; that takes a second call, which tells a missing entry from
    /// a missing spreadsheet.
    fn metadata<'a>(&'a self, spreadsheet: &'a SpreadsheetId, id: i32) -> BoxFuture<'a, Result<Option<MetadataEntry>, CallError>>;
}

/// Why an event is not known to be in its topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishFault {
    /// This very event will be refused again: too large. Nothing is wrong with the others.
    #[error("refused: {0}")]
    Refused(String),
    /// The topic is missing or must not be written to: no event can go there until somebody acts.
    #[error("{0}")]
    Topic(String),
    /// Passes by itself. The event may be in the topic after all.
    #[error("not now: {0}")]
    Later(String),
}

/// Where the relay publishes to.
///
/// The contract that order rests on: of the events of one call that go to one partition, those that reach it (now or ever, acknowledged or
/// not) are the first ones, without a gap. So after the first event that fails nothing behind it may be sent, by nobody, however late.
pub trait EventPublisher: Send + Sync + std::fmt::Debug {
    /// Publishes in order and waits for every acknowledgement; one answer for each, in order. Ends within a bound of its own.
    fn publish<'a>(&'a self, events: &'a [Event]) -> BoxFuture<'a, Vec<Result<(), PublishFault>>>;

    /// Whether this topic is there and may be written to. Leaves nothing that a consumer can read.
    fn check<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<(), PublishFault>>;
}
