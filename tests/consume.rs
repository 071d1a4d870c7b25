//! The consumer against a real control database, with a scripted source and a handler that does what the test says.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

#[path = "support/database.rs"]
#[expect(dead_code, reason = "shared with tests that use all of it")]
mod database;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use database::Database;
use futures::FutureExt;
use futures::future::BoxFuture;
use kylo::domain::clock::SystemClock;
use kylo::domain::ids::CompanyId;
use kylo::flow::consume::{ConsumeError, ConsumeParts, ConsumeSettings, Consumer, ConsumerStatus, NoMetrics, TxnsHandler, TxnsTopic};
use kylo::flow::lanes::LaneLimits;
use kylo::flow::routing::{Routing, RoutingCache};
use kylo::flow::source::{MessageSource, NextOffset, SourceEvent, SourceHealth};
use kylo::flow::work::{Handled, Position, Record, Stuck, TxnsWork};
use kylo::store::control::{dead_letters, poison};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const TOPIC: &str = "txns";
const GROUP: &str = "g";

/// What the engine did to the source.
#[derive(Debug, Default)]
struct Seen {
    stored: BTreeMap<i32, i64>,
    paused: BTreeSet<i32>,
    closed: bool,
}

#[derive(Debug)]
struct Scripted {
    events: mpsc::UnboundedReceiver<SourceEvent>,
    seen: Arc<Mutex<Seen>>,
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
struct Script {
    applied: Vec<(String, String)>,
    down: BTreeSet<String>,
    parked: BTreeSet<String>,
    /// Calls wait while this is set.
    blocked: bool,
    /// Messages that calls have been given.
    entered: usize,
    calls: usize,
}

#[derive(Clone, Debug, Default)]
struct Fake(Arc<Mutex<Script>>);

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
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain for {what}");
}

/// One consumer over its own database.
struct World {
    database: Database,
    fake: Fake,
    seen: Arc<Mutex<Seen>>,
    events: mpsc::UnboundedSender<SourceEvent>,
    status: watch::Receiver<ConsumerStatus>,
    routes: Arc<RoutingCache>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), ConsumeError>>,
}

impl World {
    async fn new() -> Self {
        Self::with(|_, _| {}).await
    }

