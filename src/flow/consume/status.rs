//! What a consumer tells about itself: a typed status for health and people, and counts for metrics.
//!
//! What must never happen here: a company as a metric label, or a message's contents anywhere.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use tokio::time::Instant;

use crate::flow::source::SourceTrouble;

/// How a consumer is doing. Renewed at least every second while its loop ticks.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConsumerStatus {
    pub topic: String,
    pub group: String,
    pub assigned: Vec<i32>,
    /// Stopped by the poison cap; `kylo dlq resume` lets them go on. Not ready while there is one.
    pub stopped: Vec<i32>,
    /// Messages behind the end of the partition, where known.
    pub lag: BTreeMap<i32, i64>,
    /// Messages taken and not finished, and their payload bytes.
    pub in_flight: usize,
    pub in_flight_bytes: usize,
    /// Reading is paused because too much is in flight.
    pub paused: bool,
    /// Messages of this topic in `control.held_messages`, of all processes, as of the last look; and how many companies they belong to.
    pub held_messages: i64,
    pub held_companies: usize,
    /// Companies that wait here because of their database: company and reason.
    pub down: Vec<(String, String)>,
    /// Milliseconds since the broker was last asked for messages.
    pub polled_ms_ago: u64,
    /// What keeps the source from its broker. Not ready while there is something.
    pub trouble: Option<SourceTrouble>,
    /// What is wrong with the control database. Not ready while there is something.
    pub control: Option<String>,
    pub draining: bool,
    /// When the loop last ticked; older than a few seconds = it is stuck.
    #[serde(skip)]
    pub ticked: Option<Instant>,
}

impl ConsumerStatus {
    /// Why this consumer is not ready, or `None`.
    pub fn not_ready(&self) -> Option<String> {
        if let Some(trouble) = &self.trouble {
            return Some(format!("{}: {}", trouble.class, trouble.detail));
        }
        if let Some(reason) = &self.control {
            return Some(format!("the control database does not answer: {reason}"));
        }
        if !self.stopped.is_empty() {
            return Some(format!(
                "partitions {:?} of {} are stopped: too many poison messages in a row; look at `kylo dlq list`, then run `kylo dlq resume`",
                self.stopped, self.topic
            ));
        }
        match self.ticked {
            None => Some("not started yet".to_owned()),
            Some(at) if at.elapsed().as_secs() >= 10 => Some("the consumer's loop is stuck".to_owned()),
            Some(_) if self.polled_ms_ago >= 30_000 => Some("the broker has not been asked for messages for 30 s".to_owned()),
            Some(_) => None,
        }
    }
}

/// What happened to a message, as the label `outcome` of `kylo_messages_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MessageOutcome {
    Applied,
    Duplicate,
    /// All its rows, or the message as a whole, went to the dead letters.
    DeadLetter,
    Held,
    Tombstone,
}

impl MessageOutcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::DeadLetter => "dead_letter",
            Self::Held => "held",
            Self::Tombstone => "tombstone",
        }
    }
}

/// Where a consumer's counts go. Implemented by `telemetry`.
pub trait ConsumeMetrics: Send + Sync + fmt::Debug {
    fn messages(&self, topic: &str, outcome: MessageOutcome, n: u64);

    /// Things that are tolerated and counted: `null_key`, `enveloped`, `unknown_field`, `collapsed_in_batch`.
    fn tolerated(&self, topic: &str, what: &'static str, n: u64);
}

/// Counts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMetrics;

impl ConsumeMetrics for NoMetrics {
    fn messages(&self, _topic: &str, _outcome: MessageOutcome, _n: u64) {}

    fn tolerated(&self, _topic: &str, _what: &'static str, _n: u64) {}
}
