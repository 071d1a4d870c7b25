//! `control.sheet_tabs`: which tab is whose, up to which seq it was posted, and what people had typed in it when it was last read.

use serde_json::Value as Json;
use sqlx::types::Json as SqlJson;
use sqlx::{PgConnection, PgPool};

use super::PATIENCE;
use crate::domain::plan::{TypedCells, merge, merge_read, merge_seen};
use crate::store::error::describe;
use crate::store::pools::within;

/// A remembered tab.
#[derive(Clone, Debug)]
pub struct TabRow {
    pub company_id: String,
    pub role: String,
    pub spreadsheet_id: String,
    pub sheet_id: i32,
    pub configured_title: String,
    pub title: String,
    pub posted_seq: i64,
    /// Of a Pending tab: `company_state.answer_seq` whose answers it shows.
    pub answer_seq: i64,
}

/// All remembered tabs.
///
/// # Errors
/// The database's.
pub async fn all(pool: &PgPool) -> Result<Vec<TabRow>, sqlx::Error> {
    within(PATIENCE, async {
        sqlx::query_as!(
            TabRow,
            "SELECT company_id, role, spreadsheet_id, sheet_id, configured_title, title, posted_seq, answer_seq FROM control.sheet_tabs"
        )
        .fetch_all(pool)
        .await
    })
    .await
}

/// The seq that a tab was last known to show in full. A tab that is due for another reason than new content has -1 - that seq as its `posted_seq`, which
/// equals no seq; -1 = nothing is known of it.
pub fn shown_seq(posted_seq: i64) -> i64 {
    if posted_seq < -1 { -1 - posted_seq } else { posted_seq }
}

/// What is remembered of people's cells in a tab, at one instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    pub typed: TypedCells,
    /// The last post of its spreadsheet that was known to have landed.
    pub generation: i64,
}

/// People's cells of a tab as last read; empty if the tab is not remembered. To be loaded before the tab is looked at ([`merge_seen`]).
///
/// # Errors
/// The database's; `Decode`, with what to do about it, if it is not what Kylo writes there: that is this company's trouble alone.
pub async fn known(pool: &PgPool, company: &str, role: &str) -> Result<Known, sqlx::Error> {
    within(PATIENCE, async {
        let row = sqlx::query!(
            r#"SELECT t.typed AS "typed: SqlJson<TypedCells>", coalesce(s.confirmed_generation, 0) AS "generation!"
               FROM control.sheet_tabs t LEFT JOIN control.spreadsheets s USING (spreadsheet_id) WHERE t.company_id = $1 AND t.role = $2"#,
            company,
            role
        )
        .fetch_optional(pool)
        .await
        .map_err(|error| not_ours(company, error))?;
        Ok(row.map(|row| Known { typed: row.typed.0, generation: row.generation }).unwrap_or_default())
    })
    .await
}

/// Whether company_config names this spreadsheet and title now. A post that is settled long after it was sent may be one of a tab that the company
/// has left since: its newer binding, and what was typed there, must stay.
///
/// # Errors
/// The database's.
pub async fn is_configured(connection: &mut PgConnection, tab: &TabRow) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM control.company_config WHERE company_id = $1 AND spreadsheet_id = $2
                          AND CASE $3::text WHEN 'pending' THEN tab_pending ELSE tab_active END = $4::text) AS "is!""#,
        tab.company_id,
        tab.spreadsheet_id,
        tab.role,
        tab.configured_title
    )
    .fetch_one(connection)
    .await
}

/// Remembers a tab under the title that company_config names now. `posted_seq` -1 makes it due and keeps in mind what it showed ([`shown_seq`]). A tab
/// bound to another company is refused by the unique key `sheet_tabs_one_company_per_tab`. A company's own older binding of the same tab gives way. What
/// people had typed stays: in another tab, too, the rows come back with it.
///
/// # Errors
/// The database's.
pub async fn bind(connection: &mut PgConnection, tab: &TabRow) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "DELETE FROM control.sheet_tabs WHERE spreadsheet_id = $1 AND sheet_id = $2 AND company_id = $3 AND role <> $4",
        tab.spreadsheet_id,
        tab.sheet_id,
        tab.company_id,
        tab.role
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "INSERT INTO control.sheet_tabs AS t (company_id, role, spreadsheet_id, sheet_id, configured_title, title, posted_seq, answer_seq)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (company_id, role) DO UPDATE SET
             spreadsheet_id = excluded.spreadsheet_id, sheet_id = excluded.sheet_id, configured_title = excluded.configured_title,
             title = excluded.title, answer_seq = excluded.answer_seq, updated_at = now(),
             posted_seq = CASE WHEN excluded.posted_seq >= 0 OR t.spreadsheet_id <> excluded.spreadsheet_id OR t.sheet_id <> excluded.sheet_id
                               THEN excluded.posted_seq ELSE least(t.posted_seq, -1 - t.posted_seq) END",
        tab.company_id,
        tab.role,
        tab.spreadsheet_id,
        tab.sheet_id,
        tab.configured_title,
        tab.title,
        tab.posted_seq,
        tab.answer_seq
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Records up to which seq a tab shows Postgres; -1 makes it due.
///
/// # Errors
/// The database's.
pub async fn set_posted(connection: &mut PgConnection, company: &str, role: &str, sheet_id: i32, seq: i64) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE control.sheet_tabs SET posted_seq = $4, updated_at = now()
         WHERE company_id = $1 AND role = $2 AND sheet_id = $3 AND posted_seq <> $4",
        company,
        role,
        sheet_id,
        seq
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Makes every tab of a spreadsheet due: what we posted is no longer what it shows.
///
/// # Errors
/// The database's.
pub async fn set_all_due(pool: &PgPool, spreadsheet: &str) -> Result<(), sqlx::Error> {
    within(PATIENCE, async {
        sqlx::query!("UPDATE control.sheet_tabs SET posted_seq = -1 WHERE spreadsheet_id = $1", spreadsheet).execute(pool).await?;
        Ok(())
    })
    .await
}

