//! The relay's publisher: what reaches a partition is what was given, from the first on, without a gap.
//!
//! Two clients. The *stream* takes batches. It is idempotent with librdkafka's gapless guarantee: a batch that the broker refuses for good is a fatal
//! error of the client, so nothing behind it is sent. It has no time-out for messages (one that times out would leave a gap); instead this
//! file gives up after a while, purges the client, so that nothing of it is sent any more, and makes another. The *single* takes one record at a time,
//! each in a request of its own, so that a refusal is about that record and about nobody else's.
//!
//! Who waits for a client that the broker rejects looks at the credentials every second (see `rotation`): when they have been replaced, the client is
//! given up at once and not when the time is over.
//!
//! What must never happen here: a record sent behind one that failed. So each record is handed over under a lock that says whether the client is
//! still in use, and a client with any failure is taken out of use, and purged, before the failure is told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer, PurgeConfig};
use tokio::time::Instant;

use super::client::{KafkaSettings, log_effective};
use super::probe;
use super::rotation::{LOOK_EVERY, Rotation};
use super::trouble::{Board, Context};
use crate::domain::outbox::Event;
use crate::ports::{EventPublisher, PublishFault};

/// librdkafka's queue is full: how long until the next try.
const ROOM_PAUSE: Duration = Duration::from_millis(5);

/// Gives the present settings: a password file may have been replaced since the last client was made.
pub type CurrentSettings = Arc<dyn Fn() -> Result<KafkaSettings, String> + Send + Sync>;

/// What is not acknowledged within `patience` is given up. See the module.
pub struct KafkaEvents {
    settings: CurrentSettings,
    patience: Duration,
    stream: Role,
    single: Role,
}

impl std::fmt::Debug for KafkaEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaEvents").field("patience", &self.patience).finish_non_exhaustive()
    }
}

/// One of the two kinds of client, and the one of it that is in use.
struct Role {
    name: &'static str,
    is_gapless: bool,
    current: Mutex<Option<Arc<Client>>>,
}

struct Client {
    producer: Option<FutureProducer<Context>>,
    board: Arc<Board>,
    rotation: Mutex<Rotation>,
    /// Taken out of use. Nothing is handed over to it any more.
    is_closed: Mutex<bool>,
}

impl Drop for Client {
    fn drop(&mut self) {
        // Joins librdkafka's threads, which may take a while.
        if let Some(producer) = self.producer.take() {
            std::thread::spawn(move || drop(producer));
        }
    }
}

impl KafkaEvents {
    /// Does not connect yet.
    pub fn new(settings: CurrentSettings, patience: Duration) -> Self {
        let role = |name, is_gapless| Role { name, is_gapless, current: Mutex::new(None) };
        Self { settings, patience, stream: role("event stream", true), single: role("event single", false) }
    }

    async fn send(&self, role: &Role, events: &[Event]) -> Vec<Result<(), PublishFault>> {
        let client = match role.client(&self.settings) {
            Ok(client) => client,
            Err(reason) => return events.iter().map(|_| Err(PublishFault::Later(reason.clone()))).collect(),
        };
        let deadline = Instant::now() + self.patience;
        let mut reports = Vec::with_capacity(events.len());
        let mut stopped = None;
        for event in events {
            match client.hand_over(event, deadline).await {
                Ok(report) => reports.push((&event.topic, report)),
                Err(error) => {
                    stopped = Some(client.explain(&event.topic, &error));
                    break;
                }
            }
        }
        let mut answers = Vec::with_capacity(events.len());
        for (topic, report) in reports {
            let answer = client.acknowledged(topic, report, deadline).await.unwrap_or_else(|| Err(client.unanswered(self.patience)));
            if answer.is_err() {
                // At once: what is still queued behind it must not be sent.
                role.take_out_of_use(&client);
            }
            answers.push(answer);
        }
        if let Some(fault) = stopped {
            role.take_out_of_use(&client);
            answers.push(Err(fault));
        }
        let behind = || Err(PublishFault::Later("not sent, because one before it was not taken".to_owned()));
        answers.resize_with(events.len(), behind);
        if answers.iter().any(Result::is_ok) {
            client.board.working();
        }
        answers
    }
}

impl EventPublisher for KafkaEvents {
    fn publish<'a>(&'a self, events: &'a [Event]) -> BoxFuture<'a, Vec<Result<(), PublishFault>>> {
        let role = if events.len() == 1 { &self.single } else { &self.stream };
        async move { if events.is_empty() { Vec::new() } else { self.send(role, events).await } }.boxed()
    }

    fn check<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<(), PublishFault>> {
        async move {
            let settings = (self.settings)().map_err(PublishFault::Later)?;
            probe::may_write(&settings, topic).await
        }
        .boxed()
    }
}

