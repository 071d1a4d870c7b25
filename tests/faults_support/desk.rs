//! Consumers over scripted sources, with the real ingest behind a door that can be shut, on a real database: what a partition's owner does,
//! message by message, without a broker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kylo::domain::clock::SystemClock;
use kylo::faults::{Bug, Faults, planted};
use kylo::flow::consume::{ConsumeError, ConsumeParts, ConsumeSettings, Consumer, NoMetrics, TxnsHandler, TxnsTopic};
use kylo::flow::ingest::Ingest;
use kylo::flow::lanes::LaneLimits;
use kylo::flow::routing::RoutingCache;
use kylo::flow::source::{MessageSource, NextOffset, SourceEvent, SourceHealth};
use kylo::flow::work::{Handled, Position, Record, Stuck, TxnsWork};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::company_world::{World, day, row};

const TOPIC: &str = "txns.company.batches";

/// What a check waits for at most. With a bug planted it may wait in vain, and that is how it catches it.
pub fn patience() -> Duration {
    let is_any_planted = Bug::ALL.iter().any(|bug| planted(*bug));
    Duration::from_secs(if is_any_planted { 3 } else { 60 })
}

/// Waits until something is so; fails the test if it does not become so.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(patience(), async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain for {what}");
}

/// What the door does.
#[derive(Debug, Default)]
pub struct Script {
    /// Companies whose database does not answer, and those that are parked.
    pub down: BTreeSet<String>,
    pub parked: BTreeSet<String>,
    /// Calls wait in front of it.
    pub shut: bool,
    /// Works that came to it.
    pub came: usize,
    /// Works that were turned away.
    pub refused: usize,
}

/// The real ingest, behind a door.
#[derive(Clone, Debug)]
pub struct Door {
    ingest: Arc<Ingest>,
    script: Arc<Mutex<Script>>,
}

impl TxnsHandler for Door {
    fn apply(&self, works: Vec<TxnsWork>) -> BoxFuture<'_, Vec<Result<Handled, Stuck>>> {
        async move {
            self.script.lock().unwrap().came += works.len();
            while self.script.lock().unwrap().shut {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let mut answers = Vec::new();
            for work in works {
                let company = work.route.company.to_string();
                let refusal = {
                    let mut script = self.script.lock().unwrap();
                    let reason = "the door is shut".to_owned();
                    let refusal = if script.down.contains(&company) {
                        Some(Stuck::Down { company: company.clone(), reason })
                    } else {
                        script.parked.contains(&company).then(|| Stuck::Parked { company: company.clone(), reason })
                    };
                    script.refused += usize::from(refusal.is_some());
                    refusal
                };
                match refusal {
                    Some(stuck) => answers.push(Err(stuck)),
                    None => answers.extend(self.ingest.apply(vec![work]).await),
                }
            }
            answers
        }
        .boxed()
    }
}

/// What an engine did to its source.
type Stored = Arc<Mutex<BTreeMap<i32, i64>>>;

#[derive(Debug)]
struct Scripted {
    events: mpsc::UnboundedReceiver<SourceEvent>,
    stored: Stored,
}

impl MessageSource for Scripted {
    fn next(&mut self) -> BoxFuture<'_, Option<SourceEvent>> {
        self.events.recv().boxed()
    }

    fn store(&mut self, partition: i32, next: NextOffset) {
        self.stored.lock().unwrap().insert(partition, next.get());
    }

    fn pause(&mut self, _partitions: &[i32]) {}

    fn resume(&mut self, _partitions: &[i32]) {}

    fn health(&self) -> SourceHealth {
        SourceHealth::default()
    }

    fn close(self: Box<Self>, _within: Duration) -> BoxFuture<'static, bool> {
        async { true }.boxed()
    }
}

/// A database with companies `a` and `b`, and a door to them.
pub struct Desk {
    pub world: World,
    pub script: Arc<Mutex<Script>>,
}

/// One consumer. It owns partitions 0 and 1 until it is told otherwise.
pub struct Owner {
    stored: Stored,
    events: mpsc::UnboundedSender<SourceEvent>,
    pub running: JoinHandle<Result<(), ConsumeError>>,
    pub faults: Faults,
}

