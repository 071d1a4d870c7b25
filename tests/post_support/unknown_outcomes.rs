//! Answers that never came, came late, or came for somebody else: the fence decides.

use std::time::Duration;

use kylo::domain::fence;
use kylo::domain::sheet::Value;
use kylo::ports::CallError;

use crate::post_support::gateway::Fault;
use crate::post_support::world::{SHEET, World};

async fn world_of_two() -> World {
    let world = World::new(&["710"]).await;
    world.add("710", "t1", "STARBUCKS", -1234).await;
    world.add("710", "t2", "WALMART", 4567).await;
    world
}

async fn states(world: &World) -> String {
    world.text("SELECT string_agg(state, ' ' ORDER BY created_at) FROM control.sheet_intents").await
}

/// Nothing twice, nothing missing, each landed post once in the ledger.
async fn assert_exactly_once(world: &World) {
    world.assert_equal("710").await;
    let confirmed = world.count("SELECT count(*) FROM control.sheet_intents WHERE state = 'confirmed'").await;
    assert_eq!(world.book().metadata.len() as i64, confirmed, "every fence entry belongs to a confirmed intent");
    let posts = world.count("SELECT count(DISTINCT intent_id) FROM control.sheet_posts").await;
    let rows = "SELECT count(*) FROM control.sheet_intents, jsonb_array_elements(tabs) t WHERE state = 'confirmed' AND (t->>'row_count')::int > 0";
    assert_eq!(world.count("SELECT count(*) FROM control.sheet_posts").await, world.count(rows).await);
    assert!(posts <= confirmed);
    assert_eq!(world.count("SELECT count(*) FROM control.sheet_intents WHERE operations IS NOT NULL").await, 0, "operations are dropped");
}

#[tokio::test]
async fn a_post_that_was_applied_then_dropped_is_confirmed_and_not_repeated() {
    let world = world_of_two().await;
    world.service.fault(Fault::AppliedAnswerLost);
    let round = world.post().await;
    assert_eq!((round.in_doubt, round.waiting), (1, 1));
    assert_eq!(states(&world).await, "in_doubt");
    world.clock.advance(Duration::from_secs(5));
    world.settle().await;
    assert_eq!(states(&world).await, "confirmed");
    assert_eq!(world.service.n_calls("apply"), 1);
    assert_eq!(world.text("SELECT row_count::text FROM control.sheet_posts").await, "2");
    assert_exactly_once(&world).await;
}

#[tokio::test]
async fn a_post_that_never_arrived_is_sent_again_with_the_same_fence() {
    let world = world_of_two().await;
    world.service.fault(Fault::Lost);
    world.post().await;
    world.settle().await;
    assert_eq!(states(&world).await, "superseded confirmed");
    let sent = world.service.lock().sent.clone();
    let fences: Vec<_> = sent.iter().map(|batch| format!("{:?}", batch[0])[..40].to_owned()).collect();
    assert_eq!(fences[0], fences[1]);
    assert_exactly_once(&world).await;
}

#[tokio::test]
async fn a_post_that_lands_late_before_the_next_one_is_confirmed_and_the_next_one_planned_afresh() {
    let world = world_of_two().await;
    world.service.fault(Fault::LandsLater);
    world.post().await;
    world.add("710", "t3", "UBER", 1).await;
    assert_eq!(world.service.land_late(), 1);
    world.settle().await;
    assert_eq!(states(&world).await, "confirmed confirmed");
    assert_exactly_once(&world).await;
}

#[tokio::test]
async fn a_post_that_lands_between_the_successors_read_and_write_wins_and_the_successor_plans_afresh() {
    let world = world_of_two().await;
    world.service.fault(Fault::LandsLater);
    world.post().await;
    world.add("710", "t3", "UBER", 1).await;
    world.clock.advance(Duration::from_secs(5));
    let late = world.service.lock().late.pop().unwrap().1;
    world.service.fault(Fault::PeopleFirst(Box::new(move |book| book.apply(&late).unwrap())));
    world.settle().await;
    assert_eq!(states(&world).await, "confirmed superseded confirmed");
    assert_exactly_once(&world).await;
}

#[tokio::test]
async fn a_post_that_would_land_after_the_next_one_is_refused_by_the_fence() {
    let world = world_of_two().await;
    world.settle().await;
    world.add("710", "t3", "UBER", 1).await;
    world.service.fault(Fault::LandsLater);
    world.post().await;
    world.settle().await;
    assert_eq!(states(&world).await, "confirmed superseded confirmed");
    assert_eq!(world.service.land_late(), 0, "the late batch must not be taken");
    assert_exactly_once(&world).await;
}

