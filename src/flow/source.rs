//! The port through which messages come in. Implemented by `adapters::kafka::consumer`; tests script it.
//!
//! Called by [`super::consume`] alone. What must never happen here: a type of librdkafka, or a method that can block for ever.

use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;
use tokio::sync::oneshot;

use super::work::Record;

/// The offset of the next message to be read: one more than the last that is finished. Kafka commits this number; keeping it a type of its own
/// leaves no place where the one could be added twice or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextOffset(i64);

impl NextOffset {
    /// What is to be read after the message at `offset`. The only place in Kylo that adds one to an offset.
    pub fn after(offset: i64) -> Self {
        Self(offset.saturating_add(1))
    }

    pub fn get(self) -> i64 {
        self.0
    }
}

/// What a source tells, in order.
#[derive(Debug)]
pub enum SourceEvent {
    /// Messages, in offset order within each partition. Never of a partition that is not assigned at this point of the sequence.
    Messages(Vec<Record>),
    /// These partitions are ours from here on, in addition to those we have.
    Assigned(Vec<i32>),
    /// These partitions are being taken away. What is in hand may be finished and stored until `ack` is sent or dropped, or the source's
    /// deadline is over. `lost`: others may own them already, storing is pointless.
    Revoking { partitions: Vec<i32>, lost: bool, ack: oneshot::Sender<()> },
}

/// What keeps a source from its broker, for readiness and for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceTrouble {
    /// Stable snake_case name.
    pub class: &'static str,
    /// What is wrong and what to do. No secrets.
    pub detail: String,
}

/// How a source is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceHealth {
    /// Milliseconds since the source last asked its broker for messages. Above a few seconds its loop is stuck.
    pub polled_ms_ago: u64,
    /// Messages behind the end of the partition, where known.
    pub lag: Vec<(i32, i64)>,
    pub trouble: Option<SourceTrouble>,
}

/// A stream of messages of one topic for one consumer group.
pub trait MessageSource: Send + 'static {
    /// The next event; `None` when the source has ended and will give nothing any more. Cancel safe.
    fn next(&mut self) -> BoxFuture<'_, Option<SourceEvent>>;

    /// Everything before `next` is durable: it may be committed, soon and in the background. A lost commit leads to a redelivery only.
    fn store(&mut self, partition: i32, next: NextOffset);

    /// Gives no more messages of these partitions (some may be under way), but goes on polling.
    fn pause(&mut self, partitions: &[i32]);

    fn resume(&mut self, partitions: &[i32]);

    fn health(&self) -> SourceHealth;

    /// Commits what was stored and leaves the group, or gives up after `within`. `true` = left in time.
    fn close(self: Box<Self>, within: Duration) -> BoxFuture<'static, bool>;
}
