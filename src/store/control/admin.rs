//! `kylo company`: rows of `control.company_config` as an operator changes them.
//!
//! What must never happen here: two companies in one tab. So a change is checked against all other rows under a lock on the table.

use std::sync::Arc;

use sqlx::{PgConnection, PgPool};

use super::company_config;
use crate::domain::company::{self, Cause, CompanyRow, Route, Unroutable};
use crate::domain::ids::CompanyId;

/// What `company set` asks for. `None` keeps what the row has.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub dsn: Option<crate::domain::company::Dsn>,
    pub schema: Option<String>,
    pub spreadsheet: Option<String>,
    pub tab_pending: Option<String>,
    pub tab_active: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Set {
    Created,
    Changed,
    Unchanged,
    /// Nothing was written. It says what to change.
    Refused(Unroutable),
}

/// The row as it would be, before anything is written: so that the company's database is tried first.
///
/// # Errors
/// The control database's.
pub async fn preview(pool: &PgPool, id: &CompanyId, change: &Change) -> Result<Result<Arc<Route>, Unroutable>, sqlx::Error> {
    let mut rows = company_config::load(pool).await?;
    let mut row = rows.iter().position(|row| row.company_id == id.as_str()).map_or_else(|| empty(id), |at| rows.swap_remove(at));
    apply(&mut row, change);
    rows.push(row);
    let mut routes = company::routes(&rows, &company::Bound::new());
    Ok(match routes.remove(id) {
        Some(answer) => answer,
        // Its own row was among them, under an id that was parsed before.
        None => Err(Unroutable { reason: format!("company {id} has no row"), cause: Cause::Incomplete, version: 0 }),
    })
}

/// Creates or changes a company's row, if the result is one that the workers can serve and nobody else's tab is in it.
///
/// # Errors
/// The control database's.
pub async fn set(pool: &PgPool, id: &CompanyId, change: &Change) -> Result<Set, sqlx::Error> {
    let mut tx = pool.begin().await?;
    // Two operators at once: each sees the other's row. Readers (the workers) are not kept waiting.
    sqlx::query("LOCK TABLE control.company_config IN SHARE ROW EXCLUSIVE MODE").execute(&mut *tx).await?;
    let mut rows = company_config::load_in(&mut tx).await?;
    let before = rows.iter().position(|row| row.company_id == id.as_str());
    let mut row = before.map_or_else(|| empty(id), |at| rows.swap_remove(at));
    let old = row.clone();
    apply(&mut row, change);
    rows.push(row.clone());
    // The tabs' present users are not asked: whoever comes second must choose another tab, bound or not.
    let routes = company::routes(&rows, &company::Bound::new());
    if let Some(Err(refused)) = routes.get(id) {
        return Ok(Set::Refused(refused.clone()));
    }
    if before.is_some() && row == old {
        return Ok(Set::Unchanged);
    }
    write(&mut tx, &row).await?;
    tx.commit().await?;
    Ok(if before.is_some() { Set::Changed } else { Set::Created })
}

/// Changes the company's row, or makes one. Not by ON CONFLICT, which needs a unique key on company_id alone: an adopted table may have another
/// key. The table's lock keeps two such writes apart.
async fn write(tx: &mut PgConnection, row: &CompanyRow) -> Result<(), sqlx::Error> {
    let changed = sqlx::query!(
        "UPDATE control.company_config SET db_dsn_rw = $2, db_schema = $3, spreadsheet_id = $4, tab_pending = $5, tab_active = $6, updated_at = now()
         WHERE company_id = $1",
        row.company_id,
        row.db_dsn_rw,
        row.db_schema,
        row.spreadsheet_id,
        row.tab_pending,
        row.tab_active,
    )
    .execute(&mut *tx)
    .await?;
    if changed.rows_affected() > 0 {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO control.company_config (company_id, db_dsn_rw, db_schema, spreadsheet_id, tab_pending, tab_active) VALUES ($1, $2, $3, $4, $5, $6)",
        row.company_id,
        row.db_dsn_rw,
        row.db_schema,
        row.spreadsheet_id,
        row.tab_pending,
        row.tab_active,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Takes the row away, and with it which tabs were its and what was wrong with it: else they would bind another company, or this one when it is
/// configured anew. The company's database and tabs stay as they are. `false` = there was none.
///
/// # Errors
/// The control database's; then nothing is changed.
pub async fn remove(pool: &PgPool, id: &CompanyId) -> Result<bool, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let done = sqlx::query!("DELETE FROM control.company_config WHERE company_id = $1", id.as_str()).execute(&mut *tx).await?;
    sqlx::query!("DELETE FROM control.sheet_tabs WHERE company_id = $1", id.as_str()).execute(&mut *tx).await?;
    sqlx::query!("DELETE FROM control.company_trouble WHERE company_id = $1", id.as_str()).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(done.rows_affected() > 0)
}

fn empty(id: &CompanyId) -> CompanyRow {
    let company_id = id.as_str().to_owned();
    CompanyRow { company_id, db_dsn_rw: None, db_schema: None, spreadsheet_id: None, tab_pending: None, tab_active: None, version: 0 }
}

fn apply(row: &mut CompanyRow, change: &Change) {
    let given = [
        (&mut row.db_dsn_rw, change.dsn.as_ref().map(|dsn| dsn.expose().to_owned())),
        (&mut row.db_schema, change.schema.clone()),
        (&mut row.spreadsheet_id, change.spreadsheet.clone()),
        (&mut row.tab_pending, change.tab_pending.clone()),
        (&mut row.tab_active, change.tab_active.clone()),
    ];
    for (column, value) in given {
        if value.is_some() {
            *column = value;
        }
    }
}
