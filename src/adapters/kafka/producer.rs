//! Publishing: idempotent, acknowledged by all replicas, placed by key as n8n's client places it.
//!
//! Called by the relay, `kylo publish` and the replay of dead letters. The client is made anew after a fatal error, and when the broker rejects a
//! login whose file has another password by now; what waits in the old one is given back as not delivered at once.
//! What must never happen here: a record reported as delivered that is not, or two records of one key in another order than they were given.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer, PurgeConfig};

use super::client::{ClientError, KafkaSettings, log_effective};
use super::rotation::{LOOK_EVERY, Rotation};
use super::trouble::{Board, Context};
use crate::flow::source::SourceTrouble;

/// How long to wait for room when librdkafka's queue is full, in tries of this pause.
const ROOM_PAUSE: Duration = Duration::from_millis(20);
const ROOM_TRIES: u32 = 1_500;

/// A record to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutRecord {
    pub topic: String,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, String)>,
}

/// Where a record stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub partition: i32,
    pub offset: i64,
}

/// A record was not delivered, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The same record will be refused again: too large, no such topic.
    #[error("cannot publish to {topic}: {reason}")]
    Refused { topic: String, reason: String },
    /// Passes by itself. The record may be in the topic after all.
    #[error("could not publish to {topic} now: {reason}")]
    Later { topic: String, reason: String },
}

/// A producer. Cheap to share.
pub struct KafkaProducer {
    board: Arc<Board>,
    made: Mutex<Made>,
}

/// The client, what it logs in with, and the how manieth it is.
struct Made {
    client: FutureProducer<Context>,
    rotation: Rotation,
    number: u64,
}

impl std::fmt::Debug for KafkaProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaProducer").field("settings", self.lock().rotation.settings()).finish_non_exhaustive()
    }
}

