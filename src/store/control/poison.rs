//! `control.partition_poison`: how many messages in a row of a partition were poison, and which partitions are stopped for it.
//!
//! Called by the consumer and by `kylo dlq resume`. What must never happen here: a restart that forgets a stop.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;

/// A partition's count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    pub partition: i32,
    pub in_a_row: i32,
    /// The last offset that was counted: a redelivery is not counted again.
    pub last_offset: i64,
    pub stopped: bool,
}

/// A stopped partition as `kylo status` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Stopped {
    pub consumer_group: String,
    pub topic: String,
    pub partition: i32,
    pub in_a_row: i32,
    pub stopped_at: Option<DateTime<Utc>>,
}

/// The counts of these partitions; one without a row has none.
///
/// # Errors
/// The control database's.
pub async fn load(pool: &PgPool, group: &str, topic: &str, partitions: &[i32]) -> Result<Vec<Count>, sqlx::Error> {
    sqlx::query_as!(
        Count,
        r#"SELECT partition, in_a_row, last_offset, stopped_at IS NOT NULL AS "stopped!" FROM control.partition_poison
           WHERE consumer_group = $1 AND topic = $2 AND partition = ANY($3)"#,
        group,
        topic,
        partitions
    )
    .fetch_all(pool)
    .await
}

/// Writes counts. A stop once written stays until [`resume`].
///
/// # Errors
/// The control database's.
pub async fn save(pool: &PgPool, group: &str, topic: &str, counts: &[Count]) -> Result<(), sqlx::Error> {
    let partitions: Vec<i32> = counts.iter().map(|count| count.partition).collect();
    let in_a_row: Vec<i32> = counts.iter().map(|count| count.in_a_row).collect();
    let last: Vec<i64> = counts.iter().map(|count| count.last_offset).collect();
    let stopped: Vec<bool> = counts.iter().map(|count| count.stopped).collect();
    sqlx::query!(
        "INSERT INTO control.partition_poison AS p (consumer_group, topic, partition, in_a_row, last_offset, stopped_at)
         SELECT $1, $2, partition, in_a_row, last_offset, CASE WHEN stopped THEN now() END
         FROM UNNEST($3::int[], $4::int[], $5::bigint[], $6::bool[]) AS i(partition, in_a_row, last_offset, stopped)
         ON CONFLICT ON CONSTRAINT partition_poison_pkey DO UPDATE
         SET in_a_row = excluded.in_a_row, last_offset = excluded.last_offset, stopped_at = coalesce(p.stopped_at, excluded.stopped_at)",
        group,
        topic,
        &partitions,
        &in_a_row,
        &last,
        &stopped
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Lets stopped partitions go on, of one topic and partition or of all; gives those that were stopped. Workers notice within seconds.
///
/// # Errors
/// The control database's.
pub async fn resume(pool: &PgPool, topic: Option<&str>, partition: Option<i32>) -> Result<Vec<Stopped>, sqlx::Error> {
    sqlx::query_as!(
        Stopped,
        "UPDATE control.partition_poison p SET stopped_at = NULL, in_a_row = 0
         FROM (SELECT consumer_group, topic, partition, in_a_row, stopped_at FROM control.partition_poison
               WHERE stopped_at IS NOT NULL AND ($1::text IS NULL OR topic = $1) AND ($2::int IS NULL OR partition = $2) FOR UPDATE) was
         WHERE p.consumer_group = was.consumer_group AND p.topic = was.topic AND p.partition = was.partition
         RETURNING was.consumer_group, was.topic, was.partition, was.in_a_row, was.stopped_at",
        topic,
        partition
    )
    .fetch_all(pool)
    .await
}

/// All stopped partitions.
///
/// # Errors
/// The control database's.
pub async fn stopped(pool: &PgPool) -> Result<Vec<Stopped>, sqlx::Error> {
    sqlx::query_as!(
        Stopped,
        "SELECT consumer_group, topic, partition, in_a_row, stopped_at FROM control.partition_poison
         WHERE stopped_at IS NOT NULL ORDER BY consumer_group, topic, partition"
    )
    .fetch_all(pool)
    .await
}
