//! What the demo runs on, and how its workers are configured.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};
use fake_sheets::{FakeSheets, Handle, Options, Role};
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::DemoOptions;
use super::postgres::Cluster;
use crate::adapters::kafka::admin::{self, TopicSpec};
use crate::adapters::kafka::client::KafkaSettings;
use crate::adapters::kafka::mock::MockBroker;
use crate::adapters::kafka::producer::{KafkaProducer, OutRecord};
use crate::config::Settings;
use crate::config::env::Typed;
use crate::domain::company::{Dsn, SchemaName};
use crate::domain::ids::CompanyId;
use crate::flow::publish_format::OutMessage;
use crate::runtime::{Workers, run_until};
use crate::store::control::admin::{Change, Set, set};
use crate::store::migrate::{self, Scope};
use crate::store::pools::{PoolOptions, lazy_pool};

pub const SPREADSHEET: &str = "kylo-demo-rules-workbook";
pub const COMPANIES: [&str; 2] = ["710", "711"];

/// Which broker the demo uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerChoice {
    InProcess,
    /// `host:port,...` of a real one.
    Given(String),
}

/// Everything that runs beside the workers.
#[derive(Debug)]
pub struct Parts {
    cluster: Cluster,
    broker: Option<MockBroker>,
    brokers: String,
    pub sheets: Handle,
    pub pool: PgPool,
    pub producer: KafkaProducer,
    environment: Vec<(String, String)>,
    /// Topics of this demo alone, also on a shared broker.
    suffix: String,
}

/// Workers under way.
#[derive(Debug)]
pub struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<()>>,
}

impl Running {
    /// Stops the workers as SIGTERM would.
    ///
    /// # Errors
    /// What the workers ended with.
    pub async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.task.await.context("the workers panicked")?
    }

    /// What the workers ended with, if they ended by themselves.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }
}

impl Parts {
    pub async fn start(options: &DemoOptions) -> Result<Self> {
        let cluster = Cluster::start().await?;
        let suffix = format!("demo-{:08x}", rand::random::<u32>());
        let topics = TopicSpec::all(&format!("txns-{suffix}"), &format!("promote-{suffix}"), &format!("events-{suffix}"));
        let (broker, brokers) = match &options.broker {
            BrokerChoice::Given(brokers) => {
                let reports = admin::ensure(&KafkaSettings::plaintext(brokers), &topics).await?;
                anyhow::ensure!(reports.iter().all(admin::TopicReport::is_good), "the demo's topics could not be made on {brokers}: {reports:?}");
                (None, brokers.clone())
            }
            BrokerChoice::InProcess => {
                let named: Vec<_> = topics.iter().map(|topic| (topic.name.as_str(), topic.partitions)).collect();
                let broker = MockBroker::start(&named).map_err(anyhow::Error::msg)?;
                let brokers = broker.bootstrap_servers().to_owned();
                (Some(broker), brokers)
            }
        };
        let key_file = cluster.folder().join("key.json");
        let sheets = FakeSheets::start(Options { key_file: Some(key_file), ..Options::default() }).await?;
        sheets.model().create_spreadsheet(Some(SPREADSHEET), "Rules workbook", &["Notes"]).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        sheets.model().share(SPREADSHEET, sheets.account(), Role::Writer).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let pool = lazy_pool(cluster.dsn(), &PoolOptions::default())?;
        let producer = KafkaProducer::start(&KafkaSettings::plaintext(&brokers))?;
        let parts = Self { cluster, broker, brokers, sheets, pool, producer, environment: options.environment.clone(), suffix };
        parts.prepare().await?;
        Ok(parts)
    }

    /// `kylo migrate` and `kylo company set`.
    async fn prepare(&self) -> Result<()> {
        migrate::apply(&self.pool, &Scope::Control).await?;
        for id in COMPANIES {
            let company = CompanyId::parse(id).map_err(anyhow::Error::msg)?;
            let schema = format!("app_{id}");
            let change = Change {
                dsn: Some(Dsn::new(self.cluster.dsn())),
                schema: Some(schema.clone()),
                spreadsheet: Some(SPREADSHEET.to_owned()),
                tab_pending: Some(format!("{id} Pending")),
                tab_active: Some(format!("{id} Active")),
            };
            if let Set::Refused(why) = set(&self.pool, &company, &change).await? {
                anyhow::bail!("company {id} was refused: {}", why.reason);
            }
            migrate::apply(&self.pool, &Scope::Company(SchemaName::parse(&schema).map_err(anyhow::Error::msg)?)).await?;
        }
        Ok(())
    }

