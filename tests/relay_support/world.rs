//! A control database with company schemas, a topic of its own on the real broker, and relays of this process over them.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kylo::adapters::kafka::admin::{TopicReport, TopicSpec, ensure};
use kylo::adapters::kafka::client::KafkaSettings;
use kylo::adapters::kafka::events::KafkaEvents;
use kylo::domain::outbox::Outbox;
use kylo::faults::Faults;
use kylo::flow::relay::{Limits, NoMetrics, Relay, RelayOptions, RelayStatus};
use kylo::flow::routing::RoutingCache;
use kylo::ports::EventPublisher;
use kylo::store::outbox::database_name;
use kylo::store::pools::{PoolOptions, Pools};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sqlx::AssertSqlSafe;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::database::{Database, variable};
use crate::patience::patiently;

pub const PATIENCE: Duration = Duration::from_secs(240);

pub struct World {
    pub database: Database,
    pub topic: String,
    pub settings: KafkaSettings,
}

/// A record as a consumer gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub partition: i32,
    pub key: Option<String>,
    pub headers: BTreeMap<String, String>,
    pub payload: Option<String>,
}

impl Seen {
    pub fn id(&self) -> &str {
        &self.headers["event_id"]
    }

    /// `n` of the payload, by which tests number events.
    pub fn n(&self) -> i64 {
        serde_json::from_str::<serde_json::Value>(self.payload.as_deref().unwrap()).unwrap()["n"].as_i64().unwrap()
    }
}

pub struct Running {
    pub status: Arc<Mutex<RelayStatus>>,
    pub stop: CancellationToken,
    pub task: JoinHandle<()>,
}

impl Running {
    pub async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("the relay stops").unwrap();
    }

    pub fn worst(&self) -> String {
        self.status.lock().unwrap().worst().map_or_else(String::new, |trouble| trouble.reason.clone())
    }
}

pub fn brokers() -> String {
    variable("KAFKA_BROKERS").expect("KAFKA_BROKERS is not set: run scripts/up.sh, which writes it to .local/env")
}

pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(now) if began.elapsed() > PATIENCE => panic!("{what}: not within {PATIENCE:?}; now: {now}"),
            // An interval of looking, not a time after which anything is assumed.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

impl World {
    /// `schemas`: of companies called like them.
    pub async fn new(schemas: &[&str]) -> Self {
        let world = Self::without_topic(schemas).await;
        world.make_topic(&world.topic, 4).await;
        world
    }

    pub async fn without_topic(schemas: &[&str]) -> Self {
        let database = Database::create().await;
        database.execute(include_str!("../../ddl/control/0001_control.sql")).await;
        let world = Self { database, topic: format!("events.{}", Uuid::new_v4().simple()), settings: KafkaSettings::plaintext(&brokers()) };
        for schema in schemas {
            let ddl = include_str!("../../ddl/company/0001_company.sql");
            world.sql(&format!("CREATE SCHEMA {schema}; SET search_path = {schema}; {ddl}; RESET search_path")).await;
            world
                .sql(&format!(
                    "INSERT INTO control.company_config (company_id, db_dsn_rw, db_schema, spreadsheet_id, tab_pending, tab_active)
                     VALUES ('{schema}', '{}', '{schema}', 'sheet-{schema}', 'P', 'A')",
                    world.database.dsn
                ))
                .await;
        }
        world
    }

    pub async fn make_topic(&self, name: &str, partitions: i32) {
        let reports = ensure(&self.settings, &[TopicSpec { name: name.to_owned(), partitions, retention_days: 90 }]).await.unwrap();
        assert!(reports.iter().all(TopicReport::is_good), "{reports:?}");
    }