impl Role {
    /// The client in use; made anew when there is none.
    fn client(&self, settings: &CurrentSettings) -> Result<Arc<Client>, String> {
        let mut current = lock(&self.current);
        if let Some(client) = &*current {
            return Ok(Arc::clone(client));
        }
        let settings = settings()?;
        let rotation = Rotation::new(&settings).map_err(|error| error.to_string())?;
        let config = self.config(&rotation);
        log_effective(self.name, &config);
        let board = Arc::new(Board::of(&settings));
        let producer =
            config.create_with_context(Context::new(Arc::clone(&board))).map_err(|error| format!("cannot make a Kafka producer: {error}"))?;
        let client = Arc::new(Client { producer: Some(producer), board, rotation: Mutex::new(rotation), is_closed: Mutex::new(false) });
        *current = Some(Arc::clone(&client));
        Ok(client)
    }

    fn config(&self, rotation: &Rotation) -> ClientConfig {
        let mut config = rotation.settings().producer(rotation.credentials());
        config.set("message.timeout.ms", "0").set("message.send.max.retries", "2147483647");
        if self.is_gapless {
            config.set("enable.gapless.guarantee", "true").set("linger.ms", "2");
        } else {
            config.set("batch.num.messages", "1").set("linger.ms", "0");
        }
        config
    }

    /// Purges what it has queued. Idempotent.
    fn take_out_of_use(&self, client: &Arc<Client>) {
        let mut is_closed = lock(&client.is_closed);
        if std::mem::replace(&mut *is_closed, true) {
            return;
        }
        if let Some(producer) = &client.producer {
            producer.purge(PurgeConfig::default().queue().inflight());
        }
        drop(is_closed);
        let mut current = lock(&self.current);
        if current.as_ref().is_some_and(|now| Arc::ptr_eq(now, client)) {
            *current = None;
        }
    }
}

impl Client {
    /// Gives a record to librdkafka, which queues it behind those that it has.
    async fn hand_over(&self, event: &Event, deadline: Instant) -> Result<DeliveryFuture, KafkaError> {
        let mut record = record(event);
        loop {
            let tried = {
                let is_closed = lock(&self.is_closed);
                match &self.producer {
                    Some(producer) if !*is_closed => producer.send_result(record),
                    _ => return Err(KafkaError::Canceled),
                }
            };
            match tried {
                Ok(report) => return Ok(report),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) if Instant::now() < deadline => {
                    record = back;
                    tokio::time::sleep(ROOM_PAUSE).await;
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// `None` = not within the time.
    async fn acknowledged(&self, topic: &str, report: DeliveryFuture, deadline: Instant) -> Option<Result<(), PublishFault>> {
        let mut report = std::pin::pin!(report);
        loop {
            tokio::select! {
                answer = &mut report => return Some(match answer {
                    Ok(Ok(_delivery)) => Ok(()),
                    Ok(Err((error, _))) => Err(self.explain(topic, &error)),
                    Err(_canceled) => Err(PublishFault::Later("the client was closed".to_owned())),
                }),
                () = tokio::time::sleep_until(deadline) => return None,
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if let Some(cause) = lock(&self.rotation).due(&self.board) {
                        return Some(Err(PublishFault::Later(format!("the producer is made anew {cause}"))));
                    }
                }
            }
        }
    }

    fn explain(&self, topic: &str, error: &KafkaError) -> PublishFault {
        use RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => {
                PublishFault::Refused(format!("the event is larger than max.message.bytes of topic {topic} allows"))
            }
            Some(Code::InvalidRecord) => PublishFault::Refused(format!("topic {topic} takes no such record: a compacted one needs a key")),
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition) => PublishFault::Topic(probe::missing(topic)),
            Some(Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed) => PublishFault::Topic(probe::not_allowed(topic)),
            Some(Code::InvalidTopic) => PublishFault::Topic(format!("the broker takes {topic:?} for no topic's name")),
            _ => match self.board.trouble() {
                Some(trouble) => PublishFault::Later(trouble.detail),
                None => PublishFault::Later(error.to_string()),
            },
        }
    }

    fn unanswered(&self, patience: Duration) -> PublishFault {
        let said = format!("the broker has not acknowledged for {} s", patience.as_secs());
        PublishFault::Later(self.board.trouble().map_or(said.clone(), |trouble| format!("{said}: {}", trouble.detail)))
    }
}

fn record(event: &Event) -> FutureRecord<'_, [u8], [u8]> {
    let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&event.topic);
    if let Some(key) = &event.key {
        record = record.key(key);
    }
    if let Some(payload) = &event.payload {
        record = record.payload(payload);
    }
    let headers = OwnedHeaders::new_with_capacity(event.headers.len());
    record.headers(event.headers.iter().fold(headers, |all, (key, value)| all.insert(Header { key, value: Some(value) })))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn librdkafka_takes_both_configurations_and_leaves_no_gap_by_a_time_out() {
        let settings = KafkaSettings::plaintext("127.0.0.1:1");
        for is_gapless in [true, false] {
            let config = Role { name: "x", is_gapless, current: Mutex::new(None) }.config(&Rotation::new(&settings).unwrap());
            config.create_native_config().unwrap();
            assert_eq!(config.get("message.timeout.ms"), Some("0"));
            assert_eq!(config.get("partitioner"), Some("murmur2_random"));
            assert_eq!(config.get("acks"), Some("all"));
        }
    }
}
