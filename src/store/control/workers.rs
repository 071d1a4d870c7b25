//! Heartbeats: which processes run, in which mode, and what they work on. Written by each worker every few seconds, read by `kylo status`.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

/// What one process says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeat {
    pub worker_id: Uuid,
    /// `run`, `consume txns`, `consume promote`.
    pub command: String,
    pub host: String,
    pub pid: i32,
    pub version: String,
    /// `shadow` or `post`.
    pub mode: String,
    pub canary: Vec<String>,
    /// Topic -> partitions assigned.
    pub partitions: Value,
    /// What keeps it from working, as its readiness says it.
    pub trouble: Option<String>,
}

/// A heartbeat as it was last written.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerRow {
    pub worker_id: Uuid,
    pub command: String,
    pub host: String,
    pub pid: i32,
    pub version: String,
    pub mode: String,
    pub canary: Vec<String>,
    pub partitions: Value,
    pub trouble: Option<String>,
    pub started_at: DateTime<Utc>,
    pub heartbeat_at: DateTime<Utc>,
    /// On the database's clock.
    pub age_seconds: i64,
}

/// Writes the heartbeat and prunes those older than a day.
///
/// # Errors
/// The control database's.
pub async fn beat(pool: &PgPool, heartbeat: &Heartbeat) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO control.workers (worker_id, command, host, pid, version, mode, canary, partitions, trouble)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (worker_id) DO UPDATE SET heartbeat_at = now(), mode = EXCLUDED.mode, canary = EXCLUDED.canary, partitions = EXCLUDED.partitions,
             trouble = EXCLUDED.trouble",
        heartbeat.worker_id,
        heartbeat.command,
        heartbeat.host,
        heartbeat.pid,
        heartbeat.version,
        heartbeat.mode,
        &heartbeat.canary,
        heartbeat.partitions,
        heartbeat.trouble,
    )
    .execute(pool)
    .await?;
    sqlx::query!("DELETE FROM control.workers WHERE heartbeat_at < now() - interval '1 day'").execute(pool).await?;
    Ok(())
}

/// The process ends in good order: it need not look dead for a minute first.
///
/// # Errors
/// The control database's.
pub async fn leave(pool: &PgPool, worker_id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM control.workers WHERE worker_id = $1", worker_id).execute(pool).await?;
    Ok(())
}

/// Processes that were heard of in the last `seconds`.
///
/// # Errors
/// The control database's.
pub async fn recent(pool: &PgPool, seconds: i32) -> Result<Vec<WorkerRow>, sqlx::Error> {
    sqlx::query_as!(
        WorkerRow,
        r#"SELECT worker_id, command, host, pid, version, mode, canary, partitions, trouble, started_at, heartbeat_at,
                  extract(epoch FROM now() - heartbeat_at)::bigint AS "age_seconds!"
           FROM control.workers WHERE heartbeat_at > now() - make_interval(secs => $1) ORDER BY command, started_at, worker_id"#,
        f64::from(seconds),
    )
    .fetch_all(pool)
    .await
}
