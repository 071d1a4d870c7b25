//! The consumer over a real broker (`KAFKA_BROKERS`, as scripts/up.sh writes it) and a real control database.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

#[path = "support/database.rs"]
#[expect(dead_code, reason = "shared with tests that use all of it")]
mod database;
#[path = "kafka/remade.rs"]
mod remade;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use database::Database;
use futures::FutureExt;
use futures::future::BoxFuture;
use kylo::adapters::kafka::admin::{self, TopicSpec, TopicState};
use kylo::adapters::kafka::client::KafkaSettings;
use kylo::adapters::kafka::consumer::{KafkaSource, Subscription};
use kylo::adapters::kafka::mock::MockBroker;
use kylo::adapters::kafka::producer::{KafkaProducer, OutRecord, PublishError};
use kylo::domain::clock::SystemClock;
use kylo::flow::consume::{ConsumeError, ConsumeParts, ConsumeSettings, Consumer, ConsumerStatus, NoMetrics, TxnsHandler, TxnsTopic};
use kylo::flow::lanes::LaneLimits;
use kylo::flow::routing::RoutingCache;
use kylo::flow::work::{Handled, Stuck, TxnsWork};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

fn brokers() -> String {
    database::variable("KAFKA_BROKERS").expect("KAFKA_BROKERS is not set: run scripts/up.sh, which writes it to .local/env")
}

/// What all workers of a test have applied, in order: company and batch.
#[derive(Clone, Debug, Default)]
struct Applied {
    all: Arc<Mutex<Vec<(String, String)>>>,
    blocked: Arc<Mutex<bool>>,
    entered: Arc<Mutex<usize>>,
}

impl TxnsHandler for Applied {
    fn apply(&self, works: Vec<TxnsWork>) -> BoxFuture<'_, Vec<Result<Handled, Stuck>>> {
        async move {
            *self.entered.lock().unwrap() += works.len();
            while *self.blocked.lock().unwrap() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let mut all = self.all.lock().unwrap();
            works
                .iter()
                .map(|work| {
                    all.push((work.route.company.to_string(), work.batch.batch_id.to_string()));
                    Ok(Handled::Applied)
                })
                .collect()
        }
        .boxed()
    }
}

impl Applied {
    /// Each company's batches in the order in which they were first applied.
    fn firsts(&self) -> BTreeMap<String, Vec<String>> {
        let mut firsts: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (company, batch) in self.all.lock().unwrap().iter() {
            let batches = firsts.entry(company.clone()).or_default();
            if !batches.contains(batch) {
                batches.push(batch.clone());
            }
        }
        firsts
    }

    fn len(&self) -> usize {
        self.all.lock().unwrap().len()
    }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(120), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain for {what}");
}

struct World {
    database: Database,
    settings: KafkaSettings,
    topic: String,
    group: String,
    producer: KafkaProducer,
    applied: Applied,
}

struct Worker {
    status: watch::Receiver<ConsumerStatus>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), ConsumeError>>,
}

impl Worker {
    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(120), self.running).await.expect("the worker stops").unwrap().unwrap();
    }
}

impl World {
    async fn new() -> Self {
        let world = Self::over(KafkaSettings::plaintext(&brokers())).await;
        world.make_topic().await;
        world
    }

    async fn over(settings: KafkaSettings) -> Self {
        let database = Database::create().await;
        database.execute(include_str!("../ddl/control/0001_control.sql")).await;
        database
            .execute(
                "INSERT INTO control.company_config (company_id, db_dsn_rw, db_schema, spreadsheet_id, tab_pending, tab_active)
                 SELECT 'c' || n, 'postgres://x/' || n % 2, 'app_' || n, 'sheet' || n, 'P', 'A' FROM generate_series(0, 9) n",
            )
            .await;
        let name = Uuid::new_v4().simple().to_string();
        let producer = KafkaProducer::start(&settings).unwrap();
        Self { database, settings, topic: format!("txns.{name}"), group: format!("g.{name}"), producer, applied: Applied::default() }
    }

    fn spec(&self) -> TopicSpec {
        TopicSpec { name: self.topic.clone(), partitions: 16, retention_days: 90 }
    }

