//! What the tabs of a company must show, read in one snapshot, and what a post writes back: answers and what people left behind.
//!
//! Called by `flow::post`. What must never happen here: an answer overwriting a newer one that promote has given since it was read.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgConnection;
use sqlx::postgres::PgTransaction;
use uuid::Uuid;

use crate::domain::ids::TxnUid;
use crate::domain::plan::{Answer, Left};
use crate::domain::tab::{ActiveRule, OpenRow};
use crate::domain::text::normalise;

/// How far a company's content has moved on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRow {
    pub company_id: String,
    pub pending_seq: i64,
    pub active_seq: i64,
    /// How often posts have stored answers.
    pub answer_seq: i64,
    /// Of its last change: the oldest are posted first.
    pub updated_at: DateTime<Utc>,
}

/// The states of these companies; one that has never had a batch is missing.
///
/// # Errors
/// The database's.
pub async fn states(connection: &mut PgConnection, companies: &[String]) -> Result<Vec<StateRow>, sqlx::Error> {
    sqlx::query_as!(
        StateRow,
        "SELECT company_id, pending_seq, active_seq, answer_seq, updated_at FROM company_state WHERE company_id = ANY($1)",
        companies
    )
    .fetch_all(connection)
    .await
}

/// Makes the transaction see one instant. Must be its first statement but for SET.
///
/// # Errors
/// The database's.
pub async fn freeze(tx: &mut PgTransaction<'_>) -> Result<(), sqlx::Error> {
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut **tx).await?;
    Ok(())
}

/// An open row as the tables have it.
pub(super) struct OpenRecord {
    pub txn_uid: Uuid,
    pub occurred_on: NaiveDate,
    pub description: String,
    pub amount_cents: i64,
    pub answer: String,
    pub answer_input: Option<String>,
    pub seq: i64,
    pub content_seq: i64,
}

impl From<OpenRecord> for OpenRow {
    fn from(row: OpenRecord) -> Self {
        Self {
            uid: TxnUid(row.txn_uid),
            occurred_on: row.occurred_on,
            description: row.description,
            amount_cents: row.amount_cents,
            answer: row.answer,
            answer_input: row.answer_input,
            seq: row.seq,
            content_seq: row.content_seq,
        }
    }
}

/// All open rows of a company.
///
/// # Errors
/// The database's.
pub async fn open_rows(connection: &mut PgConnection, company: &str) -> Result<Vec<OpenRow>, sqlx::Error> {
    let rows = sqlx::query_as!(
        OpenRecord,
        r#"SELECT p.txn_uid, p.occurred_on, p.description, p.amount_cents, p.answer, p.answer_input, p.seq,
                  coalesce(t.content_seq, p.seq) AS "content_seq!"
           FROM pending_txns p LEFT JOIN transactions t USING (company_id, txn_uid)
           WHERE p.company_id = $1 AND p.status = 'open'"#,
        company
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(OpenRow::from).collect())
}

/// Which of these transactions are known and no longer open (resolved, matched or void), with their descriptions.
///
/// # Errors
/// The database's.
pub async fn gone(connection: &mut PgConnection, company: &str, uids: &[Uuid]) -> Result<HashMap<TxnUid, String>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT u.txn_uid AS "txn_uid!", coalesce(p.description, t.description) AS "description!"
           FROM unnest($2::uuid[]) AS u(txn_uid)
           LEFT JOIN pending_txns p ON p.company_id = $1 AND p.txn_uid = u.txn_uid
           LEFT JOIN transactions t ON t.company_id = $1 AND t.txn_uid = u.txn_uid
           WHERE coalesce(p.status, '') <> 'open' AND (p.txn_uid IS NOT NULL OR t.txn_uid IS NOT NULL)"#,
        company,
        uids
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (TxnUid(row.txn_uid), row.description)).collect())
}

/// All rules in force.
///
/// # Errors
/// The database's.
pub async fn active_rules(connection: &mut PgConnection, company: &str) -> Result<Vec<ActiveRule>, sqlx::Error> {
    sqlx::query_as!(
        ActiveRule,
        "SELECT source, target_sheet, target_header, match_notes, ruleset_version, effective_at, created_at FROM rules_active WHERE company_id = $1",
        company
    )
    .fetch_all(connection)
    .await
}

