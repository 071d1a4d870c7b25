//! The thread that polls librdkafka.
//!
//! A thread of its own, because the rebalance callback runs inside the poll and has to wait for the answer. It always goes on polling: when
//! its messages are not taken it pauses the partitions, so the group never throws it out for being slow.
//!
//! The client may be replaced by another while the thread goes on: see `renew`.
//!
//! What must never happen here: a synchronous commit, a wait without a bound, a message of a partition that was taken away, or an event of
//! a client that has been replaced.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::DateTime;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::util::Timeout;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::rebalances::{Rebalances, partitions_of};
use super::renew::{Retired, renew};
use super::rotation::Rotation;
use super::trouble::Board;
use crate::flow::source::SourceEvent;
use crate::flow::work::{Position, Record};

/// How long one poll waits for a message; one that is there is handled at once.
const POLL: Duration = Duration::from_millis(250);
/// Messages and payload bytes of one event.
const BATCH_MESSAGES: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
/// How long a full channel is waited for before reading is paused.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long the engine may take to hear of an assignment, or of a loss.
pub(super) const TELL: Duration = Duration::from_secs(60);

pub(super) type Client = BaseConsumer<Rebalances>;

/// What thread, callbacks and source share.
pub(super) struct Shared {
    pub topic: Arc<str>,
    pub group: String,
    pub board: Arc<Board>,
    /// The present client; none once the source is closed.
    client: Mutex<Option<Arc<Client>>>,
    pub stop: AtomicBool,
    /// Partitions that the engine has paused.
    pub paused: Mutex<HashSet<i32>>,
    pub lag: Mutex<BTreeMap<i32, i64>>,
    /// How long a revoke may be waited for.
    pub drain: Duration,
    started: Instant,
    polled_ms: AtomicU64,
    pub revoked: Mutex<Vec<i32>>,
    pub greeted: AtomicBool,
    pub runtime: Handle,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("topic", &self.topic).field("group", &self.group).finish_non_exhaustive()
    }
}

impl Shared {
    pub fn new(topic: &str, group: &str, board: Arc<Board>, drain: Duration, runtime: Handle) -> Self {
        Self {
            topic: Arc::from(topic),
            group: group.to_owned(),
            board,
            client: Mutex::default(),
            stop: AtomicBool::new(false),
            paused: Mutex::default(),
            lag: Mutex::default(),
            drain,
            started: Instant::now(),
            polled_ms: AtomicU64::new(0),
            revoked: Mutex::default(),
            greeted: AtomicBool::new(false),
            runtime,
        }
    }

