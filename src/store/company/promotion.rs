//! What a promotion reads and writes: proposed rules, versions, replay of open pending rows, requests.
//!
//! Called by `flow::promote` under the company's lock. What must never happen here: an open row left behind whose key has a rule (I11).

use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use super::projection::OpenRecord;
use super::transactions::Columns;
use crate::domain::ids::TxnUid;
use crate::domain::rules::{Rule, RuleSet};
use crate::domain::tab::{OpenRow, Typed};

/// Whether a request has been applied.
///
/// # Errors
/// The database's.
pub async fn is_known(conn: &mut PgConnection, company: &str, request_key: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM promote_requests WHERE company_id = $1 AND request_key = $2) AS "known!""#,
        company,
        request_key
    )
    .fetch_one(conn)
    .await
}

/// Those of these transactions that are open.
///
/// # Errors
/// The database's.
pub async fn open_rows(conn: &mut PgConnection, company: &str, uids: &[Uuid]) -> Result<Vec<OpenRow>, sqlx::Error> {
    let rows = sqlx::query_as!(
        OpenRecord,
        r#"SELECT p.txn_uid, p.occurred_on, p.description, p.amount_cents, p.answer, p.answer_input, p.seq, t.content_seq
           FROM UNNEST($2::uuid[]) AS k (txn_uid)
           JOIN pending_txns p ON p.company_id = $1 AND p.txn_uid = k.txn_uid
           JOIN transactions t ON t.company_id = $1 AND t.txn_uid = k.txn_uid
           WHERE p.status = 'open'"#,
        company,
        uids
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(OpenRow::from).collect())
}

/// A rule proposed and approved by SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlProposal {
    pub rule_id: Uuid,
    pub source: String,
    pub target_sheet: String,
    pub target_header: String,
    pub match_notes: String,
}

/// What SQL approved and no promotion has taken, oldest first. What an earlier promotion read from the tab and could not apply is not among
/// them: for that, the tab is asked again.
///
/// # Errors
/// The database's.
pub async fn approved(conn: &mut PgConnection, company: &str) -> Result<Vec<SqlProposal>, sqlx::Error> {
    sqlx::query_as!(
        SqlProposal,
        "SELECT rule_id, source, target_sheet, target_header, match_notes FROM rules_pending
         WHERE company_id = $1 AND promoted_in IS NULL AND approved AND origin <> 'sheet' ORDER BY created_at, rule_id",
        company
    )
    .fetch_all(conn)
    .await
}

/// Writes the next version: history, and the rules that changed.
///
/// # Errors
/// The database's.
pub async fn write_version(
    conn: &mut PgConnection,
    company: &str,
    rules: &RuleSet,
    changed: &[Rule],
    request_key: &str,
    seq: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO ruleset_versions (company_id, version, checksum, snapshot, request_key, seq) VALUES ($1, $2, $3, $4, $5, $6)",
        company,
        rules.version,
        rules.checksum(),
        rules.snapshot(),
        request_key,
        seq
    )
    .execute(&mut *conn)
    .await?;
    let column = Columns { rows: changed };
    sqlx::query!(
        r#"INSERT INTO rules_active (company_id, rule_id, source, source_norm, source_key, target_sheet, target_header, match_notes, ruleset_version,
                                     effective_at, created_at)
           SELECT $1, * FROM UNNEST($2::uuid[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::text[], $8::text[], $9::int[],
                                    $10::timestamptz[], $11::timestamptz[])
           ON CONFLICT (company_id, source_key) DO UPDATE SET
               source = EXCLUDED.source, target_sheet = EXCLUDED.target_sheet, target_header = EXCLUDED.target_header,
               match_notes = EXCLUDED.match_notes, ruleset_version = EXCLUDED.ruleset_version, effective_at = EXCLUDED.effective_at"#,
        company,
        &column.of(|r| r.rule_id),
        &column.of(|r| r.source.as_str()) as &[&str],
        &column.of(|r| r.source_norm.as_str()) as &[&str],
        &column.of(|r| Sha256::digest(&r.source_norm).to_vec()),
        &column.of(|r| r.target_sheet.as_str()) as &[&str],
        &column.of(|r| r.target_header.as_str()) as &[&str],
        &column.of(|r| r.match_notes.as_str()) as &[&str],
        &column.of(|r| r.ruleset_version),
        &column.of(|r| r.effective_at),
        &column.of(|r| r.created_at),
    )
    .execute(conn)
    .await
    .map(|_| ())
}

