//! `rules_active`: the rules in force.

use sqlx::PgConnection;

use crate::domain::rules::Rule;

/// A company's rules in force.
///
/// # Errors
/// The database's.
pub async fn active(conn: &mut PgConnection, company: &str) -> Result<Vec<Rule>, sqlx::Error> {
    sqlx::query_as!(
        Rule,
        "SELECT rule_id, source, source_norm, target_sheet, target_header, match_notes, ruleset_version, effective_at, created_at
         FROM rules_active WHERE company_id = $1",
        company
    )
    .fetch_all(conn)
    .await
}
