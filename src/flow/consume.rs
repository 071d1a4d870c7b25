//! From a topic to its handler: the engine behind `kylo consume`.
//!
//! ```text
//! source -> inbox -> read, route -> lanes (per company, in order) -> calls (few, coalesced) -> handler
//!                      |  poison -> dead letters                       |
//!                      |  not routable -> control.held_messages <------+ down for 30 s, parked
//!                      v                                               v
//!                    offsets: a partition's position moves when everything before it is durable
//! ```
//!
//! One task owns everything ([`Consumer`]); it never waits for a database or a broker itself but starts jobs and hears of their ends, so it
//! always answers a revoke. What waits is bounded: above the limit reading is paused, and polling goes on.
//!
//! What must never happen here: a position stored past a message that is neither applied, held nor a dead letter (I5); a message of a
//! company handled before an earlier one (I6); a company's trouble stopping another; an outage taken for poison.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::routing::RoutingCache;
use super::source::MessageSource;
use crate::faults::Faults;

pub mod handle;
pub mod status;
pub mod topics;

mod engine;
mod jobs;
mod partitions;
mod trouble_log;

pub use status::{ConsumeMetrics, ConsumerStatus, MessageOutcome, NoMetrics};
pub use topics::{PromoteHandler, PromoteTopic, Topic, TxnsHandler, TxnsTopic};

/// How a consumer behaves.
#[derive(Clone, Debug)]
pub struct ConsumeSettings {
    /// Topic and consumer group, for status, dead letters and the poison count.
    pub topic: String,
    pub group: String,
    /// Messages and payload bytes in flight above which reading is paused; it resumes below half.
    pub max_in_flight: usize,
    pub max_in_flight_bytes: usize,
    /// Poison messages in a row that stop a partition (`KYLO_POISON_CAP`).
    pub poison_cap: i32,
    /// How long what is in hand may take at a revoke or a stop (`KYLO_DRAIN_SECONDS`).
    pub drain: Duration,
    /// How often queues and stops are looked at: with none known, and with some.
    pub look_idle: Duration,
    pub look_busy: Duration,
}

impl ConsumeSettings {
    pub fn new(topic: &str, group: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            group: group.to_owned(),
            max_in_flight: 4_096,
            max_in_flight_bytes: 8 << 20,
            poison_cap: 100,
            drain: Duration::from_secs(10),
            look_idle: Duration::from_secs(5),
            look_busy: Duration::from_secs(1),
        }
    }
}

/// What a consumer works with.
#[derive(Debug)]
pub struct ConsumeParts {
    pub control: PgPool,
    pub routes: Arc<RoutingCache>,
    pub metrics: Arc<dyn ConsumeMetrics>,
    /// Names this process in leases.
    pub worker: Uuid,
}

/// Why a consumer ended without being asked to. It is to be started again; nothing is lost.
#[derive(Debug, thiserror::Error)]
pub enum ConsumeError {
    #[error("the message source of topic {0} ended by itself")]
    SourceEnded(String),
    #[error("a job of the consumer of topic {topic} panicked: {detail}")]
    Panicked { topic: String, detail: String },
}

/// A consumer that is ready to run.
#[derive(Debug)]
pub struct Consumer<T: Topic> {
    engine: engine::Engine<T>,
    status: watch::Receiver<ConsumerStatus>,
}

impl<T: Topic> Consumer<T> {
    pub fn new(settings: ConsumeSettings, parts: ConsumeParts, topic: T, source: Box<dyn MessageSource>) -> Self {
        let first = ConsumerStatus { topic: settings.topic.clone(), group: settings.group.clone(), ..ConsumerStatus::default() };
        let (sender, status) = watch::channel(first);
        Self { engine: engine::Engine::new(settings, parts, topic, source, sender), status }
    }

    /// With faults of a test.
    #[must_use]
    pub fn with_faults(mut self, faults: Faults) -> Self {
        self.engine.set_faults(faults);
        self
    }

    /// The consumer's status, for health, metrics and people.
    pub fn status(&self) -> watch::Receiver<ConsumerStatus> {
        self.status.clone()
    }

    /// Consumes until `stop` is cancelled: then finishes what is in hand within the drain time, commits and leaves the group.
    ///
    /// # Errors
    /// [`ConsumeError`]: the consumer is broken and must be made anew.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ConsumeError> {
        self.engine.run(stop).await
    }
}
