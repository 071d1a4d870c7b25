//! `kylo selftest`: an event and a message go the whole way through the workers that run now, and are seen to arrive.
//!
//! What must never happen here: anything of a real company touched. The reserved company has a schema of its own in the control database.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::json;
use sqlx::PgPool;
use tokio::time::Instant;
use uuid::Uuid;

use super::tools::{self, OutRecord};
use crate::adapters::kafka::client::KafkaSettings;
use crate::adapters::kafka::reader::{Begin, TopicReader};
use crate::config::Settings;
use crate::domain::clock::{Clock, SystemClock};
use crate::domain::company::{Dsn, SELFTEST_COMPANY, SELFTEST_SCHEMA, SchemaName};
use crate::domain::ids::CompanyId;
use crate::flow::work::Record;
use crate::store::company::selftest;
use crate::store::control::admin::{self, Change, Set};
use crate::store::control::relay;
use crate::store::error::describe;
use crate::store::migrate::{self, Scope};
use crate::store::pools::{PoolOptions, Pools, within};

/// Between two looks at a table.
const PAUSE: Duration = Duration::from_millis(100);

/// One thing that was tried.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    pub name: &'static str,
    pub ok: bool,
    /// For people: what was seen, or what is wrong and what to do.
    pub detail: String,
    pub milliseconds: u64,
}

/// What the steps need.
struct Test<'a> {
    settings: &'a Settings,
    control: &'a PgPool,
    pools: std::sync::Arc<Pools>,
    dsn: Dsn,
    schema: SchemaName,
    patience: Duration,
    steps: Vec<Step>,
}

/// Tries everything; stops at the first step of a chain that fails. `workers`: also a message through the transactions workers.
///
/// # Errors
/// Configuration: `PG_DSN_RW`. What does not work is a step that failed.
pub async fn run(settings: &Settings, control: &PgPool, patience: Duration, workers: bool) -> Result<Vec<Step>> {
    let dsn = Dsn::new(settings.control()?.current()?.expose_secret());
    let schema = SchemaName::parse(SELFTEST_SCHEMA).map_err(anyhow::Error::msg)?;
    let pools = Pools::new(PoolOptions { max_connections: 2, application_name: "kylo-cli".to_owned(), ..PoolOptions::default() });
    let mut test = Test { settings, control, pools, dsn, schema, patience, steps: Vec::new() };
    // A step that fails is in the list; what would have followed cannot be tried.
    let _ = test.event().await;
    if workers {
        let _ = test.message().await;
    }
    Ok(test.steps)
}

impl Test<'_> {
    async fn event(&mut self) -> Option<()> {
        let topic = self.settings.kafka.topic_events.clone();
        let reader = self.step("events_topic", "can be read", reader(self.settings, &topic)).await?;
        let added = async { relay::add_selftest(self.control, SELFTEST_COMPANY).await.map_err(|error| anyhow::anyhow!(describe(&error))) };
        let (seq, event_id) = self.step("outbox", "an event is written to control.outbox_events", added).await?;
        let id = event_id.to_string();
        let advice = format!("no event came on {topic}: is a relay running (`kylo status`), and is KYLO_RELAY not 0?");
        let seen = seen(&reader, self.patience, &advice, |record| record.headers.get("event_id") == Some(&id));
        self.step("event_published", "the event is on the topic", seen).await?;
        let (control, patience) = (self.control.clone(), self.patience);
        let marked = until(patience, "the event is on the topic, and its row is not marked", async || relay::is_marked(&control, seq).await);
        self.step("event_marked", "its row is marked", marked).await
    }

    async fn message(&mut self) -> Option<()> {
        let (control, pools, dsn, schema) = (self.control, self.pools.clone(), self.dsn.clone(), self.schema.clone());
        let prepared = async move { prepare(control, &pools, &dsn, &schema).await };
        self.step("reserved_company", "is configured, and is never posted", prepared).await?;
        let topic = self.settings.kafka.topic_events.clone();
        let reader = self.step("events_topic", "can be read", reader(self.settings, &topic)).await?;
        let batch_id = format!("selftest-{}", Uuid::new_v4().simple());
        let published = publish(self.settings, &batch_id);
        self.step("message_published", "a batch of one transaction is on the transactions topic", published).await?;
        let (pools, dsn, schema, id) = (self.pools.clone(), self.dsn.clone(), self.schema.clone(), batch_id.clone());
        let arrived =
            until(self.patience, "the batch did not arrive: is `kylo consume txns` running (`kylo status`), and is it far behind?", async || {
                let mut tx = pools.begin(&dsn, &schema).await?;
                selftest::has_arrived(&mut tx, &id).await
            });
        self.step("message_ingested", "its transaction is in Postgres and waits for a person", arrived).await?;
        let told = seen(&reader, self.patience, "no batch.ingested came for it: is a relay running (`kylo status`)?", |record| {
            let text = record.payload.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
            record.headers.get("event_type").is_some_and(|name| name == "batch.ingested") && text.contains(&batch_id)
        });
        self.step("message_told", "its event batch.ingested is on the topic", told).await?;
        let (pools, dsn, schema) = (self.pools.clone(), self.dsn.clone(), self.schema.clone());
        let tidied = async move {
            let work = async {
                let mut tx = pools.begin(&dsn, &schema).await?;
                selftest::tidy(&mut tx).await?;
                tx.commit().await
            };
            within(crate::store::pools::PATIENCE, work).await.map_err(|error| anyhow::anyhow!(describe(&error)))
        };
        self.step("tidied", "nothing of it is left in the books", tidied).await
    }

    /// Tries something, and notes what came of it.
    async fn step<T>(&mut self, name: &'static str, good: &str, work: impl Future<Output = Result<T>>) -> Option<T> {
        let began = Instant::now();
        let result = work.await;
        let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (ok, detail) = match &result {
            Ok(_) => (true, good.to_owned()),
            Err(error) => (false, format!("{error:#}")),
        };
        self.steps.push(Step { name, ok, detail, milliseconds });
        result.ok()
    }
}

