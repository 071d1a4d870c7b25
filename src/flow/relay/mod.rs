//! The way out: rows of outbox tables become records of Kafka topics, in order and without loss.
//!
//! Started by `kylo relay` and `kylo run`. Kylo's own `outbox_events`, of the control database and of every company schema, are outboxes without
//! configuration; those of others come from the sources file (`config::relay`). What must never happen here: an event that was committed and
//! is never published, two events of one key seen in the wrong order, or a relay that looks healthy and moves nothing.
//!
//! # What is promised
//! - **At least once.** A row is marked only after the broker has acknowledged it (acks=all), so no committed event is lost. It may be published
//!   more than once; every copy carries the same header `event_id`. Who must not act twice remembers the ids it has seen.
//! - **Order per key.** Taking the first copy of each `event_id`, the events of one key come in the outbox's order. This holds with any number
//!   of relays, also when one of them is frozen for an hour in the middle of a batch and then goes on.
//! - Between keys there is no order. A row that was given up (below), and its replay, are outside the order; a replay says so in header `replay`.
//!
//! # How order is kept without a fence
//! Nothing in Postgres can stop a frozen process (SIGSTOP, a paused virtual machine) from sending, when it thaws, what librdkafka had queued. So
//! order rests on no lease. It rests on this: call *closed* a sequence in which every event of a key is preceded, in the sequence itself or in
//! the topic before the sequence began, by all earlier events of that key. If all publishers send closed sequences, then however the topic
//! interleaves them, the first copies of a key's events are in order: take the first copy of event n, sent by some publisher P. Event n-1 was
//! either in the topic before P began, or P sent it before n, and what one publisher sends to one partition arrives in that order. Each relay's
//! sequence is closed, because
//! 1. a claim takes the unmarked rows in order, from the first on, and a mark is only ever set after an acknowledgement: whatever a claim does not
//!    see unmarked is in the topic, or follows in this relay's own sequence, or was given up;
//! 2. what is sent of a claim has no gap: after the first row that fails nothing behind it may reach its partition
//!    ([`crate::ports::EventPublisher`]; librdkafka's idempotent producer with its gapless guarantee and without time-outs of its own, which is
//!    purged and thrown away at the first failure);
//! 3. a row that is refused holds its key back until it is published or given up.
//!
//! The lease (`control.relay_state`, on the database's clock, renewed every third of its time) is for economy: without it two relays would publish
//! everything twice, in order.
//!
//! A row that becomes visible late (its transaction took longer than that of a row with a higher id) is found by the next claim, because claims
//! ask for unmarked rows and never for ids above one. It had no order relative to what was published meanwhile: it was not committed.
//!
//! # Steps, and what a crash after each leaves
//! | step | a crash right after it leaves | who settles it |
//! |---|---|---|
//! | lease taken | a lease that runs out within 15 s | the next relay |
//! | rows claimed (nothing is written) | nothing | - |
//! | queued and partly sent | a first part of the rows in the topic, unmarked | the next claim publishes them again, same `event_id` |
//! | acknowledged | the same | the same |
//! | marked | nothing; a crash of the database server may take the marks of the last second back: those rows are published again, same `event_id` | the next claim |
//! | refusal counted (`control.relay_rows`) | the row waits for its next attempt, its key with it | any relay |
//! | given up: letter and entry by one statement | the row is left out of claims; its key goes on | `kylo dlq replay` or `discard`; then the row is marked |
//!
//! While one batch is on its way to the broker the next is claimed and the one before is marked, so Postgres and the broker work at the same time.
//!
//! # When something fails
//! - Broker, topic or right missing: the outbox waits and tries again; no row is blamed. Readiness is red, one line a minute.
//! - An outbox's database down: that outbox waits. A configured table that is not as configured: that outbox is stopped until it is.
//! - A row that is refused by itself (too large, no topic for its type): 1 s, 2 s, 4 s ... up to `KYLO_RELAY_MAX_RETRIES` retries, then a dead letter
//!   of kind `event`. `KYLO_RELAY_DEAD_CAP` of them open stop the outbox: then the rule is broken, not a row.
//! - Marking fails after publishing: the ids are remembered and marked first when the database is back. A relay that ends before that leaves copies.

mod desk;
mod drain;
mod listen;
mod publish;
mod refused;
mod status;
mod wishes;
mod work;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::domain::company::Routes;
use crate::domain::outbox::{Outbox, Place};
use crate::faults::Faults;
use crate::flow::routing::RoutingCache;
use crate::ports::{EventPublisher, PublishFault};
use crate::store::outbox;
use crate::store::pools::Pools;
pub use desk::Desk;
pub use status::{NoMetrics, OutboxTrouble, RelayMetrics, RelayStatus, Why};
use work::{Trouble, Work};

/// Outboxes that are drained at the same time: bounds memory (three batches each) and connections.
const AT_ONCE: usize = 4;
/// What was found out about a topic so lately need not be asked again.
const FRESH: Duration = Duration::from_millis(500);
/// After a signal: what is committed at the same moment goes with it.
const GATHER: Duration = Duration::from_millis(2);

/// What a relay works with.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    pub control: PgPool,
    /// `host:port/database` of the control database.
    pub control_name: String,
    pub pools: Arc<Pools>,
    pub routing: Arc<RoutingCache>,
    pub publisher: Arc<dyn EventPublisher>,
    /// Where Kylo's own events go.
    pub topic_events: String,
    /// Outboxes of others.
    pub configured: Vec<Outbox>,
    pub limits: Limits,
    /// Names this process in leases.
    pub holder: Uuid,
    pub metrics: Arc<dyn RelayMetrics>,
    pub faults: Faults,
}

