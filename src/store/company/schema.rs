//! Which version a company schema has.

use sqlx::PgConnection;

/// The version of `ddl/company` that this build writes to. An older schema parks its company; a newer one is additive by rule.
pub const REQUIRED_VERSION: i32 = 1;

/// The highest migration that has been applied.
///
/// # Errors
/// The database's; 42P01 where the schema or the table is missing.
pub async fn version(conn: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar!("SELECT COALESCE(max(version), 0) AS \"version!\" FROM schema_migrations").fetch_one(conn).await
}