    /// The names of what runs, for the first table.
    pub fn table(&self) -> Vec<[String; 2]> {
        let broker = if self.broker.is_some() { "librdkafka's in-process broker" } else { "Kafka" };
        vec![
            ["PostgreSQL".to_owned(), format!("a throwaway cluster in {}", self.cluster.folder().display())],
            [broker.to_owned(), self.brokers.clone()],
            ["Google Sheets".to_owned(), format!("fake-sheets, {}", self.sheets.url())],
        ]
    }

    /// Starts the workers as `kylo run` does.
    ///
    /// # Errors
    /// Configuration.
    pub fn run(&self, post: bool) -> Result<Running> {
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let settings = self.settings(post)?;
        let workers = Workers { command: "demo", txns: true, promote: true, poster: true, relay: false, http: None };
        Ok(Running { stop, task: tokio::spawn(run_until(settings, workers, stopped)) })
    }

    fn settings(&self, post: bool) -> Result<Settings> {
        let mut environment: BTreeMap<String, String> = self.environment.iter().cloned().collect();
        let key_file = self.sheets.key_file().map(|path| path.display().to_string()).unwrap_or_default();
        let own = [
            ("PG_DSN_RW", self.cluster.dsn().to_owned()),
            ("KAFKA_BROKERS", self.brokers.clone()),
            ("KAFKA_TOPIC_TXNS", self.txns()),
            ("KAFKA_TOPIC_PROMOTE", self.promote()),
            ("KAFKA_TOPIC_EVENTS", format!("events-{}", self.suffix)),
            ("KAFKA_GROUP_TXNS", format!("workers-txns-{}", self.suffix)),
            ("KAFKA_GROUP_PROMOTE", format!("workers-promote-{}", self.suffix)),
            ("KYLO_ENVIRONMENT", "demo".to_owned()),
            ("KYLO_SHEETS_ENDPOINT", self.sheets.url()),
            ("GOOGLE_APPLICATION_CREDENTIALS", key_file),
            ("KYLO_SHEETS_POST", if post { "1" } else { "0" }.to_owned()),
        ];
        environment.extend(own.map(|(name, value)| (name.to_owned(), value)));
        let pairs = environment.into_iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let mut settings = Settings::resolve(&Typed::read(pairs, &BTreeMap::new())?)?;
        if self.broker.is_some() {
            settings.kafka.session_timeout = KafkaSettings::in_process(&self.brokers).session_timeout;
        }
        Ok(settings)
    }

    pub fn txns(&self) -> String {
        format!("txns-{}", self.suffix)
    }

    pub fn promote(&self) -> String {
        format!("promote-{}", self.suffix)
    }

    /// Publishes and waits for the broker's acknowledgement.
    ///
    /// # Errors
    /// The broker's.
    pub async fn publish(&self, topic: &str, messages: Vec<OutMessage>) -> Result<()> {
        for message in messages {
            let key = Some(message.key().as_bytes().to_vec());
            let record = OutRecord { topic: topic.to_owned(), key, payload: Some(message.payload.into_bytes()), headers: Vec::new() };
            self.producer.publish(record).await?;
        }
        Ok(())
    }

    pub async fn stop(self) -> Result<()> {
        self.pool.close().await;
        drop(self.producer);
        drop(self.broker);
        self.sheets.shutdown().await;
        self.cluster.stop().await
    }
}

/// Polls until `look` gives something; `what` is said if it never does.
///
/// # Errors
/// Time is over, or `look` failed.
pub async fn eventually<T, Fut>(what: &str, running: &Running, mut look: impl FnMut() -> Fut) -> Result<T>
where
    Fut: Future<Output = Result<Option<T>>>,
{
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        anyhow::ensure!(!running.has_ended(), "the workers ended before {what}");
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "{what}: not within a minute; RUST_LOG=info shows what the workers do");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
