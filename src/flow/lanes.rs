//! Who is written next: the messages that wait, per company in order, and which of them may go together.
//!
//! Called by [`super::consume`]. Pure: time comes in as a parameter. A company's messages leave in the order in which they came; two calls
//! under way at the same time never have a company in common. What must never happen here: a message of a company leaving while an earlier
//! one of the same company is unfinished (invariant I6), or one company's trouble keeping another waiting.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::offsets::Ticket;
use super::work::Record;
use crate::domain::company::Dsn;
use crate::domain::ids::CompanyId;
use crate::store::control::trouble::{Trouble, TroubleState, WorkKind};

/// What may be handled together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LaneKey {
    /// Everything of one company database.
    Database(Dsn),
    /// One company: promote requests, and messages that could not be routed yet.
    Company(CompanyId),
}

/// Bounds of one call and of what may run at the same time.
#[derive(Clone, Debug)]
pub struct LaneLimits {
    /// Rows, messages and payload bytes of one call. A single message may be larger than rows or bytes allow; it then goes alone.
    pub rows: usize,
    pub messages: usize,
    pub bytes: usize,
    /// Calls at the same time, in all and for one key.
    pub writers: usize,
    pub writers_per_key: usize,
    /// A company that has been down for this long, or has this many messages waiting while it is down, is held.
    pub hold_after: Duration,
    pub hold_waiting: usize,
}

impl LaneLimits {
    /// For work that is coalesced per company database. Many more writers in all than for one database: one that does not answer keeps its own
    /// busy for as long as it is waited for, and must not keep the others waiting with it (invariant I6).
    pub fn txns() -> Self {
        Self { rows: 5_000, messages: 256, bytes: 8 << 20, writers: 16, writers_per_key: 2, hold_after: Duration::from_secs(30), hold_waiting: 1_000 }
    }

    /// For work that is done one message at a time.
    pub fn promote() -> Self {
        Self { messages: 1, writers: 8, writers_per_key: 1, ..Self::txns() }
    }
}

/// A message that waits or is under way.
#[derive(Debug)]
pub struct Entry<W> {
    pub ticket: Ticket,
    pub company: CompanyId,
    pub record: Arc<Record>,
    /// What it goes together with. An entry that was put back keeps its key and is decoded and routed again.
    pub key: LaneKey,
    pub work: Option<W>,
    pub rows: usize,
}

impl<W> Entry<W> {
    pub fn bytes(&self) -> usize {
        self.record.payload.as_ref().map_or(0, Vec::len)
    }
}

/// Entries that are handled together.
#[derive(Debug)]
pub struct Call<W> {
    pub key: LaneKey,
    pub entries: Vec<Entry<W>>,
}

/// Entries that go into the company's queue in Postgres. `cause`: why, when it is their company's first.
#[derive(Debug)]
pub struct Holding<W> {
    pub company: CompanyId,
    pub cause: Option<Trouble>,
    pub entries: Vec<Entry<W>>,
}

#[derive(Debug)]
struct Down {
    since: Instant,
    until: Instant,
    attempts: u32,
    reason: String,
}

#[derive(Debug)]
struct Lane<W> {
    waiting: VecDeque<Entry<W>>,
    busy: bool,
    /// In the list of those that may go.
    ready: bool,
    down: Option<Down>,
    /// The company has messages in its queue in Postgres, as far as is known: new ones join them.
    held: bool,
    /// Is to be held, for this reason.
    cause: Option<Trouble>,
}

impl<W> Default for Lane<W> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), busy: false, ready: false, down: None, held: false, cause: None }
    }
}

/// All lanes of one topic.
#[derive(Debug)]
pub struct Lanes<W> {
    limits: LaneLimits,
    kind: WorkKind,
    /// In order, so that a seed replays the same choices.
    lanes: BTreeMap<CompanyId, Lane<W>>,
    /// Companies that may go, first come first served. Each at most once.
    ready: VecDeque<CompanyId>,
    writing: HashMap<LaneKey, usize>,
}

impl<W> Lanes<W> {
    pub fn new(limits: LaneLimits, kind: WorkKind) -> Self {
        Self { limits, kind, lanes: BTreeMap::new(), ready: VecDeque::new(), writing: HashMap::new() }
    }

    /// Puts a message behind the others of its company.
    pub fn push(&mut self, entry: Entry<W>) {
        let company = entry.company.clone();
        self.lanes.entry(company.clone()).or_default().waiting.push_back(entry);
        self.settle(&company, None);
    }