/// Decides open rows by these rules: resolved, and queued for whoever posts the money. Gives the rows with their descriptions.
///
/// # Errors
/// The database's.
pub async fn replay(conn: &mut PgConnection, company: &str, rules: &[&Rule], seq: i64) -> Result<Vec<(TxnUid, String)>, sqlx::Error> {
    let column = Columns { rows: rules };
    let resolved = sqlx::query!(
        r#"WITH k AS (
               SELECT * FROM UNNEST($2::text[], $3::uuid[], $4::int[], $5::text[], $6::text[]) AS k (norm, rule_id, version, sheet, header)
           ), resolved AS (
               UPDATE pending_txns p SET status = 'resolved', resolved_seq = $7, answer = '', answer_input = NULL, updated_at = now()
               FROM k WHERE p.company_id = $1 AND p.status = 'open' AND md5(p.description_norm) = md5(k.norm) AND p.description_norm = k.norm
               RETURNING p.txn_uid, p.amount_cents, p.description, k.rule_id, k.version, k.sheet, k.header
           ), queued AS (
               INSERT INTO matched_txns AS m (company_id, txn_uid, rule_id, ruleset_version, target_sheet, target_header, amount_cents, seq)
               SELECT $1, txn_uid, rule_id, version, sheet, header, amount_cents, $7 FROM resolved
               ON CONFLICT (company_id, txn_uid) DO UPDATE SET
                   rule_id = EXCLUDED.rule_id, ruleset_version = EXCLUDED.ruleset_version, target_sheet = EXCLUDED.target_sheet,
                   target_header = EXCLUDED.target_header, amount_cents = EXCLUDED.amount_cents, revision = m.revision + 1, state = 'queued',
                   seq = EXCLUDED.seq, updated_at = now()
           )
           SELECT txn_uid, description FROM resolved"#,
        company,
        &column.of(|r| r.source_norm.as_str()) as &[&str],
        &column.of(|r| r.rule_id),
        &column.of(|r| r.ruleset_version),
        &column.of(|r| r.target_sheet.as_str()) as &[&str],
        &column.of(|r| r.target_header.as_str()) as &[&str],
        seq
    )
    .fetch_all(conn)
    .await?;
    Ok(resolved.into_iter().map(|row| (TxnUid(row.txn_uid), row.description)).collect())
}

