//! What Kylo's own outboxes have published and still keep, for `kylo backfill`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, PgPool, Row};

use super::read;
use super::text::Statements;
use crate::domain::outbox::{Outbox, OutboxRow};
use crate::store::pools::{PATIENCE, within};

/// Which events. `None` = all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Which {
    pub company: Option<String>,
    pub event_type: Option<String>,
    /// The part of the event type before its first dot: `batch`, `pending`, `rules`, `sheet`, `dead_letter`.
    pub aggregate_type: Option<String>,
    /// Created at or after this.
    pub since: Option<DateTime<Utc>>,
    /// Created before this.
    pub until: Option<DateTime<Utc>>,
}

/// How much there is in one outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    pub events: i64,
    /// As stored.
    pub bytes: i64,
    /// The newest of them: what comes later is not meant.
    pub last_seq: i64,
}

const FILTER: &str = "published_at IS NOT NULL AND ($1::text IS NULL OR company_id = $1) AND ($2::text IS NULL OR event_type = $2)
    AND ($3::text IS NULL OR split_part(event_type, '.', 1) = $3) AND ($4::timestamptz IS NULL OR created_at >= $4)
    AND ($5::timestamptz IS NULL OR created_at < $5)";

/// Counts.
///
/// # Errors
/// The database's.
pub async fn amount(pool: &PgPool, outbox: &Outbox, which: &Which) -> Result<Amount, sqlx::Error> {
    let table = table(outbox);
    let sql = format!(
        "SELECT count(*) AS events, coalesce(sum(pg_column_size(payload)), 0)::bigint AS bytes, coalesce(max(seq), 0) AS last_seq FROM {table} WHERE {FILTER}"
    );
    let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
    let asked = query.bind(&which.company).bind(&which.event_type).bind(&which.aggregate_type).bind(which.since).bind(which.until).fetch_one(pool);
    let row = within(PATIENCE, asked).await?;
    Ok(Amount { events: row.try_get("events")?, bytes: row.try_get("bytes")?, last_seq: row.try_get("last_seq")? })
}

/// The next events behind `after`, up to `last`, with their seqs.
///
/// # Errors
/// The database's.
pub async fn next(pool: &PgPool, outbox: &Outbox, which: &Which, after: i64, last: i64, limit: i64) -> Result<Vec<(i64, OutboxRow)>, sqlx::Error> {
    let shown = Statements::new(outbox, "bigint", false).shown;
    let sql = format!("SELECT {shown} FROM {} AS t WHERE {FILTER} AND seq > $6 AND seq <= $7 ORDER BY t.seq LIMIT $8", table(outbox));
    let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
    let query = query.bind(&which.company).bind(&which.event_type).bind(&which.aggregate_type).bind(which.since).bind(which.until);
    let rows = within(PATIENCE, query.bind(after).bind(last).bind(limit).fetch_all(pool)).await?;
    rows.iter()
        .map(|row| {
            let row = read(row, false)?;
            let seq = row.id.parse().map_err(|_| sqlx::Error::ColumnNotFound("seq".to_owned()))?;
            Ok((seq, row))
        })
        .collect()
}

fn table(outbox: &Outbox) -> String {
    format!("{}.{}", super::text::quoted(&outbox.schema), super::text::quoted(&outbox.table))
}
