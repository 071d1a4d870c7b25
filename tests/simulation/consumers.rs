//! Lanes, offsets, ledger and held messages under rebalances, crashes and stale consumers, with posters behind them (goal R6): the whole way of a
//! batch from its partition to its cell, in memory. The lanes, offsets and poster are the real ones; broker, databases and the engine's job
//! loop are this file's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kylo::domain::company::Dsn;
use kylo::domain::ids::{CompanyId, TxnKey, txn_uid};
use kylo::flow::lanes::{Call, Entry, Holding, LaneKey, LaneLimits, Lanes};
use kylo::flow::offsets::Offsets;
use kylo::flow::work::{Position, Record};
use kylo::store::control::trouble::WorkKind;
use tokio::time::Instant;

use super::dice::Dice;
use super::interleavings::Process;
use super::replay::{Tried, seeds};
use super::sheets::Weather;
use super::tables::Tables;
use super::world::{Setup, World};

const SEEDS: u64 = 800;
const PARTITIONS: usize = 2;
const COMPANIES: usize = 3;
/// Messages in one consumer's hands.
const IN_HAND: usize = 16;

/// A protection that is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The position moves with every finished message, not with the finished head.
    CommitsPastUnfinished,
    /// A message that failed goes behind its successors.
    PutsBackLast,
    /// The ledger does not dismiss a batch it knows.
    NoLedger,
}

/// One batch.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    company: usize,
    n: usize,
    partition: i32,
    offset: i64,
}

/// The broker and all databases.
struct Outside {
    logs: Vec<Vec<Message>>,
    committed: Vec<usize>,
    owner: Vec<Option<u64>>,
    /// Batches in the order in which each company's database has them.
    applied: Vec<Vec<usize>>,
    down: BTreeSet<usize>,
    held: Vec<Vec<Message>>,
    drains: BTreeMap<usize, (u64, Instant)>,
    tables: Arc<Mutex<Tables>>,
    names: Vec<String>,
    fault: Fault,
    wrong: Option<String>,
}

impl Outside {
    fn publish(&mut self, company: usize) {
        let partition = company % PARTITIONS;
        let n = self.logs[partition].iter().filter(|message| message.company == company).count();
        let offset = self.logs[partition].len() as i64;
        self.logs[partition].push(Message { company, n, partition: i32::try_from(partition).unwrap(), offset });
    }

    /// One company's part of an ingest transaction. False = its database is down.
    fn apply(&mut self, message: &Message) -> bool {
        if self.down.contains(&message.company) {
            return false;
        }
        let known = &mut self.applied[message.company];
        if known.contains(&message.n) && self.fault != Fault::NoLedger {
            return true;
        }
        if message.n != known.len() {
            self.wrong.get_or_insert(format!("batch {} of company {} is applied after {known:?}", message.n, message.company));
        }
        known.push(message.n);
        let name = &self.names[message.company];
        let mut tables = self.tables.lock().unwrap();
        tables.add(name, &format!("t{}", message.n), &format!("BATCH {}", message.n), 100);
        // A transaction that every batch sets anew: its last content tells an order that was broken.
        let uid = txn_uid(&CompanyId::parse(name).unwrap(), TxnKey::Id("last"));
        if tables.companies[name].txns.contains_key(&uid) {
            tables.correct(name, uid, &format!("LAST {}", message.n));
        } else {
            tables.add(name, "last", &format!("LAST {}", message.n), 1);
        }
        true
    }

    /// Into the company's queue, each position once.
    fn hold(&mut self, company: usize, messages: Vec<Message>) {
        for message in messages {
            if !self.held[company].contains(&message) {
                self.held[company].push(message);
            }
        }
    }
}

/// A transaction under way.
enum Job {
    Call {
        call: Call<Message>,
        outcomes: Option<Vec<bool>>,
    },
    /// `joined`: None = not done yet; false = there is no queue any more.
    Hold {
        holding: Holding<Message>,
        joined: Option<bool>,
    },
    Drain {
        company: usize,
        chunk: Option<Vec<Message>>,
        is_applied: bool,
    },
}

struct Consumer {
    id: u64,
    lanes: Lanes<Message>,
    offsets: Offsets,
    next: BTreeMap<i32, usize>,
    stored: BTreeMap<i32, usize>,
    jobs: Vec<Job>,
    frozen: bool,
}

