//! `kylo backfill`: history sent again, marked as such, slowly enough, and so that an interrupted one goes on where it was.
//!
//! Events come from Kylo's own outboxes (published, and still kept), messages from the transactions topic itself. What must never happen here: an event
//! that looks new (it keeps its event_id, and header `replay` says what it is), or a company's messages in another order than they were.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::time::Instant;
use uuid::Uuid;

use crate::adapters::kafka::client::KafkaSettings;
use crate::adapters::kafka::events::KafkaEvents;
use crate::adapters::kafka::reader::{Begin, TopicReader};
use crate::config::Settings;
use crate::domain::outbox::{Event, Outbox, Place, REPLAY_HEADER};
use crate::flow::relay::own_outboxes;
use crate::flow::routing::RoutingCache;
use crate::flow::work::Record;
use crate::flow::{dead_letter, source::NextOffset};
use crate::ports::{EventPublisher, PublishFault};
use crate::store::control::backfills::{self, BackfillRow};
use crate::store::error::describe;
use crate::store::outbox::database_name;
use crate::store::outbox::history::{self, Which};
use crate::store::pools::{PoolOptions, Pools};

/// Sent and acknowledged at a time; so much is sent twice after a kill.
const CHUNK: i64 = 500;
/// A topic that gives nothing for so long has no more of what was there at the start (offsets may be missing at its end).
const SILENCE: Duration = Duration::from_secs(10);
/// How long a broker that does not answer is tried again.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where history comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    Events,
    Topic,
}

/// What is to be sent again. Fixed at the start: what comes into being meanwhile is not meant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub from: From,
    pub which: Which,
    /// The topic it goes to.
    pub to: String,
    /// The topic that is read, for [`From::Topic`].
    pub read: String,
    /// Per outbox or partition: the first and the last that are meant.
    pub ranges: BTreeMap<String, (i64, i64)>,
    /// Events; of a topic, the records that are to be looked through.
    pub total: i64,
    pub bytes: i64,
    pub limit: Option<i64>,
}

/// How far it is, for whoever waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub done: i64,
    pub total: i64,
    pub published: i64,
}

/// What `kylo backfill` works with.
#[derive(Debug)]
pub struct Backfill {
    control: PgPool,
    pools: Arc<Pools>,
    outboxes: BTreeMap<String, Outbox>,
    kafka: KafkaSettings,
    publisher: KafkaEvents,
}

impl Backfill {
    /// # Errors
    /// Configuration, or the control database.
    pub async fn open(settings: &Settings, control: &PgPool) -> Result<Self> {
        let dsn = settings.control()?.current()?;
        let name = database_name(dsn.expose_secret()).map_err(|error| anyhow!(describe(&error)))?;
        let routes =
            RoutingCache::new(control.clone()).all().await.map_err(|error| anyhow!(describe(&error))).context("cannot read the companies")?;
        let kafka = settings.kafka.clone();
        let current = Arc::new(move || KafkaSettings::from_config(&kafka).map_err(|error| error.to_string()));
        Ok(Self {
            control: control.clone(),
            pools: Pools::new(PoolOptions { max_connections: 2, application_name: "kylo-cli".to_owned(), ..PoolOptions::default() }),
            outboxes: own_outboxes(&name, &routes, &settings.kafka.topic_events),
            kafka: KafkaSettings::from_config(&settings.kafka)?,
            publisher: KafkaEvents::new(current, settings.relay.timeout),
        })
    }

    /// Counts what there is.
    ///
    /// # Errors
    /// A database or the broker does not answer.
    pub async fn plan(&self, from: From, which: Which, read: &str, to: &str, limit: Option<i64>) -> Result<Plan> {
        let mut plan = Plan { from, which, to: to.to_owned(), read: read.to_owned(), ranges: BTreeMap::new(), total: 0, bytes: 0, limit };
        if from == From::Topic {
            let reader = TopicReader::start(&self.kafka, read, plan.which.since.map_or(Begin::Beginning, Begin::Since)).await?;
            for (partition, end) in reader.ends() {
                let begin = reader.begins().get(partition).copied().unwrap_or(*end);
                plan.ranges.insert(partition.to_string(), (begin, *end));
            }
            plan.total = reader.n_known();
            return Ok(plan);
        }
        for (name, outbox) in &self.outboxes {
            let amount = history::amount(&self.pool(outbox)?, outbox, &plan.which).await;
            let amount = amount.map_err(|error| anyhow!("outbox {name} cannot be read: {}", describe(&error)))?;
            if amount.events > 0 {
                plan.ranges.insert(name.clone(), (0, amount.last_seq));
                plan.total += amount.events;
                plan.bytes += amount.bytes;
            }
        }
        Ok(plan)
    }

    /// Sends everything of a plan that is not sent yet.
    ///
    /// # Errors
    /// What stopped it; with the same id it goes on.
    pub async fn run(&self, id: Uuid, row: BackfillRow, rate: u32, tell: impl Fn(Progress)) -> Result<i64> {
        let plan: Plan = serde_json::from_value(row.plan).context("the backfill's plan cannot be read: begin a new one")?;
        let positions = serde_json::from_value(row.positions).context("the backfill's positions cannot be read: begin a new one")?;
        let mut run = Run { backfill: self, id, pace: Pace::new(rate), plan, positions, published: row.published, done: row.published, tell };
        match run.plan.from {
            From::Events => run.events().await?,
            From::Topic => run.topic().await?,
        }
        run.save("done").await?;
        Ok(run.published)
    }

    fn pool(&self, outbox: &Outbox) -> Result<PgPool> {
        match &outbox.place {
            Place::Control => Ok(self.control.clone()),
            Place::Elsewhere(dsn) => self.pools.pool(dsn).map_err(|error| anyhow!(describe(&error))),
        }
    }
}