/// Replaces what people had typed in a tab by what a post has `seen`, with what others have stored since `known` was before it ([`merge_seen`]).
///
/// # Errors
/// The database's.
pub async fn set_typed(connection: &mut PgConnection, company: &str, role: &str, known: &TypedCells, seen: &TypedCells) -> Result<(), sqlx::Error> {
    let Some(stored) = locked(connection, company, role).await? else { return Ok(()) };
    replace(connection, company, role, &merge_seen(known, &stored.typed, seen.clone())).await
}

/// Adds what was typed when a post was planned whose landing nobody saw. What has been read since then is the newer ([`merge`]).
///
/// # Errors
/// The database's.
pub async fn fill_typed(connection: &mut PgConnection, company: &str, role: &str, planned: &TypedCells) -> Result<(), sqlx::Error> {
    let Some(since) = locked(connection, company, role).await? else { return Ok(()) };
    replace(connection, company, role, &merge(planned, since.typed)).await
}

/// Adds what a read beside the posts (promote's) showed, row by row. What the next post must settle stays ([`merge_read`]).
///
/// # Errors
/// The database's.
pub async fn add_typed(pool: &PgPool, company: &str, role: &str, sheet_id: i32, known: &Known, read: &TypedCells) -> Result<(), sqlx::Error> {
    within(PATIENCE, async {
        let mut tx = pool.begin().await?;
        let stored = locked(&mut tx, company, role).await?;
        if let Some(stored) = stored.filter(|stored| stored.sheet_id == sheet_id) {
            let in_doubt = in_doubt(&mut tx, company, &stored.spreadsheet_id, known.generation).await?;
            replace(&mut tx, company, role, &merge_read(&known.typed, &stored.typed, read.clone(), in_doubt)).await?;
        }
        tx.commit().await
    })
    .await
}

/// Something but Kylo wrote there. It is not thrown away unasked: it may be what people typed.
fn not_ours(company: &str, error: sqlx::Error) -> sqlx::Error {
    if !matches!(error, sqlx::Error::ColumnDecode { .. }) {
        return error;
    }
    let reason = format!(
        "control.sheet_tabs.typed of company {company}, role pending, is not what Kylo writes there ({}): keep a copy, then set it to '{{}}'; rows that \
         people have deleted come back without what was typed in them",
        describe(&error)
    );
    sqlx::Error::Decode(reason.into())
}

async fn replace(connection: &mut PgConnection, company: &str, role: &str, typed: &TypedCells) -> Result<(), sqlx::Error> {
    let typed = serde_json::to_value(typed).unwrap_or(Json::Null);
    sqlx::query!(
        "UPDATE control.sheet_tabs SET typed = $3, updated_at = now() WHERE company_id = $1 AND role = $2 AND typed <> $3",
        company,
        role,
        typed
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What is remembered of a tab.
struct Stored {
    typed: TypedCells,
    spreadsheet_id: String,
    sheet_id: i32,
}

/// What is remembered of a tab, and is changed by nobody else until the transaction ends. `None` = nothing, or nothing that Kylo can read: that stays
/// as it is, and parks the company at the next look ([`known`]). What is being recorded here is of all companies of a post.
async fn locked(connection: &mut PgConnection, company: &str, role: &str) -> Result<Option<Stored>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT typed AS "typed: SqlJson<TypedCells>", spreadsheet_id, sheet_id FROM control.sheet_tabs
           WHERE company_id = $1 AND role = $2 FOR UPDATE"#,
        company,
        role
    )
    .fetch_optional(connection)
    .await;
    let row = match row {
        Err(sqlx::Error::ColumnDecode { .. }) => None,
        row => row?,
    };
    Ok(row.map(|row| Stored { typed: row.typed.0, spreadsheet_id: row.spreadsheet_id, sheet_id: row.sheet_id }))
}

/// Is a post of the company's tabs not settled, or has one of the spreadsheet landed since `generation` had? A statement of its own: it must see the
/// intents that were written while the lock was waited for.
async fn in_doubt(connection: &mut PgConnection, company: &str, spreadsheet: &str, generation: i64) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM control.sheet_intents
               WHERE spreadsheet_id = $1 AND state IN ('planned', 'sent', 'in_doubt') AND $2 = ANY (companies))
           OR EXISTS (SELECT FROM control.spreadsheets WHERE spreadsheet_id = $1 AND confirmed_generation <> $3) AS "is!""#,
        spreadsheet,
        company,
        generation
    )
    .fetch_one(connection)
    .await
}