    /// The next call, if anything may go: what waits of one key, company by company.
    pub fn take(&mut self, now: Instant) -> Option<Call<W>> {
        self.wake(now);
        if self.writing.values().sum::<usize>() >= self.limits.writers {
            return None;
        }
        let first = self.ready.iter().position(|company| self.front_key(company).is_some_and(|key| self.may_write(key)))?;
        let key = self.ready.get(first).and_then(|company| self.front_key(company))?.clone();
        let mut call = Call { key: key.clone(), entries: Vec::new() };
        let (mut rows, mut bytes) = (0, 0);
        for company in std::mem::take(&mut self.ready) {
            let taken = match self.lanes.get_mut(&company) {
                Some(lane) => take_from(lane, &key, &self.limits, &mut call.entries, &mut rows, &mut bytes),
                None => false,
            };
            if !taken {
                self.ready.push_back(company);
            }
        }
        *self.writing.entry(key).or_default() += 1;
        Some(call)
    }

    /// A call has ended: its companies may go again, those that are still down after their backoff.
    pub fn end_call(&mut self, key: &LaneKey, companies: &[CompanyId], now: Instant) {
        if let Some(n) = self.writing.get_mut(key) {
            *n -= 1;
            if *n == 0 {
                self.writing.remove(key);
            }
        }
        for company in companies {
            self.unbusy(company, now);
        }
    }

    /// Puts entries back before the others of their company, in their order.
    pub fn put_back(&mut self, entries: Vec<Entry<W>>) {
        for entry in entries.into_iter().rev() {
            self.lanes.entry(entry.company.clone()).or_default().waiting.push_front(entry);
        }
    }

    /// The company's database does not answer. `jitter` in 0..1 spreads the tries.
    pub fn down(&mut self, company: &CompanyId, reason: String, now: Instant, jitter: f64) {
        let lane = self.lanes.entry(company.clone()).or_default();
        let (since, attempts) = lane.down.as_ref().map_or((now, 0), |down| (down.since, down.attempts));
        lane.down = Some(Down { since, until: now + backoff(attempts, jitter), attempts: attempts.saturating_add(1), reason });
    }

    /// The company answered.
    pub fn up(&mut self, company: &CompanyId) {
        if let Some(lane) = self.lanes.get_mut(company) {
            lane.down = None;
        }
    }

    /// The company is to be held for this reason as soon as nothing of it is under way.
    pub fn hold(&mut self, company: &CompanyId, cause: Trouble) {
        let lane = self.lanes.entry(company.clone()).or_default();
        if !lane.held {
            lane.cause = Some(cause);
        }
        lane.down = None;
    }

    /// The company has a queue in Postgres: its messages go there.
    pub fn set_held(&mut self, company: &CompanyId) {
        let lane = self.lanes.entry(company.clone()).or_default();
        (lane.held, lane.cause, lane.down) = (true, None, None);
    }

    /// The company's queue in Postgres is empty: its messages go the ordinary way.
    pub fn set_open(&mut self, company: &CompanyId) {
        if let Some(lane) = self.lanes.get_mut(company) {
            lane.held = false;
        }
    }

    /// Entries to be put into their company's queue: of companies that are held, that are to be held, or that have been down for too long.
    /// `pressed`: memory is short, so every company that is down is held now.
    pub fn take_holding(&mut self, now: Instant, pressed: bool) -> Option<Holding<W>> {
        let limits = &self.limits;
        let overdue = |lane: &Lane<W>| {
            lane.down
                .as_ref()
                .is_some_and(|d| pressed || now.duration_since(d.since) >= limits.hold_after || lane.waiting.len() >= limits.hold_waiting)
        };
        let (company, lane) =
            self.lanes.iter_mut().find(|(_, lane)| !lane.busy && !lane.waiting.is_empty() && (lane.held || lane.cause.is_some() || overdue(lane)))?;
        if let (false, None, Some(down)) = (lane.held, &lane.cause, &lane.down) {
            let retry_after = Duration::from_secs(2);
            lane.cause = Some(Trouble { kind: self.kind, state: TroubleState::Down, reason: down.reason.clone(), config_version: None, retry_after });
        }
        (lane.busy, lane.ready) = (true, false);
        self.ready.retain(|ready| ready != company);
        let mut entries = Vec::new();
        let mut bytes = 0;
        while entries.len() < limits.messages.max(64)
            && bytes < limits.bytes
            && let Some(entry) = lane.waiting.pop_front()
        {
            bytes += entry.bytes();
            entries.push(entry);
        }
        Some(Holding { company: company.clone(), cause: lane.cause.clone(), entries })
    }

    /// A hold or join has ended.
    pub fn end_holding(&mut self, company: &CompanyId, now: Instant) {
        self.unbusy(company, now);
    }

