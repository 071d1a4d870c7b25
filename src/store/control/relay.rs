//! The relay's own books: who works on which outbox (`control.relay_state`), and which rows were refused (`control.relay_rows`).
//!
//! Called by [`crate::flow::relay`] and by `kylo status`. What must never happen here: a row that needs seeding by hand, or a given up row
//! whose bytes are nowhere: its dead letter and its mark are written by one statement.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use uuid::Uuid;

use super::PATIENCE;
use crate::store::pools::within;

/// Channel in the control database, and in those of others, on which whoever has added to an outbox may say so.
pub const CHANNEL: &str = "kylo_outbox";

/// What a renewal says of one outbox.
#[derive(Clone, Debug)]
pub struct Renewal {
    pub source: String,
    pub schema: String,
    pub table: String,
    /// Published since the last renewal.
    pub published: i64,
    /// It was asked for waiting rows since the last renewal.
    pub polled: bool,
    /// `ok`, `waiting` or `stopped`.
    pub state: &'static str,
    pub reason: Option<String>,
}

/// Takes the leases that are free, renews ours, and tells what was done since the last time: one statement for all outboxes. Gives the names of
/// those that are ours now, for `seconds` on the database's clock, and whether they have refused rows.
///
/// # Errors
/// The control database's; then nothing was renewed.
pub async fn renew(pool: &PgPool, holder: Uuid, seconds: f64, renewals: &[Renewal]) -> Result<Vec<(String, bool)>, sqlx::Error> {
    let of = |pick: fn(&Renewal) -> String| renewals.iter().map(pick).collect::<Vec<_>>();
    let published: Vec<i64> = renewals.iter().map(|renewal| renewal.published).collect();
    let polled: Vec<bool> = renewals.iter().map(|renewal| renewal.polled).collect();
    let reasons: Vec<Option<String>> = renewals.iter().map(|renewal| renewal.reason.clone()).collect();
    let renewed = sqlx::query!(
        r#"INSERT INTO control.relay_state AS s (source, schema_name, table_name, lease_holder, leased_until, last_poll_time, last_publish_time,
                                                total_events_published, state, reason)
           SELECT i.source, i.schema_name, i.table_name, $1, now() + make_interval(secs => $2), CASE WHEN i.polled THEN now() END,
                  CASE WHEN i.published > 0 THEN now() END, i.published, i.state, i.reason
           FROM UNNEST($3::text[], $4::text[], $5::text[], $6::bigint[], $7::bool[], $8::text[], $9::text[])
                AS i (source, schema_name, table_name, published, polled, state, reason) ORDER BY i.source
           ON CONFLICT (source) DO UPDATE SET
               lease_holder = EXCLUDED.lease_holder, leased_until = EXCLUDED.leased_until,
               last_poll_time = coalesce(EXCLUDED.last_poll_time, s.last_poll_time),
               last_publish_time = coalesce(EXCLUDED.last_publish_time, s.last_publish_time),
               total_events_published = s.total_events_published + EXCLUDED.total_events_published,
               state = EXCLUDED.state, reason = EXCLUDED.reason, updated_at = now()
           WHERE s.lease_holder = $1 OR s.lease_holder IS NULL OR s.leased_until < now()
           RETURNING source, EXISTS (SELECT FROM control.relay_rows r WHERE r.source = s.source) AS "has_refused!""#,
        holder,
        seconds,
        &of(|renewal| renewal.source.clone()),
        &of(|renewal| renewal.schema.clone()),
        &of(|renewal| renewal.table.clone()),
        &published,
        &polled,
        &of(|renewal| renewal.state.to_owned()),
        &reasons as &[Option<String>],
    )
    .fetch_all(pool);
    Ok(within(PATIENCE, renewed).await?.into_iter().map(|row| (row.source, row.has_refused)).collect())
}

