//! Events that cannot be published: refused, given up, replayed, and too many of them.

use kylo::domain::outbox::{Event, Outbox, Topics};
use kylo::flow::relay::{Limits, RelayOptions, Why};
use kylo::ports::PublishFault;
use kylo::store::control::dead_letters::{self, Filter};

use super::foreign::{SHAPES, detect};
use super::world::{Seen, World, assert_complete_and_in_order, eventually, start};

/// Letters that do not compress.
fn noise(n: usize) -> String {
    (0..n).map(|_| char::from(rand::random_range(b'a'..=b'z'))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_never_goes_on_behind_an_event_that_was_refused() {
    let world = World::new(&[]).await;
    world.make_topic("unused", 1).await;
    let publisher = world.publisher();
    let event = |n: usize, payload: String| Event {
        topic: world.topic.clone(),
        key: Some(b"k".to_vec()),
        payload: Some(payload.into_bytes()),
        headers: vec![("event_id".to_owned(), n.to_string())],
    };
    let mut events: Vec<Event> = (0..2_000).map(|n| event(n, "x".repeat(500))).collect();
    events[1_000] = event(1_000, noise(3_000_000));
    let answers = publisher.publish(&events).await;
    assert!(answers.iter().any(|answer| matches!(answer, Err(PublishFault::Refused(_)))), "the large one is refused");
    assert!(answers[1_001..].iter().all(Result::is_err), "nothing behind it is taken");
    // Whatever was acknowledged or not: what stands in the topic is a beginning of what was given.
    let seen = world.records(&world.topic).await;
    let found: Vec<String> = seen.iter().map(|record| record.id().to_owned()).collect();
    let wanted: Vec<String> = (0..found.len()).map(|n| n.to_string()).collect();
    assert_eq!(found, wanted);
    assert!(seen.len() <= 1_000);
    // And the publisher is as good as new.
    assert_eq!(publisher.publish(&events[..3]).await, [Ok(()), Ok(()), Ok(())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_the_broker_refuses_holds_its_key_back_and_becomes_a_letter_and_its_key_goes_on() {
    let world = World::new(&[]).await;
    world.insert(0, 10, 2).await;
    sqlx::query(
        "INSERT INTO control.outbox_events (event_type, company_id, payload) VALUES ('big', 'k0', jsonb_build_object('n', 10, 'noise', $1::text))",
    )
    .bind(noise(3_000_000))
    .execute(&world.database.pool)
    .await
    .unwrap();
    world.insert(11, 30, 2).await;
    let relay = world.start();
    // All but the large one, and the event that tells of its letter.
    world.counts("SELECT count(*) FROM control.outbox_events WHERE published_at IS NULL", 1).await;
    world.counts("SELECT count(*) FROM control.outbox_events WHERE event_type = 'dead_letter.created' AND published_at IS NOT NULL", 1).await;
    let seen: Vec<Seen> = world.records(&world.topic).await.into_iter().filter(|record| record.headers["event_type"] == "test").collect();
    assert_complete_and_in_order(&seen, 29);
    let letters = dead_letters::list(&world.database.pool, &Filter::default()).await.unwrap();
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!((letter.kind.as_str(), letter.class.as_str(), letter.attempts), ("event", "event_refused", 4), "one try and three retries");
    assert!(letter.reason.contains("max.message.bytes"), "{}", letter.reason);
    // Discarded: the row is marked, and nothing of it is left.
    dead_letters::discard(&world.database.pool, &[letter.id]).await.unwrap();
    world.all_marked().await;
    world.counts("SELECT count(*) FROM control.relay_rows", 0).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_given_up_event_is_replayed_by_the_rules_of_today_and_says_so() {
    let world = World::new(&[]).await;
    world.sql(SHAPES).await;
    world.sql("INSERT INTO whatsapp_handler.outbox_events (aggregate_id, event_type, payload) VALUES ('a', 'user.verified', '{\"n\": 1}'), ('a', 'user.renamed', '{\"n\": 2}')").await;
    let mapped = |types: &[&str]| {
        let by_event_type = types.iter().map(|name| ((*name).to_owned(), world.topic.clone())).collect();
        world.source(Outbox { topics: Topics { by_event_type, others: None }, ..detect("whatsapp_handler", "outbox_events") })
    };
    let with = |types: &[&str]| RelayOptions { configured: vec![mapped(types)], ..world.options() };
    let relay = start(with(&["user.renamed"]));
    world.counts("SELECT count(*) FROM control.dead_letters WHERE class = 'event_unroutable'", 1).await;
    world.counts("SELECT count(*) FROM whatsapp_handler.outbox_events WHERE published_at IS NOT NULL", 1).await;
    relay.stop().await;
    let relay = start(with(&["user.renamed", "user.verified"]));
    let letter = dead_letters::list(&world.database.pool, &Filter::default()).await.unwrap().remove(0);
    kylo::flow::dead_letter::replay(&world.database.pool, letter.id, None, async |_| {
        Err("a letter of an event is not published by the command".to_owned())
    })
    .await
    .unwrap();
    world.counts("SELECT count(*) FROM control.dead_letters WHERE state = 'resolved'", 1).await;
    world.counts("SELECT count(*) FROM whatsapp_handler.outbox_events WHERE published_at IS NOT NULL", 2).await;
    relay.stop().await;
    let seen = world.records(&world.topic).await;
    let replayed: Vec<_> = seen.iter().filter(|record| record.headers.contains_key("replay")).collect();
    assert_eq!(replayed.len(), 1);
    assert_eq!((replayed[0].n(), replayed[0].headers["dead_letter_id"].clone()), (1, letter.id.to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_given_up_events_stop_their_outbox_instead_of_emptying_it_into_letters() {
    let world = World::new(&[]).await;
    world.sql(SHAPES).await;
    world.sql("INSERT INTO whatsapp_handler.outbox_events (aggregate_id, event_type, payload) SELECT 'a' || n, 'unknown', '{}' FROM generate_series(1, 20) n").await;
    let none = world.source(Outbox { topics: Topics::default(), ..detect("whatsapp_handler", "outbox_events") });
    let limits = Limits { max_retries: 0, most_given_up: 5, ..world.limits() };
    let relay = start(RelayOptions { configured: vec![none], limits, ..world.options() });
    eventually("the outbox to stop", async || match relay.status.lock().unwrap().troubles.first() {
        Some(trouble) if trouble.why == Why::GivenUp => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(world.number("SELECT count(*) FROM control.dead_letters").await <= 20);
    // The others go on.
    world.insert(0, 10, 1).await;
    world.counts("SELECT count(*) FROM control.outbox_events WHERE event_type = 'test' AND published_at IS NULL", 0).await;
    relay.stop().await;
}
