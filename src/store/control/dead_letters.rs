//! `control.dead_letters`: what cannot be processed, with its original bytes, and what an operator did about it.
//!
//! Called by the consumer (poison messages), by ingest (bad rows) and by `kylo dlq`. The event `dead_letter.created` is written in the same
//! statement as the letter. What must never happen here: a letter that cannot be stored because of its own contents (so every text is
//! cleaned and bounded first), two letters for one failure (a redelivery or a failed replay only counts), or the payload in an event.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::PgPool;

use crate::flow::work::{LetterKind, NewLetter};
use crate::store::pools::{PATIENCE, within};

/// Longest reason that is kept, in characters.
const MAX_REASON: usize = 2_000;
/// Longest company or batch id that is kept, in characters: what does not fit into an index must not block the letter.
const MAX_ID: usize = 200;

/// The letters of one call as columns, without repetitions.
#[derive(Debug, Default)]
struct Columns {
    topic: Vec<String>,
    partition: Vec<i32>,
    offset: Vec<i64>,
    pointer: Vec<String>,
    sha: Vec<Vec<u8>>,
    kind: Vec<String>,
    class: Vec<String>,
    reason: Vec<String>,
    company: Vec<Option<String>>,
    batch: Vec<Option<String>>,
    key: Vec<Option<Vec<u8>>>,
    headers: Vec<Value>,
    original: Vec<Option<Vec<u8>>>,
    envelope: Vec<Option<Value>>,
    timestamp: Vec<Option<DateTime<Utc>>>,
    replay_of: Vec<Option<i64>>,
    traceparent: Vec<Option<String>>,
}

/// A letter that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub id: i64,
    /// `false`: it was there already, this was one more attempt.
    pub fresh: bool,
}

/// Writes letters and their events; gives them in the order of the input. The same position, pointer and bytes again count one more
/// attempt and keep the letter's state. A letter about a replay (header `dead_letter_id`) counts one more attempt on the letter that was
/// replayed and makes it `new` again, unless a whole message was replayed and now one of its rows is bad: that row gets its own letter.
/// A producer can write that header too, so it is believed only where the letter has what failed now: a message's letter these very bytes, a
/// row's letter the same company and batch (its replay is a message made anew). Everything else gets its own letter, which keeps its bytes.
///
/// # Errors
/// The control database's; then nothing was written.
pub async fn insert(pool: &PgPool, letters: &[NewLetter]) -> Result<Vec<Kept>, sqlx::Error> {
    if letters.is_empty() {
        return Ok(Vec::new());
    }
    within(PATIENCE, write(pool, letters)).await
}

