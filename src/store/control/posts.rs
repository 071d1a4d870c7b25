//! Confirming a post: intent, ledger (`control.sheet_posts`), event, `posted_seq` and generation, in one transaction.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::PATIENCE;
use super::intents::{self, IntentTab, TypedByCompany};
use super::tabs::{self, TabRow};
use crate::domain::plan::TypedCells;
use crate::domain::tab::Role;
use crate::store::pools::within;

/// A post that landed.
#[derive(Clone, Debug)]
pub struct Landed<'a> {
    pub intent_id: Uuid,
    pub spreadsheet_id: &'a str,
    pub generation: i64,
    pub tabs: &'a [IntentTab],
    /// People's cells as read when it was planned; `None` if that is not known any more.
    pub planned: Option<&'a TypedByCompany>,
    /// The same as the answer showed them. `None` = nobody has seen the tabs since: they stay due.
    pub seen: Option<&'a TypedByCompany>,
    /// The batch put another `_kylo` in place: nothing planned before it can land.
    pub new_epoch: bool,
    /// Sheet id and title of the `_kylo` that the batch wrote into; `None` leaves what is remembered.
    pub control_tab: Option<(i32, &'a str)>,
    pub at: DateTime<Utc>,
}

/// Confirms a post once, however often it is found to have landed. False = it was settled already.
///
/// # Errors
/// The database's.
pub async fn confirm(pool: &PgPool, landed: &Landed<'_>) -> Result<bool, sqlx::Error> {
    within(PATIENCE, confirm_in_time(pool, landed)).await
}

async fn confirm_in_time(pool: &PgPool, landed: &Landed<'_>) -> Result<bool, sqlx::Error> {
    let mut tx = pool.begin().await?;
    if !intents::settle(&mut tx, landed.intent_id, "confirmed", None).await? {
        return Ok(false);
    }
    // Whoever else carried this id, or an older one, can never land: this entry stands in their way.
    sqlx::query!(
        "UPDATE control.sheet_intents SET state = 'superseded', reason = 'another post took its generation', operations = NULL, settled_at = now()
         WHERE spreadsheet_id = $1 AND intent_id <> $2 AND (generation <= $3 OR $4) AND state IN ('planned', 'sent', 'in_doubt')",
        landed.spreadsheet_id,
        landed.intent_id,
        landed.generation,
        landed.new_epoch
    )
    .execute(&mut *tx)
    .await?;
    for tab in landed.tabs {
        record(&mut tx, landed, tab).await?;
    }
    sqlx::query!(
        "UPDATE control.spreadsheets SET confirmed_generation = $2, last_posted_at = $3, swept_at = coalesce(swept_at, $3), updated_at = now(),
             control_sheet_id = coalesce($4, control_sheet_id), control_title = coalesce($5, control_title)
         WHERE spreadsheet_id = $1",
        landed.spreadsheet_id,
        landed.generation,
        landed.at,
        landed.control_tab.map(|(sheet_id, _)| sheet_id),
        landed.control_tab.map(|(_, title)| title)
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(true)
}

async fn record(tx: &mut PgConnection, landed: &Landed<'_>, tab: &IntentTab) -> Result<(), sqlx::Error> {
    let posted_seq = if landed.seen.is_none() { -1 } else { tab.seq };
    let row = TabRow {
        company_id: tab.company.clone(),
        role: tab.role.as_str().to_owned(),
        spreadsheet_id: landed.spreadsheet_id.to_owned(),
        sheet_id: tab.sheet_id,
        configured_title: tab.configured_title.clone(),
        title: tab.title.clone(),
        posted_seq,
        answer_seq: tab.answer_seq,
    };
    let is_configured = tabs::is_configured(tx, &row).await?;
    if is_configured {
        tabs::bind(tx, &row).await?;
    }
    if is_configured && tab.role == Role::Pending {
        let (company, role) = (&tab.company, tab.role.as_str());
        let planned = landed.planned.and_then(|planned| planned.get(company));
        match (landed.seen.map(|seen| seen.get(company)), planned) {
            (Some(Some(seen)), planned) => tabs::set_typed(tx, company, role, planned.unwrap_or(&TypedCells::new()), seen).await?,
            (None, Some(planned)) => tabs::fill_typed(tx, company, role, planned).await?,
            (Some(None), _) | (None, None) => {}
        }
    }
    if tab.row_count == 0 {
        return Ok(());
    }
    let row_count = i32::try_from(tab.row_count).unwrap_or(i32::MAX);
    sqlx::query!(
        "INSERT INTO control.sheet_posts (company_id, tab_name, batch_signature, row_count, intent_id, generation, spreadsheet_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (company_id, batch_signature) DO NOTHING",
        tab.company,
        tab.title,
        tab.signature,
        row_count,
        landed.intent_id,
        landed.generation,
        landed.spreadsheet_id
    )
    .execute(&mut *tx)
    .await?;
    let payload = json!({
        "event_type": "sheet.posted",
        "version": 1,
        "company_id": tab.company,
        "spreadsheet_id": landed.spreadsheet_id,
        "tab": tab.title,
        "role": tab.role,
        "batch_signature": tab.signature,
        "row_count": row_count,
        "intent_id": landed.intent_id,
        "generation": landed.generation,
        "posted_at": landed.at,
    });
    sqlx::query!("INSERT INTO control.outbox_events (event_type, company_id, payload) VALUES ('sheet.posted', $1, $2)", tab.company, payload)
        .execute(tx)
        .await?;
    Ok(())
}
