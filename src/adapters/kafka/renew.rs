//! A consumer's client is replaced by another: with other credentials, or because it has reached no broker for a long time (see `rotation`).
//!
//! | step | what a crash after it leaves |
//! |---|---|
//! | the new client is made and subscribed; if that fails the old one stays | two clients, both gone with the process |
//! | the old one's callbacks are silenced | - |
//! | the engine is told that all partitions are lost, and forgets what it has of them | offsets that were not committed: delivered again and dismissed |
//! | the new one takes its place, the old one is closed by a thread of its own | the group waits for the old member's session, at most |
//!
//! Called by the thread that polls. What must never happen here: an event of a client that has been replaced, or closed clients that pile up.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use tokio::sync::{mpsc, oneshot};

use super::poll::{Client, Shared, TELL, lock};
use super::rebalances::{join, partitions_of};
use super::rotation::{Cause, Rotation};
use crate::flow::source::SourceEvent;

/// Clients that may be closing at the same time: closing one whose broker is away can take for ever.
const CLOSING: usize = 3;

/// Another client with the present credentials, in the place of this one; its partitions are lost to the engine. `None`: it cannot be made, or
/// nobody listens any more, and this one stays.
pub(super) fn renew(
    old: &Client,
    cause: Cause,
    rotation: &Rotation,
    shared: &Arc<Shared>,
    events: &mpsc::Sender<SourceEvent>,
) -> Option<Arc<Client>> {
    let fresh = match join(shared, rotation, events.downgrade()) {
        Ok(fresh) => fresh,
        Err(error) => {
            tracing::error!(topic = %shared.topic, %error, "the Kafka consumer could not be made anew {cause}");
            return None;
        }
    };
    tracing::info!(topic = %shared.topic, "the Kafka consumer is made anew {cause}");
    old.context().retired.store(true, Ordering::Relaxed);
    let partitions = old.assignment().map(|list| partitions_of(&list)).unwrap_or_default();
    let (ack, _answer) = oneshot::channel();
    let is_told = partitions.is_empty() || {
        let told = async { tokio::time::timeout(TELL, events.send(SourceEvent::Revoking { partitions, lost: true, ack })).await };
        matches!(shared.runtime.block_on(told), Ok(Ok(())))
    };
    if !is_told {
        tracing::error!(topic = %shared.topic, "a loss of partitions could not be told: the consumer starts anew");
        shared.stop.store(true, Ordering::Relaxed);
    }
    lock(&shared.paused).clear();
    lock(&shared.revoked).clear();
    lock(&shared.lag).clear();
    shared.greeted.store(false, Ordering::Relaxed);
    shared.board.renewed();
    drop(shared.replace(Some(Arc::clone(&fresh))));
    Some(fresh)
}

/// Clients that have been replaced and are being closed.
#[derive(Debug, Default)]
pub(super) struct Retired(Arc<()>);

impl Retired {
    pub fn has_room(&self) -> bool {
        Arc::strong_count(&self.0) <= CLOSING
    }

    /// It leaves the group if it can. A thread of its own, because closing may wait for ever.
    pub fn close(&self, client: Arc<Client>) {
        let closing = Arc::clone(&self.0);
        std::thread::spawn(move || {
            let mut client = client;
            // Whoever drops the last reference closes it: not the engine, which may be storing an offset at this moment.
            while let Err(still_used) = Arc::try_unwrap(client) {
                client = still_used;
                std::thread::park_timeout(Duration::from_millis(5));
            }
            drop(closing);
        });
    }
}
