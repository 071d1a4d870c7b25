//! Databases, topics and the three cases of the relay's benchmark.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use futures::FutureExt;
use futures::future::BoxFuture;
use kylo::adapters::kafka::admin::{TopicSpec, ensure};
use kylo::adapters::kafka::client::KafkaSettings;
use kylo::adapters::kafka::events::KafkaEvents;
use kylo::adapters::kafka::producer::{KafkaProducer, OutRecord};
use kylo::domain::outbox::Event;
use kylo::flow::relay::{Limits, NoMetrics, Relay, RelayOptions};
use kylo::flow::routing::RoutingCache;
use kylo::ports::{EventPublisher, PublishFault};
use kylo::store::outbox::database_name;
use kylo::store::pools::{PoolOptions, Pools};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool, Row};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const ROWS: usize = 100_000;
const LATENCIES: usize = 500;
const PATIENCE: Duration = Duration::from_secs(300);

pub struct World {
    server: String,
    name: String,
    brokers: String,
    control: PgPool,
    control_name: String,
    topic: String,
}

/// Notes when each call was acknowledged.
#[derive(Debug)]
struct Timed {
    inner: KafkaEvents,
    /// The first call.
    first: OnceLock<Instant>,
    acknowledged: Mutex<Vec<Instant>>,
}

impl EventPublisher for Timed {
    fn publish<'a>(&'a self, events: &'a [Event]) -> BoxFuture<'a, Vec<Result<(), PublishFault>>> {
        async move {
            self.first.get_or_init(Instant::now);
            let answers = self.inner.publish(events).await;
            if let Ok(mut acknowledged) = self.acknowledged.lock() {
                acknowledged.extend(answers.iter().filter(|answer| answer.is_ok()).map(|_| Instant::now()));
            }
            answers
        }
        .boxed()
    }

    fn check<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<(), PublishFault>> {
        self.inner.check(topic)
    }
}

pub fn median(figures: &[f64]) -> f64 {
    at(figures, 2)
}

pub fn p99(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() * 99 / 100).copied().unwrap_or(0.0)
}

fn at(figures: &[f64], part: usize) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / part).copied().unwrap_or(0.0)
}

#[expect(clippy::disallowed_methods, reason = "a benchmark's own settings")]
fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set: run scripts/up.sh, then source .local/env"))
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn per_second(n: usize, began: Instant) -> f64 {
    n as f64 / began.elapsed().as_secs_f64()
}

impl World {
    pub async fn create() -> Result<Self> {
        let (server, brokers) = (variable("PG_DSN_RW")?, variable("KAFKA_BROKERS")?);
        let name = format!("kylo_bench_{}", Uuid::new_v4().simple());
        let mut admin = PgConnection::connect(&server).await.context("PG_DSN_RW does not answer")?;
        admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
        let mut url = url::Url::parse(&server)?;
        url.set_path(&name);
        let control = PgPool::connect(url.as_str()).await?;
        control.execute(include_str!("../../ddl/control/0001_control.sql")).await?;
        let topic = format!("bench.events.{}", Uuid::new_v4().simple());
        let spec = TopicSpec { name: topic.clone(), partitions: 8, retention_days: 90 };
        ensure(&KafkaSettings::plaintext(&brokers), &[spec]).await?;
        Ok(Self { server, name, brokers, control_name: database_name(url.as_str())?, control, topic })
    }

    pub async fn remove(self) -> Result<()> {
        self.control.close().await;
        let mut admin = PgConnection::connect(&self.server).await?;
        admin.execute(AssertSqlSafe(format!("DROP DATABASE {} WITH (FORCE)", self.name))).await?;
        Ok(())
    }

    async fn fill(&self, n: usize) -> Result<()> {
        let n = i64::try_from(n)?;
        self.control.execute("TRUNCATE control.outbox_events").await?;
        sqlx::query(
            "INSERT INTO control.outbox_events (event_type, company_id, payload)
             SELECT 'batch.ingested', 'company-' || n % 40,
                    jsonb_build_object('n', n, 'batch_id', 'b-' || n, 'batch_signature', encode(sha256(n::text::bytea), 'hex'), 'rows', 500, 'seq', n)
             FROM generate_series(1, $1) n",
        )
        .bind(n)
        .execute(&self.control)
        .await?;
        self.control.execute("VACUUM ANALYZE control.outbox_events").await?;
        Ok(())
    }

    fn relay(&self, publisher: Arc<dyn EventPublisher>) -> Relay {
        Relay::new(RelayOptions {
            control: self.control.clone(),
            control_name: self.control_name.clone(),
            pools: Pools::new(PoolOptions::default()),
            routing: RoutingCache::new(self.control.clone()),
            publisher,
            topic_events: self.topic.clone(),
            configured: Vec::new(),
            limits: Limits::default(),
            holder: Uuid::new_v4(),
            metrics: Arc::new(NoMetrics),
            faults: Default::default(),
        })
    }

