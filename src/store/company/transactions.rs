//! `transactions`: what the bank said, and where each row stands.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

/// A transaction with what became of it: its Pending row and its match, if it ever had them.
#[derive(Clone, Debug)]
pub struct StoredTxn {
    pub company_id: String,
    pub txn_uid: Uuid,
    pub external_id: Option<String>,
    pub occurred_on: NaiveDate,
    pub amount_cents: i64,
    pub currency: String,
    pub description: String,
    pub memo: String,
    pub counterparty: String,
    pub occurrence: Option<i32>,
    pub void: bool,
    pub as_of: DateTime<Utc>,
    pub seq: i64,
    pub content_seq: i64,
    pub batch_signature: String,
    pub pending_open: Option<bool>,
    pub pending_first: Option<String>,
    pub pending_last: Option<String>,
    pub pending_seq: Option<i64>,
    pub pending_resolved: Option<i64>,
    pub match_state: Option<String>,
    pub match_rule: Option<Uuid>,
    pub match_version: Option<i32>,
    pub match_sheet: Option<String>,
    pub match_header: Option<String>,
    pub match_cents: Option<i64>,
    pub match_revision: Option<i32>,
}

/// Those of the given (company, transaction) pairs that exist.
///
/// # Errors
/// The database's.
pub async fn load(conn: &mut PgConnection, companies: &[&str], uids: &[Uuid]) -> Result<Vec<StoredTxn>, sqlx::Error> {
    sqlx::query_as!(
        StoredTxn,
        r#"SELECT t.company_id, t.txn_uid, t.external_id, t.occurred_on, t.amount_cents, t.currency, t.description, t.memo, t.counterparty,
                  t.occurrence, t.void, t.as_of, t.seq, t.content_seq, t.batch_signature,
                  p.status = 'open' AS "pending_open?", p.first_seen_batch AS "pending_first?", p.last_seen_batch AS "pending_last?",
                  p.seq AS "pending_seq?", p.resolved_seq AS "pending_resolved?",
                  m.state AS "match_state?", m.rule_id AS "match_rule?", m.ruleset_version AS "match_version?", m.target_sheet AS "match_sheet?",
                  m.target_header AS "match_header?", m.amount_cents AS "match_cents?", m.revision AS "match_revision?"
           FROM UNNEST($1::text[], $2::uuid[]) AS k (company_id, txn_uid)
           JOIN transactions t ON t.company_id = k.company_id AND t.txn_uid = k.txn_uid
           LEFT JOIN pending_txns p ON p.company_id = t.company_id AND p.txn_uid = t.txn_uid
           LEFT JOIN matched_txns m ON m.company_id = t.company_id AND m.txn_uid = t.txn_uid"#,
        companies as &[&str],
        uids
    )
    .fetch_all(conn)
    .await
}

/// A transaction as it is to stand.
#[derive(Clone, Copy, Debug)]
pub struct TxnWrite<'a> {
    pub company_id: &'a str,
    pub txn_uid: Uuid,
    pub external_id: Option<&'a str>,
    pub occurred_on: NaiveDate,
    pub amount_cents: i64,
    pub currency: &'a str,
    pub description: &'a str,
    pub memo: &'a str,
    pub counterparty: &'a str,
    pub occurrence: Option<i32>,
    pub void: bool,
    pub as_of: DateTime<Utc>,
    pub seq: i64,
    pub content_seq: i64,
    pub batch_signature: &'a str,
}

/// Writes rows, each transaction at most once. Sorted by (company, transaction), so that index pages are touched in order.
///
/// # Errors
/// The database's.
pub async fn upsert(conn: &mut PgConnection, rows: &[TxnWrite<'_>]) -> Result<(), sqlx::Error> {
    let column = Columns { rows };
    sqlx::query!(
        r#"INSERT INTO transactions (company_id, txn_uid, external_id, occurred_on, amount_cents, currency, description, memo, counterparty,
                                     occurrence, void, as_of, seq, content_seq, batch_signature)
           SELECT * FROM UNNEST($1::text[], $2::uuid[], $3::text[], $4::date[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[],
                                $10::int[], $11::bool[], $12::timestamptz[], $13::bigint[], $14::bigint[], $15::text[])
           ON CONFLICT (company_id, txn_uid) DO UPDATE SET
               occurred_on = EXCLUDED.occurred_on, amount_cents = EXCLUDED.amount_cents, currency = EXCLUDED.currency,
               description = EXCLUDED.description, memo = EXCLUDED.memo, counterparty = EXCLUDED.counterparty, void = EXCLUDED.void,
               as_of = EXCLUDED.as_of, content_seq = EXCLUDED.content_seq, batch_signature = EXCLUDED.batch_signature, updated_at = now()"#,
        &column.of(|r| r.company_id) as &[&str],
        &column.of(|r| r.txn_uid),
        &column.of(|r| r.external_id) as &[Option<&str>],
        &column.of(|r| r.occurred_on),
        &column.of(|r| r.amount_cents),
        &column.of(|r| r.currency) as &[&str],
        &column.of(|r| r.description) as &[&str],
        &column.of(|r| r.memo) as &[&str],
        &column.of(|r| r.counterparty) as &[&str],
        &column.of(|r| r.occurrence) as &[Option<i32>],
        &column.of(|r| r.void),
        &column.of(|r| r.as_of),
        &column.of(|r| r.seq),
        &column.of(|r| r.content_seq),
        &column.of(|r| r.batch_signature) as &[&str],
    )
    .execute(conn)
    .await
    .map(|_| ())
}

/// Rows as columns, for UNNEST.
pub(super) struct Columns<'r, R> {
    pub(super) rows: &'r [R],
}

impl<'r, R> Columns<'r, R> {
    pub(super) fn of<T>(&self, get: impl Fn(&'r R) -> T) -> Vec<T> {
        self.rows.iter().map(get).collect()
    }
}
