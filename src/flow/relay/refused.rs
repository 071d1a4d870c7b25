//! The refused rows of one outbox, as its holder knows them: what waits for its next attempt and keeps its key waiting, and what was given up.
//!
//! The truth is `control.relay_rows`; each change is written there first.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::control::relay::RefusedRow;

/// The longest wait between two attempts.
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
struct Waiting {
    key: Option<String>,
    attempts: i32,
    until: Instant,
}

/// A given up row whose letter a person has settled: it is to be marked in its outbox and forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub id: String,
    /// Discarded ones keep the outbox's own word for failure, where it has one.
    pub replayed: bool,
}

/// A given up row that a person wants published now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReplayWish {
    pub id: String,
    pub letter: i64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Refused {
    waiting: HashMap<String, Waiting>,
    given_up: HashSet<String>,
    settled: Vec<Settled>,
    replays: Vec<ReplayWish>,
}

impl Refused {
    /// As the table has it.
    pub fn load(rows: &[RefusedRow]) -> Self {
        let mut refused = Self::default();
        for row in rows {
            match (row.letter_id, row.letter_state.as_deref()) {
                (None, _) => {
                    let until = Instant::now() + Duration::try_from_secs_f64(row.wait_seconds.max(0.0)).unwrap_or(LONGEST).min(LONGEST);
                    refused.waiting.insert(row.row_id.clone(), Waiting { key: row.order_key.clone(), attempts: row.attempts, until });
                }
                (Some(letter), Some(state @ ("new" | "replaying"))) => {
                    refused.given_up.insert(row.row_id.clone());
                    if state == "replaying" {
                        refused.replays.push(ReplayWish { id: row.row_id.clone(), letter });
                    }
                }
                (Some(_), state) => {
                    refused.given_up.insert(row.row_id.clone());
                    refused.settled.push(Settled { id: row.row_id.clone(), replayed: state == Some("resolved") });
                }
            }
        }
        refused
    }

    pub fn n_given_up(&self) -> usize {
        self.given_up.len()
    }

    /// How often the row was refused.
    pub fn attempts(&self, id: &str) -> i32 {
        self.waiting.get(id).map_or(0, |waiting| waiting.attempts)
    }

    /// The row is tried again after a while.
    pub fn wait(&mut self, id: &str, key: Option<String>, attempts: i32, after: Duration) {
        self.waiting.insert(id.to_owned(), Waiting { key, attempts, until: Instant::now() + after });
    }

    pub fn give_up(&mut self, id: &str) {
        self.waiting.remove(id);
        self.given_up.insert(id.to_owned());
    }

    /// Ids that no claim takes: what was given up, and what waits without a key to hold back.
    pub fn left_out(&self) -> Vec<String> {
        let keyless = self.waiting.iter().filter(|(_, waiting)| waiting.key.is_none() && waiting.until > Instant::now());
        self.given_up.iter().chain(keyless.map(|(id, _)| id)).cloned().collect()
    }

    pub fn given_up(&self) -> Vec<String> {
        self.given_up.iter().cloned().collect()
    }

    /// Keys of which nothing is published now.
    pub fn held_back(&self) -> Vec<String> {
        let now = Instant::now();
        let keys: HashSet<&String> = self.waiting.values().filter(|waiting| waiting.until > now).filter_map(|waiting| waiting.key.as_ref()).collect();
        keys.into_iter().cloned().collect()
    }

    /// When the next row may be tried again.
    pub fn next_attempt(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.until).min()
    }

    /// Those of these rows that had been refused before.
    pub fn known(&self, ids: &[String]) -> Vec<String> {
        ids.iter().filter(|id| self.waiting.contains_key(*id)).cloned().collect()
    }

    pub fn forget(&mut self, ids: &[String]) {
        for id in ids {
            self.waiting.remove(id);
            self.given_up.remove(id);
        }
    }

    pub fn take_settled(&mut self) -> Vec<Settled> {
        std::mem::take(&mut self.settled)
    }

    pub fn take_replays(&mut self) -> Vec<ReplayWish> {
        std::mem::take(&mut self.replays)
    }

    /// A person has decided on given up rows.
    pub fn has_wishes(&self) -> bool {
        !self.settled.is_empty() || !self.replays.is_empty()
    }
}

/// How long a row waits after its nth refusal.
pub(super) fn wait_after(attempts: i32, first: Duration) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(16);
    first.saturating_mul(1 << doublings).min(LONGEST)
}
