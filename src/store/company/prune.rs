//! What a company schema need not keep any longer, chunk by chunk; docs/retention.md says how long and why.
//!
//! Called by `runtime::prune`, for a schema as a whole: age does not depend on whose a row is. What must never happen here: the ledger or the
//! recorded requests deleted, because a message delivered again years later must still be known.

use sqlx::PgConnection;

/// Events published 90 days ago: as long as the topics keep what they are about, because they are the record of its order.
///
/// # Errors
/// The company database's.
pub async fn events(conn: &mut PgConnection, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "DELETE FROM outbox_events WHERE seq IN (
             SELECT seq FROM outbox_events WHERE published_at < now() - interval '90 days' ORDER BY seq LIMIT $1 FOR UPDATE SKIP LOCKED)",
        limit
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Proposed rules that were promoted 400 days ago; history has them in `ruleset_versions`.
///
/// # Errors
/// The company database's.
pub async fn promoted_rules(conn: &mut PgConnection, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "DELETE FROM rules_pending WHERE (company_id, rule_id) IN (
             SELECT company_id, rule_id FROM rules_pending
             WHERE promoted_in IS NOT NULL AND updated_at < now() - interval '400 days' ORDER BY company_id, rule_id LIMIT $1 FOR UPDATE SKIP LOCKED)",
        limit
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
