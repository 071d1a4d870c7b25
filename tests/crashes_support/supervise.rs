//! Starts the worker, sees it crash, lets the time pass that its leases need, and starts it again.
//!
//! What must never happen here: a worker that ends in another way than by its crash point taken for a crash.

use std::os::unix::process::ExitStatusExt;
use std::sync::Mutex;

use kylo::faults::CrashPoint;
use tokio::sync::Notify;

use super::worker::Process;
use super::world::{Mode, World};

/// SIGABRT.
const ABORT: i32 = 6;
/// The broker misses a dead worker after this time instead of 6 s.
const SESSION_MS: &str = "2000";

/// Keeps one worker running.
pub struct Supervisor {
    point: Option<CrashPoint>,
    counts: Mutex<Counts>,
    start: Notify,
}

#[derive(Default)]
struct Counts {
    /// Starts that are still to be armed.
    armed: usize,
    crashes: usize,
}

impl Supervisor {
    pub fn new(point: Option<CrashPoint>) -> Self {
        Self { point, counts: Mutex::default(), start: Notify::new() }
    }

    /// A new worker, in the place of the one that runs; it and its successors crash `times` times. Answers the crashes until now.
    pub fn start(&self, times: usize) -> usize {
        let mut counts = self.counts.lock().unwrap();
        counts.armed = if self.point.is_some() { times } else { 0 };
        self.start.notify_one();
        counts.crashes
    }

    pub fn crashes(&self) -> usize {
        self.counts.lock().unwrap().crashes
    }

    /// Runs workers until it is dropped; with it the last worker is killed.
    pub async fn run(&self, world: &World) {
        self.start.notified().await;
        loop {
            let mut worker = self.spawn(world);
            tokio::select! {
                ended = worker.child.wait() => {
                    let ended = ended.unwrap();
                    assert_eq!(ended.signal(), Some(ABORT), "the worker ended by itself ({ended}): {}", worker.said());
                    let mut counts = self.counts.lock().unwrap();
                    counts.crashes += 1;
                    counts.armed = counts.armed.saturating_sub(1);
                }
                () = self.start.notified() => worker.child.kill().await.unwrap(),
            }
            leases_run_out(world).await;
        }
    }

    fn spawn(&self, world: &World) -> Process {
        spawn(world, self.point.filter(|_| self.counts.lock().unwrap().armed > 0))
    }
}

/// A worker that posts, and that crashes at the point.
pub fn spawn(world: &World, point: Option<CrashPoint>) -> Process {
    let mut environment: Vec<_> = world.environment(&Mode::Post).into_iter().collect();
    environment.push(("FAULTS_SESSION_MS", SESSION_MS.to_owned()));
    environment.extend(point.map(|point| ("FAULTS_CRASH_AT", point.as_str().to_owned())));
    Process::spawn(&environment, &["run"])
}

/// Sends a signal by its name.
pub async fn signal(worker: &Process, name: &str) {
    let sent = tokio::process::Command::new("kill").args([format!("-{name}"), worker.pid().to_string()]).status().await.unwrap();
    assert!(sent.success(), "SIG{name}");
}

/// As if a minute had passed: the dead worker's leases run out.
pub async fn leases_run_out(world: &World) {
    world
        .control_execute(
            "UPDATE control.spreadsheets SET leased_until = now() - interval '1 s' WHERE leased_until IS NOT NULL;
             UPDATE control.company_trouble SET drain_until = now() - interval '1 s' WHERE drain_until IS NOT NULL",
        )
        .await;
}
