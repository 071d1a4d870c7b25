//! A topic from its first offset to its end, read from outside: no group is joined, nothing is committed.
//!
//! Called by `runtime::audit`. What must never happen here: a read that ends early and looks complete, or one that waits for ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::admin::{AdminError, WithoutGroup, partitions};
use super::client::KafkaSettings;
use super::group;
use super::trouble::Board;

/// Without a single message for this long, the read has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A record as it stands in the topic.
#[derive(Clone, Copy, Debug)]
pub struct StoredRecord<'a> {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// The last header `dead_letter_id` that is a number.
    pub dead_letter_id: Option<i64>,
    pub timestamp: Option<DateTime<Utc>>,
}

/// A topic's extent and what was made of its records.
#[derive(Clone, Debug)]
pub struct Snapshot<T> {
    /// By partition: the first offset that is kept, and one more than the last.
    pub extent: BTreeMap<i32, (i64, i64)>,
    /// In the order of partition and offset.
    pub records: Vec<T>,
}

/// What a group has committed, by partition; partitions without a commit are missing.
///
/// # Errors
/// The broker does not answer.
pub async fn committed(settings: &KafkaSettings, group: &str, topic: &str) -> Result<BTreeMap<i32, i64>, AdminError> {
    let Some(count) = partitions(settings).await?.get(topic).copied() else { return Ok(BTreeMap::new()) };
    let consumer = consumer(settings, group)?;
    let topic = topic.to_owned();
    blocking(settings, move || group::committed(&consumer, &topic, count)).await
}

/// Every record of a topic, each handed to `each`; nothing if there is no such topic.
///
/// # Errors
/// The broker does not answer, or stops giving messages before the end.
pub async fn read<T, F>(settings: &KafkaSettings, topic: &str, each: F) -> Result<Snapshot<T>, AdminError>
where
    T: Send + 'static,
    F: Fn(&StoredRecord<'_>) -> T + Send + 'static,
{
    let Some(count) = partitions(settings).await?.get(topic).copied() else {
        return Ok(Snapshot { extent: BTreeMap::new(), records: Vec::new() });
    };
    // A group id is needed to make a consumer; with partitions assigned by hand no group is joined.
    let consumer = consumer(settings, "kylo-audit")?;
    let topic = topic.to_owned();
    let read = blocking(settings, move || read_all(&consumer, &topic, count, each)).await?;
    read.map_err(|reason| unreachable(settings, reason))
}

fn read_all<T>(consumer: &Client, topic: &str, count: i32, each: impl Fn(&StoredRecord<'_>) -> T) -> Result<Result<Snapshot<T>, String>, KafkaError> {
    let mut extent = BTreeMap::new();
    for partition in 0..count {
        extent.insert(partition, group::watermarks(consumer, topic, partition)?);
    }
    // Partitions that are not read to their end yet.
    let mut left: BTreeMap<i32, i64> =
        extent.iter().filter(|(_, (low, high))| low < high).map(|(partition, (_, high))| (*partition, *high)).collect();
    consumer.assign(&whole(topic, left.keys().map(|partition| (*partition, Offset::Offset(extent[partition].0))))?)?;
    let mut records: Vec<((i32, i64), T)> = Vec::new();
    let (mut heard, mut told) = (Instant::now(), String::new());
    while !left.is_empty() {
        if heard.elapsed() > PATIENCE {
            let (seconds, left) = (PATIENCE.as_secs(), left.keys());
            return Ok(Err(format!("topic {topic}: no message for {seconds} s before the end of partitions {left:?}{told}")));
        }
        match consumer.poll(Duration::from_millis(200)) {
            None => {}
            // Aborted or control records may stand at the end: the end of a partition is said, not counted.
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                left.remove(&partition);
            }
            Some(Err(error)) if is_final(&error) => return Err(error),
            // librdkafka connects, and asks, again by itself.
            Some(Err(error)) => told = format!(" ({error})"),
            Some(Ok(message)) => {
                heard = Instant::now();
                let (partition, offset) = (message.partition(), message.offset());
                if extent.get(&partition).is_some_and(|(_, high)| offset < *high) {
                    records.push(((partition, offset), each(&stored(&message))));
                }
                if left.get(&partition).is_some_and(|high| offset + 1 >= *high) {
                    left.remove(&partition);
                }
            }
        }
    }
    records.sort_by_key(|(at, _)| *at);
    Ok(Ok(Snapshot { extent, records: records.into_iter().map(|(_, record)| record).collect() }))
}

/// Whether waiting does not help: a missing right, records that are gone meanwhile, a topic that is gone.
fn is_final(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::TopicAuthorizationFailed
                | Code::AutoOffsetReset
                | Code::OffsetOutOfRange
                | Code::UnknownTopicOrPartition
                | Code::UnknownTopic
                | Code::UnknownPartition
                | Code::Fatal
        )
    )
}

fn stored<'a>(message: &'a BorrowedMessage<'_>) -> StoredRecord<'a> {
    let headers = message.headers().into_iter().flat_map(Headers::iter);
    let ids = headers.filter(|header| header.key == "dead_letter_id").filter_map(|header| std::str::from_utf8(header.value?).ok());
    StoredRecord {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key(),
        value: message.payload(),
        dead_letter_id: ids.last().and_then(|id| id.parse().ok()),
        timestamp: message.timestamp().to_millis().and_then(DateTime::from_timestamp_millis),
    }
}

/// That a partition has ended is asked for here and no fault; what is one is told by whoever asked.
type Client = BaseConsumer<WithoutGroup>;

fn consumer(settings: &KafkaSettings, group: &str) -> Result<Client, AdminError> {
    let mut config = settings.plain()?;
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("check.crcs", "true");
    let context = WithoutGroup::new(Arc::new(Board::of(settings)));
    config.create_with_context(context).map_err(|error| unreachable(settings, error.to_string()))
}

fn whole(topic: &str, partitions: impl Iterator<Item = (i32, Offset)>) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in partitions {
        list.add_partition_offset(topic, partition, offset)?;
    }
    Ok(list)
}

async fn blocking<T: Send + 'static>(
    settings: &KafkaSettings,
    ask: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, AdminError> {
    let asked = tokio::task::spawn_blocking(ask).await;
    asked.map_err(|error| unreachable(settings, error.to_string()))?.map_err(|error| unreachable(settings, error.to_string()))
}

fn unreachable(settings: &KafkaSettings, reason: String) -> AdminError {
    AdminError::Unreachable { brokers: settings.brokers.clone(), reason }
}