/// How often, how much, how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Without a signal outboxes are looked at this often.
    pub poll: Duration,
    /// Rows of one claim.
    pub batch: u32,
    /// Retries of a refused row before it is given up.
    pub max_retries: u32,
    /// Before the first retry; doubled with each.
    pub retry_after: Duration,
    /// Rows of one outbox that may be given up and unsettled at a time.
    pub most_given_up: usize,
    /// A holder that is silent for this long has lost its outboxes to the next.
    pub lease: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(2),
            batch: 5_000,
            max_retries: 3,
            retry_after: Duration::from_secs(1),
            most_given_up: 1_000,
            lease: Duration::from_secs(15),
        }
    }
}

/// What all drains of one relay share.
#[derive(Debug)]
struct Shared {
    options: RelayOptions,
    slots: Semaphore,
    /// Topics that were found to be there and writable since the last trouble with them.
    checked: Mutex<HashSet<String>>,
    /// Topics that were found not to be, and when. Held while the broker is asked: outboxes with one topic ask once.
    unusable: tokio::sync::Mutex<HashMap<String, (Instant, Trouble)>>,
}

impl Shared {
    fn is_checked(&self, topic: &str) -> bool {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner).contains(topic)
    }

    fn set_checked(&self, topic: &str) {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned());
    }

    /// Whether every topic that this outbox is known to write to was found writable.
    fn is_all_checked(&self, outbox: &Outbox) -> bool {
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        outbox.topics.known().all(|topic| checked.contains(topic))
    }

    /// Asks the broker, unless that was done just now.
    async fn check(&self, topic: &str) -> Result<(), Trouble> {
        let mut unusable = self.unusable.lock().await;
        if self.is_checked(topic) {
            return Ok(());
        }
        if let Some((at, trouble)) = unusable.get(topic)
            && at.elapsed() < FRESH
        {
            return Err(trouble.clone());
        }
        let trouble = match self.options.publisher.check(topic).await {
            Ok(()) => {
                unusable.remove(topic);
                self.set_checked(topic);
                return Ok(());
            }
            Err(PublishFault::Later(reason)) => Trouble::new(Why::Broker, reason),
            Err(PublishFault::Topic(reason) | PublishFault::Refused(reason)) => Trouble::new(Why::Topic, reason),
        };
        unusable.insert(topic.to_owned(), (Instant::now(), trouble.clone()));
        Err(trouble)
    }

    fn doubt_topics(&self) {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A relay. One per process; any number of processes.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
}

impl Relay {
    pub fn new(options: RelayOptions) -> Self {
        Self {
            shared: Arc::new(Shared { options, slots: Semaphore::new(AT_ONCE), checked: Mutex::default(), unusable: tokio::sync::Mutex::default() }),
        }
    }

    /// Relays until `stop`. What is on its way then is waited for and marked; the caller bounds that time. `observe` hears how it stands after
    /// every look.
    pub async fn run(&self, stop: CancellationToken, observe: impl Fn(&RelayStatus) + Send) {
        let wake = Arc::new(Notify::new());
        let mut listening = JoinSet::new();
        listen::start(&self.shared.options, &wake, &mut listening);
        let mut desk = Desk::new(Arc::clone(&self.shared), stop.child_token());
        let mut drains: JoinSet<Work> = JoinSet::new();
        let (mut renew_at, mut look_at) = (Instant::now(), Instant::now());
        while !stop.is_cancelled() {
            if Instant::now() >= renew_at {
                desk.renew().await;
                renew_at = Instant::now() + self.shared.options.limits.lease / 3;
                look_at = look_at.min(Instant::now());
            }
            if Instant::now() >= look_at {
                let (due, again_at) = desk.look().await;
                for work in due {
                    drains.spawn(drain::drain(Arc::clone(&self.shared), work));
                }
                look_at = again_at;
            }
            let status = desk.status();
            self.shared.options.metrics.status(&status);
            observe(&status);
            tokio::select! {
                () = stop.cancelled() => {}
                Some(ended) = drains.join_next() => look_at = look_at.min(desk.put_back(ended)),
                () = wake.notified() => {
                    tokio::time::sleep(GATHER).await;
                    desk.woken();
                    look_at = Instant::now();
                }
                () = tokio::time::sleep_until(renew_at.min(look_at)) => {}
            }
        }
        while let Some(ended) = drains.join_next().await {
            desk.put_back(ended);
        }
        desk.release().await;
    }
}

/// Kylo's own: of the control database and of every company schema, by name. Several companies may share a schema.
pub fn own_outboxes(control_name: &str, routes: &Routes, topic_events: &str) -> BTreeMap<String, Outbox> {
    let control = Outbox::own(control_name, Place::Control, "control", topic_events);
    let mut outboxes = BTreeMap::from([(control.name.clone(), control)]);
    for route in routes.values().flatten() {
        // A DSN that is none is told by the consumers and by `kylo company check`.
        if let Ok(database) = outbox::database_name(route.dsn.expose()) {
            let own = Outbox::own(&database, Place::Elsewhere(route.dsn.clone()), route.schema.as_str(), topic_events);
            outboxes.entry(own.name.clone()).or_insert(own);
        }
    }
    outboxes
}