impl Consumer {
    fn start(id: u64) -> Self {
        let limits = LaneLimits { messages: 4, writers: 3, ..LaneLimits::txns() };
        let lanes = Lanes::new(limits, WorkKind::Ingest);
        Self { id, lanes, offsets: Offsets::default(), next: BTreeMap::new(), stored: BTreeMap::new(), jobs: Vec::new(), frozen: false }
    }

    fn assign(&mut self, outside: &mut Outside, partition: i32) {
        let at = usize::try_from(partition).unwrap();
        outside.owner[at] = Some(self.id);
        self.offsets.assign(partition);
        self.next.insert(partition, outside.committed[at]);
        self.note_held(outside);
    }

    fn forget(&mut self, partition: i32) {
        self.lanes.forget(&[partition], false);
        self.offsets.forget(partition);
        self.next.remove(&partition);
        self.stored.remove(&partition);
    }

    fn note_held(&mut self, outside: &Outside) {
        for company in (0..COMPANIES).filter(|company| !outside.held[*company].is_empty()) {
            self.lanes.set_held(&name(outside, company));
        }
    }

    fn step(&mut self, outside: &mut Outside, dice: &Dice, now: Instant) {
        match dice.below(9) {
            0..=2 => self.read(outside, dice),
            3 => {
                if let Some(call) = self.lanes.take(now) {
                    self.jobs.push(Job::Call { call, outcomes: None });
                } else if let Some(holding) = self.lanes.take_holding(now, dice.one_in(4)) {
                    self.jobs.push(Job::Hold { holding, joined: None });
                }
            }
            4..=6 if !self.jobs.is_empty() => {
                let job = self.jobs.swap_remove(dice.below(self.jobs.len()));
                self.go_on(job, outside, dice, now);
            }
            7 => self.commit(outside),
            8 => self.look(outside, now),
            _ => {}
        }
    }

    fn read(&mut self, outside: &Outside, dice: &Dice) {
        let partitions: Vec<i32> = self.next.keys().copied().collect();
        let in_hand: usize = partitions.iter().map(|partition| self.offsets.in_hand(*partition)).sum();
        if partitions.is_empty() || in_hand >= IN_HAND {
            return;
        }
        let partition = *dice.pick(&partitions);
        let at = self.next[&partition];
        let Some(message) = outside.logs[usize::try_from(partition).unwrap()].get(at) else { return };
        self.next.insert(partition, at + 1);
        let Some(ticket) = self.offsets.begin(partition, message.offset) else { return };
        let position = Position { topic: Arc::from("t"), partition, offset: message.offset };
        let record = Record { position, key: None, payload: Some(vec![0; 10]), headers: BTreeMap::new(), timestamp: None };
        // Two companies share a database.
        let key = LaneKey::Database(Dsn::new(&format!("db{}", message.company / 2)));
        let company = name(outside, message.company);
        self.lanes.push(Entry { ticket, company, record: Arc::new(record), key, work: Some(message.clone()), rows: 1 });
    }

    fn go_on(&mut self, job: Job, outside: &mut Outside, dice: &Dice, now: Instant) {
        match job {
            Job::Call { call, outcomes: None } => {
                let mut outcomes = Vec::new();
                let mut stuck: BTreeSet<usize> = BTreeSet::new();
                for message in call.entries.iter().filter_map(|entry| entry.work.as_ref()) {
                    let done = !stuck.contains(&message.company) && outside.apply(message);
                    if !done {
                        stuck.insert(message.company);
                    }
                    outcomes.push(done);
                }
                self.jobs.push(Job::Call { call, outcomes: Some(outcomes) });
            }
            Job::Call { call, outcomes: Some(outcomes) } => self.call_ended(call, &outcomes, outside, now),
            Job::Hold { holding, joined: None } => {
                let company = holding.entries[0].work.as_ref().unwrap().company;
                let is_held = holding.cause.is_some() || !outside.held[company].is_empty();
                if is_held {
                    outside.hold(company, holding.entries.iter().filter_map(|entry| entry.work.clone()).collect());
                }
                self.jobs.push(Job::Hold { holding, joined: Some(is_held) });
            }
            Job::Hold { holding, joined: Some(is_held) } => {
                let company = holding.company.clone();
                if is_held {
                    self.lanes.set_held(&company);
                    for entry in holding.entries {
                        self.done(&entry, outside.fault);
                    }
                } else {
                    self.lanes.set_open(&company);
                    let entries = holding.entries.into_iter().filter(|entry| self.offsets.is_current(entry.ticket)).collect();
                    self.lanes.put_back(entries);
                }
                self.lanes.end_holding(&company, now);
            }
            Job::Drain { company, chunk, is_applied } => self.drain(company, chunk, is_applied, outside, dice, now),
        }
    }