    async fn with(change: impl FnOnce(&mut ConsumeSettings, &mut LaneLimits)) -> Self {
        let database = Database::create().await;
        database.execute(include_str!("../ddl/control/0001_control.sql")).await;
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

    fn assign(&self, partitions: &[i32]) {
        self.events.send(SourceEvent::Assigned(partitions.to_vec())).unwrap();
    }

    fn send(&self, records: Vec<Record>) {
        self.events.send(SourceEvent::Messages(records)).unwrap();
    }

    fn revoke(&self, partitions: &[i32], lost: bool) -> oneshot::Receiver<()> {
        let (ack, answer) = oneshot::channel();
        self.events.send(SourceEvent::Revoking { partitions: partitions.to_vec(), lost, ack }).unwrap();
        answer
    }

    fn stored(&self, partition: i32) -> Option<i64> {
        self.seen.lock().unwrap().stored.get(&partition).copied()
    }

    async fn stored_up_to(&self, partition: i32, next: i64) {
        eventually(&format!("partition {partition} to be stored up to {next}"), || self.stored(partition) == Some(next)).await;
    }

    fn applied(&self, company: &str) -> Vec<String> {
        let script = self.fake.0.lock().unwrap();
        script.applied.iter().filter(|(c, _)| c == company).map(|(_, batch)| batch.clone()).collect()
    }

    async fn applied_are(&self, company: &str, batches: &[&str]) {
        eventually(&format!("{batches:?} of {company}"), || self.applied(company).len() >= batches.len()).await;
        assert_eq!(self.applied(company), batches);
    }

    async fn count(&self, sql: &'static str) -> i64 {
        self.database.scalar(sql).await
    }

    async fn counted(&self, sql: &'static str, wanted: i64) {
        let waited = tokio::time::timeout(Duration::from_secs(30), async {
            while self.count(sql).await != wanted {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(waited.await.is_ok(), "waited in vain for {wanted} from {sql}");
    }

    async fn finish(self) -> Arc<Mutex<Seen>> {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(20), self.running).await.expect("the consumer stops").unwrap().unwrap();
        self.seen
    }
}

fn raw(partition: i32, offset: i64, key: &str, payload: &str) -> Record {
    Record {
        position: Position { topic: Arc::from(TOPIC), partition, offset },
        key: Some(key.as_bytes().to_vec()),
        payload: Some(payload.as_bytes().to_vec()),
        headers: BTreeMap::new(),
        timestamp: None,
    }
}

fn batch(partition: i32, offset: i64, company: &str, batch_id: &str) -> Record {
    let text = format!(
        r#"{{"event_type":"TXNS_BATCH","version":2,"batch_id":"{batch_id}","company_id":"{company}","created_at":"2025-08-26T12:00:00Z",
            "transactions":[{{"id":"{batch_id}","date":"2025-08-26","amount":-1.00,"description":"X"}}]}}"#
    );
    raw(partition, offset, company, &text)
}

const LETTERS: &str = "SELECT count(*) FROM control.dead_letters";
const HELD: &str = "SELECT count(*) FROM control.held_messages";
const TROUBLES: &str = "SELECT count(*) FROM control.company_trouble";

#[tokio::test]
async fn i5_a_poison_message_at_the_end_of_a_partition_is_a_dead_letter_and_its_offset_moves_on() {
    let world = World::new().await;
    world.send(vec![batch(0, 7, "a", "a1"), raw(0, 9, "a", "not json")]);
    world.stored_up_to(0, 10).await;
    assert_eq!(
        world.count("SELECT count(*) FROM control.dead_letters WHERE class = 'not_json' AND original = 'not json' AND \"offset\" = 9").await,
        1
    );
    assert_eq!(
        world
            .count("SELECT count(*) FROM control.outbox_events WHERE event_type = 'dead_letter.created' AND payload::text NOT LIKE '%not json%'")
            .await,
        1
    );
    world.applied_are("a", &["a1"]).await;
    world.finish().await;
}

#[tokio::test]
async fn a_poison_message_that_is_delivered_again_only_counts() {
    let world = World::new().await;
    world.send(vec![raw(0, 0, "a", "{"), raw(0, 1, "a", "\u{0}\u{1}")]);
    world.stored_up_to(0, 2).await;
    assert!(world.revoke(&[0], false).await.is_ok());
    world.assign(&[0]);
    world.send(vec![raw(0, 0, "a", "{"), raw(0, 1, "a", "\u{0}\u{1}")]);
    world.counted("SELECT count(*) FROM control.dead_letters WHERE attempts = 2", 2).await;
    assert_eq!(world.count(LETTERS).await, 2);
    assert_eq!(world.count("SELECT count(*) FROM control.outbox_events").await, 2);
    world.finish().await;
}

#[tokio::test]
async fn i6_a_company_whose_database_is_down_is_held_while_others_flow_and_recovers_in_order() {
    let world = World::new().await;
    world.fake.0.lock().unwrap().down.insert("a".to_owned());
    world.send(vec![batch(0, 0, "a", "a1"), batch(0, 1, "b", "b1"), batch(0, 2, "a", "a2")]);
    world.applied_are("b", &["b1"]).await;
    world.stored_up_to(0, 3).await;
    assert_eq!(world.count(HELD).await, 2);
    world.send(vec![batch(0, 3, "a", "a3"), batch(0, 4, "b", "b2")]);
    world.stored_up_to(0, 5).await;
    assert_eq!(world.count(HELD).await, 3);
    assert!(world.applied("a").is_empty());
    world.fake.0.lock().unwrap().down.clear();
    world.applied_are("a", &["a1", "a2", "a3"]).await;
    world.counted(TROUBLES, 0).await;
    world.send(vec![batch(0, 5, "a", "a4")]);
    world.applied_are("a", &["a1", "a2", "a3", "a4"]).await;
    assert_eq!(world.count(HELD).await, 0);
    world.finish().await;
}

#[tokio::test]
async fn messages_that_come_while_a_queue_is_drained_never_overtake_it() {
    let world = World::new().await;
    world.fake.0.lock().unwrap().parked.insert("a".to_owned());
    let name = |n: i64| format!("a{n:03}");
    world.send((0..20).map(|n| batch(0, n, "a", &name(n))).collect());
    world.counted(HELD, 20).await;
    world.fake.0.lock().unwrap().parked.clear();
    world.database.execute("UPDATE control.company_trouble SET retry_at = now()").await;
    for n in 20..200 {
        world.send(vec![batch(0, n, "a", &name(n))]);
        tokio::task::yield_now().await;
    }
    world.stored_up_to(0, 200).await;
    eventually("all to be applied", || world.applied("a").len() == 200).await;
    assert_eq!(world.applied("a"), (0..200).map(name).collect::<Vec<_>>());
    world.finish().await;
}

#[tokio::test]
async fn a_parked_company_is_tried_again_when_its_configuration_changes() {
    let world = World::new().await;
    world.database.execute("UPDATE control.company_config SET db_schema = 'public' WHERE company_id = 'b'").await;
    world.send(vec![batch(0, 0, "b", "b1"), batch(0, 1, "a", "a1")]);
    world.stored_up_to(0, 2).await;
    world.applied_are("a", &["a1"]).await;
    assert_eq!(
        world.count("SELECT count(*) FROM control.company_trouble WHERE company_id = 'b' AND state = 'parked' AND reason LIKE '%reserved%'").await,
        1
    );
    world.database.execute("UPDATE control.company_config SET db_schema = 'app_b' WHERE company_id = 'b'").await;
    world.applied_are("b", &["b1"]).await;
    world.finish().await;
}

#[tokio::test]
async fn a_batch_of_an_unknown_company_is_a_dead_letter_that_a_replay_closes() {
    let world = World::new().await;
    world.send(vec![batch(0, 0, "z", "z1")]);
    world.stored_up_to(0, 1).await;
    let letter = dead_letters::list(&world.database.pool, &dead_letters::Filter::default()).await.unwrap().remove(0);
    assert_eq!((letter.class.as_str(), letter.company_id.as_deref()), ("unknown_company", Some("z")));
    let replayed = |offset| {
        let mut record = batch(0, offset, "z", "z1");
        record.headers.insert("dead_letter_id".to_owned(), letter.id.to_string());
        record
    };
    assert!(dead_letters::start_replay(&world.database.pool, letter.id).await.unwrap());
    world.send(vec![replayed(1)]);
    world.stored_up_to(0, 2).await;
    assert_eq!(world.count("SELECT count(*) FROM control.dead_letters WHERE state = 'new' AND attempts = 2").await, 1);
    world.database.execute("INSERT INTO control.company_config VALUES ('z', 'postgres://x/z', 'app_z', 'sheetz', 'P', 'A')").await;
    let company = CompanyId::parse("z").unwrap();
    while !matches!(world.routes.of(&company).await.unwrap(), Routing::Known(_)) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(dead_letters::start_replay(&world.database.pool, letter.id).await.unwrap());
    world.send(vec![replayed(2)]);
    world.stored_up_to(0, 3).await;
    world.applied_are("z", &["z1"]).await;
    assert_eq!(world.count("SELECT count(*) FROM control.dead_letters WHERE state = 'resolved'").await, 1);
    assert_eq!(world.count(LETTERS).await, 1);
    world.finish().await;
}

#[tokio::test]
async fn i2_a_version_1_message_that_believes_in_another_routing_is_a_dead_letter() {
    let world = World::new().await;
    let text = |schema: &str| {
        format!(
            r#"{{"event_type":"TXNS_BATCH","version":1,"batch_id":"v1","company_id":"a","created_at":"2025-08-26T12:00:00Z",
                "routing":{{"db_schema":"{schema}","db_dsn_rw":"postgres://elsewhere/x"}},
                "transactions":[{{"id":"t","date":"2025-08-26","amount":1,"description":"X"}}]}}"#
        )
    };
    world.send(vec![raw(0, 0, "a", &text("app_b")), raw(0, 1, "a", &text("app_a"))]);
    world.stored_up_to(0, 2).await;
    assert_eq!(world.count("SELECT count(*) FROM control.dead_letters WHERE class = 'routing_mismatch' AND \"offset\" = 0").await, 1);
    world.applied_are("a", &["v1"]).await;
    world.finish().await;
}

