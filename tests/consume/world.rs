//! One consumer over its own database, with a scripted source and a handler that does what the test says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kylo::domain::clock::SystemClock;
use kylo::flow::consume::{ConsumeError, ConsumeParts, ConsumeSettings, Consumer, ConsumerStatus, NoMetrics, TxnsHandler, TxnsTopic};
use kylo::flow::lanes::LaneLimits;
use kylo::flow::routing::RoutingCache;
use kylo::flow::source::{MessageSource, NextOffset, SourceEvent, SourceHealth};
use kylo::flow::work::{Handled, Position, Record, Stuck, TxnsWork};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::database::Database;

pub const TOPIC: &str = "txns";
pub const GROUP: &str = "g";

/// What the engine did to the source.
#[derive(Debug, Default)]
pub struct Seen {
    pub stored: BTreeMap<i32, i64>,
    pub paused: BTreeSet<i32>,
    pub closed: bool,
}

#[derive(Debug)]
pub struct Scripted {
    pub events: mpsc::UnboundedReceiver<SourceEvent>,
    pub seen: Arc<Mutex<Seen>>,
}

impl MessageSource for Scripted {
    fn next(&mut self) -> BoxFuture<'_, Option<SourceEvent>> {
        self.events.recv().boxed()
    }

    fn store(&mut self, partition: i32, next: NextOffset) {
        self.seen.lock().unwrap().stored.insert(partition, next.get());
    }

    fn pause(&mut self, partitions: &[i32]) {
        self.seen.lock().unwrap().paused.extend(partitions);
    }

    fn resume(&mut self, partitions: &[i32]) {
        self.seen.lock().unwrap().paused.retain(|partition| !partitions.contains(partition));
    }

    fn health(&self) -> SourceHealth {
        SourceHealth::default()
    }

    fn close(self: Box<Self>, _within: Duration) -> BoxFuture<'static, bool> {
        self.seen.lock().unwrap().closed = true;
        async { true }.boxed()
    }
}

/// What the handler does and has done.
#[derive(Debug, Default)]
pub struct Script {
    pub applied: Vec<(String, String)>,
    pub down: BTreeSet<String>,
    pub parked: BTreeSet<String>,
    /// Calls wait while this is set.
    pub blocked: bool,
    /// Messages that calls have been given.
    pub entered: usize,
    pub calls: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Fake(pub Arc<Mutex<Script>>);

impl TxnsHandler for Fake {
    fn apply(&self, works: Vec<TxnsWork>) -> BoxFuture<'_, Vec<Result<Handled, Stuck>>> {
        async move {
            self.0.lock().unwrap().entered += works.len();
            eventually("the handler to be let go", || !self.0.lock().unwrap().blocked).await;
            let mut script = self.0.lock().unwrap();
            script.calls += 1;
            let mut answers = Vec::new();
            for work in works {
                let company = work.route.company.to_string();
                answers.push(if script.down.contains(&company) {
                    Err(Stuck::Down { company, reason: "refused".to_owned() })
                } else if script.parked.contains(&company) {
                    Err(Stuck::Parked { company, reason: "no schema".to_owned() })
                } else {
                    script.applied.push((company, work.batch.batch_id.to_string()));
                    Ok(Handled::Applied)
                });
            }
            answers
        }
        .boxed()
    }
}

/// Waits until something is so; fails the test if it does not become so.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(120), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain for {what}");
}

/// One consumer over its own database.
pub struct World {
    pub database: Database,
    pub fake: Fake,
    pub seen: Arc<Mutex<Seen>>,
    pub events: mpsc::UnboundedSender<SourceEvent>,
    pub status: watch::Receiver<ConsumerStatus>,
    pub routes: Arc<RoutingCache>,
    pub stop: CancellationToken,
    pub running: JoinHandle<Result<(), ConsumeError>>,
}

