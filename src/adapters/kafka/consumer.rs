//! The message source over librdkafka.
//!
//! Called by `runtime` to make it and by `flow::consume` to use it. What must never happen here: an offset stored other than as the position
//! it was given, or the end of the process waiting for librdkafka without a bound.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::Offset;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::client::{ClientError, KafkaSettings, log_effective};
use super::poll::{self, Shared, lock};
use super::rebalances;
use super::rotation::Rotation;
use super::trouble::Board;
use crate::flow::source::{MessageSource, NextOffset, SourceEvent, SourceHealth};

/// Events under way between the polling thread and the engine. Each holds at most about 1 MiB or one message.
const EVENTS: usize = 4;

/// What to consume.
#[derive(Clone, Debug)]
pub struct Subscription {
    pub topic: String,
    pub group: String,
    /// How long a revoke waits for the engine's answer.
    pub drain: Duration,
}

/// A running consumer of one topic.
pub struct KafkaSource {
    shared: Arc<Shared>,
    events: mpsc::Receiver<SourceEvent>,
    left: Option<oneshot::Receiver<()>>,
}

impl std::fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSource").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl KafkaSource {
    /// Joins the group. A broker or topic that is not there is not an error: the source keeps trying, and says so in its health.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn start(settings: &KafkaSettings, subscription: &Subscription) -> Result<Self, ClientError> {
        let rotation = Rotation::new(settings)?;
        log_effective("consumer", &settings.consumer(&subscription.group, rotation.credentials()));
        let board = Arc::new(Board::of(settings));
        let shared = Arc::new(Shared::new(&subscription.topic, &subscription.group, board, subscription.drain, Handle::current()));
        let (sender, events) = mpsc::channel(EVENTS);
        let consumer = rebalances::join(&shared, &rotation, sender.downgrade())?;
        shared.replace(Some(Arc::clone(&consumer)));
        let (leaving, left) = oneshot::channel();
        let for_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name(format!("kafka {}", subscription.topic))
            .spawn(move || {
                poll::run(consumer, rotation, &for_thread, sender);
                let _nobody_waits = leaving.send(());
            })
            .map_err(|error| ClientError { role: "consumer", reason: format!("its thread does not start: {error}") })?;
        Ok(Self { shared, events, left: Some(left) })
    }
}

impl MessageSource for KafkaSource {
    fn next(&mut self) -> BoxFuture<'_, Option<SourceEvent>> {
        self.events.recv().boxed()
    }

    fn store(&mut self, partition: i32, next: NextOffset) {
        let Some(consumer) = self.shared.client() else { return };
        let mut list = self.shared.list([]);
        // store_offsets takes the position as it is; store_offset would add one of its own.
        let stored = list.add_partition_offset(&self.shared.topic, partition, Offset::Offset(next.get())).and_then(|()| {
            if let (Some(id), Some(mut position)) = (consumer.context().topic_id(), list.find_partition(&self.shared.topic, partition)) {
                position.set_metadata(id.as_str());
            }
            consumer.store_offsets(&list)
        });
        if let Err(error) = stored {
            // The partition was taken away meanwhile: its next owner gets the messages again and dismisses them.
            tracing::debug!(topic = %self.shared.topic, partition, %error, "an offset could not be stored");
        }
    }

    fn pause(&mut self, partitions: &[i32]) {
        lock(&self.shared.paused).extend(partitions);
        if let Some(consumer) = self.shared.client()
            && !partitions.is_empty()
            && let Err(error) = consumer.pause(&self.shared.list(partitions.iter().copied()))
        {
            tracing::debug!(topic = %self.shared.topic, ?partitions, %error, "partitions could not be paused");
        }
    }

    fn resume(&mut self, partitions: &[i32]) {
        lock(&self.shared.paused).retain(|partition| !partitions.contains(partition));
        if let Some(consumer) = self.shared.client()
            && !partitions.is_empty()
            && let Err(error) = consumer.resume(&self.shared.list(partitions.iter().copied()))
        {
            tracing::debug!(topic = %self.shared.topic, ?partitions, %error, "partitions could not be resumed");
        }
    }

    fn health(&self) -> SourceHealth {
        let lag = lock(&self.shared.lag).iter().map(|(partition, lag)| (*partition, *lag)).collect();
        SourceHealth { polled_ms_ago: self.shared.polled_ms_ago(), lag, trouble: self.shared.board.trouble() }
    }

    fn close(mut self: Box<Self>, within: Duration) -> BoxFuture<'static, bool> {
        // The thread's reference is the last: it closes the client, which commits what is stored and leaves the group.
        drop(self.shared.replace(None));
        self.shared.stop.store(true, Ordering::Relaxed);
        let left = self.left.take();
        async move {
            match left {
                Some(left) => tokio::time::timeout(within, left).await.is_ok(),
                None => true,
            }
        }
        .boxed()
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Closing can block; whoever drops a source may not.
        if let Some(consumer) = self.shared.replace(None) {
            std::thread::spawn(move || drop(consumer));
        }
    }
}
