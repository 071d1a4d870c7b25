//! What happens to topics, and messages that come again.

use std::collections::BTreeMap;

use kylo::adapters::kafka::admin::{TopicSpec, TopicState, ensure};
use kylo::adapters::kafka::client::KafkaSettings;
use kylo::adapters::kafka::producer::{Delivered, KafkaProducer};
use serde_json::Value;

use super::messages::{batch, row};
use super::world::{Mode, World, brokers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_correction_there_and_back_again_comes_out_right_however_often_each_is_delivered() {
    let mut world = World::with_partitions(1).await;
    world.add(&["710"]).await;
    world.start(&Mode::Post);
    let correction =
        |at: i64, amount: &str| batch("710", &format!("b-{at}"), at, &[row("t", amount, "CORRECTED"), row(&format!("n{at}"), "1.00", "NEW")]);
    let messages = [correction(0, "10.00"), correction(1, "12.00"), correction(2, "10.00")];
    let twice: Vec<Value> = messages.iter().flat_map(|message| [message.clone(), message.clone()]).collect();
    let mut delivered = world.publish_all(&twice).await;
    delivered.extend(world.publish_all(&messages).await);
    let back = async |world: &World| {
        world.settled(&["710"]).await;
        assert_eq!(world.pending_row("710", "CORRECTED").unwrap().cells["Amount"].value, 10.0);
        assert_eq!(world.pending("710").len(), 4);
    };
    world.consumed(&delivered).await;
    back(&world).await;
    world.stop().await;
    // Then the whole partition once more, as after a lost offset.
    world.commit(BTreeMap::from([(0, 0)])).await;
    world.start(&Mode::Post);
    world.consumed(&delivered).await;
    back(&world).await;
    world.end_with_zero("after every correction was delivered again and again").await;
}

/// Deletes the transactions topic and makes it again under the same name.
async fn recreate(world: &mut World) {
    let topic = TopicSpec { name: world.topic_txns(), partitions: 1, retention_days: 90 };
    super::offsets::delete(&[&topic.name]).await;
    let settings = KafkaSettings::plaintext(&brokers());
    world
        .eventually("the topic is made again", async || {
            let made = ensure(&settings, std::slice::from_ref(&topic)).await.map_err(|error| error.to_string())?;
            if made.iter().all(|report| report.state == TopicState::Created) { Ok(()) } else { Err(format!("{:?}", made[0].state)) }
        })
        .await;
    world.producer = KafkaProducer::start(&settings).unwrap();
}

/// Publishes these batches of one row, and waits until they are in the books and on the tab.
async fn published(world: &World, name: &str, n: i64) -> Vec<Delivered> {
    let before = world.number("710", "SELECT count(*) FROM ingest_batches").await;
    let one = |at: i64| batch("710", &format!("{name}-{at}"), at, &[row(&format!("{name}{at}"), "-1.00", &format!("{name} {at}"))]);
    let messages: Vec<Value> = (0..n).map(one).collect();
    let delivered = world.publish_all(&messages).await;
    world.company_counts("710", "SELECT count(*) FROM ingest_batches", before + n).await;
    world.settled(&["710"]).await;
    delivered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_made_again_is_consumed_from_its_beginning_and_the_books_stay() {
    let mut world = World::with_partitions(1).await;
    world.add(&["710"]).await;
    world.start(&Mode::Post);
    world.consumed(&published(&world, "FIRST", 8).await).await;
    // While nobody consumes: fewer messages than there were, then more.
    world.stop().await;
    recreate(&mut world).await;
    world.start(&Mode::Post);
    world.consumed(&published(&world, "SECOND", 5).await).await;
    world.consumed(&published(&world, "THIRD", 5).await).await;
    // While a worker consumes: fewer messages than it had read, then more.
    recreate(&mut world).await;
    world.consumed(&published(&world, "FOURTH", 3).await).await;
    recreate(&mut world).await;
    world.consumed(&published(&world, "FIFTH", 12).await).await;
    world.restart(&Mode::Post).await;
    world.consumed(&published(&world, "SIXTH", 1).await).await;
    world.assert_tab_equals_postgres("710").await;
    world.assert_decided_once("710").await;
    world.stop().await;
    // The book begins with messages that no topic holds any more: of those the auditor believes the book, and says so.
    let report = world.audit().await;
    assert!(report.is_clean(), "{}\n{}", report.summary(), super::judge::lines(&report));
    assert_eq!((report.books_partly, report.books_recomputed), (1, 0), "{}", report.summary());
    assert!(report.taken_from_postgres.iter().any(|taken| taken.what == "decisions and their order"), "{:?}", report.taken_from_postgres);
    world.end().await;
}
