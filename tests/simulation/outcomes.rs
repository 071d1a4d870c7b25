//! One poster after the other, and writes that end in every possible way: ten thousand sequences of unknown outcomes (goal R2), with people editing
//! between read and write.

use std::collections::BTreeMap;
use std::time::Duration;

use super::replay::{Tried, seeds};
use super::sheets::{FATES, Fate, Unfenced, Weather};
use super::store::Broken;
use super::world::{Setup, World};

const SEQUENCES: u64 = 10_000;

/// What a sequence met, to show that it met something.
#[derive(Debug, Default)]
struct Met {
    fates: BTreeMap<Fate, usize>,
    n_between: usize,
    n_kept_out: usize,
    n_pruned: usize,
    n_landed: usize,
}

/// 3 to 10 steps: content changes, people edit, promote reads what they typed, a poster passes or is replaced, time goes by. Then fair weather, and the judge.
async fn sequence(seed: u64, fault: Fault) -> Result<Met, String> {
    let near_prune = [0, 0, 94, 98];
    let n_fences = near_prune[usize::try_from(seed % 4).unwrap()];
    let (unfenced, broken) = fault.parts();
    let setup = Setup { n_companies: 1 + usize::from(seed.is_multiple_of(3)), n_fences, turns: 0, unfenced, broken };
    let mut world = World::new(seed, setup);
    world.sheets.set_weather(Weather { writes: 2, reads: 12, people: 3 });
    world.database_fails = if seed.is_multiple_of(3) { 60 } else { 0 };
    let mut poster = world.poster();
    world.change();
    for _ in 0..3 + world.dice.below(8) {
        for _ in 0..world.dice.below(3) {
            world.change();
        }
        for _ in 0..world.dice.below(3) {
            world.people_edit();
        }
        if world.dice.one_in(2) {
            world.promote_reads_between_edits(&poster).await;
        }
        if world.dice.one_in(3) {
            poster = world.poster();
        }
        // An error of the control database ends the pass, as it does in production.
        let _ended = poster.post_once().await;
        world.clock.advance(Duration::from_secs(*world.dice.pick(&[1, 5, 50])));
    }
    world.judge().await?;
    let state = world.sheets.lock();
    let (fates, n_between, n_kept_out, n_pruned) = (state.fates.clone(), state.n_between, state.n_kept_out, state.n_pruned);
    Ok(Met { fates, n_between, n_kept_out, n_pruned, n_landed: state.landings.len() })
}

/// A protection that is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Fence,
    Epoch,
    Ledger,
    Doubt,
    Left,
}

impl Fault {
    fn parts(self) -> (Unfenced, Broken) {
        match self {
            Self::None => (Unfenced::Fenced, Broken::Nothing),
            Self::Fence => (Unfenced::NoFence, Broken::Nothing),
            Self::Epoch => (Unfenced::NoEpoch, Broken::Nothing),
            Self::Ledger => (Unfenced::Fenced, Broken::NoLedgerWhenFound),
            Self::Doubt => (Unfenced::Fenced, Broken::ForgetsDoubt),
            Self::Left => (Unfenced::Fenced, Broken::ForgetsLeft),
        }
    }
}

#[test]
fn after_ten_thousand_sequences_of_unknown_outcomes_every_row_stands_once_and_every_post_is_in_the_ledger_once() {
    let met = seeds("outcomes", SEQUENCES, |seed| sequence(seed, Fault::None));
    let mut all = Met::default();
    for one in met {
        for (fate, n) in one.fates {
            *all.fates.entry(fate).or_default() += n;
        }
        all.n_between += one.n_between;
        all.n_kept_out += one.n_kept_out;
        all.n_pruned += one.n_pruned;
        all.n_landed += one.n_landed;
    }
    if super::replay::is_replay() {
        return;
    }
    for fate in FATES {
        assert!(all.fates.get(&fate).is_some_and(|n| *n > 300), "{fate:?} hardly happened: {all:?}");
    }
    assert!(all.n_between >= 1_000, "people hardly edited between read and write: {all:?}");
    assert!(all.n_kept_out > 1_000 && all.n_pruned > 300 && all.n_landed > 10_000, "{all:?}");
}

#[test]
fn without_the_fence_the_epoch_the_ledger_or_the_memory_of_doubts_and_of_what_is_left_the_same_sequences_fail() {
    for fault in [Fault::Fence, Fault::Epoch, Fault::Ledger, Fault::Doubt, Fault::Left] {
        let n_failed = Tried::count(1_000, 5, |seed| sequence(seed, fault));
        assert!(n_failed >= 5, "without {fault:?} only {n_failed} of 1,000 sequences fail");
    }
}