/// Gives our leases back, with what was done since they were renewed: a successor need not wait. Of each outbox its name, what was published, and
/// whether it was asked for waiting rows.
///
/// # Errors
/// The control database's: then the leases run out.
pub async fn release(pool: &PgPool, holder: Uuid, done: &[(String, i64, bool)]) -> Result<(), sqlx::Error> {
    let sources: Vec<String> = done.iter().map(|(source, ..)| source.clone()).collect();
    let published: Vec<i64> = done.iter().map(|(_, published, _)| *published).collect();
    let polled: Vec<bool> = done.iter().map(|(.., polled)| *polled).collect();
    let released = sqlx::query!(
        "UPDATE control.relay_state s SET lease_holder = NULL, leased_until = NULL, updated_at = now(),
                last_poll_time = CASE WHEN i.polled THEN now() ELSE s.last_poll_time END,
                last_publish_time = CASE WHEN i.published > 0 THEN now() ELSE s.last_publish_time END,
                total_events_published = s.total_events_published + coalesce(i.published, 0)
         FROM control.relay_state held LEFT JOIN UNNEST($2::text[], $3::bigint[], $4::bool[]) AS i (source, published, polled) ON i.source = held.source
         WHERE held.lease_holder = $1 AND s.source = held.source AND s.lease_holder = $1",
        holder,
        &sources,
        &published,
        &polled,
    )
    .execute(pool);
    within(PATIENCE, async { released.await.map(drop) }).await
}

/// Forgets outboxes that nobody asks for any more, but for those that another relay holds: it finds out by itself.
///
/// # Errors
/// The control database's.
pub async fn forget_outboxes(pool: &PgPool, holder: Uuid, sources: &[String]) -> Result<(), sqlx::Error> {
    if sources.is_empty() {
        return Ok(());
    }
    let forgotten = sqlx::query!(
        "DELETE FROM control.relay_state WHERE source = ANY($2) AND (lease_holder = $1 OR leased_until IS NULL OR leased_until < now())",
        holder,
        sources
    )
    .execute(pool);
    within(PATIENCE, async { forgotten.await.map(drop) }).await
}

/// A refused row.
#[derive(Clone, Debug, PartialEq)]
pub struct RefusedRow {
    pub source: String,
    pub row_id: String,
    pub order_key: Option<String>,
    pub attempts: i32,
    /// Until it is tried again; 0 or less = now.
    pub wait_seconds: f64,
    pub reason: String,
    pub letter_id: Option<i64>,
    /// The letter's, if there is one; `None` with a letter_id = it was pruned, long after it was settled.
    pub letter_state: Option<String>,
}

/// Every refused row of these outboxes.
///
/// # Errors
/// The control database's.
pub async fn refused(pool: &PgPool, sources: &[String]) -> Result<HashMap<String, Vec<RefusedRow>>, sqlx::Error> {
    let asked = sqlx::query_as!(
        RefusedRow,
        r#"SELECT r.source AS "source!", r.row_id AS "row_id!", r.order_key, r.attempts AS "attempts!",
                  extract(epoch FROM r.next_attempt_at - now())::float8 AS "wait_seconds!", r.reason AS "reason!", r.letter_id, l.state AS "letter_state?"
           FROM control.relay_rows r LEFT JOIN control.dead_letters l ON l.id = r.letter_id WHERE r.source = ANY($1)"#,
        sources,
    )
    .fetch_all(pool);
    let mut found: HashMap<String, Vec<RefusedRow>> = HashMap::new();
    for row in within(PATIENCE, asked).await? {
        found.entry(row.source.clone()).or_default().push(row);
    }
    Ok(found)
}