impl KafkaProducer {
    /// Does not connect yet. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn start(settings: &KafkaSettings) -> Result<Self, ClientError> {
        let board = Arc::new(Board::of(settings));
        let rotation = Rotation::new(settings)?;
        log_effective("producer", &settings.producer(rotation.credentials()));
        let client = make(&rotation, &board)?;
        Ok(Self { board, made: Mutex::new(Made { client, rotation, number: 0 }) })
    }

    /// What keeps it from its broker.
    pub fn trouble(&self) -> Option<SourceTrouble> {
        self.board.trouble()
    }

    /// Publishes one record and waits for its delivery.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(&self, record: OutRecord) -> Result<Delivered, PublishError> {
        let topic = record.topic.clone();
        let nothing = || Err(PublishError::Later { topic, reason: "no answer".to_owned() });
        self.publish_all(std::slice::from_ref(&record)).await.pop().unwrap_or_else(nothing)
    }

    /// Publishes records in order and waits for all deliveries; one answer for each, in order. After a failure the later ones of the same
    /// key may have been delivered: whoever needs strict order publishes again from the first failure on.
    pub async fn publish_all(&self, records: &[OutRecord]) -> Vec<Result<Delivered, PublishError>> {
        let (client, number) = self.usable();
        let mut sent = Vec::with_capacity(records.len());
        for record in records {
            sent.push(enqueue(&client, record).await);
        }
        let mut answers = Vec::with_capacity(records.len());
        for (record, sent) in records.iter().zip(sent) {
            let delivered = match sent {
                Ok(report) => match self.delivered(&client, number, report).await {
                    Ok(Ok(delivery)) => Ok(Delivered { partition: delivery.partition, offset: delivery.offset }),
                    Ok(Err((error, _))) => Err(error),
                    Err(_canceled) => Err(KafkaError::Canceled),
                },
                Err(error) => Err(error),
            };
            if delivered.is_ok() {
                self.board.working();
            }
            answers.push(delivered.map_err(|error| self.explain(&record.topic, &error)));
        }
        answers
    }

    /// Waits until everything that was given is delivered or given up.
    ///
    /// # Errors
    /// The time was not enough.
    pub async fn flush(&self, within: Duration) -> Result<(), PublishError> {
        let client = self.lock().client.clone();
        let flushed = tokio::task::spawn_blocking(move || client.flush(within)).await;
        let late = |reason: String| PublishError::Later { topic: "all topics".to_owned(), reason };
        flushed.map_err(|error| late(error.to_string()))?.map_err(|error| late(error.to_string()))
    }

    /// Waits for a delivery. When the client has been replaced meanwhile, what still waits in its queue is given back: it would wait for a login
    /// that will never be accepted. What is on its way to the broker is waited for.
    async fn delivered(&self, client: &FutureProducer<Context>, number: u64, report: DeliveryFuture) -> <DeliveryFuture as Future>::Output {
        let mut report = std::pin::pin!(report);
        loop {
            tokio::select! {
                answer = &mut report => return answer,
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if self.usable().1 != number {
                        client.purge(PurgeConfig::default().queue());
                    }
                }
            }
        }
    }

    /// The client and its number. Made anew after a fatal error, from which an idempotent producer does not recover, and with credentials
    /// that have been replaced.
    fn usable(&self) -> (FutureProducer<Context>, u64) {
        let mut made = self.lock();
        let fatal = made.client.client().fatal_error();
        let rotated = made.rotation.due(&self.board);
        if let Some((code, reason)) = &fatal {
            tracing::warn!(%code, reason, "the Kafka producer is beyond repair: it is made anew");
        }
        if let Some(cause) = rotated {
            tracing::info!("the Kafka producer is made anew {cause}");
        }
        if rotated.is_some() || fatal.is_some() {
            match make(&made.rotation, &self.board) {
                Ok(fresh) => {
                    let old = std::mem::replace(&mut made.client, fresh);
                    made.number += 1;
                    self.board.renewed();
                    // Ending a client can take a while.
                    std::thread::spawn(move || drop(old));
                }
                Err(error) => tracing::error!(%error, "the Kafka producer could not be made anew"),
            }
        }
        (made.client.clone(), made.number)
    }

    fn lock(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn explain(&self, topic: &str, error: &KafkaError) -> PublishError {
        use RDKafkaErrorCode as Code;
        let topic = topic.to_owned();
        match error.rdkafka_error_code() {
            Some(Code::MessageSizeTooLarge) => {
                PublishError::Refused { topic, reason: "the record is larger than the topic's max.message.bytes allows".to_owned() }
            }
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition) => {
                PublishError::Refused { topic, reason: "there is no such topic: make it with `kylo topics ensure`".to_owned() }
            }
            Some(Code::TopicAuthorizationFailed) => PublishError::Refused { topic, reason: "the user has no Write right on the topic".to_owned() },
            // These say that something is wrong, not what: the client's own errors do.
            _ => match self.board.trouble() {
                Some(trouble) if trouble.class == "cluster_not_allowed" => PublishError::Refused { topic, reason: trouble.detail },
                Some(trouble) => PublishError::Later { topic, reason: format!("{error} ({})", trouble.detail) },
                None => PublishError::Later { topic, reason: error.to_string() },
            },
        }
    }
}

fn make(rotation: &Rotation, board: &Arc<Board>) -> Result<FutureProducer<Context>, ClientError> {
    rotation
        .settings()
        .producer(rotation.credentials())
        .create_with_context(Context::new(Arc::clone(board)))
        .map_err(|error| ClientError { role: "producer", reason: error.to_string() })
}

async fn enqueue(client: &FutureProducer<Context>, record: &OutRecord) -> Result<DeliveryFuture, KafkaError> {
    let mut out: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&record.topic);
    if let Some(key) = &record.key {
        out = out.key(key);
    }
    if let Some(payload) = &record.payload {
        out = out.payload(payload);
    }
    if !record.headers.is_empty() {
        let headers = record.headers.iter();
        out = out.headers(headers.fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) })));
    }
    let mut tries = 0;
    loop {
        match client.send_result(out) {
            Ok(report) => return Ok(report),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) if tries < ROOM_TRIES => {
                tries += 1;
                out = back;
                tokio::time::sleep(ROOM_PAUSE).await;
            }
            Err((error, _)) => return Err(error),
        }
    }
}
