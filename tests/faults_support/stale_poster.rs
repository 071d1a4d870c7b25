//! Two posters on one spreadsheet.

use std::time::Duration;

use kylo::faults::{CrashPoint, Faults};
use kylo::flow::post::{PostRound, Poster};
use sqlx::AssertSqlSafe;
use tokio::task::JoinHandle;

use crate::of_post::fill_the_fence;
use crate::post_support::gateway::Fault;
use crate::post_support::world::World;

/// The steps of a post, ordinary or not.
pub fn points() -> impl Iterator<Item = CrashPoint> {
    CrashPoint::POST.into_iter().chain([CrashPoint::EpochChanging, CrashPoint::EpochChanged])
}

/// What happens between the successor's post and the frozen one's waking.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    Nothing,
    FivePosts,
    /// The epoch changes, and the frozen one's fence id is free again.
    Pruning,
}

const ALL: [Meanwhile; 3] = [Meanwhile::Nothing, Meanwhile::FivePosts, Meanwhile::Pruning];

/// Rows on the tab, people's cells to be answered, a row to go and a row to come.
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

/// A poster that stops at the point.
async fn frozen(world: &World, point: CrashPoint) -> (Faults, JoinHandle<PostRound>) {
    let faults = Faults::default();
    faults.arm(point);
    let mut options = world.options();
    options.faults = faults.clone();
    let poster = Poster::new(options);
    let running = tokio::spawn(async move { poster.post_once().await.unwrap() });
    let hit = tokio::time::timeout(Duration::from_secs(120), faults.hit()).await;
    assert!(hit.is_ok(), "{point:?} was not reached");
    (faults, running)
}

async fn lease_runs_out(world: &World) {
    world.count("WITH s AS (UPDATE control.spreadsheets SET leased_until = now() - interval '1 s' RETURNING 1) SELECT count(*) FROM s").await;
    world.clock.advance(Duration::from_secs(60));
}

async fn go_on_without_it(world: &World, meanwhile: Meanwhile) {
    lease_runs_out(world).await;
    world.settle().await;
    world.edit("710", |tab| tab.type_in("AMAZON", "Match_Notes", "typed meanwhile"));
    match meanwhile {
        Meanwhile::Nothing => {}
        Meanwhile::FivePosts => {
            for n in 0..5 {
                world.add("710", &format!("m{n}"), &format!("MEANWHILE {n}"), n).await;
                world.settle().await;
            }
        }
        Meanwhile::Pruning => {
            fill_the_fence(world);
            world.add("710", "m", "MEANWHILE", 1).await;
            world.settle().await;
            assert!(world.book().metadata.len() < 100, "the fence was pruned");
        }
    }
    world.assert_equal("710").await;
}

/// Everything that a stale poster could change: the spreadsheet, the ledger, bindings, answers. Its own intents that were never sent are its own.
async fn seen(world: &World) -> Vec<String> {
    let book = world.book();
    let mut seen: Vec<String> = book.grids.iter().map(|grid| format!("{grid:?}")).collect();
    seen.push(format!("{:?}", book.metadata));
    for sql in [
        "SELECT * FROM control.sheet_posts",
        "SELECT company_id, role, sheet_id, title, posted_seq, typed FROM control.sheet_tabs",
        "SELECT intent_id, generation, state, tabs FROM control.sheet_intents WHERE state <> 'abandoned'",
        "SELECT spreadsheet_id, confirmed_generation, state, CASE WHEN leased_until > now() THEN lease_holder END AS holder FROM control.spreadsheets",
        "SELECT event_type, payload FROM control.outbox_events",
        "SELECT txn_uid, status, answer, answer_input FROM app_710.pending_txns",
        "SELECT source, target_sheet, origin, answer FROM app_710.rules_pending",
    ] {
        let sql = format!("SELECT to_jsonb(q)::text FROM ({sql}) q ORDER BY 1");
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&world.pool).await.unwrap();
        seen.extend(rows);
    }
    seen
}

fn assert_same(now: &[String], before: &[String], what: &str) {
    let more: Vec<_> = now.iter().filter(|line| !before.contains(line)).collect();
    let less: Vec<_> = before.iter().filter(|line| !now.contains(line)).collect();
    assert!(now == before, "{what}: now {more:#?}, before {less:#?}");
}

async fn nothing_changes_when_it_wakes(point: CrashPoint, meanwhile: Meanwhile) {
    let world = busy_world().await;
    if matches!(point, CrashPoint::EpochChanging | CrashPoint::EpochChanged) {
        fill_the_fence(&world);
    }
    let (faults, running) = frozen(&world, point).await;
    go_on_without_it(&world, meanwhile).await;
    let before = seen(&world).await;
    faults.thaw();
    let round = tokio::time::timeout(Duration::from_secs(60), running).await.expect("it comes to an end").unwrap();
    assert_same(&seen(&world).await, &before, &format!("{point:?}, {meanwhile:?}: {round:?}"));
    world.assert_equal("710").await;
    assert_same(&seen(&world).await, &before, &format!("{point:?}, {meanwhile:?}: something was left to post"));
}

#[tokio::test]
async fn r3_a_poster_that_was_frozen_at_any_step_changes_nothing_when_it_wakes() {
    for point in points() {
        for meanwhile in ALL {
            nothing_changes_when_it_wakes(point, meanwhile).await;
        }
    }
}

#[tokio::test]
async fn r3_a_batch_whose_sender_was_frozen_in_the_call_is_refused_when_it_arrives() {
    for meanwhile in ALL {
        let world = busy_world().await;
        world.service.fault(Fault::Freezes);
        let poster = world.poster();
        let running = tokio::spawn(async move { poster.post_once().await });
        world.service.holds_a_call().await;
        go_on_without_it(&world, meanwhile).await;
        let before = seen(&world).await;
        assert_eq!(world.service.land_late(), 0, "{meanwhile:?}");
        running.abort();
        world.assert_equal("710").await;
        assert_same(&seen(&world).await, &before, &format!("{meanwhile:?}"));
    }
}
