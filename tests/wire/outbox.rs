//! The relay and the doctor on a wire where rights are missing, or the broker is away for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kylo::adapters::kafka::client::KafkaSettings;
use kylo::adapters::kafka::events::KafkaEvents;
use kylo::flow::relay::{RelayOptions, Why};
use serde_json::Value;

use crate::broker::broker;
use crate::world::{World, assert_complete_and_in_order, eventually, read_all, start};
use crate::{make_topic, name, process};

/// A control database whose relay publishes with these settings.
async fn world(settings: KafkaSettings) -> (World, RelayOptions) {
    let mut world = World::without_topic(&[]).await;
    world.topic = name("outbox");
    make_topic(&world.topic).await;
    let publisher = Arc::new(KafkaEvents::new(Arc::new(move || Ok(settings.clone())), Duration::from_secs(10)));
    let options = RelayOptions { publisher, ..world.options() };
    (world, options)
}

fn plain() -> String {
    format!("127.0.0.1:{}", broker().port("PLAIN"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_whose_user_may_not_write_says_so_before_there_is_anything_to_publish() {
    let (world, options) = world(broker().login("SASL", "SCRAM-SHA-256", "reader")).await;
    let relay = start(options);
    let wanted = format!("no write permission on topic {}", world.topic);
    eventually(&wanted, async || if relay.worst().contains(&wanted) { Ok(()) } else { Err(relay.worst()) }).await;
    assert!(relay.status.lock().unwrap().troubles.iter().all(|trouble| trouble.why == Why::Topic && trouble.why.is_grave()), "readiness is red");
    let topic = world.topic.clone();
    assert!(tokio::task::spawn_blocking(move || read_all(&plain(), &topic)).await.unwrap().is_empty(), "finding it out leaves no record");
    relay.stop().await;
    assert_eq!(world.number("SELECT count(*) FROM control.relay_rows").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_leaves_in_the_middle_and_comes_back_after_a_while_costs_no_event_and_no_order() {
    // Several times as long as the relay waits for an acknowledgement, and longer than leases, sessions and a transaction's patience.
    const AWAY: Duration = Duration::from_secs(60);
    let settings = KafkaSettings::plaintext(&format!("127.0.0.1:{}", broker().leaving.port()));
    let (world, mut options) = world(settings).await;
    options.limits.batch = 20;
    let relay = start(options);
    world.insert(0, 3_000, 5).await;
    world.counts("SELECT least(count(*), 1) FROM control.outbox_events WHERE published_at IS NOT NULL", 1).await;
    broker().leaving.stop();
    let left = Instant::now();
    eventually("the broker's absence to be told", async || match relay.status.lock().unwrap().worst() {
        Some(trouble) if trouble.why == Why::Broker => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    world.insert(3_000, 3_500, 5).await;
    // The length of the absence is what is tested.
    tokio::time::sleep(AWAY.saturating_sub(left.elapsed())).await;
    assert!(world.number("SELECT count(*) FROM control.outbox_events WHERE published_at IS NULL").await >= 500);
    broker().leaving.start_again();
    let back = Instant::now();
    world.all_marked().await;
    // Its pauses have grown to 15 s; an acknowledgement that comes late on a busy machine costs one more.
    assert!(back.elapsed() < Duration::from_secs(120), "{:?}", back.elapsed());
    eventually("no trouble", async || if relay.worst().is_empty() { Ok(()) } else { Err(relay.worst()) }).await;
    relay.stop().await;
    let topic = world.topic.clone();
    assert_complete_and_in_order(&tokio::task::spawn_blocking(move || read_all(&plain(), &topic)).await.unwrap(), 3_500);
    assert_eq!(world.number("SELECT count(*) FROM control.relay_rows").await + world.number("SELECT count(*) FROM control.dead_letters").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_asks_for_write_on_every_topic_that_a_command_or_the_relay_writes_to() {
    let topics = [name("txns"), name("promote"), name("events"), name("billing")];
    for topic in &topics {
        make_topic(topic).await;
    }
    let sources = tempfile::NamedTempFile::new().unwrap();
    let source = serde_json::json!({"sources": [{"schema": "billing", "table": "outbox", "topics": {"*": topics[3]}}]});
    std::fs::write(sources.path(), source.to_string()).unwrap();
    let database = crate::database::Database::create().await;
    let lacking = async |user: &str| {
        let [txns, promote, events, _] = topics.clone();
        let environment = [
            ("PG_DSN_RW", database.dsn.clone()),
            ("KAFKA_BROKERS", format!("127.0.0.1:{}", broker().port("SASL"))),
            ("KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT".to_owned()),
            ("KAFKA_SASL_MECHANISM", "SCRAM-SHA-256".to_owned()),
            ("KAFKA_SASL_USERNAME", user.to_owned()),
            ("KAFKA_SASL_PASSWORD", format!("{user}-secret")),
            ("KAFKA_TOPIC_TXNS", txns),
            ("KAFKA_TOPIC_PROMOTE", promote),
            ("KAFKA_TOPIC_EVENTS", events),
            ("KYLO_RELAY_SOURCES", sources.path().display().to_string()),
        ];
        let report: Value = serde_json::from_str(&process::text(&process::run(&environment, &["doctor", "--json"]).await)).unwrap();
        let refused = report["checks"].as_array().unwrap().iter().filter(|check| check["class"] == "topic_not_allowed");
        let told = refused.map(|check| (check["target"].as_str().unwrap().to_owned(), check["detail"].as_str().unwrap().to_owned()));
        told.collect::<Vec<_>>()
    };
    let write = |topic: &String| (topic.clone(), "the user has no Write right on the topic".to_owned());
    assert_eq!(lacking("reader").await, topics.iter().map(write).collect::<Vec<_>>());
    let read = |topic: &String| (topic.clone(), "the user has no Read right on the topic".to_owned());
    assert_eq!(lacking("writer").await, topics[..2].iter().map(read).collect::<Vec<_>>());
    assert_eq!(lacking("alice").await, []);
}
