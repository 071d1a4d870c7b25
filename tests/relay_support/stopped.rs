//! A relay process that the operating system stops (SIGSTOP) for longer than its lease, and lets go on behind its successor.

use std::process::Stdio;
use std::time::Duration;

use kylo::flow::relay::{Limits, RelayOptions};
use tokio::process::{Child, Command};

use super::world::{World, assert_complete_and_in_order, brokers, firsts, start};

/// `kylo relay` over this world, with small batches, so that it is stopped in the middle of many.
fn process(world: &World) -> Child {
    let environment = [
        ("PG_DSN_RW", world.database.dsn.clone()),
        ("KAFKA_BROKERS", brokers()),
        ("KAFKA_TOPIC_EVENTS", world.topic.clone()),
        ("KYLO_RELAY_BATCH_SIZE", "20".to_owned()),
        ("KYLO_HTTP_ADDR", "127.0.0.1:0".to_owned()),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_kylo"));
    command.arg("relay").env_clear().envs(environment).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command.spawn().unwrap()
}

async fn signal(child: &Child, name: &str) {
    let id = child.id().expect("it still runs").to_string();
    assert!(Command::new("kill").args([name, &id]).status().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_process_that_is_stopped_beyond_its_lease_and_goes_on_behind_its_successor_loses_and_reorders_nothing() {
    let world = World::new(&[]).await;
    world.insert(0, 6_000, 5).await;
    let mut stopped = process(&world);
    world.counts("SELECT least(count(*), 1) FROM control.outbox_events WHERE published_at IS NOT NULL", 1).await;
    signal(&stopped, "-STOP").await;
    let before = world.number("SELECT count(*) FROM control.outbox_events WHERE published_at IS NOT NULL").await;
    assert!(before < 6_000, "stopped in the middle");

    // The lease of the stopped one runs out on the database's clock; then its successor works.
    let successor = start(RelayOptions { limits: Limits { batch: 20, ..world.limits() }, ..world.options() });
    let further = format!("SELECT least(count(*), {0}) FROM control.outbox_events WHERE published_at IS NOT NULL", before + 100);
    world.counts(&further, before + 100).await;
    let holders = "SELECT count(*) FROM control.relay_state WHERE leased_until > now()";
    world.counts(holders, 1).await;
    signal(&stopped, "-CONT").await;
    world.insert(6_000, 6_500, 5).await;
    world.all_marked().await;
    signal(&stopped, "-TERM").await;
    let ended = tokio::time::timeout(Duration::from_secs(120), stopped.wait()).await.expect("SIGTERM ends it").unwrap();
    assert!(ended.success(), "{ended}");
    successor.stop().await;

    let seen = world.records(&world.topic).await;
    assert_complete_and_in_order(&seen, 6_500);
    let numbered: std::collections::BTreeSet<i64> = firsts(&seen).into_iter().map(super::world::Seen::n).collect();
    assert_eq!(numbered.len(), 6_500, "copies have the event_id of what they are copies of");
}