async fn reader(settings: &Settings, topic: &str) -> Result<TopicReader> {
    Ok(TopicReader::start(&KafkaSettings::from_config(&settings.kafka)?, topic, Begin::End).await?)
}

async fn seen(reader: &TopicReader, patience: Duration, advice: &str, is_it: impl Fn(&Record) -> bool) -> Result<()> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        match reader.next(Duration::from_millis(500)).await? {
            Some(record) if is_it(&record) => return Ok(()),
            _ => {}
        }
    }
    bail!("{advice} (waited {} s)", patience.as_secs())
}

async fn until(patience: Duration, advice: &str, mut look: impl AsyncFnMut() -> Result<bool, sqlx::Error>) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        match within(patience, look()).await {
            Ok(true) => return Ok(()),
            Ok(false) if Instant::now() >= deadline => bail!("{advice} (waited {} s)", patience.as_secs()),
            Err(error) if Instant::now() >= deadline => bail!("{}", describe(&error)),
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// The reserved company's schema and its row. Its spreadsheet does not exist, and nobody asks for it.
async fn prepare(control: &PgPool, pools: &Pools, dsn: &Dsn, schema: &SchemaName) -> Result<()> {
    let pool = pools.pool(dsn).map_err(|error| anyhow::anyhow!(describe(&error)))?;
    migrate::apply(&pool, &Scope::Company(schema.clone())).await?;
    let company = CompanyId::parse(SELFTEST_COMPANY).map_err(|error| anyhow::anyhow!("{error}"))?;
    let text = |text: &str| Some(text.to_owned());
    let change = Change {
        dsn: Some(dsn.clone()),
        schema: text(schema.as_str()),
        spreadsheet: text("kylo-selftest-has-none"),
        tab_pending: text("selftest Pending"),
        tab_active: text("selftest Active"),
    };
    match admin::set(control, &company, &change).await.map_err(|error| anyhow::anyhow!(describe(&error)))? {
        Set::Refused(why) => bail!("the reserved company cannot be configured: {}", why.reason),
        Set::Created | Set::Changed | Set::Unchanged => Ok(()),
    }
}

async fn publish(settings: &Settings, batch_id: &str) -> Result<()> {
    let now = SystemClock.now();
    let message = json!({
        "event_type": "TXNS_BATCH", "version": 2, "batch_id": batch_id, "company_id": SELFTEST_COMPANY, "created_at": now,
        "transactions": [{ "id": batch_id, "date": now.date_naive().to_string(), "amount": "-0.01", "description": "KYLO SELFTEST" }],
        "meta": { "producer": "kylo@selftest" },
    });
    let record = OutRecord {
        topic: settings.kafka.topic_txns.clone(),
        key: Some(SELFTEST_COMPANY.as_bytes().to_vec()),
        payload: Some(message.to_string().into_bytes()),
        headers: Vec::new(),
    };
    tools::producer(settings)?.publish(record).await.map(drop).context("the batch was not published")
}