    async fn make_topic(&self) {
        let reports = admin::ensure(&self.settings, &[self.spec()]).await.unwrap();
        assert!(reports.iter().all(admin::TopicReport::is_good), "{reports:?}");
    }

    fn worker(&self) -> Worker {
        let drain = Duration::from_secs(5);
        let subscription = Subscription { topic: self.topic.clone(), group: self.group.clone(), drain };
        let source = KafkaSource::start(&self.settings, &subscription).unwrap();
        let settings = ConsumeSettings { drain, ..ConsumeSettings::new(&self.topic, &self.group) };
        let control = self.database.pool.clone();
        let parts = ConsumeParts { routes: RoutingCache::new(control.clone()), control, metrics: Arc::new(NoMetrics), worker: Uuid::new_v4() };
        let topic = TxnsTopic { handler: self.applied.clone(), clock: Arc::new(SystemClock), limits: LaneLimits::txns() };
        let consumer = Consumer::new(settings, parts, topic, Box::new(source));
        let (status, stop) = (consumer.status(), CancellationToken::new());
        Worker { status, running: tokio::spawn(consumer.run(stop.clone())), stop }
    }

    fn record(&self, company: &str, payload: String) -> OutRecord {
        OutRecord { topic: self.topic.clone(), key: Some(company.as_bytes().to_vec()), payload: Some(payload.into_bytes()), headers: Vec::new() }
    }

