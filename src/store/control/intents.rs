//! `control.sheet_intents`: what was about to be sent, written before it is sent, and what became of it.
//!
//! What must never happen here: a settled intent changing again; every statement names the states it starts from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::PATIENCE;
use crate::domain::plan::TypedCells;
use crate::domain::sheet::Request;
use crate::domain::tab::Role;
use crate::store::pools::within;

/// One tab of an intent: all that is needed to confirm it later, without the operations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntentTab {
    pub company: String,
    pub role: Role,
    /// As company_config names it.
    pub configured_title: String,
    pub title: String,
    pub sheet_id: i32,
    /// Postgres' seq that the tab shows afterwards; -1 if the plan was cut by the size of a batch.
    pub seq: i64,
    /// Postgres' answer_seq whose answers the tab shows afterwards.
    pub answer_seq: i64,
    pub signature: String,
    pub row_count: usize,
}

/// People's cells as read, by company.
pub type TypedByCompany = BTreeMap<String, TypedCells>;

/// An intent whose outcome is not settled.
#[derive(Clone, Debug)]
pub struct OpenIntent {
    pub intent_id: Uuid,
    pub generation: i64,
    pub state: String,
    pub tabs: Json<Vec<IntentTab>>,
    pub typed: Option<Json<TypedByCompany>>,
}

/// A new intent.
#[derive(Clone, Debug)]
pub struct NewIntent<'a> {
    pub intent_id: Uuid,
    pub spreadsheet_id: &'a str,
    pub generation: i64,
    pub holder: Uuid,
    pub tabs: &'a [IntentTab],
    pub operations: &'a [Request],
    /// What people had typed, as read before it was planned.
    pub typed: &'a TypedByCompany,
    /// What was remembered of it before that read, by company.
    pub known: BTreeMap<&'a str, &'a TypedCells>,
}

/// Writes an intent in state `planned`. Earlier ones of the spreadsheet that are not settled give up their operations: what is compared later is the
/// fence, and an outage must not fill the disk.
///
/// # Errors
/// The database's.
pub async fn insert(connection: &mut PgConnection, intent: &NewIntent<'_>) -> Result<(), sqlx::Error> {
    let mut companies: Vec<String> = intent.tabs.iter().map(|tab| tab.company.clone()).collect();
    companies.dedup();
    sqlx::query!(
        "INSERT INTO control.sheet_intents (intent_id, spreadsheet_id, generation, state, holder, companies, tabs, operations, typed)
         VALUES ($1, $2, $3, 'planned', $4, $5, $6, $7, $8)",
        intent.intent_id,
        intent.spreadsheet_id,
        intent.generation,
        intent.holder,
        &companies,
        Json(intent.tabs) as _,
        Json(intent.operations) as _,
        Json(intent.typed) as _
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "UPDATE control.sheet_intents SET operations = NULL
         WHERE spreadsheet_id = $1 AND intent_id <> $2 AND operations IS NOT NULL AND state IN ('planned', 'sent', 'in_doubt')",
        intent.spreadsheet_id,
        intent.intent_id
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Spreadsheets with intents that are not settled.
///
/// # Errors
/// The database's.
pub async fn unsettled(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    within(PATIENCE, async {
        sqlx::query_scalar!("SELECT DISTINCT spreadsheet_id FROM control.sheet_intents WHERE state IN ('planned', 'sent', 'in_doubt')")
            .fetch_all(pool)
            .await
    })
    .await
}

/// The unsettled intents of a spreadsheet, oldest first.
///
/// # Errors
/// The database's.
pub async fn open(pool: &PgPool, spreadsheet: &str) -> Result<Vec<OpenIntent>, sqlx::Error> {
    within(PATIENCE, async {
        sqlx::query_as!(
            OpenIntent,
            r#"SELECT intent_id, generation, state, tabs AS "tabs: Json<Vec<IntentTab>>",
                  typed AS "typed: Json<TypedByCompany>" FROM control.sheet_intents
           WHERE spreadsheet_id = $1 AND state IN ('planned', 'sent', 'in_doubt') ORDER BY created_at"#,
            spreadsheet
        )
        .fetch_all(pool)
        .await
    })
    .await
}

/// planned -> sent. False = a successor has taken the generation meanwhile: the batch must not be sent.
///
/// # Errors
/// The database's.
pub async fn mark_sent(pool: &PgPool, intent: Uuid) -> Result<bool, sqlx::Error> {
    within(PATIENCE, async {
        let done =
            sqlx::query!("UPDATE control.sheet_intents SET state = 'sent', sent_at = now() WHERE intent_id = $1 AND state = 'planned'", intent)
                .execute(pool)
                .await?;
        Ok(done.rows_affected() == 1)
    })
    .await
}

/// sent -> in_doubt.
///
/// # Errors
/// The database's.
pub async fn mark_in_doubt(pool: &PgPool, intent: Uuid, reason: &str) -> Result<(), sqlx::Error> {
    within(PATIENCE, async {
        sqlx::query!("UPDATE control.sheet_intents SET state = 'in_doubt', reason = $2 WHERE intent_id = $1 AND state = 'sent'", intent, reason)
            .execute(pool)
            .await?;
        Ok(())
    })
    .await
}

/// Settles an intent as `confirmed`, `refused`, `superseded` or `abandoned` and drops its operations. False = it was settled already.
///
/// # Errors
/// The database's.
pub async fn settle(connection: &mut PgConnection, intent: Uuid, state: &str, reason: Option<&str>) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "UPDATE control.sheet_intents SET state = $2, reason = coalesce($3, reason), operations = NULL, settled_at = now()
         WHERE intent_id = $1 AND state IN ('planned', 'sent', 'in_doubt')",
        intent,
        state,
        reason
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// planned -> abandoned, unless its holder has sent it meanwhile. False = it must be settled by the fence.
///
/// # Errors
/// The database's.
pub async fn abandon(pool: &PgPool, intent: Uuid) -> Result<bool, sqlx::Error> {
    within(PATIENCE, async {
        let done = sqlx::query!(
            "UPDATE control.sheet_intents SET state = 'abandoned', reason = 'never sent', operations = NULL, settled_at = now()
         WHERE intent_id = $1 AND state = 'planned'",
            intent
        )
        .execute(pool)
        .await?;
        Ok(done.rows_affected() == 1)
    })
    .await
}

/// Abandons the unsettled intents, a day old, of spreadsheets that are not among those posted to: nobody reads their fence any more. Should such a
/// spreadsheet come back, its tabs are compared and the next batch carries the same fence id, so nothing can land twice.
///
/// # Errors
/// The database's.
pub async fn abandon_unrouted(pool: &PgPool, posted: &[String]) -> Result<(), sqlx::Error> {
    within(PATIENCE, async {
    sqlx::query!(
        "UPDATE control.sheet_intents SET state = 'abandoned', reason = 'its spreadsheet is no company''s any more', operations = NULL, settled_at = now()
         WHERE state IN ('planned', 'sent', 'in_doubt') AND created_at < now() - interval '1 day' AND spreadsheet_id <> ALL($1)",
        posted
    )
    .execute(pool)
    .await?;
    Ok(())
    })
    .await
}
