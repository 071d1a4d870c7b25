//! `control.held_messages`: the messages of a company that cannot be written now, in order, and the switch back.
//!
//! Called by the consumer (to hold) and by its drainer. While a company has rows here its new messages join them: joining and declaring the
//! queue empty both lock the company's row in `control.company_trouble` first, so a message can neither join a queue that was just
//! declared empty nor overtake one that is still in it. What must never happen here: a held message that no drainer would find.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};

use super::dead_letters::headers_json;
use super::trouble::{self, WorkKind};
use crate::flow::work::{Position, Record};

/// A message in the queue.
#[derive(Clone, Debug)]
pub struct Held {
    pub id: i64,
    pub record: Arc<Record>,
}

/// What became of messages that wanted to join the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// They are in the queue, durably.
    Held,
    /// There is no queue any more: nothing was stored, they go the ordinary way.
    QueueEmpty,
}

/// Puts messages into the company's queue, which may be empty, and says why.
///
/// # Errors
/// The control database's; then none is in the queue.
pub async fn hold(pool: &PgPool, company: &str, trouble: &trouble::Trouble, records: &[Arc<Record>]) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    trouble::note(&mut tx, company, trouble).await?;
    insert(&mut tx, company, records).await?;
    tx.commit().await
}

/// Puts messages behind those that are held already, if there still are any.
///
/// # Errors
/// The control database's; then none is in the queue.
pub async fn join(pool: &PgPool, company: &str, kind: WorkKind, topic: &str, records: &[Arc<Record>]) -> Result<Join, sqlx::Error> {
    let mut tx = pool.begin().await?;
    trouble::lock(&mut tx, company, kind).await?;
    if !waits(&mut tx, company, topic).await? {
        return Ok(Join::QueueEmpty);
    }
    insert(&mut tx, company, records).await?;
    tx.commit().await?;
    Ok(Join::Held)
}

/// Declares the queue empty and the trouble over, if it is empty. `false`: messages joined meanwhile, go on draining.
///
/// # Errors
/// The control database's.
pub async fn finish(pool: &PgPool, company: &str, kind: WorkKind, topic: &str) -> Result<bool, sqlx::Error> {
    let mut tx = pool.begin().await?;
    trouble::lock(&mut tx, company, kind).await?;
    if waits(&mut tx, company, topic).await? {
        return Ok(false);
    }
    sqlx::query!("DELETE FROM control.company_trouble WHERE company_id = $1 AND work = $2", company, kind.as_str()).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(true)
}

async fn waits(tx: &mut PgConnection, company: &str, topic: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM control.held_messages WHERE company_id = $1 AND topic = $2) AS "e!""#, company, topic)
        .fetch_one(tx)
        .await
}

