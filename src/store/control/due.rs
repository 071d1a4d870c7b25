//! Telling posters in other processes that a tab has become due.

use sqlx::PgPool;

use super::relay;

/// What posters listen on, in the control database.
pub const CHANNEL: &str = "kylo_due";

/// Wakes every poster. Only a hint: a poster finds due tabs by itself within two seconds.
///
/// # Errors
/// The database's.
pub async fn announce(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(pool).await?;
    Ok(())
}

/// Says to posters which companies have tabs that are due, and to relays that there are events. One statement.
///
/// # Errors
/// The control database's.
pub async fn signal(pool: &PgPool, companies: &[String]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "SELECT pg_notify($1, k.company_id) FROM UNNEST($2::text[]) AS k (company_id) UNION ALL SELECT pg_notify($3, '')",
        CHANNEL,
        companies,
        relay::CHANNEL
    )
    .fetch_all(pool)
    .await?;
    Ok(())
}
