//! A consumer's context: what librdkafka tells during a poll, above all which partitions come and go.
//!
//! Called on the consumer's thread, inside its poll. What must never happen here: a wait without a bound, or an event of a client that has been replaced.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::{mpsc, oneshot};

use super::client::{ClientError, KafkaSettings};
use super::identity::{self, Line, TopicId};
use super::poll::{Client, Shared, TELL, lock};
use super::rotation::Rotation;
use super::trouble::Context;
use crate::flow::source::SourceEvent;

/// The consumer's context: errors and statistics as for every client, and rebalances as events.
#[derive(Debug)]
pub(super) struct Rebalances {
    client: Context,
    shared: Arc<Shared>,
    /// Weak, so that the stream of events ends with the thread.
    events: mpsc::WeakSender<SourceEvent>,
    /// Another client has taken its place: nobody listens any more.
    pub retired: AtomicBool,
    settings: KafkaSettings,
    ids: Mutex<Ids>,
}

/// The ids of a client's topic (see `identity`).
#[derive(Debug, Default)]
struct Ids {
    /// What its positions are positions of.
    own: Option<TopicId>,
    /// The last that librdkafka told.
    heard: Option<TopicId>,
}

impl Rebalances {
    fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// What the client's positions are positions of; `None`: not known, or the broker has no ids.
    pub fn topic_id(&self) -> Option<TopicId> {
        lock(&self.ids).own.clone()
    }

    fn learn(&self, change: impl FnOnce(&mut Ids)) {
        let mut ids = lock(&self.ids);
        change(&mut ids);
        if let (Some(own), Some(heard)) = (&ids.own, &ids.heard)
            && own != heard
        {
            self.shared.board.remade();
        }
    }

    /// Where reading begins: at what the group has committed, unless that belongs to another topic of the same name. `false`: nothing is known.
    fn place(&self, list: &mut TopicPartitionList) -> bool {
        let topic = &self.shared.topic;
        let judged = match identity::judge(&self.settings, &self.shared.group, list, topic, self.topic_id()) {
            Ok(judged) => judged,
            Err(error) => {
                tracing::error!(%topic, %error, "it is not known whether committed positions belong to this topic: the consumer starts anew");
                return false;
            }
        };
        if judged.id.is_none() {
            tracing::info!(%topic, "this broker has no topic ids: stop the workers before the topic is deleted and made again");
        }
        self.learn(|ids| ids.own = judged.id);
        if !judged.foreign.is_empty() {
            tracing::warn!(%topic, partitions = ?judged.foreign, "the topic was deleted and made again: these partitions are read from their beginning");
        }
        judged.foreign.iter().all(|partition| list.set_partition_offset(topic, *partition, Offset::Beginning).is_ok())
    }
}

/// A client that joins the group.
///
/// # Errors
/// The configuration cannot be used.
pub(super) fn join(shared: &Arc<Shared>, rotation: &Rotation, events: mpsc::WeakSender<SourceEvent>) -> Result<Arc<Client>, ClientError> {
    let refused = |error: KafkaError| ClientError { role: "consumer", reason: error.to_string() };
    let config = rotation.settings().consumer(&shared.group, rotation.credentials());
    let client = Context::new(Arc::clone(&shared.board));
    let settings = rotation.settings().clone();
    let context = Rebalances { client, shared: Arc::clone(shared), events, retired: AtomicBool::new(false), settings, ids: Mutex::default() };
    let consumer: Client = config.create_with_context(context).map_err(refused)?;
    consumer.subscribe(&[&shared.topic]).map_err(refused)?;
    Ok(Arc::new(consumer))
}

impl ClientContext for Rebalances {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        if self.is_retired() {
            return;
        }
        if let Some(Line::Id(heard)) = identity::line(line, &self.shared.topic) {
            self.learn(|ids| ids.heard = Some(heard));
        }
        self.client.log(level, facility, line);
    }

    fn stats(&self, statistics: Statistics) {
        if self.is_retired() {
            return;
        }
        if let Some(topic) = statistics.topics.get(&*self.shared.topic) {
            let known = topic.partitions.iter().filter(|(partition, _)| **partition >= 0);
            *lock(&self.shared.lag) = known.filter_map(|(partition, state)| Some((*partition, lag_of(state)?))).collect();
        }
        self.client.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if !self.is_retired() {
            self.client.error(error, reason);
        }
    }
}

