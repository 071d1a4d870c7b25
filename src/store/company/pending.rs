//! `pending_txns`: what no rule decided. Open rows are what the Pending tab shows.

use chrono::NaiveDate;
use sqlx::PgConnection;
use uuid::Uuid;

use super::transactions::Columns;

/// A row as it is to stand.
#[derive(Clone, Debug)]
pub struct PendingWrite<'a> {
    pub company_id: &'a str,
    pub txn_uid: Uuid,
    pub first_seen_batch: &'a str,
    pub last_seen_batch: &'a str,
    pub occurred_on: NaiveDate,
    pub description: &'a str,
    pub description_norm: &'a str,
    pub amount_cents: i64,
    pub open: bool,
    /// Hex SHA-256 over what the tab shows.
    pub row_checksum: String,
    pub seq: i64,
    pub resolved_seq: Option<i64>,
}

/// Writes rows, each transaction at most once. An answer stands until the row is resolved, reopened, or describes something else.
///
/// # Errors
/// The database's.
pub async fn upsert(conn: &mut PgConnection, rows: &[PendingWrite<'_>]) -> Result<(), sqlx::Error> {
    let column = Columns { rows };
    sqlx::query!(
        r#"INSERT INTO pending_txns AS p (company_id, txn_uid, first_seen_batch, last_seen_batch, occurred_on, description, description_norm,
                                          amount_cents, status, row_checksum, seq, resolved_seq)
           SELECT * FROM UNNEST($1::text[], $2::uuid[], $3::text[], $4::text[], $5::date[], $6::text[], $7::text[], $8::bigint[], $9::text[],
                                $10::text[], $11::bigint[], $12::bigint[])
           ON CONFLICT (company_id, txn_uid) DO UPDATE SET
               last_seen_batch = EXCLUDED.last_seen_batch, occurred_on = EXCLUDED.occurred_on, description = EXCLUDED.description,
               description_norm = EXCLUDED.description_norm, amount_cents = EXCLUDED.amount_cents, status = EXCLUDED.status,
               row_checksum = EXCLUDED.row_checksum, seq = EXCLUDED.seq, resolved_seq = EXCLUDED.resolved_seq, updated_at = now(),
               answer = CASE WHEN p.status = EXCLUDED.status AND p.description = EXCLUDED.description THEN p.answer ELSE '' END,
               answer_input = CASE WHEN p.status = EXCLUDED.status AND p.description = EXCLUDED.description THEN p.answer_input END"#,
        &column.of(|r| r.company_id) as &[&str],
        &column.of(|r| r.txn_uid),
        &column.of(|r| r.first_seen_batch) as &[&str],
        &column.of(|r| r.last_seen_batch) as &[&str],
        &column.of(|r| r.occurred_on),
        &column.of(|r| r.description) as &[&str],
        &column.of(|r| r.description_norm) as &[&str],
        &column.of(|r| r.amount_cents),
        &column.of(|r| if r.open { "open" } else { "resolved" }) as &[&str],
        &column.of(|r| r.row_checksum.as_str()) as &[&str],
        &column.of(|r| r.seq),
        &column.of(|r| r.resolved_seq) as &[Option<i64>],
    )
    .execute(conn)
    .await
    .map(|_| ())
}