/// Counts a refusal, and when the row is tried again.
///
/// # Errors
/// The control database's.
pub async fn set_refused(pool: &PgPool, row: &RefusedRow) -> Result<(), sqlx::Error> {
    let written = sqlx::query!(
        "INSERT INTO control.relay_rows (source, row_id, order_key, attempts, next_attempt_at, reason)
         VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5), $6)
         ON CONFLICT (source, row_id) DO UPDATE
         SET attempts = EXCLUDED.attempts, next_attempt_at = EXCLUDED.next_attempt_at, reason = EXCLUDED.reason, failed_at = now()",
        row.source,
        row.row_id,
        row.order_key,
        row.attempts,
        row.wait_seconds,
        row.reason,
    )
    .execute(pool);
    within(PATIENCE, async { written.await.map(drop) }).await
}

/// Forgets refused rows: they were published, or their letters are settled and they are marked.
///
/// # Errors
/// The control database's.
pub async fn forget(pool: &PgPool, source: &str, ids: &[String]) -> Result<(), sqlx::Error> {
    let gone = sqlx::query!("DELETE FROM control.relay_rows WHERE source = $1 AND row_id = ANY($2)", source, ids).execute(pool);
    within(PATIENCE, async { gone.await.map(drop) }).await
}

/// Closes the letter of a row that was published after all, and forgets the row.
///
/// # Errors
/// The control database's; then the event is published once more.
pub async fn resolve(pool: &PgPool, source: &str, letter: i64, row_id: &str) -> Result<(), sqlx::Error> {
    let closed = sqlx::query!(
        "WITH closed AS (UPDATE control.dead_letters SET state = 'resolved', settled_at = now() WHERE id = $2 AND state <> 'discarded')
         DELETE FROM control.relay_rows WHERE source = $1 AND row_id = $3",
        source,
        letter,
        row_id
    )
    .execute(pool);
    within(PATIENCE, async { closed.await.map(drop) }).await
}

/// A replay was refused: the letter is new again and counts an attempt.
///
/// # Errors
/// The control database's.
pub async fn reopen(pool: &PgPool, letter: i64, reason: &str) -> Result<(), sqlx::Error> {
    let opened = sqlx::query!(
        "UPDATE control.dead_letters SET state = 'new', attempts = attempts + 1, last_seen_at = now(), reason = $2 WHERE id = $1 AND state = 'replaying'",
        letter,
        reason
    )
    .execute(pool);
    within(PATIENCE, async { opened.await.map(drop) }).await
}

/// The letter of an event that is given up.
#[derive(Clone, Debug)]
pub struct EventLetter {
    /// Where it would have gone; empty = no topic is known for it.
    pub topic: String,
    pub class: &'static str,
    pub company: Option<String>,
    pub key: Option<Vec<u8>>,
    pub headers: Value,
    pub payload: Option<Vec<u8>>,
    /// Nobody is told by an event of its own: it is about such an event.
    pub quiet: bool,
}

