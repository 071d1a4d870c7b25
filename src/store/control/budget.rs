//! The budget of Sheets calls in `control.sheets_budget`, shared by every process that uses the same service account.
//!
//! Called by `adapters::sheets::quota` around every call. One row is one call that may be under way in 60 seconds: a call takes a free row, and
//! the row is free again 60 s after the call has ended, so no window of 60 s ever sees more calls than there are rows. All times are the
//! database's. What must never happen here: a row given back earlier than that, or a process that dies keeping its row for ever.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::Rng;
use sqlx::PgPool;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Google counts reads and writes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallKind {
    Read,
    Write,
}

impl CallKind {
    /// As it is written in `control.sheets_budget.kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// How many rows of each kind are not free now: what `kylo_sheets_budget_used` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub reads: u32,
    pub writes: u32,
}

/// The budget of one service account.
#[derive(Debug)]
pub struct Budget {
    pool: PgPool,
    credential: String,
    reads: Line,
    writes: Line,
    window: Duration,
    call_timeout: Duration,
}

/// Those of this process who wait for one kind of call: one asks the database, the others queue behind it in order.
#[derive(Debug)]
struct Line {
    limit: i32,
    turn: Mutex<()>,
}

impl Line {
    fn new(per_minute: u32) -> Self {
        Self { limit: i32::try_from(per_minute.max(1)).unwrap_or(i32::MAX), turn: Mutex::default() }
    }
}

impl Budget {
    /// `credential` names whose budget it is: the service account's e-mail address. A limit of 0 counts as 1.
    pub fn new(pool: PgPool, credential: &str, reads_per_minute: u32, writes_per_minute: u32) -> Self {
        Self {
            pool,
            credential: credential.to_owned(),
            reads: Line::new(reads_per_minute),
            writes: Line::new(writes_per_minute),
            window: Duration::from_secs(60),
            call_timeout: Duration::from_secs(190),
        }
    }

    /// Another window than 60 s, so that a test of the limit takes seconds.
    #[must_use]
    pub fn with_window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// How long one call may take at most (190 s if not said). A row whose holder died is free again after this plus the window.
    #[must_use]
    pub fn with_call_timeout(mut self, call_timeout: Duration) -> Self {
        self.call_timeout = call_timeout;
        self
    }

    /// How long one call may take at most.
    pub fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    /// How many calls of a kind may begin in a window: what [`Used`] is a part of.
    pub fn limit(&self, kind: CallKind) -> u32 {
        self.line(kind).limit.unsigned_abs()
    }

    /// Waits until a call of this kind may be made. Those who wait in this process are served in the order they came.
    ///
    /// # Errors
    /// The database's. Then no call may be made.
    pub async fn take(self: &Arc<Self>, kind: CallKind) -> Result<Permit, sqlx::Error> {
        let _turn = self.line(kind).turn.lock().await;
        loop {
            // Counted from before the statement, so that the permit ends here no later than its row does there.
            let asked_at = Instant::now();
            match self.try_take(kind).await? {
                Attempt::Taken { slot, held_until } => {
                    let deadline = asked_at + self.call_timeout;
                    return Ok(Permit { budget: Arc::clone(self), kind, slot, held_until, deadline, open: true });
                }
                Attempt::RowsMissing => self.create_rows(kind).await?,
                Attempt::FreeIn(wait) => tokio::time::sleep(self.pause_before_asking(wait)).await,
            }
        }
    }

