//! A topic that is deleted and made again under its name: no position of the old one is believed.

use std::time::Duration;

use kylo::adapters::kafka::admin::{self, TopicSpec, TopicState};
use kylo::adapters::kafka::consumer::{KafkaSource, Subscription};
use kylo::adapters::kafka::producer::KafkaProducer;
use kylo::flow::source::{MessageSource, NextOffset, SourceEvent};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::{Instant, timeout_at};

use super::{World, brokers};

const PATIENCE: Duration = Duration::from_secs(180);

/// One partition, and a source whose events are looked at one by one.
struct Bench {
    world: World,
    source: Box<KafkaSource>,
}

impl Bench {
    async fn new() -> Self {
        let world = World::over(super::KafkaSettings::plaintext(&brokers())).await;
        admin::ensure(&world.settings, &[spec(&world)]).await.unwrap();
        let source = Box::new(source(&world));
        Self { world, source }
    }

    async fn publish(&self, n: usize) {
        for at in 0..n {
            self.world.producer.publish(self.world.batch("c0", at)).await.unwrap();
        }
    }

    /// Offsets of the next messages, in the order in which they come, each finished and stored.
    async fn read(&mut self, n: usize) -> Vec<i64> {
        let (mut offsets, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        while offsets.len() < n {
            let event = timeout_at(deadline, self.source.next()).await.unwrap_or_else(|_| panic!("{n} messages wanted, and only {offsets:?} came"));
            match event.expect("the source goes on") {
                SourceEvent::Messages(records) => {
                    for record in records {
                        offsets.push(record.position.offset);
                        self.source.store(record.position.partition, NextOffset::after(record.position.offset));
                    }
                }
                SourceEvent::Assigned(_) => {}
                // What was read before a loss is read again.
                SourceEvent::Revoking { .. } => offsets.clear(),
            }
        }
        offsets
    }

    /// Deletes the topic and makes it again under its name.
    async fn remake(&mut self) {
        let client: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap();
        client.delete_topics(&[&self.world.topic], &AdminOptions::new()).await.unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let made = admin::ensure(&self.world.settings, &[spec(&self.world)]).await;
            if made.is_ok_and(|reports| reports.iter().all(|report| report.state == TopicState::Created)) {
                break;
            }
            assert!(Instant::now() < deadline, "the topic is not made again");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.world.producer = KafkaProducer::start(&self.world.settings).unwrap();
    }

    async fn close(self) {
        assert!(self.source.close(PATIENCE).await);
    }
}

fn spec(world: &World) -> TopicSpec {
    TopicSpec { name: world.topic.clone(), partitions: 1, retention_days: 90 }
}

fn source(world: &World) -> KafkaSource {
    let subscription = Subscription { topic: world.topic.clone(), group: world.group.clone(), drain: Duration::from_secs(5) };
    KafkaSource::start(&world.settings, &subscription).unwrap()
}

fn outsider(world: &World) -> BaseConsumer {
    ClientConfig::new().set("bootstrap.servers", brokers()).set("group.id", &world.group).create().unwrap()
}

/// Commits a position from outside, with this as its metadata.
async fn commit(world: &World, next: i64, metadata: &'static str) {
    let (client, topic) = (outsider(world), world.topic.clone());
    let commit = move || {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Offset(next)).unwrap();
        list.find_partition(&topic, 0).unwrap().set_metadata(metadata);
        let began = std::time::Instant::now();
        while let Err(error) = client.commit(&list, CommitMode::Sync) {
            assert!(began.elapsed() < PATIENCE, "{error}");
            std::thread::park_timeout(Duration::from_millis(100));
        }
    };
    tokio::task::spawn_blocking(commit).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_made_again_while_it_is_consumed_is_read_from_its_beginning_however_far_it_has_grown() {
    let mut bench = Bench::new().await;
    bench.publish(3).await;
    assert_eq!(bench.read(3).await, [0, 1, 2]);
    // Nothing is fetched, so the source does not see the new topic before it has grown beyond its position.
    bench.source.pause(&[0]);
    bench.remake().await;
    bench.publish(12).await;
    assert_eq!(bench.read(12).await, (0..12).collect::<Vec<i64>>());
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_committed_of_another_topic_of_the_same_name_is_not_believed_and_one_committed_by_hand_is() {
    let mut bench = Bench::new().await;
    bench.publish(5).await;
    assert_eq!(bench.read(5).await, [0, 1, 2, 3, 4]);
    let world = {
        let Bench { world, source } = bench;
        assert!(source.close(PATIENCE).await);
        world
    };
    let again = |world: World| Bench { source: Box::new(source(&world)), world };
    // Its own commit is believed.
    let mut bench = again(world);
    bench.publish(1).await;
    assert_eq!(bench.read(1).await, [5]);
    let Bench { world, source } = bench;
    assert!(source.close(PATIENCE).await);
    commit(&world, 4, "another-topics-id").await;
    let mut bench = again(world);
    assert_eq!(bench.read(6).await, [0, 1, 2, 3, 4, 5]);
    let Bench { world, source } = bench;
    assert!(source.close(PATIENCE).await);
    commit(&world, 4, "").await;
    let mut bench = again(world);
    assert_eq!(bench.read(2).await, [4, 5]);
    bench.close().await;
}
