//! `control.spreadsheets`: the lease on a spreadsheet, and why it waits if it does; `control.company_trouble` for the work `post`.
//!
//! A lease is a claim on the database's clock. What must never happen here: a lock held by a session (a frozen process would keep it).

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;

use super::PATIENCE;
use crate::store::pools::within;

/// How long a lease lasts without being renewed: a frozen or dead holder's spreadsheet passes on within 60 s.
const LEASE_SECS: f64 = 45.0;

/// A spreadsheet as the poster knows it.
#[derive(Clone, Debug)]
pub struct SpreadsheetRow {
    pub spreadsheet_id: String,
    pub confirmed_generation: i64,
    /// ok | waiting | parked
    pub state: String,
    pub reason: Option<String>,
    pub failures: i32,
    pub retry_at: Option<DateTime<Utc>>,
    pub config_version: Option<String>,
    pub swept_at: Option<DateTime<Utc>>,
    /// Kylo's own tab as of our last post.
    pub control_sheet_id: Option<i32>,
    pub control_title: Option<String>,
}

/// All spreadsheets ever worked on.
///
/// # Errors
/// The database's.
pub async fn all(pool: &PgPool) -> Result<Vec<SpreadsheetRow>, sqlx::Error> {
    within(PATIENCE, async {
        sqlx::query_as!(
            SpreadsheetRow,
            "SELECT spreadsheet_id, confirmed_generation, state, reason, failures, retry_at, config_version, swept_at, control_sheet_id, control_title
             FROM control.spreadsheets"
        )
        .fetch_all(pool)
        .await
    })
    .await
}

/// Takes the lease, if it is free, run out, or ours already.
///
/// # Errors
/// The database's.
pub async fn lease(pool: &PgPool, spreadsheet: &str, holder: Uuid) -> Result<Option<SpreadsheetRow>, sqlx::Error> {
    within(PATIENCE, async {
        sqlx::query_as!(
            SpreadsheetRow,
            r#"INSERT INTO control.spreadsheets AS s (spreadsheet_id, lease_holder, leased_until)
           VALUES ($1, $2, now() + make_interval(secs => $3))
           ON CONFLICT (spreadsheet_id) DO UPDATE SET lease_holder = $2, leased_until = now() + make_interval(secs => $3), updated_at = now()
           WHERE s.leased_until IS NULL OR s.leased_until < now() OR s.lease_holder = $2
           RETURNING spreadsheet_id, confirmed_generation, state, reason, failures, retry_at, config_version, swept_at, control_sheet_id, control_title"#,
            spreadsheet,
            holder,
            LEASE_SECS
        )
        .fetch_optional(pool)
        .await
    })
    .await
}

/// Sheet id and title of Kylo's own tab as of our last post of the spreadsheet.
///
/// # Errors
/// The database's.
pub async fn control_tab(pool: &PgPool, spreadsheet: &str) -> Result<Option<(i32, String)>, sqlx::Error> {
    within(PATIENCE, async {
        let row = sqlx::query!("SELECT control_sheet_id, control_title FROM control.spreadsheets WHERE spreadsheet_id = $1", spreadsheet)
            .fetch_optional(pool)
            .await?;
        Ok(row.and_then(|row| Some((row.control_sheet_id?, row.control_title?))))
    })
    .await
}

/// Prolongs a lease that is still ours. False = it has passed on. In a transaction: as its last statement, so that what else it writes is written under the
/// lease or not at all, and nobody waits for the lease's row for longer than for one COMMIT.
///
/// # Errors
/// The database's.
pub async fn renew(executor: impl PgExecutor<'_>, spreadsheet: &str, holder: Uuid) -> Result<bool, sqlx::Error> {
    within(PATIENCE, async {
        let done = sqlx::query!(
            "UPDATE control.spreadsheets SET leased_until = now() + make_interval(secs => $3)
         WHERE spreadsheet_id = $1 AND lease_holder = $2 AND leased_until >= now()",
            spreadsheet,
            holder,
            LEASE_SECS
        )
        .execute(executor)
        .await?;
        Ok(done.rows_affected() == 1)
    })
    .await
}

