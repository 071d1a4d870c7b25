//! Several posters at once, each stopped, killed, frozen and thawed between any two of its transactions and calls, while content changes, people
//! edit and batches land late (goals R3, R6). The scheduler is this file's loop: it polls one poster at a time, chosen by the seed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::noop_waker;
use kylo::flow::post::Poster;

use super::replay::{Tried, seeds};
use super::sheets::{Unfenced, Weather};
use super::store::Broken;
use super::world::{SHEET, Setup, World};

const SEEDS: u64 = 9_200;
/// Enough for any pass of a poster that nobody interrupts.
const MOST_POLLS: usize = 20_000;

/// A poster's process.
pub struct Process {
    poster: Arc<Poster>,
    pass: Option<Pin<Box<dyn Future<Output = ()>>>>,
    frozen: bool,
}

impl Process {
    pub fn start(world: &World) -> Self {
        Self { poster: Arc::new(world.poster()), pass: None, frozen: false }
    }

    /// Reads a company's Pending tab for promote.
    pub fn promote(world: &World) -> Self {
        let (poster, route) = (Arc::new(world.poster()), world.some_route());
        let reader = Arc::clone(&poster);
        // A call or a transaction that fails is tried again with the message.
        Self { poster, pass: Some(Box::pin(async move { drop(reader.read_pending(&route).await) })), frozen: false }
    }

    /// So many steps later. `None` = its pass was over before.
    pub fn after(mut self, steps: usize) -> Option<Self> {
        (0..steps).all(|_| !self.step()).then_some(self)
    }

    /// Goes on to its next pause. True = its pass has ended.
    pub fn step(&mut self) -> bool {
        let poster = Arc::clone(&self.poster);
        // An error of the control database ends the pass, as it does in production.
        let pass = self.pass.get_or_insert_with(|| Box::pin(async move { drop(poster.post_once().await) }));
        let ended = matches!(pass.as_mut().poll(&mut Context::from_waker(&noop_waker())), Poll::Ready(()));
        if ended {
            self.pass = None;
        }
        ended
    }

    pub fn finish(&mut self) -> Result<(), String> {
        for _ in 0..MOST_POLLS {
            if self.pass.is_none() || self.step() {
                return Ok(());
            }
        }
        Err("a pass does not end".to_owned())
    }
}

/// What a history met, to show that it met something.
#[derive(Clone, Copy, Debug, Default)]
struct Met {
    killed: usize,
    frozen: usize,
    /// Thawed after everything had come to rest.
    thawed_late: usize,
    /// Of these: those that stored an answer when they woke.
    answered_late: usize,
    overlaps: usize,
    landed: usize,
    kept_out: usize,
    pruned: usize,
}

async fn history(seed: u64, setup: Setup) -> Result<Met, String> {
    let mut world = World::new(seed, setup);
    let dice = world.dice.clone();
    world.sheets.set_weather(Weather { writes: 4, reads: 30, people: 6 });
    world.database_fails = if dice.one_in(3) { 150 } else { 0 };
    let mut processes: Vec<Process> = (0..2 + dice.below(2)).map(|_| Process::start(&world)).collect();
    let mut met = Met::default();
    world.change();
    for _ in 0..60 + dice.below(120) {
        let at = dice.below(processes.len());
        match dice.below(100) {
            0..=3 => world.change(),
            4..=6 => world.people_edit(),
            7 => {
                met.killed += usize::from(processes[at].pass.is_some());
                processes[at] = Process::start(&world);
            }
            8..=10 => {
                processes[at].frozen = !processes[at].frozen;
                met.frozen += usize::from(processes[at].frozen && processes[at].pass.is_some());
            }
            11 => world.clock.advance(Duration::from_secs(50)),
            12 => world.clock.advance(Duration::from_secs(5)),
            _ if processes[at].frozen => {}
            _ => {
                // A pass takes hundreds of steps: whoever is chosen goes on for some.
                for _ in 0..=dice.below(12) {
                    if processes[at].step() {
                        break;
                    }
                }
            }
        }
        met.overlaps += usize::from(processes.iter().filter(|process| process.pass.is_some()).count() > 1);
        // Lets go of what the runtime holds for passes that were dropped.
        tokio::task::yield_now().await;
    }
    world.fair();
    for process in processes.iter_mut().filter(|process| !process.frozen) {
        process.finish()?;
    }
    if processes.iter().any(|process| process.frozen && process.pass.is_some()) {
        settle_and_go_on(&mut world).await?;
    }
    for process in processes.iter_mut().filter(|process| process.frozen && process.pass.is_some()) {
        met.thawed_late += 1;
        let n_answered = world.tables.lock().unwrap().n_answered;
        process.finish()?;
        if world.tables.lock().unwrap().n_answered != n_answered {
            // It had read the tab before it was frozen, and may not post: whoever passes next must find the tab due by itself.
            met.answered_late += 1;
            world.rest().await?;
        }
        world.holds().map_err(|reason| format!("after a late thaw: {reason}"))?;
    }
    world.judge().await.map_err(|reason| format!("at the end: {reason}"))?;
    let state = world.sheets.lock();
    Ok(Met { landed: state.landings.len(), kept_out: state.n_kept_out, pruned: state.n_pruned, ..met })
}

