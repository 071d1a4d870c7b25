//! Reads a topic as it stands, without a group: for commands that look, and for sending history again. Nothing is committed.
//!
//! What must never happen here: a wait without a bound, or a topic made by looking at it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};

use super::admin;
use super::client::KafkaSettings;
use super::group::{REQUEST, patiently, watermarks};
use super::poll;
use crate::flow::work::Record;

/// One poll; between two of them a reader can be dropped.
const POLL: Duration = Duration::from_millis(100);

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    Beginning,
    /// The first record that is not older than this.
    Since(DateTime<Utc>),
    /// Only what comes from now on.
    End,
}

/// A topic could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("there is no topic {0}: make it with `kylo topics ensure`")]
    Missing(String),
    #[error("cannot read topic {topic}: {reason}")]
    Unreadable { topic: String, reason: String },
}

/// A reader of all partitions of a topic, up to where they ended when it was started, or beyond.
#[derive(Debug)]
pub struct TopicReader {
    client: Arc<Plain>,
    topic: Arc<str>,
    /// Partition -> offset of the first record that was not there at the start.
    ends: BTreeMap<i32, i64>,
    /// Partition -> offset of the first record that is read.
    begins: BTreeMap<i32, i64>,
}

struct Plain(BaseConsumer);

impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Plain")
    }
}

impl TopicReader {
    /// Looks where the partitions begin and end.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn start(settings: &KafkaSettings, topic: &str, begin: Begin) -> Result<Self, ReadError> {
        let unreadable = |reason: String| ReadError::Unreadable { topic: topic.to_owned(), reason };
        let known = admin::partitions(settings).await.map_err(|error| unreadable(error.to_string()))?;
        let n = *known.get(topic).ok_or_else(|| ReadError::Missing(topic.to_owned()))?;
        let mut config = settings.plain().map_err(|error| unreadable(error.to_string()))?;
        // A group is asked for, and never joined.
        config.set("group.id", format!("{}-reader", settings.client_id)).set("enable.auto.commit", "false").set("allow.auto.create.topics", "false");
        let client: BaseConsumer = config.create().map_err(|error| unreadable(error.to_string()))?;
        let name = topic.to_owned();
        let opened = tokio::task::spawn_blocking(move || open(client, &name, n, begin)).await;
        let (client, begins, ends) = opened.map_err(|error| unreadable(error.to_string()))?.map_err(|error| unreadable(error.to_string()))?;
        Ok(Self { client: Arc::new(Plain(client)), topic: Arc::from(topic), ends, begins })
    }

    /// Records between where it begins and where the topic ended at the start.
    pub fn n_known(&self) -> i64 {
        self.ends.iter().map(|(partition, end)| end - self.begins.get(partition).copied().unwrap_or(*end)).sum()
    }

    /// Whether a record was there at the start.
    pub fn is_known(&self, record: &Record) -> bool {
        self.ends.get(&record.position.partition).is_some_and(|end| record.position.offset < *end)
    }

    /// Partition -> the first offset that was not there at the start.
    pub fn ends(&self) -> &BTreeMap<i32, i64> {
        &self.ends
    }

    /// Partition -> the first offset that is read.
    pub fn begins(&self) -> &BTreeMap<i32, i64> {
        &self.begins
    }

    /// The next record; `None` = none came in this time.
    ///
    /// # Errors
    /// What the broker says against it; a connection that is lost is made anew by itself.
    pub async fn next(&self, within: Duration) -> Result<Option<Record>, ReadError> {
        let (client, topic) = (Arc::clone(&self.client), Arc::clone(&self.topic));
        let polled = tokio::task::spawn_blocking(move || {
            let deadline = Instant::now() + within;
            loop {
                match client.0.poll(POLL.min(within)) {
                    Some(Ok(message)) => return Ok(Some(poll::record(&topic, &message))),
                    Some(Err(error)) if !is_passing(&error) => return Err(error),
                    _ if Instant::now() >= deadline => return Ok(None),
                    _ => {}
                }
            }
        });
        let unreadable = |reason: String| ReadError::Unreadable { topic: self.topic.to_string(), reason };
        polled.await.map_err(|error| unreadable(error.to_string()))?.map_err(|error| unreadable(error.to_string()))
    }
}

/// Connection faults mend themselves; a right that is missing does not.
fn is_passing(error: &KafkaError) -> bool {
    use rdkafka::error::RDKafkaErrorCode as Code;
    !matches!(error.rdkafka_error_code(), Some(Code::TopicAuthorizationFailed | Code::UnknownTopicOrPartition | Code::UnknownTopic))
}

type Opened = (BaseConsumer, BTreeMap<i32, i64>, BTreeMap<i32, i64>);

fn open(client: BaseConsumer, topic: &str, partitions: i32, begin: Begin) -> Result<Opened, KafkaError> {
    let (mut begins, mut ends) = (BTreeMap::new(), BTreeMap::new());
    for partition in 0..partitions {
        let (low, high) = watermarks(&client, topic, partition)?;
        ends.insert(partition, high);
        begins.insert(partition, if begin == Begin::End { high } else { low });
    }
    if let Begin::Since(since) = begin {
        let mut asked = TopicPartitionList::new();
        for partition in 0..partitions {
            asked.add_partition_offset(topic, partition, Offset::Offset(since.timestamp_millis()))?;
        }
        let answer = patiently(&client, || {
            let answer = client.offsets_for_times(asked.clone(), REQUEST)?;
            answer.elements().iter().try_for_each(TopicPartitionListElem::error)?;
            Ok(answer)
        })?;
        for found in answer.elements() {
            let end = ends.get(&found.partition()).copied().unwrap_or(0);
            begins.insert(found.partition(), if let Offset::Offset(offset) = found.offset() { offset } else { end });
        }
    }
    let mut list = TopicPartitionList::new();
    for (partition, offset) in &begins {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
    }
    client.assign(&list)?;
    Ok((client, begins, ends))
}