async fn write(pool: &PgPool, letters: &[NewLetter]) -> Result<Vec<Kept>, sqlx::Error> {
    let (columns, places) = columns(letters);
    let rows = sqlx::query!(
        r#"WITH input AS (
               SELECT * FROM UNNEST($1::text[], $2::int[], $3::bigint[], $4::text[], $5::bytea[], $6::text[], $7::text[], $8::text[],
                                    $9::text[], $10::text[], $11::bytea[], $12::jsonb[], $13::bytea[], $14::jsonb[], $15::timestamptz[],
                                    $16::bigint[], $17::text[])
                   WITH ORDINALITY AS i(topic, partition, "offset", pointer, sha, kind, class, reason, company_id, batch_id, record_key, headers,
                                        original, envelope, record_timestamp, replay_of, traceparent, n)
           ), again AS (
               UPDATE control.dead_letters d
               SET attempts = d.attempts + 1, last_seen_at = now(), class = i.class, reason = i.reason,
                   state = CASE d.state WHEN 'discarded' THEN d.state ELSE 'new' END,
                   settled_at = CASE d.state WHEN 'discarded' THEN d.settled_at END
               FROM input i
               WHERE d.id = i.replay_of AND d.topic = i.topic
                 AND CASE d.kind WHEN 'message' THEN i.kind = 'message' AND d.bytes_sha256 = i.sha
                                 ELSE d.company_id = i.company_id AND d.batch_id = i.batch_id END
               RETURNING i.n, d.id
           ), written AS (
               INSERT INTO control.dead_letters AS d (topic, partition, "offset", pointer, bytes_sha256, kind, class, reason, company_id, batch_id,
                                                      record_key, headers, original, envelope, record_timestamp)
               SELECT topic, partition, "offset", pointer, sha, kind, class, reason, company_id, batch_id, record_key, headers, original, envelope,
                      record_timestamp
               FROM input i WHERE NOT EXISTS (SELECT FROM again WHERE again.n = i.n) ORDER BY i.n
               ON CONFLICT ON CONSTRAINT dead_letters_position_key DO UPDATE SET attempts = d.attempts + 1, last_seen_at = now()
               RETURNING d.*, d.xmax = 0 AS fresh
           ), placed AS (
               SELECT i.n, w.id, w.fresh, i.traceparent, w.company_id,
                      jsonb_build_object('event_type', 'dead_letter.created', 'version', 1, 'dead_letter_id', w.id, 'company_id', w.company_id,
                                         'batch_id', w.batch_id, 'topic', w.topic, 'partition', w.partition, 'offset', w."offset",
                                         'pointer', w.pointer, 'kind', w.kind, 'class', w.class, 'reason', w.reason,
                                         'created_at', to_char(w.first_seen_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')) AS event
               FROM written w
               JOIN input i ON i.topic = w.topic AND i.partition = w.partition AND i."offset" = w."offset" AND i.pointer = w.pointer
                           AND i.sha = w.bytes_sha256
           ), events AS (
               INSERT INTO control.outbox_events (event_type, company_id, payload, traceparent)
               SELECT 'dead_letter.created', coalesce(company_id, ''), event, traceparent FROM placed WHERE fresh ORDER BY n
           )
           SELECT n AS "n!", id AS "id!", false AS "fresh!" FROM again UNION ALL SELECT n, id, fresh FROM placed"#,
        &columns.topic,
        &columns.partition,
        &columns.offset,
        &columns.pointer,
        &columns.sha,
        &columns.kind,
        &columns.class,
        &columns.reason,
        &columns.company as &[Option<String>],
        &columns.batch as &[Option<String>],
        &columns.key as &[Option<Vec<u8>>],
        &columns.headers,
        &columns.original as &[Option<Vec<u8>>],
        &columns.envelope as &[Option<Value>],
        &columns.timestamp as &[Option<DateTime<Utc>>],
        &columns.replay_of as &[Option<i64>],
        &columns.traceparent as &[Option<String>],
    )
    .fetch_all(pool)
    .await?;
    let by_row: HashMap<i64, Kept> = rows.into_iter().map(|row| (row.n, Kept { id: row.id, fresh: row.fresh })).collect();
    places.into_iter().map(|place| by_row.get(&place).copied().ok_or(sqlx::Error::RowNotFound)).collect()
}

/// The columns, and for each letter its row number (1..): equal letters of one call are one row, because one statement may not touch a row twice.
fn columns(letters: &[NewLetter]) -> (Columns, Vec<i64>) {
    let mut all = Columns::default();
    let mut known: HashMap<(&str, i32, i64, &str, Vec<u8>), i64> = HashMap::new();
    let mut places = Vec::with_capacity(letters.len());
    for letter in letters {
        let record = &letter.record;
        let original = letter.row_text.as_ref().map(|text| text.as_bytes().to_vec()).or_else(|| record.payload.clone());
        let sha = Sha256::digest(original.as_deref().unwrap_or_default()).to_vec();
        let next = i64::try_from(all.topic.len()).unwrap_or(i64::MAX).saturating_add(1);
        let at = &record.position;
        let place = *known.entry((&at.topic, at.partition, at.offset, &letter.pointer, sha.clone())).or_insert(next);
        places.push(place);
        if place != next {
            continue;
        }
        all.topic.push(at.topic.to_string());
        all.partition.push(at.partition);
        all.offset.push(at.offset);
        all.pointer.push(bounded(&letter.pointer, MAX_REASON));
        all.sha.push(sha);
        all.kind.push(
            match letter.kind {
                LetterKind::Message => "message",
                LetterKind::Row => "row",
            }
            .to_owned(),
        );
        all.class.push(letter.class.to_owned());
        all.reason.push(bounded(&letter.reason, MAX_REASON));
        all.company.push(letter.company_id.as_deref().map(|id| bounded(id, MAX_ID)));
        all.batch.push(letter.batch_id.as_deref().map(|id| bounded(id, MAX_ID)));
        all.key.push(record.key.clone());
        all.headers.push(headers_json(&record.headers));
        all.original.push(original);
        all.envelope.push(letter.envelope.clone().map(storable));
        all.timestamp.push(record.timestamp);
        all.replay_of.push(record.dead_letter_id());
        all.traceparent.push(record.traceparent().map(|text| bounded(text, MAX_ID)));
    }
    (all, places)
}

/// Text that Postgres stores: no U+0000, at most `limit` characters.
fn bounded(text: &str, limit: usize) -> String {
    text.chars().take(limit).map(|c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Headers as JSON that Postgres stores.
pub(super) fn headers_json(headers: &std::collections::BTreeMap<String, String>) -> Value {
    headers
        .iter()
        .map(|(name, value)| (bounded(name, usize::MAX), Value::String(bounded(value, usize::MAX))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// JSON without U+0000, which jsonb refuses.
fn storable(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(bounded(&text, usize::MAX)),
        Value::Array(items) => Value::Array(items.into_iter().map(storable).collect()),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, field)| (bounded(&name, usize::MAX), storable(field))).collect::<serde_json::Map<_, _>>().into()
        }
        other => other,
    }
}

/// A letter as a list shows it: without bytes.
#[derive(Clone, Debug)]
pub struct LetterRow {
    pub id: i64,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub pointer: String,
    pub kind: String,
    pub class: String,
    pub reason: String,
    pub company_id: Option<String>,
    pub batch_id: Option<String>,
    pub attempts: i32,
    pub state: String,
    pub first_seen_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    pub settled_at: Option<DateTime<Utc>>,
}

/// A whole letter. The bytes may hold secrets and people's data: a view masks them, a log never has them.
#[derive(Clone)]
pub struct Letter {
    pub row: LetterRow,
    pub record_key: Option<Vec<u8>>,
    pub headers: Value,
    pub original: Option<Vec<u8>>,
    pub envelope: Option<Value>,
    pub record_timestamp: Option<DateTime<Utc>>,
}

impl std::fmt::Debug for Letter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.original.as_ref().map_or(0, Vec::len);
        f.debug_struct("Letter").field("row", &self.row).field("original_bytes", &bytes).finish_non_exhaustive()
    }
}