/// What is frozen sleeps through any number of further posts, now and then also through a pruning.
async fn settle_and_go_on(world: &mut World) -> Result<(), String> {
    world.settle().await?;
    world.holds()?;
    for _ in 0..world.dice.below(4) {
        world.change();
        world.settle().await?;
    }
    world.holds().map_err(|reason| format!("after further posts: {reason}"))
}

fn setup(seed: u64) -> Setup {
    let near_prune = [0, 95, 97, 99];
    Setup {
        n_companies: 1 + usize::from(seed.is_multiple_of(3)),
        n_fences: near_prune[usize::try_from(seed % 4).unwrap()],
        turns: 2,
        ..Setup::default()
    }
}

#[test]
fn thousands_of_interleavings_of_posters_that_are_killed_frozen_and_thawed_end_with_every_row_once() {
    let met = seeds("interleavings", SEEDS, |seed| history(seed, setup(seed)));
    if super::replay::is_replay() {
        return;
    }
    let sum = |of: fn(&Met) -> usize| met.iter().map(of).sum::<usize>();
    let counts = [
        ("killed", sum(|met| met.killed)),
        ("frozen", sum(|met| met.frozen)),
        ("thawed late", sum(|met| met.thawed_late)),
        ("overlaps", sum(|met| met.overlaps)),
        ("landed", sum(|met| met.landed)),
        ("kept out", sum(|met| met.kept_out)),
        ("pruned", sum(|met| met.pruned)),
    ];
    assert!(counts.iter().all(|(_, n)| *n > 300), "{counts:?}");
    assert!(sum(|met| met.answered_late) > 0, "nobody stored an answer when it woke");
}

#[test]
fn without_the_fence_the_epoch_the_ledger_or_the_memory_of_doubts_interleavings_fail() {
    let faults = [
        (Unfenced::NoFence, Broken::Nothing, 5),
        (Unfenced::NoEpoch, Broken::Nothing, 3),
        (Unfenced::Fenced, Broken::NoLedgerWhenFound, 5),
        (Unfenced::Fenced, Broken::ForgetsDoubt, 5),
    ];
    for (unfenced, broken, least) in faults {
        let n_failed = Tried::count(2_000, least, |seed| history(seed, Setup { unfenced, broken, ..setup(seed) }));
        assert!(n_failed >= least, "with {unfenced:?} and {broken:?} only {n_failed} of 2,000 histories fail");
    }
}

#[test]
fn a_seed_plays_the_same_history_every_time() {
    for seed in 0..20 {
        let play = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let mut world = World::new(seed, setup(seed));
                world.sheets.set_weather(Weather { writes: 3, reads: 30, people: 4 });
                let mut processes = [Process::start(&world), Process::start(&world)];
                for _ in 0..300 {
                    if world.dice.one_in(20) {
                        world.change();
                    }
                    processes[world.dice.below(2)].step();
                }
                let landings = world.sheets.lock().landings.clone();
                (world.dice.next(), landings, format!("{:?}", world.sheets.book(SHEET)))
            })
        };
        assert_eq!(play(), play(), "seed {seed}");
    }
}