    fn call_ended(&mut self, call: Call<Message>, outcomes: &[bool], outside: &Outside, now: Instant) {
        let mut companies: Vec<CompanyId> = call.entries.iter().map(|entry| entry.company.clone()).collect();
        companies.dedup();
        let mut back = Vec::new();
        let mut seen = None;
        for (entry, done) in call.entries.into_iter().zip(outcomes) {
            if *done {
                self.lanes.up(&entry.company);
                self.done(&entry, outside.fault);
                continue;
            }
            if seen.as_ref() != Some(&entry.company) {
                seen = Some(entry.company.clone());
                self.lanes.down(&entry.company, "refused".to_owned(), now, 0.5);
            }
            if self.offsets.is_current(entry.ticket) {
                back.push(entry);
            }
        }
        if outside.fault == Fault::PutsBackLast {
            back.into_iter().for_each(|entry| self.lanes.push(entry));
        } else {
            self.lanes.put_back(back);
        }
        self.lanes.end_call(&call.key, &companies, now);
    }

    fn done(&mut self, entry: &Entry<Message>, fault: Fault) {
        let is_current = self.offsets.is_current(entry.ticket);
        let head = self.offsets.finish(entry.ticket).map(kylo::flow::source::NextOffset::get);
        let head = if fault == Fault::CommitsPastUnfinished && is_current { Some(entry.ticket.offset() + 1) } else { head };
        if let Some(head) = head {
            let stored = self.stored.entry(entry.ticket.partition()).or_default();
            *stored = (*stored).max(usize::try_from(head).unwrap());
        }
    }

    /// A commit of who does not own the partition any more is refused by the broker.
    fn commit(&mut self, outside: &mut Outside) {
        for (partition, next) in &self.stored {
            let at = usize::try_from(*partition).unwrap();
            if outside.owner[at] == Some(self.id) {
                outside.committed[at] = outside.committed[at].max(*next);
            }
        }
    }

    fn look(&mut self, outside: &mut Outside, now: Instant) {
        self.note_held(outside);
        let is_free = |company: &usize| outside.drains.get(company).is_none_or(|(_, until)| *until <= now);
        let due = (0..COMPANIES).find(|company| !outside.held[*company].is_empty() && is_free(company));
        if let Some(company) = due {
            outside.drains.insert(company, (self.id, now + Duration::from_secs(60)));
            self.jobs.push(Job::Drain { company, chunk: None, is_applied: false });
        }
    }

    /// Lease, read the head, apply, remove, again; until the queue is empty or the company is still down.
    fn drain(&mut self, company: usize, chunk: Option<Vec<Message>>, is_applied: bool, outside: &mut Outside, dice: &Dice, now: Instant) {
        let Some(mut chunk) = chunk else {
            let lease = outside.drains.get(&company);
            if lease.is_some_and(|(holder, until)| *holder != self.id && *until > now) {
                return;
            }
            outside.drains.insert(company, (self.id, now + Duration::from_secs(60)));
            let chunk: Vec<Message> = outside.held[company].iter().take(1 + dice.below(3)).cloned().collect();
            if chunk.is_empty() {
                outside.drains.remove(&company);
            } else {
                self.jobs.push(Job::Drain { company, chunk: Some(chunk), is_applied: false });
            }
            return;
        };
        if is_applied {
            outside.held[company].retain(|held| !chunk.contains(held));
            self.jobs.push(Job::Drain { company, chunk: None, is_applied: false });
            return;
        }
        let n_done = chunk.iter().take_while(|message| outside.apply(message)).count();
        chunk.truncate(n_done);
        if n_done == 0 {
            // Tried again after a while.
            outside.drains.insert(company, (self.id, now + Duration::from_secs(2)));
            return;
        }
        self.jobs.push(Job::Drain { company, chunk: Some(chunk), is_applied: true });
    }
}

fn name(outside: &Outside, company: usize) -> CompanyId {
    CompanyId::parse(&outside.names[company]).unwrap()
}

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
    let met = seeds("every_batch", SEEDS, &[], |seed| history(seed, Fault::None));
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
