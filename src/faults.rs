//! Crash points: named places in the flow at which a test can stop a worker for good, as a kill would.
//!
//! Handed in as a value, so tests stay parallel. Without the feature `faults` this is a zero-sized type that does nothing.

/// Where a worker can be stopped. One name per line of the tables in the documentation of the crate and of `flow::relay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CrashPoint {
    /// The lease is taken, nothing is read.
    PostLeased,
    /// The spreadsheet is read and planned.
    PostRead,
    /// Answers are in the company's database, no intent is written.
    PostAnswered,
    /// The intent is `planned`.
    PostPlanned,
    /// The intent is `sent`, the call has not begun.
    PostSending,
    /// The call has returned, nothing is recorded.
    PostAnswerRead,
    /// The ledger has it.
    PostConfirmed,
    /// Outbox rows are claimed, nothing is sent.
    RelayClaimed,
    /// The broker has acknowledged them, nothing is marked.
    RelayAcknowledged,
    /// They are marked.
    RelayMarked,
}

impl CrashPoint {
    /// Those of the poster.
    pub const ALL: [Self; 7] =
        [Self::PostLeased, Self::PostRead, Self::PostAnswered, Self::PostPlanned, Self::PostSending, Self::PostAnswerRead, Self::PostConfirmed];

    /// Those of the relay.
    pub const RELAY: [Self; 3] = [Self::RelayClaimed, Self::RelayAcknowledged, Self::RelayMarked];
}

#[cfg(not(feature = "faults"))]
mod quiet {
    /// Does nothing.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Faults;

    impl Faults {
        /// Passes.
        #[expect(clippy::unused_async, reason = "the armed twin of this function waits")]
        pub async fn reached(&self, _point: super::CrashPoint) {}
    }
}

#[cfg(feature = "faults")]
mod armed {
    use std::sync::{Arc, Mutex, PoisonError};

    use tokio::sync::Notify;

    use super::CrashPoint;

    /// Stops whoever reaches the armed point: the test hears of it and drops the stopped future.
    #[derive(Clone, Debug, Default)]
    pub struct Faults {
        inner: Arc<Inner>,
    }

    #[derive(Debug, Default)]
    struct Inner {
        armed: Mutex<Option<CrashPoint>>,
        hit: Notify,
    }

    impl Faults {
        /// The next worker that reaches `point` stops there.
        pub fn arm(&self, point: CrashPoint) {
            *self.inner.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some(point);
        }

        /// Waits until a worker has stopped.
        pub async fn hit(&self) {
            self.inner.hit.notified().await;
        }

        /// Passes, or stops for good if this point is armed.
        pub async fn reached(&self, point: CrashPoint) {
            let is_armed = {
                let mut armed = self.inner.armed.lock().unwrap_or_else(PoisonError::into_inner);
                (*armed == Some(point)).then(|| armed.take()).is_some()
            };
            if is_armed {
                self.inner.hit.notify_one();
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(feature = "faults")]
pub use armed::Faults;
#[cfg(not(feature = "faults"))]
pub use quiet::Faults;
