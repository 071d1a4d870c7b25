//! Statements against outbox tables: Kylo's own and those of others, whose names come from configuration.
//!
//! Called by [`crate::flow::relay`]. The names are quoted, the values are parameters, and for a foreign table every name was found in
//! information_schema first ([`mod@inspect`]). Each call is one statement outside any transaction: an idle relay must be near silent, and nothing is
//! locked while Kafka is waited for. What must never happen here: a row passed over because its id is below one that was seen (its
//! transaction may commit late), or a row marked that was not asked for.

mod detect;
pub mod history;
mod inspect;
mod text;

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, PgPool, Row};

use super::pools::{PATIENCE, within};
use crate::domain::outbox::{Outbox, OutboxRow};
pub use inspect::{Inspected, inspect};
pub use text::Statements;

/// Bytes of payload, as they are stored, after which a claim takes no more rows. One row is always taken.
const MOST_BYTES: i64 = 8 << 20;

/// `host:port/database` of a connection string: says which database it is without saying the login.
///
/// # Errors
/// `Configuration` if it cannot be parsed.
pub fn database_name(dsn: &str) -> Result<String, sqlx::Error> {
    let options: PgConnectOptions = dsn.parse()?;
    let host = options.get_socket().map_or_else(|| options.get_host().to_owned(), |path| path.display().to_string());
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    Ok(format!("{host}:{}/{database}", options.get_port()))
}

/// The next rows in order, without those with an id in `but` or an order key in `but_keys`.
///
/// # Errors
/// The database's.
pub async fn claim(pool: &PgPool, statements: &Statements, but: &[String], but_keys: &[String], limit: i64) -> Result<Vec<OutboxRow>, sqlx::Error> {
    let asked = async {
        // Planned anew each time: a plan made while the table was empty would read all of a full one.
        let query = sqlx::query(AssertSqlSafe(statements.claim.clone())).persistent(false);
        query.bind(but).bind(but_keys).bind(limit).bind(MOST_BYTES).fetch_all(pool).await
    };
    within(PATIENCE, asked).await?.iter().map(|row| read(row, statements.payload_is_bytes)).collect()
}

/// These rows, marked or not, as far as they are there.
///
/// # Errors
/// The database's.
pub async fn rows(pool: &PgPool, statements: &Statements, ids: &[String]) -> Result<Vec<OutboxRow>, sqlx::Error> {
    let asked = sqlx::query(AssertSqlSafe(statements.by_id.clone())).persistent(false).bind(ids).fetch_all(pool);
    within(PATIENCE, asked).await?.iter().map(|row| read(row, statements.payload_is_bytes)).collect()
}

fn read(row: &PgRow, payload_is_bytes: bool) -> Result<OutboxRow, sqlx::Error> {
    let payload = if payload_is_bytes { row.try_get("payload")? } else { row.try_get::<Option<String>, _>("payload")?.map(String::into_bytes) };
    Ok(OutboxRow {
        id: row.try_get("id")?,
        event_id: row.try_get("event_id")?,
        event_type: row.try_get("event_type")?,
        key: row.try_get("order_key")?,
        company: row.try_get("company")?,
        payload,
        topic: row.try_get("topic")?,
        traceparent: row.try_get("traceparent")?,
        correlation_id: row.try_get("correlation_id")?,
    })
}

/// Says of these rows that they were published. Rows that are marked already, or gone, stay so. `is_soon`: whether the mark may be forgotten by a
/// server that crashes.
///
/// # Errors
/// The database's.
pub async fn mark(pool: &PgPool, statements: &Statements, ids: &[String], is_soon: bool) -> Result<(), sqlx::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    let text = if is_soon { &statements.mark_soon } else { &statements.mark };
    let marked = sqlx::query(AssertSqlSafe(text.clone())).persistent(false).bind(ids).execute(pool);
    within(PATIENCE, async { marked.await.map(drop) }).await
}

/// Says of a row that it was given up, where the table has a word for that.
///
/// # Errors
/// The database's.
pub async fn mark_failed(pool: &PgPool, statements: &Statements, id: &str) -> Result<(), sqlx::Error> {
    let Some(text) = &statements.fail else { return Ok(()) };
    let marked = sqlx::query(AssertSqlSafe(text.clone())).persistent(false).bind(vec![id.to_owned()]).execute(pool);
    within(PATIENCE, async { marked.await.map(drop) }).await
}

/// Which of these tables, all in one database, have rows to publish, and how old the oldest is in seconds (0 where that is not known). `but`: per
/// table the ids that do not count. One statement for all.
///
/// # Errors
/// The database's: also when only one of the tables cannot be read.
pub async fn waiting(pool: &PgPool, tables: &[(&Statements, Vec<String>)]) -> Result<Vec<(usize, f64)>, sqlx::Error> {
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    let parts: Vec<String> = tables.iter().enumerate().map(|(n, (statements, _))| statements.oldest(n)).collect();
    let asked = async {
        let mut query = sqlx::query(AssertSqlSafe(parts.join(" UNION ALL "))).persistent(false);
        for (_, but) in tables {
            query = query.bind(but);
        }
        query.fetch_all(pool).await
    };
    let rows = within(PATIENCE, asked).await?;
    rows.iter().map(|row| Ok((usize::try_from(row.try_get::<i32, _>("n")?).unwrap_or(usize::MAX), row.try_get("age")?))).collect()
}

/// The statements of Kylo's own table, whose types are known.
pub fn own(outbox: &Outbox) -> Statements {
    Statements::new(outbox, "bigint", false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_named_without_its_login() {
        let name = database_name("postgres://kylo:hunter2@db.example:6432/books?sslmode=require").unwrap();
        assert_eq!(name, "db.example:6432/books");
    }
}
