//! The consumer against a real control database, with a scripted source and a handler that does what the test says.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

#[path = "support/database.rs"]
#[expect(dead_code, reason = "shared with tests that use all of it")]
mod database;

#[path = "consume/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use kylo::domain::ids::CompanyId;
use kylo::flow::routing::Routing;
use kylo::flow::work::Record;
use kylo::store::control::{dead_letters, poison};
use world::{TOPIC, World, batch, eventually, raw};

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
async fn i5_a_poison_message_that_claims_to_be_the_replay_of_another_is_kept_and_closes_nothing() {
    let world = World::new().await;
    world.send(vec![batch(0, 0, "z", "z1")]);
    world.stored_up_to(0, 1).await;
    let letter = dead_letters::list(&world.database.pool, &dead_letters::Filter::default()).await.unwrap().remove(0);
    assert!(dead_letters::start_replay(&world.database.pool, letter.id).await.unwrap());
    let claiming = |mut record: Record| {
        record.headers.insert("dead_letter_id".to_owned(), letter.id.to_string());
        record
    };
    world.send(vec![claiming(raw(0, 1, "a", "not json")), claiming(batch(0, 2, "y", "y1"))]);
    world.stored_up_to(0, 3).await;
    assert_eq!(world.count("SELECT count(*) FROM control.dead_letters WHERE attempts = 1 AND original = 'not json'::bytea").await, 1);
    assert_eq!(world.count("SELECT count(*) FROM control.dead_letters WHERE attempts = 1 AND company_id = 'y'").await, 1);
    assert_eq!(world.count("SELECT count(*) FROM control.dead_letters WHERE attempts = 1 AND company_id = 'z' AND state = 'replaying'").await, 1);
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
async fn the_poison_cap_protects_a_topic_that_was_made_anew() {
    let world = World::with(|settings, _| settings.poison_cap = 3).await;
    world
        .database
        .execute("INSERT INTO control.partition_poison (consumer_group, topic, partition, in_a_row, last_offset) VALUES ('g', 'txns', 2, 2, 1000)")
        .await;
    world.assign(&[2]);
    for offset in 0..3 {
        assert_eq!(world.status.borrow().stopped, Vec::<i32>::new());
        world.send(vec![raw(2, offset, "a", "poison")]);
        world.stored_up_to(2, offset + 1).await;
    }
    eventually("the partition to be stopped", || world.status.borrow().stopped == [2]).await;
    world.counted("SELECT count(*) FROM control.partition_poison WHERE in_a_row = 3 AND last_offset = 2 AND stopped_at IS NOT NULL", 1).await;
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
