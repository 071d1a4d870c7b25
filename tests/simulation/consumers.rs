//! Lanes, offsets, ledger and held messages under rebalances, crashes and stale consumers, with posters behind them (goal R6): the whole way of a
//! batch from its partition to its cell, in memory. The lanes, offsets and poster are the real ones; broker and databases are `outside.rs`, the
//! engine's job loop is `consumer.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::consumer::Consumer;
use super::dice::Dice;
use super::interleavings::Process;
use super::outside::{COMPANIES, Fault, Outside, PARTITIONS};
use super::replay::{Tried, seeds};
use super::sheets::Weather;
use super::world::{Setup, World};

const SEEDS: u64 = 800;

/// What a history met.
#[derive(Clone, Copy, Debug, Default)]
struct Met {
    n_messages: usize,
    n_rebalanced: usize,
    n_crashed: usize,
    n_frozen: usize,
    n_held: usize,
    n_landed: usize,
}

struct Histories {
    outside: Outside,
    consumers: Vec<Consumer>,
    posters: Vec<Process>,
    world: World,
    dice: Dice,
    now: Instant,
    next_id: u64,
    met: Met,
}

impl Histories {
    fn new(seed: u64, fault: Fault) -> Self {
        let world = World::new(seed, Setup { n_companies: COMPANIES, turns: 1, ..Setup::default() });
        world.sheets.set_weather(Weather { writes: 6, reads: 40, people: 0 });
        let outside = Outside {
            logs: vec![Vec::new(); PARTITIONS],
            committed: vec![0; PARTITIONS],
            owner: vec![None; PARTITIONS],
            applied: vec![Vec::new(); COMPANIES],
            down: BTreeSet::new(),
            held: vec![Vec::new(); COMPANIES],
            drains: BTreeMap::new(),
            tables: Arc::clone(&world.tables),
            names: world.companies.clone(),
            fault,
            wrong: None,
        };
        let posters = vec![Process::start(&world), Process::start(&world)];
        let consumers = (0..2).map(Consumer::start).collect();
        let (dice, now) = (world.dice.clone(), Instant::now());
        Self { outside, consumers, posters, world, dice, now, next_id: 2, met: Met::default() }
    }

    /// Gives a partition to a consumer; who has it is told, unless it is frozen: then it goes on in the belief that it still owns it.
    fn rebalance(&mut self, partition: usize, to: usize) {
        let number = i32::try_from(partition).unwrap();
        for consumer in self.consumers.iter_mut().filter(|consumer| !consumer.frozen) {
            if self.dice.one_in(2) {
                consumer.commit(&mut self.outside);
            }
            consumer.forget(number);
        }
        self.consumers[to].assign(&mut self.outside, number);
        self.met.n_rebalanced += 1;
    }

    fn step(&mut self) {
        let at = self.dice.below(self.consumers.len());
        match self.dice.below(60) {
            0..=4 => {
                self.met.n_messages += 1;
                let company = self.dice.below(COMPANIES);
                self.outside.publish(company);
            }
            5 => {
                let partition = self.dice.below(PARTITIONS);
                if !self.consumers[at].frozen {
                    self.rebalance(partition, at);
                }
            }
            6 if self.dice.one_in(3) => self.crash(at),
            7 if self.dice.one_in(2) => {
                self.met.n_frozen += 1;
                let consumer = &mut self.consumers[at];
                consumer.frozen = !consumer.frozen;
                if !consumer.frozen {
                    self.woken(at);
                }
            }
            8 => {
                let company = self.dice.below(COMPANIES);
                if !self.outside.down.remove(&company) {
                    self.outside.down.insert(company);
                }
            }
            9 => self.pass_time(if self.dice.one_in(5) { 40 } else { 2 }),
            10..=19 => {
                let poster = self.dice.below(self.posters.len());
                for _ in 0..8 {
                    if self.posters[poster].step() {
                        break;
                    }
                }
            }
            20 if self.dice.one_in(4) => {
                let poster = self.dice.below(self.posters.len());
                self.posters[poster] = Process::start(&self.world);
            }
            _ if self.consumers[at].frozen => {}
            _ => self.consumers[at].step(&mut self.outside, &self.dice, self.now),
        }
        self.met.n_held = self.met.n_held.max(self.outside.held.iter().map(Vec::len).sum());
    }