#[tokio::test]
async fn too_many_poison_messages_in_a_row_stop_the_partition_until_an_operator_resumes_it() {
    let world = World::with(|settings, _| settings.poison_cap = 3).await;
    let mut records: Vec<Record> = (0..5).map(|offset| raw(0, offset, "a", "poison")).collect();
    records.push(batch(0, 5, "a", "a1"));
    world.send(records);
    world.send(vec![batch(1, 0, "b", "b1")]);
    world.stored_up_to(0, 3).await;
    world.applied_are("b", &["b1"]).await;
    eventually("the partition to be stopped", || world.status.borrow().stopped == [0] && world.status.borrow().not_ready().is_some()).await;
    assert!(world.seen.lock().unwrap().paused.contains(&0));
    assert_eq!(world.count(LETTERS).await, 3);
    // A restart does not forget it.
    assert!(world.revoke(&[0], false).await.is_ok());
    world.assign(&[0]);
    world.send(vec![raw(0, 3, "a", "poison"), raw(0, 4, "a", "poison"), batch(0, 5, "a", "a1")]);
    eventually("the partition to be stopped again", || world.status.borrow().stopped == [0]).await;
    assert_eq!(world.count(LETTERS).await, 3);
    assert_eq!(poison::resume(&world.database.pool, Some(TOPIC), None).await.unwrap().len(), 1);
    world.stored_up_to(0, 6).await;
    world.applied_are("a", &["a1"]).await;
    assert_eq!(world.count(LETTERS).await, 5);
    world.finish().await;
}