#[tokio::test]
async fn an_intent_in_doubt_is_closed_by_a_fence_alone_when_nothing_is_left_to_post() {
    let world = world_of_two().await;
    world.settle().await;
    world.add("710", "t3", "UBER", 1).await;
    world.service.fault(Fault::LandsLater);
    world.post().await;
    world.resolve("710", "UBER").await;
    world.settle().await;
    assert_eq!(states(&world).await, "confirmed superseded confirmed");
    let last = world.service.lock().sent.last().unwrap().clone();
    assert_eq!(last.len(), 2, "the fence and the control tab: {last:?}");
    assert_eq!(world.service.land_late(), 0);
    assert_eq!(world.count("SELECT count(*) FROM control.sheet_posts").await, 1);
    assert_exactly_once(&world).await;
}

#[tokio::test]
async fn unknown_outcomes_in_a_row_land_at_most_once() {
    let world = world_of_two().await;
    for _ in 0..3 {
        world.service.fault(Fault::LandsLater);
        world.post().await;
        world.clock.advance(Duration::from_secs(10));
    }
    assert_eq!(world.service.land_late(), 1);
    world.settle().await;
    assert_exactly_once(&world).await;
}

#[tokio::test]
async fn a_frozen_poster_that_wakes_after_its_successor_has_posted_and_pruned_changes_nothing() {
    let world = world_of_two().await;
    world.settle().await;
    world.add("710", "t3", "UBER", 1).await;
    world.service.fault(Fault::Freezes);
    let frozen = world.poster();
    let stuck = tokio::spawn(async move { frozen.post_once().await });
    world.service.holds_a_call().await;
    stuck.abort();
    world.count("WITH gone AS (UPDATE control.spreadsheets SET leased_until = now() - interval '1 s' RETURNING 1) SELECT count(*) FROM gone").await;
    for n in 0..105 {
        world.add("710", &format!("n{n}"), &format!("ROW {n}"), n).await;
        world.post().await;
    }
    assert!(world.book().metadata.len() < 20, "old entries are pruned");
    assert!(world.book().metadata.iter().all(|entry| entry.id != fence::id(2).unwrap()), "the frozen poster's id is free again");
    assert_eq!(world.service.land_late(), 0, "but its epoch is gone");
    world.assert_equal("710").await;
}

#[tokio::test]
async fn a_poster_frozen_before_sending_does_not_send_once_its_intent_was_abandoned() {
    let world = world_of_two().await;
    world.settle().await;
    let sql = "WITH i AS (INSERT INTO control.sheet_intents (intent_id, spreadsheet_id, generation, state, holder, companies, tabs)
               VALUES (gen_random_uuid(), 'sheet-1', 2, 'planned', gen_random_uuid(), '{710}', '[]') RETURNING 1) SELECT count(*) FROM i";
    world.count(sql).await;
    world.add("710", "t3", "UBER", 1).await;
    world.settle().await;
    assert_eq!(states(&world).await, "confirmed abandoned confirmed");
    let intent: uuid::Uuid = world.text("SELECT intent_id::text FROM control.sheet_intents WHERE state = 'abandoned'").await.parse().unwrap();
    assert!(!kylo::store::control::intents::mark_sent(&world.pool, intent).await.unwrap());
}

#[tokio::test]
async fn a_restored_older_version_is_brought_up_to_date_and_old_batches_cannot_land() {
    let world = world_of_two().await;
    world.settle().await;
    let old = world.book();
    world.add("710", "t3", "UBER", 1).await;
    world.settle().await;
    world.resolve("710", "STARBUCKS").await;
    world.service.fault(Fault::LandsLater);
    world.post().await;
    world.service.edit(SHEET, |book| *book = old.clone());
    world.add("710", "t4", "EBAY", 1).await;
    world.settle().await;
    assert_eq!(world.pending("710").texts("Source"), ["WALMART", "UBER", "EBAY"]);
    assert_ne!(world.book().grid("_kylo").sheet_id, old.grid("_kylo").sheet_id);
    assert_eq!(world.service.land_late(), 0);
    world.assert_equal("710").await;
}

#[tokio::test]
async fn an_intent_that_a_restored_version_left_behind_is_closed_by_one_new_epoch_also_by_another_process() {
    let world = world_of_two().await;
    world.settle().await;
    let old = world.book();
    for n in 0..4 {
        world.add("710", &format!("n{n}"), &format!("ROW {n}"), n).await;
        world.settle().await;
    }
    world.resolve("710", "STARBUCKS").await;
    world.service.fault(Fault::LandsLater);
    world.post().await;
    world.service.edit(SHEET, |book| *book = old);
    world.clock.advance(std::time::Duration::from_secs(40));
    world.service.fault(Fault::AppliedAnswerLost);
    world.post().await;
    let n_before = world.service.lock().sent.len();
    world.clock.advance(std::time::Duration::from_secs(40));
    world.settle().await;
    assert_eq!(world.service.lock().sent.len() - n_before, 1);
    assert_eq!(world.count("SELECT count(*) FROM control.sheet_intents WHERE state IN ('planned', 'sent', 'in_doubt')").await, 0);
    assert_eq!(world.service.land_late(), 0);
    world.assert_equal("710").await;
}

