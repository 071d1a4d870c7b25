//! One company's figures from its own schema. Read by `kylo status` and by the gauge of the oldest unposted change.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgTransaction;

/// What the company's tables say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub open_pending: i64,
    pub active_rules: i64,
    pub matched_queued: i64,
    pub ruleset_version: i32,
    pub pending_seq: i64,
    pub active_seq: i64,
    /// When the oldest change that the tabs do not show was made; `None` = they show everything.
    pub oldest_unposted_at: Option<DateTime<Utc>>,
    pub oldest_unposted_seconds: Option<i64>,
}

/// The figures, given how far each tab has been posted (`None` = never: then everything is unposted).
/// A company that has never had a batch has no state row, and all figures are 0.
///
/// # Errors
/// The company database's.
pub async fn figures(
    tx: &mut PgTransaction<'_>,
    company: &str,
    pending_posted: Option<i64>,
    active_posted: Option<i64>,
) -> Result<Figures, sqlx::Error> {
    // Without a change in the rows themselves (an answer, a cleared status) the state row's own time is the best that is known.
    let found = sqlx::query_as!(
        Figures,
        r#"WITH changed AS (
               SELECT least(
                   CASE WHEN state.pending_seq > coalesce($2::bigint, 0) THEN coalesce(
                       (SELECT min(p.updated_at) FROM pending_txns p WHERE p.company_id = $1 AND (p.seq > coalesce($2::bigint, 0) OR p.resolved_seq > coalesce($2::bigint, 0))), state.updated_at) END,
                   CASE WHEN state.active_seq > coalesce($3::bigint, 0) THEN coalesce(
                       (SELECT min(v.created_at) FROM ruleset_versions v WHERE v.company_id = $1 AND v.seq > coalesce($3::bigint, 0)), state.updated_at) END) AS at
               FROM company_state state WHERE state.company_id = $1)
           SELECT (SELECT count(*) FROM pending_txns WHERE company_id = $1 AND status = 'open') AS "open_pending!",
                  (SELECT count(*) FROM rules_active WHERE company_id = $1) AS "active_rules!",
                  (SELECT count(*) FROM matched_txns WHERE company_id = $1 AND state = 'queued') AS "matched_queued!",
                  state.ruleset_version, state.pending_seq, state.active_seq,
                  changed.at AS "oldest_unposted_at?",
                  extract(epoch FROM now() - changed.at)::bigint AS "oldest_unposted_seconds?"
           FROM company_state state, changed WHERE state.company_id = $1"#,
        company,
        pending_posted,
        active_posted,
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(found.unwrap_or_default())
}

/// Whether this user may write here: a row lock on nothing needs the right to update, and a server that takes writes.
///
/// # Errors
/// The company database's: a standby, a missing right, a missing table.
pub async fn can_write(tx: &mut PgTransaction<'_>) -> Result<(), sqlx::Error> {
    sqlx::query!("UPDATE company_state SET seq = seq WHERE FALSE").execute(&mut **tx).await?;
    sqlx::query!("INSERT INTO company_state (company_id) SELECT '' WHERE FALSE").execute(&mut **tx).await?;
    Ok(())
}