/// Which letters. `None` = any; ids empty = any.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub ids: Vec<i64>,
    pub company: Option<String>,
    pub class: Option<String>,
    pub topic: Option<String>,
    /// A state, or `open` for new and replaying.
    pub state: Option<String>,
    pub kind: Option<String>,
    /// Last seen at or after this instant.
    pub since: Option<DateTime<Utc>>,
    /// Only letters with a larger id: for paging.
    pub after: i64,
    /// At most this many; 0 = 1,000.
    pub limit: i64,
}

/// Letters by id, oldest first.
///
/// # Errors
/// The control database's.
pub async fn list(pool: &PgPool, filter: &Filter) -> Result<Vec<LetterRow>, sqlx::Error> {
    let limit = if filter.limit > 0 { filter.limit } else { 1_000 };
    sqlx::query_as!(
        LetterRow,
        r#"SELECT id, topic, partition, "offset", pointer, kind, class, reason, company_id, batch_id, attempts, state, first_seen_at, last_seen_at,
                  settled_at
           FROM control.dead_letters
           WHERE (cardinality($1::bigint[]) = 0 OR id = ANY($1)) AND ($2::text IS NULL OR company_id = $2) AND ($3::text IS NULL OR class = $3)
             AND ($4::text IS NULL OR topic = $4) AND ($5::text IS NULL OR state = $5 OR ($5 = 'open' AND state IN ('new', 'replaying'))) AND ($6::text IS NULL OR kind = $6)
             AND ($7::timestamptz IS NULL OR last_seen_at >= $7) AND id > $8
           ORDER BY id LIMIT $9"#,
        &filter.ids,
        filter.company.as_deref(),
        filter.class.as_deref(),
        filter.topic.as_deref(),
        filter.state.as_deref(),
        filter.kind.as_deref(),
        filter.since,
        filter.after,
        limit
    )
    .fetch_all(pool)
    .await
}