#[tokio::test]
async fn quota_and_outages_wait_with_backoff_and_lose_nothing() {
    let world = world_of_two().await;
    world.service.fault(Fault::Says(CallError::Throttled { retry_after: Some(Duration::from_secs(7)), message: "Quota exceeded".to_owned() }));
    let round = world.post().await;
    assert_eq!(round.waiting, 1);
    let calls = world.service.lock().calls.len();
    assert_eq!(world.post().await.posted, 0, "not before its time");
    assert_eq!(world.service.lock().calls.len(), calls);
    world.clock.advance(Duration::from_secs(8));
    world.service.fault(Fault::Says(CallError::NotSent("connection refused".to_owned())));
    assert_eq!(world.post().await.waiting, 1);
    world.service.lock().read_error = Some(CallError::Unknown("503".to_owned()));
    for _ in 0..6 {
        world.clock.advance(Duration::from_secs(5));
        assert_eq!(world.post().await.waiting, 1, "an outage never makes it wait longer than 5 s");
    }
    world.service.lock().read_error = None;
    world.clock.advance(Duration::from_secs(5));
    world.settle().await;
    assert_eq!(world.text("SELECT state || failures FROM control.spreadsheets").await, "ok0");
    assert_exactly_once(&world).await;
}

#[tokio::test]
async fn a_large_plan_arrives_in_several_batches_of_at_most_two_megabytes() {
    let world = World::new(&["710"]).await;
    let long = "x".repeat(48_000);
    for n in 0..60 {
        world.add("710", &format!("t{n}"), &format!("{n:03}{long}"), n).await;
    }
    let round = world.post().await;
    assert_eq!(round.posted, 2);
    let sent = world.service.lock().sent.clone();
    assert!(sent.iter().all(|batch| serde_json::to_string(batch).unwrap().len() <= 2_000_000));
    let order: Vec<String> = world.pending("710").texts("Source").iter().map(|source| source[..3].to_owned()).collect();
    assert!(order.is_sorted(), "{order:?}");
    assert_exactly_once(&world).await;
}

#[tokio::test]
async fn a_tick_set_between_read_and_write_survives_the_post() {
    let world = world_of_two().await;
    world.settle().await;
    world.add("710", "t3", "UBER", 1).await;
    world.service.fault(Fault::PeopleFirst(Box::new(|book| book.grid_mut("710 Pending").approve("WALMART", "OPEX", "FOOD"))));
    world.settle().await;
    let tab = world.pending("710");
    assert_eq!(tab.rows[tab.row_of("WALMART")][tab.column("Approved")], Value::Bool(true));
    assert!(world.text("SELECT typed::text FROM control.sheet_tabs WHERE role = 'pending'").await.contains("FOOD"), "the answer was read too");
    assert_exactly_once(&world).await;
}

#[tokio::test]
async fn a_company_whose_post_never_gets_an_answer_is_parked_and_the_others_of_its_spreadsheet_are_posted() {
    let world = World::new(&["710", "711"]).await;
    world.settle().await;
    world.add("710", "t1", "CURSED", 1).await;
    world.add("711", "t1", "FINE", 1).await;
    world.service.lock().lost_with = Some("CURSED".to_owned());
    for _ in 0..8 {
        assert_eq!(world.post().await.in_doubt, 1);
        world.clock.advance(Duration::from_secs(5));
    }
    assert_eq!(world.count("SELECT count(*) FROM control.sheet_intents WHERE operations IS NOT NULL").await, 1, "only the newest keeps them");
    world.post().await;
    let parked = world.text("SELECT string_agg(company_id || ' ' || state || ' ' || reason, '; ') FROM control.company_trouble").await;
    assert!(parked.starts_with("710 parked the spreadsheet service takes Kylo's marks"), "{parked}");
    assert_eq!(world.pending("711").texts("Source"), ["FINE"]);
    world.service.lock().lost_with = None;
    world.clock.advance(Duration::from_secs(901));
    world.assert_equal("710").await;
    world.assert_equal("711").await;
}

#[tokio::test]
async fn an_outage_of_writes_parks_nobody_however_long_it_lasts() {
    let world = world_of_two().await;
    world.service.lock().lost_with = Some(String::new());
    for _ in 0..12 {
        let round = world.post().await;
        assert_eq!((round.in_doubt, round.parked), (1, 0));
        world.clock.advance(Duration::from_secs(5));
    }
    world.service.lock().lost_with = None;
    world.settle().await;
    assert_exactly_once(&world).await;
}