impl Desk {
    pub async fn new() -> Self {
        let world = World::new(&[("a", "app_a"), ("b", "app_b")]).await;
        for company in ["a", "b"] {
            sqlx::query(
                "INSERT INTO control.company_config (company_id, db_dsn_rw, db_schema, spreadsheet_id, tab_pending, tab_active)
                 VALUES ($1, $2, 'app_' || $1, 'sheet-' || $1, 'P', 'A')",
            )
            .bind(company)
            .bind(&world.dsn)
            .execute(&world.control)
            .await
            .unwrap();
        }
        Self { world, script: Arc::default() }
    }

    /// A consumer of its own process.
    pub fn owner(&self) -> Owner {
        let faults = Faults::default();
        let control = self.world.control.clone();
        let mut settings = ConsumeSettings::new(TOPIC, "g");
        (settings.look_busy, settings.look_idle) = (Duration::from_millis(50), Duration::from_millis(200));
        // Who is down is not held here: what is parked is.
        let limits = LaneLimits { hold_after: Duration::from_secs(600), ..LaneLimits::txns() };
        let parts = ConsumeParts { routes: RoutingCache::new(control.clone()), control, metrics: Arc::new(NoMetrics), worker: Uuid::new_v4() };
        let handler = Door { ingest: Arc::clone(&self.world.ingest), script: Arc::clone(&self.script) };
        let topic = TxnsTopic { handler, clock: Arc::new(SystemClock), limits };
        let (events, receiver) = mpsc::unbounded_channel();
        let stored = Stored::default();
        let source = Scripted { events: receiver, stored: Arc::clone(&stored) };
        let consumer = Consumer::new(settings, parts, topic, Box::new(source)).with_faults(faults.clone());
        let running = tokio::spawn(consumer.run(CancellationToken::new()));
        let owner = Owner { stored, events, running, faults };
        owner.assign(&[0, 1]);
        owner
    }

    pub fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    pub fn get(&self, number: impl FnOnce(&Script) -> usize) -> usize {
        number(&self.script.lock().unwrap())
    }

    pub async fn control(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.world.control).await.unwrap()
    }

    /// Trouble is tried again at once.
    pub async fn retry_now(&self) {
        sqlx::query("UPDATE control.company_trouble SET retry_at = now()").execute(&self.world.control).await.unwrap();
    }

    /// The batches of a company, in the order in which they were applied.
    pub async fn applied(&self, company: &str) -> Vec<String> {
        self.world.rows(company, "SELECT batch_id FROM ingest_batches WHERE company_id = $1 ORDER BY seq").await
    }

    pub async fn applied_are(&self, company: &str, batches: &[&str]) {
        eventually(&format!("{batches:?} of {company}"), async || self.applied(company).await.len() >= batches.len()).await;
        assert_eq!(self.applied(company).await, batches, "I6: the order of {company}");
    }
}

impl Owner {
    pub fn assign(&self, partitions: &[i32]) {
        self.events.send(SourceEvent::Assigned(partitions.to_vec())).unwrap();
    }

    /// The broker has given the partitions to somebody else already.
    pub fn lose(&self, partitions: &[i32]) {
        let (ack, _) = oneshot::channel();
        self.events.send(SourceEvent::Revoking { partitions: partitions.to_vec(), lost: true, ack }).unwrap();
    }

    pub fn send(&self, records: &[Record]) {
        self.events.send(SourceEvent::Messages(records.to_vec())).unwrap();
    }

    pub fn stored(&self, partition: i32) -> Option<i64> {
        self.stored.lock().unwrap().get(&partition).copied()
    }

    pub async fn stored_up_to(&self, partition: i32, next: i64) {
        eventually(&format!("partition {partition} to be stored up to {next}"), async || self.stored(partition) == Some(next)).await;
    }
}

/// A batch of one row, whose id is the batch's name.
pub fn batch(partition: i32, offset: i64, company: &str, batch_id: &str) -> Record {
    let message = json!({"event_type": "TXNS_BATCH", "version": 2, "batch_id": batch_id, "company_id": company, "created_at": day(),
                         "transactions": [row(batch_id, "-1.00", batch_id)]});
    record(partition, offset, company, &message.to_string())
}

pub fn record(partition: i32, offset: i64, company: &str, payload: &str) -> Record {
    Record {
        position: Position { topic: TOPIC.into(), partition, offset },
        key: Some(company.as_bytes().to_vec()),
        payload: Some(payload.as_bytes().to_vec()),
        headers: BTreeMap::new(),
        timestamp: None,
    }
}