/// One whole letter.
///
/// # Errors
/// The control database's.
pub async fn show(pool: &PgPool, id: i64) -> Result<Option<Letter>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT id, topic, partition, "offset", pointer, kind, class, reason, company_id, batch_id, attempts, state, first_seen_at, last_seen_at,
                  settled_at, record_key, headers, original, envelope, record_timestamp
           FROM control.dead_letters WHERE id = $1"#,
        id
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|r| Letter {
        row: LetterRow {
            id: r.id,
            topic: r.topic,
            partition: r.partition,
            offset: r.offset,
            pointer: r.pointer,
            kind: r.kind,
            class: r.class,
            reason: r.reason,
            company_id: r.company_id,
            batch_id: r.batch_id,
            attempts: r.attempts,
            state: r.state,
            first_seen_at: r.first_seen_at,
            last_seen_at: r.last_seen_at,
            settled_at: r.settled_at,
        },
        record_key: r.record_key,
        headers: r.headers,
        original: r.original,
        envelope: r.envelope,
        record_timestamp: r.record_timestamp,
    }))
}

/// Marks a letter as being replayed, before it is published. `false`: it is resolved or discarded, so it must not be.
///
/// # Errors
/// The control database's.
pub async fn start_replay(pool: &PgPool, id: i64) -> Result<bool, sqlx::Error> {
    let done =
        sqlx::query!("UPDATE control.dead_letters SET state = 'replaying' WHERE id = $1 AND state IN ('new', 'replaying')", id).execute(pool).await?;
    Ok(done.rows_affected() == 1)
}

/// The replay could not be published: the letter is `new` again.
///
/// # Errors
/// The control database's.
pub async fn replay_not_sent(pool: &PgPool, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query!("UPDATE control.dead_letters SET state = 'new' WHERE id = $1 AND state = 'replaying'", id).execute(pool).await?;
    Ok(())
}

/// Closes replayed letters whose message came back on `topic` and was handled. One that failed again is `new` by then and stays so.
///
/// # Errors
/// The control database's.
pub async fn resolve(pool: &PgPool, topic: &str, ids: &[i64]) -> Result<u64, sqlx::Error> {
    let closing = sqlx::query!(
        "UPDATE control.dead_letters SET state = 'resolved', settled_at = now() WHERE id = ANY($1) AND topic = $2 AND state = 'replaying'",
        ids,
        topic
    )
    .execute(pool);
    let done = within(PATIENCE, closing).await?;
    Ok(done.rows_affected())
}

/// Sets letters aside for good; gives the ids that were open.
///
/// # Errors
/// The control database's.
pub async fn discard(pool: &PgPool, ids: &[i64]) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        "UPDATE control.dead_letters SET state = 'discarded', settled_at = now() WHERE id = ANY($1) AND state IN ('new', 'replaying') RETURNING id",
        ids
    )
    .fetch_all(pool)
    .await
}

/// Open letters by class, for the metric `kylo_dead_letters`, or one company's for `kylo status`.
///
/// # Errors
/// The control database's.
pub async fn open_by_class(pool: &PgPool, company: Option<&str>) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT class, count(*) AS "n!" FROM control.dead_letters
           WHERE state IN ('new', 'replaying') AND ($1::text IS NULL OR company_id = $1) GROUP BY class ORDER BY class"#,
        company
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.class, row.n)).collect())
}
