//! How far a consumer group is behind, asked from outside: for `kylo status`, which runs where no worker may.
//!
//! What must never happen here: joining the group (that would move partitions), or a question without a bound.

use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;

use super::admin::{AdminError, partitions};
use super::client::KafkaSettings;
use super::group::{committed, watermarks};

/// A partition of a group's topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionLag {
    pub partition: i32,
    /// Messages between what the group has committed (or the oldest that is kept) and the end.
    pub behind: i64,
}

/// The lag of `group` on each partition of `topic`; empty if there is no such topic.
///
/// # Errors
/// The broker does not answer.
pub async fn lag(settings: &KafkaSettings, group: &str, topic: &str) -> Result<Vec<PartitionLag>, AdminError> {
    let Some(count) = partitions(settings).await?.get(topic).copied() else { return Ok(Vec::new()) };
    let unreachable = |reason: String| AdminError::Unreachable { brokers: settings.brokers.clone(), reason };
    let mut config = settings.plain()?;
    // Committed offsets are asked for; nothing is subscribed to, so no group is joined, and nothing is ever committed.
    config.set("group.id", group).set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().map_err(|error| unreachable(error.to_string()))?;
    let topic = topic.to_owned();
    let asked = tokio::task::spawn_blocking(move || ask(&consumer, &topic, count)).await;
    asked.map_err(|error| unreachable(error.to_string()))?.map_err(|error| unreachable(error.to_string()))
}

fn ask(consumer: &BaseConsumer, topic: &str, count: i32) -> Result<Vec<PartitionLag>, KafkaError> {
    let committed = committed(consumer, topic, count)?;
    let mut lags = Vec::new();
    for partition in 0..count {
        let (low, high) = watermarks(consumer, topic, partition)?;
        let from = committed.get(&partition).map_or(low, |offset| low.max(*offset));
        lags.push(PartitionLag { partition, behind: (high - from).max(0) });
    }
    Ok(lags)
}
