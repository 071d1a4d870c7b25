//! Is a configured table what the configuration says? Asked of information_schema when the relay takes the table up, and again after trouble.
//!
//! What must never happen here: a table taken up whose marker is not what was configured. It would be published again and again, or never.

use std::collections::BTreeMap;

use sqlx::PgPool;

use super::detect;
use super::text::{Statements, quoted};
use crate::domain::outbox::{KeyFrom, Marker, Outbox};
use crate::store::pools::{PATIENCE, within};

/// What came of it.
#[derive(Clone, Debug)]
pub enum Inspected {
    /// With everything found that the configuration left open.
    Usable(Box<(Outbox, Statements)>),
    /// Every difference, for people.
    Wrong(Vec<String>),
}

/// Compares the table with its configuration.
///
/// # Errors
/// The database's.
pub async fn inspect(pool: &PgPool, outbox: &Outbox) -> Result<Inspected, sqlx::Error> {
    let columns = within(PATIENCE, columns(pool, outbox)).await?;
    let outbox = match detect::complete(outbox, &columns) {
        Ok(outbox) => outbox,
        Err(problems) => return Ok(Inspected::Wrong(problems)),
    };
    let facts = within(PATIENCE, Facts::read(pool, &outbox, columns)).await?;
    let problems = facts.problems(&outbox);
    if !problems.is_empty() {
        return Ok(Inspected::Wrong(problems));
    }
    let kind = |column: &str| facts.columns.get(column).map_or("text", String::as_str);
    let statements = Statements::new(&outbox, kind(&outbox.columns.id), kind(&outbox.columns.payload) == "bytea");
    Ok(Inspected::Usable(Box::new((outbox, statements))))
}

async fn columns(pool: &PgPool, outbox: &Outbox) -> Result<BTreeMap<String, String>, sqlx::Error> {
    let columns: Vec<(String, String)> =
        sqlx::query_as("SELECT column_name::text, data_type::text FROM information_schema.columns WHERE table_schema = $1 AND table_name = $2")
            .bind(&outbox.schema)
            .bind(&outbox.table)
            .fetch_all(pool)
            .await?;
    Ok(columns.into_iter().collect())
}

struct Facts {
    /// Column -> type, as information_schema has it.
    columns: BTreeMap<String, String>,
    /// The id alone is unique: marking by it marks one row.
    unique_id: bool,
    may_read: bool,
    may_mark: bool,
}

impl Facts {
    async fn read(pool: &PgPool, outbox: &Outbox, columns: BTreeMap<String, String>) -> Result<Self, sqlx::Error> {
        let table = format!("{}.{}", quoted(&outbox.schema), quoted(&outbox.table));
        let (unique_id,): (bool,) = sqlx::query_as(
            "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                            WHERE i.indrelid = $1::regclass AND i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL AND a.attname = $2)",
        )
        .bind(&table)
        .bind(&outbox.columns.id)
        .fetch_one(pool)
        .await?;
        let (may_read,): (bool,) = sqlx::query_as("SELECT has_table_privilege($1::text, 'SELECT')").bind(&table).fetch_one(pool).await?;
        let may_mark = match marker_column(&outbox.marker) {
            None => sqlx::query_as("SELECT has_table_privilege($1::text, 'DELETE')").bind(&table).fetch_one(pool).await?,
            // Asking about a column that is not there is an error; that it is not there is told anyway.
            Some(column) if !columns.contains_key(column) => (true,),
            Some(column) => {
                sqlx::query_as("SELECT has_column_privilege($1::text, $2::text, 'UPDATE')").bind(&table).bind(column).fetch_one(pool).await?
            }
        };
        let (may_mark,): (bool,) = may_mark;
        Ok(Self { columns, unique_id, may_read, may_mark })
    }

    fn problems(&self, outbox: &Outbox) -> Vec<String> {
        let table = format!("{}.{}", outbox.schema, outbox.table);
        let mut problems = Vec::new();
        for (role, column) in named(outbox) {
            if !self.columns.contains_key(column) {
                let known: Vec<_> = self.columns.keys().map(String::as_str).collect();
                problems.push(format!("{table} has no column {column:?} (configured as {role}); it has {}", known.join(", ")));
            }
        }
        if let (Some(column), wanted) = (marker_column(&outbox.marker), marker_types(&outbox.marker))
            && let Some(kind) = self.columns.get(column)
            && !wanted.contains(&kind.as_str())
        {
            problems.push(format!("marker {column:?} of {table} is of type {kind}, not {}", wanted.join(" or ")));
        }
        let id = &outbox.columns.id;
        if self.columns.get(id).is_some_and(|kind| matches!(kind.as_str(), "USER-DEFINED" | "ARRAY" | "json" | "jsonb")) {
            problems.push(format!("id {id:?} of {table} is of a type that cannot name rows: give the primary key"));
        } else if self.columns.contains_key(id) && !self.unique_id {
            problems.push(format!("id {id:?} of {table} has no unique index of its own: marking one row could mark others"));
        }
        if !self.may_read {
            problems.push(format!("this user may not SELECT from {table}"));
        }
        if !self.may_mark {
            let right = marker_column(&outbox.marker).map_or_else(|| "DELETE".to_owned(), |column| format!("UPDATE ({column})"));
            problems.push(format!("this user may not mark rows: GRANT {right} ON {table}"));
        }
        problems
    }
}

/// Every column that is configured, and as what.
fn named(outbox: &Outbox) -> Vec<(&'static str, &str)> {
    let columns = &outbox.columns;
    let mut named = vec![("id", columns.id.as_str()), ("payload", columns.payload.as_str())];
    let optional = [
        ("event_id", &columns.event_id),
        ("event_type", &columns.event_type),
        ("company_id", &columns.company),
        ("topic", &columns.topic),
        ("traceparent", &columns.traceparent),
        ("correlation_id", &columns.correlation_id),
        ("created_at", &columns.created_at),
    ];
    named.extend(optional.into_iter().filter_map(|(role, column)| Some((role, column.as_deref()?))));
    named.extend(columns.order.iter().map(|column| ("order", column.as_str())));
    if let KeyFrom::Column(column) = &outbox.key {
        named.push(("key", column));
    }
    named.extend(marker_column(&outbox.marker).map(|column| ("marker", column)));
    named
}

fn marker_column(marker: &Marker) -> Option<&str> {
    match marker {
        Marker::NullTimestamp { column } | Marker::Boolean { column } | Marker::Status { column, .. } => Some(column),
        Marker::Delete | Marker::Detect { .. } => None,
    }
}

fn marker_types(marker: &Marker) -> &'static [&'static str] {
    match marker {
        Marker::NullTimestamp { .. } => &["timestamp with time zone", "timestamp without time zone"],
        Marker::Boolean { .. } => &["boolean"],
        Marker::Status { .. } => &["text", "character varying", "character", "USER-DEFINED"],
        Marker::Delete | Marker::Detect { .. } => &[],
    }
}