/// Answers to open rows, with the fingerprint of the cells they were given to. Gives how many are new.
///
/// # Errors
/// The database's.
pub async fn answer(conn: &mut PgConnection, company: &str, answers: &[(TxnUid, String, String)]) -> Result<u64, sqlx::Error> {
    let column = Columns { rows: answers };
    let done = sqlx::query!(
        "UPDATE pending_txns p SET answer = a.answer, answer_input = a.input, updated_at = now()
         FROM UNNEST($2::uuid[], $3::text[], $4::text[]) AS a (txn_uid, answer, input)
         WHERE p.company_id = $1 AND p.txn_uid = a.txn_uid AND p.status = 'open'
           AND (p.answer, p.answer_input) IS DISTINCT FROM (a.answer, a.input)",
        company,
        &column.of(|r| r.0.0),
        &column.of(|r| r.1.as_str()) as &[&str],
        &column.of(|r| r.2.as_str()) as &[&str],
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// What became of a rule that SQL proposed.
#[derive(Clone, Debug)]
pub struct SqlVerdict {
    pub rule_id: Uuid,
    pub source_norm: String,
    pub answer: String,
    pub promoted_in: Option<i32>,
}

/// Notes what became of rules that SQL proposed.
///
/// # Errors
/// The database's.
pub async fn settle_sql(conn: &mut PgConnection, company: &str, verdicts: &[SqlVerdict]) -> Result<(), sqlx::Error> {
    let column = Columns { rows: verdicts };
    sqlx::query!(
        "UPDATE rules_pending r SET source_norm = v.norm, answer = v.answer, promoted_in = v.version, updated_at = now()
         FROM UNNEST($2::uuid[], $3::text[], $4::text[], $5::int[]) AS v (rule_id, norm, answer, version)
         WHERE r.company_id = $1 AND r.rule_id = v.rule_id",
        company,
        &column.of(|r| r.rule_id),
        &column.of(|r| r.source_norm.as_str()) as &[&str],
        &column.of(|r| r.answer.as_str()) as &[&str],
        &column.of(|r| r.promoted_in) as &[Option<i32>],
    )
    .execute(conn)
    .await
    .map(|_| ())
}

/// A row's typed cells as `rules_pending` keeps them.
#[derive(Clone, Debug)]
pub struct SheetRule<'a> {
    pub uid: TxnUid,
    pub source: &'a str,
    pub source_norm: String,
    pub typed: &'a Typed,
    pub answer: &'a str,
    /// The version that took it; `None` for a conflict.
    pub promoted_in: Option<i32>,
}

/// Takes approved rows of the tab into `rules_pending`, in place of those that an earlier promotion could not apply.
///
/// # Errors
/// The database's.
pub async fn take_from_tab(conn: &mut PgConnection, company: &str, rows: &[SheetRule<'_>]) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM rules_pending WHERE company_id = $1 AND origin = 'sheet' AND promoted_in IS NULL", company).execute(&mut *conn).await?;
    if rows.is_empty() {
        return Ok(());
    }
    let column = Columns { rows };
    sqlx::query!(
        "INSERT INTO rules_pending (company_id, txn_uid, source, source_norm, target_sheet, target_header, match_notes, approved, origin, answer, promoted_in)
         SELECT $1, u.uid, u.source, u.norm, u.sheet, u.header, u.notes, TRUE, 'sheet', u.answer, u.version
         FROM UNNEST($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::int[])
              AS u (uid, source, norm, sheet, header, notes, answer, version)",
        company,
        &column.of(|r| r.uid.0),
        &column.of(|r| r.source) as &[&str],
        &column.of(|r| r.source_norm.as_str()) as &[&str],
        &column.of(|r| r.typed.target_sheet.as_str()) as &[&str],
        &column.of(|r| r.typed.target_header.as_str()) as &[&str],
        &column.of(|r| r.typed.match_notes.as_str()) as &[&str],
        &column.of(|r| r.answer) as &[&str],
        &column.of(|r| r.promoted_in) as &[Option<i32>],
    )
    .execute(conn)
    .await
    .map(|_| ())
}

/// Keeps what people typed in rows that now leave the tab unapplied. Once per content: the poster keeps what it finds as well.
///
/// # Errors
/// The database's.
pub async fn keep_left(conn: &mut PgConnection, company: &str, rows: &[SheetRule<'_>]) -> Result<(), sqlx::Error> {
    let column = Columns { rows };
    sqlx::query!(
        "INSERT INTO rules_pending (company_id, txn_uid, source, source_norm, target_sheet, target_header, match_notes, approved, origin)
         SELECT $1::text, u.uid, u.source, u.norm, u.sheet, u.header, u.notes, FALSE, 'left'
         FROM UNNEST($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) AS u (uid, source, norm, sheet, header, notes)
         WHERE NOT EXISTS (SELECT FROM rules_pending r WHERE r.company_id = $1::text AND r.txn_uid = u.uid
                           AND r.target_sheet = u.sheet AND r.target_header = u.header AND r.match_notes = u.notes)",
        company,
        &column.of(|r| r.uid.0),
        &column.of(|r| r.source) as &[&str],
        &column.of(|r| r.source_norm.as_str()) as &[&str],
        &column.of(|r| r.typed.target_sheet.as_str()) as &[&str],
        &column.of(|r| r.typed.target_header.as_str()) as &[&str],
        &column.of(|r| r.typed.match_notes.as_str()) as &[&str],
    )
    .execute(conn)
    .await
    .map(|_| ())
}

/// A request and what it came to.
#[derive(Clone, Debug)]
pub struct RequestWrite<'a> {
    pub request_key: &'a str,
    pub request_id: Option<&'a str>,
    pub requested_at: chrono::DateTime<chrono::Utc>,
    /// `None`: no version was made.
    pub version: Option<i32>,
    pub outcome: &'a Value,
    pub seq: i64,
}

/// Records a request as applied.
///
/// # Errors
/// The database's.
pub async fn record(conn: &mut PgConnection, company: &str, request: &RequestWrite<'_>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO promote_requests (company_id, request_key, request_id, requested_at, version, outcome, seq) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        company,
        request.request_key,
        request.request_id,
        request.requested_at,
        request.version,
        request.outcome,
        request.seq
    )
    .execute(conn)
    .await
    .map(|_| ())
}