    pub fn polled_ms_ago(&self) -> u64 {
        self.now_ms().saturating_sub(self.polled_ms.load(Ordering::Relaxed))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub fn list(&self, partitions: impl IntoIterator<Item = i32>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, partition);
        }
        list
    }

    pub fn client(&self) -> Option<Arc<Client>> {
        lock(&self.client).clone()
    }

    /// Puts a client, or none, into the place of the present one.
    pub fn replace(&self, client: Option<Arc<Client>>) -> Option<Arc<Client>> {
        std::mem::replace(&mut *lock(&self.client), client)
    }

    pub fn greet(&self) {
        if !self.greeted.swap(true, Ordering::Relaxed) {
            tracing::info!("Kafka consumer started for {} topic", self.topic);
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Polls until asked to stop, or until the client is beyond repair. Ends by leaving the group, which can take for ever: nobody may wait for
/// this thread without a bound.
pub(super) fn run(first: Arc<Client>, mut rotation: Rotation, shared: &Arc<Shared>, events: mpsc::Sender<SourceEvent>) {
    let mut consumer = first;
    let retired = Retired::default();
    let mut waiting: Vec<Record> = Vec::new();
    let mut bytes = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        if retired.has_room()
            && let Some(cause) = rotation.due(&shared.board)
            && let Some(fresh) = renew(&consumer, cause, &rotation, shared, &events)
        {
            retired.close(std::mem::replace(&mut consumer, fresh));
            waiting.clear();
            bytes = 0;
        }
        let timeout = if waiting.is_empty() { POLL } else { Duration::ZERO };
        let Some(more) = poll_once(&consumer, shared, &mut waiting, &mut bytes, timeout) else { break };
        let full = waiting.len() >= BATCH_MESSAGES || bytes >= BATCH_BYTES;
        if (full || !more) && !waiting.is_empty() {
            shared.board.received();
            if !deliver(&consumer, shared, &events, &mut waiting, &mut bytes) {
                break;
            }
            bytes = 0;
        }
    }
    shared.stop.store(true, Ordering::Relaxed);
    drop(events);
    // The last reference closes the client; this thread may wait for that.
    drop(shared.replace(None));
    drop(consumer);
}

/// One poll. `Some(true)`: a message came. `None`: the client is beyond repair.
fn poll_once(consumer: &Client, shared: &Shared, waiting: &mut Vec<Record>, bytes: &mut usize, timeout: Duration) -> Option<bool> {
    let polled = consumer.poll(Timeout::After(timeout));
    shared.polled_ms.store(shared.now_ms(), Ordering::Relaxed);
    let more = match polled {
        Some(Ok(message)) => {
            *bytes += message.payload_len();
            waiting.push(record(&shared.topic, &message));
            true
        }
        Some(Err(error)) => {
            shared.board.report(&error, "");
            if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
                tracing::error!(topic = %shared.topic, %error, "the Kafka client is beyond repair: it is made anew");
                return None;
            }
            false
        }
        None => false,
    };
    // What was polled of a partition that has been taken away since belongs to its next owner.
    let revoked = std::mem::take(&mut *lock(&shared.revoked));
    if !revoked.is_empty() {
        waiting.retain(|record| !revoked.contains(&record.position.partition));
    }
    Some(more)
}

/// Hands the messages on. While they are not taken, pauses reading and goes on polling. `false`: nobody listens any more.
fn deliver(consumer: &Client, shared: &Shared, events: &mpsc::Sender<SourceEvent>, waiting: &mut Vec<Record>, bytes: &mut usize) -> bool {
    let mut paused = false;
    let open = loop {
        if waiting.is_empty() {
            break true;
        }
        if shared.stop.load(Ordering::Relaxed) {
            break false;
        }
        let free = async { tokio::time::timeout(PATIENCE, events.reserve()).await };
        match shared.runtime.block_on(free) {
            Ok(Ok(place)) => {
                place.send(SourceEvent::Messages(std::mem::take(waiting)));
                break true;
            }
            Ok(Err(_closed)) => break false,
            Err(_still_full) => {
                if !paused && let Ok(all) = consumer.assignment() {
                    paused = consumer.pause(&all).is_ok();
                }
                if poll_once(consumer, shared, waiting, bytes, Duration::ZERO).is_none() {
                    break false;
                }
            }
        }
    };
    if paused && let Ok(all) = consumer.assignment() {
        let stay = lock(&shared.paused).clone();
        let go_on = partitions_of(&all).into_iter().filter(|partition| !stay.contains(partition));
        if let Err(error) = consumer.resume(&shared.list(go_on)) {
            tracing::warn!(topic = %shared.topic, %error, "reading could not be resumed");
        }
    }
    open
}

/// A message of librdkafka's as one of ours.
pub(super) fn record(topic: &Arc<str>, message: &BorrowedMessage<'_>) -> Record {
    let mut headers = BTreeMap::new();
    if let Some(found) = message.headers() {
        for header in found.iter() {
            if let Some(Ok(text)) = header.value.map(std::str::from_utf8) {
                headers.insert(header.key.to_owned(), text.to_owned());
            }
        }
    }
    Record {
        position: Position { topic: Arc::clone(topic), partition: message.partition(), offset: message.offset() },
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        headers,
        timestamp: message.timestamp().to_millis().and_then(DateTime::from_timestamp_millis),
    }
}