    pub async fn sql(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.database.pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.database.pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub async fn counts(&self, sql: &str, wanted: i64) {
        eventually(sql, async || match self.number(sql).await {
            now if now == wanted => Ok(()),
            now => Err(format!("{now} instead of {wanted}")),
        })
        .await;
    }

    /// Events `from..to`, numbered, of `keys` keys in turn, in the control database's outbox.
    pub async fn insert(&self, from: i64, to: i64, keys: i64) {
        self.sql(&format!(
            "INSERT INTO control.outbox_events (event_type, company_id, payload)
             SELECT 'test', 'k' || n % {keys}, jsonb_build_object('n', n) FROM generate_series({from}, {to} - 1) n ORDER BY n"
        ))
        .await;
    }

    pub async fn all_marked(&self) {
        self.counts("SELECT count(*) FROM control.outbox_events WHERE published_at IS NULL", 0).await;
    }

    pub fn publisher(&self) -> Arc<dyn EventPublisher> {
        let settings = self.settings.clone();
        Arc::new(KafkaEvents::new(Arc::new(move || Ok(settings.clone())), Duration::from_secs(10)))
    }

    /// Quick: retries and leases in fractions of a second.
    pub fn limits(&self) -> Limits {
        Limits { poll: Duration::from_millis(500), retry_after: Duration::from_millis(50), lease: Duration::from_secs(3), ..Limits::default() }
    }

    pub fn options(&self) -> RelayOptions {
        let control = self.database.pool.clone();
        RelayOptions {
            control_name: database_name(&self.database.dsn).unwrap(),
            pools: Pools::new(PoolOptions::default()),
            routing: RoutingCache::new(control.clone()),
            publisher: self.publisher(),
            topic_events: self.topic.clone(),
            configured: Vec::new(),
            limits: self.limits(),
            holder: Uuid::new_v4(),
            metrics: Arc::new(NoMetrics),
            faults: Faults::default(),
            control,
        }
    }

    pub fn start(&self) -> Running {
        start(self.options())
    }

    /// A configured source of the control database.
    pub fn source(&self, outbox: Outbox) -> Outbox {
        Outbox { name: format!("{}/{}.{}", database_name(&self.database.dsn).unwrap(), outbox.schema, outbox.table), ..outbox }
    }

    /// Everything that is in a topic now, per partition in order.
    pub async fn records(&self, topic: &str) -> Vec<Seen> {
        let (topic, brokers) = (topic.to_owned(), brokers());
        tokio::task::spawn_blocking(move || read_all(&brokers, &topic)).await.unwrap()
    }
}

pub fn start(options: RelayOptions) -> Running {
    let (status, stop) = (Arc::new(Mutex::new(RelayStatus::default())), CancellationToken::new());
    let (shown, stopped) = (Arc::clone(&status), stop.clone());
    let task = tokio::spawn(async move { Relay::new(options).run(stopped, |now| shown.lock().unwrap().clone_from(now)).await });
    Running { status, stop, task }
}

pub fn read_all(brokers: &str, topic: &str) -> Vec<Seen> {
    let client: BaseConsumer = rdkafka::config::ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", "reads-only").create().unwrap();
    let metadata = patiently("metadata", || client.fetch_metadata(Some(topic), Duration::from_secs(10)));
    let mut list = TopicPartitionList::new();
    let mut left = 0;
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = patiently("the end of a partition", || client.fetch_watermarks(topic, partition.id(), Duration::from_secs(10)));
        left += high - low;
        list.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
    }
    client.assign(&list).unwrap();
    let mut seen = Vec::new();
    let began = Instant::now();
    while left > 0 && began.elapsed() < PATIENCE {
        // librdkafka connects and asks again by itself; what does not come is missing at the end.
        let Some(Ok(message)) = client.poll(Duration::from_millis(100)) else { continue };
        left -= 1;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let headers = message.headers().map(|headers| {
            headers.iter().map(|header| (header.key.to_owned(), header.value.map(text).unwrap_or_default())).collect::<BTreeMap<_, _>>()
        });
        seen.push(Seen {
            partition: message.partition(),
            key: message.key().map(text),
            headers: headers.unwrap_or_default(),
            payload: message.payload().map(text),
        });
    }
    assert_eq!(left, 0, "records of {topic} that could not be read");
    seen
}

/// The first copies alone.
pub fn firsts(seen: &[Seen]) -> Vec<&Seen> {
    let mut known = HashSet::new();
    seen.iter().filter(|record| known.insert(record.id().to_owned())).collect()
}

/// Per key the numbers of the first copies, in order of arrival.
pub fn numbers(seen: &[Seen]) -> BTreeMap<String, Vec<i64>> {
    let mut numbers: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for record in firsts(seen) {
        numbers.entry(record.key.clone().unwrap()).or_default().push(record.n());
    }
    numbers
}

/// Every event `0..total` once, each key in order, not counting copies.
pub fn assert_complete_and_in_order(seen: &[Seen], total: i64) {
    let numbers = numbers(seen);
    for (key, numbers) in &numbers {
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
    }
    assert_eq!(numbers.values().map(Vec::len).sum::<usize>(), usize::try_from(total).unwrap(), "events in the topic");
}