    fn timed(&self) -> Arc<Timed> {
        let settings = KafkaSettings::plaintext(&self.brokers);
        let inner = KafkaEvents::new(Arc::new(move || Ok(settings.clone())), Duration::from_secs(30));
        Arc::new(Timed { inner, first: OnceLock::new(), acknowledged: Mutex::default() })
    }

    /// Waits until nothing is unpublished.
    async fn drained(&self) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let left: bool =
                sqlx::query_scalar("SELECT EXISTS (SELECT FROM control.outbox_events WHERE published_at IS NULL)").fetch_one(&self.control).await?;
            if !left {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err(anyhow!("the relay did not drain the outbox within {PATIENCE:?}"))
    }

    /// From the first record's way to the broker to the last row's mark. The rows are there before the relay is, so that none of them is drained while
    /// the clock does not run; the first claim, one of a hundred, is not timed.
    pub async fn drain_speed(&self) -> Result<f64> {
        self.fill(ROWS).await?;
        let publisher = self.timed();
        let (relay, stop) = (self.relay(Arc::clone(&publisher) as _), CancellationToken::new());
        let stopped = stop.clone();
        let running = tokio::spawn(async move { relay.run(stopped, |_| {}).await });
        // The server is asked only when all is acknowledged: a question that looks through marked rows would take the time that is measured.
        let acknowledged = || publisher.acknowledged.lock().map(|all| all.len()).unwrap_or(0);
        while acknowledged() < ROWS && publisher.first.get().is_none_or(|first| first.elapsed() < PATIENCE) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.drained().await?;
        let ended = Instant::now();
        stop.cancel();
        running.await?;
        let began = publisher.first.get().ok_or_else(|| anyhow!("nothing was published"))?;
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let speed = ROWS as f64 / ended.duration_since(*began).as_secs_f64();
        Ok(speed)
    }

    /// The rows alone: taken in order and deleted, so many in a statement.
    pub async fn claim_and_delete_speed(&self, at_a_time: i64) -> Result<f64> {
        self.fill(ROWS).await?;
        let began = Instant::now();
        loop {
            let rows = sqlx::query(
                "DELETE FROM control.outbox_events WHERE seq IN (SELECT seq FROM control.outbox_events WHERE published_at IS NULL ORDER BY seq LIMIT $1)
                 RETURNING seq, event_id::text, event_type, company_id, payload::text",
            )
            .bind(at_a_time)
            .fetch_all(&self.control)
            .await?;
            if rows.is_empty() {
                return Ok(per_second(ROWS, began));
            }
        }
    }

    /// The records alone.
    pub async fn producer_speed(&self) -> Result<f64> {
        self.fill(1_000).await?;
        let rows = sqlx::query("SELECT company_id, payload::text FROM control.outbox_events").fetch_all(&self.control).await?;
        let record = |row: &sqlx::postgres::PgRow| -> Result<OutRecord> {
            Ok(OutRecord {
                topic: self.topic.clone(),
                key: Some(row.try_get::<String, _>(0)?.into_bytes()),
                payload: Some(row.try_get::<String, _>(1)?.into_bytes()),
                headers: vec![("event_id".to_owned(), Uuid::new_v4().to_string()), ("event_type".to_owned(), "batch.ingested".to_owned())],
            })
        };
        let records: Vec<OutRecord> = rows.iter().map(record).collect::<Result<_>>()?;
        let producer = KafkaProducer::start(&KafkaSettings::plaintext(&self.brokers))?;
        producer.publish(records[0].clone()).await?;
        let began = Instant::now();
        for _ in 0..ROWS / 10_000 {
            // Ten thousand on their way at a time.
            let many: Vec<OutRecord> = records.iter().cycle().take(10_000).cloned().collect();
            for answer in producer.publish_all(&many).await {
                answer?;
            }
        }
        Ok(per_second(ROWS, began))
    }

    /// Milliseconds from an event's commit to its acknowledgement, for events that come one at a time.
    pub async fn latencies(&self) -> Result<Vec<f64>> {
        self.fill(1).await?;
        let publisher = self.timed();
        let (relay, stop) = (self.relay(Arc::clone(&publisher) as _), CancellationToken::new());
        let stopped = stop.clone();
        let running = tokio::spawn(async move { relay.run(stopped, |_| {}).await });
        self.drained().await?;
        let acknowledged = |n: usize| publisher.acknowledged.lock().ok().and_then(|all| all.get(n).copied());
        let mut latencies = Vec::with_capacity(LATENCIES);
        for n in 1..=LATENCIES {
            sqlx::query("INSERT INTO control.outbox_events (event_type, company_id, payload) VALUES ('x', 'company-1', '{}')")
                .execute(&self.control)
                .await?;
            let committed = Instant::now();
            let at = loop {
                if let Some(at) = acknowledged(n) {
                    break at;
                }
                if committed.elapsed() > PATIENCE {
                    return Err(anyhow!("event {n} was never acknowledged"));
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            };
            latencies.push(at.duration_since(committed).as_secs_f64() * 1_000.0);
        }
        stop.cancel();
        running.await?;
        Ok(latencies)
    }
}
