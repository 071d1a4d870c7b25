//! One consumer: its lanes and offsets are the real ones, the engine's job loop is this file's, one job's step at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kylo::domain::company::Dsn;
use kylo::domain::ids::CompanyId;
use kylo::flow::lanes::{Call, Entry, Holding, LaneKey, LaneLimits, Lanes};
use kylo::flow::offsets::Offsets;
use kylo::flow::work::{Position, Record};
use kylo::store::control::trouble::WorkKind;
use tokio::time::Instant;

use super::dice::Dice;
use super::outside::{COMPANIES, Fault, Message, Outside, name};

/// Messages in one consumer's hands.
const IN_HAND: usize = 16;

/// A transaction under way.
pub enum Job {
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

pub struct Consumer {
    pub id: u64,
    pub lanes: Lanes<Message>,
    pub offsets: Offsets,
    pub next: BTreeMap<i32, usize>,
    pub stored: BTreeMap<i32, usize>,
    pub jobs: Vec<Job>,
    pub frozen: bool,
}

impl Consumer {
    pub fn start(id: u64) -> Self {
        let limits = LaneLimits { messages: 4, writers: 3, ..LaneLimits::txns() };
        let lanes = Lanes::new(limits, WorkKind::Ingest);
        Self { id, lanes, offsets: Offsets::default(), next: BTreeMap::new(), stored: BTreeMap::new(), jobs: Vec::new(), frozen: false }
    }

    pub fn assign(&mut self, outside: &mut Outside, partition: i32) {
        let at = usize::try_from(partition).unwrap();
        outside.owner[at] = Some(self.id);
        self.offsets.assign(partition);
        self.next.insert(partition, outside.committed[at]);
        self.note_held(outside);
    }

    pub fn forget(&mut self, partition: i32) {
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

    pub fn step(&mut self, outside: &mut Outside, dice: &Dice, now: Instant) {
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
    pub fn commit(&mut self, outside: &mut Outside) {
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