async fn insert(tx: &mut PgConnection, company: &str, records: &[Arc<Record>]) -> Result<(), sqlx::Error> {
    let topics: Vec<String> = records.iter().map(|r| r.position.topic.to_string()).collect();
    let partitions: Vec<i32> = records.iter().map(|r| r.position.partition).collect();
    let offsets: Vec<i64> = records.iter().map(|r| r.position.offset).collect();
    let keys: Vec<Option<Vec<u8>>> = records.iter().map(|r| r.key.clone()).collect();
    let headers: Vec<Value> = records.iter().map(|r| headers_json(&r.headers)).collect();
    let payloads: Vec<Vec<u8>> = records.iter().map(|r| r.payload.clone().unwrap_or_default()).collect();
    let shas: Vec<Vec<u8>> = payloads.iter().map(|payload| Sha256::digest(payload).to_vec()).collect();
    let timestamps: Vec<Option<DateTime<Utc>>> = records.iter().map(|r| r.timestamp).collect();
    sqlx::query!(
        r#"INSERT INTO control.held_messages (company_id, topic, partition, "offset", payload_sha256, record_key, headers, payload, record_timestamp)
           SELECT $1, topic, partition, "offset", sha, record_key, headers, payload, record_timestamp
           FROM UNNEST($2::text[], $3::int[], $4::bigint[], $5::bytea[], $6::bytea[], $7::jsonb[], $8::bytea[], $9::timestamptz[])
                WITH ORDINALITY AS i(topic, partition, "offset", sha, record_key, headers, payload, record_timestamp, n)
           ORDER BY n
           ON CONFLICT ON CONSTRAINT held_messages_position_key DO NOTHING"#,
        company,
        &topics,
        &partitions,
        &offsets,
        &shas,
        &keys as &[Option<Vec<u8>>],
        &headers,
        &payloads,
        &timestamps as &[Option<DateTime<Utc>>]
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The head of a company's queue: at most `limit` messages and about `max_bytes` of payload, but at least one if there is one.
///
/// # Errors
/// The control database's.
pub async fn head(pool: &PgPool, company: &str, topic: &Arc<str>, limit: i64, max_bytes: i64) -> Result<Vec<Held>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT id AS "id!", partition AS "partition!", "offset" AS "offset!", record_key, headers AS "headers!", payload AS "payload!",
                  record_timestamp
           FROM (SELECT *, sum(octet_length(payload)) OVER (ORDER BY id) - octet_length(payload) AS before
                 FROM (SELECT * FROM control.held_messages WHERE company_id = $1 AND topic = $2 ORDER BY id LIMIT $3) first) sized
           WHERE before < $4 ORDER BY id"#,
        company,
        &**topic,
        limit,
        max_bytes
    )
    .fetch_all(pool)
    .await?;
    let held = rows.into_iter().map(|row| Held {
        id: row.id,
        record: Arc::new(Record {
            position: Position { topic: Arc::clone(topic), partition: row.partition, offset: row.offset },
            key: row.record_key,
            payload: Some(row.payload),
            headers: headers_from(row.headers),
            timestamp: row.record_timestamp,
        }),
    });
    Ok(held.collect())
}

fn headers_from(json: Value) -> BTreeMap<String, String> {
    let Value::Object(fields) = json else { return BTreeMap::new() };
    fields.into_iter().filter_map(|(name, value)| value.as_str().map(|text| (name, text.to_owned()))).collect()
}

/// Removes messages whose effects are durable.
///
/// # Errors
/// The control database's; then they are drained again, which the ledger turns into nothing.
pub async fn remove(pool: &PgPool, ids: &[i64]) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM control.held_messages WHERE id = ANY($1)", ids).execute(pool).await?;
    Ok(())
}

/// Companies with messages of this topic in their queue, and how many.
///
/// # Errors
/// The control database's.
pub async fn companies(pool: &PgPool, topic: &str) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT company_id, count(*) AS "n!" FROM control.held_messages WHERE topic = $1 GROUP BY company_id ORDER BY company_id"#,
        topic
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.company_id, row.n)).collect())
}

/// Companies whose queue is to be tried now: due, asked for, or their configuration has changed since; and nobody holds the drain lease.
/// A queue without a trouble row (somebody deleted it) is due, and so is a trouble row without a queue: its drainer died between the last message and
/// declaring the queue empty, and nobody else would.
///
/// # Errors
/// The control database's.
pub async fn due(pool: &PgPool, kind: WorkKind, topic: &str) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT coalesce(h.company_id, t.company_id) AS "company_id!"
           FROM (SELECT DISTINCT company_id FROM control.held_messages WHERE topic = $1) h
           FULL JOIN (SELECT * FROM control.company_trouble WHERE work = $2) t ON t.company_id = h.company_id
           LEFT JOIN control.company_config c ON c.company_id = h.company_id
           WHERE (h.company_id IS NULL OR t.company_id IS NULL OR t.retry_at IS NULL OR t.retry_at <= now()
                  OR t.config_version IS DISTINCT FROM c.xmin::text::bigint)
             AND (t.drain_until IS NULL OR t.drain_until <= now())
           ORDER BY 1"#,
        topic,
        kind.as_str()
    )
    .fetch_all(pool)
    .await
}
