//! What stands in the databases, asked as a person with psql would.

use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};

use super::world::World;

impl World {
    pub async fn control_number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.control.pool).await.unwrap()
    }

    /// A column of texts from the control database.
    pub async fn control_texts(&self, sql: &str) -> Vec<String> {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&self.control.pool).await.unwrap()
    }

    pub async fn control_execute(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.control.pool).await.unwrap();
    }

    pub async fn number(&self, company: &str, sql: &str) -> i64 {
        let mut tx = self.in_schema(company).await;
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut *tx).await.unwrap()
    }

    /// A column of texts from a company's schema.
    pub async fn texts(&self, company: &str, sql: &str) -> Vec<String> {
        let mut tx = self.in_schema(company).await;
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&mut *tx).await.unwrap()
    }

    pub async fn execute(&self, company: &str, sql: &str) {
        let mut tx = self.in_schema(company).await;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn in_schema(&self, company: &str) -> sqlx::Transaction<'static, sqlx::Postgres> {
        let place = self.place(company);
        let mut tx = place.pool.begin().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!("SET LOCAL search_path = {}", place.schema))).execute(&mut *tx).await.unwrap();
        tx
    }

    /// Every transaction is void, or open in pending, or live in matched: exactly one (I1); no open row has a rule in force (I11).
    pub async fn assert_decided_once(&self, company: &str) {
        let undecided = "SELECT count(*) FROM transactions t
            LEFT JOIN pending_txns p ON p.company_id = t.company_id AND p.txn_uid = t.txn_uid AND p.status = 'open'
            LEFT JOIN matched_txns m ON m.company_id = t.company_id AND m.txn_uid = t.txn_uid AND m.state <> 'withdrawn'
            WHERE t.void::int + (p.txn_uid IS NOT NULL)::int + (m.txn_uid IS NOT NULL)::int <> 1";
        assert_eq!(self.number(company, undecided).await, 0, "I1: transactions of {company} that are not exactly one of void, pending, matched");
        let ruled = "SELECT count(*) FROM pending_txns p JOIN rules_active r ON r.company_id = p.company_id AND r.source_norm = p.description_norm
                     WHERE p.status = 'open' AND p.description_norm <> ''";
        assert_eq!(self.number(company, ruled).await, 0, "I11: open rows of {company} that a rule decides");
    }
}

/// A pool of one connection to the server itself, for what cannot be done from inside a database.
pub async fn server() -> PgPool {
    PgPoolOptions::new().max_connections(1).connect(&super::database::server_dsn()).await.unwrap()
}
