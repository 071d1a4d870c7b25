//! `kylo backfill`, killed half way and gone on with: nothing is left out, order is kept, and copies are copies.

use sqlx::AssertSqlSafe;

use super::world::{Seen, firsts, numbers, read_all};
use crate::process::command;
use crate::world::{Mode, World, brokers};

/// Sent and acknowledged at a time, as the command has it.
const CHUNK: usize = 500;

impl World {
    async fn records_of(&self, topic: &str) -> Vec<Seen> {
        let topic = topic.to_owned();
        tokio::task::spawn_blocking(move || read_all(&brokers(), &topic)).await.unwrap()
    }

    /// Begins a backfill of the company, slowly, kills it as soon as some of it is sent, and goes on with it.
    async fn backfill_in_two_parts(&self, source: &str, rate: &str, total: i64) {
        let environment: Vec<_> = self.environment(&Mode::Shadow).into_iter().collect();
        let args = ["backfill", "--source", source, "--company", "710", "--rate", rate, "--yes"];
        let mut child = command(&environment, &args).spawn().unwrap();
        self.control_counts("SELECT count(*) FROM control.backfills WHERE published > 0 AND state = 'running'", 1).await;
        child.kill().await.unwrap();
        let published = self.control_number("SELECT published FROM control.backfills WHERE state = 'running'").await;
        assert!(0 < published && published < total, "killed half way: {published} of {total}");
        let id = self.control_texts("SELECT backfill_id::text FROM control.backfills WHERE state = 'running'").await.remove(0);
        let done = self.kylo(&["backfill", "--resume", &id, "--rate", "100000", "--yes"]).await;
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(
            self.control_number(&format!("SELECT published FROM control.backfills WHERE backfill_id = '{id}' AND state = 'done'")).await,
            total
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_of_events_that_was_killed_half_way_goes_on_and_leaves_nothing_out() {
    const TOTAL: i64 = 3_000;
    let mut world = World::new().await;
    world.add(&["710"]).await;
    let history = format!(
        "INSERT INTO outbox_events (event_type, company_id, payload, published_at)
         SELECT 'batch.ingested', '710', jsonb_build_object('n', n), now() FROM generate_series(0, {TOTAL} - 1) n ORDER BY n"
    );
    world.execute("710", &history).await;
    world.backfill_in_two_parts("events", "100", TOTAL).await;
    let seen = world.records_of(&world.topic_events()).await;
    assert!(seen.iter().all(|record| record.headers["replay"] == "backfill"));
    assert_eq!(numbers(&seen)["710"], (0..TOTAL).collect::<Vec<_>>(), "every event, in order");
    assert!(seen.len() - firsts(&seen).len() <= CHUNK, "{} records", seen.len());
    let known: i64 = sqlx::query_scalar(AssertSqlSafe("SELECT count(*) FROM app_710.outbox_events WHERE event_id = ANY($1::uuid[])".to_owned()))
        .bind(firsts(&seen).into_iter().map(|record| record.id().parse::<uuid::Uuid>().unwrap()).collect::<Vec<_>>())
        .fetch_one(&world.books.pool)
        .await
        .unwrap();
    assert_eq!(known, TOTAL, "with the event_id that each had");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_of_messages_that_was_killed_half_way_goes_on_in_the_order_that_they_had() {
    const TOTAL: i64 = 1_500;
    let mut world = World::with_partitions(1).await;
    world.add(&["710"]).await;
    let messages: Vec<_> = (0..TOTAL).map(|n| serde_json::json!({"company_id": "710", "n": n})).collect();
    let others: Vec<_> = (0..100).map(|n| serde_json::json!({"company_id": "711", "n": n})).collect();
    world.publish_all(&messages[..700]).await;
    world.publish_all(&others).await;
    world.publish_all(&messages[700..]).await;
    world.backfill_in_two_parts("topic", "50", TOTAL).await;
    let again: Vec<Seen> = world.records_of(&world.topic_txns()).await.split_off(messages.len() + others.len());
    assert!(again.iter().all(|record| record.key.as_deref() == Some("710") && record.headers["replay"] == "backfill"), "nobody else's");
    // Whatever the second part repeats of the first: everything comes, and never a step forward that leaves one out.
    let mut next = 0;
    for n in again.iter().map(Seen::n) {
        assert!(n <= next, "{n} came before {next}");
        next = next.max(n + 1);
    }
    assert_eq!(next, TOTAL);
    assert!(again.len() - messages.len() <= CHUNK, "{} records", again.len());
    world.end().await;
}
