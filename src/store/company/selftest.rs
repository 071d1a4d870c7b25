//! The reserved company of `kylo selftest`: has its batch arrived, and away with it.

use sqlx::PgConnection;

use crate::domain::company::SELFTEST_COMPANY;

/// Whether the batch is in the ledger, and its transaction decided.
///
/// # Errors
/// The company database's.
pub async fn has_arrived(conn: &mut PgConnection, batch_id: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM ingest_batches b JOIN transactions t ON t.company_id = b.company_id AND t.batch_signature = b.batch_signature
                          JOIN pending_txns p ON p.company_id = t.company_id AND p.txn_uid = t.txn_uid
                          WHERE b.company_id = $1 AND b.batch_id = $2) AS "arrived!""#,
        SELFTEST_COMPANY,
        batch_id,
    )
    .fetch_one(conn)
    .await
}

/// Deletes what selftests have left in the books of the reserved company, and of nobody else.
///
/// # Errors
/// The company database's.
pub async fn tidy(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM pending_txns WHERE company_id = $1", SELFTEST_COMPANY).execute(&mut *conn).await?;
    sqlx::query!("DELETE FROM transactions WHERE company_id = $1", SELFTEST_COMPANY).execute(&mut *conn).await?;
    sqlx::query!("DELETE FROM ingest_batch_ids WHERE company_id = $1", SELFTEST_COMPANY).execute(&mut *conn).await?;
    sqlx::query!("DELETE FROM ingest_batches WHERE company_id = $1", SELFTEST_COMPANY).execute(&mut *conn).await?;
    Ok(())
}