/// `company_state.answer_seq` before and after answers were stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerSeq {
    pub before: i64,
    pub after: i64,
}

/// Stores what Status is about to say and what people typed in rows that leave. Locks the company first, like every writer of its tables. Whoever
/// stores an answer makes the Pending tab due by that: it may be a process that was frozen, and that nobody lets post any more.
///
/// # Errors
/// The database's.
pub async fn store(connection: &mut PgConnection, company: &str, answers: &[Answer], left: &[Left]) -> Result<AnswerSeq, sqlx::Error> {
    let locked = sqlx::query_scalar!("SELECT answer_seq FROM company_state WHERE company_id = $1 FOR UPDATE", company);
    let before = locked.fetch_optional(&mut *connection).await?.unwrap_or_default();
    let is_answered = store_answers(connection, company, answers).await?;
    if is_answered {
        sqlx::query!("UPDATE company_state SET answer_seq = answer_seq + 1 WHERE company_id = $1", company).execute(&mut *connection).await?;
    }
    keep_left(connection, company, left).await?;
    Ok(AnswerSeq { before, after: before + i64::from(is_answered) })
}

/// Whether any was stored.
async fn store_answers(connection: &mut PgConnection, company: &str, answers: &[Answer]) -> Result<bool, sqlx::Error> {
    if answers.is_empty() {
        return Ok(false);
    }
    let uids: Vec<Uuid> = answers.iter().map(|answer| answer.uid.0).collect();
    let before: Vec<&str> = answers.iter().map(|answer| answer.before.as_str()).collect();
    let after: Vec<&str> = answers.iter().map(|answer| answer.answer.as_str()).collect();
    let inputs: Vec<Option<&str>> = answers.iter().map(|answer| answer.answer_input.as_deref()).collect();
    let stored = sqlx::query!(
        "UPDATE pending_txns p SET answer = a.answer, answer_input = a.answer_input, updated_at = now()
         FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[]) AS a(txn_uid, before, answer, answer_input)
         WHERE p.company_id = $1 AND p.txn_uid = a.txn_uid AND p.status = 'open' AND p.answer = a.before",
        company,
        &uids,
        &before as _,
        &after as _,
        &inputs as _
    )
    .execute(connection)
    .await?;
    Ok(stored.rows_affected() > 0)
}

/// Once per content: what promote has taken from the same row, or an earlier try of this post has kept, is not kept again.
async fn keep_left(connection: &mut PgConnection, company: &str, left: &[Left]) -> Result<(), sqlx::Error> {
    if left.is_empty() {
        return Ok(());
    }
    let sources: Vec<&str> = left.iter().map(|row| row.source.as_str()).collect();
    let norms: Vec<String> = left.iter().map(|row| normalise(&row.source)).collect();
    let sheets: Vec<&str> = left.iter().map(|row| row.typed.target_sheet.as_str()).collect();
    let headers: Vec<&str> = left.iter().map(|row| row.typed.target_header.as_str()).collect();
    let notes: Vec<&str> = left.iter().map(|row| row.typed.match_notes.as_str()).collect();
    let uids: Vec<Uuid> = left.iter().map(|row| row.uid.0).collect();
    sqlx::query!(
        "INSERT INTO rules_pending (company_id, source, source_norm, target_sheet, target_header, match_notes, approved, origin, txn_uid)
         SELECT $1::text, l.source, l.source_norm, l.target_sheet, l.target_header, l.match_notes, FALSE, 'left', l.txn_uid
         FROM (SELECT DISTINCT * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::uuid[])
               AS l(source, source_norm, target_sheet, target_header, match_notes, txn_uid)) AS l
         WHERE NOT EXISTS (SELECT FROM rules_pending r WHERE r.company_id = $1::text AND r.txn_uid = l.txn_uid
                           AND r.target_sheet = l.target_sheet AND r.target_header = l.target_header AND r.match_notes = l.match_notes)",
        company,
        &sources as _,
        &norms,
        &sheets as _,
        &headers as _,
        &notes as _,
        &uids
    )
    .execute(connection)
    .await?;
    Ok(())
}