/// Gives a lease back, if it is still ours.
///
/// # Errors
/// The database's.
pub async fn release(pool: &PgPool, spreadsheet: &str, holder: Uuid) -> Result<(), sqlx::Error> {
    within(PATIENCE, async {
        sqlx::query!(
            "UPDATE control.spreadsheets SET lease_holder = NULL, leased_until = NULL WHERE spreadsheet_id = $1 AND lease_holder = $2",
            spreadsheet,
            holder
        )
        .execute(pool)
        .await?;
        Ok(())
    })
    .await
}

/// Says that a spreadsheet waits (something outside is down) or is parked (somebody must act), and when it is tried again.
///
/// # Errors
/// The database's.
pub async fn set_back(
    pool: &PgPool,
    spreadsheet: &str,
    state: &str,
    reason: &str,
    retry_at: DateTime<Utc>,
    config_version: &str,
) -> Result<(), sqlx::Error> {
    within(PATIENCE, async {
        sqlx::query!(
            "UPDATE control.spreadsheets
         SET state = $2, reason = $3, retry_at = $4, config_version = $5, failures = failures + 1, updated_at = now() WHERE spreadsheet_id = $1",
            spreadsheet,
            state,
            reason,
            retry_at,
            config_version
        )
        .execute(pool)
        .await?;
        Ok(())
    })
    .await
}

/// Says that all is well again.
///
/// # Errors
/// The database's.
pub async fn set_ok(pool: &PgPool, spreadsheet: &str) -> Result<(), sqlx::Error> {
    within(PATIENCE, async {
        sqlx::query!(
            "UPDATE control.spreadsheets SET state = 'ok', reason = NULL, retry_at = NULL, failures = 0, config_version = NULL, updated_at = now()
         WHERE spreadsheet_id = $1 AND (state <> 'ok' OR failures <> 0 OR retry_at IS NOT NULL)",
            spreadsheet
        )
        .execute(pool)
        .await?;
        Ok(())
    })
    .await
}

/// Records that every tab of the spreadsheet was compared.
///
/// # Errors
/// The database's.
pub async fn set_swept(pool: &PgPool, spreadsheet: &str, at: DateTime<Utc>) -> Result<(), sqlx::Error> {
    within(PATIENCE, async {
        sqlx::query!("UPDATE control.spreadsheets SET swept_at = $2 WHERE spreadsheet_id = $1", spreadsheet, at).execute(pool).await?;
        Ok(())
    })
    .await
}

/// What keeps a company's tabs from being posted.
#[derive(Clone, Debug)]
pub struct TroubleRow {
    pub company_id: String,
    pub config_version: Option<i64>,
    pub retry_at: Option<DateTime<Utc>>,
}

/// All companies whose posting waits.
///
/// # Errors
/// The database's.
pub async fn troubles(pool: &PgPool) -> Result<Vec<TroubleRow>, sqlx::Error> {
    within(PATIENCE, async {
        sqlx::query_as!(TroubleRow, "SELECT company_id, config_version, retry_at FROM control.company_trouble WHERE work = 'post'")
            .fetch_all(pool)
            .await
    })
    .await
}

/// Says that a company's posting is `down` or `parked`, and when it is tried again.
///
/// # Errors
/// The database's.
pub async fn set_trouble(
    pool: &PgPool,
    company: &str,
    state: &str,
    reason: &str,
    config_version: i64,
    retry_at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    within(PATIENCE, async {
        sqlx::query!(
            "INSERT INTO control.company_trouble (company_id, work, state, reason, config_version, retry_at) VALUES ($1, 'post', $2, $3, $4, $5)
         ON CONFLICT (company_id, work) DO UPDATE
         SET state = excluded.state, reason = excluded.reason, config_version = excluded.config_version, retry_at = excluded.retry_at",
            company,
            state,
            reason,
            config_version,
            retry_at
        )
        .execute(pool)
        .await?;
        Ok(())
    })
    .await
}

/// Nothing keeps this company from being posted any more.
///
/// # Errors
/// The database's.
pub async fn clear_trouble(pool: &PgPool, company: &str) -> Result<(), sqlx::Error> {
    within(PATIENCE, async {
        sqlx::query!("DELETE FROM control.company_trouble WHERE company_id = $1 AND work = 'post'", company).execute(pool).await?;
        Ok(())
    })
    .await
}