    fn batch(&self, company: &str, n: usize) -> OutRecord {
        let text = format!(
            r#"{{"event_type":"TXNS_BATCH","version":2,"batch_id":"b{n:04}","company_id":"{company}","created_at":"2025-08-26T12:00:00Z",
                "transactions":[{{"id":"t{n}","date":"2025-08-26","amount":-1.00,"description":"X"}}]}}"#
        );
        self.record(company, text)
    }

    /// Messages `from..to` of each of the ten companies.
    async fn publish(&self, from: usize, to: usize) {
        let records: Vec<_> = (from..to).flat_map(|n| (0..10).map(move |c| (n, c))).map(|(n, c)| self.batch(&format!("c{c}"), n)).collect();
        for answer in self.producer.publish_all(&records).await {
            answer.unwrap();
        }
    }

    async fn all_applied_in_order(&self, n: usize) {
        let complete = || (0..10).all(|c| self.applied.firsts().get(&format!("c{c}")).is_some_and(|batches| batches.len() == n));
        eventually(&format!("{n} batches of each of ten companies"), complete).await;
        let wanted: Vec<String> = (0..n).map(|n| format!("b{n:04}")).collect();
        for (company, batches) in self.applied.firsts() {
            assert_eq!(batches, wanted, "{company}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_ten_companies_times_three_messages_on_sixteen_partitions_with_a_second_worker_joining() {
    let world = World::new().await;
    let first = world.worker();
    eventually("all partitions at the first worker", || first.status.borrow().assigned.len() == 16).await;
    world.publish(0, 3).await;
    world.all_applied_in_order(3).await;
    world.publish(3, 30).await;
    let second = world.worker();
    let shared = || {
        let (one, two) = (first.status.borrow().assigned.clone(), second.status.borrow().assigned.clone());
        one.len() == 8 && two.len() == 8 && one.iter().chain(&two).collect::<BTreeSet<_>>().len() == 16
    };
    eventually("both workers to have half of the partitions", shared).await;
    world.publish(30, 60).await;
    world.all_applied_in_order(60).await;
    first.stop().await;
    world.publish(60, 70).await;
    world.all_applied_in_order(70).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_commits_so_nothing_is_handled_again_and_poison_at_the_end_is_passed() {
    let world = World::new().await;
    let worker = world.worker();
    world.publish(0, 5).await;
    for c in 0..10 {
        let company = format!("c{c}");
        world.producer.publish(world.record(&company, "poison".to_owned())).await.unwrap();
    }
    world.all_applied_in_order(5).await;
    let letters = async {
        while world.database.scalar::<i64>("SELECT count(*) FROM control.dead_letters WHERE class = 'not_json'").await != 10 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), letters).await.expect("ten letters");
    eventually("nothing in flight", || worker.status.borrow().in_flight == 0).await;
    worker.stop().await;
    assert_eq!(world.applied.len(), 50);
    let again = world.worker();
    world.publish(5, 6).await;
    world.all_applied_in_order(6).await;
    assert_eq!(world.applied.len(), 60);
    assert_eq!(world.database.scalar::<i64>("SELECT max(attempts)::bigint FROM control.dead_letters").await, 1);
    eventually("the lag to be known and nothing", || {
        let status = again.status.borrow();
        !status.lag.is_empty() && status.lag.values().all(|lag| *lag == 0)
    })
    .await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_a_worker_that_dies_in_the_middle_loses_nothing() {
    let world = World::new().await;
    let worker = world.worker();
    world.publish(0, 3).await;
    world.all_applied_in_order(3).await;
    *world.applied.entered.lock().unwrap() = 0;
    *world.applied.blocked.lock().unwrap() = true;
    world.publish(3, 6).await;
    eventually("work to be under way", || *world.applied.entered.lock().unwrap() > 0).await;
    worker.running.abort();
    assert!(worker.running.await.unwrap_err().is_cancelled());
    *world.applied.blocked.lock().unwrap() = false;
    assert!(world.applied.firsts().values().all(|batches| batches.len() == 3));
    let next = world.worker();
    world.all_applied_in_order(6).await;
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_topic_is_waited_for_and_said() {
    let world = World::over(KafkaSettings::plaintext(&brokers())).await;
    let worker = world.worker();
    let told = || {
        worker.status.borrow().trouble.as_ref().is_some_and(|trouble| trouble.class == "topic_missing" && trouble.detail.contains("topics ensure"))
    };
    eventually("the missing topic to be told", told).await;
    assert!(worker.status.borrow().not_ready().is_some());
    world.make_topic().await;
    eventually("the partitions", || worker.status.borrow().assigned.len() == 16).await;
    world.publish(0, 1).await;
    world.all_applied_in_order(1).await;
    eventually("readiness", || worker.status.borrow().not_ready().is_none()).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_cannot_be_reached_is_told_with_its_cause_and_does_not_hinder_a_stop() {
    let world = World::over(KafkaSettings::plaintext("127.0.0.1:1")).await;
    let worker = world.worker();
    eventually("the cause", || worker.status.borrow().trouble.as_ref().is_some_and(|trouble| trouble.class == "connection")).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_made_once_compared_and_never_given_partitions() {
    let world = World::over(KafkaSettings::plaintext(&brokers())).await;
    let states = |reports: Vec<admin::TopicReport>| reports.into_iter().map(|report| report.state).collect::<Vec<_>>();
    assert_eq!(states(admin::verify(&world.settings, &[world.spec()]).await.unwrap()), [TopicState::Missing]);
    assert_eq!(states(admin::ensure(&world.settings, &[world.spec()]).await.unwrap()), [TopicState::Created]);
    assert_eq!(states(admin::ensure(&world.settings, &[world.spec()]).await.unwrap()), [TopicState::Ok { partitions: 16 }]);
    let other = TopicSpec { partitions: 32, retention_days: 7, ..world.spec() };
    let [TopicState::Drift { differences }] = &states(admin::ensure(&world.settings, &[other]).await.unwrap())[..] else { panic!("no drift") };
    assert_eq!(differences.len(), 2);
    assert_eq!(states(admin::verify(&world.settings, &[world.spec()]).await.unwrap()), [TopicState::Ok { partitions: 16 }]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_too_large_is_refused_and_says_so() {
    let world = World::new().await;
    // Random letters, so that compression does not make it small.
    let large: String = (0..3_000_000).map(|_| char::from(rand::random_range(b'a'..=b'z'))).collect();
    let error = world.producer.publish(world.record("c0", large)).await.unwrap_err();
    assert!(matches!(&error, PublishError::Refused { reason, .. } if reason.contains("max.message.bytes")), "{error}");
    world.producer.publish(world.batch("c0", 0)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_in_process_broker_serves_the_same_consumer() {
    let name = format!("txns.{}", Uuid::new_v4().simple());
    let broker = MockBroker::start(&[(&name, 16)]).unwrap();
    let settings = KafkaSettings::in_process(broker.bootstrap_servers());
    let mut world = World::over(settings).await;
    world.topic = name;
    world.publish(0, 3).await;
    let worker = world.worker();
    world.all_applied_in_order(3).await;
    worker.stop().await;
}