    fn pass_time(&mut self, secs: u64) {
        self.now += Duration::from_secs(secs);
        self.world.clock.advance(Duration::from_secs(secs));
    }

    /// What was stored and not committed is gone; somebody else gets the partitions.
    fn crash(&mut self, at: usize) {
        self.met.n_crashed += 1;
        let id = self.consumers[at].id;
        self.consumers[at] = Consumer::start(self.next_id);
        self.next_id += 1;
        for partition in (0..PARTITIONS).filter(|partition| self.outside.owner[*partition] == Some(id)).collect::<Vec<_>>() {
            self.outside.owner[partition] = None;
        }
    }

    /// A consumer that thaws is told what it has lost. What it has under way goes on.
    fn woken(&mut self, at: usize) {
        for partition in 0..PARTITIONS {
            if self.outside.owner[partition] != Some(self.consumers[at].id) {
                self.consumers[at].forget(i32::try_from(partition).unwrap());
            }
        }
    }

    /// Everybody is well: all that was published must arrive.
    async fn drain(&mut self) -> Result<(), String> {
        self.outside.down.clear();
        self.pass_time(61);
        self.world.fair();
        for at in 0..self.consumers.len() {
            self.consumers[at].frozen = false;
            self.woken(at);
        }
        for partition in 0..PARTITIONS {
            if self.outside.owner[partition].is_none() {
                self.rebalance(partition, 0);
            }
        }
        for round in 0..60_000 {
            let at = self.dice.below(self.consumers.len());
            self.consumers[at].step(&mut self.outside, &self.dice, self.now);
            if round % 200 == 0 {
                self.pass_time(4);
            }
            let is_idle = self.consumers.iter().all(|consumer| consumer.jobs.is_empty());
            let is_committed = (0..PARTITIONS).all(|partition| self.outside.committed[partition] == self.outside.logs[partition].len());
            if is_idle && is_committed && self.outside.held.iter().all(Vec::is_empty) {
                break;
            }
        }
        for (partition, log) in self.outside.logs.iter().enumerate() {
            if self.outside.committed[partition] != log.len() {
                return Err(format!("partition {partition} stands at {} of {}", self.outside.committed[partition], log.len()));
            }
        }
        for (company, applied) in self.outside.applied.iter().enumerate() {
            let sent = self.outside.logs.iter().flatten().filter(|message| message.company == company).count();
            if *applied != (0..sent).collect::<Vec<_>>() {
                return Err(format!("company {company}: {applied:?} of {sent} batches"));
            }
        }
        for poster in &mut self.posters {
            poster.finish()?;
        }
        self.world.judge().await
    }
}

async fn history(seed: u64, fault: Fault) -> Result<Met, String> {
    let mut history = Histories::new(seed, fault);
    for partition in 0..PARTITIONS {
        history.rebalance(partition, partition % 2);
    }
    for _ in 0..250 {
        history.step();
        tokio::task::yield_now().await;
        if let Some(wrong) = history.outside.wrong.take() {
            return Err(wrong);
        }
    }
    history.drain().await?;
    if let Some(wrong) = history.outside.wrong.take() {
        return Err(wrong);
    }
    Ok(Met { n_landed: history.world.sheets.lock().landings.len(), ..history.met })
}

#[test]
fn every_batch_is_applied_once_in_order_and_shown_through_rebalances_crashes_stale_consumers_and_outages() {
    let met = seeds("every_batch", SEEDS, |seed| history(seed, Fault::None));
    if super::replay::is_replay() {
        return;
    }
    let sum = |of: fn(&Met) -> usize| met.iter().map(of).sum::<usize>();
    let counts = [
        ("messages", sum(|met| met.n_messages)),
        ("rebalanced", sum(|met| met.n_rebalanced)),
        ("crashed", sum(|met| met.n_crashed)),
        ("frozen", sum(|met| met.n_frozen)),
        ("held", sum(|met| met.n_held)),
        ("landed", sum(|met| met.n_landed)),
    ];
    assert!(counts.iter().all(|(_, n)| *n > 300), "{counts:?}");
}

#[test]
fn without_the_head_the_order_or_the_ledger_histories_of_consumers_fail() {
    for fault in [Fault::CommitsPastUnfinished, Fault::PutsBackLast, Fault::NoLedger] {
        let n_failed = Tried::count(500, 5, |seed| history(seed, fault));
        assert!(n_failed >= 5, "with {fault:?} only {n_failed} of 500 histories fail");
    }
}
