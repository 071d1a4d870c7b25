//! From the inbox into the lanes: read, route, or bury. In the order of the inbox, so the poison count means "in a row".

use std::sync::Arc;

use tokio::time::Instant;

use super::{Blocked, Engine, MAX_LETTERS};
use crate::domain::ids::CompanyId;
use crate::faults::{Bug, planted};
use crate::flow::consume::handle::{letter, unknown_company};
use crate::flow::consume::jobs::{self, Burial};
use crate::flow::consume::partitions::Phase;
use crate::flow::consume::status::MessageOutcome;
use crate::flow::consume::topics::{Read, Topic};
use crate::flow::decode::Poison;
use crate::flow::hold::PARKED_RETRY;
use crate::flow::lanes::{Entry, LaneKey};
use crate::flow::routing::Routing;
use crate::flow::source::NextOffset;
use crate::flow::work::{Position, Record};
use crate::store::control::trouble::{Trouble, TroubleState};

impl<T: Topic> Engine<T> {
    /// Takes messages from the inbox until it is empty or its head must wait for its route.
    pub(super) fn feed(&mut self) {
        loop {
            if let Some(blocked) = &mut self.blocked {
                if let Some(routing) = self.handler.routes.fresh(&blocked.company) {
                    self.routed(routing);
                    continue;
                }
                if !blocked.asked && self.control_until.is_none() {
                    blocked.asked = true;
                    self.jobs.spawn(jobs::route(Arc::clone(&self.handler), blocked.company.clone()));
                }
                return;
            }
            let Some(record) = self.inbox.pop_front() else { return };
            self.take(record);
        }
    }

    fn take(&mut self, record: Arc<Record>) {
        let partition = record.position.partition;
        let bytes = record.payload.as_ref().map_or(0, Vec::len);
        match self.partitions.get_mut(partition) {
            None => return self.unload(bytes),
            Some(state) if state.phase != Phase::Open => return state.stash.push_back(record),
            Some(_) => {}
        }
        match self.handler.topic.read(&record) {
            Read::Tombstone => {
                self.good(&record);
                if let Some(ticket) = self.offsets.begin(partition, record.position.offset) {
                    self.handler.metrics.messages(&self.handler.name, MessageOutcome::Tombstone, 1);
                    self.done(ticket, bytes);
                }
            }
            Read::Poison(poison) => self.bury(&record, poison),
            Read::Message { company, message, counts } => {
                self.handler.count(&counts);
                self.blocked = Some(Blocked { record, company, message, asked: false });
            }
        }
    }

    /// The head of the inbox has its answer.
    pub(super) fn routed(&mut self, routing: Routing) {
        let Some(Blocked { record, company, message, .. }) = self.blocked.take() else { return };
        match routing {
            Routing::Known(route) => match self.handler.topic.route(&record, message, &route) {
                Ok(work) => {
                    let (key, rows) = (self.handler.topic.key(&work), self.handler.topic.rows(&work));
                    self.push(record, company, key, Some(work), rows);
                }
                Err(poison) => self.bury(&record, poison),
            },
            Routing::Refused(refused) => {
                let cause = Trouble {
                    kind: self.handler.topic.kind(),
                    state: TroubleState::Parked,
                    reason: refused.reason,
                    config_version: Some(refused.version),
                    retry_after: PARKED_RETRY,
                };
                self.lanes.hold(&company, cause);
                self.push(record, company.clone(), LaneKey::Company(company), None, 0);
            }
            Routing::Unknown => self.bury(&record, unknown_company(&company)),
        }
    }

    fn push(&mut self, record: Arc<Record>, company: CompanyId, key: LaneKey, work: Option<T::Work>, rows: usize) {
        self.good(&record);
        if planted(Bug::OffsetBeforeWork) {
            self.source.store(record.position.partition, NextOffset::after(record.position.offset));
        }
        if let Some(ticket) = self.offsets.begin(record.position.partition, record.position.offset) {
            self.lanes.push(Entry { ticket, company, record, key, work, rows });
        }
    }

    fn good(&mut self, record: &Record) {
        if let Some(state) = self.partitions.get_mut(record.position.partition) {
            state.good(record.position.offset);
        }
    }

    fn bury(&mut self, record: &Arc<Record>, poison: Poison) {
        let at = &record.position;
        tracing::warn!(topic = %at.topic, partition = at.partition, offset = at.offset, class = %poison.class,
                       company = poison.company_id.as_ref().map(CompanyId::as_str), reason = %poison.reason, "message goes to the dead letters");
        let Some(ticket) = self.offsets.begin(at.partition, at.offset) else { return };
        let bytes = record.payload.as_ref().map_or(0, Vec::len);
        self.burial.letters.push((ticket, bytes, letter(record, poison)));
        let cap = self.settings.poison_cap;
        if self.partitions.get_mut(at.partition).is_some_and(|state| state.poison(at.offset, cap)) {
            self.stopped_by_cap(at);
        }
    }

    /// A letter turned out to be new: perhaps one that was not counted, because its offset was taken for an old one.
    pub(super) fn count_new_letter(&mut self, at: &Position) {
        let cap = self.settings.poison_cap;
        if self.partitions.get_mut(at.partition).is_some_and(|state| state.new_letter(at.offset, cap)) {
            self.stopped_by_cap(at);
        }
    }

    fn stopped_by_cap(&mut self, at: &Position) {
        tracing::error!(topic = %at.topic, partition = at.partition, cap = self.settings.poison_cap,
                        "partition stopped: too many poison messages in a row; look at `kylo dlq list`, then run `kylo dlq resume`");
        self.source.pause(&[at.partition]);
        self.report_at = Instant::now();
    }

    pub(super) fn start_burial(&mut self) {
        if self.burying {
            return;
        }
        let n = self.burial.letters.len().min(MAX_LETTERS);
        let letters: Vec<_> = self.burial.letters.drain(..n).collect();
        // A stop is written only after all letters that led to it.
        let counts = if self.burial.letters.is_empty() { self.partitions.take_dirty() } else { Vec::new() };
        if letters.is_empty() && counts.is_empty() {
            return;
        }
        self.burying = true;
        self.jobs.spawn(jobs::bury(Arc::clone(&self.handler), Arc::clone(&self.group), Burial { letters, counts }));
    }

    pub(super) fn start_preparing(&mut self) {
        if !self.preparing.is_empty() {
            let partitions: Vec<i32> = self.preparing.drain().collect();
            self.jobs.spawn(jobs::prepare(Arc::clone(&self.handler), Arc::clone(&self.group), partitions));
        }
    }

    pub(super) fn start_look(&mut self, now: Instant) {
        if !self.looking && self.look_at <= now && !self.stopping {
            self.looking = true;
            let stopped = self.partitions.in_phase(|phase| phase == Phase::Stopped { saved: true });
            self.jobs.spawn(jobs::look_around(Arc::clone(&self.handler), Arc::clone(&self.group), stopped));
        }
    }
}