#[tokio::test]
async fn a_revoke_is_answered_when_what_is_in_hand_is_finished_and_stored() {
    let world = World::new().await;
    world.fake.0.lock().unwrap().blocked = true;
    world.send(vec![batch(0, 0, "a", "a1"), batch(1, 0, "b", "b1")]);
    eventually("both messages to be in hand", || world.fake.0.lock().unwrap().entered == 2).await;
    let mut answer = world.revoke(&[0], false);
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut answer).await.is_err(), "answered before the work was done");
    world.fake.0.lock().unwrap().blocked = false;
    assert!(answer.await.is_ok());
    assert_eq!(world.stored(0), Some(1));
    world.stored_up_to(1, 1).await;
    world.finish().await;
}

#[tokio::test]
async fn work_finished_after_a_lost_assignment_stores_nothing() {
    let world = World::new().await;
    world.fake.0.lock().unwrap().blocked = true;
    world.send(vec![batch(0, 0, "a", "a1")]);
    eventually("the message to be in hand", || world.fake.0.lock().unwrap().entered == 1).await;
    assert!(world.revoke(&[0], true).await.is_err(), "a lost assignment needs no answer");
    world.assign(&[0]);
    world.fake.0.lock().unwrap().blocked = false;
    world.applied_are("a", &["a1"]).await;
    eventually("the work to be over", || world.status.borrow().in_flight == 0).await;
    assert_eq!(world.stored(0), None);
    world.send(vec![batch(0, 0, "a", "a1")]);
    world.stored_up_to(0, 1).await;
    world.finish().await;
}

#[tokio::test]
async fn reading_is_paused_above_the_limit_and_resumed_below_half_of_it() {
    let world = World::with(|settings, _| settings.max_in_flight = 10).await;
    world.fake.0.lock().unwrap().blocked = true;
    world.send((0..12).map(|offset| batch(0, offset, "a", &format!("a{offset}"))).collect());
    eventually("reading to be paused", || world.seen.lock().unwrap().paused == BTreeSet::from([0, 1])).await;
    world.fake.0.lock().unwrap().blocked = false;
    world.stored_up_to(0, 12).await;
    eventually("reading to be resumed", || world.seen.lock().unwrap().paused.is_empty()).await;
    world.finish().await;
}

#[tokio::test]
async fn many_small_messages_of_one_database_go_in_few_calls() {
    let world = World::new().await;
    world.fake.0.lock().unwrap().blocked = true;
    world.send((0..200).map(|offset| batch(0, offset, "a", &format!("a{offset:03}"))).collect());
    eventually("the messages to be in hand", || world.status.borrow().in_flight == 200).await;
    world.fake.0.lock().unwrap().blocked = false;
    world.stored_up_to(0, 200).await;
    assert!(world.fake.0.lock().unwrap().calls <= 3);
    world.finish().await;
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_hand_and_leaves() {
    let world = World::new().await;
    world.fake.0.lock().unwrap().blocked = true;
    world.send((0..10).map(|offset| batch(0, offset, "a", &format!("a{offset}"))).collect());
    eventually("the messages to be in hand", || world.fake.0.lock().unwrap().entered == 10).await;
    world.stop.cancel();
    world.fake.0.lock().unwrap().blocked = false;
    let seen = world.finish().await;
    let seen = seen.lock().unwrap();
    assert_eq!((seen.stored.get(&0), seen.closed), (Some(&10), true));
}

#[tokio::test]
async fn i5_while_the_control_database_is_away_no_offset_moves_and_nothing_is_lost() {
    let world = World::new().await;
    world.send(vec![batch(0, 0, "a", "a1")]);
    world.stored_up_to(0, 1).await;
    world.database.execute("ALTER TABLE control.dead_letters RENAME TO away").await;
    world.send(vec![raw(0, 1, "a", "poison"), batch(0, 2, "a", "a2")]);
    eventually("the trouble to be told", || world.status.borrow().control.is_some()).await;
    assert!(world.status.borrow().not_ready().is_some());
    assert_eq!(world.stored(0), Some(1));
    world.database.execute("ALTER TABLE control.away RENAME TO dead_letters").await;
    world.stored_up_to(0, 3).await;
    assert_eq!(world.count(LETTERS).await, 1);
    world.applied_are("a", &["a1", "a2"]).await;
    eventually("the trouble to be over", || world.status.borrow().control.is_none()).await;
    world.finish().await;
}

#[tokio::test]
async fn tombstones_and_gaps_move_the_position() {
    let world = World::new().await;
    let tombstone = Record { payload: None, ..raw(0, 4, "a", "") };
    world.send(vec![batch(0, 1, "a", "a1"), tombstone]);
    world.stored_up_to(0, 5).await;
    assert_eq!(world.count(LETTERS).await, 0);
    world.finish().await;
}