    /// Makes everybody wait: no call of this kind starts anywhere before `pause` is over. For when Google says 429 all the same.
    ///
    /// # Errors
    /// The database's.
    pub async fn pause(&self, kind: CallKind, pause: Duration) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "UPDATE control.sheets_budget SET free_at = clock_timestamp() + make_interval(secs => $3)
             WHERE credential = $1 AND kind = $2 AND free_at < clock_timestamp() + make_interval(secs => $3)",
            self.credential,
            kind.as_str(),
            pause.as_secs_f64()
        )
        .execute(&self.pool)
        .await
        .map(drop)
    }

    /// # Errors
    /// The database's.
    pub async fn used(&self) -> Result<Used, sqlx::Error> {
        let row = sqlx::query!(
            r#"SELECT count(*) FILTER (WHERE kind = 'read') AS "reads!", count(*) FILTER (WHERE kind = 'write') AS "writes!"
               FROM control.sheets_budget WHERE credential = $1 AND free_at > clock_timestamp()"#,
            self.credential
        )
        .fetch_one(&self.pool)
        .await?;
        let small = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(Used { reads: small(row.reads), writes: small(row.writes) })
    }

    /// On top of the window, because Google's clock may cut its minutes a little differently.
    fn margin(&self) -> Duration {
        self.window / 240
    }

    fn line(&self, kind: CallKind) -> &Line {
        match kind {
            CallKind::Read => &self.reads,
            CallKind::Write => &self.writes,
        }
    }

    async fn try_take(&self, kind: CallKind) -> Result<Attempt, sqlx::Error> {
        let line = self.line(kind);
        let hold = self.call_timeout + self.window + self.margin();
        // The last two columns see the rows as they were before the UPDATE; they matter only if nothing was taken.
        let row = sqlx::query!(
            r#"WITH free AS (
                   SELECT slot FROM control.sheets_budget
                   WHERE credential = $1 AND kind = $2 AND slot < $3 AND free_at <= clock_timestamp()
                   ORDER BY free_at, slot LIMIT 1 FOR UPDATE SKIP LOCKED
               ), taken AS (
                   UPDATE control.sheets_budget budget SET free_at = clock_timestamp() + make_interval(secs => $4)
                   FROM free WHERE budget.credential = $1 AND budget.kind = $2 AND budget.slot = free.slot
                   RETURNING budget.slot, budget.free_at
               )
               SELECT (SELECT slot FROM taken) AS slot, (SELECT free_at FROM taken) AS held_until, count(*) AS "rows!",
                      extract(epoch FROM greatest(min(free_at), clock_timestamp()) - clock_timestamp())::float8 AS free_in
               FROM control.sheets_budget WHERE credential = $1 AND kind = $2 AND slot < $3"#,
            self.credential,
            kind.as_str(),
            line.limit,
            hold.as_secs_f64()
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(match (row.slot, row.held_until) {
            (Some(slot), Some(held_until)) => Attempt::Taken { slot, held_until },
            _ if row.rows < i64::from(line.limit) => Attempt::RowsMissing,
            // Zero if a free row was just then locked by another taker.
            _ => Attempt::FreeIn(Duration::try_from_secs_f64(row.free_in.unwrap_or_default()).unwrap_or_default()),
        })
    }

    async fn create_rows(&self, kind: CallKind) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "INSERT INTO control.sheets_budget (credential, kind, slot)
             SELECT $1, $2, slot FROM generate_series(0, $3::int - 1) AS slot ON CONFLICT DO NOTHING",
            self.credential,
            kind.as_str(),
            self.line(kind).limit
        )
        .execute(&self.pool)
        .await
        .map(drop)
    }

    /// At most about two statements a second per waiting process, and never longer than 2 s, because rows in use say the end of their hold
    /// and become free earlier. The jitter keeps processes from asking in step.
    fn pause_before_asking(&self, free_in: Duration) -> Duration {
        let shortest = self.window / 120;
        let jitter = rand::rng().random_range(0.0..0.5);
        free_in.clamp(shortest, self.window / 30) + shortest.mul_f64(jitter)
    }

    async fn release(&self, kind: CallKind, slot: i32, held_until: DateTime<Utc>) -> Result<(), sqlx::Error> {
        // held_until is the proof that the row is still ours: after our hold ran out another call may have it.
        sqlx::query!(
            "UPDATE control.sheets_budget SET free_at = clock_timestamp() + make_interval(secs => $4)
             WHERE credential = $1 AND kind = $2 AND slot = $3 AND free_at = $5",
            self.credential,
            kind.as_str(),
            slot,
            (self.window + self.margin()).as_secs_f64(),
            held_until
        )
        .execute(&self.pool)
        .await
        .map(drop)
    }
}

enum Attempt {
    Taken { slot: i32, held_until: DateTime<Utc> },
    RowsMissing,
    FreeIn(Duration),
}

/// The right to make one call. Give it back with [`Permit::finish`] when the call has ended; dropping it does the same in the background.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    kind: CallKind,
    slot: i32,
    held_until: DateTime<Utc>,
    deadline: Instant,
    open: bool,
}

impl Permit {
    /// When the call must have ended. A call that has not been sent by then needs another permit.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The call has ended, whatever came of it.
    ///
    /// # Errors
    /// The database's. Then the row becomes free when its hold runs out, which is later than it could be, never earlier.
    pub async fn finish(mut self) -> Result<(), sqlx::Error> {
        let released = self.budget.release(self.kind, self.slot, self.held_until).await;
        self.open = false;
        released
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Without a runtime nobody can be asked: the hold runs out by itself.
        if let (true, Ok(runtime)) = (self.open, tokio::runtime::Handle::try_current()) {
            let (budget, kind, slot, held_until) = (Arc::clone(&self.budget), self.kind, self.slot, self.held_until);
            runtime.spawn(async move {
                if let Err(error) = budget.release(kind, slot, held_until).await {
                    tracing::debug!(error = %crate::store::error::describe(&error), "could not give a Sheets call back to the budget");
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_asks_at_most_about_twice_a_second_and_at_least_every_three_seconds() {
        let pool = sqlx::postgres::PgPoolOptions::new().connect_lazy("postgres://nobody@127.0.0.1:1/nothing").unwrap();
        let budget = Budget::new(pool, "kylo@example.test", 60, 60);
        for free_in in [Duration::ZERO, Duration::from_millis(3), Duration::from_secs(1), Duration::from_secs(250)] {
            let wait = budget.pause_before_asking(free_in);
            assert!(wait >= Duration::from_millis(500) && wait <= Duration::from_secs(3), "{wait:?}");
        }
    }
}
