//! The relay over a real PostgreSQL and a real broker: nothing lost, order per key, copies only ever with the same event_id.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]
#![expect(dead_code, reason = "the harness is that of tests/e2e.rs, which uses all of it")]

#[path = "support/database.rs"]
mod database;
#[path = "e2e/databases.rs"]
mod databases;
#[path = "e2e/messages.rs"]
mod messages;
#[path = "e2e/offsets.rs"]
mod offsets;
#[path = "support/patience.rs"]
mod patience;
#[path = "e2e/process.rs"]
mod process;
mod relay_support;
#[path = "e2e/sheets.rs"]
mod sheets;
#[path = "e2e/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kylo::adapters::kafka::client::KafkaSettings;
use kylo::adapters::kafka::events::KafkaEvents;
use kylo::faults::CrashPoint;
use kylo::flow::relay::{Limits, RelayOptions, Why};
use relay_support::frozen::FrozenRelay;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use relay_support::world::{Running, Seen, World, assert_complete_and_in_order, eventually, firsts, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_every_own_outbox_arrive_with_their_headers_and_are_marked_and_nothing_is_seeded_by_hand() {
    let world = World::new(&["app_1", "app_2"]).await;
    world
        .sql(
            "INSERT INTO control.outbox_events (event_type, company_id, payload) VALUES ('sheet.posted', 'app_1', '{\"n\": 1}'), ('dead_letter.created', '', '{\"n\": 2}');
             INSERT INTO app_1.outbox_events (event_type, company_id, payload, traceparent) VALUES ('batch.ingested', 'app_1', '{\"n\": 3}', '00-abc-def-01');
             INSERT INTO app_2.outbox_events (event_type, company_id, payload) VALUES ('rules.updated', 'app_2', '{\"n\": 4}')",
        )
        .await;
    let relay = world.start();
    world.all_marked().await;
    for schema in ["app_1", "app_2"] {
        world.counts(&format!("SELECT count(*) FROM {schema}.outbox_events WHERE published_at IS NULL"), 0).await;
    }
    let seen = world.records(&world.topic).await;
    let by_number: BTreeMap<i64, &Seen> = seen.iter().map(|record| (record.n(), record)).collect();
    assert_eq!(by_number.len(), 4, "{seen:?}");
    let batch = by_number[&3];
    assert_eq!(batch.key.as_deref(), Some("app_1"));
    let header = |name: &str| batch.headers.get(name).map(String::as_str);
    assert_eq!((header("event_type"), header("company_id"), header("traceparent")), (Some("batch.ingested"), Some("app_1"), Some("00-abc-def-01")));
    let known: i64 = world.number(&format!("SELECT count(*) FROM app_1.outbox_events WHERE event_id = '{}'", batch.id())).await;
    assert_eq!(known, 1, "event_id is the row's");
    assert!(!by_number[&2].headers.contains_key("company_id"), "an event of nobody's names nobody");
    assert!(!by_number[&4].headers.contains_key("traceparent"), "a header is there only where there is a value");
    // The same company is on one partition whichever outbox its events are in.
    assert_eq!(by_number[&1].partition, batch.partition);
    // The outbox of a company that is gone is not one that no relay works on.
    world.sql("DELETE FROM control.company_config WHERE db_schema = 'app_2'").await;
    world.counts("SELECT count(*) FROM control.relay_state WHERE schema_name = 'app_2'", 0).await;
    // What was not told with a renewal of the leases is told when they are given back.
    relay.stop().await;
    assert_eq!(world.number("SELECT sum(total_events_published)::bigint FROM control.relay_state").await, 3);
    let told = "last_poll_time IS NOT NULL AND last_publish_time IS NOT NULL AND lease_holder IS NULL";
    assert_eq!(world.number(&format!("SELECT count(*) FROM control.relay_state WHERE {told}")).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_point_loses_nothing_and_doubles_only_with_the_same_event_id() {
    for point in CrashPoint::RELAY {
        let world = World::new(&[]).await;
        world.insert(0, 60, 3).await;
        let options = RelayOptions { limits: Limits { batch: 20, ..world.limits() }, ..world.options() };
        let faults = options.faults.clone();
        faults.arm(point);
        let relay = start(options);
        tokio::time::timeout(Duration::from_secs(30), faults.hit())
            .await
            .unwrap_or_else(|_| panic!("{point:?} was never reached: {}", relay.worst()));
        relay.task.abort();
        let _ = relay.task.await;
        let next = world.start();
        world.all_marked().await;
        next.stop().await;
        let seen = world.records(&world.topic).await;
        assert_complete_and_in_order(&seen, 60);
        let copies = seen.len() - 60;
        match point {
            CrashPoint::RelayAcknowledged => assert!(copies > 0, "what was acknowledged and not marked is published again"),
            _ => assert!(copies <= 20, "{point:?}: {copies} copies"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_whose_transaction_commits_late_is_not_passed_over() {
    let world = World::new(&[]).await;
    let relay = world.start();
    let mut late = world.database.pool.begin().await.unwrap();
    sqlx::query("INSERT INTO control.outbox_events (event_type, company_id, payload) VALUES ('test', 'late', '{\"n\": 0}')")
        .execute(&mut *late)
        .await
        .unwrap();
    world.insert(1, 50, 2).await;
    world.counts("SELECT count(*) FROM control.outbox_events WHERE published_at IS NOT NULL", 49).await;
    late.commit().await.unwrap();
    world.all_marked().await;
    relay.stop().await;
    let seen = world.records(&world.topic).await;
    assert_eq!(seen.len(), 50);
    assert_complete_and_in_order(&seen, 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_relays_share_the_work_without_copies_and_take_over_from_one_that_died() {
    let world = World::new(&["app_1", "app_2"]).await;
    // A lease that runs out because the machine is busy is taken over, as it must be: that would be no healthy relay.
    let patient = || start(RelayOptions { limits: Limits { lease: Duration::from_secs(15), ..world.limits() }, ..world.options() });
    let relays: Vec<Running> = (0..3).map(|_| patient()).collect();
    for round in 0..5 {
        world.insert(round * 100, (round + 1) * 100, 7).await;
    }
    world.all_marked().await;
    let seen = world.records(&world.topic).await;
    assert_eq!(seen.len(), 500, "healthy relays publish everything once");
    assert_complete_and_in_order(&seen, 500);
    let held: usize = relays.iter().map(|relay| relay.status.lock().unwrap().held).sum();
    assert_eq!(held, 3, "each outbox is held by one relay");
    // The one that works dies; its leases run out.
    for relay in relays {
        if relay.status.lock().unwrap().held > 0 {
            relay.task.abort();
        }
    }
    world.insert(500, 600, 7).await;
    world.all_marked().await;
    assert_complete_and_in_order(&world.records(&world.topic).await, 600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_frozen_between_claim_and_send_and_thawed_behind_its_successor_breaks_no_order() {
    let world = Arc::new(World::new(&[]).await);
    world.insert(0, 400, 5).await;
    let limits = Limits { batch: 40, lease: Duration::from_secs(1), ..world.limits() };
    let dsn = world.database.dsn.clone();
    let base = world.options();
    let (topic, control_name, publisher) = (base.topic_events.clone(), base.control_name.clone(), Arc::clone(&base.publisher));
    let frozen = FrozenRelay::start(3, move || {
        let control = sqlx::postgres::PgPoolOptions::new().max_connections(4).connect_lazy(&dsn).unwrap();
        let routing = kylo::flow::routing::RoutingCache::new(control.clone());
        let pools = kylo::store::pools::Pools::new(kylo::store::pools::PoolOptions::default());
        RelayOptions { control, routing, pools, topic_events: topic, control_name, publisher, limits, holder: uuid::Uuid::new_v4(), ..base }
    });
    frozen.is_frozen().await;
    let successor = start(RelayOptions { limits, ..world.options() });
    // Thawed in the middle of what its successor does: it sends what it had claimed, and goes on until it finds its lease gone.
    world.counts("SELECT least(count(*), 1) FROM control.outbox_events WHERE seq > 200 AND published_at IS NOT NULL", 1).await;
    frozen.thaw();
    world.insert(400, 600, 5).await;
    world.all_marked().await;
    frozen.stop().await;
    successor.stop().await;
    let seen = world.records(&world.topic).await;
    assert!(seen.len() > 600, "the thawed relay has sent copies, or this test shows nothing: {}", seen.len());
    assert_complete_and_in_order(&seen, 600);
}

/// A publisher whose broker is at a dead address until it is told to be back.
fn with_outage(world: &World) -> (Arc<AtomicBool>, RelayOptions) {
    let is_back = Arc::new(AtomicBool::new(false));
    let (back, settings) = (Arc::clone(&is_back), world.settings.clone());
    let current = move || Ok(if back.load(Ordering::SeqCst) { settings.clone() } else { KafkaSettings::plaintext("127.0.0.1:1") });
    let publisher = Arc::new(KafkaEvents::new(Arc::new(current), Duration::from_secs(2)));
    (is_back, RelayOptions { publisher, ..world.options() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_is_waited_for_and_told_and_blames_no_event() {
    let world = World::new(&[]).await;
    world.insert(0, 100, 3).await;
    let (is_back, options) = with_outage(&world);
    let relay = start(options);
    eventually("the cause", async || if relay.worst().contains("KAFKA_BROKERS") { Ok(()) } else { Err(relay.worst()) }).await;
    assert!(relay.status.lock().unwrap().troubles.iter().all(|trouble| trouble.why == Why::Broker && trouble.why.is_grave()));
    is_back.store(true, Ordering::SeqCst);
    world.all_marked().await;
    eventually("no trouble", async || if relay.worst().is_empty() { Ok(()) } else { Err(relay.worst()) }).await;
    relay.stop().await;
    assert_complete_and_in_order(&world.records(&world.topic).await, 100);
    assert_eq!(world.number("SELECT count(*) FROM control.relay_rows").await + world.number("SELECT count(*) FROM control.dead_letters").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_topic_and_a_missing_schema_are_waited_for_and_told_and_only_the_first_is_grave() {
    let world = World::without_topic(&["app_1"]).await;
    world.insert(0, 10, 1).await;
    let relay = world.start();
    eventually("the missing topic to be told", async || if relay.worst().contains("topics ensure") { Ok(()) } else { Err(relay.worst()) }).await;
    world.make_topic(&world.topic, 4).await;
    world.all_marked().await;
    world.sql("ALTER SCHEMA app_1 RENAME TO app_away").await;
    eventually("the missing schema to be told", async || if relay.worst().contains("kylo migrate") { Ok(()) } else { Err(relay.worst()) }).await;
    assert!(relay.status.lock().unwrap().troubles.iter().all(|trouble| !trouble.why.is_grave()), "a company's trouble is no grave one");
    world.insert(10, 20, 1).await;
    world.all_marked().await;
    world.sql("ALTER SCHEMA app_away RENAME TO app_1; INSERT INTO app_1.outbox_events (event_type, company_id, payload) VALUES ('test', 'app_1', '{\"n\": 20}')").await;
    world.counts("SELECT count(*) FROM app_1.outbox_events WHERE published_at IS NOT NULL", 1).await;
    relay.stop().await;
    assert_complete_and_in_order(&world.records(&world.topic).await, 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_marker_that_cannot_be_set_doubles_no_event_while_its_relay_lives() {
    let world = World::new(&[]).await;
    let relay = world.start();
    world.insert(0, 5, 1).await;
    world.all_marked().await;
    // As a full disk or a standby does it: reading goes, writing does not.
    world
        .sql(
            "CREATE FUNCTION control.no() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '53100'; END $$;
             CREATE TRIGGER no BEFORE UPDATE ON control.outbox_events FOR EACH STATEMENT EXECUTE FUNCTION control.no()",
        )
        .await;
    world.insert(5, 10, 1).await;
    eventually("the trouble", async || if relay.worst().contains("cannot be read or marked") { Ok(()) } else { Err(relay.worst()) }).await;
    world.sql("DROP TRIGGER no ON control.outbox_events").await;
    world.all_marked().await;
    relay.stop().await;
    let seen = world.records(&world.topic).await;
    assert_eq!((seen.len(), firsts(&seen).len()), (10, 10));
}

/// Counts the statements that this thread's connections send, as sqlx tells them.
struct Statements(Arc<AtomicUsize>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Statements {
    fn on_event(&self, event: &tracing::Event<'_>, _context: tracing_subscriber::layer::Context<'_, S>) {
        if event.metadata().target() == "sqlx::query" {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

// On one thread, so that nobody else's statements are counted.
#[tokio::test(flavor = "current_thread")]
async fn an_idle_relay_asks_a_database_at_most_twice_a_second() {
    let statements = Arc::new(AtomicUsize::new(0));
    let _counting = tracing_subscriber::registry().with(Statements(Arc::clone(&statements))).set_default();
    let world = World::new(&["app_1", "app_2", "app_3"]).await;
    let limits = Limits { poll: Limits::default().poll, lease: Limits::default().lease, ..world.limits() };
    let relay = start(RelayOptions { limits, ..world.options() });
    world.insert(0, 1, 1).await;
    world.all_marked().await;
    // What the one event has set off is over at some time, later on a crowded machine; from then on it is a measurement over time.
    let mut per_second = f64::MAX;
    for _ in 0..6 {
        let (before, began) = (statements.load(Ordering::SeqCst), Instant::now());
        tokio::time::sleep(Duration::from_secs(10)).await;
        let sent = statements.load(Ordering::SeqCst) - before;
        per_second = f64::from(u32::try_from(sent).unwrap()) / began.elapsed().as_secs_f64();
        if per_second <= 2.0 {
            break;
        }
    }
    // All four schemas are in one database.
    assert!(per_second <= 2.0, "{per_second:.2} statements a second");
    assert!(per_second > 0.2, "{per_second:.2}: the relay looks at nothing, or this counts nothing");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_finishes_what_is_on_its_way_and_gives_the_leases_back() {
    let world = World::new(&[]).await;
    world.insert(0, 20_000, 10).await;
    let relay = start(RelayOptions { limits: Limits { batch: 100, ..world.limits() }, ..world.options() });
    world.counts("SELECT least(count(*), 1) FROM control.outbox_events WHERE published_at IS NOT NULL", 1).await;
    let began = Instant::now();
    relay.stop().await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let published = world.number("SELECT count(*) FROM control.outbox_events WHERE published_at IS NOT NULL").await;
    assert_eq!(i64::try_from(world.records(&world.topic).await.len()).unwrap(), published, "nothing is published and left unmarked");
    assert!(published < 20_000, "it went on to the end");
    let next = world.start();
    world.all_marked().await;
    next.stop().await;
    let seen = world.records(&world.topic).await;
    assert_eq!(seen.len(), 20_000);
    assert_complete_and_in_order(&seen, 20_000);
}
