//! The crash matrix: the built binary, a real broker, a real PostgreSQL and the emulated Sheets service; the worker aborts at every crash point
//! of the flow, again and again and once more, is started again, and in the end everything is as if nothing had happened.
//!
//! Runs over all of `CrashPoint::of_workers`; a point that is never reached fails. In process: tests/stale.rs. The random sibling of the matrix is `crashes_support/chaos.rs`; workers that freeze instead of dying are `crashes_support/frozen.rs`.
//! Needs `PG_DSN_RW` and `KAFKA_BROKERS` as tests/e2e.rs does.

#![cfg(feature = "faults")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
#![expect(dead_code, reason = "the harness is that of tests/e2e.rs, which uses all of it")]

#[path = "audit/judge.rs"]
mod auditor;
#[path = "crashes_support/chaos.rs"]
mod chaos;
#[path = "support/database.rs"]
mod database;
#[path = "e2e/databases.rs"]
mod databases;
#[path = "crashes_support/frozen.rs"]
mod frozen;
#[path = "crashes_support/judge.rs"]
mod judge;
#[path = "crashes_support/ledger_of_inputs.rs"]
mod ledger_of_inputs;
#[path = "e2e/messages.rs"]
mod messages;
#[path = "e2e/offsets.rs"]
mod offsets;
#[path = "support/patience.rs"]
mod patience;
#[path = "crashes_support/people.rs"]
mod people;
#[path = "e2e/process.rs"]
mod process;
#[path = "e2e/sheets.rs"]
mod sheets;
#[path = "crashes_support/story.rs"]
mod story;
#[path = "crashes_support/supervise.rs"]
mod supervise;
#[path = "e2e/worker.rs"]
mod worker;
#[path = "e2e/world.rs"]
mod world;

use std::any::Any;
use std::time::Instant;

use futures::StreamExt;
use kylo::faults::CrashPoint;
use tokio::task::{JoinError, JoinHandle};

use judge::State;
use supervise::Supervisor;

/// Stories that are told at the same time: most of their time they wait for the broker to miss a dead worker.
const AT_ONCE: usize = 6;
/// Held by whoever would not leave the machine to others: the soak, and workers that freeze, whose successors have their own clocks.
static MACHINE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// A worker that is started again after a crash in the first round of the story crashes there again this often at most.
const AGAIN: usize = 2;

/// The story of two rounds. In the first the worker crashes at the point, and those that follow it crash there again; in the second, one
/// crashes there and its successor goes on.
async fn told(point: Option<CrashPoint>) -> State {
    let world = story::world().await;
    let supervisor = Supervisor::new(point);
    let tell = async {
        for round in 0..story::ROUNDS {
            let crashes = supervisor.start(if round == 0 { AGAIN } else { 1 });
            story::round(&world, round).await;
            if let Some(point) = point {
                assert!(supervisor.crashes() > crashes, "{point:?} was never reached in round {round}");
            }
        }
    };
    tokio::select! {
        () = tell => {}
        () = supervisor.run(&world) => {}
    }
    let state = judge::state(&world, &story::COMPANIES).await;
    world.audit_is_clean(point.map_or("without a crash", CrashPoint::as_str)).await;
    world.end().await;
    state
}

/// Plays a world on a thread of its own. One that ends waits for its databases to go, and must not keep the others waiting: the server cuts off logins
/// that are not gone on with for some seconds.
fn on_its_own_thread<F: Future<Output: Send + 'static>>(world: impl FnOnce() -> F + Send + 'static) -> JoinHandle<F::Output> {
    tokio::task::spawn_blocking(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(world())
    })
}

/// All points, or those that `CRASH_POINTS` names, separated by commas, for whoever looks for what is wrong at one.
fn points() -> Vec<CrashPoint> {
    let wanted = database::variable("CRASH_POINTS").unwrap_or_default();
    let is_wanted = |point: &CrashPoint| wanted.is_empty() || wanted.split(',').any(|name| name == point.as_str());
    let points: Vec<CrashPoint> = CrashPoint::of_workers().filter(is_wanted).collect();
    assert!(!points.is_empty(), "CRASH_POINTS={wanted} names no crash point");
    points
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_worker_that_crashes_at_any_point_again_and_again_leaves_what_an_undisturbed_one_leaves() {
    let undisturbed = told(None).await;
    let cases = points().into_iter().map(|point| async move {
        let began = Instant::now();
        let state = on_its_own_thread(move || told(Some(point))).await.map_err(JoinError::into_panic);
        println!("{} {:?} after {:?}", point.as_str(), state.as_ref().map(|_| ()).map_err(|panic| words(&**panic)), began.elapsed());
        (point, state)
    });
    let mut failed = Vec::new();
    let mut told = futures::stream::iter(cases).buffer_unordered(AT_ONCE);
    while let Some((point, state)) = told.next().await {
        match state {
            Ok(state) => failed.extend(state.differs_from(&undisturbed).map(|differs| format!("{}: {differs}", point.as_str()))),
            Err(panic) => failed.push(format!("{}: {}", point.as_str(), words(&*panic))),
        }
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

/// What a panic says.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "a panic without words".to_owned())
}

#[test]
fn the_page_of_guarantees_has_the_table_of_crash_points() {
    let mut table = String::from("| crash point | what a crash there leaves, and who goes on |\n|---|---|\n");
    for point in CrashPoint::of_workers() {
        table.push_str(&format!("| `{}` | {} |\n", point.as_str(), point.says()));
    }
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guarantees-crashes.md")).unwrap();
    assert!(page.contains(&table), "docs/guarantees-crashes.md must have:\n{table}");
}