struct Run<'a, T> {
    backfill: &'a Backfill,
    id: Uuid,
    pace: Pace,
    plan: Plan,
    positions: BTreeMap<String, i64>,
    published: i64,
    done: i64,
    tell: T,
}

impl<T: Fn(Progress)> Run<'_, T> {
    async fn events(&mut self) -> Result<()> {
        for (name, (_, last)) in self.plan.ranges.clone() {
            let outbox = self.backfill.outboxes.get(&name).ok_or_else(|| anyhow!("outbox {name} is no longer configured"))?;
            let pool = self.backfill.pool(outbox)?;
            while self.left() > 0 {
                let after = self.positions.get(&name).copied().unwrap_or(0);
                let rows = history::next(&pool, outbox, &self.plan.which, after, last, self.left().min(CHUNK)).await;
                let rows = rows.map_err(|error| anyhow!("outbox {name} cannot be read: {}", describe(&error)))?;
                let Some((seq, _)) = rows.last() else { break };
                let seq = *seq;
                let events: Result<Vec<Event>> =
                    rows.iter().map(|(_, row)| Ok(self.marked(outbox.event(row).map_err(|reason| anyhow!(reason))?))).collect();
                self.send(&events?).await?;
                self.done += i64::try_from(rows.len()).unwrap_or(0);
                self.positions.insert(name.clone(), seq);
                self.save("running").await?;
            }
        }
        Ok(())
    }

    /// The topic's messages of the company, in their order, as they were.
    async fn topic(&mut self) -> Result<()> {
        let begin = self.plan.which.since.map_or(Begin::Beginning, Begin::Since);
        let reader = TopicReader::start(&self.backfill.kafka, &self.plan.read.clone(), begin).await?;
        let mut open: BTreeMap<String, i64> =
            self.plan.ranges.iter().filter(|(_, (begin, end))| begin < end).map(|(partition, (_, end))| (partition.clone(), *end)).collect();
        let mut chunk: Vec<Event> = Vec::new();
        let mut heard = Instant::now();
        while !open.is_empty() && self.left() > 0 {
            let Some(record) = reader.next(Duration::from_secs(1)).await? else {
                if heard.elapsed() > SILENCE {
                    break;
                }
                continue;
            };
            heard = Instant::now();
            let (partition, offset) = (record.position.partition.to_string(), record.position.offset);
            let next = NextOffset::after(offset).get();
            let Some(end) = open.get(&partition).copied() else { continue };
            if next >= end {
                open.remove(&partition);
            }
            if offset >= end || self.positions.get(&partition).is_some_and(|sent| offset < *sent) {
                continue;
            }
            self.done += 1;
            if self.is_meant(&record) {
                chunk.push(self.again(record));
            }
            self.positions.insert(partition, next);
            if i64::try_from(chunk.len()).unwrap_or(i64::MAX) >= self.left().min(CHUNK) {
                self.send(&std::mem::take(&mut chunk)).await?;
                self.save("running").await?;
            }
        }
        self.send(&chunk).await
    }

    fn is_meant(&self, record: &Record) -> bool {
        let which = &self.plan.which;
        let is_company = which.company.as_deref().is_none_or(|company| record.key.as_deref() == Some(company.as_bytes()));
        let is_early = which.until.is_none_or(|until| record.timestamp.is_none_or(|at| at < until));
        is_company && is_early
    }

    fn again(&self, record: Record) -> Event {
        let mut headers = record.headers;
        // A letter that was replayed then is not being replayed now.
        headers.remove(dead_letter::HEADER);
        headers.remove(REPLAY_HEADER);
        self.marked(Event { topic: String::new(), key: record.key, payload: record.payload, headers: headers.into_iter().collect() })
    }

    fn marked(&self, mut event: Event) -> Event {
        event.topic.clone_from(&self.plan.to);
        event.headers.push((REPLAY_HEADER.to_owned(), "backfill".to_owned()));
        event
    }

    fn left(&self) -> i64 {
        self.plan.limit.map_or(i64::MAX, |limit| limit - self.published)
    }

    /// In order, every one acknowledged. A broker that is away is waited for.
    async fn send(&mut self, events: &[Event]) -> Result<()> {
        let began = Instant::now();
        let mut rest = events;
        while !rest.is_empty() {
            self.pace.wait(rest.len()).await;
            let answers = self.backfill.publisher.publish(rest).await;
            let n = answers.iter().take_while(|answer| answer.is_ok()).count();
            self.published += i64::try_from(n).unwrap_or(0);
            rest = &rest[n..];
            match answers.into_iter().nth(n) {
                Some(Err(PublishFault::Later(reason))) if began.elapsed() < PATIENCE => {
                    tracing::warn!(reason, "the backfill waits");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Some(Err(fault)) => bail!("stopped after {} records: {fault}", self.published),
                _ => {}
            }
        }
        (self.tell)(Progress { done: self.done, total: self.plan.total, published: self.published });
        Ok(())
    }

    async fn save(&self, state: &str) -> Result<()> {
        let positions = serde_json::to_value(&self.positions)?;
        let saved = backfills::advance(&self.backfill.control, self.id, &positions, self.published, state).await;
        saved.map_err(|error| anyhow!("how far the backfill is could not be written: {}", describe(&error)))
    }
}

/// So many records a second, over the whole run.
struct Pace {
    rate: u32,
    next: Instant,
}

impl Pace {
    fn new(rate: u32) -> Self {
        Self { rate: rate.max(1), next: Instant::now() }
    }

    async fn wait(&mut self, n: usize) {
        tokio::time::sleep_until(self.next).await;
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        self.next = self.next.max(Instant::now()) + Duration::from_secs_f64(f64::from(n) / f64::from(self.rate));
    }
}