impl World {
    pub async fn new() -> Self {
        Self::with(|_, _| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut ConsumeSettings, &mut LaneLimits)) -> Self {
        let database = Database::create().await;
        database.execute(include_str!("../../ddl/control/0001_control.sql")).await;
        database
            .execute(
                "INSERT INTO control.company_config (company_id, db_dsn_rw, db_schema, spreadsheet_id, tab_pending, tab_active)
                 SELECT c, 'postgres://x/' || c, 'app_' || c, 'sheet' || c, 'P', 'A' FROM unnest(ARRAY['a', 'b', 'c']) c",
            )
            .await;
        let mut settings = ConsumeSettings::new(TOPIC, GROUP);
        let mut limits = LaneLimits { hold_after: Duration::from_millis(200), ..LaneLimits::txns() };
        settings.look_busy = Duration::from_millis(50);
        settings.drain = Duration::from_secs(5);
        change(&mut settings, &mut limits);
        let (events, receiver) = mpsc::unbounded_channel();
        let (seen, fake) = (Arc::<Mutex<Seen>>::default(), Fake::default());
        let control = database.pool.clone();
        let routes = RoutingCache::new(control.clone());
        let parts = ConsumeParts { routes: Arc::clone(&routes), control, metrics: Arc::new(NoMetrics), worker: Uuid::new_v4() };
        let topic = TxnsTopic { handler: fake.clone(), clock: Arc::new(SystemClock), limits };
        let consumer = Consumer::new(settings, parts, topic, Box::new(Scripted { events: receiver, seen: Arc::clone(&seen) }));
        let (status, stop) = (consumer.status(), CancellationToken::new());
        let running = tokio::spawn(consumer.run(stop.clone()));
        let world = Self { database, fake, seen, events, status, routes, stop, running };
        world.assign(&[0, 1]);
        world
    }

    pub fn assign(&self, partitions: &[i32]) {
        self.events.send(SourceEvent::Assigned(partitions.to_vec())).unwrap();
    }

    pub fn send(&self, records: Vec<Record>) {
        self.events.send(SourceEvent::Messages(records)).unwrap();
    }

    pub fn revoke(&self, partitions: &[i32], lost: bool) -> oneshot::Receiver<()> {
        let (ack, answer) = oneshot::channel();
        self.events.send(SourceEvent::Revoking { partitions: partitions.to_vec(), lost, ack }).unwrap();
        answer
    }

    pub fn stored(&self, partition: i32) -> Option<i64> {
        self.seen.lock().unwrap().stored.get(&partition).copied()
    }

    pub async fn stored_up_to(&self, partition: i32, next: i64) {
        eventually(&format!("partition {partition} to be stored up to {next}"), || self.stored(partition) == Some(next)).await;
    }

    pub fn applied(&self, company: &str) -> Vec<String> {
        let script = self.fake.0.lock().unwrap();
        script.applied.iter().filter(|(c, _)| c == company).map(|(_, batch)| batch.clone()).collect()
    }

    pub async fn applied_are(&self, company: &str, batches: &[&str]) {
        eventually(&format!("{batches:?} of {company}"), || self.applied(company).len() >= batches.len()).await;
        assert_eq!(self.applied(company), batches);
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        self.database.scalar(sql).await
    }

    pub async fn counted(&self, sql: &'static str, wanted: i64) {
        let waited = tokio::time::timeout(Duration::from_secs(120), async {
            while self.count(sql).await != wanted {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(waited.await.is_ok(), "waited in vain for {wanted} from {sql}");
    }

    pub async fn finish(self) -> Arc<Mutex<Seen>> {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(120), self.running).await.expect("the consumer stops").unwrap().unwrap();
        self.seen
    }
}

pub fn raw(partition: i32, offset: i64, key: &str, payload: &str) -> Record {
    Record {
        position: Position { topic: Arc::from(TOPIC), partition, offset },
        key: Some(key.as_bytes().to_vec()),
        payload: Some(payload.as_bytes().to_vec()),
        headers: BTreeMap::new(),
        timestamp: None,
    }
}

pub fn batch(partition: i32, offset: i64, company: &str, batch_id: &str) -> Record {
    let text = format!(
        r#"{{"event_type":"TXNS_BATCH","version":2,"batch_id":"{batch_id}","company_id":"{company}","created_at":"2025-08-26T12:00:00Z",
            "transactions":[{{"id":"{batch_id}","date":"2025-08-26","amount":-1.00,"description":"X"}}]}}"#
    );
    raw(partition, offset, company, &text)
}
