//! `matched_txns`: the queue for whoever posts the money.

use sqlx::PgConnection;
use uuid::Uuid;

use super::transactions::Columns;

/// A match as it is to stand.
#[derive(Clone, Copy, Debug)]
pub struct MatchWrite<'a> {
    pub company_id: &'a str,
    pub txn_uid: Uuid,
    pub rule_id: Uuid,
    pub ruleset_version: i32,
    pub target_sheet: &'a str,
    pub target_header: &'a str,
    pub amount_cents: i64,
    pub revision: i32,
    /// `queued` or `withdrawn`; only the consumer of the queue writes `taken`.
    pub state: &'static str,
    pub seq: i64,
}

/// Writes matches, each transaction at most once.
///
/// # Errors
/// The database's.
pub async fn upsert(conn: &mut PgConnection, rows: &[MatchWrite<'_>]) -> Result<(), sqlx::Error> {
    let column = Columns { rows };
    sqlx::query!(
        r#"INSERT INTO matched_txns (company_id, txn_uid, rule_id, ruleset_version, target_sheet, target_header, amount_cents, revision, state, seq)
           SELECT * FROM UNNEST($1::text[], $2::uuid[], $3::uuid[], $4::int[], $5::text[], $6::text[], $7::bigint[], $8::int[], $9::text[], $10::bigint[])
           ON CONFLICT (company_id, txn_uid) DO UPDATE SET
               rule_id = EXCLUDED.rule_id, ruleset_version = EXCLUDED.ruleset_version, target_sheet = EXCLUDED.target_sheet,
               target_header = EXCLUDED.target_header, amount_cents = EXCLUDED.amount_cents, revision = EXCLUDED.revision,
               state = EXCLUDED.state, seq = EXCLUDED.seq, updated_at = now()"#,
        &column.of(|r| r.company_id) as &[&str],
        &column.of(|r| r.txn_uid),
        &column.of(|r| r.rule_id),
        &column.of(|r| r.ruleset_version),
        &column.of(|r| r.target_sheet) as &[&str],
        &column.of(|r| r.target_header) as &[&str],
        &column.of(|r| r.amount_cents),
        &column.of(|r| r.revision),
        &column.of(|r| r.state) as &[&str],
        &column.of(|r| r.seq),
    )
    .execute(conn)
    .await
    .map(|_| ())
}
