//! A poster killed at every step of the table in the crate's documentation: whoever comes next finishes its work exactly once.

use std::time::Duration;

use kylo::faults::{CrashPoint, Faults};
use kylo::flow::post::Poster;

use crate::post_support::gateway::Fault;
use crate::post_support::world::World;

/// Kills a poster at `point`. Its lease runs out.
async fn crash(world: &World, point: CrashPoint) {
    let faults = Faults::default();
    faults.arm(point);
    let mut options = world.options();
    options.faults = faults.clone();
    let poster = Poster::new(options);
    tokio::select! {
        round = poster.post_once() => panic!("{point:?} was never reached: {round:?}"),
        () = faults.hit() => {}
        () = tokio::time::sleep(Duration::from_secs(120)) => panic!("{point:?} was not reached in time"),
    }
    assert_eq!(world.post().await.posted, 0, "{point:?}: the dead holder's lease still stands");
    world.count("WITH s AS (UPDATE control.spreadsheets SET leased_until = now() - interval '1 s' RETURNING 1) SELECT count(*) FROM s").await;
    world.clock.advance(Duration::from_secs(60));
}

async fn busy_world() -> World {
    let world = World::new(&["710"]).await;
    for (id, description) in [("t1", "STARBUCKS"), ("t2", "WALMART"), ("t3", "UBER")] {
        world.add("710", id, description, 100).await;
    }
    world.settle().await;
    world.edit("710", |tab| {
        tab.type_in("STARBUCKS", "Target_Sheet", "KEEP");
        tab.type_in("WALMART", "Target_Sheet", "LEFT");
        tab.type_in("UBER", "Approved", "perhaps");
    });
    world.resolve("710", "WALMART").await;
    world.add("710", "t4", "AMAZON", 5).await;
    world
}

async fn assert_finished(world: &World, point: CrashPoint) {
    world.assert_equal("710").await;
    let tab = world.pending("710");
    assert_eq!(tab.texts("Source"), ["STARBUCKS", "UBER", "AMAZON"], "{point:?}");
    assert_eq!(tab.text(1, "Target_Sheet"), "KEEP", "{point:?}");
    assert!(tab.text(2, "Status").starts_with("invalid:"), "{point:?}");
    assert_eq!(world.text("SELECT string_agg(target_sheet, ' ') FROM app_710.rules_pending").await, "LEFT", "{point:?}: kept once");
    let landed = "SELECT count(*) FROM control.sheet_intents, jsonb_array_elements(tabs) t WHERE state = 'confirmed' AND (t->>'row_count')::int > 0";
    assert_eq!(world.count("SELECT count(*) FROM control.sheet_posts").await, world.count(landed).await, "{point:?}");
    assert_eq!(
        world.count("SELECT sum(row_count)::bigint FROM control.sheet_posts").await,
        3 + 3,
        "{point:?}: three rows, then one changed, one removed, one appended"
    );
    assert_eq!(
        world.count("SELECT count(*) FROM control.outbox_events").await,
        world.count("SELECT count(*) FROM control.sheet_posts").await,
        "{point:?}"
    );
}

#[tokio::test]
async fn a_poster_killed_at_any_step_of_a_post_is_finished_by_the_next_one() {
    for point in CrashPoint::POST {
        let world = busy_world().await;
        crash(&world, point).await;
        assert_finished(&world, point).await;
    }
}

#[tokio::test]
async fn a_poster_killed_at_the_same_step_again_and_again_does_no_harm() {
    for point in CrashPoint::POST {
        let world = busy_world().await;
        crash(&world, point).await;
        // Once the batch has landed there is nothing left to send.
        if !matches!(point, CrashPoint::PostAnswerRead | CrashPoint::PostConfirmed) {
            crash(&world, point).await;
        }
        assert_finished(&world, point).await;
    }
}

#[tokio::test]
async fn the_very_first_post_killed_at_any_step_makes_each_tab_and_row_once() {
    for point in CrashPoint::POST {
        let world = World::new(&["710"]).await;
        world.add("710", "t1", "STARBUCKS", 1).await;
        crash(&world, point).await;
        world.assert_equal("710").await;
        assert_eq!(world.book().grids.len(), 4, "{point:?}: Sheet1, two tabs and _kylo");
        assert_eq!(world.count("SELECT sum(row_count)::bigint FROM control.sheet_posts").await, 1, "{point:?}");
    }
}

#[tokio::test]
async fn a_batch_that_lands_after_its_sender_was_killed_and_its_successor_has_posted_is_refused() {
    let world = busy_world().await;
    world.service.fault(Fault::LandsLater);
    crash(&world, CrashPoint::PostAnswerRead).await;
    assert_finished(&world, CrashPoint::PostAnswerRead).await;
    assert_eq!(world.service.land_late(), 0);
    assert_finished(&world, CrashPoint::PostAnswerRead).await;
}
