//! How far each `kylo backfill` is.

use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use super::PATIENCE;
use crate::store::pools::within;

/// One backfill.
#[derive(Clone, Debug, PartialEq)]
pub struct BackfillRow {
    pub plan: Value,
    pub positions: Value,
    pub published: i64,
    pub state: String,
}

/// Begins one; those that nobody went on with for 90 days are pruned.
///
/// # Errors
/// The control database's.
pub async fn begin(pool: &PgPool, id: Uuid, plan: &Value) -> Result<(), sqlx::Error> {
    let begun = async {
        sqlx::query!("DELETE FROM control.backfills WHERE updated_at < now() - interval '90 days'").execute(pool).await?;
        sqlx::query!("INSERT INTO control.backfills (backfill_id, plan) VALUES ($1, $2)", id, plan).execute(pool).await.map(drop)
    };
    within(PATIENCE, begun).await
}

/// `None` = there is no such backfill.
///
/// # Errors
/// The control database's.
pub async fn find(pool: &PgPool, id: Uuid) -> Result<Option<BackfillRow>, sqlx::Error> {
    let asked = sqlx::query_as!(BackfillRow, "SELECT plan, positions, published, state FROM control.backfills WHERE backfill_id = $1", id)
        .fetch_optional(pool);
    within(PATIENCE, asked).await
}

/// Everything up to these positions is sent.
///
/// # Errors
/// The control database's; then a resumed backfill sends the last part again.
pub async fn advance(pool: &PgPool, id: Uuid, positions: &Value, published: i64, state: &str) -> Result<(), sqlx::Error> {
    let written = sqlx::query!(
        "UPDATE control.backfills SET positions = $2, published = $3, state = $4, updated_at = now() WHERE backfill_id = $1",
        id,
        positions,
        published,
        state
    )
    .execute(pool);
    within(PATIENCE, async { written.await.map(drop) }).await
}