/// Messages between what is finished and the end of the partition.
fn lag_of(state: &rdkafka::statistics::Partition) -> Option<i64> {
    let position = [state.stored_offset, state.committed_offset].into_iter().find(|offset| *offset >= 0).unwrap_or(state.lo_offset);
    (state.hi_offset >= 0 && position >= 0).then(|| (state.hi_offset - position).max(0))
}

impl ConsumerContext for Rebalances {
    /// As rdkafka does it for a cooperative group, but for where a partition is read from.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let changed = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                let is_asked = list.count() > 0 && !self.is_retired() && !self.shared.stop.load(Ordering::Relaxed);
                if is_asked && !self.place(list) {
                    self.shared.stop.store(true, Ordering::Relaxed);
                    return;
                }
                let assigned = consumer.incremental_assign(list);
                self.post_rebalance(consumer, &Rebalance::Assign(list));
                assigned
            }
            _ => {
                self.pre_rebalance(consumer, &Rebalance::Revoke(list));
                consumer.incremental_unassign(list)
            }
        };
        if let Err(error) = changed {
            tracing::error!(topic = %self.shared.topic, %error, "a rebalance was not taken: the consumer starts anew");
            self.shared.stop.store(true, Ordering::Relaxed);
        }
    }

    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Revoke(list) = rebalance else { return };
        if self.is_retired() {
            return;
        }
        let partitions = partitions_of(list);
        lock(&self.shared.revoked).extend(&partitions);
        lock(&self.shared.paused).retain(|partition| !partitions.contains(partition));
        if self.shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let lost = consumer.assignment_lost();
        let (ack, answer) = oneshot::channel();
        let Some(events) = self.events.upgrade() else { return };
        // The engine bounds its own work by the drain time; a little more, so that its answer comes first.
        let limit = self.shared.drain + Duration::from_secs(1);
        let asked = async {
            if events.send(SourceEvent::Revoking { partitions, lost, ack }).await.is_ok() {
                let _answered_or_dropped = answer.await;
            }
        };
        if self.shared.runtime.block_on(async { tokio::time::timeout(limit, asked).await }).is_err() {
            tracing::warn!(topic = %self.shared.topic, "a revoke was not answered in time: the partitions are given up");
        }
    }

    fn post_rebalance(&self, _consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(list) = rebalance else { return };
        if self.is_retired() {
            return;
        }
        let partitions = partitions_of(list);
        lock(&self.shared.revoked).retain(|partition| !partitions.contains(partition));
        self.shared.board.working();
        self.shared.greet();
        if partitions.is_empty() {
            return;
        }
        if let Some(events) = self.events.upgrade() {
            let sent = async { tokio::time::timeout(TELL, events.send(SourceEvent::Assigned(partitions))).await };
            if !matches!(self.shared.runtime.block_on(sent), Ok(Ok(()))) {
                tracing::error!(topic = %self.shared.topic, "an assignment could not be told: the consumer starts anew");
                self.shared.stop.store(true, Ordering::Relaxed);
            }
        }
    }

    fn commit_callback(&self, result: rdkafka::error::KafkaResult<()>, _offsets: &TopicPartitionList) {
        match result {
            _ if self.is_retired() => {}
            Ok(()) => self.shared.board.committed(),
            Err(error) => {
                // None of these loses anything: what is not committed is delivered again and dismissed.
                tracing::debug!(topic = %self.shared.topic, %error, "a commit did not succeed");
                // Rights that were withdrawn while running are told nowhere else.
                if matches!(error.rdkafka_error_code(), Some(Code::GroupAuthorizationFailed | Code::TopicAuthorizationFailed)) {
                    self.shared.board.report(&error, "a commit was refused");
                }
            }
        }
    }
}

pub(super) fn partitions_of(list: &TopicPartitionList) -> Vec<i32> {
    list.elements().iter().map(rdkafka::topic_partition_list::TopicPartitionListElem::partition).collect()
}
