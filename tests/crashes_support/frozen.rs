//! A worker that is stopped (SIGSTOP) for longer than its session, in the middle of ingest and in the middle of a call; another finishes its
//! work and more; it goes on (SIGCONT): nothing changes.

use fake_sheets::faults::Commit;
use fake_sheets::{Fault, FaultKind};
use serde_json::Value;

use super::judge;
use super::messages::{batch, row};
use super::story::fill_the_fence;
use super::supervise::{leases_run_out, signal, spawn};
use super::worker::Process;
use super::world::World;

const COMPANIES: [&str; 2] = ["710", "711"];

/// Where the worker is when it freezes.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Somewhere in a backlog.
    Ingest,
    /// It waits for the answer to a batch, which arrives at the service much later.
    Call,
    /// The same, and the fence is pruned before that batch arrives.
    CallThenPruning,
}

async fn world() -> World {
    let mut world = World::with_partitions(2).await;
    world.variables.insert("KYLO_HTTP_ADDR", "127.0.0.1:0".to_owned());
    world.add(&COMPANIES).await;
    world
}

async fn backlog(world: &World, name: &str, total: i64) {
    let one = |n: i64| {
        batch(COMPANIES[usize::from(n % 2 == 1)], &format!("{name}-{n:03}"), n, &[row(&format!("{name}{n}"), "-1.00", &format!("{name} {n}"))])
    };
    let messages: Vec<Value> = (0..total).map(one).collect();
    world.publish_all(&messages).await;
}

async fn ingested(world: &World, wanted: i64) -> Result<(), String> {
    let mut all = 0;
    for company in COMPANIES {
        all += world.number(company, "SELECT count(*) FROM ingest_batches").await;
    }
    if all >= wanted { Ok(()) } else { Err(format!("{all} batches")) }
}

/// Stops the worker at the stage.
async fn freeze(world: &World, worker: &Process, stage: Stage) {
    match stage {
        Stage::Ingest => world.eventually("the backlog is under way", async || ingested(world, 30).await).await,
        Stage::Call | Stage::CallThenPruning => {
            world.eventually("a call hangs", async || if world.model().waiting() > 0 { Ok(()) } else { Err("no call".to_owned()) }).await;
        }
    }
    signal(worker, "STOP").await;
}

async fn nothing_changes_when_it_goes_on(stage: Stage) {
    let world = world().await;
    let stale = spawn(&world, None);
    let total = 400;
    if !matches!(stage, Stage::Ingest) {
        let hang = FaultKind::Hang { hang_ms: 60_000, commit: Commit::OnRelease };
        world.model().push_fault(Fault::once("batchUpdate", hang).for_spreadsheet("sheet-710"));
    }
    backlog(&world, "first", total).await;
    freeze(&world, &stale, stage).await;
    leases_run_out(&world).await;

    let successor = spawn(&world, None);
    world
        .eventually("the successor finishes the backlog", async || {
            ingested(&world, total).await.map_err(|now| format!("{now}; {}", successor.said()))
        })
        .await;
    leases_run_out(&world).await;
    world.settled(&COMPANIES).await;
    if matches!(stage, Stage::CallThenPruning) {
        fill_the_fence(&world, "710");
    }
    backlog(&world, "second", 20).await;
    world.eventually("further work is done", async || ingested(&world, total + 20).await).await;
    world.settled(&COMPANIES).await;
    let before = judge::state(&world, &COMPANIES).await;

    world.model().release();
    signal(&stale, "CONT").await;
    let beats = format!("SELECT count(*) FROM control.workers WHERE pid = {} AND heartbeat_at > now() - interval '2 s'", stale.pid());
    world.control_counts(&beats, 1).await;
    backlog(&world, "third", 20).await;
    world.eventually("both work on", async || ingested(&world, total + 40).await).await;
    world.settled(&COMPANIES).await;
    let after = judge::state(&world, &COMPANIES).await;
    assert_eq!(after.lost_of(&before), Vec::<String>::new(), "{stage:?}");
    for company in COMPANIES {
        let order = world.texts(company, "SELECT batch_id FROM ingest_batches ORDER BY as_of, seq").await;
        let by_seq = world.texts(company, "SELECT batch_id FROM ingest_batches WHERE batch_id LIKE 'first%' ORDER BY seq").await;
        assert!(by_seq.is_sorted(), "I6: {stage:?}: {by_seq:?}");
        assert_eq!(order.len() as i64, (total + 40) / 2, "{stage:?}");
    }
    world.audit_is_clean(&format!("{stage:?}")).await;
    drop((stale, successor));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r3_a_worker_that_was_stopped_beyond_its_session_changes_nothing_when_it_goes_on() {
    let _alone = crate::MACHINE.lock().await;
    let stages = [Stage::Ingest, Stage::Call, Stage::CallThenPruning];
    let played = stages.map(|stage| crate::on_its_own_thread(move || nothing_changes_when_it_goes_on(stage)));
    futures::future::try_join_all(played).await.unwrap();
}