    /// Removes what waits of these partitions, of all companies or only of those that are down; gives it back.
    pub fn forget(&mut self, partitions: &[i32], only_down: bool) -> Vec<Entry<W>> {
        let mut removed = Vec::new();
        for lane in self.lanes.values_mut().filter(|lane| !only_down || lane.down.is_some()) {
            for entry in std::mem::take(&mut lane.waiting) {
                if partitions.contains(&entry.ticket.partition()) {
                    removed.push(entry);
                } else {
                    lane.waiting.push_back(entry);
                }
            }
        }
        self.lanes.retain(|_, lane| lane.busy || lane.held || !lane.waiting.is_empty() || (lane.down.is_some() && only_down));
        let lanes = &mut self.lanes;
        self.ready.retain(|company| match lanes.get_mut(company) {
            Some(lane) => {
                lane.ready = !lane.waiting.is_empty();
                lane.ready
            }
            None => false,
        });
        removed
    }

    /// The next instant after `now` at which something may go without anything new coming in.
    pub fn next_wake(&self, now: Instant) -> Option<Instant> {
        let down = self.lanes.values().filter(|lane| !lane.busy && !lane.waiting.is_empty()).filter_map(|lane| lane.down.as_ref());
        down.flat_map(|down| [down.until, down.since + self.limits.hold_after]).filter(|at| *at > now).min()
    }

    /// Companies that are down or about to be held, with the reason.
    pub fn troubled(&self) -> Vec<(CompanyId, String)> {
        let reason = |lane: &Lane<W>| lane.down.as_ref().map(|d| d.reason.clone()).or_else(|| lane.cause.as_ref().map(|c| c.reason.clone()));
        let mut all: Vec<_> = self.lanes.iter().filter_map(|(company, lane)| reason(lane).map(|reason| (company.clone(), reason))).collect();
        all.sort();
        all
    }

    /// Companies that are held, as far as is known here.
    pub fn held(&self) -> Vec<CompanyId> {
        self.lanes.iter().filter(|(_, lane)| lane.held).map(|(company, _)| company.clone()).collect()
    }

    fn front_key(&self, company: &CompanyId) -> Option<&LaneKey> {
        self.lanes.get(company)?.waiting.front().map(|entry| &entry.key)
    }

    fn may_write(&self, key: &LaneKey) -> bool {
        self.writing.get(key).copied().unwrap_or(0) < self.limits.writers_per_key
    }

    fn unbusy(&mut self, company: &CompanyId, now: Instant) {
        if let Some(lane) = self.lanes.get_mut(company) {
            lane.busy = false;
        }
        self.settle(company, Some(now));
    }

    /// Puts a company on the list of those that may go, or forgets it when there is nothing to remember.
    fn settle(&mut self, company: &CompanyId, now: Option<Instant>) {
        let Some(lane) = self.lanes.get_mut(company) else { return };
        let backing_off = lane.down.as_ref().is_some_and(|down| now.is_none_or(|now| now < down.until));
        if lane.waiting.is_empty() && !lane.busy && !lane.held && lane.down.is_none() && lane.cause.is_none() {
            self.lanes.remove(company);
        } else if !lane.waiting.is_empty() && !lane.busy && !lane.ready && !lane.held && lane.cause.is_none() && !backing_off {
            lane.ready = true;
            self.ready.push_back(company.clone());
        }
    }

    /// Companies whose backoff is over may go.
    fn wake(&mut self, now: Instant) {
        let over = |lane: &Lane<W>| lane.down.as_ref().is_some_and(|down| down.until <= now);
        let due: Vec<_> = self.lanes.iter().filter(|(_, lane)| over(lane) && !lane.ready && !lane.busy).map(|(company, _)| company.clone()).collect();
        for company in due {
            self.settle(&company, Some(now));
        }
    }
}

/// Takes what may go of one company. `true`: it is off the list, because it is under way or may not go.
fn take_from<W>(lane: &mut Lane<W>, key: &LaneKey, limits: &LaneLimits, taken: &mut Vec<Entry<W>>, rows: &mut usize, bytes: &mut usize) -> bool {
    if lane.busy || lane.held || lane.cause.is_some() || lane.waiting.is_empty() {
        lane.ready = false;
        return true;
    }
    let mut any = false;
    while taken.len() < limits.messages
        && let Some(entry) = lane.waiting.front()
    {
        let fits = taken.is_empty() || (*rows + entry.rows <= limits.rows && *bytes + entry.bytes() <= limits.bytes);
        if entry.key != *key || !fits {
            break;
        }
        *rows += entry.rows;
        *bytes += entry.bytes();
        taken.extend(lane.waiting.pop_front());
        any = true;
    }
    if any {
        (lane.busy, lane.ready) = (true, false);
    }
    any
}

/// 0.1 s doubling to 3 s, spread by up to a quarter either way.
fn backoff(attempts: u32, jitter: f64) -> Duration {
    let base = 0.1 * f64::from(1u32 << attempts.min(5));
    Duration::from_secs_f64(base.min(3.0) * (0.75 + jitter.clamp(0.0, 1.0) / 2.0))
}

#[cfg(test)]
mod tests;
