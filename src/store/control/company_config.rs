//! `control.company_config` and who is bound to which tab.

use sqlx::{PgConnection, PgPool};

use crate::domain::company::{Bound, CompanyRow, is_real};
use crate::store::pools::{PATIENCE, within};

/// All rows, as they are.
///
/// # Errors
/// The database's, also when it gives no answer within [`PATIENCE`].
pub async fn load(pool: &PgPool) -> Result<Vec<CompanyRow>, sqlx::Error> {
    within(PATIENCE, async { load_in(&mut *pool.acquire().await?).await }).await
}

/// The rows of real companies: all but the reserved one of `kylo selftest`.
///
/// # Errors
/// The database's, also when it gives no answer within [`PATIENCE`].
pub async fn load_real(pool: &PgPool) -> Result<Vec<CompanyRow>, sqlx::Error> {
    let mut rows = load(pool).await?;
    rows.retain(|row| is_real(&row.company_id));
    Ok(rows)
}

/// [`load`] on a connection of the caller's.
///
/// # Errors
/// The database's.
pub async fn load_in(connection: &mut PgConnection) -> Result<Vec<CompanyRow>, sqlx::Error> {
    sqlx::query_as!(
        CompanyRow,
        r#"SELECT company_id, db_dsn_rw, db_schema, spreadsheet_id, tab_pending, tab_active, xmin::text::bigint AS "version!"
           FROM control.company_config"#
    )
    .fetch_all(connection)
    .await
}

/// Whether the company is configured at this moment.
///
/// # Errors
/// The database's, also when it gives no answer within [`PATIENCE`].
pub async fn exists(pool: &PgPool, company: &str) -> Result<bool, sqlx::Error> {
    let ask = sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM control.company_config WHERE company_id = $1) AS "exists!""#, company);
    within(PATIENCE, ask.fetch_one(pool)).await
}

/// Who uses which tab now, by the titles the tabs were bound under. Titles are folded here and not by the database, whose `lower` depends on its
/// collation: the two sides of a comparison must be folded alike.
///
/// # Errors
/// The database's, also when it gives no answer within [`PATIENCE`].
pub async fn bound(pool: &PgPool) -> Result<Bound, sqlx::Error> {
    let read = sqlx::query!("SELECT company_id, spreadsheet_id, configured_title FROM control.sheet_tabs").fetch_all(pool);
    let rows = within(PATIENCE, read).await?;
    Ok(rows.into_iter().map(|row| ((row.spreadsheet_id, row.configured_title.to_lowercase()), row.company_id)).collect())
}
