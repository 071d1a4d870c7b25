//! The bookkeeping of an ingest: ledger, batch names, events and counters, in one statement.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::transactions::Columns;

/// What the ledger knows of a batch's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRow {
    pub company_id: String,
    pub batch_signature: String,
    pub batch_id: String,
    pub as_of: DateTime<Utc>,
    pub seq: i64,
}

/// Those of the given (company, signature) pairs that the ledger knows.
///
/// # Errors
/// The database's.
pub async fn look_up(conn: &mut PgConnection, companies: &[&str], signatures: &[&str]) -> Result<Vec<LedgerRow>, sqlx::Error> {
    sqlx::query_as!(
        LedgerRow,
        "SELECT b.company_id, b.batch_signature, b.batch_id, b.as_of, b.seq
         FROM UNNEST($1::text[], $2::text[]) AS k (company_id, batch_signature)
         JOIN ingest_batches b ON b.company_id = k.company_id AND b.batch_signature = k.batch_signature",
        companies as &[&str],
        signatures as &[&str]
    )
    .fetch_all(conn)
    .await
}

/// A ledger entry as it is to stand. Of an entry that exists only `as_of`, `seq` and `deliveries` are taken.
#[derive(Clone, Copy, Debug)]
pub struct LedgerWrite<'a> {
    pub company_id: &'a str,
    pub batch_signature: &'a str,
    pub batch_id: &'a str,
    pub as_of: DateTime<Utc>,
    pub seq: i64,
    pub row_count: i32,
    pub bad_count: i32,
    /// How many more deliveries than the entry knows.
    pub deliveries: i32,
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
}

/// Another name for known content.
#[derive(Clone, Copy, Debug)]
pub struct NameWrite<'a> {
    pub company_id: &'a str,
    pub batch_id: &'a str,
    pub batch_signature: &'a str,
}

/// An event to be relayed.
#[derive(Clone, Debug)]
pub struct EventWrite<'a> {
    pub event_type: &'static str,
    pub company_id: &'a str,
    pub payload: Value,
    pub traceparent: Option<&'a str>,
}

/// A company's counters as they are to stand.
#[derive(Clone, Copy, Debug)]
pub struct StateWrite<'a> {
    pub company_id: &'a str,
    pub seq: i64,
    pub pending_seq: i64,
    pub active_seq: i64,
    pub changed_seq: i64,
    pub ruleset_version: i32,
}

/// All of it. One statement, because each costs a round trip under the companies' locks.
#[derive(Debug, Default)]
pub struct Books<'a> {
    pub ledger: Vec<LedgerWrite<'a>>,
    pub names: Vec<NameWrite<'a>>,
    pub events: Vec<EventWrite<'a>>,
    pub states: Vec<StateWrite<'a>>,
}

/// Writes the books. Ledger entries and states: each at most once.
///
/// # Errors
/// The database's.
pub async fn write(conn: &mut PgConnection, books: &Books<'_>) -> Result<(), sqlx::Error> {
    let ledger = Columns { rows: &books.ledger };
    let names = Columns { rows: &books.names };
    let events = Columns { rows: &books.events };
    let states = Columns { rows: &books.states };
    sqlx::query!(
        r#"WITH ledger AS (
               INSERT INTO ingest_batches AS b (company_id, batch_signature, batch_id, as_of, seq, row_count, bad_count, deliveries, topic, partition, "offset")
               SELECT * FROM UNNEST($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::bigint[], $6::int[], $7::int[], $8::int[], $9::text[], $10::int[], $11::bigint[])
               ON CONFLICT (company_id, batch_signature) DO UPDATE SET
                   as_of = EXCLUDED.as_of, seq = EXCLUDED.seq, deliveries = b.deliveries + EXCLUDED.deliveries
           ), names AS (
               INSERT INTO ingest_batch_ids (company_id, batch_id, batch_signature)
               SELECT * FROM UNNEST($12::text[], $13::text[], $14::text[]) ON CONFLICT DO NOTHING
           ), events AS (
               INSERT INTO outbox_events (event_type, company_id, payload, traceparent)
               SELECT * FROM UNNEST($15::text[], $16::text[], $17::jsonb[], $18::text[])
           )
           UPDATE company_state s SET seq = u.seq, pending_seq = u.pending_seq, active_seq = u.active_seq, changed_seq = u.changed_seq,
                                      ruleset_version = u.ruleset_version, updated_at = now()
           FROM UNNEST($19::text[], $20::bigint[], $21::bigint[], $22::bigint[], $23::bigint[], $24::int[])
                AS u (company_id, seq, pending_seq, active_seq, changed_seq, ruleset_version)
           WHERE s.company_id = u.company_id"#,
        &ledger.of(|r| r.company_id) as &[&str],
        &ledger.of(|r| r.batch_signature) as &[&str],
        &ledger.of(|r| r.batch_id) as &[&str],
        &ledger.of(|r| r.as_of),
        &ledger.of(|r| r.seq),
        &ledger.of(|r| r.row_count),
        &ledger.of(|r| r.bad_count),
        &ledger.of(|r| r.deliveries),
        &ledger.of(|r| r.topic) as &[&str],
        &ledger.of(|r| r.partition),
        &ledger.of(|r| r.offset),
        &names.of(|r| r.company_id) as &[&str],
        &names.of(|r| r.batch_id) as &[&str],
        &names.of(|r| r.batch_signature) as &[&str],
        &events.of(|r| r.event_type) as &[&str],
        &events.of(|r| r.company_id) as &[&str],
        &events.of(|r| &r.payload) as &[&Value],
        &events.of(|r| r.traceparent) as &[Option<&str>],
        &states.of(|r| r.company_id) as &[&str],
        &states.of(|r| r.seq),
        &states.of(|r| r.pending_seq),
        &states.of(|r| r.active_seq),
        &states.of(|r| r.changed_seq),
        &states.of(|r| r.ruleset_version),
    )
    .execute(conn)
    .await
    .map(|_| ())
}
