//! `control.company_config` and who is bound to which tab.

use sqlx::{PgConnection, PgPool};

use crate::domain::company::{Bound, CompanyRow};

/// All rows, as they are.
///
/// # Errors
/// The database's.
pub async fn load(pool: &PgPool) -> Result<Vec<CompanyRow>, sqlx::Error> {
    load_in(&mut *pool.acquire().await?).await
}

/// The same on a connection of the caller's.
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
/// The database's.
pub async fn exists(pool: &PgPool, company: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM control.company_config WHERE company_id = $1) AS "exists!""#, company).fetch_one(pool).await
}

/// Who uses which tab now, by the titles the tabs were bound under.
///
/// # Errors
/// The database's.
pub async fn bound(pool: &PgPool) -> Result<Bound, sqlx::Error> {
    let rows =
        sqlx::query!("SELECT company_id, spreadsheet_id, lower(configured_title) AS \"title!\" FROM control.sheet_tabs").fetch_all(pool).await?;
    Ok(rows.into_iter().map(|row| ((row.spreadsheet_id, row.title), row.company_id)).collect())
}
