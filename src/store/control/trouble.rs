//! `control.company_trouble`: what keeps a company from being written to, per kind of work, and who is trying again.
//!
//! Called by the consumer, its drainer, the poster and `kylo status`. What must never happen here: a company that nobody tries again.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// Which work of the company.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkKind {
    Ingest,
    Promote,
    Post,
}

impl WorkKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Promote => "promote",
            Self::Post => "post",
        }
    }
}

/// What kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TroubleState {
    /// Passes by itself: tried again with backoff.
    Down,
    /// Somebody must change something: tried again every 15 minutes, or when the company's configuration changes.
    Parked,
}

impl TroubleState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Parked => "parked",
        }
    }
}

/// A company's trouble as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub kind: WorkKind,
    pub state: TroubleState,
    /// For people: what is wrong and what to do.
    pub reason: String,
    /// Version of the `company_config` row that was used; `None` = the present one.
    pub config_version: Option<i64>,
    /// When to try again, from now.
    pub retry_after: Duration,
}

/// A row as `kylo status` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct TroubleRow {
    pub company_id: String,
    pub work: String,
    pub state: String,
    pub reason: String,
    pub since: DateTime<Utc>,
    pub retry_at: Option<DateTime<Utc>>,
}

/// Records a trouble, new or still there; `since` is when it began.
///
/// # Errors
/// The control database's.
pub async fn note(connection: &mut PgConnection, company: &str, trouble: &Trouble) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO control.company_trouble AS t (company_id, work, state, reason, config_version, retry_at)
         VALUES ($1, $2, $3, $4, coalesce($5, (SELECT xmin::text::bigint FROM control.company_config WHERE company_id = $1)),
                 now() + make_interval(secs => $6))
         ON CONFLICT ON CONSTRAINT company_trouble_pkey DO UPDATE
         SET state = excluded.state, reason = excluded.reason, config_version = excluded.config_version, retry_at = excluded.retry_at,
             since = CASE WHEN t.state = excluded.state THEN t.since ELSE now() END",
        company,
        trouble.kind.as_str(),
        trouble.state.as_str(),
        trouble.reason.replace('\0', "\u{fffd}"),
        trouble.config_version,
        trouble.retry_after.as_secs_f64()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Locks the company's row, making one if there is none, until the transaction ends.
pub(super) async fn lock(tx: &mut PgConnection, company: &str, kind: WorkKind) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO control.company_trouble AS t (company_id, work, state, reason) VALUES ($1, $2, 'down', 'messages are held')
         ON CONFLICT ON CONSTRAINT company_trouble_pkey DO UPDATE SET state = t.state",
        company,
        kind.as_str()
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The trouble is over.
///
/// # Errors
/// The control database's.
pub async fn clear(pool: &PgPool, company: &str, kind: WorkKind) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!("DELETE FROM control.company_trouble WHERE company_id = $1 AND work = $2", company, kind.as_str()).execute(pool).await?;
    Ok(done.rows_affected() > 0)
}

/// Takes or renews the drain lease of a company for `lease`, on the database's clock. `false`: another process has it.
///
/// # Errors
/// The control database's.
pub async fn lease_drain(pool: &PgPool, company: &str, kind: WorkKind, holder: Uuid, lease: Duration) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "INSERT INTO control.company_trouble AS t (company_id, work, state, reason, drain_holder, drain_until)
         VALUES ($1, $2, 'down', 'messages are held', $3, now() + make_interval(secs => $4))
         ON CONFLICT ON CONSTRAINT company_trouble_pkey DO UPDATE SET drain_holder = excluded.drain_holder, drain_until = excluded.drain_until
         WHERE t.drain_until IS NULL OR t.drain_until <= now() OR t.drain_holder = excluded.drain_holder",
        company,
        kind.as_str(),
        holder,
        lease.as_secs_f64()
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Lets go of a drain lease, saying what the trouble is now, if this process still has it. `None`: it goes on at once elsewhere.
///
/// # Errors
/// The control database's; then the lease runs out by itself.
pub async fn release_drain(pool: &PgPool, company: &str, kind: WorkKind, holder: Uuid, trouble: Option<&Trouble>) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    let released = sqlx::query!(
        "UPDATE control.company_trouble SET drain_holder = NULL, drain_until = NULL WHERE company_id = $1 AND work = $2 AND drain_holder = $3",
        company,
        kind.as_str(),
        holder
    )
    .execute(&mut *tx)
    .await?;
    if let (1, Some(trouble)) = (released.rows_affected(), trouble) {
        note(&mut tx, company, trouble).await?;
    }
    tx.commit().await
}

/// Asks for another try at once, of one company or of all.
///
/// # Errors
/// The control database's.
pub async fn request_retry(pool: &PgPool, company: Option<&str>) -> Result<u64, sqlx::Error> {
    let done =
        sqlx::query!("UPDATE control.company_trouble SET retry_at = now() WHERE $1::text IS NULL OR company_id = $1", company).execute(pool).await?;
    Ok(done.rows_affected())
}

/// All troubles.
///
/// # Errors
/// The control database's.
pub async fn list(pool: &PgPool) -> Result<Vec<TroubleRow>, sqlx::Error> {
    sqlx::query_as!(TroubleRow, "SELECT company_id, work, state, reason, since, retry_at FROM control.company_trouble ORDER BY company_id, work")
        .fetch_all(pool)
        .await
}
