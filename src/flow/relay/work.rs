//! One outbox that this process holds: what is known of it between two drains, and its statements.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::refused::Refused;
use super::status::Why;
use crate::domain::outbox::{KeyFrom, Outbox, OutboxRow};
use crate::store::error::{Fault, classify, describe};
use crate::store::outbox::{self, Inspected, Statements};
use crate::store::pools::within;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A database that was down has this long to say that it is not.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// What keeps an outbox from moving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub why: Why,
    pub reason: String,
}

impl Trouble {
    pub fn new(why: Why, reason: impl Into<String>) -> Self {
        Self { why, reason: reason.into() }
    }

    /// A failed statement in the control database.
    pub fn control(attempt: &str, error: &sqlx::Error) -> Self {
        Self::new(Why::Control, format!("cannot {attempt} in the control database: {}", describe(error)))
    }
}

/// What the desk and a drain share of an outbox while it is drained.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// False = lost: another relay may be at it. The drain ends at its next step.
    pub held: AtomicBool,
    /// Published since the last renewal.
    pub published: AtomicI64,
}

/// A held outbox. Moves into its drain and back.
#[derive(Debug)]
pub(super) struct Work {
    pub outbox: Arc<Outbox>,
    pub pool: PgPool,
    /// `None` = the table is to be compared with its configuration first.
    pub statements: Option<Arc<Statements>>,
    pub refused: Refused,
    /// Published, and not marked because its database was down.
    pub unmarked: Vec<String>,
    pub trouble: Option<Trouble>,
    /// In a row; drives the pause.
    failures: u32,
    /// Not to be touched before this.
    pub not_before: Instant,
    pub lease: Arc<Lease>,
    pub stop: CancellationToken,
}

impl Work {
    pub fn new(outbox: Arc<Outbox>, pool: PgPool, lease: Arc<Lease>, stop: CancellationToken) -> Self {
        let statements = outbox.own.then(|| Arc::new(outbox::own(&outbox)));
        let (refused, unmarked) = (Refused::default(), Vec::new());
        Self { outbox, pool, statements, refused, unmarked, trouble: None, failures: 0, not_before: Instant::now(), lease, stop }
    }

    /// Whether it may take more rows.
    pub fn goes_on(&self) -> bool {
        !self.stop.is_cancelled() && self.lease.held.load(Ordering::Relaxed)
    }

    pub fn is_well(&mut self) {
        if self.trouble.take().is_some() {
            tracing::info!(outbox = self.outbox.name, "the relay goes on");
        }
        self.failures = 0;
        self.not_before = Instant::now();
    }

    pub fn is_troubled(&mut self, trouble: Trouble) {
        // A foreign table may be changed by whoever mends it.
        if trouble.why == Why::Database && !self.outbox.own {
            self.statements = None;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(8)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Instant::now() + pause;
        self.trouble = Some(trouble);
    }

    /// The statements, after a comparison of the table with its configuration where that is due.
    pub async fn statements(&mut self) -> Result<Arc<Statements>, Trouble> {
        if let Some(statements) = &self.statements {
            return Ok(Arc::clone(statements));
        }
        match outbox::inspect(&self.pool, &self.outbox).await {
            Ok(Inspected::Usable(found)) => {
                let (outbox, statements) = *found;
                if outbox.key == KeyFrom::RoundRobin {
                    tracing::warn!(outbox = outbox.name, "round robin: the order of its events is lost");
                }
                tracing::info!(outbox = outbox.name, marker = ?outbox.marker, columns = ?outbox.columns, "the relay takes up an outbox");
                let statements = Arc::new(statements);
                self.outbox = Arc::new(outbox);
                self.statements = Some(Arc::clone(&statements));
                Ok(statements)
            }
            Ok(Inspected::Wrong(problems)) => Err(Trouble::new(Why::Table, format!("outbox {}: {}", self.outbox.name, problems.join("; ")))),
            Err(error) => Err(self.database(&error)),
        }
    }

    /// Whether the database answers for this outbox.
    pub async fn is_answered(&mut self) -> Result<(), Trouble> {
        let statements = self.statements().await?;
        let tables = [(&*statements, Vec::new())];
        within(ANSWER_PATIENCE, outbox::waiting(&self.pool, &tables)).await.map(drop).map_err(|error| self.database(&error))
    }

    /// The next rows in order, but for these.
    pub async fn claim(&self, statements: &Statements, but: &[String], limit: u32) -> Result<Vec<OutboxRow>, Trouble> {
        let mut left_out = self.refused.left_out();
        left_out.extend_from_slice(but);
        outbox::claim(&self.pool, statements, &left_out, &self.refused.held_back(), limit.into()).await.map_err(|error| self.database(&error))
    }

    /// Marks rows that were acknowledged. A mark that a crash of the server takes back costs a copy.
    pub async fn mark(&self, statements: &Statements, ids: &[String]) -> Result<(), Trouble> {
        outbox::mark(&self.pool, statements, ids, true).await.map_err(|error| self.database(&error))
    }

    /// Marks rows whose letters are settled. This must last: nobody would know any more that a row was discarded.
    pub async fn mark_settled(&self, statements: &Statements, ids: &[String]) -> Result<(), Trouble> {
        outbox::mark(&self.pool, statements, ids, false).await.map_err(|error| self.database(&error))
    }

    pub fn database(&self, error: &sqlx::Error) -> Trouble {
        let name = &self.outbox.name;
        let advice = match classify(error) {
            Fault::Schema if self.outbox.own => ": run `kylo migrate`",
            Fault::Schema => ": the table is not as configured, or a right is missing",
            Fault::Data | Fault::Down => "",
        };
        let why = if self.outbox.own || classify(error) != Fault::Schema { Why::Database } else { Why::Table };
        Trouble::new(why, format!("outbox {name} cannot be read or marked: {}{advice}", describe(error)))
    }
}
