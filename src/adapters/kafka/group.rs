//! What a consumer group has committed and how far a partition reaches, asked from outside: no group is joined, nothing is committed.
//!
//! Called by what measures lag, what reads a topic and what audits. What must never happen here: an answer that leaves out a partition for which
//! the broker gave an error, or a question without a bound.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// Of one request; what passes by itself is asked again.
pub(super) const REQUEST: Duration = Duration::from_secs(5);
/// A coordinator that has just been chosen loads what it knows of its groups first.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// Committed positions by partition; partitions without a commit are missing. Blocks.
///
/// # Errors
/// The broker does not answer for [`PATIENCE`], or refuses.
pub(super) fn committed<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &str, partitions: i32) -> Result<BTreeMap<i32, i64>, KafkaError> {
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition(topic, partition);
    }
    patiently(consumer, || consumer.committed_offsets(list.clone(), REQUEST).and_then(|answer| positions(&answer)))
}

/// The first offset and the one after the last of a partition. Blocks. Before anything is assigned: a poll between two questions would take a record.
///
/// # Errors
/// The broker does not answer for [`PATIENCE`], or refuses.
pub(super) fn watermarks<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &str, partition: i32) -> Result<(i64, i64), KafkaError> {
    patiently(consumer, || consumer.fetch_watermarks(topic, partition, REQUEST))
}

/// Asks again while the broker is only not ready yet.
pub(super) fn patiently<C: ConsumerContext, T>(consumer: &BaseConsumer<C>, mut ask: impl FnMut() -> Result<T, KafkaError>) -> Result<T, KafkaError> {
    let began = Instant::now();
    loop {
        match ask() {
            // Nothing is assigned: a pause in which librdkafka tells its log what is wrong.
            Err(error) if passes(&error) && began.elapsed() < PATIENCE => drop(consumer.poll(PAUSE)),
            answer => return answer,
        }
    }
}

fn positions(answer: &TopicPartitionList) -> Result<BTreeMap<i32, i64>, KafkaError> {
    let mut positions = BTreeMap::new();
    for element in answer.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            positions.insert(element.partition(), offset);
        }
    }
    Ok(positions)
}

/// Whether the same question may be answered a moment later. Kafka's own clients ask these again:
/// <https://kafka.apache.org/protocol.html#protocol_error_codes>, column "retriable".
fn passes(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress
                | Code::NotCoordinator
                | Code::WaitingForCoordinator
                | Code::UnstableOffsetCommit
                | Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::RequestTimedOut
                | Code::OperationTimedOut
                | Code::BrokerTransportFailure
                | Code::AllBrokersDown
        )
    )
}