/// Gives a row up: its letter, its entry here and the event that tells of it, in one statement. Gives the letter's id.
///
/// # Errors
/// The control database's; then nothing was written.
pub async fn give_up(pool: &PgPool, row: &RefusedRow, letter: &EventLetter) -> Result<i64, sqlx::Error> {
    let sha = Sha256::digest(letter.payload.as_deref().unwrap_or_default()).to_vec();
    let written = sqlx::query_scalar!(
        r#"WITH letter AS (
               INSERT INTO control.dead_letters AS d (topic, partition, "offset", pointer, bytes_sha256, kind, class, reason, company_id, record_key,
                                                      headers, original, attempts)
               VALUES ($1, -1, -1, $2 || '/' || $3, $4, 'event', $5, $6, $7, $8, $9, $10, $11)
               ON CONFLICT ON CONSTRAINT dead_letters_position_key DO UPDATE
               SET attempts = EXCLUDED.attempts, last_seen_at = now(), reason = EXCLUDED.reason, state = 'new', settled_at = NULL
               RETURNING d.id, d.first_seen_at
           ), entry AS (
               INSERT INTO control.relay_rows (source, row_id, order_key, attempts, next_attempt_at, reason, letter_id)
               SELECT $2, $3, $12, $11, now(), $6, letter.id FROM letter
               ON CONFLICT (source, row_id) DO UPDATE
               SET attempts = EXCLUDED.attempts, reason = EXCLUDED.reason, letter_id = EXCLUDED.letter_id, failed_at = now()
           ), told AS (
               INSERT INTO control.outbox_events (event_type, company_id, payload)
               SELECT 'dead_letter.created', coalesce($7, ''), jsonb_build_object(
                   'event_type', 'dead_letter.created', 'version', 1, 'dead_letter_id', letter.id, 'company_id', $7::text, 'batch_id', NULL,
                   'topic', $1::text, 'partition', -1, 'offset', -1, 'pointer', $2 || '/' || $3, 'kind', 'event', 'class', $5::text,
                   'reason', $6::text,
                   'created_at', to_char(letter.first_seen_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
               FROM letter WHERE NOT $13
           )
           SELECT id AS "id!" FROM letter"#,
        letter.topic,
        row.source,
        row.row_id,
        sha,
        letter.class,
        row.reason,
        letter.company,
        letter.key,
        letter.headers,
        letter.payload,
        row.attempts,
        row.order_key,
        letter.quiet,
    )
    .fetch_one(pool);
    within(PATIENCE, written).await
}

/// Adds an event that says nothing but that it is there, for `kylo selftest`. Gives its seq and its event_id.
///
/// # Errors
/// The control database's.
pub async fn add_selftest(pool: &PgPool, company: &str) -> Result<(i64, Uuid), sqlx::Error> {
    let added = sqlx::query!(
        "INSERT INTO control.outbox_events (event_type, company_id, payload)
         VALUES ('selftest', $1, jsonb_build_object('event_type', 'selftest', 'version', 1, 'company_id', $1::text)) RETURNING seq, event_id",
        company
    )
    .fetch_one(pool);
    within(PATIENCE, added).await.map(|row| (row.seq, row.event_id))
}

/// Whether an event of the control database is marked as published.
///
/// # Errors
/// The control database's.
pub async fn is_marked(pool: &PgPool, seq: i64) -> Result<bool, sqlx::Error> {
    let asked =
        sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM control.outbox_events WHERE seq = $1 AND published_at IS NOT NULL) AS "marked!""#, seq)
            .fetch_one(pool);
    within(PATIENCE, asked).await
}

/// An outbox as `kylo status` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboxState {
    pub source: String,
    pub schema_name: String,
    pub table_name: String,
    pub leased: bool,
    pub last_poll_time: Option<DateTime<Utc>>,
    pub last_publish_time: Option<DateTime<Utc>>,
    pub total_events_published: i64,
    pub state: String,
    pub reason: Option<String>,
    pub retrying: i64,
    pub given_up: i64,
}

/// All outboxes that a relay looks at, or looked at before it was configured otherwise.
///
/// # Errors
/// The control database's.
pub async fn states(pool: &PgPool) -> Result<Vec<OutboxState>, sqlx::Error> {
    let asked = sqlx::query_as!(
        OutboxState,
        r#"SELECT s.source, s.schema_name, s.table_name, coalesce(s.leased_until > now(), FALSE) AS "leased!", s.last_poll_time, s.last_publish_time,
                  s.total_events_published, s.state, s.reason,
                  (SELECT count(*) FROM control.relay_rows r WHERE r.source = s.source AND r.letter_id IS NULL) AS "retrying!",
                  (SELECT count(*) FROM control.relay_rows r WHERE r.source = s.source AND r.letter_id IS NOT NULL) AS "given_up!"
           FROM control.relay_state s ORDER BY s.source"#
    )
    .fetch_all(pool);
    within(PATIENCE, asked).await
}

/// Says to relays that an outbox has new rows. Only a hint.
///
/// # Errors
/// The control database's.
pub async fn announce(pool: &PgPool) -> Result<(), sqlx::Error> {
    let told = sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(pool);
    within(PATIENCE, async { told.await.map(drop) }).await
}
