//! `rules_active`: the rules in force.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::rules::Rule;

struct Row {
    company_id: String,
    rule_id: Uuid,
    source: String,
    source_norm: String,
    target_sheet: String,
    target_header: String,
    match_notes: String,
    ruleset_version: i32,
    effective_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
}

/// The rules in force of these companies, with whose they are.
///
/// # Errors
/// The database's.
pub async fn active(conn: &mut PgConnection, companies: &[&str]) -> Result<Vec<(String, Rule)>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT company_id, rule_id, source, source_norm, target_sheet, target_header, match_notes, ruleset_version, effective_at, created_at
         FROM rules_active WHERE company_id = ANY($1)",
        companies as &[&str]
    )
    .fetch_all(conn)
    .await?;
    let rule = |row| {
        let Row { company_id, rule_id, source, source_norm, target_sheet, target_header, match_notes, ruleset_version, effective_at, created_at } =
            row;
        (company_id, Rule { rule_id, source, source_norm, target_sheet, target_header, match_notes, ruleset_version, effective_at, created_at })
    };
    Ok(rows.into_iter().map(rule).collect())
}
