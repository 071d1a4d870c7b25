//! What the control database need not keep any longer, chunk by chunk; docs/retention.md says how long and why.
//!
//! Called by `runtime::prune`. Every statement is idempotent and passes over rows that another process is at, so any number of processes may
//! prune at once. What must never happen here: an unsettled intent, an open letter or an unpublished event deleted, however old it is.

use sqlx::PgPool;

/// Dead letters settled 90 days ago: as long as the topics keep what they were about.
///
/// # Errors
/// The control database's.
pub async fn dead_letters(pool: &PgPool, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "DELETE FROM control.dead_letters WHERE id IN (
             SELECT id FROM control.dead_letters
             WHERE state IN ('resolved', 'discarded') AND settled_at < now() - interval '90 days' ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)",
        limit
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// What people had typed, and the operations, of intents settled 7 days ago.
///
/// # Errors
/// The control database's.
pub async fn typed_cells(pool: &PgPool, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "UPDATE control.sheet_intents SET typed = NULL, operations = NULL WHERE intent_id IN (
             SELECT intent_id FROM control.sheet_intents
             WHERE settled_at < now() - interval '7 days' AND (typed IS NOT NULL OR operations IS NOT NULL)
             ORDER BY created_at LIMIT $1 FOR UPDATE SKIP LOCKED)",
        limit
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Intents settled 90 days ago, but never the newest of a spreadsheet.
///
/// # Errors
/// The control database's.
pub async fn intents(pool: &PgPool, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "DELETE FROM control.sheet_intents WHERE intent_id IN (
             SELECT intent_id FROM control.sheet_intents i
             WHERE i.settled_at < now() - interval '90 days'
               AND EXISTS (SELECT FROM control.sheet_intents newer WHERE newer.spreadsheet_id = i.spreadsheet_id AND newer.created_at > i.created_at)
             ORDER BY i.created_at LIMIT $1 FOR UPDATE OF i SKIP LOCKED)",
        limit
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Confirmed posts after 400 days: a year and a bit, for whoever compares with the same month of last year.
///
/// # Errors
/// The control database's.
pub async fn posts(pool: &PgPool, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "DELETE FROM control.sheet_posts WHERE id IN (
             SELECT id FROM control.sheet_posts WHERE created_at < now() - interval '400 days' ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)",
        limit
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Events published 30 days ago.
///
/// # Errors
/// The control database's.
pub async fn events(pool: &PgPool, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "DELETE FROM control.outbox_events WHERE seq IN (
             SELECT seq FROM control.outbox_events WHERE published_at < now() - interval '30 days' ORDER BY seq LIMIT $1 FOR UPDATE SKIP LOCKED)",
        limit
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}
