//! What a pass reports: counts for metrics and tests, and when to pass again.

use chrono::{DateTime, Utc};

/// What one pass over all due spreadsheets did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostRound {
    /// Batches that landed, seen landing or found to have landed.
    pub posted: usize,
    /// Spreadsheets whose tabs were read, all of them, and already equal.
    pub unchanged: usize,
    /// Answers that showed people's edits between read and write to have done damage, which the next round heals.
    pub damaged: usize,
    /// Batches whose outcome is not known yet.
    pub in_doubt: usize,
    /// Batches that were refused and planned afresh.
    pub refused: usize,
    /// Spreadsheets that wait for something outside.
    pub waiting: usize,
    /// Spreadsheets and companies that somebody must look at.
    pub parked: usize,
    /// Spreadsheets that another process is posting to.
    pub held_elsewhere: usize,
    /// More work is known: pass again without waiting.
    pub again: bool,
    /// When the earliest of what waits is to be tried again.
    pub next_retry: Option<DateTime<Utc>>,
}

impl PostRound {
    pub(super) fn merge(&mut self, other: &Self) {
        self.posted += other.posted;
        self.unchanged += other.unchanged;
        self.damaged += other.damaged;
        self.in_doubt += other.in_doubt;
        self.refused += other.refused;
        self.waiting += other.waiting;
        self.parked += other.parked;
        self.held_elsewhere += other.held_elsewhere;
        self.again |= other.again;
        for at in [other.next_retry].into_iter().flatten() {
            self.retry_at(at);
        }
    }

    pub(super) fn retry_at(&mut self, at: DateTime<Utc>) {
        self.next_retry = Some(self.next_retry.map_or(at, |known| known.min(at)));
    }
}
